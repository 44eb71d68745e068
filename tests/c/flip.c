// Four connections that are never done, each of another kind, while somebody sends them back and
// forth between TCP and the ring: flip server PORT, flip client PORT. Each end sends a stream in
// which every word says its position, and checks what it receives, word by word. The client ends
// when its standard input does; each end then says how much it has received.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { BULK, PING, EDGE, SELDOM, KINDS };
static const char *const names[] = {"bulk", "ping", "edge", "seldom"};

static atomic_int ending;
static int is_client;

struct end {
    int fd;
    enum kind kind;
    uint64_t sent, received;
    unsigned random;
};

static void die(const char *what, const struct end *e)
{
    fprintf(stderr, "%s: %s at %llu sent, %llu received: %s\n", names[e->kind], what,
            (unsigned long long)e->sent, (unsigned long long)e->received, strerror(errno));
    exit(1);
}

// The byte at a position of the stream that one side sends.
static uint8_t at(uint64_t position, int from_client, enum kind kind)
{
    uint64_t x = (position >> 3) * 2 + from_client + ((uint64_t)kind << 56);
    x *= 0x9e3779b97f4a7c15;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9;
    return x >> (8 * (position & 7));
}

static void fill(struct end *e, uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = at(e->sent + i, is_client, e->kind);
}

static void check(struct end *e, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (buf[i] != at(e->received + i, !is_client, e->kind)) {
            e->received += i;
            errno = 0;
            die("another byte", e);
        }
    e->received += n;
}

static size_t some(struct end *e, size_t most)
{
    e->random = e->random * 1103515245 + 12345;
    return 1 + (e->random >> 8) % most;
}

static void put(struct end *e, uint8_t *buf, size_t n)
{
    fill(e, buf, n);
    for (size_t done = 0; done < n;) {
        ssize_t r = send(e->fd, buf + done, n - done, MSG_NOSIGNAL);
        if (r < 0)
            die("send", e);
        done += r;
        e->sent += r;
    }
}

// 0 at the end of the stream.
static size_t get(struct end *e, uint8_t *buf, size_t n, int flags)
{
    ssize_t r = recv(e->fd, buf, n, flags);
    if (r < 0)
        die("recv", e);
    check(e, buf, r);
    return r;
}

static void *bulk_sender(void *arg)
{
    struct end *e = arg;
    static _Thread_local uint8_t buf[100000];
    unsigned random = 7;
    while (!ending) {
        random = random * 1103515245 + 12345;
        put(e, buf, 1 + (random >> 8) % sizeof buf);
    }
    shutdown(e->fd, SHUT_WR);
    return NULL;
}

static void bulk(struct end *e)
{
    static uint8_t buf[65536];
    pthread_t sender;
    pthread_create(&sender, NULL, bulk_sender, e);
    while (get(e, buf, sizeof buf, 0))
        ;
    // The client decides; the server's sender follows.
    ending = 1;
    pthread_join(sender, NULL);
}

// Messages and answers of the same length; then a pause.
static void ping(struct end *e, size_t most, int pause_ms)
{
    static _Thread_local uint8_t buf[9000];
    for (;;) {
        if (is_client) {
            if (ending) {
                shutdown(e->fd, SHUT_WR);
                if (get(e, buf, 1, 0))
                    die("more than the answers", e);
                return;
            }
            size_t n = some(e, most);
            put(e, buf, n);
            if (get(e, buf, n, MSG_WAITALL) != n)
                die("short answer", e);
            poll(NULL, 0, pause_ms);
        } else {
            size_t n = get(e, buf, sizeof buf, 0);
            if (!n)
                return;
            put(e, buf, n);
        }
    }
}

// Both ways at once, edge-triggered.
static void edge(struct end *e)
{
    static _Thread_local uint8_t buf[30000], out[30000];
    size_t have = 0, done = 0;
    int open = 1, in_open = 1, writable = 1, readable = 1;
    int set = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    fcntl(e->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(set, EPOLL_CTL_ADD, e->fd, &ev);
    while (open || in_open) {
        while (writable && open) {
            if (done == have) {
                if (is_client ? ending : !in_open) {
                    shutdown(e->fd, SHUT_WR);
                    open = 0;
                    break;
                }
                have = some(e, sizeof out);
                done = 0;
                fill(e, out, have);
            }
            ssize_t r = send(e->fd, out + done, have - done, MSG_NOSIGNAL);
            if (r < 0) {
                if (errno != EAGAIN)
                    die("send", e);
                writable = 0;
            } else {
                done += r;
                e->sent += r;
                // Half of the time, let the other one have a turn.
                if (e->random & 1)
                    break;
            }
        }
        for (int i = 0; i < 4 && readable && in_open; i++) {
            ssize_t r = recv(e->fd, buf, some(e, sizeof buf), 0);
            if (r < 0) {
                if (errno != EAGAIN)
                    die("recv", e);
                readable = 0;
            } else if (r == 0) {
                in_open = 0;
            } else {
                check(e, buf, r);
            }
        }
        if ((writable && open) || (readable && in_open) || !(open || in_open))
            continue;
        int n = epoll_wait(set, &ev, 1, 20000);
        if (n <= 0)
            die("no event for 20 s", e);
        writable |= !!(ev.events & (EPOLLOUT | EPOLLERR | EPOLLHUP));
        readable |= !!(ev.events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP));
    }
    close(set);
}

static void *run(void *arg)
{
    struct end *e = arg;
    switch (e->kind) {
    case BULK: bulk(e); break;
    case PING: ping(e, 9000, 0); break;
    case EDGE: edge(e); break;
    default: ping(e, 200, 20);
    }
    return NULL;
}

static void *watch_input(void *arg)
{
    char c;
    while (read(0, &c, 1) > 0)
        ;
    ending = 1;
    return arg;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct end ends[KINDS] = {0};
    pthread_t threads[KINDS], watcher;
    if (argc != 3)
        return 2;
    is_client = argv[1][0] == 'c';
    to.sin_port = htons(atoi(argv[2]));
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!is_client && (bind(listener, (void *)&to, sizeof to) || listen(listener, 8)))
        return 3;
    for (int i = 0; i < KINDS; i++) {
        int fd = is_client ? socket(AF_INET, SOCK_STREAM, 0) : accept(listener, NULL, NULL);
        if (fd < 0 || (is_client && connect(fd, (void *)&to, sizeof to)))
            return 4;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ends[i] = (struct end){.fd = fd, .kind = i, .random = i + is_client * 77};
    }
    if (is_client)
        pthread_create(&watcher, NULL, watch_input, NULL);
    for (int i = 0; i < KINDS; i++)
        pthread_create(&threads[i], NULL, run, &ends[i]);
    for (int i = 0; i < KINDS; i++) {
        pthread_join(threads[i], NULL);
        printf("%s sent %llu received %llu\n", names[i], (unsigned long long)ends[i].sent,
               (unsigned long long)ends[i].received);
        close(ends[i].fd);
    }
    return 0;
}
