/* Calls that sleep where RLIMIT_NOFILE, lowered to 0 meanwhile, lets nobody poll a list of one. */
#include "common.h"
#include <sys/resource.h>
#include <sys/select.h>
#include <time.h>

enum { RECV, PEEK_ALL, FROM_PIPE, TO_FULL_PIPE, SELECT, EDGE, SEND, CALLS };

struct sleeper {
    struct pair p;
    int call, set, ends[2];
};

static void *sleeps(void *arg)
{
    struct sleeper *s = arg;
    int fd = s->p.server;
    char b[16];
    fd_set read;
    struct epoll_event e = {0};
    struct timespec used;
    actor('B' + s->call);
    FD_ZERO(&read);
    FD_SET(fd, &read);
    switch (s->call) {
    case RECV: R(recv(fd, b, 16, 0)); break;
    case PEEK_ALL: R(recv(fd, b, 16, MSG_PEEK | MSG_WAITALL)); break;
    case FROM_PIPE: R(splice(s->ends[0], NULL, fd, NULL, 16, 0)); break;
    case TO_FULL_PIPE: R(splice(fd, NULL, s->ends[1], NULL, 16, 0)); break;
    case SELECT: R(select(fd + 1, &read, NULL, NULL, NULL)); break;
    case EDGE: R(epoll_wait(s->set, &e, 1, -1)); break;
    case SEND: R(send(fd, b, 16, 0)); break;
    }
    MUST(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used));
    trace("asleep: %d", used.tv_sec == 0 && used.tv_nsec < 150000000);
    shutdown(fd, SHUT_WR);
    return NULL;
}

static void prepare(struct sleeper *s, int call)
{
    static char page[4096];
    s->call = call;
    s->p = warm_pair();
    MUST(pipe(s->ends));
    s->set = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLET};
    MUST(epoll_ctl(s->set, EPOLL_CTL_ADD, s->p.server, &e));
    if (call == PEEK_ALL)
        send_all(s->p.client, "two", 2);
    if (call == SEND)
        fill_up(s->p.server);
    nonblocking(s->ends[1], 1);
    while (call == TO_FULL_PIPE && write(s->ends[1], page, sizeof page) > 0)
        ;
    nonblocking(s->ends[1], 0);
}

static void every_call(void)
{
    struct sleeper all[CALLS];
    pthread_t threads[CALLS];
    struct rlimit old, none;
    static char much[1 << 16];
    int error;
    for (int i = 0; i < CALLS; i++)
        prepare(&all[i], i);
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    none = (struct rlimit){0, old.rlim_max};
    MUST(setrlimit(RLIMIT_NOFILE, &none));
    for (int i = 0; i < CALLS; i++)
        threads[i] = spawn_thread(sleeps, &all[i]);
    sleep_ms(500);
    for (int i = 0; i < CALLS; i++) {
        struct sleeper *s = &all[i];
        if (i == FROM_PIPE)
            MUST(write(s->ends[1], "sixteen in a row", 16));
        else
            send_all(s->p.client, "sixteen in a row", 16);
        if (i == TO_FULL_PIPE)
            MUST(read(s->ends[0], much, sizeof much));
        if (i == SEND || i == FROM_PIPE)
            drain(s->p.client, NULL, &error);
        join_thread(threads[i]);
    }
    MUST(setrlimit(RLIMIT_NOFILE, &old));
    for (int i = 0; i < CALLS; i++)
        close_pair(&all[i].p);
}

MAIN({"every_call", every_call})
