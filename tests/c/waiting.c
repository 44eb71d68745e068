/* Threads that sleep while others move the connection on; signals. */
#include "common.h"
#include <setjmp.h>
#include <sys/resource.h>
#include <time.h>

struct ends {
    int fd, other;
};

/* Traffic of another thread on the same connection, other direction: server to client. The
 * sleeper waits for bytes from the client all the time. */
static void other_traffic(struct pair *p)
{
    char b[64];
    for (int i = 0; i < 200; i++) {
        send_all(p->server, b, sizeof b);
        recv_all(p->client, b, sizeof b);
        if (i % 8 == 0)
            sleep_ms(1);
    }
}

static void *sleep_in_recv(void *arg)
{
    char b[16];
    actor('B');
    R(recv(*(int *)arg, b, 16, 0));
    R(recv(*(int *)arg, b, 16, 0));
    return NULL;
}

static void *sleep_in_waitall(void *arg)
{
    char b[16];
    actor('B');
    R(recv(*(int *)arg, b, 10, MSG_WAITALL));
    R(recv(*(int *)arg, b, 16, 0));
    return NULL;
}

static void *sleep_in_poll(void *arg)
{
    char b[16];
    actor('B');
    for (int i = 0; i < 2; i++) {
        trace("%s", mask_name(poll_mask(*(int *)arg, POLLIN, -1)));
        R(recv(*(int *)arg, b, 16, 0));
    }
    return NULL;
}

static void *sleep_in_epoll(void *arg)
{
    char b[16];
    actor('B');
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, *(int *)arg, &e));
    for (int i = 0; i < 2; i++) {
        R(epoll_wait(ep, &e, 1, -1));
        trace("%s", mask_name(e.events));
        R(recv(*(int *)arg, b, 16, 0));
    }
    return NULL;
}

static void *sleep_in_splice(void *arg)
{
    char b[16];
    int f[2];
    actor('B');
    MUST(pipe(f));
    for (int i = 0; i < 2; i++) {
        long n = R(splice(*(int *)arg, NULL, f[1], NULL, 100, 0));
        if (n > 0)
            R(read(f[0], b, 16));
    }
    return NULL;
}

static void asleep(void *(*sleeper)(void *))
{
    for (int round = 0; round < 3; round++) {
        struct pair p = connected();
        pthread_t t = spawn_asleep(sleeper, &p.server);
        other_traffic(&p);
        send_all(p.client, "0123456789", 10);
        sleep_ms(20);
        close(p.client);
        join_thread(t);
        close(p.server);
        close(p.listener);
    }
}

static void asleep_in_recv(void) { asleep(sleep_in_recv); }
static void asleep_in_waitall(void) { asleep(sleep_in_waitall); }
static void asleep_in_poll(void) { asleep(sleep_in_poll); }
static void asleep_in_epoll(void) { asleep(sleep_in_epoll); }
static void asleep_in_splice(void) { asleep(sleep_in_splice); }

/* shutdown of another thread wakes the sleeper. */
static void woken_by_shutdown(void)
{
    for (int i = 0; i < 3; i++) {
        struct pair p = warm_pair();
        pthread_t t = spawn_asleep(i == 0 ? sleep_in_recv : i == 1 ? sleep_in_poll : sleep_in_epoll,
                                   &p.server);
        R(shutdown(p.server, SHUT_RD));
        join_thread(t);
        close_pair(&p);
    }
}

enum { CHUNK = 64 << 10, CHUNKS = 200 };

static void *send_chunks(void *arg)
{
    int *a = arg;
    static __thread char block[CHUNK];
    memset(block, a[1], CHUNK);
    for (int i = 0; i < CHUNKS; i++)
        send_all(a[0], block, CHUNK);
    return NULL;
}

/* Two threads send at once while the connection moves on: every byte once. */
static void two_senders(void)
{
    struct pair p = connected();
    int a[2] = {p.client, 1}, b[2] = {p.client, 2};
    size_t seen[3] = {0}, total = 0;
    static unsigned char block[1 << 16];
    pthread_t t = spawn_thread(send_chunks, a), u = spawn_thread(send_chunks, b);
    while (total < 2ul * CHUNK * CHUNKS) {
        long n = MUST(recv(p.server, block, sizeof block, 0));
        total += n;
        for (long i = 0; i < n; i++)
            seen[block[i] < 3 ? block[i] : 0]++;
        /* Answers give the handshake its turns. */
        if (total % 3 == 0)
            send_all(p.server, "a", 1);
    }
    join_thread(t);
    join_thread(u);
    trace("%zu %zu %zu", seen[0], seen[1], seen[2]);
}

struct reader {
    int fd;
    char letter;
    size_t got;
    uint64_t sum;
};

static void *read_part(void *arg)
{
    struct reader *r = arg;
    static __thread unsigned char block[5000];
    long n;
    while ((n = MUST(recv(r->fd, block, sizeof block, 0))) > 0) {
        r->got += n;
        for (long i = 0; i < n; i++)
            r->sum += block[i];
    }
    return NULL;
}

/* Two threads receive from one connection: together they get every byte once. */
static void two_receivers(void)
{
    struct pair p = warm_pair();
    struct reader r[2] = {{.fd = p.server}, {.fd = p.server}};
    pthread_t t = spawn_thread(read_part, r), u = spawn_thread(read_part, r + 1);
    static unsigned char block[10000];
    uint64_t sum = 0;
    for (int i = 0; i < 2000; i++) {
        fill(block, sizeof block, 7, i);
        for (size_t k = 0; k < sizeof block; k++)
            sum += block[k];
        send_all(p.client, block, sizeof block);
    }
    MUST(shutdown(p.client, SHUT_WR));
    join_thread(t);
    join_thread(u);
    trace("%zu bytes, sum right: %d", r[0].got + r[1].got, r[0].sum + r[1].sum == sum);
}

static int set, served[2], stop_pipe[2];

static void *serve_set(void *arg)
{
    int me = *(int *)arg;
    for (;;) {
        struct epoll_event e;
        char b[64];
        if (MUST(epoll_wait(set, &e, 1, -1)) == 0)
            continue;
        if (e.data.fd == stop_pipe[0])
            return NULL;
        long n = recv(e.data.fd, b, sizeof b, MSG_DONTWAIT);
        if (n > 0) {
            send_all(e.data.fd, b, n);
            served[me]++;
        }
    }
}

/* Two threads in one level-triggered set: no request is lost, each answered once. Again and again, since what may
   be lost is what comes while one of them takes a handshake message. */
static void two_threads_one_set(void)
{
    enum { N = 10, ROUNDS = 100, TURNS = 12 };
    int good = 0, who[] = {0, 1};
    for (int turn = 0; turn < TURNS; turn++) {
        struct pair p[N];
        set = MUST(epoll_create1(0));
        MUST(pipe(stop_pipe));
        for (int i = 0; i < N; i++) {
            p[i] = connected();
            struct epoll_event e = {.events = EPOLLIN, .data.fd = p[i].server};
            MUST(epoll_ctl(set, EPOLL_CTL_ADD, p[i].server, &e));
        }
        pthread_t t[] = {spawn_thread(serve_set, who), spawn_thread(serve_set, who + 1)};
        for (int round = 0; round < ROUNDS; round++) {
            char out[32], in[32];
            for (int i = 0; i < N; i++) {
                fill(out, sizeof out, i, round);
                send_all(p[i].client, out, sizeof out);
            }
            for (int i = 0; i < N; i++) {
                fill(out, sizeof out, i, round);
                recv_all(p[i].client, in, sizeof in);
                good += memcmp(in, out, sizeof in) == 0;
            }
        }
        struct epoll_event e = {.events = EPOLLIN, .data.fd = stop_pipe[0]};
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, stop_pipe[0], &e));
        MUST(write(stop_pipe[1], "x", 1));
        join_thread(t[0]);
        join_thread(t[1]);
        for (int i = 0; i < N; i++) {
            close(p[i].client);
            close(p[i].server);
            close(p[i].listener);
        }
        close(set);
        close(stop_pipe[0]);
        close(stop_pipe[1]);
    }
    trace("%d good", good);
}

static volatile sig_atomic_t signals;
static struct ends in_handler;
static jmp_buf jump;

static void count_signal(int s)
{
    (void)s;
    signals++;
}

static void use_socket(int s)
{
    char b[8];
    (void)s;
    int saved = errno;
    signals += write(in_handler.fd, "s", 1) == 1 && read(in_handler.other, b, 8) == 1;
    errno = saved;
}

static void jump_out(int s)
{
    (void)s;
    siglongjmp(jump, 1);
}

static void on_alarm(void (*handler)(int), int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
    MUST(sigaction(SIGALRM, &a, NULL));
}

static void alarm_in(int ms) { ualarm(ms * 1000, 0); }

/* Sends when the handler has run, and the call sleeps again. */
static void *send_after(void *arg)
{
    while (!signals)
        sleep_ms(1);
    wait_asleep(getpid());
    send_all(*(int *)arg, "late", 4);
    return NULL;
}

#define INTERRUPTED(call) \
    do { \
        pthread_t by = spawn_interruption(SIGALRM); \
        R(call); \
        join_thread(by); \
    } while (0)

static void eintr(void)
{
    struct pair p = warm_pair();
    static char big[8 << 20];
    char b[16];
    on_alarm(count_signal, 0);
    INTERRUPTED(recv(p.server, b, 16, 0));
    INTERRUPTED(read(p.server, b, 16));
    struct pollfd f = {p.server, POLLIN, 0};
    INTERRUPTED(poll(&f, 1, 5000));
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    INTERRUPTED(epoll_wait(ep, &e, 1, 5000));
    INTERRUPTED(accept(p.listener, NULL, NULL));
    send_all(p.client, "abc", 3);
    INTERRUPTED(recv(p.server, b, 10, MSG_WAITALL));
    alarm_in(300);
    long n = send(p.client, big, sizeof big, 0);
    trace("partial: %d", n > 0 && n < (long)sizeof big);
    trace("signals %d", signals);
    set_timeout(p.client, SO_RCVTIMEO, 2000);
    on_alarm(count_signal, SA_RESTART);
    INTERRUPTED(recv(p.client, b, 1, 0));
}

static void restart(void)
{
    struct pair p = warm_pair();
    char b[16];
    on_alarm(count_signal, SA_RESTART);
    pthread_t t = spawn_thread(send_after, &p.client);
    INTERRUPTED(recv(p.server, b, 16, 0));
    join_thread(t);
    struct pollfd f = {p.server, POLLIN, 0};
    INTERRUPTED(poll(&f, 1, 5000));
    trace("signals %d", signals);
}

/* A handler that uses other connections, and the same one, while a call sleeps. */
static void handler_uses_sockets(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    char b[16];
    in_handler = (struct ends){q.client, q.server};
    on_alarm(use_socket, 0);
    INTERRUPTED(recv(p.server, b, 16, 0));
    trace("signals %d", signals);
    in_handler = (struct ends){p.client, p.server};
    on_alarm(use_socket, SA_RESTART);
    signals = 0;
    pthread_t t = spawn_thread(send_after, &p.client);
    INTERRUPTED(recv(p.server, b, 16, 0));
    join_thread(t);
    trace("signals %d", signals);
}

static void handler_jumps(void)
{
    struct pair p = warm_pair();
    char b[16];
    on_alarm(jump_out, SA_NODEFER);
    for (volatile int i = 0; i < 5; i++) {
        if (sigsetjmp(jump, 1) == 0) {
            alarm_in(20);
            recv(p.server, b, 16, 0);
        }
        R(send(p.client, "after", 5, 0));
        R(recv(p.server, b, 16, 0));
    }
}

static void *cancelled(void *arg)
{
    char b[16];
    recv(*(int *)arg, b, 16, 0);
    return NULL;
}

static void cancellation(void)
{
    struct pair p = warm_pair();
    char b[16];
    for (int i = 0; i < 3; i++) {
        pthread_t t = spawn_asleep(cancelled, &p.server);
        void *result;
        pthread_cancel(t);
        pthread_join(t, &result);
        trace("cancelled: %d", result == PTHREAD_CANCELED);
        R(send(p.client, "alive", 5, 0));
        R(recv(p.server, b, 16, 0));
    }
}

static void *sleep_without_room(void *arg)
{
    struct rlimit old, none;
    struct timespec used;
    char b[16];
    actor('B');
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    none = (struct rlimit){0, old.rlim_max};
    MUST(setrlimit(RLIMIT_NOFILE, &none));
    R(recv(*(int *)arg, b, 16, 0));
    MUST(setrlimit(RLIMIT_NOFILE, &old));
    MUST(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used));
    trace("asleep: %d", used.tv_sec == 0 && used.tv_nsec < 150000000);
    return NULL;
}

/* A limit of descriptors that allows no list of them to wait for. */
static void no_room_to_wait(void)
{
    struct pair p = warm_pair();
    pthread_t t = spawn_thread(sleep_without_room, &p.server);
    sleep_ms(500);
    R(send(p.client, "alive", 5, 0));
    join_thread(t);
    close_pair(&p);
}

static void *serve_without_room(void *arg)
{
    struct rlimit old, none;
    int fd = *(int *)arg, ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP};
    char b[3000];
    size_t total = 0;
    actor('B');
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    none = (struct rlimit){0, old.rlim_max};
    for (long n = 1; n > 0; total += n) {
        MUST(epoll_wait(ep, &e, 1, -1));
        n = MUST(recv(fd, b, sizeof b, 0));
        if (total < 1000)
            sleep_ms(3);
        if (total >= 2000)
            MUST(setrlimit(RLIMIT_NOFILE, &none));
        send_all(fd, b, n);
    }
    MUST(setrlimit(RLIMIT_NOFILE, &old));
    trace("events at the end: %x after %zu", e.events, total);
    MUST(close(ep));
    return NULL;
}

/* The same limit around an event loop, once each has had to wake the other. */
static void set_without_room(void)
{
    struct pair p = warm_pair();
    char out[3000], in[3000];
    pthread_t t = spawn_thread(serve_without_room, &p.server);
    for (int i = 0; i < 300; i++) {
        size_t n = 1 + i * 37 % sizeof out;
        if (i < 10)
            sleep_ms(3);
        fill(out, n, 3, i);
        send_all(p.client, out, n);
        recv_all(p.client, in, n);
        if (memcmp(out, in, n) != 0)
            trace("content differs");
    }
    R(shutdown(p.client, SHUT_WR));
    join_thread(t);
    close_pair(&p);
}

MAIN({"asleep_in_recv", asleep_in_recv}, {"asleep_in_waitall", asleep_in_waitall},
     {"asleep_in_poll", asleep_in_poll}, {"asleep_in_epoll", asleep_in_epoll},
     {"asleep_in_splice", asleep_in_splice}, {"woken_by_shutdown", woken_by_shutdown},
     {"two_senders", two_senders}, {"two_receivers", two_receivers},
     {"two_threads_one_set", two_threads_one_set}, {"eintr", eintr}, {"restart", restart},
     {"handler_uses_sockets", handler_uses_sockets}, {"handler_jumps", handler_jumps},
     {"cancellation", cancellation}, {"no_room_to_wait", no_room_to_wait},
     {"set_without_room", set_without_room})
