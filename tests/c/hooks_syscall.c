/* syscall(): numbers that pass through, numbers that are hooked, six arguments, errno, and the
 * numbers that make processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void reap(pid_t pid, int want)
{
	int status;

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == want);
}

int main(void)
{
	int ends[2], back;
	char buf[64];

	CHECK(syscall(SYS_getpid) == getpid());
	CHECK(syscall(SYS_gettid) == gettid());
	errno = 0;
	CHECK(syscall(9999) == -1 && errno == ENOSYS);
	errno = 0;
	CHECK(syscall(-1L) == -1 && errno == ENOSYS);
	errno = 0;
	CHECK(syscall(SYS_close, -1) == -1 && errno == EBADF);

	/* Six arguments. */
	char *map = (char *)syscall(SYS_mmap, NULL, 8192UL, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0UL);
	CHECK(map != MAP_FAILED);
	map[8191] = 1;
	CHECK(syscall(SYS_munmap, map, 8192UL) == 0);

	/* Sockets. */
	int tcp = syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(tcp >= 0);
	CHECK(syscall(SYS_listen, tcp, 1) == 0);
	int value = 0;
	socklen_t len = sizeof value;
	CHECK(syscall(SYS_getsockopt, tcp, SOL_SOCKET, SO_ACCEPTCONN, &value, &len) == 0);
	CHECK(value == 1);
	CHECK(syscall(SYS_fcntl, tcp, F_GETFD) == FD_CLOEXEC);
	CHECK(syscall(SYS_close, tcp) == 0);

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK(syscall(SYS_sendto, ends[0], "hello", 5UL, 0, NULL, 0) == 5);
	CHECK(syscall(SYS_recvfrom, ends[1], buf, sizeof buf, MSG_PEEK, NULL, NULL) == 5);
	CHECK(syscall(SYS_read, ends[1], buf, 2UL) == 2);
	struct iovec iov = { buf, sizeof buf };
	CHECK(syscall(SYS_preadv2, ends[1], &iov, 1, -1L, -1L, 0) == 3);
	CHECK(!memcmp(buf, "llo", 3));

	/* Waiting. */
	struct pollfd item = { .fd = ends[1], .events = POLLIN };
	struct timespec time = { 0, 20 * 1000 * 1000 };
	CHECK(syscall(SYS_poll, &item, 1UL, 0) == 0);
	CHECK(syscall(SYS_ppoll, &item, 1UL, &time, NULL, 0UL) == 0);
	CHECK(time.tv_nsec == 0); /* the system call writes the time left */
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[1], &set);
	struct timeval none = { 0, 0 };
	CHECK(syscall(SYS_select, ends[1] + 1, &set, NULL, NULL, &none) == 0);
	FD_SET(ends[1], &set);
	struct timespec zero = { 0, 0 };
	sigset_t blocked;
	sigemptyset(&blocked);
	struct { const sigset_t *set; size_t len; } mask = { &blocked, 8 };
	CHECK(syscall(SYS_pselect6, ends[1] + 1, &set, NULL, NULL, &zero, &mask) == 0);
	int epfd = syscall(SYS_epoll_create1, 0);
	CHECK(epfd >= 0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = 77 };
	CHECK(syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, ends[1], &event) == 0);
	CHECK(syscall(SYS_write, ends[0], "x", 1UL) == 1);
	memset(&event, 0, sizeof event);
	CHECK(syscall(SYS_epoll_wait, epfd, &event, 1, 1000) == 1 && event.data.fd == 77);
	memset(&event, 0, sizeof event);
	CHECK(syscall(SYS_epoll_pwait, epfd, &event, 1, 1000, NULL, 8UL) == 1);
	CHECK(event.data.fd == 77);
	CHECK(syscall(SYS_close, epfd) == 0);

	/* Descriptors. */
	back = syscall(SYS_dup, ends[0]);
	CHECK(back >= 0);
	CHECK(syscall(SYS_dup2, ends[0], back) == back);
	CHECK(syscall(SYS_dup3, ends[0], back, O_CLOEXEC) == back);
	CHECK(fcntl(back, F_GETFD) == FD_CLOEXEC);
	CHECK(syscall(SYS_close_range, back, back, 0) == 0);
	CHECK(fcntl(back, F_GETFD) == -1 && errno == EBADF);

	/* Processes: like fork, like vfork, and on a stack of the child's own. */
	pid_t pid = syscall(SYS_fork);
	if (pid == 0)
		syscall(SYS_exit_group, 3);
	reap(pid, 3);
	pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		_exit(4);
	reap(pid, 4);
	struct clone_args args = { .exit_signal = SIGCHLD };
	pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		_exit(5);
	reap(pid, 5);
	pid = syscall(SYS_fork);
	if (pid == 0) {
		char *argv[] = { "sh", "-c", "exit 6", NULL };
		char *env[] = { NULL };
		syscall(SYS_execve, "/bin/sh", argv, env);
		_exit(97);
	}
	reap(pid, 6);
	return 0;
}
