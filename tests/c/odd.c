/* Programs that do unusual things with their sockets. */
#include "common.h"
#include <sys/resource.h>
#include <sys/syscall.h>

static void exchange(struct pair *p, const char *text)
{
    char b[64] = "";
    R(send(p->client, text, strlen(text), 0));
    R(recv(p->server, b, sizeof b, 0));
    trace("%s", b);
}

/* The same numbers through syscall(). */
static void by_number(void)
{
    struct pair p = warm_pair();
    char b[64] = "";
    R(syscall(SYS_write, p.client, "written", 7));
    R(syscall(SYS_read, p.server, b, 64));
    R(syscall(SYS_sendto, p.server, "sent", 4, 0, NULL, 0));
    R(syscall(SYS_recvfrom, p.client, b, 64, 0, NULL, NULL));
    struct iovec v = {b, 4};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    R(syscall(SYS_sendmsg, p.client, &m, 0));
    R(syscall(SYS_recvmsg, p.server, &m, 0));
    R(syscall(SYS_writev, p.client, &v, 1));
    R(syscall(SYS_readv, p.server, &v, 1));
    R(syscall(SYS_read, -1, b, 1));
    exchange(&p, "hooked");
    int d = syscall(SYS_dup, p.client);
    R(syscall(SYS_close, p.client));
    R(send(d, "by the duplicate", 16, 0));
    R(recv(p.server, b, 64, 0));
    R(syscall(SYS_shutdown, d, SHUT_WR));
    R(recv(p.server, b, 64, 0));
}

#ifdef __x86_64__
static long raw(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}
#else
#define raw(number, a, b, c) syscall(number, a, b, c)
#endif

/* System calls that no library sees, as Go programs make them, from the start. */
static void past_the_library(void)
{
    struct pair p = connected();
    for (int i = 0; i < 3; i++) {
        char b[64] = "";
        R(raw(SYS_write, p.client, (long)"raw", 3));
        R(raw(SYS_read, p.server, (long)b, 64));
        trace("%s", b);
        warm(p.client, p.server);
    }
}

/* Only one end does so. */
static void one_end_past(void)
{
    struct pair p = connected();
    for (int i = 0; i < 300; i++) {
        char b[64] = "some text";
        MUST(raw(SYS_write, p.client, (long)b, 64) - 64);
        recv_all(p.server, b, 64);
        send_all(p.server, b, 64);
        MUST(raw(SYS_read, p.client, (long)b, 64) - 64);
        if (i % 10 == 0)
            sleep_ms(1);
    }
    exchange(&p, "hooked");
}

/* So few descriptors that accept fails; the library's own must not be in the way. */
static void few_descriptors(void)
{
    struct rlimit r = {16, 16};
    MUST(setrlimit(RLIMIT_NOFILE, &r));
    struct pair p = warm_pair();
    int opened = 0, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        opened++;
    trace("%d more, then %s", opened, errno_name(errno));
    R(accept(p.listener, NULL, NULL));
    R(socket(AF_INET, SOCK_STREAM, 0));
    exchange(&p, "still works");
    warm(p.client, p.server);
}

/* Connections on 0, 1 and 2. */
static void standard_descriptors(void)
{
    int keep = MUST(fcntl(1, F_DUPFD, 100)), err = MUST(fcntl(2, F_DUPFD, 100));
    close(0);
    close(1);
    close(2);
    struct pair p = connected();
    trace("%d %d %d", p.listener, p.client, p.server);
    warm(p.client, p.server);
    exchange(&p, "on standard descriptors");
    R(shutdown(p.client, SHUT_WR));
    char b[4];
    R(recv(p.server, b, 4, 0));
    dup2(keep, 1);
    dup2(err, 2);
}

static volatile int stop;

static void *ping_pong(void *arg)
{
    struct pair *p = arg;
    char b[64] = "x";
    while (!stop) {
        send_all(p->client, b, sizeof b);
        recv_all(p->server, b, sizeof b);
    }
    return NULL;
}

static void child_talks(void *arg)
{
    (void)arg;
    struct pair p = warm_pair();
    exchange(&p, "child");
}

/* fork while other threads are in the middle of their calls. */
static void fork_among_threads(void)
{
    struct pair p[3] = {warm_pair(), warm_pair(), warm_pair()};
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        t[i] = spawn_thread(ping_pong, p + i);
    for (int i = 0; i < 20; i++)
        join_child(spawn_child('B', child_talks, NULL));
    stop = 1;
    for (int i = 0; i < 3; i++) {
        join_thread(t[i]);
        exchange(p + i, "parent");
    }
}

struct set_and_fd {
    int ep, fd;
};

static void child_waits(void *arg)
{
    struct set_and_fd *s = arg;
    struct epoll_event e;
    char b[16];
    R(epoll_wait(s->ep, &e, 1, 5000));
    trace("%s", mask_name(e.events));
    R(recv(s->fd, b, 16, 0));
}

/* An epoll set that a child inherits. */
static void set_across_fork(void)
{
    struct pair p = warm_pair();
    struct set_and_fd s = {MUST(epoll_create1(0)), p.server};
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(s.ep, EPOLL_CTL_ADD, p.server, &e));
    for (int i = 0; i < 2; i++) {
        pid_t pid = spawn_child('B', child_waits, &s);
        sleep_ms(30);
        send_all(p.client, "for the child", 13);
        join_child(pid);
        send_all(p.client, "parent", 6);
        R(epoll_wait(s.ep, &e, 1, 5000));
        char b[16];
        R(recv(p.server, b, 16, 0));
    }
}

static void exclusive(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE};
    char b[16];
    R(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    for (int i = 0; i < 3; i++) {
        send_all(p.client, "one", 3);
        R(epoll_wait(ep, &e, 1, 1000));
        R(recv(p.server, b, 16, 0));
        R(epoll_wait(ep, &e, 1, 10));
        warm(p.client, p.server);
    }
}

static volatile sig_atomic_t signals;

static void on_io(int s)
{
    (void)s;
    signals++;
}

/* Signal-driven input, turned on after the connection has been in use. */
static void signal_driven(void)
{
    struct pair p = warm_pair();
    char b[16];
    signal(SIGIO, on_io);
    R(fcntl(p.server, F_SETOWN, getpid()));
    R(fcntl(p.server, F_SETFL, O_ASYNC | O_NONBLOCK));
    for (int i = 0; i < 3; i++) {
        int before = signals;
        R(send(p.client, "wake", 4, 0));
        for (int k = 0; k < 100 && signals == before; k++)
            sleep_ms(10);
        trace("signal: %d", signals > before);
        R(recv(p.server, b, 16, 0));
        R(recv(p.server, b, 16, 0));
    }
}

static void *small_stack(void *arg)
{
    struct pair *p = arg;
    warm(p->client, p->server);
    char b[8];
    send_all(p->client, "tiny", 4);
    recv_all(p->server, b, 4);
    return poll_mask(p->client, POLLOUT, 0) == POLLOUT ? p : NULL;
}

/* A thread with the smallest stack that there is. */
static void small_stacks(void)
{
    struct pair p = connected();
    pthread_attr_t a;
    pthread_attr_init(&a);
    R(pthread_attr_setstacksize(&a, 16384));
    for (int i = 0; i < 3; i++) {
        pthread_t t;
        void *result;
        R(pthread_create(&t, &a, small_stack, &p));
        pthread_join(t, &result);
        trace("good: %d", result == &p);
    }
}

/* Several listeners on one port; each connection works wherever it lands. */
static void shared_port(void)
{
    int l[2], one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 2; i++) {
        l[i] = tcp_socket();
        MUST(setsockopt(l[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
        MUST(bind(l[i], (struct sockaddr *)&a, sizeof a));
        MUST(listen(l[i], 16));
        a = address_of(l[i]);
    }
    for (int i = 0; i < 10; i++) {
        struct pollfd f[2] = {{l[0], POLLIN, 0}, {l[1], POLLIN, 0}};
        struct pair p = {.client = connect_to(l[0])};
        MUST(poll(f, 2, 1000));
        p.server = MUST(accept(l[f[0].revents ? 0 : 1], NULL, NULL));
        warm(p.client, p.server);
        exchange(&p, "landed");
        close(p.client);
        close(p.server);
    }
}

MAIN({"by_number", by_number}, {"past_the_library", past_the_library},
     {"one_end_past", one_end_past}, {"few_descriptors", few_descriptors},
     {"standard_descriptors", standard_descriptors}, {"fork_among_threads", fork_among_threads},
     {"set_across_fork", set_across_fork}, {"exclusive", exclusive},
     {"signal_driven", signal_driven}, {"small_stacks", small_stacks},
     {"shared_port", shared_port})
