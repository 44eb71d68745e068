/* Hard cases of epoll, poll and select. */
#include "sets.h"
#include <limits.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <time.h>

/* Edges: one for each arrival, whether or not the last was read; MOD arms again; full masks. */
static void hc_065_epollet(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[64];
    add(ep, p.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET, 1);
    show(ep, 0);
    for (int i = 0; i < 5; i++) {
        send_all(p.client, "unread", 6);
        show(ep, 1000);
        show(ep, 5);
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u32 = 2};
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    show(ep, 0);
    show(ep, 0);
    R(recv(p.server, b, 10, 0));
    show(ep, 5);
    send_all(p.client, "more", 4);
    show(ep, 1000);
    R(recv(p.server, b, 64, 0));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    show(ep, 5);
    send_all(p.client, "again", 5);
    show(ep, 1000);
    /* Own writes are no edge of one's own input. */
    send_all(p.server, "out", 3);
    show(ep, 5);
    R(recv(p.client, b, 64, 0));
    e.events = EPOLLIN | EPOLLOUT | EPOLLET;
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    show(ep, 0);
    R(shutdown(p.client, SHUT_WR));
    show(ep, 1000);
    show(ep, 5);
    R(shutdown(p.server, SHUT_WR));
    show(ep, 1000);
    show(ep, 5);
}

static int once_set, once_count;

static void *take_once(void *arg)
{
    struct epoll_event e;
    (void)arg;
    while (epoll_wait(once_set, &e, 1, 200) == 1)
        __atomic_fetch_add(&once_count, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Three threads wait; each arming gives exactly one event to exactly one of them. */
static void hc_066_oneshot_threads(void)
{
    struct pair p = warm_pair();
    once_set = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
    MUST(epoll_ctl(once_set, EPOLL_CTL_ADD, p.server, &e));
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        t[i] = spawn_thread(take_once, NULL);
    for (int i = 0; i < 20; i++) {
        send_all(p.client, "x", 1);
        for (int k = 0; k < 1000 && __atomic_load_n(&once_count, __ATOMIC_RELAXED) <= i; k++)
            sleep_ms(1);
        send_all(p.client, "y", 1);
        MUST(epoll_ctl(once_set, EPOLL_CTL_MOD, p.server, &e));
        if (i == 9)
            trace("%d", once_count >= 10);
    }
    for (int i = 0; i < 3; i++)
        join_thread(t[i]);
    /* 20 armings after the first; bytes were there each time. */
    trace("%d events", once_count);
}

/* HUP, ERR and RDHUP, asked for and not. */
static void hc_067_unasked(void)
{
    for (int how = 0; how < 4; how++) {
        struct pair p = warm_pair();
        int ep = MUST(epoll_create1(0)), et = MUST(epoll_create1(0));
        add(ep, p.server, how & 1 ? EPOLLRDHUP : 0, 1);
        add(et, p.server, (how & 1 ? EPOLLRDHUP : 0) | EPOLLET, 2);
        show(ep, 5);
        show(et, 5);
        if (how & 2) {
            struct linger reset = {1, 0};
            MUST(setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
            close(p.client);
        } else {
            MUST(shutdown(p.client, SHUT_WR));
            show(ep, how & 1 ? 1000 : 20);
            MUST(shutdown(p.server, SHUT_WR));
        }
        show(ep, 1000);
        show(et, 1000);
        show(et, 5);
        show(ep, 0);
        close(p.server);
        show(ep, 5);
    }
}

/* A set in a set in poll, in select and in a set. */
static void hc_070_nested(void)
{
    struct pair p = warm_pair();
    int inner = MUST(epoll_create1(0)), middle = MUST(epoll_create1(0)),
        outer = MUST(epoll_create1(0));
    char b[8];
    add(outer, middle, EPOLLIN | EPOLLET, 3);
    add(middle, inner, EPOLLIN, 2);
    add(inner, p.server, EPOLLIN, 1);
    struct epoll_event loop = {.events = EPOLLIN};
    R(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &loop));
    for (int i = 0; i < 4; i++) {
        show(outer, 5);
        send_all(p.client, "ab", 2);
        show(outer, 1000);
        show(outer, 5);
        show(middle, 0);
        fd_set r;
        FD_ZERO(&r);
        FD_SET(outer, &r);
        FD_SET(middle, &r);
        struct timeval t = {.tv_usec = 20000};
        R(select(outer + middle + 1, &r, NULL, NULL, &t));
        trace("%d", !!FD_ISSET(middle, &r));
        show(inner, 0);
        R(recv(p.server, b, 8, 0));
        trace("%s", mask_name(poll_mask(middle, POLLIN, 5)));
        if (i == 1)
            warm(p.client, p.server);
        if (i == 2) {
            MUST(epoll_ctl(middle, EPOLL_CTL_DEL, inner, NULL));
            add(middle, inner, EPOLLIN | EPOLLONESHOT, 4);
        }
    }
}

static void pass_on(int over, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = "", byte = 'f';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    MUST(sendmsg(over, &m, 0));
}

static void take_set(void *arg)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    int ep;
    MUST(recvmsg(*(int *)arg, &m, 0));
    memcpy(&ep, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof ep);
    show(ep, 5000);
    show(ep, 0);
}

/* A set under two numbers, and in another process that gets it by SCM_RIGHTS. */
static void hc_071_set_travels(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), d = MUST(dup(ep)), way[2];
    char b[8];
    add(ep, p.server, EPOLLIN, 1);
    send_all(p.client, "x", 1);
    show(d, 1000);
    R(close(ep));
    show(d, 1000);
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = 4};
    R(epoll_ctl(d, EPOLL_CTL_MOD, p.server, &e));
    show(d, 1000);
    e.events = EPOLLIN;
    R(epoll_ctl(d, EPOLL_CTL_MOD, p.server, &e));
    R(recv(p.server, b, 8, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, way));
    pid_t pid = spawn_child('B', take_set, way);
    pass_on(way[1], d);
    sleep_ms(30);
    send_all(p.client, "y", 1);
    join_child(pid);
    show(d, 1000);
    R(recv(p.server, b, 8, 0));
    show(d, 5);
}

/* close without DEL, the number used again: no event of the old, no EEXIST for the new. */
static void hc_072_number_again(void)
{
    int ep = MUST(epoll_create1(0));
    for (int i = 0; i < 10; i++) {
        struct pair p = i % 2 ? warm_pair() : connected();
        add(ep, p.server, EPOLLIN | (i % 3 ? 0 : EPOLLET), i);
        send_all(p.client, "x", 1);
        poll_mask(p.server, POLLIN, 1000);
        if (i % 4 == 3)
            show(ep, 1000);
        int number = p.server;
        close(p.server);
        struct pair q = connected();
        MUST(dup2(q.server, number));
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = 40 + i};
        R(epoll_ctl(ep, EPOLL_CTL_ADD, number, &e));
        show(ep, 5);
        send_all(q.client, "y", 1);
        show(ep, 1000);
        R(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
        close(number);
        close_pair(&q);
        close(p.client);
        close(p.listener);
    }
}

struct control {
    int ep, fd, other;
};

static void *change_later(void *arg)
{
    struct control *c = arg;
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 5};
    wait_asleep(getpid());
    /* Re-armed with bytes there already: the sleeper must wake. */
    MUST(epoll_ctl(c->ep, EPOLL_CTL_MOD, c->fd, &e));
    sleep_ms(60);
    MUST(epoll_ctl(c->ep, EPOLL_CTL_DEL, c->fd, NULL));
    send_all(c->other, "z", 1);
    return NULL;
}

static void hc_073_changed_while_waiting(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[8];
    add(ep, p.server, 0, 1);
    send_all(p.client, "x", 1);
    struct control c = {ep, p.server, p.client};
    pthread_t t = spawn_thread(change_later, &c);
    show(ep, 5000);
    R(recv(p.server, b, 8, 0));
    show(ep, 200);
    join_thread(t);
    R(recv(p.server, b, 8, 0));
}

static volatile sig_atomic_t signals;

static void on_signal(int s)
{
    (void)s;
    signals++;
}

static long since(const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

/* Many descriptors, the mask of signals, limits of the arguments. */
static void hc_074_poll_and_select(void)
{
    struct pair p = warm_pair();
    char b[8];
    struct rlimit files = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    /* Beyond FD_SETSIZE: poll works, select of a larger set too. */
    int far = MUST(fcntl(p.server, F_DUPFD, 1500));
    static struct pollfd many[1200];
    for (int i = 0; i < 1200; i++)
        many[i] = (struct pollfd){i % 3 ? -i : far, POLLIN, 77};
    R(poll(many, 1200, 0));
    send_all(p.client, "x", 1);
    poll_mask(p.server, POLLIN, 1000);
    R(poll(many, 1200, 1000));
    trace("%d %d", many[0].revents, many[1].revents);
    unsigned long sets[4096 / 64] = {0};
    sets[far / 64] |= 1ul << far % 64;
    struct timeval t = {1, 0};
    R(select(far + 1, (fd_set *)sets, NULL, NULL, &t));
    trace("%d, time left: %d", !!(sets[far / 64] & 1ul << far % 64), t.tv_sec == 0 && t.tv_usec > 0);
    R(recv(p.server, b, 8, 0));
    R(poll(many, -1, 0));
    R(poll(many, 100000, 0));
    struct timespec bad = {0, 2000000000};
    R(ppoll(many, 1, &bad, NULL));
    t = (struct timeval){-1, 0};
    R(select(0, NULL, NULL, NULL, &t));
    t = (struct timeval){0, 5000};
    R(select(0, NULL, NULL, NULL, &t));
    /* A blocked signal that is pending is let in by the mask of the call, and only by it. */
    sigset_t block, none;
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    MUST(sigaction(SIGUSR1, &a, NULL));
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    int ep = MUST(epoll_create1(0));
    add(ep, p.server, EPOLLIN, 1);
    struct pollfd one = {p.server, POLLIN, 0};
    struct epoll_event e;
    struct timespec second = {1, 0};
    for (int i = 0; i < 4; i++) {
        raise(SIGUSR1);
        fd_set r;
        FD_ZERO(&r);
        FD_SET(p.server, &r);
        if (i == 0)
            R(ppoll(&one, 1, &second, &none));
        if (i == 1)
            R(pselect(p.server + 1, &r, NULL, NULL, &second, &none));
        if (i == 2)
            R(epoll_pwait(ep, &e, 1, 1000, &none));
        if (i == 3)
            R(epoll_pwait2(ep, &e, 1, &second, &none));
        trace("signals %d", signals);
    }
    raise(SIGUSR1);
    R(ppoll(&one, 1, &(struct timespec){0, 5000000}, &block));
    R(poll(&one, 1, 5));
    trace("signals %d", signals);
    /* With something to read, the call says so and the signal stays. */
    send_all(p.client, "x", 1);
    poll_mask(p.server, POLLIN, 1000);
    R(ppoll(&one, 1, &second, NULL));
    trace("signals %d", signals);
}

/* A wait never ends early, and ends. */
static void hc_076_timeouts(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), early = 0;
    add(ep, p.server, EPOLLIN, 1);
    struct epoll_event e;
    for (int ms = 1; ms < 60; ms += 7) {
        struct timespec start;
        struct pollfd one = {p.server, POLLIN, 0};
        struct timespec ns = {0, ms * 1000000 - 1};
        clock_gettime(CLOCK_MONOTONIC, &start);
        MUST(epoll_wait(ep, &e, 1, ms));
        early += since(&start) < ms;
        clock_gettime(CLOCK_MONOTONIC, &start);
        MUST(poll(&one, 1, ms));
        early += since(&start) < ms;
        clock_gettime(CLOCK_MONOTONIC, &start);
        MUST(epoll_pwait2(ep, &e, 1, &ns, NULL));
        early += since(&start) < ms - 1;
        clock_gettime(CLOCK_MONOTONIC, &start);
        MUST(ppoll(&one, 1, &ns, NULL));
        early += since(&start) < ms - 1;
    }
    trace("early: %d", early);
    send_all(p.client, "x", 1);
    R(epoll_wait(ep, &e, 1, INT_MAX));
    struct pollfd one = {p.server, POLLIN, 0};
    R(poll(&one, 1, INT_MAX));
    struct timespec ages = {LONG_MAX, 999999999};
    R(epoll_pwait2(ep, &e, 1, &ages, NULL));
    R(ppoll(&one, 1, &ages, NULL));
    struct timespec bad = {0, -1};
    R(epoll_pwait2(ep, &e, 1, &bad, NULL));
}

static long cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *drain_after(void *arg)
{
    sleep_ms(400);
    char b[4096];
    while (recv(*(int *)arg, b, sizeof b, 0) > 0)
        ;
    return NULL;
}

/* Waiting for room in a full connection costs no processor time. */
static void hc_077_no_busy_loop(void)
{
    struct pair p = warm_pair();
    static char block[1 << 16];
    int ep = MUST(epoll_create1(0));
    nonblocking(p.client, 1);
    do
        while (send(p.client, block, sizeof block, 0) > 0)
            ;
    while (poll_mask(p.client, POLLOUT, 300));
    add(ep, p.client, EPOLLOUT, 1);
    pthread_t t = spawn_thread(drain_after, &p.server);
    long before = cpu_ms();
    show(ep, 5000);
    trace("idle: %d", cpu_ms() - before < 100);
    close(p.client);
    join_thread(t);
}

/* A thousand registered, ten active. */
static void hc_078_many_registered(void)
{
    enum { N = 1000 };
    static struct pair p[N];
    struct rlimit files = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    int l = listener(64), ep = MUST(epoll_create1(0)), good = 0;
    for (int i = 0; i < N; i++) {
        p[i].client = connect_to(l);
        p[i].server = MUST(accept(l, NULL, NULL));
        add(ep, p[i].server, EPOLLIN, i);
    }
    for (int round = 0; round < 100; round++) {
        for (int k = 0; k < 10; k++)
            send_all(p[k * 97].client, "request", 7);
        for (int answered = 0; answered < 10;) {
            struct epoll_event e[16];
            int n = MUST(epoll_wait(ep, e, 16, 1000));
            for (int i = 0; i < n; i++) {
                char b[8];
                int fd = p[e[i].data.u32].server;
                if (recv(fd, b, 8, MSG_DONTWAIT) == 7) {
                    answered++;
                    good += e[i].data.u32 % 97 == 0;
                    send_all(fd, "answer", 6);
                }
            }
        }
        for (int k = 0; k < 10; k++) {
            char b[8];
            recv_all(p[k * 97].client, b, 6);
        }
    }
    trace("%d good", good);
}

/* Bits that few ask for. */
static void hc_080_odd_bits(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), e2 = MUST(epoll_create1(0));
    char b[8];
    add(ep, p.server, EPOLLRDNORM | EPOLLWRNORM | EPOLLRDBAND | EPOLLWRBAND | EPOLLWAKEUP, 1);
    add(e2, p.server, EPOLLMSG | EPOLLPRI, 2);
    show(ep, 0);
    show(e2, 0);
    send_all(p.client, "x", 1);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 0);
    show(e2, 0);
    trace("%s", mask_name(poll_mask(p.server, POLLRDNORM, 0)));
    trace("%s", mask_name(poll_mask(p.server, POLLWRNORM, 0)));
    trace("%s", mask_name(poll_mask(p.server, POLLRDBAND | POLLWRBAND | POLLPRI, 0)));
    R(recv(p.server, b, 8, 0));
    show(ep, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT};
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    R(epoll_ctl(ep, 77, p.server, &e));
    R(epoll_ctl(ep, EPOLL_CTL_ADD, p.client, NULL));
    R(epoll_ctl(p.client, EPOLL_CTL_ADD, p.server, &e));
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.client, &e));
    R(epoll_ctl(ep, EPOLL_CTL_ADD, 999, &e));
    R(epoll_create(0));
    R(epoll_create1(77));
    R(epoll_wait(ep, (void *)16, 4, 0));
    R(epoll_pwait2(ep, &e, 1, (void *)16, NULL));
    R(epoll_wait(-1, &e, 1, 0));
}

MAIN({"hc_065_epollet", hc_065_epollet}, {"hc_066_oneshot_threads", hc_066_oneshot_threads},
     {"hc_067_unasked", hc_067_unasked}, {"hc_070_nested", hc_070_nested},
     {"hc_071_set_travels", hc_071_set_travels}, {"hc_072_number_again", hc_072_number_again},
     {"hc_073_changed_while_waiting", hc_073_changed_while_waiting},
     {"hc_074_poll_and_select", hc_074_poll_and_select}, {"hc_076_timeouts", hc_076_timeouts},
     {"hc_077_no_busy_loop", hc_077_no_busy_loop},
     {"hc_078_many_registered", hc_078_many_registered}, {"hc_080_odd_bits", hc_080_odd_bits})
