/* A server and a client for the tests that look from outside or kill.
 *
 *   talk serve PORT [CONNECTIONS]  echoes; one child per connection when CONNECTIONS is 0
 *   talk threads PORT              echoes; one thread per connection, until it is killed
 *   talk events PORT               echoes; all connections in one epoll set, until it is killed
 *   talk set PORT                  the same, each registered once
 *   talk ask PORT COUNT HOLD       COUNT exchanges of growing content; holds the connection for
 *                                  HOLD ms; prints length and hash of what it sent
 *   talk pump PORT SIZE            exchanges of SIZE bytes until the connection ends; prints how
 *   talk steps PORT                for each number on stdin, an exchange of so many bytes; prints its
 *                                  place when it is done, at the end length and hash of what it sent
 *   talk send PORT SIZE            sends blocks of SIZE bytes until the connection ends
 *   talk sink PORT                 receives from one connection, checks the content
 *   talk storm PORT COUNT          COUNT connections, one after the other: a byte there and back, then
 *                                  a reset, so that no port is taken afterwards
 *   talk more PORT                 for each number on stdin: so many more connections, or the oldest ones
 *                                  closed; then exchanges on all at once; prints its place when it is done
 *   talk crowd COUNT EXCHANGES     COUNT connections between parent and child, then idle
 *   talk crowd COUNT EXCHANGES go  one more exchange of each after each SIGUSR1; prints how many it were
 */
#include "common.h"
#include <arpa/inet.h>
#include <sys/resource.h>

/* TALK_AT: address of the server, instead of 127.0.0.1. TALK_FROM: port of the client. TALK_DROP: user
 * that the server's children become. */
static socklen_t address(struct sockaddr_storage *a, int port)
{
    const char *at = getenv("TALK_AT");
    struct sockaddr_in *v4 = (void *)a;
    struct sockaddr_in6 *v6 = (void *)a;
    memset(a, 0, sizeof *a);
    if (at != NULL && inet_pton(AF_INET6, at, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof *v6;
    }
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    MUST(inet_pton(AF_INET, at != NULL ? at : "127.0.0.1", &v4->sin_addr) - 1);
    return sizeof *v4;
}

static int reusable_socket(int family)
{
    int fd = MUST(socket(family, SOCK_STREAM, 0)), one = 1;
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    return fd;
}

static int listen_at(int port)
{
    struct sockaddr_storage a;
    socklen_t len = address(&a, port);
    int fd = reusable_socket(a.ss_family);
    MUST(bind(fd, (struct sockaddr *)&a, len));
    MUST(listen(fd, 1024));
    return fd;
}

static int connect_at(int port)
{
    struct sockaddr_storage a;
    socklen_t len = address(&a, port);
    const char *from = getenv("TALK_FROM");
    int fd = reusable_socket(a.ss_family);
    if (from != NULL) {
        struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(atoi(from))};
        MUST(bind(fd, (struct sockaddr *)&own, sizeof own));
    }
    MUST(connect(fd, (struct sockaddr *)&a, len));
    return fd;
}

static int send_quiet(int fd, const char *data, size_t len)
{
    while (len > 0) {
        long n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0)
            return -1;
        data += n;
        len -= n;
    }
    return 0;
}

static void echo(int fd)
{
    static char block[1 << 18];
    long n;
    while ((n = recv(fd, block, sizeof block, 0)) > 0)
        if (send_quiet(fd, block, n) < 0) {
            n = -1;
            break;
        }
    printf("end %s\n", errno_name(n < 0 ? errno : 0));
    close(fd);
}

static void serve(int port, int connections)
{
    int l = listen_at(port);
    for (int i = 0; connections == 0 || i < connections; i++) {
        int fd = MUST(accept(l, NULL, NULL));
        if (connections > 0) {
            echo(fd);
        } else if (MUST(fork()) == 0) {
            close(l);
            if (getenv("TALK_DROP") != NULL)
                MUST(setuid(atoi(getenv("TALK_DROP"))));
            echo(fd);
            exit(0);
        } else {
            close(fd);
            signal(SIGCHLD, SIG_IGN);
        }
    }
}

static void *echo_thread(void *fd)
{
    char *block = malloc(1 << 16);
    long n;
    while ((n = recv((long)fd, block, 1 << 16, 0)) > 0 && send_quiet((long)fd, block, n) == 0)
        ;
    close((long)fd);
    free(block);
    return NULL;
}

static void threads(int port)
{
    int l = listen_at(port);
    for (;;) {
        long fd = MUST(accept(l, NULL, NULL));
        pthread_detach(spawn_thread(echo_thread, (void *)fd));
    }
}

struct echoed {
    int fd;
    size_t from, to;
    char block[1 << 16];
};

/* Sends what is left, then receives more: until one of the two would wait. 0: the end. */
static int echo_step(int ep, struct echoed *c)
{
    for (;;) {
        while (c->from < c->to) {
            long n = send(c->fd, c->block + c->from, c->to - c->from, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) {
                struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
                return MUST(epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e)) == 0;
            }
            if (n <= 0)
                return 0;
            c->from += n;
        }
        long n = recv(c->fd, c->block, sizeof c->block, 0);
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
            return MUST(epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e)) == 0;
        }
        if (n <= 0)
            return 0;
        c->from = 0;
        c->to = n;
    }
}

static void events(int port)
{
    int l = listen_at(port), ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e));
    for (;;) {
        struct epoll_event got[16];
        int n = MUST(epoll_wait(ep, got, 16, -1));
        for (int i = 0; i < n; i++) {
            struct echoed *c = got[i].data.ptr;
            if (c == NULL) {
                c = calloc(1, sizeof *c);
                c->fd = MUST(accept4(l, NULL, NULL, SOCK_NONBLOCK));
                struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
                MUST(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e));
            } else if (!echo_step(ep, c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}

static void set(int port)
{
    static char block[1 << 16];
    int l = listen_at(port), ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN, .data.fd = l};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e));
    for (;;) {
        MUST(epoll_wait(ep, &e, 1, -1));
        int fd = e.data.fd;
        if (fd == l) {
            e.data.fd = MUST(accept(l, NULL, NULL));
            MUST(epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e));
            continue;
        }
        long n = recv(fd, block, sizeof block, 0);
        if (n > 0)
            send_all(fd, block, n);
        else
            close(fd);
    }
}

static void ask(int port, int count, int hold)
{
    static char out[1 << 16], in[1 << 16];
    int fd = connect_at(port);
    size_t at = 0;
    uint64_t h = HASH_START;
    for (int i = 0; i < count; i++) {
        size_t n = 1 + i * 37 % 3000 + (i % 50 == 49 ? 50000 : 0);
        fill(out, n, 11, at);
        send_all(fd, out, n);
        recv_all(fd, in, n);
        if (memcmp(in, out, n) != 0) {
            puts("content differs");
            exit(1);
        }
        h = hash(h, out, n);
        at += n;
    }
    printf("%zu %016llx\n", at, (unsigned long long)h);
    sleep_ms(hold);
    MUST(shutdown(fd, SHUT_WR));
    printf("%s\n", recv(fd, in, 1, 0) == 0 ? "end" : "no end");
}

static void pump(int port, size_t size)
{
    char *out = malloc(size), *in = malloc(size);
    int fd = connect_at(port);
    for (size_t at = 0;; at += size) {
        fill(out, size, 12, at);
        size_t got = 0;
        long n = send_quiet(fd, out, size);
        while (n >= 0 && got < size && (n = recv(fd, in + got, size - got, 0)) > 0)
            got += n;
        if (memcmp(in, out, got) != 0) {
            puts("content differs");
            exit(1);
        }
        if (got < size) {
            printf("end %s\n", errno_name(n < 0 ? errno : 0));
            return;
        }
        if (at / size % 64 == 0)
            printf("%zu\n", at / size);
    }
}

static void steps(int port)
{
    static char out[1 << 16], in[1 << 16];
    int fd = connect_at(port), n;
    size_t at = 0;
    uint64_t h = HASH_START;
    for (int i = 1; scanf("%d", &n) == 1 && n > 0 && n <= (int)sizeof out; i++) {
        fill(out, n, 14, at);
        send_all(fd, out, n);
        recv_all(fd, in, n);
        if (memcmp(in, out, n) != 0) {
            puts("content differs");
            exit(1);
        }
        h = hash(h, out, n);
        at += n;
        printf("%d\n", i);
    }
    printf("%zu %016llx\n", at, (unsigned long long)h);
    MUST(shutdown(fd, SHUT_WR));
    puts(recv(fd, in, 1, 0) == 0 ? "end" : "no end");
}

static void more(int port)
{
    enum { MOST = 64, SIZE = 3000 };
    static struct { int fd; size_t at; } open[MOST];
    static char out[SIZE], in[SIZE];
    int first = 0, last = 0, n;
    for (int place = 1; scanf("%d", &n) == 1; place++) {
        if (first == last)
            first = last = 0;
        for (; n > 0 && last < MOST; n--, last++) {
            open[last].fd = connect_at(port);
            open[last].at = 0;
        }
        for (; n < 0 && first < last; n++)
            MUST(close(open[first++].fd));
        for (int round = 0; round < 100; round++) {
            for (int i = first; i < last; i++) {
                fill(out, SIZE, 20 + i, open[i].at);
                send_all(open[i].fd, out, SIZE);
            }
            for (int i = first; i < last; i++) {
                fill(out, SIZE, 20 + i, open[i].at);
                recv_all(open[i].fd, in, SIZE);
                if (memcmp(in, out, SIZE) != 0) {
                    puts("content differs");
                    exit(1);
                }
                open[i].at += SIZE;
            }
        }
        printf("%d\n", place);
    }
    puts("end");
}

static void send_blocks(int port, size_t size)
{
    char *out = malloc(size);
    int fd = connect_at(port);
    size_t at = 0;
    for (;; at += size) {
        fill(out, size, 13, at);
        if (send_quiet(fd, out, size) < 0)
            break;
    }
    printf("end %s\n", errno_name(errno));
}

static void sink(int port)
{
    static char block[1 << 16], expected[1 << 16];
    int fd = MUST(accept(listen_at(port), NULL, NULL));
    size_t at = 0;
    long n;
    while ((n = recv(fd, block, sizeof block, 0)) > 0) {
        fill(expected, n, 13, at);
        if (memcmp(block, expected, n) != 0) {
            puts("content differs");
            exit(1);
        }
        at += n;
    }
    printf("end %s\n", errno_name(n < 0 ? errno : 0));
}

static void storm(int port, int count)
{
    struct linger reset = {.l_onoff = 1};
    for (int i = 0; i < count; i++) {
        int fd = connect_at(port);
        char out = i, in = 0;
        send_all(fd, &out, 1);
        recv_all(fd, &in, 1);
        if (in != out) {
            puts("content differs");
            exit(1);
        }
        MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
        MUST(close(fd));
    }
    printf("%d\n", count);
}

static void crowd_server(int l, int count)
{
    int ep = MUST(epoll_create1(0));
    for (int i = 0; i < count; i++) {
        int fd = MUST(accept(l, NULL, NULL));
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    }
    for (;;) {
        struct epoll_event e[64];
        int n = MUST(epoll_wait(ep, e, 64, -1));
        for (int i = 0; i < n; i++) {
            char b[256];
            long got = recv(e[i].data.fd, b, sizeof b, MSG_DONTWAIT);
            if (got == 0)
                exit(0);
            if (got > 0)
                send_all(e[i].data.fd, b, got);
        }
    }
}

static void exchange(const int *fd, int count)
{
    char b[64] = "hello";
    for (int i = 0; i < count; i++) {
        send_all(fd[i], b, sizeof b);
        recv_all(fd[i], b, sizeof b);
    }
}

static void crowd(int count, int exchanges, int go_on)
{
    sigset_t go;
    sigemptyset(&go);
    sigaddset(&go, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &go, NULL));
    struct rlimit files;
    MUST(getrlimit(RLIMIT_NOFILE, &files));
    files.rlim_cur = files.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &files));
    int l = listener(1024), *fd = malloc(count * sizeof *fd);
    pid_t pid = MUST(fork());
    if (pid == 0)
        crowd_server(l, count);
    for (int i = 0; i < count; i++)
        fd[i] = connect_to(l);
    for (int round = 0; round < exchanges; round++)
        exchange(fd, count);
    printf("%d idle with %d\n", getpid(), pid);
    if (go_on) {
        for (int round = 1;; round++) {
            MUST(sigwaitinfo(&go, NULL));
            exchange(fd, count);
            printf("round %d.\n", round);
        }
    }
    char b;
    recv(fd[0], &b, 1, 0);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    int a = argc > 2 ? atoi(argv[2]) : 0, b = argc > 3 ? atoi(argv[3]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(what, "serve") == 0)
        serve(a, b);
    else if (strcmp(what, "threads") == 0)
        threads(a);
    else if (strcmp(what, "events") == 0)
        events(a);
    else if (strcmp(what, "set") == 0)
        set(a);
    else if (strcmp(what, "ask") == 0)
        ask(a, b, argc > 4 ? atoi(argv[4]) : 0);
    else if (strcmp(what, "pump") == 0)
        pump(a, b);
    else if (strcmp(what, "steps") == 0)
        steps(a);
    else if (strcmp(what, "more") == 0)
        more(a);
    else if (strcmp(what, "send") == 0)
        send_blocks(a, b);
    else if (strcmp(what, "sink") == 0)
        sink(a);
    else if (strcmp(what, "storm") == 0)
        storm(a, b);
    else if (strcmp(what, "crowd") == 0)
        crowd(a, b, argc > 4);
    else
        return 2;
    return 0;
}
