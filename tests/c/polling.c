/* Readiness: epoll in all its modes, poll, select. */
#include "sets.h"
#include <sys/select.h>

static void level(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[8];
    add(ep, p.server, EPOLLIN, 1);
    show(ep, 0);
    send_all(p.client, "abcd", 4);
    show(ep, 1000);
    show(ep, 1000);
    R(recv(p.server, b, 2, 0));
    show(ep, 1000);
    R(recv(p.server, b, 8, 0));
    show(ep, 20);
    mod(ep, p.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 2);
    show(ep, 0);
    send_all(p.client, "x", 1);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 0);
    R(shutdown(p.client, SHUT_WR));
    poll_mask(p.server, POLLRDHUP, 1000);
    show(ep, 0);
    R(recv(p.server, b, 8, 0));
    show(ep, 0);
    mod(ep, p.server, 0, 3);
    show(ep, 0);
    R(shutdown(p.server, SHUT_WR));
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    show(ep, 0);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
}

static void edge(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[8];
    add(ep, p.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
    show(ep, 0);
    show(ep, 0);
    for (int i = 0; i < 3; i++) {
        send_all(p.client, "abcd", 4);
        show(ep, 1000);
        show(ep, 10);
        R(recv(p.server, b, 2, 0));
        show(ep, 10);
    }
    mod(ep, p.server, EPOLLIN | EPOLLET, 2);
    show(ep, 0);
    show(ep, 0);
    R(recv(p.server, b, 8, 0));
    R(recv(p.server, b, 8, MSG_DONTWAIT));
    mod(ep, p.server, EPOLLIN | EPOLLET, 3);
    show(ep, 10);
    send_all(p.client, "ab", 2);
    show(ep, 1000);
    R(shutdown(p.client, SHUT_WR));
    show(ep, 1000);
    show(ep, 10);
    R(recv(p.server, b, 8, 0));
    R(recv(p.server, b, 8, 0));
    close(p.client);
    show(ep, 20);
}

static void oneshot(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    char b[8];
    add(ep, p.server, EPOLLIN | EPOLLONESHOT, 1);
    send_all(p.client, "ab", 2);
    show(ep, 1000);
    show(ep, 10);
    send_all(p.client, "ab", 2);
    show(ep, 10);
    mod(ep, p.server, EPOLLIN | EPOLLONESHOT, 2);
    show(ep, 1000);
    R(recv(p.server, b, 8, 0));
    mod(ep, p.server, EPOLLIN | EPOLLONESHOT | EPOLLET, 3);
    show(ep, 10);
    send_all(p.client, "ab", 2);
    show(ep, 1000);
    close(p.client);
    show(ep, 20);
    mod(ep, p.server, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, 4);
    show(ep, 1000);
    show(ep, 10);
}

/* Registered before the connection exists; it is accelerated while it is in the set. */
static void add_early(void)
{
    int l = listener(4), ep = MUST(epoll_create(1)), lep = MUST(epoll_create(1));
    struct sockaddr_in a = address_of(l);
    int c = tcp_socket();
    nonblocking(c, 1);
    add(ep, c, EPOLLIN | EPOLLOUT | EPOLLET, 1);
    add(lep, l, EPOLLIN, 9);
    show(ep, 0);
    int r = connect(c, (struct sockaddr *)&a, sizeof a);
    trace("%d %s", r, errno_name(errno));
    show(ep, 1000);
    show(lep, 1000);
    int s = MUST(accept(l, NULL, NULL));
    show(lep, 0);
    add(lep, s, EPOLLIN, 2);
    char b[64] = "";
    /* Exchanges that are driven by the sets only. */
    for (int i = 0; i < warm_rounds(); i++) {
        struct epoll_event e;
        send_all(c, b, sizeof b);
        MUST(epoll_wait(lep, &e, 1, 1000) - 1);
        recv_all(s, b, sizeof b);
        send_all(s, b, sizeof b);
        MUST(epoll_wait(ep, &e, 1, 1000) - 1);
        recv_all(c, b, sizeof b);
        sleep_ms(1);
    }
    show(lep, 10);
    send_all(c, "x", 1);
    show(lep, 1000);
    R(recv(s, b, 8, 0));
    send_all(s, "y", 1);
    show(ep, 1000);
    R(recv(c, b, 8, 0));
    close(s);
    show(ep, 1000);
}

/* The same socket in two sets, twice in one set by a duplicate, and a closed descriptor. */
static void sets_and_duplicates(void)
{
    struct pair p = warm_pair();
    int e1 = MUST(epoll_create1(0)), e2 = MUST(epoll_create1(0));
    int d = MUST(dup(p.server));
    char b[8];
    add(e1, p.server, EPOLLIN, 1);
    add(e2, p.server, EPOLLIN | EPOLLET, 2);
    add(e1, d, EPOLLIN, 3);
    struct epoll_event e = {.events = EPOLLIN};
    R(epoll_ctl(e1, EPOLL_CTL_ADD, d, &e));
    R(epoll_ctl(e2, EPOLL_CTL_MOD, d, &e));
    R(epoll_ctl(e1, EPOLL_CTL_ADD, e1, &e));
    send_all(p.client, "ab", 2);
    show(e1, 1000);
    show(e2, 1000);
    show(e1, 0);
    show(e2, 0);
    /* The duplicate keeps the description, and so the registration, alive. */
    int number = p.server;
    close(p.server);
    show(e1, 0);
    R(recv(d, b, 8, 0));
    struct pair q = warm_pair();
    trace("number used again: %d", q.listener == number || q.client == number);
    add(e1, q.server, EPOLLIN, 5);
    send_all(q.client, "q", 1);
    show(e1, 1000);
    send_all(p.client, "p", 1);
    sleep_ms(20);
    show(e1, 1000);
    close(d);
    show(e1, 10);
}

static void nested(void)
{
    struct pair p = warm_pair();
    int inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
    char b[8];
    add(inner, p.server, EPOLLIN, 1);
    add(outer, inner, EPOLLIN, 2);
    show(outer, 10);
    for (int i = 0; i < 3; i++) {
        send_all(p.client, "ab", 2);
        show(outer, 1000);
        trace("poll of a set: %s", mask_name(poll_mask(inner, POLLIN, 1000)));
        show(inner, 0);
        R(recv(p.server, b, 8, 0));
        show(outer, 10);
        trace("poll of a set: %s", mask_name(poll_mask(inner, POLLIN, 10)));
        warm(p.client, p.server);
    }
}

static void full_and_out(void)
{
    struct pair p = warm_pair();
    static char block[1 << 16];
    int ep = MUST(epoll_create1(0)), et = MUST(epoll_create1(0));
    nonblocking(p.client, 1);
    add(ep, p.client, EPOLLOUT, 1);
    add(et, p.client, EPOLLOUT | EPOLLET, 2);
    show(ep, 0);
    show(et, 0);
    for (int round = 0; round < 3; round++) {
        size_t sent = 0, got = 0;
        long n;
        do {
            n = send(p.client, block, sizeof block, 0);
            sent += n > 0 ? n : 0;
        } while (n > 0 || poll_mask(p.client, POLLOUT, 100));
        struct epoll_event e;
        epoll_wait(et, &e, 1, 0);
        show(ep, 10);
        show(et, 10);
        while (got < sent)
            got += MUST(recv(p.server, block, sizeof block, 0));
        show(ep, 1000);
        show(et, 1000);
    }
}

static void poll_masks(void)
{
    struct pair p = warm_pair();
    int unused = tcp_socket();
    char b[8];
    enum { ALL = POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM };
    send_all(p.client, "x", 1);
    poll_mask(p.server, POLLIN, 1000);
    struct pollfd f[] = {{p.server, ALL, 9}, {p.client, ALL, 9},   {p.server, POLLIN, 9},
                         {p.server, 0, 9},   {-1, ALL, 9},         {777, POLLIN, 9},
                         {unused, ALL, 9},   {p.listener, ALL, 9}, {p.client, POLLIN, 9}};
    R(poll(f, 9, 1000));
    for (int i = 0; i < 9; i++)
        trace("%d %s", i, mask_name(f[i].revents));
    R(recv(p.server, b, 8, 0));
    struct timespec t = {.tv_nsec = 20000000};
    sigset_t mask;
    sigemptyset(&mask);
    struct pollfd one = {p.server, POLLIN, 0};
    R(ppoll(&one, 1, &t, &mask));
    R(poll(&one, 1, 20));
    R(poll(NULL, 0, 1));
    close(p.client);
    one.events = 0;
    R(poll(&one, 1, 20));
    R(shutdown(p.server, SHUT_WR));
    R(poll(&one, 1, 1000));
    trace("%s", mask_name(one.revents));
    close(p.server);
    R(poll(&one, 1, 0));
    trace("%s", mask_name(one.revents));
}

static void selects(void)
{
    struct pair p = warm_pair();
    char b[8];
    for (int i = 0; i < 3; i++) {
        fd_set r, w, x;
        FD_ZERO(&r);
        FD_ZERO(&w);
        FD_ZERO(&x);
        FD_SET(p.server, &r);
        FD_SET(p.client, &r);
        FD_SET(p.server, &w);
        FD_SET(p.server, &x);
        struct timeval t = {.tv_usec = 20000};
        if (i)
            send_all(p.client, "x", 1), poll_mask(p.server, POLLIN, 1000);
        R(select(p.server + 1, &r, i == 1 ? &w : NULL, &x, &t));
        trace("%d %d %d %d", !!FD_ISSET(p.server, &r), !!FD_ISSET(p.client, &r),
              !!FD_ISSET(p.server, &w), !!FD_ISSET(p.server, &x));
        if (i == 0)
            trace("time used up: %d", t.tv_sec == 0 && t.tv_usec == 0);
    }
    R(recv(p.server, b, 8, 0));
    fd_set r;
    FD_ZERO(&r);
    FD_SET(p.server, &r);
    struct timespec t = {.tv_nsec = 20000000};
    R(pselect(p.server + 1, &r, NULL, NULL, &t, NULL));
    trace("timespec unchanged: %d", t.tv_nsec == 20000000);
    FD_SET(p.server, &r);
    close(p.client);
    R(select(p.server + 1, &r, NULL, NULL, NULL));
    R(select(-1, NULL, NULL, NULL, NULL));
    int gone = p.server;
    close(p.server);
    R(select(gone + 1, &r, NULL, NULL, NULL));
    trace("left alone: %d", !!FD_ISSET(gone, &r));
}

/* A busy connection does not hide the others of the set. */
static void fairness(void)
{
    enum { N = 8 };
    struct pair p[N];
    int ep = MUST(epoll_create1(0)), seen[N] = {0}, all = 0, pipe_fds[2];
    for (int i = 0; i < N; i++) {
        p[i] = warm_pair();
        add(ep, p[i].server, EPOLLIN, i);
        send_all(p[i].client, "x", 1);
    }
    MUST(pipe(pipe_fds));
    MUST(write(pipe_fds[1], "x", 1));
    add(ep, pipe_fds[0], EPOLLIN, N - 1);
    for (int i = 0; i < 100; i++) {
        struct epoll_event e[2];
        int n = MUST(epoll_wait(ep, e, 2, 1000));
        for (int k = 0; k < n; k++)
            seen[e[k].data.u32]++;
    }
    for (int i = 0; i < N; i++)
        all += seen[i] > 5;
    trace("%d of %d seen often", all, N);
    struct epoll_event e;
    R(epoll_wait(ep, &e, 0, 0));
    R(epoll_wait(ep, &e, -1, 0));
    R(epoll_wait(p[0].client, &e, 1, 0));
}

static void *send_later(void *arg)
{
    wait_asleep(getpid());
    send_all(*(int *)arg, "late", 4);
    return NULL;
}

struct control {
    int ep, fd;
};

static void *add_later(void *arg)
{
    struct control *c = arg;
    wait_asleep(getpid());
    add(c->ep, c->fd, EPOLLIN, 7);
    return NULL;
}

/* Another thread sends, registers, or re-arms while this one sleeps in epoll_wait. */
static void changed_while_waiting(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[8];
    struct control c = {ep, p.server};
    pthread_t t = spawn_thread(add_later, &c);
    pthread_t s = spawn_thread(send_later, &p.client);
    show(ep, 5000);
    join_thread(t);
    join_thread(s);
    R(recv(p.server, b, 8, 0));
    s = spawn_thread(send_later, &p.client);
    show(ep, -1);
    join_thread(s);
    R(recv(p.server, b, 8, 0));
    s = spawn_thread(send_later, &p.client);
    trace("poll %s", mask_name(poll_mask(p.server, POLLIN, -1)));
    join_thread(s);
}

MAIN({"level", level}, {"edge", edge}, {"oneshot", oneshot}, {"add_early", add_early},
     {"sets_and_duplicates", sets_and_duplicates}, {"nested", nested},
     {"full_and_out", full_and_out}, {"poll_masks", poll_masks}, {"selects", selects},
     {"fairness", fairness}, {"changed_while_waiting", changed_while_waiting})
