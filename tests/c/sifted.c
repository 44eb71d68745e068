/* A connection of a set goes back to TCP, by which the kernel would report it once more. The library takes that out
 * of the set, and with it for a moment what is the program's: none of that is lost, whatever it is. */
#include "sets.h"
#include <spawn.h>
#include <sys/eventfd.h>
#include <unistd.h>

extern char **environ;

enum { EDGE = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };

struct scene {
    struct pair p;
    int ep;
};

/* An edge-triggered connection, 1, that was told of. */
static struct scene start(void)
{
    struct scene s = {warm_pair(), MUST(epoll_create1(EPOLL_CLOEXEC))};
    add(s.ep, s.p.server, EDGE, 1);
    show(s.ep, 0);
    return s;
}

static int event(int ep, unsigned value, unsigned events, uint32_t tag)
{
    int fd = MUST(eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
    add(ep, fd, events, tag);
    return fd;
}

/* A byte that has come is told as on TCP, once. */
static void goes_on(const struct scene *s)
{
    char b[16];
    for (int i = 0; i < 2; i++) {
        send_all(s->p.client, "abc", 3);
        show(s->ep, 1000);
        recv_all(s->p.server, b, 3);
        show(s->ep, 0);
    }
}

/* The connection leaves its ring, for the set is polled. What the others have is told once, and what comes to the
 * last of them later. */
static void told_once(const struct scene *s, int later)
{
    R(poll_mask(s->ep, POLLIN, 0));
    show(s->ep, 0);
    R(poll_mask(s->ep, POLLIN, 0));
    MUST(eventfd_write(later, 1));
    show(s->ep, 0);
    goes_on(s);
}

/* A registration that cannot be changed. */
static void exclusive(void)
{
    struct scene s = start();
    event(s.ep, 1, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, 2);
    int later = event(s.ep, 0, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, 3);
    told_once(&s, later);
}

/* Several descriptors with the same data, of which all but one have something. */
static void equal_data(void)
{
    struct scene s = start();
    event(s.ep, 1, EPOLLIN | EPOLLET, 2);
    event(s.ep, 1, EPOLLIN | EPOLLET | EPOLLONESHOT, 2);
    event(s.ep, 1, EPOLLIN | EPOLLONESHOT, 2);
    int later = event(s.ep, 0, EPOLLIN | EPOLLET, 2);
    told_once(&s, later);
}

/* More than are taken at a time. */
static void many(void)
{
    struct scene s = start();
    for (uint32_t tag = 2; tag < 62; tag++)
        event(s.ep, 1, EPOLLIN | EPOLLET | (tag % 2 ? EPOLLONESHOT : 0), tag);
    R(poll_mask(s.ep, POLLIN, 0));
    show(s.ep, 0);
    R(poll_mask(s.ep, POLLIN, 0));
    goes_on(&s);
}

/* Where nothing says what is in the set, nothing is taken out. The connection itself may be told of once more. */
static void without_proc(void)
{
    struct scene s = start();
    struct epoll_event e[8];
    event(s.ep, 1, EPOLLIN | EPOLLET | EPOLLONESHOT, 2);
    event(s.ep, 1, EPOLLIN | EPOLLET, 3);
    MUST(chroot("/proc/self/fdinfo"));
    R(access("/proc/self", F_OK));
    poll_mask(s.ep, POLLIN, 0);
    int seen = 0;
    for (int n; (n = MUST(epoll_wait(s.ep, e, 8, 0))) > 0;)
        for (int i = 0; i < n; i++)
            seen |= 1 << e[i].data.u32;
    trace("2: %d, 3: %d", seen >> 2 & 1, seen >> 3 & 1);
    goes_on(&s);
}

/* Not even of the end a one-shot tells that has fired, until it is armed again. */
static void ends_unheard(const struct scene *s)
{
    R(shutdown(s->p.client, SHUT_WR));
    R(poll_mask(s->p.server, POLLIN, 1000));
    show(s->ep, 0);
    R(poll_mask(s->ep, POLLIN, 0));
    mod(s->ep, s->p.server, EDGE | EPOLLONESHOT, 2);
    show(s->ep, 0);
    show(s->ep, 0);
}

static void is_told(void *arg)
{
    const struct scene *s = arg;
    struct epoll_event e;
    R(shutdown(s->p.server, SHUT_RDWR));
    R(epoll_wait(s->ep, &e, 1, 1000));
    trace("%u: %s", e.data.u32, mask_name(e.events));
}

/* The child, which is told, with room for no more, finds bytes on the ring that it cannot have sent again any more. */
static void fired_in_the_child(void)
{
    struct scene s = {warm_pair(), MUST(epoll_create1(EPOLL_CLOEXEC))};
    add(s.ep, s.p.server, EDGE | EPOLLONESHOT, 1);
    send_all(s.p.client, "abc", 3);
    join_child(spawn_child('B', is_told, &s));
    ends_unheard(&s);
}

/* A program is started that has the set. */
static void fired_and_inherited(void)
{
    struct scene s = {warm_pair(), MUST(epoll_create1(0))};
    char *argv[] = {"true", NULL};
    pid_t child;
    add(s.ep, s.p.server, EDGE | EPOLLONESHOT, 1);
    show(s.ep, 0);
    MUST(posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ));
    MUST(waitpid(child, NULL, 0));
    R(shutdown(s.p.server, SHUT_WR));
    ends_unheard(&s);
}

MAIN({"exclusive", exclusive}, {"equal_data", equal_data}, {"many", many}, {"without_proc", without_proc},
     {"fired_in_the_child", fired_in_the_child}, {"fired_and_inherited", fired_and_inherited})
