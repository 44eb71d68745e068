/* epoll sets whose registrations come and go, and sets with many quiet connections. */
#include "sets.h"

struct control {
    int ep, fd;
};

static void *send_later(void *arg)
{
    wait_asleep(getpid());
    send_all(*(int *)arg, "late", 4);
    return NULL;
}

static void *add_later(void *arg)
{
    struct control *c = arg;
    wait_asleep(getpid());
    add(c->ep, c->fd, EPOLLIN, 7);
    return NULL;
}

static void *modify_later(void *arg)
{
    struct control *c = arg;
    wait_asleep(getpid());
    mod(c->ep, c->fd, EPOLLIN, 8);
    return NULL;
}

/* A descriptor that is deleted and added again, as many event loops do for each message: what holds
   is checked anew, and between the two the set knows nothing of it. */
static void delete_and_add(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 2};
    char b[16];
    add(ep, p.server, EPOLLIN, 1);
    R(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    e.events |= EPOLLEXCLUSIVE;
    R(epoll_ctl(ep, EPOLL_CTL_MOD, p.server, &e));
    R(epoll_ctl(ep, 99, p.server, &e));
    send_all(p.client, "abcd", 4);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 20);
    add(ep, p.server, EPOLLIN, 3);
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    show(ep, 0);
    add(ep, p.server, EPOLLIN | EPOLLET, 4);
    show(ep, 1000);
    show(ep, 10);
    R(recv(p.server, b, sizeof b, 0));
    for (int i = 0; i < 5; i++) {
        send_all(p.client, "xy", 2);
        show(ep, 1000);
        R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
        add(ep, p.server, EPOLLOUT, 5);
        show(ep, 1000);
        R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
        add(ep, p.server, EPOLLIN | EPOLLET | EPOLLONESHOT, 6);
        show(ep, 1000);
        show(ep, 0);
        R(recv(p.server, b, sizeof b, 0));
        R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
        add(ep, p.server, EPOLLIN | EPOLLRDHUP, 7);
        show(ep, 0);
    }
    /* The end comes while it is deleted. */
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    send_all(p.client, "z", 1);
    R(shutdown(p.client, SHUT_WR));
    poll_mask(p.server, POLLRDHUP, 1000);
    show(ep, 20);
    add(ep, p.server, EPOLLIN | EPOLLRDHUP | EPOLLET, 8);
    show(ep, 1000);
    show(ep, 10);
    R(recv(p.server, b, sizeof b, 0));
    R(recv(p.server, b, sizeof b, 0));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    close(p.client);
    show(ep, 20);
    add(ep, p.server, EPOLLIN, 9);
    show(ep, 1000);
}

/* Of several descriptors of one connection each has a registration of its own, which its number and
   the open file make: a deleted one does not come back when the number does. */
static void delete_dup_and_close(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 3};
    char b[16];
    int two = MUST(dup(p.server));
    add(ep, p.server, EPOLLIN, 1);
    add(ep, two, EPOLLIN, 2);
    send_all(p.client, "ab", 2);
    poll_mask(two, POLLIN, 1000);
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    show(ep, 1000);
    R(close(p.server));
    show(ep, 1000);
    R(recv(two, b, sizeof b, 0));
    int number = p.server;
    R(MUST(dup2(q.server, number)) == number);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
    R(epoll_ctl(ep, EPOLL_CTL_MOD, number, &e));
    R(epoll_ctl(ep, EPOLL_CTL_ADD, number, &e));
    show(ep, 10);
    send_all(q.client, "cd", 2);
    poll_mask(q.server, POLLIN, 1000);
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
    R(MUST(dup2(two, number)) == number);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
    show(ep, 10);
    send_all(p.client, "ef", 2);
    poll_mask(two, POLLIN, 1000);
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_ADD, number, &e));
    show(ep, 1000);
    R(recv(two, b, sizeof b, 0));
    show(ep, 20);
    /* Deleted, and then the connection goes away altogether. */
    R(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, two, NULL));
    R(close(number));
    R(close(two));
    show(ep, 20);
    R(recv(p.client, b, sizeof b, 0));
    show(ep, 0);
}

/* Deleted in one thread while another sleeps on the set, and added when there is something. */
static void delete_under_a_sleeper(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    int ep = MUST(epoll_create1(0));
    char b[16];
    add(ep, q.server, EPOLLIN, 1);
    add(ep, p.server, EPOLLIN, 2);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    send_all(p.client, "abc", 3);
    poll_mask(p.server, POLLIN, 1000);
    struct control c = {ep, p.server};
    pthread_t t = spawn_thread(add_later, &c);
    show(ep, 2000);
    pthread_join(t, NULL);
    R(recv(p.server, b, sizeof b, 0));
    /* Modified while another sleeps: the same. */
    mod(ep, p.server, 0, 3);
    send_all(p.client, "defg", 4);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 10);
    t = spawn_thread(modify_later, &c);
    show(ep, 2000);
    pthread_join(t, NULL);
    R(recv(p.server, b, sizeof b, 0));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    /* A deleted one wakes nobody. */
    t = spawn_thread(send_later, &p.client);
    show(ep, 200);
    pthread_join(t, NULL);
    send_all(q.client, "h", 1);
    show(ep, 1000);
}

/* The set is handed to those who see only the kernel's, with something deleted in it. */
static void delete_and_hand_on(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
    char b[16];
    add(ep, p.server, EPOLLIN, 1);
    send_all(p.client, "ab", 2);
    show(ep, 1000);
    R(recv(p.server, b, sizeof b, 0));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    poll_mask(ep, POLLIN, 10);
    add(outer, ep, EPOLLIN, 5);
    send_all(p.client, "cd", 2);
    poll_mask(p.server, POLLIN, 1000);
    show(outer, 20);
    add(ep, p.server, EPOLLIN, 2);
    show(outer, 1000);
    show(ep, 1000);
    R(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
    show(outer, 0);
}

/* Thousands of looks in vain, then something: none of the quiet connections is forgotten. */
static void quiet_ones(void)
{
    enum { N = 24 };
    struct pair p[N];
    int ep = MUST(epoll_create1(0));
    char b[16];
    for (int i = 0; i < N; i++) {
        p[i] = warm_pair();
        add(ep, p[i].server, EPOLLIN | (i % 3 == 1 ? EPOLLET : 0) | (i % 3 == 2 ? EPOLLRDHUP : 0), i);
    }
    for (int round = 0; round < 3; round++) {
        /* One is busy, the others are quiet. */
        for (int i = 0; i < 400; i++) {
            struct epoll_event e[4];
            send_all(p[0].client, "x", 1);
            MUST(epoll_wait(ep, e, 4, 1000) - 1);
            recv_all(p[0].server, b, 1);
        }
        show(ep, 10);
        for (int i = 0; i < N; i++) {
            send_all(p[i].client, "y", 1);
            show(ep, 1000);
            recv_all(p[i].server, b, 1);
        }
        show(ep, 10);
    }
    for (int i = 0; i < N; i += 5) {
        R(shutdown(p[i].client, SHUT_WR));
        poll_mask(p[i].server, POLLRDHUP, 1000);
        show(ep, 1000);
        R(epoll_ctl(ep, EPOLL_CTL_DEL, p[i].server, NULL));
    }
    show(ep, 10);
}

/* Room for one event, and something of the library's own is in the kernel's set before it: when a program was
   started, the connection has left the ring. */
static void room_for_one(void)
{
    for (int turn = 0; turn < 2; turn++) {
        struct pair p = warm_pair();
        int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
        struct epoll_event e = {0};
        add(ep, p.server, turn ? EPOLLIN | EPOLLOUT : EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLOUT, 1);
        add(ep, p.listener, EPOLLIN, 2);
        R(system("true"));
        R(epoll_wait(ep, &e, 1, 0));
        trace("%u: %s", e.data.u32, mask_name(e.events));
        R(epoll_wait(ep, &e, 1, 0));
        trace("%u: %s", e.data.u32, mask_name(e.events));
        show(ep, 0);
        send_all(p.client, "x", 1);
        show(ep, 100);
        close(p.client);
        close(p.server);
        close(ep);
    }
}

MAIN({"room_for_one", room_for_one}, {"delete_and_add", delete_and_add}, {"delete_dup_and_close", delete_dup_and_close},
     {"delete_under_a_sleeper", delete_under_a_sleeper}, {"delete_and_hand_on", delete_and_hand_on},
     {"quiet_ones", quiet_ones})
