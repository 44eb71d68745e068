/* Moving data: flags, counts, odd vectors, sendfile, splice, time limits. */
#include "common.h"
#include <linux/sockios.h>
#include <sys/sendfile.h>

static char big[4 << 20], back[4 << 20];

static void flags(void)
{
    struct pair p = warm_pair();
    char b[32] = "";
    R(send(p.client, "0123456789", 10, 0));
    R(recv(p.server, b, 4, MSG_PEEK));
    R(recv(p.server, b, 20, MSG_PEEK));
    R(recv(p.server, b, 2, 0));
    R(recv(p.server, b, 32, MSG_PEEK));
    trace("%.8s", b);
    R(recv(p.server, NULL, 3, MSG_TRUNC));
    R(recv(p.server, b, 1, MSG_TRUNC));
    R(recv(p.server, b, 32, MSG_DONTWAIT));
    R(recv(p.server, b, 32, MSG_DONTWAIT));
    R(recv(p.server, b, 32, MSG_DONTWAIT | MSG_PEEK));
    R(recv(p.server, b, 0, MSG_DONTWAIT));
    R(send(p.client, b, 0, 0));
    R(recv(p.server, b, 32, MSG_DONTWAIT));
    R(send(p.client, "abc", 3, MSG_MORE));
    R(send(p.client, "def", 3, 0));
    poll_mask(p.server, POLLIN, 1000);
    R(recv(p.server, b, 0, 0));
    R(recv(p.server, b, 6, MSG_WAITALL));
    trace("%.6s", b);
    R(send(p.client, "xy", 2, 0));
    R(shutdown(p.client, SHUT_WR));
    R(recv(p.server, b, 6, MSG_WAITALL));
    R(recv(p.server, b, 6, MSG_WAITALL));
    R(recv(p.server, b, 6, MSG_PEEK));
    R(recv(p.server, b, 6, MSG_ERRQUEUE));
    R(recv(p.server, b, 6, MSG_OOB));
}

static void fionread(void)
{
    struct pair p = warm_pair();
    int n = -1;
    char b[64];
    R(ioctl(p.server, FIONREAD, &n));
    trace("%d", n);
    for (int i = 1; i < 5; i++) {
        send_all(p.client, b, 10);
        poll_mask(p.server, POLLIN, 1000);
        sleep_ms(2);
        MUST(ioctl(p.server, FIONREAD, &n));
        trace("%d", n);
    }
    R(recv(p.server, b, 33, 0));
    R(ioctl(p.server, FIONREAD, &n));
    trace("%d", n);
    R(recv(p.server, b, 33, 0));
    R(ioctl(p.client, SIOCOUTQ, &n));
    trace("out %d", n);
    R(ioctl(p.client, SIOCOUTQNSD, &n));
    trace("not sent %d", n);
    int on = 1;
    R(ioctl(p.server, FIONBIO, &on));
    R(read(p.server, b, 1));
    on = 0;
    R(ioctl(p.server, FIONBIO, &on));
    trace("nonblock %d", !!(fcntl(p.server, F_GETFL) & O_NONBLOCK));
}

static void timeouts(void)
{
    struct pair p = warm_pair();
    char b[8];
    set_timeout(p.server, SO_RCVTIMEO, 40);
    R(recv(p.server, b, 8, 0));
    R(read(p.server, b, 8));
    R(recv(p.server, b, 8, MSG_PEEK));
    send_all(p.client, "abc", 3);
    R(recv(p.server, b, 8, MSG_WAITALL));
    R(recv(p.server, b, 8, MSG_WAITALL));
    set_timeout(p.server, SO_RCVTIMEO, 0);
    struct timeval t;
    socklen_t len = sizeof t;
    set_timeout(p.client, SO_SNDTIMEO, 40);
    R(getsockopt(p.client, SOL_SOCKET, SO_SNDTIMEO, &t, &len));
    trace("%ld s %ld us", (long)t.tv_sec, (long)t.tv_usec);
    /* Nobody reads: at some time no more fits, and the time runs out. */
    long n, total = 0;
    while ((n = send(p.client, big, sizeof big, MSG_NOSIGNAL)) > 0)
        total += n;
    trace("send: %s, more than nothing: %d", errno_name(errno), total > 0);
    close(p.client);
    uint64_t h;
    int error;
    trace("all arrived: %d", drain(p.server, &h, &error) == (size_t)total);
    trace("%s", errno_name(error));
}

static void vectors(void)
{
    struct pair p = warm_pair();
    char a[16] = "", b[16] = "";
    struct iovec out[] = {{"ab", 2}, {NULL, 0}, {"cdef", 4}, {"", 0}, {"g", 1}};
    struct iovec in[] = {{a, 3}, {NULL, 0}, {b, 16}};
    R(writev(p.client, out, 5));
    poll_mask(p.server, POLLIN, 1000);
    R(readv(p.server, in, 3));
    trace("%s %s", a, b);
    R(writev(p.client, out, 0));
    R(writev(p.client, NULL, 0));
    R(writev(p.client, out, -1));
    static struct iovec many[1025];
    for (int i = 0; i < 1025; i++)
        many[i] = (struct iovec){big + i, 1};
    R(writev(p.client, many, 1025));
    R(readv(p.server, many, 1025));
    R(writev(p.client, many, 1024));
    R(recv(p.server, back, 1024, MSG_WAITALL));
    struct msghdr m = {.msg_iov = many, .msg_iovlen = 1025};
    R(sendmsg(p.client, &m, 0));
    R(recvmsg(p.server, &m, MSG_DONTWAIT));
    m = (struct msghdr){.msg_iov = out, .msg_iovlen = 5};
    R(sendmsg(p.client, &m, 0));
    m = (struct msghdr){.msg_iov = in, .msg_iovlen = 3, .msg_name = back, .msg_namelen = 100};
    R(recvmsg(p.server, &m, 0));
    trace("flags %x, namelen %d, controllen %zu", m.msg_flags, m.msg_namelen, m.msg_controllen);
    struct iovec huge[] = {{a, (size_t)-1 / 2 - 10}, {b, 100}};
    R(readv(p.server, huge, 2));
    R(preadv2(p.server, in, 3, 0, 0));
    R(pwritev2(p.client, out, 5, -1, 0));
    R(preadv2(p.server, in, 3, -1, 0));
    R(lseek(p.client, 0, SEEK_CUR));
    R(pread(p.client, a, 1, 0));
    R(pwrite(p.client, a, 1, 0));
    socklen_t len = sizeof(struct sockaddr_in);
    struct sockaddr_in from;
    send_all(p.client, "z", 1);
    R(recvfrom(p.server, a, 1, 0, (struct sockaddr *)&from, &len));
    trace("address length %d", len);
}

static void mmsg(void)
{
    struct pair p = warm_pair();
    char b[3][8] = {"", "", ""};
    struct iovec out[] = {{"one", 3}, {"two", 3}, {"three", 5}}, in[3];
    struct mmsghdr m[3];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 3; i++)
        m[i].msg_hdr = (struct msghdr){.msg_iov = out + i, .msg_iovlen = 1};
    R(sendmmsg(p.client, m, 3, 0));
    trace("%u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len);
    sleep_ms(20);
    for (int i = 0; i < 3; i++) {
        in[i] = (struct iovec){b[i], 4};
        m[i].msg_hdr = (struct msghdr){.msg_iov = in + i, .msg_iovlen = 1};
    }
    R(recvmmsg(p.server, m, 3, 0, NULL));
    trace("%u %u %u: %.4s %.4s %.4s", m[0].msg_len, m[1].msg_len, m[2].msg_len, b[0], b[1], b[2]);
    send_all(p.client, "ab", 2);
    R(recvmmsg(p.server, m, 3, MSG_WAITFORONE, NULL));
    R(recvmmsg(p.server, m, 3, MSG_DONTWAIT, NULL));
    R(sendmmsg(p.client, m, 0, 0));
}

static void bad_pointers(void)
{
    struct pair p = warm_pair();
    char *bad = (char *)16, b[64] = "";
    R(send(p.client, bad, 10, 0));
    R(write(p.client, bad, 10));
    send_all(p.client, "0123456789", 10);
    poll_mask(p.server, POLLIN, 1000);
    R(recv(p.server, bad, 10, 0));
    R(read(p.server, bad, 10));
    R(recvmsg(p.server, (struct msghdr *)bad, 0));
    R(readv(p.server, (struct iovec *)bad, 2));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    trace("%s", b);
    struct iovec half[] = {{"good", 4}, {bad, 4}};
    R(writev(p.client, half, 2));
    sleep_ms(20);
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    R(getsockopt(p.client, SOL_SOCKET, SO_ERROR, bad, (socklen_t *)bad));
    R(poll((struct pollfd *)bad, 1, 0));
    R(recv(-1, b, 1, 0));
    R(send(1000, b, 1, 0));
    R(recv(p.listener, b, 1, 0));
    R(send(p.listener, b, 1, MSG_NOSIGNAL));
}

static int file_with(const char *content, size_t len)
{
    int fd = MUST(memfd_create("file", 0));
    MUST(write(fd, content, len));
    MUST(lseek(fd, 0, SEEK_SET));
    return fd;
}

/* A file that is open for writing only: with room and without, with and without bytes to send. */
static void sendfile_unreadable(struct pair p, int file)
{
    char path[64];
    off_t at = 0, end = 26;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int w = MUST(open(path, O_WRONLY));
    R(sendfile(p.client, w, &at, 10));
    R(sendfile(p.client, w, &end, 10));
    nonblocking(p.client, 1);
    size_t sent = 0;
    for (long n; (n = send(p.client, big, sizeof big, 0)) > 0;)
        sent += n;
    R(sendfile(p.client, w, &at, 10));
    nonblocking(p.client, 0);
    while (sent > 0)
        sent -= MUST(recv(p.server, back, sent < 100000 ? sent : 100000, 0));
    close(w);
}

static void sendfile_cases(void)
{
    struct pair p = warm_pair();
    int f = file_with("abcdefghijklmnopqrstuvwxyz", 26);
    off_t at = 20;
    char b[64] = "";
    R(send(p.client, "<", 1, MSG_MORE));
    R(sendfile(p.client, f, NULL, 5));
    R(sendfile(p.client, f, &at, 100));
    trace("offset %ld, file at %ld", (long)at, (long)lseek(f, 0, SEEK_CUR));
    R(send(p.client, ">", 1, 0));
    recv_all(p.server, b, 13);
    trace("%s", b);
    R(sendfile(p.client, f, &at, 10));
    at = -1;
    R(sendfile(p.client, f, &at, 10));
    sendfile_unreadable(p, f);
    R(sendfile(p.client, p.server, NULL, 10));
    R(sendfile(p.client, 999, NULL, 10));
    fill(big, sizeof big, 1, 0);
    int g = file_with(big, 1 << 20);
    nonblocking(p.client, 1);
    size_t sent = 0, got = 0;
    uint64_t h = HASH_START;
    for (at = 0; got < 1 << 20;) {
        long n = sent < 1 << 20 ? sendfile(p.client, g, &at, 1 << 20) : 0;
        sent += n > 0 ? n : 0;
        poll_mask(p.server, POLLIN, 1000);
        n = MUST(recv(p.server, back, 100000, 0));
        h = hash(h, back, n);
        got += n;
    }
    trace("same: %d, offset %ld", h == hash_of_stream(1, 1 << 20), (long)at);
}

static void splice_cases(void)
{
    struct pair p = warm_pair();
    int pipe_fds[2];
    char b[64] = "";
    MUST(pipe(pipe_fds));
    MUST(write(pipe_fds[1], "through a pipe", 14));
    R(splice(pipe_fds[0], NULL, p.client, NULL, 100, SPLICE_F_MORE));
    send_all(p.client, "!", 1);
    sleep_ms(250);
    R(splice(p.server, NULL, pipe_fds[1], NULL, 100, SPLICE_F_MOVE));
    R(read(pipe_fds[0], b, 64));
    trace("%s", b);
    nonblocking(p.server, 1);
    R(splice(p.server, NULL, pipe_fds[1], NULL, 100, 0));
    nonblocking(p.server, 0);
    loff_t at = 0;
    R(splice(p.server, &at, pipe_fds[1], NULL, 100, 0));
    R(splice(p.server, NULL, p.client, NULL, 100, 0));
    R(tee(p.server, pipe_fds[1], 100, 0));
    struct iovec v = {"mapped", 6};
    R(vmsplice(pipe_fds[1], &v, 1, 0));
    R(vmsplice(p.client, &v, 1, 0));
    R(splice(pipe_fds[0], NULL, p.client, NULL, 6, 0));
    R(recv(p.server, b, 64, 0));
    R(shutdown(p.client, SHUT_WR));
    R(splice(p.server, NULL, pipe_fds[1], NULL, 100, 0));
}

/* A pipe that short pieces fill has room for less than its size says: what does not fit stays where it is, on
 * a ring too, and a pipe that has no room at all is said to be full. */
static void splice_into_pieces(void)
{
    struct pair p = warm_pair();
    int pipe_fds[2], f = file_with(big, 1 << 16), pieces = 0;
    MUST(pipe(pipe_fds));
    for (loff_t at = 0; pieces < 12; pieces++) {
        MUST(splice(f, &at, pipe_fds[1], NULL, 1, 0));
        at += 4095;
    }
    fill(big, sizeof big, 1, 0);
    send_all(p.client, big, 60000);
    sleep_ms(50);
    size_t got = 0, held = pieces;
    uint64_t h = HASH_START;
    long n = splice(p.server, NULL, pipe_fds[1], NULL, 60000, 0);
    trace("some: %d", n > 0);
    held += n > 0 ? n : 0;
    while (splice(f, NULL, pipe_fds[1], NULL, 1, SPLICE_F_NONBLOCK) == 1)
        held++, pieces++;
    R(splice(p.server, NULL, pipe_fds[1], NULL, 60000, SPLICE_F_NONBLOCK));
    size_t before = 12, after = pieces - 12;
    for (size_t seen = 0; seen < held;) {
        n = MUST(read(pipe_fds[0], back, sizeof back));
        for (long i = 0; i < n; i++, seen++)
            if (seen >= before && seen < held - after)
                h = hash(h, back + i, 1), got++;
    }
    while (got < 60000) {
        n = MUST(recv(p.server, back, sizeof back, 0));
        h = hash(h, back, n);
        got += n;
    }
    trace("same: %d", h == hash_of_stream(1, 60000));
    close(f);
}

static void lowat(void)
{
    struct pair p = warm_pair();
    int low = 1000, got = -1;
    socklen_t len = sizeof got;
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    R(getsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &got, &len));
    trace("%d", got);
    send_all(p.client, big, 999);
    sleep_ms(20);
    trace("999: %s", mask_name(poll_mask(p.server, POLLIN, 50)));
    R(recv(p.server, back, 2000, MSG_DONTWAIT));
    send_all(p.client, big, 999);
    send_all(p.client, big, 1);
    trace("1000: %s", mask_name(poll_mask(p.server, POLLIN, 1000)));
    R(recv(p.server, back, 2000, 0));
    set_timeout(p.server, SO_RCVTIMEO, 50);
    send_all(p.client, big, 10);
    R(recv(p.server, back, 2000, 0));
    low = 1;
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    warm(p.client, p.server);
}

static void oob(void)
{
    struct pair p = warm_pair();
    char b[16] = "";
    int mark = -1;
    R(send(p.client, "ab", 2, 0));
    R(send(p.client, "cd", 2, MSG_OOB));
    trace("%s", mask_name(poll_mask(p.server, POLLPRI, 1000)));
    R(recv(p.server, b, 16, 0));
    trace("%s", b);
    R(ioctl(p.server, SIOCATMARK, &mark));
    trace("at mark: %d", mark);
    R(recv(p.server, b, 16, MSG_OOB));
    trace("%.1s", b);
    R(send(p.client, "ef", 2, 0));
    R(recv(p.server, b, 16, 0));
    warm(p.client, p.server);
}

static void buffer_options(void)
{
    struct pair p = connected();
    for (int round = 0; round < 2; round++) {
        int set = 100000, got = -1, nodelay = 1, cork = 1;
        socklen_t len = sizeof got;
        R(setsockopt(p.client, SOL_SOCKET, SO_SNDBUF, &set, sizeof set));
        R(getsockopt(p.client, SOL_SOCKET, SO_SNDBUF, &got, &len));
        trace("%d", got);
        R(setsockopt(p.server, SOL_SOCKET, SO_RCVBUF, &set, sizeof set));
        R(getsockopt(p.server, SOL_SOCKET, SO_RCVBUF, &got, &len));
        trace("%d", got);
        R(setsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof nodelay));
        R(setsockopt(p.client, IPPROTO_TCP, TCP_CORK, &cork, sizeof cork));
        send_all(p.client, "corked", 6);
        cork = 0;
        R(setsockopt(p.client, IPPROTO_TCP, TCP_CORK, &cork, sizeof cork));
        R(recv(p.server, back, 100, 0));
        R(getsockopt(p.client, SOL_SOCKET, SO_TYPE, &got, &len));
        R(getsockopt(p.client, SOL_SOCKET, SO_PROTOCOL, &got, &len));
        trace("%d", got);
        R(getsockopt(p.client, SOL_SOCKET, SO_DOMAIN, &got, &len));
        trace("%d", got);
        struct tcp_info info;
        len = sizeof info;
        R(getsockopt(p.client, IPPROTO_TCP, TCP_INFO, &info, &len));
        trace("state %d", info.tcpi_state);
        R(setsockopt(p.client, SOL_SOCKET, 9999, &set, sizeof set));
        warm(p.client, p.server);
    }
}

MAIN({"flags", flags}, {"fionread", fionread}, {"timeouts", timeouts}, {"vectors", vectors},
     {"mmsg", mmsg}, {"bad_pointers", bad_pointers}, {"sendfile", sendfile_cases},
     {"splice", splice_cases}, {"splice_into_pieces", splice_into_pieces}, {"lowat", lowat}, {"oob", oob}, {"buffer_options", buffer_options})
