/* What has woken a call that finds, when it runs at last, that it was changed meanwhile. */
#include "sets.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

/* All threads on one processor, and this one only when no other wants it: so what others do in
 * one go is all done when it runs. */
static void run_last(void)
{
    struct sched_param none = {0};
    MUST(sched_setscheduler(0, SCHED_IDLE, &none));
}

static void on_one_processor(void)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(MUST(sched_getcpu()), &here);
    MUST(sched_setaffinity(0, sizeof here, &here));
}

static void *polls_urgent(void *arg)
{
    actor('B');
    run_last();
    trace("%s", mask_name(poll_mask(*(int *)arg, POLLPRI, -1)));
    return NULL;
}

/* A number that another thread closes under a poll for urgent data, and then at once what wakes that: bytes, with
 * some unread before or not, the end, a shutdown of this end by another number. */
static void closed_and_woken_at_once(void)
{
    on_one_processor();
    for (int how = 0; how < 6; how++) {
        struct pair p = warm_pair();
        int number = p.server, other = how >= 4 ? MUST(dup(number)) : -1;
        if (how & 1)
            send_all(p.client, "before", 6);
        pthread_t t = spawn_asleep(polls_urgent, &number);
        close(number);
        switch (how / 2) {
        case 0: send_all(p.client, "some", 4); break;
        case 1: shutdown(p.client, SHUT_WR); break;
        case 2: shutdown(other, SHUT_WR); break;
        }
        join_thread(t);
        close(other);
        p.server = -1;
        close_pair(&p);
    }
}

static void *receives_nothing(void *arg)
{
    char b[1];
    actor('B');
    R(recv(*(int *)arg, b, 0, 0));
    return NULL;
}

static void *sends_much(void *arg)
{
    static char much[8 << 20];
    actor('C');
    send_all(*(int *)arg, much, sizeof much);
    return NULL;
}

/* A receive of no bytes ends when a send of another thread, which had no room, has some. */
static void nothing_woken_by_room(void)
{
    struct pair p = warm_pair();
    char b[4096];
    pthread_t r = spawn_asleep(receives_nothing, &p.client);
    pthread_t s = spawn_asleep(sends_much, &p.client);
    for (size_t left = 8 << 20; left;)
        left -= MUST(recv(p.server, b, sizeof b, 0));
    join_thread(s);
    join_thread(r);
    close_pair(&p);
}

/* What was sent since does not take away the news that there is room. */
static void room_used_again(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    static char b[1 << 20];
    nonblocking(p.client, 1);
    nonblocking(p.server, 1);
    add(ep, p.client, EPOLLOUT | EPOLLET, 1);
    show(ep, 0);
    for (int how = 0; how < 2; how++) {
        while (send(p.client, b, sizeof b, 0) > 0)
            ;
        if (how)
            show(ep, 0);
        while (poll_mask(p.server, POLLIN, 20) && recv(p.server, b, sizeof b, 0) > 0)
            ;
        R(send(p.client, "x", 1, 0));
        show(ep, 1000);
        show(ep, 0);
    }
    close_pair(&p);
}

/* The kernel stamps nothing before some socket has asked for it, and then a moment later. */
static int stamping(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    struct msghdr m = {0};
    int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0)), on = 1;
    MUST(bind(fd, (struct sockaddr *)&a, len));
    MUST(getsockname(fd, (struct sockaddr *)&a, &len));
    MUST(connect(fd, (struct sockaddr *)&a, len));
    MUST(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
    while (!(m.msg_flags & MSG_CTRUNC)) {
        MUST(send(fd, "", 0, 0));
        MUST(recvmsg(fd, &m, 0));
    }
    return fd;
}

enum { ROOM, NO_ROOM, TIMED, PEEK, INQ, ALL, SECOND, HOWS };
struct stamped {
    int fd, how;
    pid_t thread;
};

static void *receives_stamped(void *arg)
{
    struct stamped *s = arg;
    char b[2][2], control[2][128];
    struct iovec v[2];
    struct mmsghdr m[2] = {0};
    int flags = s->how == PEEK ? MSG_PEEK : s->how == ALL ? MSG_WAITALL : 0, n = 1;
    actor('B');
    s->thread = syscall(SYS_gettid);
    for (int i = 0; i < 2; i++) {
        v[i] = (struct iovec){b[i], s->how == ALL ? 2 : 1};
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1, .msg_control = control[i],
                                       .msg_controllen = s->how == NO_ROOM ? 0 : sizeof control[i]};
    }
    if (s->how == SECOND)
        n = R(recvmmsg(s->fd, m, 2, 0, NULL));
    else
        m[0].msg_len = R(recvmsg(s->fd, &m[0].msg_hdr, flags));
    struct msghdr *last = &m[n - 1].msg_hdr;
    trace("how %d: %u, flags %x, control %zu", s->how, m[n - 1].msg_len, last->msg_flags, last->msg_controllen);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(last); c; c = CMSG_NXTHDR(last, c))
        trace("level %d, type %d", c->cmsg_level, c->cmsg_type);
    return NULL;
}

/* Stamps that one thread asks for while another sleeps in a receive: what wakes that has one. */
static void stamped_meanwhile(void)
{
    int keeps = stamping(), on = 1;
    for (int how = ROOM; how < HOWS; how++) {
        struct pair p = warm_pair();
        struct stamped s = {p.server, how, 0};
        if (how == TIMED)
            set_timeout(p.server, SO_RCVTIMEO, 60000);
        if (how == INQ)
            MUST(setsockopt(p.server, IPPROTO_TCP, TCP_INQ, &on, sizeof on));
        pthread_t t = spawn_asleep(receives_stamped, &s);
        if (how >= ALL) {
            send_all(p.client, "1", 1);
            for (int left = 1; left;)
                MUST(ioctl(p.server, FIONREAD, &left));
            wait_asleep(s.thread);
        }
        R(setsockopt(p.server, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
        send_all(p.client, "2", 1);
        join_thread(t);
        close_pair(&p);
    }
    close(keeps);
}

enum { SPLICE, SEND, WRITE, SPLICE_INTO, CALLS };
struct interrupted {
    int fd, call, ends[2];
};

static void nothing(int signal)
{
    (void)signal;
}

static void *is_interrupted(void *arg)
{
    struct interrupted *c = arg;
    char b[2];
    actor('B');
    run_last();
    switch (c->call) {
    case SPLICE: R(splice(c->fd, NULL, c->ends[1], NULL, 2, 0)); break;
    case SEND: R(send(c->fd, b, 2, MSG_NOSIGNAL)); break;
    case WRITE: R(write(c->fd, b, 2)); break;
    case SPLICE_INTO: R(splice(c->ends[0], NULL, c->fd, NULL, 2, 0)); break;
    }
    return NULL;
}

/* A signal, and then at once what the call waits for: bytes, the end of the stream, room. Calls that look for the signal
 * first, so that nothing changes if they run in between. */
static void interrupted_and_woken_at_once(void)
{
    static char much[1 << 20];
    on_one_processor();
    for (int handler = 0; handler < 2; handler++) {
        struct sigaction a = {.sa_handler = nothing, .sa_flags = handler ? SA_RESTART : 0};
        MUST(sigaction(SIGUSR1, &a, NULL));
        for (int how = 0; how < 2 * CALLS; how++) {
            struct pair p = warm_pair();
            struct interrupted c = {p.server, how / 2, {0}};
            MUST(pipe(c.ends));
            MUST(write(c.ends[1], "in", 2));
            if (c.call >= SEND)
                fill_up(p.server);
            pthread_t t = spawn_asleep(is_interrupted, &c);
            trace("handler %d, call %d, %d", handler, c.call, how & 1);
            pthread_kill(t, SIGUSR1);
            if (c.call >= SEND)
                while (recv(p.client, much, sizeof much, MSG_DONTWAIT) > 0)
                    ;
            if (how & 1)
                shutdown(p.client, SHUT_WR);
            else
                send_all(p.client, "some", 4);
            join_thread(t);
            close(c.ends[0]);
            close(c.ends[1]);
            close_pair(&p);
        }
    }
}

/* Bytes, and urgent data right behind them: a splice takes what comes before the mark, and ends there. */
static void urgent_behind_bytes(void)
{
    on_one_processor();
    for (int bytes = 0; bytes < 2; bytes++) {
        struct pair p = warm_pair();
        struct interrupted c = {p.server, SPLICE, {0}};
        MUST(pipe(c.ends));
        pthread_t t = spawn_asleep(is_interrupted, &c);
        if (bytes)
            send_all(p.client, "s", 1);
        R(send(p.client, "!", 1, MSG_OOB));
        join_thread(t);
        close(c.ends[0]);
        close(c.ends[1]);
        close_pair(&p);
    }
}

static void splices_last(void *arg)
{
    struct pair *p = arg;
    int ends[2];
    close(p->client);
    close(p->listener);
    MUST(pipe(ends));
    warm_server(p->server);
    run_last();
    R(splice(p->server, NULL, ends[1], NULL, 16, 0));
}

/* The same from another process, which cannot put what is unread of its ring into TCP before the urgent data. The reader has to
 * find both at once, which it does in some of the rounds. */
static void urgent_behind_bytes_of_another(void)
{
    on_one_processor();
    for (int i = 0; i < 12; i++) {
        struct pair p = connected();
        pid_t child = spawn_child('B', splices_last, &p);
        close(p.server);
        warm_client(p.client);
        wait_asleep(child);
        send_all(p.client, "s", 1);
        R(send(p.client, "!", 1, MSG_OOB));
        join_child(child);
        p.server = -1;
        close_pair(&p);
    }
}

enum { SIGNALS = 100 };

struct disturbed {
    int fd, polls;
    atomic_int thread, ended, stop;
};

static void *closes_others(void *arg)
{
    struct disturbed *d = arg;
    /* With pauses: a thread that is never asleep is not known to be in its call. */
    while (!d->stop) {
        for (int i = 0; i < 5; i++)
            close(dup(d->fd));
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return NULL;
}

static void *is_signalled(void *arg)
{
    struct disturbed *d = arg;
    int interrupted = 0;
    char b[1];
    actor('B');
    d->thread = gettid();
    while (d->ended < SIGNALS) {
        struct pollfd one = {d->fd, POLLIN, 0};
        int n = d->polls ? poll(&one, 1, -1) : recv(d->fd, b, 1, 0);
        interrupted += n == -1 && errno == EINTR;
        if (d->polls && n == 1)
            recv_all(d->fd, b, 1);
        d->ended++;
    }
    /* One that comes before the library has begun to wait is one before the call. */
    trace("interrupted each time: %d", interrupted >= SIGNALS - 3);
    return NULL;
}

/* Signals for a receive or a poll that is woken again and again for nothing, as other numbers of its connection are closed:
 * each one ends it, whether it finds it asleep or not. */
static void interrupts(int polls)
{
    struct pair p = warm_pair();
    struct disturbed d = {.fd = p.server, .polls = polls};
    struct sigaction action = {.sa_handler = nothing};
    MUST(sigaction(SIGUSR1, &action, NULL));
    pthread_t receiver = spawn_asleep(is_signalled, &d), closer = spawn_thread(closes_others, &d);
    for (int i = 0; i < SIGNALS; i++) {
        wait_asleep(d.thread);
        pthread_kill(receiver, SIGUSR1);
        for (int ms = 0; d.ended == i && ms < 5000; ms++)
            sleep_ms(1);
        if (d.ended == i)
            send_all(p.client, "x", 1);
        while (d.ended == i)
            sleep_ms(1);
    }
    d.stop = 1;
    join_thread(closer);
    join_thread(receiver);
    close_pair(&p);
}

static void interrupted_between_looks(void)
{
    interrupts(0);
    interrupts(1);
}

MAIN({"closed_and_woken_at_once", closed_and_woken_at_once}, {"nothing_woken_by_room", nothing_woken_by_room},
     {"room_used_again", room_used_again}, {"stamped_meanwhile", stamped_meanwhile},
     {"interrupted_and_woken_at_once", interrupted_and_woken_at_once}, {"urgent_behind_bytes", urgent_behind_bytes},
     {"urgent_behind_bytes_of_another", urgent_behind_bytes_of_another},
     {"interrupted_between_looks", interrupted_between_looks})
