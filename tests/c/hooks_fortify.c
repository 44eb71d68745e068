/* To be compiled with -O2 -D_FORTIFY_SOURCE=3: calls whose buffer size the compiler knows but
 * whose length it does not become the checking twins, which must work, and abort when over. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int ends[2];

static int use(int which, size_t len)
{
	char buf[16];
	struct pollfd items[2] = { { .fd = ends[1], .events = POLLIN }, { .fd = -1 } };
	struct timespec zero = { 0, 0 };

	switch (which) {
	case 0: return read(ends[1], buf, len) == (ssize_t)len;
	case 1: return recv(ends[1], buf, len, MSG_PEEK) == (ssize_t)len;
	case 2: return recvfrom(ends[1], buf, len, MSG_PEEK, NULL, NULL) == (ssize_t)len;
	case 3: return poll(items, len, 0) == 1;
	case 4: return ppoll(items, len, &zero, NULL) == 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	size_t one = (size_t)argc; /* the compiler must not know */
	char data[64] = { 0 };

	(void)argv;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || write(ends[0], data, sizeof data) != 64)
		return 2;
	for (int which = 4; which >= 0; which--)
		if (!use(which, one)) {
			fprintf(stderr, "call %d fails\n", which);
			return 1;
		}
	for (int which = 0; which < 5; which++) {
		int status;
		pid_t pid = fork();
		if (pid == 0) {
			close(2);
			use(which, one + 16);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) ||
		    WTERMSIG(status) != SIGABRT) {
			fprintf(stderr, "call %d is not stopped: %x\n", which, status);
			return 1;
		}
	}
	return 0;
}
