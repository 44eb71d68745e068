/* A library that is preloaded beside ours, in front of it or behind it: it counts, passes everything
 * on to the next definition, and uses sockets in its constructor. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned long counts[4];

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    static __typeof__(&recv) next;
    next = next ? next : NEXT(recv);
    counts[0]++;
    return next(fd, buf, len, flags);
}

ssize_t send(int fd, const void *buf, size_t len, int flags)
{
    static __typeof__(&send) next;
    next = next ? next : NEXT(send);
    counts[1]++;
    return next(fd, buf, len, flags);
}

int close(int fd)
{
    static __typeof__(&close) next;
    next = next ? next : NEXT(close);
    counts[2]++;
    return next(fd);
}

int socket(int domain, int type, int protocol)
{
    static __typeof__(&socket) next;
    next = next ? next : NEXT(socket);
    counts[3]++;
    return next(domain, type, protocol);
}

__attribute__((constructor)) static void start(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), ends[2];
    char b[4];
    if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || send(ends[0], "abc", 3, 0) != 3 ||
        recv(ends[1], b, 4, 0) != 3 || close(fd) || close(ends[0]) || close(ends[1]))
        abort();
}

__attribute__((destructor)) static void end(void)
{
    char text[128];
    int n = snprintf(text, sizeof text, "passed on: socket %d, send and recv %d\n", counts[3] > 0,
                     counts[0] > 0 && counts[1] > 0);
    if (write(2, text, n) != n)
        abort();
}
