/* The steps of a generated program: calls, legal or not, and what they gave. */
#include "program.h"
#include <linux/sockios.h>
#include <sched.h>
#include <spawn.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>

extern char **environ;

enum { BLOCK = 1 << 20 };
static __thread char *block;

static char *room(void)
{
    if (!block)
        block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block;
}

static int fd_of(long slot) { return slot >= 0 && slot < SLOTS ? slots[slot] : (int)slot; }

static size_t limited(long n) { return n < 0 ? 0 : n > BLOCK ? BLOCK : n; }

/* Content that tells one step from the next. */
static char *content(const struct step *s, size_t n)
{
    char *b = room();
    for (size_t i = 0; i < n; i++)
        b[i] = s->number * 37 + i * 7 + (i >> 8);
    return b;
}

static void say_bytes(const char *b, long n)
{
    if (n > 0)
        say(" #%08x", (unsigned)hash(HASH_START, b, n));
}

static void op_socket(const struct step *s)
{
    int one = 1, fd = say_result("fd", socket(AF_INET, SOCK_STREAM, 0));
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    slots[s->arg[0]] = fd;
}

static void op_connect(const struct step *s)
{
    say_result("connect", connect(fd_of(s->arg[0]), (struct sockaddr *)&shared->listener,
                                  sizeof shared->listener));
}

static void op_accept(const struct step *s)
{
    int one = 1, fd = fd_of(s->arg[1]);
    fd = s->arg[2] < 0 ? accept(fd, NULL, NULL) : accept4(fd, NULL, NULL, s->arg[2]);
    say_result("fd", fd);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    slots[s->arg[0]] = fd;
}

/* send SLOT BYTES FLAGS HOW */
static void op_send(const struct step *s)
{
    int fd = fd_of(s->arg[0]), flags = s->arg[2];
    size_t n = limited(s->arg[1]);
    char *b = content(s, n);
    struct iovec v[3] = {{b, n / 3}, {b + n / 3, n / 3}, {b + n / 3 * 2, n - n / 3 * 2}};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}},
                           {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 2}}};
    struct msghdr one = {.msg_iov = v, .msg_iovlen = 3};
    switch (s->arg[3]) {
    case 0: say_result("send", send(fd, b, n, flags)); break;
    case 1: say_result("write", write(fd, b, n)); break;
    case 2: say_result("writev", writev(fd, v, 3)); break;
    case 3: say_result("sendmsg", sendmsg(fd, &one, flags)); break;
    case 4: say_result("sendto", sendto(fd, b, n, flags, NULL, 0)); break;
    case 5:
        if (say_result("sendmmsg", sendmmsg(fd, m, 2, flags)) == 2)
            say(" %u %u", m[0].msg_len, m[1].msg_len);
        break;
    case 6: say_result("pwritev2", pwritev2(fd, v, 3, -1, 0)); break;
    case 7: say_result("SYS_write", syscall(SYS_write, fd, b, n)); break;
    }
}

/* recv SLOT BYTES FLAGS HOW */
static void op_recv(const struct step *s)
{
    int fd = fd_of(s->arg[0]), flags = s->arg[2];
    size_t n = limited(s->arg[1]);
    char *b = room();
    struct iovec v[3] = {{b, n / 3}, {b + n / 3, n / 3}, {b + n / 3 * 2, n - n / 3 * 2}};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}},
                           {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 2}}};
    struct msghdr one = {.msg_iov = v, .msg_iovlen = 3};
    long r = -1;
    switch (s->arg[3]) {
    case 0: r = say_result("recv", recv(fd, b, n, flags)); break;
    case 1: r = say_result("read", read(fd, b, n)); break;
    case 2: r = say_result("readv", readv(fd, v, 3)); break;
    case 3:
        r = say_result("recvmsg", recvmsg(fd, &one, flags));
        if (r >= 0)
            say(" f%x", one.msg_flags);
        break;
    case 4: r = say_result("recvfrom", recvfrom(fd, b, n, flags, NULL, NULL)); break;
    case 5: {
        long k = say_result("recvmmsg", recvmmsg(fd, m, 2, flags | MSG_WAITFORONE, NULL));
        for (long i = 0; i < k; i++)
            say(" %u", m[i].msg_len);
        return;
    }
    case 6: r = say_result("preadv2", preadv2(fd, v, 3, -1, 0)); break;
    case 7: r = say_result("SYS_read", syscall(SYS_read, fd, b, n)); break;
    }
    if (!(flags & MSG_TRUNC))
        say_bytes(b, r);
}

/* bad SLOT KIND: arguments that make no sense */
static void op_bad(const struct step *s)
{
    int fd = fd_of(s->arg[0]);
    void *low = (void *)16;
    struct iovec v = {low, 8};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    switch (s->arg[1]) {
    case 0: say_result("send", send(fd, low, 8, MSG_NOSIGNAL | MSG_DONTWAIT)); break;
    case 1: say_result("recv", recv(fd, low, 8, MSG_DONTWAIT)); break;
    case 2: say_result("writev", writev(fd, &v, -1)); break;
    case 3: say_result("readv", readv(fd, &v, 2000)); break;
    case 4: say_result("sendmsg", sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT)); break;
    case 5: say_result("setsockopt", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4)); break;
    case 6: say_result("shutdown", shutdown(fd, 9)); break;
    case 7: say_result("fcntl", fcntl(fd, 9999, 0)); break;
    case 8: say_result("recv", recv(fd, room(), 8, MSG_ERRQUEUE)); break;
    case 9: say_result("recv", recv(fd, room(), 8, MSG_OOB | MSG_DONTWAIT)); break;
    case 10: say_result("splice", splice(fd, NULL, fd, NULL, 8, 0)); break;
    case 11: say_result("epoll_wait", epoll_wait(fd, (void *)room(), 1, 0)); break;
    case 12: say_result("recvmsg", recvmsg(fd, NULL, MSG_DONTWAIT)); break;
    case 13: say_result("pread", pread(fd, room(), 1, 0)); break;
    case 14: say_result("preadv2", preadv2(fd, &v, 1, -1, 0x1000)); break;
    }
}

static void op_sendfile(const struct step *s)
{
    size_t n = limited(s->arg[1]);
    int file = memfd_create("program", MFD_CLOEXEC);
    off_t at = s->arg[2];
    if (write(file, content(s, n), n) != (long)n)
        abort();
    lseek(file, 0, SEEK_SET);
    long r = sendfile(fd_of(s->arg[0]), file, at < 0 ? NULL : &at, n + s->arg[3]);
    say_result("sendfile", r);
    if (r >= 0)
        say(" at %ld, %ld", (long)lseek(file, 0, SEEK_CUR), (long)at);
    close(file);
}

/* splice SLOT BYTES OUT FLAGS: from a pipe to the socket, or back */
static void op_splice(const struct step *s)
{
    size_t n = limited(s->arg[1]) & 0xfff;
    int ends[2], fd = fd_of(s->arg[0]);
    if (pipe2(ends, O_CLOEXEC))
        abort();
    if (s->arg[2]) {
        if (write(ends[1], content(s, n), n) != (long)n)
            abort();
        close(ends[1]);
        say_result("splice", splice(ends[0], NULL, fd, NULL, n, s->arg[3]));
    } else {
        long r = say_result("splice", splice(fd, NULL, ends[1], NULL, n, s->arg[3]));
        if (r > 0)
            say_bytes(room(), read(ends[0], room(), r));
        close(ends[1]);
    }
    close(ends[0]);
}

/* Until the peer's kernel has acknowledged a FIN: that wakes a receive of no bytes, and comes when it
 * likes. Without sleeping, by which the coordinator would take it for a call that waits. */
static void settle(int fd)
{
    for (time_t end = time(NULL) + 2; time(NULL) < end;) {
        unsigned char info[8] = {0};
        socklen_t len = sizeof info;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) ||
            (info[0] != TCP_FIN_WAIT1 && info[0] != TCP_CLOSING && info[0] != TCP_LAST_ACK))
            return;
        sched_yield();
    }
}

static void op_shutdown(const struct step *s)
{
    int fd = fd_of(s->arg[0]);
    if (say_result("shutdown", shutdown(fd, s->arg[1])) == 0 && s->arg[1] != SHUT_RD)
        settle(fd);
}

static void op_close(const struct step *s)
{
    say_result("close", close(fd_of(s->arg[0])));
    slots[s->arg[0]] = -1;
}

/* dup SLOT NEW HOW */
static void op_dup(const struct step *s)
{
    int fd = fd_of(s->arg[0]), over = slots[s->arg[1]], r = -1;
    switch (s->arg[2]) {
    case 0: r = dup(fd); break;
    case 1: r = fcntl(fd, F_DUPFD, 30); break;
    case 2: r = fcntl(fd, F_DUPFD_CLOEXEC, 0); break;
    case 3: r = dup2(fd, over); break;
    case 4: r = dup3(fd, over, O_CLOEXEC); break;
    case 5: r = syscall(SYS_dup, fd); break;
    }
    say_result("fd", r);
    if (r >= 0)
        slots[s->arg[1]] = r;
}

/* flags SLOT WHICH VALUE */
static void op_flags(const struct step *s)
{
    int fd = fd_of(s->arg[0]), on = s->arg[2] != 0, f;
    switch (s->arg[1]) {
    case 0:
        f = fcntl(fd, F_GETFL);
        say_result("setfl", fcntl(fd, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK));
        break;
    case 1: say_result("fionbio", ioctl(fd, FIONBIO, &on)); break;
    case 2: say_result("setfd", fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0)); break;
    case 3: say_result("getfl", fcntl(fd, F_GETFL)); break;
    case 4: say_result("getfd", fcntl(fd, F_GETFD)); break;
    }
}

/* poll SLOT EVENTS SLOT EVENTS TIMEOUT HOW */
static void op_poll(const struct step *s)
{
    struct pollfd f[2] = {{fd_of(s->arg[0]), s->arg[1], 0}, {fd_of(s->arg[2]), s->arg[3], 0}};
    int ms = s->arg[4], n = s->arg[2] < 0 ? 1 : 2;
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    struct timeval v = {ms / 1000, ms % 1000 * 1000};
    sigset_t none;
    sigemptyset(&none);
    if (s->arg[5] < 2) {
        int r = s->arg[5] ? ppoll(f, n, ms < 0 ? NULL : &t, &none) : poll(f, n, ms);
        if (say_result("poll", r) >= 0)
            for (int i = 0; i < n; i++)
                say(" %s", mask_name(f[i].revents));
        return;
    }
    fd_set sets[3];
    int top = 0;
    for (int k = 0; k < 3; k++) {
        FD_ZERO(&sets[k]);
        for (int i = 0; i < n; i++)
            if (f[i].fd >= 0 && f[i].events & (k == 0 ? POLLIN : k == 1 ? POLLOUT : POLLPRI)) {
                FD_SET(f[i].fd, &sets[k]);
                top = f[i].fd >= top ? f[i].fd + 1 : top;
            }
    }
    int r = s->arg[5] == 2 ? select(top, &sets[0], &sets[1], &sets[2], ms < 0 ? NULL : &v)
                           : pselect(top, &sets[0], &sets[1], &sets[2], ms < 0 ? NULL : &t, &none);
    if (say_result("select", r) >= 0)
        for (int i = 0; i < n; i++)
            for (int k = 0; k < 3; k++)
                say(" %d", f[i].fd >= 0 && FD_ISSET(f[i].fd, &sets[k]));
}

static void op_epoll(const struct step *s)
{
    slots[s->arg[0]] = say_result("fd", epoll_create1(s->arg[1] ? EPOLL_CLOEXEC : 0));
}

/* ctl SET OP SLOT EVENTS TAG */
static void op_ctl(const struct step *s)
{
    struct epoll_event e = {.events = s->arg[3], .data.u64 = s->arg[4]};
    say_result("ctl", epoll_ctl(fd_of(s->arg[0]), s->arg[1], fd_of(s->arg[2]), &e));
}

/* wait SET MAX TIMEOUT HOW */
static void op_wait(const struct step *s)
{
    struct epoll_event e[32];
    int ep = fd_of(s->arg[0]), max = s->arg[1], ms = s->arg[2], n = -1;
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    switch (s->arg[3]) {
    case 0: n = epoll_wait(ep, e, max, ms); break;
    case 1: n = epoll_pwait(ep, e, max, ms, NULL); break;
    case 2: n = epoll_pwait2(ep, e, max, ms < 0 ? NULL : &t, NULL); break;
    case 3: n = syscall(SYS_epoll_wait, ep, e, max, ms); break;
    }
    say_result("events", n);
    /* The order among ready ones is nobody's promise. */
    for (uint64_t tag = 0; tag < 64; tag++)
        for (int i = 0; i < n; i++)
            if (e[i].data.u64 == tag)
                say(" %d:%s", (int)tag, mask_name(e[i].events));
    for (int i = 0; i < n; i++)
        if (e[i].data.u64 >= 64)
            say(" strange:%llx", (unsigned long long)e[i].data.u64);
}

static const struct {
    int level, name;
} options[] = {{SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_RCVLOWAT},  {SOL_SOCKET, SO_OOBINLINE},
               {SOL_SOCKET, SO_SNDBUF},    {SOL_SOCKET, SO_RCVBUF},    {IPPROTO_TCP, TCP_NODELAY},
               {IPPROTO_TCP, TCP_KEEPIDLE}, {SOL_SOCKET, SO_ERROR},    {SOL_SOCKET, SO_TYPE},
               {SOL_SOCKET, SO_ACCEPTCONN}, {SOL_SOCKET, SO_PROTOCOL}, {SOL_SOCKET, SO_TIMESTAMP},
               {SOL_SOCKET, SO_REUSEADDR}, {IPPROTO_TCP, TCP_QUICKACK}, {SOL_SOCKET, 9999}};

/* setopt SLOT WHICH VALUE: numbers by the list above, then time limits and linger */
static void op_setopt(const struct step *s)
{
    int fd = fd_of(s->arg[0]), which = s->arg[1], value = s->arg[2];
    enum { COUNT = sizeof options / sizeof *options };
    struct timeval t = {value / 1000, value % 1000 * 1000};
    struct linger l = {value != 0, value > 1 ? 1 : 0};
    if (which < COUNT)
        say_result("setopt", setsockopt(fd, options[which].level, options[which].name, &value,
                                        sizeof value));
    else if (which == COUNT)
        say_result("rcvtimeo", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    else if (which == COUNT + 1)
        say_result("sndtimeo", setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    else
        say_result("linger", setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l));
}

static void op_getopt(const struct step *s)
{
    int which = s->arg[1], value = -1;
    socklen_t len = sizeof value;
    long r = getsockopt(fd_of(s->arg[0]), options[which].level, options[which].name, &value, &len);
    say_result("getopt", r);
    if (r == 0)
        say(" %d", value);
}

/* ioctl SLOT WHICH */
static void op_ioctl(const struct step *s)
{
    int value = -1, fd = fd_of(s->arg[0]);
    unsigned long request = s->arg[1] == 0 ? FIONREAD : s->arg[1] == 1 ? SIOCATMARK : 0x12345678;
    long r = ioctl(fd, request, &value);
    say_result("ioctl", r);
    if (r == 0)
        say(" %d", value);
}

/* odd SLOT WHICH */
static void op_odd(const struct step *s)
{
    int fd = fd_of(s->arg[0]);
    struct sockaddr_in a = {0};
    socklen_t len = sizeof a;
    struct stat st;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    switch (s->arg[1]) {
    case 0: say_result("getpeername", getpeername(fd, (struct sockaddr *)&a, &len)); break;
    case 1: say_result("getsockname", getsockname(fd, (struct sockaddr *)&a, &len)); break;
    case 2: say_result("lseek", lseek(fd, 0, SEEK_CUR)); break;
    case 3:
        if (say_result("fstat", fstat(fd, &st)) == 0)
            say(" %d", S_ISSOCK(st.st_mode));
        break;
    case 4: say_result("listen", listen(fd, 1)); break;
    case 5: say_result("accept", accept4(fd, NULL, NULL, SOCK_NONBLOCK)); break;
    case 6: say_result("bind", bind(fd, (struct sockaddr *)&a, sizeof a)); break;
    case 7: say_result("unconnect", connect(fd, &none, sizeof none)); break;
    case 8: say_result("ftruncate", ftruncate(fd, 0)); break;
    case 9: say_result("fsync", fsync(fd)); break;
    }
}

static void op_fork(const struct step *s)
{
    /* The step is the next one's as soon as the parent goes on. */
    int number = s->arg[0];
    pid_t pid = fork();
    if (pid == 0) {
        block = NULL;
        actor_main(number);
    }
    say(pid > 0 ? "fork" : "no fork");
}

static void op_exit(const struct step *s)
{
    (void)s;
    say("exit");
    /* The coordinator sees the process go. */
    _exit(0);
}

/* spawn HOW: another program, which inherits what is not close-on-exec */
static void op_spawn(const struct step *s)
{
    pid_t pid = -1;
    int status = -1;
    char *argv[] = {"true", NULL};
    if (s->arg[0] == 0)
        say_result("spawn", posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ));
    else if ((pid = s->arg[0] == 1 ? vfork() : fork()) == 0) {
        execv("/bin/true", argv);
        _exit(9);
    }
    waitpid(pid, &status, 0);
    say(" status %d", status);
}

/* pass SLOT: a descriptor goes on its way; take SLOT: it is received */
static void op_pass(const struct step *s)
{
    int fd = fd_of(s->arg[0]);
    char control[CMSG_SPACE(sizeof fd)] = "", byte = 'f';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    say_result("pass", sendmsg(shared->way[0], &m, 0));
}

static void op_take(const struct step *s)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(shared->way[1], &m, MSG_DONTWAIT) == 1 && CMSG_FIRSTHDR(&m))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    say("take %d", fd);
    if (fd >= 0)
        slots[s->arg[0]] = fd;
}

/* sendall SLOT BYTES, recvall SLOT BYTES CHUNK: blocking, to the end */
static void op_sendall(const struct step *s)
{
    size_t n = limited(s->arg[1]), at = 0;
    char *b = content(s, n);
    long r = 0;
    while (at < n && (r = send(fd_of(s->arg[0]), b + at, n - at, MSG_NOSIGNAL)) > 0)
        at += r;
    if (at < n)
        say_result("send", r);
    else
        say("sent all");
}

static void op_recvall(const struct step *s)
{
    size_t n = limited(s->arg[1]), at = 0, chunk = s->arg[2] ? s->arg[2] : 1;
    char *b = room();
    long r = 0;
    while (at < n &&
           (r = recv(fd_of(s->arg[0]), b + at, n - at < chunk ? n - at : chunk, 0)) > 0)
        at += r;
    say("%s %zu", at < n ? errno_name(r ? errno : 0) : "all", at);
    say_bytes(b, at);
}

/* drain SLOT: what is there, without waiting */
static void op_drain(const struct step *s)
{
    long total = 0, r;
    uint64_t h = HASH_START;
    while ((r = recv(fd_of(s->arg[0]), room(), BLOCK, MSG_DONTWAIT)) > 0) {
        h = hash(h, room(), r);
        total += r;
    }
    say("%ld then %s", total, r ? errno_name(errno) : "end");
    if (total)
        say(" #%08x", (unsigned)h);
}

static void op_warm(const struct step *s)
{
    int c = fd_of(s->arg[0]), d = fd_of(s->arg[1]);
    /* Not accepted: this process would end with its first exchange. */
    if (d >= 0)
        warm_here(c, d);
    say(d >= 0 ? "warm" : "none");
}

static volatile sig_atomic_t pipes, seen;
static int handler_slot = -1;

static void on_pipe(int n)
{
    (void)n;
    pipes++;
}

static void on_user(int n)
{
    (void)n;
    seen++;
    if (handler_slot >= 0) {
        int saved = errno;
        if (send(fd_of(handler_slot), "h", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
            seen += 100;
        errno = saved;
    }
}

/* action SIGNAL RESTART SLOT: 1 and 2 are the user's signals; the handler may send to SLOT */
static void op_action(const struct step *s)
{
    struct sigaction a = {.sa_handler = on_user, .sa_flags = s->arg[1] ? SA_RESTART : 0};
    handler_slot = s->arg[2];
    say_result("sigaction", sigaction(s->arg[0] == 1 ? SIGUSR1 : SIGUSR2, &a, NULL));
}

static const struct {
    const char *name;
    void (*run)(const struct step *);
} ops[] = {{"socket", op_socket},   {"connect", op_connect},   {"accept", op_accept},
           {"send", op_send},       {"recv", op_recv},         {"bad", op_bad},
           {"sendfile", op_sendfile}, {"splice", op_splice},   {"shutdown", op_shutdown},
           {"close", op_close},     {"dup", op_dup},           {"flags", op_flags},
           {"poll", op_poll},       {"epoll", op_epoll},       {"ctl", op_ctl},
           {"wait", op_wait},       {"setopt", op_setopt},     {"getopt", op_getopt},
           {"ioctl", op_ioctl},     {"odd", op_odd},           {"fork", op_fork},
           {"exit", op_exit},       {"spawn", op_spawn},       {"pass", op_pass},
           {"take", op_take},       {"sendall", op_sendall},   {"recvall", op_recvall},
           {"drain", op_drain},     {"warm", op_warm},         {"action", op_action},
           {"kill", NULL}};

int op_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (strcmp(ops[i].name, name) == 0)
            return i;
    return -1;
}

void perform(const struct step *s)
{
    static int ready;
    if (!ready) {
        struct sigaction a = {.sa_handler = on_pipe, .sa_flags = SA_RESTART};
        sigaction(SIGPIPE, &a, NULL);
        a = (struct sigaction){.sa_handler = on_user};
        sigaction(SIGUSR1, &a, NULL);
        a.sa_flags = SA_RESTART;
        sigaction(SIGUSR2, &a, NULL);
        ready = 1;
    }
    int pipes_before = pipes, seen_before = seen;
    ops[s->op].run(s);
    if (pipes != pipes_before)
        say(" SIGPIPE*%d", pipes - pipes_before);
    if (seen != seen_before)
        say(" signals %d", seen - seen_before);
}
