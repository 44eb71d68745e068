/* A connection in a set of a parent and its child, that one of them has closed: the kernel goes on reporting it to both,
 * until the other closes it too. */
#include "sets.h"

enum { ALL = EPOLLIN | EPOLLOUT | EPOLLRDHUP };

struct scene {
    struct pair p;
    int ep, to_child[2], to_parent[2];
};

static struct scene start(unsigned events)
{
    struct scene s = {.p = warm_pair(), .ep = MUST(epoll_create1(EPOLL_CLOEXEC))};
    MUST(pipe(s.to_child));
    MUST(pipe(s.to_parent));
    add(s.ep, s.p.server, events, 1);
    return s;
}

static void tell(const int way[2]) { MUST(write(way[1], "", 1)); }

static void hear(const int way[2])
{
    char b;
    MUST(read(way[0], &b, 1));
}

static void child_next(const struct scene *s)
{
    tell(s->to_child);
    hear(s->to_parent);
}

static void parent_next(const struct scene *s)
{
    tell(s->to_parent);
    hear(s->to_child);
}

static void has_closed_it(void *arg)
{
    struct scene *s = arg;
    close(s->p.server);
    hear(s->to_child);
    show(s->ep, 100);
    parent_next(s);
    show(s->ep, 100);
    parent_next(s);
    show(s->ep, 0);
    parent_next(s);
    show(s->ep, 100);
    /* The connection has ended with its last holder. */
    trace("%s", mask_name(poll_mask(s->p.client, POLLRDHUP, 1000)));
    tell(s->to_parent);
}

/* The child has closed it; the parent does not use the set meanwhile. */
static void in_the_child(unsigned events)
{
    struct scene s = start(events);
    char b[16];
    pid_t child = spawn_child('B', has_closed_it, &s);
    child_next(&s);
    send_all(s.p.client, "abc", 3);
    poll_mask(s.p.server, POLLIN, 1000);
    child_next(&s);
    recv_all(s.p.server, b, 3);
    child_next(&s);
    close(s.p.server);
    child_next(&s);
    join_child(child);
}

static void level_in_the_child(void) { in_the_child(ALL); }
static void input_in_the_child(void) { in_the_child(EPOLLIN); }
static void edge_in_the_child(void) { in_the_child(EPOLLIN | EPOLLET); }
static void one_shot_in_the_child(void) { in_the_child(ALL | EPOLLONESHOT); }

static void sleeps(void *arg)
{
    struct scene *s = arg;
    close(s->p.server);
    close(s->p.client);
    show(s->ep, 0);
    parent_next(s);
    show(s->ep, 5000);
    tell(s->to_parent);
}

/* What comes wakes the child. */
static void wakes_the_child(void)
{
    struct scene s = start(EPOLLIN);
    pid_t child = spawn_child('B', sleeps, &s);
    hear(s.to_parent);
    tell(s.to_child);
    send_all(s.p.client, "abc", 3);
    /* The first bytes of a connection may lie behind a message of the library's, which its holder takes. */
    poll_mask(s.p.server, POLLIN, 1000);
    hear(s.to_parent);
    join_child(child);
}

/* So does the peer's end. */
static void end_wakes_the_child(void)
{
    struct scene s = start(EPOLLRDHUP);
    pid_t child = spawn_child('B', sleeps, &s);
    hear(s.to_parent);
    tell(s.to_child);
    close(s.p.client);
    hear(s.to_parent);
    join_child(child);
}

static void goes_on(void *arg)
{
    struct scene *s = arg;
    char b[16];
    hear(s->to_child);
    show(s->ep, 100);
    recv_all(s->p.server, b, 3);
    show(s->ep, 0);
    parent_next(s);
    send_all(s->p.client, "abc", 3);
    poll_mask(s->p.server, POLLIN, 1000);
    parent_next(s);
}

/* The parent has closed it, with bytes unread. */
static void in_the_parent(void)
{
    struct scene s = start(EPOLLIN);
    pid_t child = spawn_child('B', goes_on, &s);
    send_all(s.p.client, "abc", 3);
    poll_mask(s.p.server, POLLIN, 1000);
    close(s.p.server);
    show(s.ep, 100);
    child_next(&s);
    show(s.ep, 0);
    child_next(&s);
    show(s.ep, 100);
    tell(s.to_child);
    join_child(child);
    show(s.ep, 0);
}

MAIN({"level_in_the_child", level_in_the_child}, {"input_in_the_child", input_in_the_child},
     {"edge_in_the_child", edge_in_the_child}, {"one_shot_in_the_child", one_shot_in_the_child},
     {"wakes_the_child", wakes_the_child}, {"end_wakes_the_child", end_wakes_the_child},
     {"in_the_parent", in_the_parent})
