/* A reader that stands still while more is sent than a ring holds, and then lets somebody else go on reading. */
#include "common.h"

extern char **environ;

enum { PIECE = 10000, MANY = 600, FEW = 150, FIRST = 5000, BEYOND = 1200000 };

/* Known to all processes of the case. */
static volatile struct {
    size_t sent;
    int taken_over;
} *shared;

struct stream {
    int listener, pieces, sndbuf;
};

/* Sends the whole stream, and ends when somebody else reads. */
static void writer(void *arg)
{
    static char piece[PIECE];
    struct stream *s = arg;
    int fd = connect_to(s->listener);
    close(s->listener);
    if (s->sndbuf)
        MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &s->sndbuf, sizeof s->sndbuf));
    warm_client(fd);
    for (int i = 0; i < s->pieces; i++) {
        fill(piece, sizeof piece, 9, (uint64_t)i * sizeof piece);
        send_all(fd, piece, sizeof piece);
        shared->sent += sizeof piece;
    }
    while (!shared->taken_over)
        sleep_ms(1);
    close(fd);
}

static int warmed(struct stream *s)
{
    int fd = MUST(accept(s->listener, NULL, NULL));
    close(s->listener);
    warm_server(fd);
    return fd;
}

/* Stands still until more has been sent than a ring holds. */
static void stand_still(void)
{
    while (shared->sent < BEYOND)
        sleep_ms(5);
}

static struct stream begin(int pieces, pid_t *child)
{
    struct stream s = {listener(1), pieces, 0};
    shared->sent = shared->taken_over = 0;
    *child = spawn_child('B', writer, &s);
    return s;
}

/* What comes on fd until its end, behind the first bytes. */
static void check(const char *who, int pieces, const char *first, int fd)
{
    static char block[1 << 16];
    size_t n = FIRST;
    uint64_t h = hash(HASH_START, first, FIRST);
    for (long k; (k = MUST(read(fd, block, sizeof block))) > 0; n += k) {
        h = hash(h, block, k);
        shared->taken_over = 1;
    }
    trace("%s: %zu, same: %d", who, n, h == hash_of_stream(9, (size_t)pieces * PIECE));
}

static char *const nothing[] = {NULL};

/* A program is started, with the library and without. */
static void programs(void)
{
    for (int how = 0; how < 12; how++) {
        pid_t child, pid;
        int out[2], pieces = how % 2 ? FEW : MANY;
        char first[FIRST];
        struct stream s = begin(pieces, &child);
        int fd = warmed(&s);
        recv_all(fd, first, sizeof first);
        stand_still();
        MUST(pipe(out));
        pid = start_cat(how / 4, fd, out[1], how & 2 ? environ : nothing);
        close(fd);
        close(out[1]);
        check("program", pieces, first, out[0]);
        join_child(pid);
        join_child(child);
        close(out[0]);
    }
}

struct successor {
    struct stream *stream;
    int out[2];
};

static void replaced(void *arg)
{
    struct successor *r = arg;
    char first[FIRST];
    int fd = warmed(r->stream);
    recv_all(fd, first, sizeof first);
    send_all(r->out[1], first, sizeof first);
    stand_still();
    become_cat(fd, r->out[1], environ);
}

/* The only process that has it becomes another program. */
static void exec(void)
{
    for (int how = 0; how < 2; how++) {
        pid_t child, pid;
        int pieces = how ? FEW : MANY;
        char first[FIRST];
        struct stream s = begin(pieces, &child);
        struct successor r = {.stream = &s};
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, r.out));
        pid = spawn_child('C', replaced, &r);
        close(s.listener);
        close(r.out[1]);
        recv_all(r.out[0], first, sizeof first);
        check("exec", pieces, first, r.out[0]);
        join_child(pid);
        join_child(child);
        close(r.out[0]);
    }
}

static void message(int over, int *fd, int take)
{
    char control[CMSG_SPACE(sizeof *fd)] = "", first[FIRST] = "";
    struct iovec v = {first, sizeof first};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (take) {
        MUST(recvmsg(over, &m, MSG_WAITALL));
        memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof *fd);
        return;
    }
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof *fd);
    memcpy(CMSG_DATA(c), fd, sizeof *fd);
    MUST(sendmsg(over, &m, 0));
}

static void receiver(void *arg)
{
    struct successor *r = arg;
    char first[FIRST];
    int fd;
    close(r->out[0]);
    message(r->out[1], &fd, 1);
    fill(first, sizeof first, 9, 0);
    check("receiver", r->stream->pieces, first, fd);
}

/* Another process gets the descriptor. */
static void passed(void)
{
    for (int how = 0; how < 2; how++) {
        pid_t child, pid;
        char first[FIRST];
        struct stream s = {.pieces = how ? FEW : MANY};
        struct successor r = {.stream = &s};
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, r.out));
        pid = spawn_child('C', receiver, &r);
        s = begin(s.pieces, &child);
        int fd = warmed(&s);
        recv_all(fd, first, sizeof first);
        stand_still();
        message(r.out[0], &fd, 0);
        close(fd);
        join_child(pid);
        join_child(child);
        close(r.out[0]);
        close(r.out[1]);
    }
}

/* libc goes on with it. */
static void stream(void)
{
    for (int how = 0; how < 2; how++) {
        pid_t child;
        int pieces = how ? FEW : MANY;
        static char block[1 << 16];
        struct stream s = begin(pieces, &child);
        int fd = warmed(&s);
        recv_all(fd, block, FIRST);
        size_t n = FIRST;
        uint64_t h = hash(HASH_START, block, FIRST);
        stand_still();
        FILE *f = fdopen(fd, "r");
        for (size_t k; (k = fread(block, 1, sizeof block, f)) > 0; n += k) {
            h = hash(h, block, k);
            shared->taken_over = 1;
        }
        trace("%zu, same: %d", n, h == hash_of_stream(9, (size_t)pieces * PIECE));
        fclose(f);
        join_child(child);
    }
}

/* One who looks before each receive, and now and then stands still. */
static void read_on(int fd, int edge, int pieces)
{
    static char block[30000], seen[300];
    size_t n = 0, total = (size_t)pieces * PIECE;
    uint64_t h = HASH_START;
    int set = MUST(epoll_create1(0)), left, pauses = 0, wrong = 0;
    struct epoll_event e = {.events = EPOLLIN | (edge ? EPOLLET : 0)};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
    nonblocking(fd, 1);
    for (long k = 1; k != 0;) {
        MUST(epoll_wait(set, &e, 1, 20000) == 1 ? 0 : -1);
        for (;;) {
            if (n >> 20 > (size_t)pauses) {
                pauses++;
                sleep_ms(250);
            }
            long peeked = recv(fd, seen, sizeof seen, MSG_PEEK);
            MUST(ioctl(fd, FIONREAD, &left));
            k = recv(fd, block, sizeof block, 0);
            if (k <= 0)
                break;
            wrong += n + left > total;
            if (peeked > 0)
                wrong += memcmp(seen, block, peeked < k ? peeked : k) != 0;
            h = hash(h, block, k);
            n += k;
        }
        if (k < 0 && errno != EAGAIN)
            trace("error %s", errno_name(errno));
    }
    trace("%zu, same: %d, wrong: %d", n, h == hash_of_stream(9, total), wrong);
    close(set);
}

/* Nobody else reads. With a small send buffer TCP does not take all that is left on the ring. */
static void same_reader(void)
{
    for (int how = 0; how < 6; how++) {
        int sizes[] = {0, 4096, 40000};
        struct stream s = {listener(1), sizes[how / 2] ? FEW : MANY, sizes[how / 2]};
        shared->sent = 0;
        shared->taken_over = 1;
        pid_t child = spawn_child('B', writer, &s);
        int fd = warmed(&s);
        sleep_ms(250);
        read_on(fd, how % 2, s.pieces);
        close(fd);
        join_child(child);
    }
}

static void share(void)
{
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

#define CASE(name)           \
    static void name##_(void) \
    {                        \
        share();             \
        name();              \
    }
CASE(programs)
CASE(exec)
CASE(passed)
CASE(stream)
CASE(same_reader)

MAIN({"programs", programs_}, {"exec", exec_}, {"passed", passed_}, {"stream", stream_},
     {"same_reader", same_reader_})
