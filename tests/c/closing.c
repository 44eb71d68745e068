/* Ends of connections: close at every stage, half-close, resets, signals. */
#include "sets.h"

static char big[1 << 20];
static volatile sig_atomic_t pipes;

static void on_pipe(int s)
{
    (void)s;
    pipes++;
}

static void drain_traced(int fd)
{
    uint64_t h;
    int error;
    size_t n = drain(fd, &h, &error);
    trace("%zu bytes, same: %d, end: %s", n, h == hash_of_stream(6, n), errno_name(error));
}

/* A server that answers `stages` times, then queues 1 MB and closes at once. */
static void queue_and_close(void *arg)
{
    int s = MUST(accept(((int *)arg)[0], NULL, NULL));
    char b[64];
    for (int i = 0; i < ((int *)arg)[1]; i++) {
        recv_all(s, b, sizeof b);
        send_all(s, b, sizeof b);
    }
    fill(big, sizeof big, 6, 0);
    send_all(s, big, sizeof big);
    close(s);
}

static void queue_1mb_and_close(void)
{
    char b[64];
    int l = listener(8);
    for (int stages = 0; stages < 40; stages += stages < 12 ? 1 : 7) {
        for (int pause = 0; pause < 2; pause++) {
            int arg[] = {l, stages};
            pid_t pid = spawn_child('B', queue_and_close, arg);
            int c = connect_to(l);
            for (int i = 0; i < stages; i++) {
                send_all(c, b, sizeof b);
                recv_all(c, b, sizeof b);
                if (pause)
                    sleep_ms(1);
            }
            drain_traced(c);
            close(c);
            join_child(pid);
        }
    }
}

static void half_close(void)
{
    for (int side = 0; side < 2; side++) {
        struct pair p = warm_pair();
        int a = side ? p.server : p.client, b = side ? p.client : p.server;
        char data[16] = "";
        R(send(a, "last", 4, 0));
        R(shutdown(a, SHUT_WR));
        trace("%s", mask_name(poll_mask(a, POLLIN | POLLOUT | POLLRDHUP, 0)));
        R(recv(b, data, 16, 0));
        R(recv(b, data, 16, 0));
        trace("%s", mask_name(poll_mask(b, POLLIN | POLLOUT | POLLRDHUP, 1000)));
        R(send(a, "x", 1, MSG_NOSIGNAL));
        fill(big, sizeof big, 6, 0);
        for (int i = 0; i < 5; i++) {
            R(send(b, big, 1000, 0));
            R(recv(a, big, 1000, MSG_WAITALL));
        }
        R(shutdown(b, SHUT_WR));
        R(recv(a, data, 16, 0));
        trace("%s", mask_name(poll_mask(a, POLLIN | POLLOUT | POLLRDHUP, 1000)));
        R(shutdown(a, SHUT_WR));
        close_pair(&p);
    }
}

static void shutdown_read(void)
{
    struct pair p = warm_pair();
    char b[16];
    R(send(p.client, "before", 6, 0));
    poll_mask(p.server, POLLIN, 1000);
    R(shutdown(p.server, SHUT_RD));
    trace("%s", mask_name(poll_mask(p.server, POLLIN | POLLOUT | POLLRDHUP, 0)));
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, 0));
    R(send(p.client, "after", 5, 0));
    sleep_ms(20);
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, 0));
    R(send(p.server, "still", 5, 0));
    R(recv(p.client, b, 16, 0));
    R(shutdown(p.server, SHUT_RDWR));
    R(recv(p.client, b, 16, 0));
    R(shutdown(p.server, 7));
    R(shutdown(p.listener, SHUT_RD));
    R(accept(p.listener, NULL, NULL));
}

/* Shut for reading: what is there can be read, and what comes later; sets and poll say both. */
static void shut_for_reading(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), n;
    char b[16];
    add(ep, p.server, EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLET, 1);
    show(ep, 0);
    send_all(p.client, "queued", 6);
    show(ep, 1000);
    R(shutdown(p.server, SHUT_RD));
    show(ep, 100);
    show(ep, 5);
    for (int i = 0; i < 2; i++) {
        R(ioctl(p.server, FIONREAD, &n));
        trace("%d", n);
        R(recv(p.server, b, 2, MSG_PEEK));
        R(recv(p.server, b, 3, 0));
        R(recv(p.server, b, 16, MSG_WAITALL));
        R(recv(p.server, b, 16, 0));
        R(recv(p.server, b, 0, 0));
        send_all(p.client, "late", 4);
        sleep_ms(20);
        show(ep, 100);
    }
    R(shutdown(p.client, SHUT_RD));
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 0)));
    send_all(p.server, "to one that is shut", 19);
    sleep_ms(20);
    R(recv(p.client, b, 4, 0));
    close(p.server);
    poll_mask(p.client, POLLHUP, 1000);
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 0)));
    R(recv(p.client, b, 16, 0));
    R(recv(p.client, b, 16, 0));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
    /* More comes than is read at once: a read that finds nothing at the moment finds an end. */
    struct pair q = warm_pair();
    size_t sent = 0;
    uint64_t h;
    int error;
    R(shutdown(q.server, SHUT_RD));
    nonblocking(q.client, 1);
    for (long k = 0; k >= 0; k = send(q.client, big, 65536, 0))
        sent += k;
    trace("%d, %s", sent > 100000, errno_name(errno));
    close(q.client);
    trace("some: %d", drain(q.server, &h, &error) > 0);
}

/* close with unread data resets: the peer gets ECONNRESET once, then end of file. */
static void unread_data(void)
{
    struct pair p = warm_pair();
    char b[16];
    R(send(p.client, "unread", 6, 0));
    poll_mask(p.server, POLLIN, 1000);
    close(p.server);
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 1000)));
    R(recv(p.client, b, 16, 0));
    R(recv(p.client, b, 16, 0));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    R(getpeername(p.client, (struct sockaddr *)&a, &len));
    R(getsockname(p.client, (struct sockaddr *)&a, &len));
}

static void so_error_after_reset(void)
{
    struct pair p = warm_pair();
    R(send(p.client, "unread", 6, 0));
    poll_mask(p.server, POLLIN, 1000);
    close(p.server);
    poll_mask(p.client, POLLIN, 1000);
    char b[4];
    for (int i = 0; i < 2; i++) {
        int error = -1;
        socklen_t len = sizeof error;
        R(getsockopt(p.client, SOL_SOCKET, SO_ERROR, &error, &len));
        trace("%s", errno_name(error));
    }
    R(recv(p.client, b, 4, 0));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
}

static void broken_pipe(void)
{
    signal(SIGPIPE, on_pipe);
    struct pair p = warm_pair();
    char b[4];
    close(p.server);
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 1000)));
    R(recv(p.client, b, 4, 0));
    R(send(p.client, "x", 1, 0));
    sleep_ms(50);
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 1000)));
    R(send(p.client, "x", 1, MSG_NOSIGNAL));
    trace("signals %d", pipes);
    R(send(p.client, "x", 1, 0));
    trace("signals %d", pipes);
    R(write(p.client, "x", 1));
    struct iovec v = {"x", 1};
    R(writev(p.client, &v, 1));
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    R(sendmsg(p.client, &m, MSG_NOSIGNAL));
    trace("signals %d", pipes);
    R(recv(p.client, b, 4, 0));
    R(send(p.client, "", 0, MSG_NOSIGNAL));
}

static void own_shutdown_pipe(void)
{
    signal(SIGPIPE, on_pipe);
    struct pair p = warm_pair();
    R(shutdown(p.client, SHUT_WR));
    R(write(p.client, "x", 1));
    trace("signals %d", pipes);
    R(send(p.client, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT));
    trace("signals %d", pipes);
}

static void dies_of_sigpipe(void *arg)
{
    int c = connect_to(*(int *)arg);
    char b[4];
    warm_client(c);
    while (recv(c, b, 4, 0) > 0)
        ;
    for (int i = 0; i < 100; i++) {
        if (write(c, "x", 1) < 0)
            trace("no signal");
        sleep_ms(1);
    }
}

static void default_sigpipe(void)
{
    int l = listener(1);
    pid_t pid = spawn_child('B', dies_of_sigpipe, &l);
    int s = MUST(accept(l, NULL, NULL));
    warm_server(s);
    close(s);
    join_child(pid);
}

/* The writer is gone at once; all that it wrote arrives. */
static void write_and_exit(void *arg)
{
    int c = connect_to(*(int *)arg);
    fill(big, sizeof big, 6, 0);
    warm_client(c);
    for (int i = 0; i < 100; i++)
        send_all(c, big + i * 1000, 1000);
}

static void data_survives_exit(void)
{
    int l = listener(1);
    pid_t pid = spawn_child('B', write_and_exit, &l);
    int s = MUST(accept(l, NULL, NULL));
    warm_server(s);
    join_child(pid);
    drain_traced(s);
}

static void linger_zero(void)
{
    struct pair p = warm_pair();
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    char b[16];
    R(setsockopt(p.server, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    close(p.server);
    trace("%s", mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 1000)));
    R(recv(p.client, b, 16, 0));
    struct pair q = warm_pair();
    l.l_linger = 5;
    R(setsockopt(q.server, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    R(send(q.server, "bytes", 5, 0));
    R(close(q.server));
    R(recv(q.client, b, 16, 0));
    R(recv(q.client, b, 16, 0));
}

/* One of two descriptors is closed: nothing happens to the connection. */
static void duplicates(void)
{
    struct pair p = warm_pair();
    char b[16];
    int d = MUST(dup(p.client)), e = MUST(fcntl(p.client, F_DUPFD_CLOEXEC, 40));
    R(close(p.client));
    R(send(d, "one", 3, 0));
    R(recv(p.server, b, 16, 0));
    R(close(d));
    R(send(e, "two", 3, 0));
    R(recv(p.server, b, 16, 0));
    R(send(p.server, "answer", 6, 0));
    R(recv(e, b, 16, 0));
    nonblocking(e, 1);
    int f = MUST(dup3(e, 41, O_CLOEXEC));
    R(recv(f, b, 16, 0));
    R(dup3(e, e, 0));
    R(dup2(e, e));
    R(close(e));
    trace("%s", mask_name(poll_mask(p.server, POLLIN | POLLOUT, 20)));
    R(close(f));
    R(recv(p.server, b, 16, 0));
    R(close(f));
    R(send(e, "x", 1, 0));
}

/* dup2 over a connected descriptor closes the connection. */
static void dup2_over(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    char b[16];
    R(send(p.client, "last", 4, 0));
    trace("%d", dup2(q.client, p.client) == p.client);
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, 0));
    R(send(p.client, "other", 5, 0));
    R(recv(q.server, b, 16, 0));
    int null = MUST(open("/dev/null", O_RDWR));
    trace("%d", dup2(null, q.server) == q.server);
    R(write(q.server, "x", 1));
    trace("%s", mask_name(poll_mask(q.client, POLLIN | POLLRDHUP, 1000)));
    R(recv(q.client, b, 16, 0));
}

static void close_range_all(void)
{
    struct pair p = warm_pair();
    int keep = MUST(dup2(p.client, 100));
    char b[16];
    R(close_range(3, 99, 0));
    R(recv(p.client, b, 1, MSG_DONTWAIT));
    R(send(keep, "x", 1, MSG_NOSIGNAL));
    sleep_ms(20);
    R(recv(keep, b, 16, 0));
    R(close_range(3, ~0u, 0));
    R(send(keep, "x", 1, MSG_NOSIGNAL));
    struct pair q = warm_pair();
    R(send(q.client, "fresh", 5, 0));
    R(recv(q.server, b, 16, 0));
    closefrom(3);
    R(recv(q.server, b, 16, 0));
    struct pair r = warm_pair();
    trace("%d %d %d", r.listener, r.client, r.server);
}

/* Both ends close at the same time. */
static void close_both(void)
{
    int good = 0;
    for (int i = 0; i < 50; i++) {
        struct pair p = connected();
        if (i % 5 == 0)
            warm(p.client, p.server);
        MUST(shutdown(p.client, SHUT_WR));
        MUST(shutdown(p.server, SHUT_WR));
        char b[4];
        good += recv(p.client, b, 4, 0) == 0 && recv(p.server, b, 4, 0) == 0;
        close_pair(&p);
    }
    trace("%d good", good);
}

/* A few bytes, and a close with others unread: the peer has them before the reset, wherever the handshake
 * is. Nagle's rule is on: nothing of the program's is on its way that they would have to wait for. */
static void few_bytes_before_reset(void)
{
    int good = 0, off = 0;
    char b[64];
    for (int i = 0; i < 300; i++) {
        struct pair p = connected();
        MUST(setsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off));
        MUST(setsockopt(p.server, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off));
        for (int k = 0; k <= i % 30; k++) {
            send_all(p.client, b, 64);
            recv_all(p.server, b, 64);
            send_all(p.server, b, 64);
            recv_all(p.client, b, 32);
            recv_all(p.client, b, 32);
        }
        send_all(p.client, b, 16);
        recv_all(p.server, b, 16);
        send_all(p.server, b, 64);
        recv_all(p.client, b, 32);
        send_all(p.client, "alert", 5);
        close(p.client);
        good += recv(p.server, b, 64, MSG_DONTWAIT) == 5 && memcmp(b, "alert", 5) == 0;
        close(p.server);
        close(p.listener);
    }
    trace("%d good", good);
}

static void *read_once(void *fd)
{
    char b[64];
    R(recv(*(int *)fd, b, sizeof b, 0));
    return NULL;
}

static int many, go[2];

/* A receive, or a poll of so many descriptors. */
static void *late_one(void *fd)
{
    actor('B');
    if (many == 0)
        return read_once(fd);
    struct pollfd list[100] = {{*(int *)fd, POLLIN, 0}};
    for (int i = 1; i < many; i++)
        list[i] = (struct pollfd){go[0], POLLIN, 0};
    R(poll(list, many, -1) > 0);
    return NULL;
}

static void *read_much(void *fd)
{
    static char got[20000];
    actor('C');
    recv_all(*(int *)fd, got, sizeof got);
    trace("%d", hash(HASH_START, got, sizeof got) == hash_of_stream(6, sizeof got));
    return NULL;
}

/* A call is under way on a connection that another thread closes, and ends when a later connection has come in
 * its place: with another thread's call under way there, which is not over. `known`: by a duplicate; `between`:
 * descriptors that had the number between the two; `polled`: in a poll of so many. */
static void late_call(int known, int between, int polled)
{
    many = polled;
    MUST(pipe(go));
    struct pair old = connected();
    int l = listener(8), number = old.server;
    if (known)
        MUST(close(MUST(dup(old.server))));
    pthread_t late = spawn_asleep(late_one, &number);
    MUST(close(old.server));
    for (int i = 0; i < between; i++)
        MUST(close(tcp_socket()));
    struct pair p = {.listener = l, .client = connect_to(l)};
    p.server = MUST(accept(l, NULL, NULL));
    trace("same number: %d", p.client == number);
    if (known)
        MUST(close(MUST(dup(p.client))));
    pthread_t reader = spawn_asleep(read_much, &p.client);
    MUST(close(old.client));
    MUST(write(go[1], "", 1));
    join_thread(late);
    for (int i = 0; i < 64; i++) {
        send_all(p.client, big, 3000);
        recv_all(p.server, big, 3000);
        sleep_ms(1);
    }
    fill(big, 20000, 6, 0);
    for (int i = 0; i < 20; i++) {
        send_all(p.server, big + i * 1000, 1000);
        sleep_ms(1);
    }
    join_thread(reader);
    close_pair(&p);
    close(old.listener);
    close(go[0]);
    close(go[1]);
}

static void late_calls(void)
{
    for (int known = 0; known < 2; known++) {
        late_call(known, 0, 0);
        late_call(known, 31, 0);
    }
}

static void late_polls(void)
{
    for (int known = 0; known < 2; known++)
        for (int polled = 2; polled <= 100; polled += 98)
            late_call(known, 0, polled);
}

MAIN({"few_bytes_before_reset", few_bytes_before_reset}, {"queue_1mb_and_close", queue_1mb_and_close}, {"half_close", half_close},
     {"shutdown_read", shutdown_read}, {"shut_for_reading", shut_for_reading},
     {"unread_data", unread_data},
     {"so_error_after_reset", so_error_after_reset}, {"broken_pipe", broken_pipe},
     {"own_shutdown_pipe", own_shutdown_pipe}, {"default_sigpipe", default_sigpipe},
     {"data_survives_exit", data_survives_exit}, {"linger_zero", linger_zero},
     {"duplicates", duplicates}, {"dup2_over", dup2_over}, {"close_range_all", close_range_all},
     {"close_both", close_both}, {"late_calls", late_calls}, {"late_polls", late_polls})
