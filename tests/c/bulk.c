/* Much data: full buffers, large streams, one thread at both ends. */
#include "common.h"

static char big[4 << 20], back[4 << 20];

/* One thread owns both ends: as much as TCP takes with nobody reading, 4 MB if it can. */
static void own_both_ends(void)
{
    struct pair p = warm_pair();
    nonblocking(p.client, 1);
    fill(big, sizeof big, 2, 0);
    size_t sent = 0, got = 0;
    int stuck = 0;
    while (sent < sizeof big && stuck < 20) {
        long n = send(p.client, big + sent, sizeof big - sent, 0);
        if (n > 0)
            sent += n;
        else
            stuck += poll_mask(p.client, POLLOUT, 50) == 0;
    }
    trace("wrote at least 4 MB without a reader: %d", sent >= 4 << 20);
    while (got < sent) {
        long n = MUST(recv(p.server, back + got, sizeof back - got, 0));
        got += n;
    }
    trace("same: %d", memcmp(big, back, sent) == 0);
    trace("%s", mask_name(poll_mask(p.client, POLLOUT | POLLIN, 1000)));
    nonblocking(p.client, 0);
    warm(p.client, p.server);
}

/* Partial writes until EAGAIN, then POLLOUT once there is room. */
static void full_then_room(void)
{
    struct pair p = warm_pair();
    nonblocking(p.client, 1);
    size_t sent = 0, got = 0;
    uint64_t h = HASH_START;
    for (int round = 0; round < 3; round++) {
        long n;
        do {
            fill(big, 100000, 3, sent);
            n = send(p.client, big, 100000, 0);
            sent += n > 0 ? n : 0;
        } while (n > 0 || poll_mask(p.client, POLLOUT, 100));
        trace("full: %s, %s", errno_name(errno), mask_name(poll_mask(p.client, POLLOUT, 0)));
        while (got < sent) {
            n = MUST(recv(p.server, back, sizeof back, 0));
            h = hash(h, back, n);
            got += n;
        }
        trace("room: %s", mask_name(poll_mask(p.client, POLLOUT, 1000)));
    }
    trace("same: %d", h == hash_of_stream(3, sent));
}

static void *random_writer(void *arg)
{
    int fd = *(int *)arg;
    unsigned r = fd * 7919;
    static __thread char block[300000];
    for (size_t at = 0; at < 96 << 20;) {
        size_t n = rand_r(&r) % (rand_r(&r) % 8 ? 3000 : sizeof block) + 1;
        n = n < (96 << 20) - at ? n : (96 << 20) - at;
        fill(block, n, 4, at);
        send_all(fd, block, n);
        at += n;
    }
    MUST(shutdown(fd, SHUT_WR));
    return NULL;
}

static void *random_reader(void *arg)
{
    int fd = *(int *)arg;
    unsigned r = fd * 104729;
    static __thread char block[300000];
    uint64_t h = HASH_START;
    size_t total = 0;
    long n;
    while ((n = MUST(recv(fd, block, rand_r(&r) % sizeof block + 1, 0))) > 0) {
        h = hash(h, block, n);
        total += n;
    }
    return (void *)(uintptr_t)(total == 96 << 20 && h == hash_of_stream(4, total));
}

/* 96 MiB each way at once with random sizes. */
static void random_sizes(void)
{
    struct pair p = connected();
    pthread_t t[] = {spawn_thread(random_writer, &p.client), spawn_thread(random_writer, &p.server),
                     spawn_thread(random_reader, &p.client), spawn_thread(random_reader, &p.server)};
    for (int i = 0; i < 4; i++) {
        void *good;
        pthread_join(t[i], &good);
        if (i >= 2)
            trace("same: %d", (int)(uintptr_t)good);
    }
}

static void *upload(void *arg)
{
    for (size_t at = 0; at < 64 << 20; at += 1 << 16) {
        char block[1 << 16];
        fill(block, sizeof block, 5, at);
        send_all(*(int *)arg, block, sizeof block);
    }
    close(*(int *)arg);
    return NULL;
}

/* The server never answers. */
static void pure_uploader(void)
{
    struct pair p = connected();
    pthread_t t = spawn_thread(upload, &p.client);
    uint64_t h;
    int error;
    R(drain(p.server, &h, &error));
    trace("same: %d, %s", h == hash_of_stream(5, 64 << 20), errno_name(error));
    join_thread(t);
}

static void *busy_writer(void *arg)
{
    static char block[100000];
    for (size_t at = 0; at < 96 << 20; at += sizeof block) {
        fill(block, sizeof block, 8, at);
        send_all(*(int *)arg, block, sizeof block);
    }
    close(*(int *)arg);
    return NULL;
}

/* The reader is always behind, and now and then stands still: the stream never runs empty. */
static void reader_behind(void)
{
    struct pair p = warm_pair();
    pthread_t t = spawn_thread(busy_writer, &p.client);
    size_t total = 0, pauses = 0;
    uint64_t h = HASH_START;
    long n;
    sleep_ms(300);
    while ((n = MUST(recv(p.server, back, 50000, 0))) > 0) {
        h = hash(h, back, n);
        total += n;
        if (total >> 25 > pauses) {
            pauses++;
            sleep_ms(300);
        }
    }
    trace("%zu, same: %d", total, h == hash_of_stream(8, total));
    join_thread(t);
}

MAIN({"own_both_ends", own_both_ends}, {"full_then_room", full_then_room},
     {"random_sizes", random_sizes}, {"pure_uploader", pure_uploader},
     {"reader_behind", reader_behind})
