/* Every twin name does what the plain one does; and the calls that are not covered elsewhere. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define TWIN(type, name, ...)                                                    \
	type (*name)(__VA_ARGS__) = (type (*)(__VA_ARGS__))dlsym(RTLD_DEFAULT, #name); \
	CHECK(name)

/* The child must be killed by abort, as libc does it. */
static void aborts(void (*action)(int), int fd)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		close(2);
		action(fd);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void over_read(int fd)
{
	TWIN(ssize_t, __read_chk, int, void *, size_t, size_t);
	char buf[8];
	__read_chk(fd, buf, 9, 8);
}

static void over_recv(int fd)
{
	TWIN(ssize_t, __recv_chk, int, void *, size_t, size_t, int);
	char buf[8];
	__recv_chk(fd, buf, 9, 8, 0);
}

static void over_recvfrom(int fd)
{
	TWIN(ssize_t, __recvfrom_chk, int, void *, size_t, size_t, int, void *, void *);
	char buf[8];
	__recvfrom_chk(fd, buf, 9, 8, 0, NULL, NULL);
}

static void over_poll(int fd)
{
	TWIN(int, __poll_chk, struct pollfd *, nfds_t, int, size_t);
	struct pollfd item = { .fd = fd };
	__poll_chk(&item, 2, 0, sizeof item);
}

static void over_ppoll(int fd)
{
	TWIN(int, __ppoll_chk, struct pollfd *, nfds_t, const struct timespec *, const sigset_t *,
	     size_t);
	struct pollfd item = { .fd = fd };
	struct timespec zero = { 0, 0 };
	__ppoll_chk(&item, 2, &zero, NULL, sizeof item);
}

int main(void)
{
	TWIN(ssize_t, __read, int, void *, size_t);
	TWIN(ssize_t, __write, int, const void *, size_t);
	TWIN(ssize_t, __send, int, const void *, size_t, int);
	TWIN(int, __connect, int, const struct sockaddr *, socklen_t);
	TWIN(int, __close, int);
	TWIN(int, __poll, struct pollfd *, nfds_t, int);
	TWIN(int, __fcntl, int, int, ...);
	TWIN(int, __select, int, fd_set *, fd_set *, fd_set *, struct timeval *);
	TWIN(int, __dup2, int, int);
	TWIN(pid_t, __fork, void);
	TWIN(ssize_t, __read_chk, int, void *, size_t, size_t);
	TWIN(ssize_t, __recv_chk, int, void *, size_t, size_t, int);
	TWIN(ssize_t, __recvfrom_chk, int, void *, size_t, size_t, int, void *, void *);
	TWIN(int, __poll_chk, struct pollfd *, nfds_t, int, size_t);
	TWIN(int, __ppoll_chk, struct pollfd *, nfds_t, const struct timespec *, const sigset_t *,
	     size_t);
	int ends[2];
	char buf[64];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK(__write(ends[0], "abcdef", 6) == 6);
	CHECK(__read(ends[1], buf, 1) == 1);
	CHECK(__read_chk(ends[1], buf, 1, sizeof buf) == 1);
	CHECK(__recv_chk(ends[1], buf, 1, 1, 0) == 1);
	CHECK(__recvfrom_chk(ends[1], buf, 1, sizeof buf, 0, NULL, NULL) == 1 && buf[0] == 'd');
	struct pollfd item = { .fd = ends[1], .events = POLLIN };
	struct timespec zero = { 0, 0 };
	CHECK(__poll(&item, 1, 0) == 1 && item.revents == POLLIN);
	CHECK(__poll_chk(&item, 1, 0, sizeof item) == 1);
	CHECK(__ppoll_chk(&item, 1, &zero, NULL, sizeof item) == 1);
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[1], &set);
	struct timeval none = { 0, 0 };
	CHECK(__select(ends[1] + 1, &set, NULL, NULL, &none) == 1);
	CHECK(pselect(ends[1] + 1, &set, NULL, NULL, &zero, NULL) == 1);
	CHECK(__send(ends[1], "x", 1, MSG_NOSIGNAL) == 1);
	CHECK(read(ends[0], buf, sizeof buf) == 1);
	CHECK(__fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
	CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
	errno = 0;
	CHECK(recv(ends[0], buf, 1, 0) == -1 && errno == EAGAIN);
	int waiting = 0;
	CHECK(ioctl(ends[1], FIONREAD, &waiting) == 0 && waiting == 2);
	int copy = fcntl(ends[0], F_DUPFD_CLOEXEC, 100);
	CHECK(copy >= 100);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	FILE *file = tmpfile();
	CHECK(file && fcntl(fileno(file), F_SETLK, &lock) == 0);
	CHECK(__dup2(ends[0], copy) == copy);
	CHECK(dup2(ends[0], ends[0]) == ends[0]);
	CHECK(dup2(-1, -1) == -1 && errno == EBADF);
	CHECK(dup3(ends[0], ends[0], 0) == -1 && errno == EINVAL);
	CHECK(__close(copy) == 0);
	CHECK(__close(copy) == -1 && errno == EBADF);
	CHECK(__connect(ends[0], NULL, 0) == -1);

	/* Vectors, messages, files. */
	struct iovec iov[2] = { { "12", 2 }, { "345", 3 } };
	CHECK(writev(ends[0], iov, 2) == 5);
	CHECK(pwritev2(ends[0], iov, 2, -1, 0) == 5);
	CHECK(preadv2(ends[1], iov, 2, 0, 0) == -1 && errno == ESPIPE);
	char space[32];
	struct iovec into = { space, sizeof space };
	CHECK(readv(ends[1], &into, 1) == 12);
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };
	CHECK(sendmsg(ends[0], &message, 0) == 5);
	struct mmsghdr many = { .msg_hdr = message };
	CHECK(sendmmsg(ends[0], &many, 1, 0) == 1 && many.msg_len == 5);
	struct mmsghdr get = { .msg_hdr = { .msg_iov = &into, .msg_iovlen = 1 } };
	CHECK(recvmmsg(ends[1], &get, 1, 0, NULL) == 1 && get.msg_len == 10);
	CHECK(write(fileno(file), "file", 4) == 4);
	off_t offset = 0;
	CHECK(sendfile(ends[0], fileno(file), &offset, 4) == 4 && offset == 4);
	offset = 1;
	CHECK(sendfile64(ends[0], fileno(file), &offset, 4) == 3);
	CHECK(recvmsg(ends[1], &get.msg_hdr, 0) == 7 && !memcmp(space, "fileile", 7));
	int pipes[2], more[2];
	CHECK(pipe(pipes) == 0 && pipe(more) == 0);
	struct iovec gift = { "gift", 4 };
	CHECK(vmsplice(pipes[1], &gift, 1, 0) == 4);
	CHECK(tee(pipes[0], more[1], 4, 0) == 4);
	CHECK(splice(pipes[0], NULL, ends[0], NULL, 4, 0) == 4);
	CHECK(read(ends[1], buf, sizeof buf) == 4 && read(more[0], buf, sizeof buf) == 4);

	/* Closing many. */
	CHECK(dup2(ends[0], 200) == 200 && dup2(ends[0], 210) == 210 && dup2(ends[0], 300) == 300);
	CHECK(close_range(200, 205, 0) == 0 && fcntl(200, F_GETFD) == -1);
	CHECK(fcntl(210, F_GETFD) == 0);
	closefrom(206);
	CHECK(fcntl(210, F_GETFD) == -1 && fcntl(300, F_GETFD) == -1);
	CHECK(fcntl(ends[0], F_GETFD) == 0);

	/* SMC sockets are TCP sockets. */
	int protocol = 0, domain = 0;
	socklen_t len = sizeof protocol;
	int smc;
	if (getenv("LD_PRELOAD")) {
		smc = socket(43, SOCK_STREAM, 0);
		CHECK(smc >= 0 && !getsockopt(smc, SOL_SOCKET, SO_DOMAIN, &domain, &len));
		CHECK(domain == AF_INET);
		CHECK(!getsockopt(smc, SOL_SOCKET, SO_PROTOCOL, &protocol, &len));
		CHECK(protocol == IPPROTO_TCP);
		smc = socket(43, SOCK_STREAM | SOCK_NONBLOCK, 1);
		CHECK(smc >= 0 || errno == EAFNOSUPPORT);
		smc = socket(AF_INET, SOCK_STREAM, 256);
		CHECK(smc >= 0 && !getsockopt(smc, SOL_SOCKET, SO_PROTOCOL, &protocol, &len));
		CHECK(protocol == IPPROTO_TCP);
		CHECK(socket(43, SOCK_DGRAM, 0) == -1 && errno == ESOCKTNOSUPPORT);
		CHECK(socket(43, SOCK_STREAM, 2) == -1 && errno == EPROTONOSUPPORT);
	}
	CHECK(socket(AF_INET, SOCK_DGRAM, 0) >= 0);

	aborts(over_read, ends[1]);
	aborts(over_recv, ends[1]);
	aborts(over_recvfrom, ends[1]);
	aborts(over_poll, ends[1]);
	aborts(over_ppoll, ends[1]);
	return 0;
}
