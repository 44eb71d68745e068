/* Forks, and programs that are started, while a connection leaves its ring with bytes on it. */
#include "common.h"

extern char **environ;

enum { HALF = 100000, PIECE = 10000, PIECES = 400, FIRST = 5000 };

static void snapshot(void *arg)
{
    (void)arg;
    sleep_ms(30);
}

static void leave(int how, const struct pair *p)
{
    int on = 1, two = 2;
    if (how == 0)
        MUST(setsockopt(p->server, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    if (how == 1) {
        MUST(setsockopt(p->client, SOL_SOCKET, SO_RCVLOWAT, &two, sizeof two));
        MUST(setsockopt(p->server, SOL_SOCKET, SO_RCVLOWAT, &two, sizeof two));
    }
    if (how == 2)
        MUST(setsockopt(p->client, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
}

/* Children that do nothing but hold copies of it, before, while and after it leaves. */
static void forks(void)
{
    static char out[2 * HALF], in[2 * HALF];
    fill(out, sizeof out, 4, 0);
    for (int how = 0; how < 6; how++) {
        struct pair p = warm_pair();
        pid_t child[3];
        char b[8];
        send_all(p.client, out, HALF);
        if (how < 3)
            child[0] = spawn_child('B', snapshot, NULL);
        leave(how % 3, &p);
        if (how >= 3)
            child[0] = spawn_child('B', snapshot, NULL);
        recv_all(p.server, in, HALF / 2);
        child[1] = spawn_child('B', snapshot, NULL);
        send_all(p.client, out + HALF, HALF);
        child[2] = spawn_child('B', snapshot, NULL);
        recv_all(p.server, in + HALF / 2, sizeof in - HALF / 2);
        trace("same: %d", memcmp(in, out, sizeof in) == 0);
        for (int i = 0; i < 3; i++)
            join_child(child[i]);
        R(send(p.server, "back", 4, 0));
        R(recv(p.client, b, 8, 0));
        close(p.client);
        R(recv(p.server, b, 8, 0));
        close(p.server);
        close(p.listener);
    }
}

static void *pump(void *arg)
{
    static char piece[PIECE];
    int fd = *(int *)arg;
    for (int i = 0; i < PIECES; i++) {
        fill(piece, sizeof piece, 9, (uint64_t)i * sizeof piece);
        send_all(fd, piece, sizeof piece);
    }
    MUST(shutdown(fd, SHUT_WR));
    return NULL;
}

/* A program takes over in the middle of a stream that goes on, with the library and without. */
static void programs(void)
{
    char *const nothing[] = {NULL};
    for (int how = 0; how < 6; how++) {
        struct pair p = warm_pair();
        int out[2];
        char b[FIRST];
        uint64_t h;
        MUST(pipe(out));
        pthread_t t = spawn_thread(pump, &p.client);
        recv_all(p.server, b, sizeof b);
        pid_t pid = start_cat(how % 3, p.server, out[1], how < 3 ? environ : nothing);
        close(p.server);
        close(out[1]);
        size_t n = sizeof b;
        static char piece[1 << 16];
        h = hash(HASH_START, b, sizeof b);
        for (long k; (k = read(out[0], piece, sizeof piece)) > 0; n += k)
            h = hash(h, piece, k);
        trace("%zu, same: %d", n, h == hash_of_stream(9, PIECES * PIECE));
        join_thread(t);
        join_child(pid);
        R(recv(p.client, b, 1, 0));
        close(p.client);
        close(p.listener);
        close(out[0]);
    }
}

MAIN({"forks", forks}, {"programs", programs})
