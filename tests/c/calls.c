/* Calls at the edge of what waits, and of what is said of messages. */
#include "sets.h"
#include <sys/select.h>
#include <sys/sendfile.h>

static volatile sig_atomic_t signals;
static char big[1 << 20];

static void count_signal(int s)
{
    (void)s;
    signals++;
}

static void handle(int flags)
{
    struct sigaction a = {.sa_handler = count_signal, .sa_flags = flags};
    MUST(sigaction(SIGUSR1, &a, NULL));
}

static void signal_once_asleep(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    wait_asleep(getpid());
    kill(getpid(), SIGUSR1);
    sleep_ms(80);
}

static void *signal_then_drain(void *arg)
{
    int fd = *(int *)arg;
    static char block[1 << 16];
    signal_once_asleep();
    for (int quiet = 0; quiet < 3;)
        if (recv(fd, block, sizeof block, MSG_DONTWAIT) <= 0)
            quiet += poll_mask(fd, POLLIN, 30) == 0;
    return NULL;
}

static void send_somehow(int call, int fd, int file, int pipe_end)
{
    off_t at = 0;
    struct iovec v = {"hello", 5};
    struct mmsghdr m[2] = {{{.msg_iov = &v, .msg_iovlen = 1}, 0}, {{.msg_iov = &v, .msg_iovlen = 1}, 0}};
    struct pollfd f = {fd, POLLOUT, 0};
    fd_set w;
    FD_ZERO(&w);
    FD_SET(fd, &w);
    switch (call) {
    case 0: R(write(fd, "hello", 5)); break;
    case 1: R(writev(fd, &v, 1)); break;
    case 2: R(send(fd, "hello", 5, 0)); break;
    case 3: R(sendmsg(fd, &m[0].msg_hdr, 0)); break;
    case 4: R(sendmmsg(fd, m, 2, 0)); break;
    case 5:
        R(sendfile(fd, file, &at, 5));
        trace("at %ld", (long)at);
        break;
    case 6: R(splice(pipe_end, NULL, fd, NULL, 5, 0)); break;
    case 7: R(poll(&f, 1, -1)); break;
    case 8: R(pselect(fd + 1, NULL, &w, NULL, NULL, NULL)); break;
    }
}

/* Each call that waits for room, interrupted: without SA_RESTART, with it, and with a time limit. */
static void sends_interrupted(void)
{
    for (int mode = 0; mode < 3; mode++) {
        handle(mode ? SA_RESTART : 0);
        for (int call = 0; call < 9; call++) {
            struct pair p = warm_pair();
            int file = MUST(memfd_create("file", 0)), ends[2];
            MUST(write(file, "hello", 5));
            MUST(pipe(ends));
            MUST(write(ends[1], "hello", 5));
            if (mode == 2)
                set_timeout(p.client, SO_SNDTIMEO, 10000);
            fill_up(p.client);
            pthread_t t = spawn_thread(signal_then_drain, &p.server);
            send_somehow(call, p.client, file, ends[0]);
            join_thread(t);
            close_pair(&p);
            close(file);
            close(ends[0]);
            close(ends[1]);
        }
    }
    trace("signals %d", signals);
}

static void *signal_then_send(void *arg)
{
    signal_once_asleep();
    send_all(*(int *)arg, "late", 4);
    return NULL;
}

static void receive_somehow(int call, int fd, int ep, int pipe_end)
{
    char b[16];
    struct iovec v[2] = {{b, 2}, {b + 2, 14}};
    struct msghdr one = {.msg_iov = v, .msg_iovlen = 1};
    struct mmsghdr m[3] = {{one, 0}, {one, 0}, {one, 0}};
    struct timespec left = {10, 0};
    struct epoll_event e;
    sigset_t none;
    fd_set r;
    sigemptyset(&none);
    FD_ZERO(&r);
    FD_SET(fd, &r);
    switch (call) {
    case 0: R(recvmmsg(fd, m, 3, 0, NULL)); break;
    case 1: R(recvmmsg(fd, m, 3, MSG_WAITALL, &left)); break;
    case 2: R(pselect(fd + 1, &r, NULL, NULL, &left, &none)); break;
    case 3: R(epoll_pwait(ep, &e, 1, -1, &none)); break;
    case 4: R(epoll_pwait2(ep, &e, 1, &left, &none)); break;
    case 5: R(preadv2(fd, v, 2, -1, 0)); break;
    case 6: R(splice(fd, NULL, pipe_end, NULL, 100, SPLICE_F_MORE)); break;
    case 7: R(recv(fd, b, 4, MSG_PEEK | MSG_WAITALL)); break;
    }
    if (call < 2)
        trace("%u %u", m[0].msg_len, m[1].msg_len);
}

/* The receiving calls and waits that `hc_102_every_call` leaves out; some have taken messages before. */
static void receives_interrupted(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), ends[2];
    char b[16];
    add(ep, p.server, EPOLLIN, 1);
    MUST(pipe(ends));
    for (int restart = 0; restart < 2; restart++) {
        handle(restart ? SA_RESTART : 0);
        for (int call = 0; call < 8; call++) {
            if (call < 2)
                send_all(p.client, "abc", 3);
            pthread_t t = spawn_thread(signal_then_send, &p.client);
            receive_somehow(call, p.server, ep, ends[1]);
            join_thread(t);
            R(getsockopt(p.server, SOL_SOCKET, SO_ERROR, b, &(socklen_t){4}));
            while (recv(p.server, b, 16, MSG_DONTWAIT) > 0)
                ;
        }
    }
    trace("signals %d", signals);
}

static void *three_sends(void *arg)
{
    int fd = *(int *)arg;
    actor('B');
    R(send(fd, big, 5, 0));
    R(send(fd, big, 5, 0));
    R(send(fd, big, 5, MSG_NOSIGNAL));
    return NULL;
}

/* What wakes a send that waits for room, and what the next ones say. */
static void senders_woken(void)
{
    signal(SIGPIPE, count_signal);
    for (int how = 0; how < 6; how++) {
        struct pair p = warm_pair();
        struct linger none = {1, 0};
        struct sockaddr nobody = {.sa_family = AF_UNSPEC};
        char b[4];
        fill_up(p.client);
        pthread_t t = spawn_asleep(three_sends, &p.client);
        switch (how) {
        case 0: R(shutdown(p.client, SHUT_WR)); break;
        case 1: R(shutdown(p.client, SHUT_RDWR)); break;
        case 3: MUST(setsockopt(p.server, SOL_SOCKET, SO_LINGER, &none, sizeof none)); /* fall through */
        case 2:
            R(close(p.server));
            p.server = -1;
            break;
        case 4: R(connect(p.client, &nobody, sizeof nobody)); break;
        case 5:
            R(shutdown(p.client, SHUT_RD));
            sleep_ms(30);
            R(shutdown(p.client, SHUT_WR));
        }
        join_thread(t);
        trace("signals %d, %s", signals, mask_name(poll_mask(p.client, POLLIN | POLLOUT | POLLRDHUP, 0)));
        R(recv(p.client, b, 4, MSG_DONTWAIT));
        R(recv(p.client, b, 4, MSG_DONTWAIT));
        close_pair(&p);
    }
}

/* A limit of time that is over before it begins: the kernel reads it back as none. */
static void times_below_zero(void)
{
    struct pair p = warm_pair();
    char b[16];
    int ends[2];
    struct timeval past = {-1, 0}, back = {7, 7}, none = {};
    struct iovec v = {b, 2};
    struct mmsghdr m[2] = {{{.msg_iov = &v, .msg_iovlen = 1}, 0}, {{.msg_iov = &v, .msg_iovlen = 1}, 0}};
    MUST(pipe(ends));
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVTIMEO, &past, sizeof past));
    R(getsockopt(p.server, SOL_SOCKET, SO_RCVTIMEO, &back, &(socklen_t){sizeof back}));
    trace("%ld %ld, flags %x", (long)back.tv_sec, (long)back.tv_usec, fcntl(p.server, F_GETFL));
    R(recv(p.server, b, 16, 0));
    R(read(p.server, b, 16));
    R(recv(p.server, b, 0, 0));
    R(splice(p.server, NULL, ends[1], NULL, 10, 0));
    send_all(p.client, "abc", 3);
    poll_mask(p.server, POLLIN, 1000);
    R(recv(p.server, b, 5, MSG_PEEK | MSG_WAITALL));
    R(recvmmsg(p.server, m, 2, 0, NULL));
    R(recv(p.server, b, 5, MSG_WAITALL));
    trace("%s", mask_name(poll_mask(p.server, POLLIN, 20)));
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none));
    pthread_t t = spawn_thread(signal_then_send, &p.client);
    handle(SA_RESTART);
    R(recv(p.server, b, 16, 0));
    join_thread(t);
    fill_up(p.client);
    R(setsockopt(p.client, SOL_SOCKET, SO_SNDTIMEO, &past, sizeof past));
    R(send(p.client, b, 1, 0));
    R(write(p.client, b, 16));
    past = (struct timeval){0, 1};
    R(setsockopt(p.client, SOL_SOCKET, SO_SNDTIMEO, &past, sizeof past));
    R(send(p.client, b, 1, 0));
    /* Refused, and changes nothing. */
    past.tv_usec = -1;
    R(setsockopt(p.client, SOL_SOCKET, SO_SNDTIMEO, &past, sizeof past));
    R(send(p.client, b, 1, 0));
}

/* The same, of a listener: its connections have it, but not those that it gets after it was taken back. */
static void times_below_zero_inherited(void)
{
    struct timeval past = {-1, 0}, none = {};
    int l = listener(4);
    char b[16];
    for (int how = 0; how < 3; how++) {
        MUST(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, how < 2 ? &past : &none, sizeof past));
        struct pair p = {connect_to(l), -1, -1};
        p.server = MUST(how == 1 ? accept4(l, NULL, NULL, SOCK_CLOEXEC) : accept(l, NULL, NULL));
        MUST(setsockopt(p.server, IPPROTO_TCP, TCP_NODELAY, &(int){1}, 4));
        /* As warm(), with a server that does not wait in its receives. */
        for (int i = 0; i < warm_rounds(); i++) {
            send_all(p.client, b, 16);
            MUST(poll_mask(p.server, POLLIN, -1) & POLLIN ? 0 : -1);
            recv_all(p.server, b, 16);
            send_all(p.server, b, 16);
            recv_all(p.client, b, 16);
            sleep_ms(1);
        }
        if (how == 2)
            set_timeout(p.server, SO_RCVTIMEO, 20);
        R(recv(p.server, b, 16, 0));
        send_all(p.client, "abc", 3);
        poll_mask(p.server, POLLIN, 1000);
        R(recv(p.server, b, 16, 0));
        R(recv(p.server, b, 16, 0));
        close_pair(&p);
    }
    close(l);
}

/* Names that a stream does not need, buffers that are not written to, a flag that is the kernel's. */
static void headers(void)
{
    struct pair p = warm_pair();
    char b[64] = "", *const bad = (char *)16;
    const int compat = INT32_MIN;
    struct sockaddr_in a;
    struct iovec v = {b, 4};
    struct msghdr m = {.msg_name = &a, .msg_namelen = -1, .msg_iov = &v, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    send_all(p.client, "0123456789", 10);
    poll_mask(p.server, POLLIN, 1000);
    R(recvmsg(p.server, &m, 0));
    R(recvmmsg(p.server, &mm, 1, 0, NULL));
    R(sendmsg(p.client, &m, 0));
    R(sendmmsg(p.client, &mm, 1, 0));
    m.msg_namelen = 1000;
    R(sendmsg(p.client, &m, 0));
    m.msg_name = bad;
    R(sendmsg(p.client, &m, 0));
    R(recvmsg(p.server, &m, 0));
    trace("name of %u", m.msg_namelen);
    R(sendmsg(p.client, &m, 0));
    m.msg_name = NULL;
    m.msg_namelen = -1;
    R(sendmsg(p.client, &m, 0));
    R(recvmsg(p.server, &m, compat));
    R(sendmsg(p.client, &m, compat));
    mm.msg_hdr = m;
    R(recvmmsg(p.server, &mm, 1, compat, NULL));
    R(sendmmsg(p.client, &mm, 1, compat));
    R(send(p.client, b, 1, compat));
    sleep_ms(20);
    R(recv(p.server, b, 2, compat));
    struct iovec nowhere[] = {{NULL, 1}, {bad, 2}};
    m = (struct msghdr){.msg_iov = nowhere, .msg_iovlen = 2};
    R(recvmsg(p.server, &m, 0));
    R(recvmsg(p.server, &m, MSG_TRUNC));
    R(recv(p.server, (void *)-8, 4, MSG_TRUNC));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
}

/* The wrong end of a pipe, and bits that splice does not know. */
static void splice_refused(void)
{
    struct pair p = warm_pair();
    int ends[2];
    char b[8];
    MUST(pipe(ends));
    for (unsigned flags = 0; flags <= SPLICE_F_NONBLOCK; flags += SPLICE_F_NONBLOCK) {
        R(splice(p.server, NULL, ends[0], NULL, 5, flags));
        R(splice(ends[1], NULL, p.client, NULL, 5, flags));
        send_all(p.client, "hello", 5);
        poll_mask(p.server, POLLIN, 1000);
        R(splice(p.server, NULL, ends[0], NULL, 5, flags));
        R(splice(p.server, NULL, ends[1], NULL, 5, flags | 0x100));
        MUST(write(ends[1], "piped", 5));
        R(splice(ends[1], NULL, p.client, NULL, 5, flags));
        R(splice(ends[0], NULL, p.client, NULL, 5, flags | 0x100));
        R(read(ends[0], b, 8));
        R(recv(p.server, b, 8, 0));
    }
}

static int polled_set;

static void *polls(void *arg)
{
    actor('B');
    trace("%s", mask_name(poll_mask(*(int *)arg, POLLIN, 1000)));
    return NULL;
}

static void *selects(void *arg)
{
    int fd = *(int *)arg;
    struct timeval t = {1, 0};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(fd, &r);
    actor('B');
    R(select(fd + 1, &r, NULL, NULL, &t));
    return NULL;
}

static void *waits(void *arg)
{
    (void)arg;
    actor('B');
    show(polled_set, 1000);
    return NULL;
}

/* dup2 over a connection that another thread polls, or a close, perhaps with a duplicate left: then comes
 * something for the old connection, or for the new one of that number. */
static void replaced_while_polled(void)
{
    void *(*const ways[])(void *) = {polls, selects, waits};
    for (int way = 0; way < 3; way++) {
        for (int how = 0; how < 6; how++) {
            struct pair p = warm_pair(), q = warm_pair();
            int number = p.server, kept = how >= 4 ? MUST(dup(number)) : -1;
            char b[8];
            polled_set = MUST(epoll_create1(0));
            add(polled_set, number, EPOLLIN, how);
            pthread_t t = spawn_asleep(ways[way], &number);
            if (how % 2)
                close(number);
            else
                MUST(dup2(q.server, number));
            send_all(how == 2 || how == 3 ? q.client : p.client, "some", 4);
            join_thread(t);
            R(recv(q.server, b, 8, MSG_DONTWAIT));
            R(recv(kept, b, 8, MSG_DONTWAIT));
            close(kept);
            close_pair(&p);
            close_pair(&q);
            close(polled_set);
        }
    }
}

MAIN({"sends_interrupted", sends_interrupted}, {"receives_interrupted", receives_interrupted},
     {"senders_woken", senders_woken}, {"times_below_zero", times_below_zero},
     {"times_below_zero_inherited", times_below_zero_inherited}, {"headers", headers},
     {"splice_refused", splice_refused}, {"replaced_while_polled", replaced_while_polled})
