/* What tests of epoll sets have in common. */
#ifndef SETS_H
#define SETS_H
#include "common.h"

static inline void add(int ep, int fd, unsigned events, uint32_t tag)
{
    struct epoll_event e = {.events = events, .data.u32 = tag};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static inline void mod(int ep, int fd, unsigned events, uint32_t tag)
{
    struct epoll_event e = {.events = events, .data.u32 = tag};
    MUST(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
}

/* Traces all events of a set, sorted by tag. */
static inline int show(int ep, int wait_ms)
{
    struct epoll_event e[64];
    int n = MUST(epoll_wait(ep, e, 64, wait_ms));
    if (n == 0)
        trace("no event");
    for (unsigned tag = 0; tag < 64; tag++)
        for (int i = 0; i < n; i++)
            if (e[i].data.u32 == tag)
                trace("%u: %s", tag, mask_name(e[i].events));
    return n;
}

#endif
