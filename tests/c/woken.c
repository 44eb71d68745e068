/* What has woken a call that finds, when it runs at last, that it was changed meanwhile. */
#include "sets.h"
#include <sched.h>

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

MAIN({"closed_and_woken_at_once", closed_and_woken_at_once}, {"nothing_woken_by_room", nothing_woken_by_room},
     {"room_used_again", room_used_again})
