/* Setting a connection up: order of calls, non-blocking connect, inherited flags, addresses. */
#include "common.h"

static void one_thread(void)
{
    int l = listener(8);
    int c = connect_to(l);
    char b[32] = "";
    R(send(c, "early", 5, 0));
    int s = MUST(accept(l, NULL, NULL));
    R(recv(s, b, sizeof b, 0));
    trace("%s", b);
    R(send(s, "late", 4, 0));
    R(recv(c, b, sizeof b, 0));
    warm(c, s);
    R(send(c, "again", 5, 0));
    R(recv(s, b, sizeof b, 0));
    close(c);
    R(recv(s, b, sizeof b, 0));
}

static void late_client(void *arg)
{
    int c = connect_to(*(int *)arg);
    char b[8] = "";
    R(send(c, "first", 5, 0));
    R(send(c, "second", 6, 0));
    R(recv(c, b, sizeof b, 0));
    warm_client(c);
    R(recv(c, b, sizeof b, 0));
}

static void late_accept(void)
{
    int l = listener(8);
    pid_t pid = spawn_child('B', late_client, &l);
    sleep_ms(5000);
    int s = MUST(accept(l, NULL, NULL));
    char b[16] = "";
    recv_all(s, b, 11);
    trace("%s", b);
    R(send(s, "ok", 2, 0));
    warm_server(s);
    close(s);
    join_child(pid);
}

static void *short_server(void *arg)
{
    char b[16];
    for (int i = 0; i < 10000; i++) {
        int s = MUST(accept(*(int *)arg, NULL, NULL));
        recv_all(s, b, sizeof b);
        send_all(s, b, sizeof b);
        close(s);
    }
    return NULL;
}

static void short_connections(void)
{
    int l = listener(128), good = 0;
    pthread_t t = spawn_thread(short_server, &l);
    for (int i = 0; i < 10000; i++) {
        int c = connect_to(l);
        char out[16], in[17];
        fill(out, sizeof out, i, 0);
        send_all(c, out, sizeof out);
        recv_all(c, in, sizeof out);
        good += recv(c, in + 16, 1, 0) == 0 && memcmp(in, out, sizeof out) == 0;
        close(c);
    }
    join_thread(t);
    trace("%d good", good);
}

/* The client is gone before accept: data, then end of file. */
static void gone_before_accept(void)
{
    int l = listener(8);
    int c = connect_to(l);
    char b[16];
    R(send(c, "message", 7, 0));
    close(c);
    int s = MUST(accept(l, NULL, NULL));
    R(recv(s, b, sizeof b, 0));
    R(recv(s, b, sizeof b, 0));
    R(recv(s, b, sizeof b, 0));
}

static void so_error(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
    trace("SO_ERROR %s", errno_name(error));
}

static void nonblocking_connect(void)
{
    int l = listener(8);
    struct sockaddr_in a = address_of(l);
    struct sockaddr *sa = (struct sockaddr *)&a;
    int c = tcp_socket();
    nonblocking(c, 1);
    trace("before: %s", mask_name(poll_mask(c, POLLIN | POLLOUT, 0)));
    R(connect(c, sa, sizeof a));
    trace("after: %s", mask_name(poll_mask(c, POLLIN | POLLOUT, 1000)));
    so_error(c);
    R(connect(c, sa, sizeof a));
    R(connect(c, sa, sizeof a));
    int s = MUST(accept(l, NULL, NULL));
    trace("accepted is blocking: %d", !(fcntl(s, F_GETFL) & O_NONBLOCK));
    nonblocking(c, 0);
    warm(c, s);
    R(connect(c, sa, sizeof a));
    R(listen(c, 1));
    R(bind(c, sa, sizeof a));
    so_error(c);
}

static void refused(void)
{
    int l = listener(1);
    struct sockaddr_in a = address_of(l);
    struct sockaddr *sa = (struct sockaddr *)&a;
    close(l);
    int c = tcp_socket();
    char b[4];
    R(connect(c, sa, sizeof a));
    so_error(c);
    R(send(c, "x", 1, MSG_NOSIGNAL));
    R(recv(c, b, 1, 0));
    int n = tcp_socket();
    nonblocking(n, 1);
    int r = connect(n, sa, sizeof a);
    trace("%d %s", r, errno_name(errno));
    trace("after: %s", mask_name(poll_mask(n, POLLIN | POLLOUT | POLLRDHUP, 1000)));
    so_error(n);
    so_error(n);
    trace("then: %s", mask_name(poll_mask(n, POLLIN | POLLOUT | POLLRDHUP, 1000)));
}

/* What is inherited from the listener, and what is not. */
static void accept_flags(void)
{
    int l = listener(8), one = 1, size = 300000;
    MUST(setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    MUST(setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
    MUST(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
    set_timeout(l, SO_RCVTIMEO, 50);
    char b[4];
    R(accept(l, NULL, NULL));
    nonblocking(l, 1);
    R(accept(l, NULL, NULL));
    for (int flags = 0; flags < 4; flags++) {
        int c = connect_to(l);
        int f = (flags & 1 ? SOCK_NONBLOCK : 0) | (flags & 2 ? SOCK_CLOEXEC : 0);
        poll_mask(l, POLLIN, 1000);
        int s = MUST(accept4(l, NULL, NULL, f));
        int nodelay = -1, alive = -1, room = -1;
        socklen_t len = sizeof nodelay;
        MUST(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len));
        MUST(getsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &alive, &len));
        MUST(getsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, &len));
        trace("nonblock %d cloexec %d", !!(fcntl(s, F_GETFL) & O_NONBLOCK),
              fcntl(s, F_GETFD) & FD_CLOEXEC);
        trace("nodelay %d keepalive %d rcvbuf %d", nodelay, alive, room);
        R(recv(s, b, 1, 0));
        close(s);
        close(c);
    }
    R(accept4(l, NULL, NULL, 0x40000000));
}

static void lowest_fd(void)
{
    struct pair p = warm_pair();
    close(0);
    R(open("/dev/null", O_RDONLY));
    int keep = dup(p.client);
    close(keep);
    trace("same number again: %d", socket(AF_INET, SOCK_STREAM, 0) == keep);
    R(dup2(p.server, 50));
    R(fcntl(50, F_DUPFD, 60));
    R(fcntl(50, F_DUPFD_CLOEXEC, 60));
    R(send(60, "abc", 3, 0));
    char b[4];
    R(recv(p.client, b, 4, 0));
}

static void ipv6(void)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    socklen_t len = sizeof a;
    int l = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(bind(l, (struct sockaddr *)&a, sizeof a));
    MUST(listen(l, 4));
    MUST(getsockname(l, (struct sockaddr *)&a, &len));
    a.sin6_addr = in6addr_loopback;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = a.sin6_port};
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int mapped = 0; mapped < 2; mapped++) {
        int c = MUST(socket(mapped ? AF_INET : AF_INET6, SOCK_STREAM, 0));
        MUST(connect(c, mapped ? (void *)&v4 : (void *)&a, mapped ? sizeof v4 : sizeof a));
        int s = MUST(accept(l, NULL, NULL));
        warm(c, s);
        struct sockaddr_in6 peer;
        len = sizeof peer;
        R(getpeername(s, (struct sockaddr *)&peer, &len));
        trace("mapped %d, family %d, len %d", IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr),
              peer.sin6_family == AF_INET6, len);
        char b[8];
        R(send(c, "six", 3, 0));
        R(recv(s, b, 8, 0));
        close(c);
        R(recv(s, b, 8, 0));
        close(s);
    }
}

/* Dissolving a connection with AF_UNSPEC resets it; the socket can be used again. */
static void disconnect(void)
{
    struct pair p = warm_pair();
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    char b[4];
    R(connect(p.client, &none, sizeof none));
    R(recv(p.server, b, 4, 0));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
    struct sockaddr_in a = address_of(p.listener);
    R(connect(p.client, (struct sockaddr *)&a, sizeof a));
    int s = MUST(accept(p.listener, NULL, NULL));
    warm(p.client, s);
    R(send(p.client, "back", 4, 0));
    R(recv(s, b, 4, 0));
}

/* One socket at both ends. */
static void self_connect(void)
{
    int fd = tcp_socket();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(fd, (struct sockaddr *)&a, sizeof a));
    a = address_of(fd);
    R(connect(fd, (struct sockaddr *)&a, sizeof a));
    warm(fd, fd);
    char b[16];
    R(send(fd, "mirror", 6, 0));
    R(recv(fd, b, sizeof b, 0));
}

/* Many connections that stay: each has its own stream. */
static void many(void)
{
    enum { N = 200 };
    int l = listener(N), c[N], s[N], good = 0;
    for (int i = 0; i < N; i++) {
        c[i] = connect_to(l);
        s[i] = MUST(accept(l, NULL, NULL));
    }
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < N; i++) {
            char out[100], in[100];
            fill(out, sizeof out, i, round);
            send_all(c[i], out, sizeof out);
            recv_all(s[i], in, sizeof in);
            good += memcmp(in, out, sizeof in) == 0;
            send_all(s[i], in, sizeof in);
            recv_all(c[i], in, sizeof in);
            good += memcmp(in, out, sizeof in) == 0;
        }
    trace("%d good", good);
}

MAIN({"one_thread", one_thread}, {"late_accept", late_accept},
     {"short_connections", short_connections}, {"gone_before_accept", gone_before_accept},
     {"nonblocking_connect", nonblocking_connect}, {"refused", refused},
     {"accept_flags", accept_flags}, {"lowest_fd", lowest_fd}, {"ipv6", ipv6},
     {"disconnect", disconnect}, {"self_connect", self_connect}, {"many", many})
