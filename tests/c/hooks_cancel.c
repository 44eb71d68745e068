/* Threads cancelled, or leaving by pthread_exit from a signal handler, inside a blocking call. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <netinet/in.h>
#include <unistd.h>

static int ends[2], listener, epfd;
static volatile int cleaned, entered;

static void clean(void *argument)
{
	(void)argument;
	cleaned++;
}

static void *block(void *argument)
{
	char buf[8];
	struct pollfd item = { .fd = ends[0], .events = POLLIN };
	struct iovec iov = { buf, sizeof buf };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct epoll_event event;
	fd_set set;

	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	pthread_cleanup_push(clean, NULL);
	entered = 1;
	switch ((int)(long)argument) {
	case 0: read(ends[0], buf, 8); break;
	case 1: recv(ends[0], buf, 8, 0); break;
	case 2: recvfrom(ends[0], buf, 8, 0, NULL, NULL); break;
	case 3: recvmsg(ends[0], &message, 0); break;
	case 4: readv(ends[0], &iov, 1); break;
	case 5: poll(&item, 1, -1); break;
	case 6: ppoll(&item, 1, NULL, NULL); break;
	case 7: select(ends[0] + 1, &set, NULL, NULL, NULL); break;
	case 8: pselect(ends[0] + 1, &set, NULL, NULL, NULL, NULL); break;
	case 9: accept(listener, NULL, NULL); break;
	case 10: accept4(listener, NULL, NULL, 0); break;
	case 11: epoll_wait(epfd, &event, 1, -1); break;
	case 12: epoll_pwait(epfd, &event, 1, -1, NULL); break;
	}
	pthread_cleanup_pop(0);
	return NULL;
}

static void leave(int signal)
{
	(void)signal;
	pthread_exit(PTHREAD_CANCELED);
}

int main(void)
{
	signal(SIGUSR1, leave);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	epfd = epoll_create1(0);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || listen(listener, 1) || epfd < 0)
		return 2;
	for (int how = 0; how < 2; how++)
		for (long call = 0; call <= 12; call++) {
			pthread_t thread;
			void *result = NULL;
			cleaned = entered = 0;
			if (pthread_create(&thread, NULL, block, (void *)call))
				return 2;
			while (!entered)
				usleep(100);
			usleep(20000);
			if (how == 0)
				pthread_cancel(thread);
			else
				pthread_kill(thread, SIGUSR1);
			if (pthread_join(thread, &result) || result != PTHREAD_CANCELED || !cleaned) {
				fprintf(stderr, "call %ld, way %d: %p, cleaned %d\n", call, how,
					result, cleaned);
				return 1;
			}
		}
	return 0;
}
