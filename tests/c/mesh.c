/* Many connections between two processes, both ways at once, in event loops: random sizes, level and
 * edge-triggered, and readers that stop for a while, so that directions leave the ring and come back. */
#include "common.h"

enum { MANY = 16, BYTES = 6 << 20, BLOCK = 200000 };

struct end {
    int fd;
    size_t sent, got;
    uint64_t hash, seed, peer_seed;
    int ended, edge, writing;
    double asleep_until;
    unsigned random;
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* One end's share of a turn; 1: there may be more to do without a new event. */
static int turn(struct end *e)
{
    static char block[BLOCK];
    int again = 0;
    for (int i = 0; i < 4 && e->sent < BYTES; i++) {
        size_t n = rand_r(&e->random) % (rand_r(&e->random) % 4 ? 5000 : BLOCK) + 1;
        n = n < BYTES - e->sent ? n : BYTES - e->sent;
        fill(block, n, e->seed, e->sent);
        long done = send(e->fd, block, n, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN)
            break;
        e->sent += MUST(done);
        again = 1;
        if (e->sent == BYTES)
            MUST(shutdown(e->fd, SHUT_WR));
    }
    if (e->asleep_until > now_ms())
        return again;
    for (int i = 0; i < 4 && !e->ended; i++) {
        long n = recv(e->fd, block, rand_r(&e->random) % BLOCK + 1, 0);
        if (n < 0 && errno == EAGAIN)
            break;
        if (MUST(n) == 0)
            e->ended = 1;
        e->hash = hash(e->hash, block, n);
        e->got += n;
        again = 1;
        if (rand_r(&e->random) % 400 == 0)
            e->asleep_until = now_ms() + rand_r(&e->random) % 300;
    }
    return again;
}

/* Drives all ends to their end; gives how many received exactly what was sent. */
static int drive(struct end *ends)
{
    int set = MUST(epoll_create1(0)), left = MANY, good = 0;
    char more[MANY] = "", done[MANY] = "";
    for (int i = 0; i < MANY; i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.u32 = i};
        ends[i].edge = i % 2;
        ends[i].writing = 1;
        if (ends[i].edge)
            ev.events |= EPOLLET;
        nonblocking(ends[i].fd, 1);
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, ends[i].fd, &ev));
    }
    while (left) {
        int wait = 100;
        for (int i = 0; i < MANY; i++)
            if (!done[i] && (more[i] || ends[i].asleep_until))
                wait = more[i] && ends[i].asleep_until <= now_ms() ? 0 : wait < 5 ? wait : 5;
        struct epoll_event events[MANY];
        int n = MUST(epoll_wait(set, events, MANY, wait));
        for (int i = 0; i < n; i++)
            more[events[i].data.u32] = 1;
        for (int i = 0; i < MANY; i++) {
            struct end *e = &ends[i];
            if (done[i] || !more[i])
                continue;
            more[i] = turn(e);
            if (e->asleep_until && e->asleep_until <= now_ms()) {
                e->asleep_until = 0;
                more[i] = 1;
            } else if (e->asleep_until)
                more[i] = 1;
            int writing = e->sent < BYTES;
            if (writing != e->writing && !e->edge) {
                struct epoll_event ev = {.events = EPOLLIN, .data.u32 = i};
                MUST(epoll_ctl(set, EPOLL_CTL_MOD, e->fd, &ev));
                e->writing = 0;
            }
            if (e->ended && !writing) {
                done[i] = 1;
                left--;
                good += e->got == BYTES && e->hash == hash_of_stream(e->peer_seed, BYTES);
                MUST(epoll_ctl(set, EPOLL_CTL_DEL, e->fd, NULL));
            }
        }
    }
    close(set);
    return good;
}

static void other_side(void *arg)
{
    struct end ends[MANY] = {0};
    for (int i = 0; i < MANY; i++)
        ends[i] = (struct end){.fd = connect_to(*(int *)arg), .hash = HASH_START, .seed = 100 + i,
                               .peer_seed = 200 + i, .random = 77 * i + 1};
    for (int i = 0; i < MANY; i++)
        warm_client(ends[i].fd);
    trace("%d good", drive(ends));
}

static void many_in_loops(void)
{
    int l = listener(MANY);
    pid_t pid = spawn_child('B', other_side, &l);
    struct end ends[MANY] = {0};
    for (int i = 0; i < MANY; i++)
        ends[i] = (struct end){.fd = MUST(accept(l, NULL, NULL)), .hash = HASH_START,
                               .seed = 200 + i, .peer_seed = 100 + i, .random = 99 * i + 5};
    for (int i = 0; i < MANY; i++)
        warm_server(ends[i].fd);
    trace("%d good", drive(ends));
    join_child(pid);
}

MAIN({"many_in_loops", many_in_loops})
