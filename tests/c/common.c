#include "common.h"
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>

enum { ACTORS = 8, TEXT = 1 << 16 };

struct part {
    size_t used;
    char text[TEXT];
};

/* Shared by all processes of the case. */
static struct part *parts;
static __thread int me;

void actor(char letter) { me = letter - 'A'; }

void trace(const char *format, ...)
{
    int saved = errno;
    struct part *part = &parts[me];
    char line[512];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    if (n > (int)sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    size_t at = __atomic_fetch_add(&part->used, n, __ATOMIC_RELAXED);
    if (at + n < TEXT)
        memcpy(part->text + at, line, n);
    errno = saved;
}

static void print_trace(void)
{
    for (int i = 0; i < ACTORS; i++) {
        char head[] = {'[', 'A' + i, ']', '\n'};
        size_t used = parts[i].used < TEXT ? parts[i].used : TEXT;
        if (used > 0 && (write(1, head, sizeof head) < 0 || write(1, parts[i].text, used) < 0))
            _exit(98);
    }
}

static void on_term(int signal)
{
    (void)signal;
    print_trace();
    _exit(97);
}

int run_case(int argc, char **argv, const struct test *tests, size_t count)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < count; i++) {
        if (argc < 2) {
            puts(tests[i].name);
        } else if (strcmp(argv[1], tests[i].name) == 0) {
            parts = mmap(NULL, sizeof *parts * ACTORS, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            MUST(parts == MAP_FAILED ? -1 : 0);
            signal(SIGTERM, on_term);
            tests[i].run();
            print_trace();
            return 0;
        }
    }
    return argc < 2 ? 0 : 2;
}

const char *errno_name(int error)
{
    const char *name = error ? strerrorname_np(error) : "0";
    return name ? name : "?";
}

long trace_result(const char *what, long result)
{
    if (result == -1)
        trace("%s = -1 %s", what, errno_name(errno));
    else
        trace("%s = %ld", what, result);
    return result;
}

const char *mask_name(unsigned mask)
{
    static const struct {
        unsigned bit;
        const char *name;
    } bits[] = {{EPOLLIN, "IN"},         {EPOLLPRI, "PRI"},       {EPOLLOUT, "OUT"},
                {EPOLLERR, "ERR"},       {EPOLLHUP, "HUP"},       {EPOLLRDHUP, "RDHUP"},
                {POLLNVAL, "NVAL"},      {EPOLLRDNORM, "RDNORM"}, {EPOLLRDBAND, "RDBAND"},
                {EPOLLWRNORM, "WRNORM"}, {EPOLLWRBAND, "WRBAND"}};
    static __thread char text[128];
    text[0] = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        if (mask & bits[i].bit) {
            strcat(text, text[0] ? "|" : "");
            strcat(text, bits[i].name);
        }
    return text[0] ? text : "0";
}

long must_(long result, const char *what, const char *file, int line)
{
    if (result == -1) {
        fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, errno_name(errno));
        if (parts && parts != MAP_FAILED)
            print_trace();
        _exit(99);
    }
    return result;
}

/* Without Nagle's algorithm, whose pauses would show in the traces. */
int tcp_socket(void)
{
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0)), one = 1;
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    return fd;
}

int listener(int backlog)
{
    int fd = tcp_socket();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(fd, (struct sockaddr *)&a, sizeof a));
    MUST(listen(fd, backlog));
    return fd;
}

struct sockaddr_in address_of(int fd)
{
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (struct sockaddr *)&a, &len));
    return a;
}

int connect_to(int listening_fd)
{
    struct sockaddr_in a = address_of(listening_fd);
    int fd = tcp_socket();
    MUST(connect(fd, (struct sockaddr *)&a, sizeof a));
    return fd;
}

struct pair connected(void)
{
    struct pair p = {.listener = listener(16)};
    p.client = connect_to(p.listener);
    p.server = MUST(accept(p.listener, NULL, NULL));
    return p;
}

struct pair warm_pair(void)
{
    struct pair p = connected();
    warm(p.client, p.server);
    return p;
}

void close_pair(struct pair *p)
{
    close(p->client);
    close(p->server);
    close(p->listener);
}

int warm_rounds(void)
{
    const char *rounds = getenv("TEST_WARM");
    return rounds ? atoi(rounds) : 4;
}

/* The pauses give the daemon time to pair both ends. */
void warm(int client, int server)
{
    char b[64] = "warm";
    for (int i = 0; i < warm_rounds(); i++) {
        send_all(client, b, sizeof b);
        recv_all(server, b, sizeof b);
        send_all(server, b, sizeof b);
        recv_all(client, b, sizeof b);
        sleep_ms(1);
    }
}

void warm_client(int fd)
{
    char b[64] = "warm";
    for (int i = 0; i < warm_rounds(); i++) {
        send_all(fd, b, sizeof b);
        recv_all(fd, b, sizeof b);
        sleep_ms(1);
    }
}

void warm_server(int fd)
{
    char b[64];
    for (int i = 0; i < warm_rounds(); i++) {
        recv_all(fd, b, sizeof b);
        send_all(fd, b, sizeof b);
    }
}

void send_all(int fd, const void *data, size_t len)
{
    const char *at = data;
    while (len > 0) {
        long n = MUST(send(fd, at, len, MSG_NOSIGNAL));
        at += n;
        len -= n;
    }
}

void recv_all(int fd, void *data, size_t len)
{
    char *at = data;
    while (len > 0) {
        long n = MUST(recv(fd, at, len, 0));
        if (n == 0) {
            errno = ENODATA;
            MUST(-1);
        }
        at += n;
        len -= n;
    }
}

size_t drain(int fd, uint64_t *state, int *error)
{
    enum { BLOCK = 1 << 16 };
    char *block = malloc(BLOCK);
    size_t total = 0;
    uint64_t h = HASH_START;
    long n;
    while ((n = recv(fd, block, BLOCK, 0)) > 0) {
        h = hash(h, block, n);
        total += n;
    }
    if (error)
        *error = n < 0 ? errno : 0;
    if (state)
        *state = h;
    free(block);
    return total;
}

void fill(void *data, size_t len, uint64_t seed, uint64_t position)
{
    unsigned char *at = data;
    for (size_t i = 0; i < len; i++) {
        uint64_t x = (position + i + 1) * 0x9e3779b97f4a7c15ull + seed;
        at[i] = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull >> 56;
    }
}

uint64_t hash(uint64_t state, const void *data, size_t len)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < len; i++)
        state = (state ^ at[i]) * 1099511628211ull;
    return state;
}

uint64_t hash_of_stream(uint64_t seed, size_t len)
{
    char block[4096];
    uint64_t h = HASH_START;
    for (size_t at = 0; at < len;) {
        size_t n = len - at < sizeof block ? len - at : sizeof block;
        fill(block, n, seed, at);
        h = hash(h, block, n);
        at += n;
    }
    return h;
}

void nonblocking(int fd, int on)
{
    int flags = MUST(fcntl(fd, F_GETFL));
    MUST(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

void set_timeout(int fd, int option, int ms)
{
    struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    MUST(setsockopt(fd, SOL_SOCKET, option, &t, sizeof t));
}

void sleep_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

void wait_asleep(pid_t thread)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", thread);
    /* Twice: a sleep for a lock or a page is over in a moment. */
    for (int i = 0, seen = 0; i < 5000 && seen < 3; i++) {
        int fd = MUST(open(path, O_RDONLY));
        long n = MUST(read(fd, text, sizeof text - 1));
        close(fd);
        text[n] = 0;
        char *state = strrchr(text, ')');
        seen = state && state[2] == 'S' ? seen + 1 : 0;
        sleep_ms(2);
    }
}

unsigned poll_mask(int fd, int events, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    MUST(poll(&p, 1, wait_ms));
    return p.revents;
}

void fill_up(int fd)
{
    static char big[1 << 20];
    nonblocking(fd, 1);
    do {
        while (send(fd, big, sizeof big, 0) > 0)
            ;
        while (send(fd, big, 1, 0) > 0)
            ;
    } while (poll_mask(fd, POLLOUT, 300) || send(fd, big, 1, 0) > 0);
    nonblocking(fd, 0);
}

pid_t spawn_child(char letter, void (*f)(void *), void *arg)
{
    pid_t pid = MUST(fork());
    if (pid == 0) {
        signal(SIGTERM, SIG_DFL);
        actor(letter);
        f(arg);
        _exit(0);
    }
    return pid;
}

void join_child(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0));
    if (WIFSIGNALED(status))
        trace("child: signal %d", WTERMSIG(status));
    else
        trace("child: exit %d", WEXITSTATUS(status));
}

static char *const cat[] = {"/bin/cat", NULL};

void become_cat(int from, int to, char *const env[])
{
    dup2(from, 0);
    dup2(to, 1);
    close_range(3, ~0u, 0);
    execve(cat[0], cat, env);
    _exit(96);
}

pid_t start_cat(int how, int from, int to, char *const env[])
{
    pid_t pid;
    if (how == 2) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, from, 0);
        posix_spawn_file_actions_adddup2(&actions, to, 1);
        posix_spawn_file_actions_addclosefrom_np(&actions, 3);
        errno = posix_spawn(&pid, cat[0], &actions, NULL, cat, env);
        MUST(errno ? -1 : 0);
        return pid;
    }
    pid = MUST(how == 0 ? fork() : vfork());
    if (pid == 0)
        become_cat(from, to, env);
    return pid;
}

pthread_t spawn_thread(void *(*f)(void *), void *arg)
{
    pthread_t thread;
    errno = pthread_create(&thread, NULL, f, arg);
    MUST(errno ? -1 : 0);
    return thread;
}

struct sleeper {
    void *(*f)(void *);
    void *arg;
    _Atomic pid_t thread;
};

static void *run_sleeper(void *arg)
{
    struct sleeper *sleeper = arg, own = *sleeper;
    sleeper->thread = (pid_t)syscall(SYS_gettid);
    return own.f(own.arg);
}

pthread_t spawn_asleep(void *(*f)(void *), void *arg)
{
    struct sleeper sleeper = {.f = f, .arg = arg};
    pthread_t thread = spawn_thread(run_sleeper, &sleeper);
    while (!sleeper.thread)
        sched_yield();
    wait_asleep(sleeper.thread);
    return thread;
}

struct interruption {
    pthread_t thread;
    pid_t id;
    int signal;
};

static void *run_interruption(void *arg)
{
    struct interruption own = *(struct interruption *)arg;
    free(arg);
    wait_asleep(own.id);
    errno = pthread_kill(own.thread, own.signal);
    MUST(errno ? -1 : 0);
    return NULL;
}

pthread_t spawn_interruption(int signal)
{
    struct interruption *here = malloc(sizeof *here);
    *here = (struct interruption){pthread_self(), (pid_t)syscall(SYS_gettid), signal};
    return spawn_thread(run_interruption, here);
}

void join_thread(pthread_t thread)
{
    errno = pthread_join(thread, NULL);
    MUST(errno ? -1 : 0);
}
