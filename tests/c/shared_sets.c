/* One epoll set, seen by several: processes that have it by a fork, poll and select, another set. */
#include "sets.h"
#include <sys/eventfd.h>
#include <sys/select.h>

enum { ALL = EPOLLIN | EPOLLOUT | EPOLLRDHUP, EDGE = ALL | EPOLLET };

/* Two processes take turns. */
static int to_child[2], to_parent[2];

static void turns(void)
{
    MUST(pipe(to_child));
    MUST(pipe(to_parent));
}

static void pass_turn(int way[2]) { MUST(write(way[1], "", 1)); }

static void await_turn(int way[2])
{
    char b;
    MUST(read(way[0], &b, 1));
}

/* Parent: the child has its turn. */
static void child_next(void)
{
    pass_turn(to_child);
    await_turn(to_parent);
}

/* Child: the parent has its turn, if it has one more. */
static void parent_next(void)
{
    pass_turn(to_parent);
    await_turn(to_child);
}

/* Something comes to the server's end, and is there. */
static void three_bytes(const struct pair *p)
{
    send_all(p->client, "abc", 3);
    poll_mask(p->server, POLLIN, 1000);
}

struct family {
    struct pair p;
    int ep;
};

static void start(struct family *f, int flags)
{
    turns();
    f->p = warm_pair();
    f->ep = MUST(epoll_create1(flags));
}

static void waits_three_times(void *arg)
{
    struct family *f = arg;
    char b[16];
    await_turn(to_child);
    show(f->ep, 0);
    parent_next();
    show(f->ep, 100);
    recv_all(f->p.server, b, 3);
    parent_next();
    show(f->ep, 100);
    pass_turn(to_parent);
}

/* Whoever asks first is told, and nobody else. */
static void told_once(struct family *f)
{
    pid_t child = spawn_child('B', waits_three_times, f);
    child_next();
    show(f->ep, 0);
    three_bytes(&f->p);
    child_next();
    show(f->ep, 0);
    three_bytes(&f->p);
    show(f->ep, 100);
    child_next();
    show(f->ep, 0);
    join_child(child);
}

static void edge_is_told_once(void)
{
    struct family f;
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, EDGE, 1);
    show(f.ep, 0);
    told_once(&f);
}

static void untold_edge_is_told_once(void)
{
    struct family f;
    start(&f, 0);
    add(f.ep, f.p.server, EDGE, 1);
    add(f.ep, f.p.client, EDGE, 2);
    told_once(&f);
}

static void level_is_told_to_both(void)
{
    struct family f;
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, ALL, 1);
    told_once(&f);
}

static void one_shot_in_the_child(void *arg)
{
    struct family *f = arg;
    await_turn(to_child);
    show(f->ep, 100);
    parent_next();
    show(f->ep, 0);
    mod(f->ep, f->p.server, ALL | EPOLLONESHOT, 4);
    parent_next();
    show(f->ep, 0);
    parent_next();
    show(f->ep, 0);
    pass_turn(to_parent);
}

/* What has fired in one process has fired in both, and either arms it again. */
static void one_shot(void)
{
    struct family f;
    start(&f, 0);
    add(f.ep, f.p.server, ALL | EPOLLONESHOT, 1);
    add(f.ep, f.p.client, EDGE | EPOLLONESHOT, 2);
    pid_t child = spawn_child('B', one_shot_in_the_child, &f);
    three_bytes(&f.p);
    child_next();
    show(f.ep, 0);
    mod(f.ep, f.p.client, EDGE | EPOLLONESHOT, 3);
    child_next();
    show(f.ep, 1000);
    show(f.ep, 0);
    child_next();
    R(shutdown(f.p.client, SHUT_RDWR));
    R(shutdown(f.p.server, SHUT_RDWR));
    child_next();
    show(f.ep, 0);
    join_child(child);
}

static void changes_in_the_child(void *arg)
{
    struct family *f = arg;
    await_turn(to_child);
    show(f->ep, 100);
    parent_next();
    show(f->ep, 100);
    R(epoll_ctl(f->ep, EPOLL_CTL_DEL, f->p.server, NULL));
    pass_turn(to_parent);
}

/* What one enters, changes or deletes after the fork, the other finds. */
static void entered_after_the_fork(void)
{
    struct family f;
    start(&f, EPOLL_CLOEXEC);
    pid_t child = spawn_child('B', changes_in_the_child, &f);
    add(f.ep, f.p.server, EPOLLIN, 1);
    add(f.ep, f.p.client, EPOLLOUT | EPOLLET, 2);
    three_bytes(&f.p);
    child_next();
    show(f.ep, 1000);
    mod(f.ep, f.p.server, EPOLLIN | EPOLLOUT, 3);
    child_next();
    show(f.ep, 0);
    R(epoll_ctl(f.ep, EPOLL_CTL_DEL, f.p.server, NULL));
    join_child(child);
}

static void closes_all(void *arg)
{
    struct family *f = arg;
    close(f->p.server);
    close(f->p.client);
    close(f->ep);
}

/* A child that closes what it has inherited changes nothing. */
static void child_closes_all(void)
{
    struct family f;
    char b[16];
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, ALL, 1);
    add(f.ep, f.p.client, EDGE, 2);
    show(f.ep, 0);
    for (int i = 0; i < 3; i++) {
        join_child(spawn_child('B', closes_all, &f));
        show(f.ep, 0);
        three_bytes(&f.p);
        show(f.ep, 1000);
        recv_all(f.p.server, b, 3);
        show(f.ep, 0);
    }
    warm(f.p.client, f.p.server);
    show(f.ep, 0);
}

/* The parent closes the set; the child goes on with it and its connection. */
static void goes_on(void *arg)
{
    struct family *f = arg;
    char b[16];
    await_turn(to_child);
    show(f->ep, 100);
    recv_all(f->p.server, b, 3);
    show(f->ep, 0);
    three_bytes(&f->p);
    show(f->ep, 100);
    pass_turn(to_parent);
}

/* The parent keeps the connection, or not. */
static void closes_the_set(int keeps)
{
    struct family f;
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, ALL, 1);
    add(f.ep, f.p.client, EPOLLIN, 2);
    pid_t child = spawn_child('B', goes_on, &f);
    three_bytes(&f.p);
    if (!keeps) {
        close(f.p.server);
        close(f.p.client);
    }
    close(f.ep);
    child_next();
    join_child(child);
}

static void handed_to_the_child(void)
{
    closes_the_set(0);
}

static void set_closed_by_its_maker(void)
{
    closes_the_set(1);
}

static void puts_another_in_its_place(void *arg)
{
    struct family *f = arg;
    await_turn(to_child);
    R(epoll_ctl(f->ep, EPOLL_CTL_DEL, f->p.server, NULL));
    add(f->ep, f->p.client, EDGE, 2);
    show(f->ep, 0);
    parent_next();
    show(f->ep, 0);
    pass_turn(to_parent);
}

/* The child deletes what the parent looks at, and enters something else, which takes the same place. */
static void entry_used_again(void)
{
    struct family f;
    char b[16];
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, ALL, 1);
    show(f.ep, 0);
    pid_t child = spawn_child('B', puts_another_in_its_place, &f);
    three_bytes(&f.p);
    show(f.ep, 0);
    child_next();
    show(f.ep, 0);
    recv_all(f.p.server, b, 3);
    R(epoll_ctl(f.ep, EPOLL_CTL_DEL, f.p.server, NULL));
    send_all(f.p.server, "abc", 3);
    show(f.ep, 1000);
    child_next();
    show(f.ep, 0);
    join_child(child);
}

/* What a set has told of does not make it ready to who polls it; and nothing else in it is lost by that. */
static void watched(int flags, unsigned events)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(flags)), other = MUST(eventfd(1, EFD_CLOEXEC));
    int level = MUST(eventfd(1, EFD_CLOEXEC)), quiet = MUST(eventfd(0, EFD_CLOEXEC));
    char b[16];
    add(ep, p.server, events, 1);
    add(ep, p.client, EPOLLOUT | EPOLLET, 2);
    show(ep, 0);
    R(poll_mask(ep, POLLIN, 0));
    show(ep, 0);
    add(ep, other, EPOLLIN | EPOLLET, 3);
    add(ep, quiet, EPOLLIN | EPOLLET | EPOLLONESHOT, 4);
    R(poll_mask(ep, POLLIN, 0));
    show(ep, 0);
    R(poll_mask(ep, POLLIN, 0));
    for (int i = 0; i < 3; i++) {
        three_bytes(&p);
        R(poll_mask(ep, POLLIN, 100));
        show(ep, 100);
        recv_all(p.server, b, 3);
        show(ep, 0);
        R(poll_mask(ep, POLLIN, 0));
    }
    add(ep, level, EPOLLIN, 5);
    R(poll_mask(ep, POLLIN, 0));
    show(ep, 0);
}

static void polled_edges(void) { watched(EPOLL_CLOEXEC, EDGE); }
static void polled_room(void) { watched(0, EPOLLOUT | EPOLLET); }
static void polled_one_shot(void) { watched(0, ALL | EPOLLONESHOT); }

/* The first to look is a poll: before, nothing was told. */
static void polled_before_the_wait(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), event = MUST(eventfd(1, EFD_CLOEXEC));
    add(ep, event, EPOLLIN | EPOLLET | EPOLLONESHOT, 1);
    add(ep, p.server, EPOLLIN | EPOLLET, 2);
    add(ep, p.client, EDGE | EPOLLONESHOT, 3);
    R(poll_mask(ep, POLLIN, 0));
    show(ep, 0);
    R(poll_mask(ep, POLLIN, 0));
    send_all(p.client, "abc", 3);
    R(poll_mask(ep, POLLIN, 100));
    fd_set set;
    struct timeval now = {0, 0};
    FD_ZERO(&set);
    FD_SET(ep, &set);
    R(select(ep + 1, &set, NULL, NULL, &now));
    show(ep, 0);
    FD_SET(ep, &set);
    R(select(ep + 1, &set, NULL, NULL, &now));
}

/* A set in a set. */
static void watched_by_a_set(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
    char b[16];
    add(ep, p.server, EDGE, 1);
    show(ep, 0);
    add(outer, ep, EPOLLIN, 2);
    show(outer, 0);
    for (int i = 0; i < 3; i++) {
        three_bytes(&p);
        show(outer, 1000);
        show(ep, 0);
        recv_all(p.server, b, 3);
        show(outer, 0);
    }
}

static void uses_the_set(void *arg)
{
    struct family *f = arg;
    await_turn(to_child);
    show(f->ep, 1000);
    pass_turn(to_parent);
}

/* That a child uses one set is no news to the parent's own, though the connection goes back to TCP: the kernel counts
 * the FIN as a byte, and behind the reset it does not say so. */
static void end_is_told_once(void)
{
    struct family f;
    start(&f, EPOLL_CLOEXEC);
    add(f.ep, f.p.server, ALL, 1);
    MUST(close(f.p.client));
    MUST(send(f.p.server, "a", 1, MSG_NOSIGNAL));
    poll_mask(f.p.server, POLLIN, 1000);
    pid_t child = spawn_child('B', uses_the_set, &f);
    int own = MUST(epoll_create1(EPOLL_CLOEXEC));
    add(own, f.p.server, EDGE, 2);
    show(own, 1000);
    show(own, 0);
    child_next();
    show(own, 0);
    join_child(child);
    show(own, 0);
}

MAIN({"edge_is_told_once", edge_is_told_once}, {"untold_edge_is_told_once", untold_edge_is_told_once},
     {"level_is_told_to_both", level_is_told_to_both}, {"one_shot", one_shot},
     {"entered_after_the_fork", entered_after_the_fork}, {"child_closes_all", child_closes_all},
     {"handed_to_the_child", handed_to_the_child}, {"polled_edges", polled_edges}, {"polled_room", polled_room},
     {"polled_one_shot", polled_one_shot}, {"polled_before_the_wait", polled_before_the_wait},
     {"watched_by_a_set", watched_by_a_set}, {"entry_used_again", entry_used_again},
     {"set_closed_by_its_maker", set_closed_by_its_maker}, {"end_is_told_once", end_is_told_once})
