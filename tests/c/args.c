/* Arguments at the edge of what a call takes, and beyond it. */
#include "common.h"
#include <limits.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>

static char *const bad = (char *)16;

static void give(struct pair *p, const char *text)
{
    send_all(p->client, text, strlen(text));
    poll_mask(p->server, POLLIN, 1000);
}

/* Lengths that a call cuts, and those that it refuses. */
static void lengths(void)
{
    struct pair p = warm_pair();
    /* Not on the stack, which may lie close to the end of all addresses. */
    static char b[64], c[8];
    struct iovec long_one = {b, SSIZE_MAX}, negative[] = {{bad, 4}, {b, SIZE_MAX}};
    struct iovec long_second[] = {{c, 4}, {b, 1l << 46}}, beyond[] = {{c, 4}, {b, SSIZE_MAX}};
    struct iovec none[] = {{bad, 0}, {NULL, 0}, {b, 64}};
    struct msghdr m = {.msg_iov = &long_one, .msg_iovlen = 1};
    give(&p, "recv");
    R(recv(p.server, b, SIZE_MAX, MSG_DONTWAIT));
    give(&p, "recvfrom");
    R(recvfrom(p.server, b, SSIZE_MAX, MSG_DONTWAIT, NULL, NULL));
    give(&p, "read");
    R(read(p.server, b, SIZE_MAX));
    R(read(p.server, b, SSIZE_MAX));
    R(read(p.server, b, 1l << 46));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    give(&p, "recvmsg");
    R(recvmsg(p.server, &m, MSG_DONTWAIT));
    give(&p, "readv");
    R(readv(p.server, &long_one, 1));
    give(&p, "vectors");
    R(readv(p.server, negative, 2));
    R(readv(p.server, beyond, 2));
    R(readv(p.server, none, -1));
    R(readv(p.server, none, 1025));
    R(readv(p.server, none, 0));
    R(readv(p.server, NULL, 0));
    R(readv(p.server, NULL, 1));
    R(readv(p.server, none, 2));
    R(readv(p.server, long_second, 2));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    give(&p, "messages");
    m.msg_iov = none;
    m.msg_iovlen = 1025;
    R(recvmsg(p.server, &m, MSG_DONTWAIT));
    m.msg_iovlen = SIZE_MAX;
    R(recvmsg(p.server, &m, MSG_DONTWAIT));
    m.msg_iovlen = 3;
    R(recvmsg(p.server, &m, MSG_DONTWAIT));
    R(writev(p.client, negative, 2));
    R(writev(p.client, none, -1));
    R(writev(p.client, none, 1025));
    R(writev(p.client, NULL, 0));
    m.msg_iovlen = 1025;
    R(sendmsg(p.client, &m, 0));
    R(recv(p.server, b, SIZE_MAX, MSG_DONTWAIT | MSG_TRUNC));
}

/* Addresses that a stream does not need. */
static void addresses(void)
{
    struct pair p = warm_pair();
    char b[64] = "";
    struct sockaddr_storage a = {.ss_family = AF_INET};
    socklen_t len = sizeof a;
    give(&p, "0123456789");
    R(recvfrom(p.server, b, 2, 0, (void *)&a, &len));
    trace("length %u", len);
    R(recvfrom(p.server, b, 2, 0, (void *)&a, NULL));
    len = -5;
    R(recvfrom(p.server, b, 2, 0, (void *)&a, &len));
    trace("length %d", (int)len);
    R(recvfrom(p.server, b, 2, 0, NULL, (socklen_t *)bad));
    R(recvfrom(p.server, b, 2, 0, (void *)bad, (len = 0, &len)));
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    R(sendto(p.client, "a", 1, 0, (void *)&a, 1000));
    R(sendto(p.client, "b", 1, 0, (void *)&a, -1));
    R(sendto(p.client, "c", 1, 0, (void *)bad, 16));
    R(sendto(p.client, "d", 1, 0, (void *)bad, 0));
    R(sendto(p.client, "e", 1, 0, NULL, 1000));
    R(sendto(p.client, "f", 1, 0, (void *)&a, 3));
    poll_mask(p.server, POLLIN, 1000);
    sleep_ms(20);
    R(recv(p.server, b, 64, MSG_DONTWAIT));
    R(connect(p.client, (void *)bad, sizeof(struct sockaddr_in)));
    R(connect(p.client, NULL, sizeof(struct sockaddr_in)));
    R(setsockopt(p.client, SOL_SOCKET, SO_KEEPALIVE, bad, 4));
    R(setsockopt(p.client, SOL_SOCKET, SO_KEEPALIVE, NULL, 4));
    give(&p, "still there");
    R(recv(p.server, b, 64, 0));
}

/* SO_ERROR is given as much room as the program says, and there is one after a reset. */
static void narrow_option(void)
{
    for (socklen_t room = 0; room <= 5; room++) {
        struct pair p = warm_pair();
        struct linger none = {.l_onoff = 1};
        char b[8];
        unsigned char value[8];
        socklen_t len = room;
        give(&p, "abc");
        MUST(setsockopt(p.client, SOL_SOCKET, SO_LINGER, &none, sizeof none));
        close(p.client);
        poll_mask(p.server, POLLHUP, 1000);
        R(recv(p.server, b, 8, MSG_WAITALL));
        memset(value, 0xee, sizeof value);
        R(getsockopt(p.server, SOL_SOCKET, SO_ERROR, value, &len));
        trace("%u: %u, %02x%02x%02x%02x %02x", room, len, value[0], value[1], value[2], value[3],
              value[4]);
    }
}

static void *sends_later(void *arg)
{
    sleep_ms(700);
    send_all(*(int *)arg, "late", 4);
    return NULL;
}

/* Times that do not fit into 64 bits of nanoseconds. */
static void long_times(void)
{
    struct pair p = warm_pair();
    char b[64] = "";
    struct timeval t = {.tv_sec = 18446744074};
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    pthread_t other = spawn_thread(sends_later, &p.client);
    R(recv(p.server, b, 64, 0));
    join_thread(other);
    t.tv_sec = 0;
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    struct iovec v[2] = {{b, 1}, {b, 1}};
    struct mmsghdr m[2] = {{{.msg_iov = &v[0], .msg_iovlen = 1}, 0}, {{.msg_iov = &v[1], .msg_iovlen = 1}, 0}};
    const struct timespec times[] = {
        {INT64_MAX, 0}, {INT64_MAX / 1000000000, 0}, {5, 0}, {0, 0},
        {0, 1000000000}, {-1, 0}, {0, -1},
    };
    for (int i = 0; i < 7; i++) {
        struct timespec left = times[i];
        give(&p, "ab");
        R(recvmmsg(p.server, m, 2, 0, &left));
        trace("%s", left.tv_sec == times[i].tv_sec && left.tv_nsec == times[i].tv_nsec ? "as it was"
              : left.tv_sec == 0 && left.tv_nsec == 0 ? "none" : "less");
        R(recv(p.server, b, 64, MSG_DONTWAIT));
    }
    R(recvmmsg(p.server, m, 2, 0, (struct timespec *)bad));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p.server, &set);
    struct timespec some = {0, 30000000};
    R(syscall(SYS_pselect6, p.server + 1, &set, NULL, NULL, &some, NULL));
    trace("left %ld", (long)some.tv_nsec);
    struct pollfd one = {.fd = p.server, .events = POLLIN};
    some.tv_nsec = 30000000;
    R(syscall(SYS_ppoll, &one, 1, &some, NULL, 8));
    trace("left %ld", (long)some.tv_nsec);
}

static void still(const char *what, struct pair p)
{
    char b[64] = "";
    give(&p, what);
    RN(what, recv(p.server, b, 64, 0));
    R(send(p.server, "back", 4, 0));
    R(recv(p.client, b, 64, 0));
}

static void closes_nothing(void *arg)
{
    struct pair *p = arg;
    char b[8];
    warm_server(p->server);
    R(close_range(0x80000000u, ~0u, 0));
    R(recv(p->server, b, 8, 0));
    R(send(p->server, "back", 4, 0));
}

/* Numbers that no descriptor has, for calls that take ranges or replace. */
static void numbers(void)
{
    struct pair p = connected();
    char b[8];
    pid_t child = spawn_child('B', closes_nothing, &p);
    close(p.server);
    warm_client(p.client);
    R(send(p.client, "asked", 5, 0));
    R(recv(p.client, b, 8, 0));
    join_child(child);

    p = warm_pair();
    R(dup3(p.listener, p.server, 0x40));
    still("flags", p);
    p = warm_pair();
    R(dup2(-1, p.server));
    R(dup2(p.listener, -1));
    R(dup3(p.server, p.server, 0));
    still("no number", p);
    struct rlimit old, few;
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    few = old;
    p = warm_pair();
    few.rlim_cur = p.server;
    MUST(setrlimit(RLIMIT_NOFILE, &few));
    R(dup2(0, p.server));
    MUST(setrlimit(RLIMIT_NOFILE, &old));
    still("beyond the limit", p);
    R(shutdown(p.client, 7));
    R(fcntl(p.client, F_DUPFD, INT32_MAX));
    R(fcntl(p.client, F_DUPFD, -1));
    R(listen(p.client, 1));
    still("refused", p);
}

/* How many numbers above its own a program finds in use. */
static void nobody_elses(void)
{
    static char before[20000];
    for (int fd = 0; fd < 20000; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), highest = ep > p.server ? ep : p.server, found[24] = {};
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    R(epoll_wait(ep, &e, 1, 0));
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    int most = limit.rlim_cur < 20000 ? limit.rlim_cur : 20000;
    for (int fd = highest + 1; fd < most; fd++) {
        if (before[fd])
            continue;
        char b[16];
        struct iovec v = {b, 0};
        struct mmsghdr m = {{.msg_iov = &v, .msg_iovlen = 1}, 0};
        struct sockaddr_in a = {.sin_family = AF_INET};
        socklen_t len = sizeof a;
        struct pollfd one = {.fd = fd, .events = POLLIN};
        long results[] = {
            recv(fd, b, 1, MSG_DONTWAIT | MSG_PEEK), send(fd, b, 0, MSG_DONTWAIT),
            recvmmsg(fd, &m, 1, MSG_DONTWAIT | MSG_PEEK, NULL), sendmmsg(fd, &m, 1, MSG_DONTWAIT),
            shutdown(fd, 7), bind(fd, (void *)&a, 1), listen(fd, 1), connect(fd, (void *)&a, 1),
            accept4(fd, NULL, NULL, SOCK_NONBLOCK), getsockopt(fd, SOL_SOCKET, SO_TYPE, b, &len),
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, b, 1), fcntl(fd, F_GETFD),
            ioctl(fd, FIONREAD, b), dup(fd), tee(fd, fd, 1, SPLICE_F_NONBLOCK),
            vmsplice(fd, &v, 1, 0), preadv2(fd, &v, 1, 0, 0), pwritev2(fd, &v, 1, 0, 0),
            epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e), epoll_wait(fd, &e, 1, 0),
            poll(&one, 1, 0) == 1 && one.revents == POLLNVAL ? -1 : 0,
            sendfile(p.client, fd, NULL, 0), readv(fd, &v, 1), writev(fd, &v, 1),
        };
        for (int i = 0; i < 24; i++)
            found[i] += results[i] != -1 || (i == 0 && errno != EBADF);
    }
    for (int i = 0; i < 24; i++)
        trace("call %d: %d", i, found[i]);
}

/* select() with as many numbers as there may be, and sets for fewer: what is there counts. */
static void more_than_the_set(void)
{
    struct pair p = warm_pair();
    long page = sysconf(_SC_PAGESIZE);
    char *at = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(mprotect(at + page, page, PROT_NONE));
    fd_set *set = (fd_set *)(at + page - sizeof *set);
    struct timeval none = {};
    for (int n = 1024; n > 0; n = n == 1024 ? 20000 : n == 20000 ? INT32_MAX : 0) {
        FD_ZERO(set);
        FD_SET(p.server, set);
        R(select(n, set, NULL, NULL, &none));
        give(&p, "x");
        FD_SET(p.server, set);
        R(select(n, set, NULL, NULL, &none));
        trace("%d", FD_ISSET(p.server, set));
        char b[8];
        R(recv(p.server, b, 8, 0));
    }
    /* What lies behind the set is not the call's. */
    unsigned char room[4096];
    memset(room, 0xff, sizeof room);
    set = (fd_set *)room;
    FD_ZERO(set);
    FD_SET(p.listener, set);
    R(select(20000, set, NULL, NULL, &none));
    int changed = 0;
    for (size_t i = sizeof *set; i < sizeof room; i++)
        changed += room[i] != 0xff;
    trace("%d changed", changed);
}

static volatile int alarms;

static void on_alarm(int signal)
{
    (void)signal;
    alarms++;
}

/* When the handler has run, and the call sleeps again or is over. */
static void *writes_later(void *arg)
{
    while (!alarms)
        sleep_ms(1);
    wait_asleep(getpid());
    MUST(write(*(int *)arg, "late", 4));
    return NULL;
}

/* A splice that waits for a pipe is begun anew after a handler that wants it. */
static void restarted_splice(void)
{
    struct pair p = warm_pair();
    int ends[2];
    char b[64] = "";
    MUST(pipe(ends));
    for (int flags = SA_RESTART; flags >= 0; flags = flags == 0 ? -1 : 0) {
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = flags};
        MUST(sigaction(SIGALRM, &action, NULL));
        alarms = 0;
        pthread_t other = spawn_thread(writes_later, &ends[1]), by = spawn_interruption(SIGALRM);
        R(splice(ends[0], NULL, p.client, NULL, 4, 0));
        join_thread(other);
        join_thread(by);
        trace("alarms %d", alarms);
        R(read(ends[0], b, flags == 0 ? 64 : 0));
        R(recv(p.server, b, 64, MSG_DONTWAIT));
    }
}

/* Files whose length does not say how much is in them. */
static void sendfile_unknown_length(void)
{
    static const char *const names[] = {"/proc/version", "/sys/devices/system/cpu/online",
                                        "/proc/self/cmdline"};
    struct pair p = warm_pair();
    for (int i = 0; i < 3; i++) {
        char b[256] = "", same[256] = "";
        int f = MUST(open(names[i], O_RDONLY));
        off_t at = 0;
        long n = MUST(pread(f, same, sizeof same, 0)), sent = RN(names[i], sendfile(p.client, f, &at, 255));
        trace("all %d, at its end %d", sent == n, at == n);
        for (long got = 0; got < sent;)
            got += MUST(recv(p.server, b + got, sent - got, 0));
        trace("as it is %d", memcmp(b, same, sent < 0 ? 0 : sent));
        RN("from its end", sendfile(p.client, f, &at, 200));
        RN("from its place", sendfile(p.client, f, NULL, 1));
        trace("now at %ld", (long)lseek(f, 0, SEEK_CUR));
        RN("a bad place", sendfile(p.client, f, (off_t *)bad, 200));
        recv(p.server, b, sizeof b, MSG_DONTWAIT);
        close(f);
    }
}

/* One structure for the new action and the old one; and another signal interrupts a receive. */
static void same_structure(void)
{
    struct pair p = warm_pair();
    char b[8];
    struct sigaction both = {.sa_handler = on_alarm}, other = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    R(sigaction(SIGUSR1, &both, &both));
    trace("default %d", both.sa_handler == SIG_DFL);
    R(sigaction(SIGUSR1, NULL, &both));
    trace("ours %d", both.sa_handler == on_alarm);
    R(sigaction(SIGALRM, &other, NULL));
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGALRM);
    MUST(pthread_sigmask(SIG_BLOCK, &mask, NULL));
    pthread_t sender = spawn_thread(sends_later, &p.client);
    MUST(pthread_sigmask(SIG_UNBLOCK, &mask, NULL));
    struct itimerval soon = {.it_value = {0, 100000}};
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    R(recv(p.server, b, 8, 0));
    trace("alarms %d", alarms);
    join_thread(sender);
}

/* Control data that no stream takes. */
static void control_data(void)
{
    struct pair p = warm_pair();
    char b[64] = "";
    union {
        struct cmsghdr head;
        char room[64];
    } c;
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = 24};
    memset(&c, 0, sizeof c);
    R(sendmsg(p.client, &m, 0));
    c.head = (struct cmsghdr){.cmsg_len = 20, .cmsg_level = SOL_SOCKET, .cmsg_type = 9999};
    R(sendmsg(p.client, &m, 0));
    c.head.cmsg_level = SOL_IP;
    R(sendmsg(p.client, &m, 0));
    c.head.cmsg_level = SOL_SOCKET;
    c.head.cmsg_type = SCM_RIGHTS;
    R(sendmsg(p.client, &m, 0));
    m.msg_control = bad;
    R(sendmsg(p.client, &m, 0));
    m.msg_control = &c;
    m.msg_controllen = 8;
    R(sendmsg(p.client, &m, 0));
    sleep_ms(20);
    R(recv(p.server, b, 64, MSG_DONTWAIT));
}

MAIN({"lengths", lengths}, {"addresses", addresses}, {"narrow_option", narrow_option},
     {"long_times", long_times}, {"numbers", numbers}, {"nobody_elses", nobody_elses},
     {"more_than_the_set", more_than_the_set}, {"restarted_splice", restarted_splice},
     {"sendfile_unknown_length", sendfile_unknown_length}, {"same_structure", same_structure},
     {"control_data", control_data})
