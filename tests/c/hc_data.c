/* Hard cases of moving data, of options and of ends. */
#include "common.h"
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <sys/stat.h>

static char big[1 << 20], back[1 << 20];

static void *both_ways(void *arg)
{
    enum { TOTAL = 10 << 20 };
    int fd = *(int *)arg;
    static __thread char block[60000], in[60000];
    size_t sent = 0, got = 0;
    uint64_t h = HASH_START;
    nonblocking(fd, 1);
    while (sent < TOTAL || got < TOTAL) {
        short want = (sent < TOTAL ? POLLOUT : 0) | (got < TOTAL ? POLLIN : 0);
        unsigned mask = poll_mask(fd, want, 5000);
        if (mask & POLLOUT) {
            size_t n = TOTAL - sent < sizeof block ? TOTAL - sent : sizeof block;
            fill(block, n, 1, sent);
            long r = send(fd, block, n, 0);
            sent += r > 0 ? r : 0;
        }
        if (mask & POLLIN) {
            long r = recv(fd, in, sizeof in, 0);
            if (r > 0) {
                h = hash(h, in, r);
                got += r;
            }
        }
        if (mask == 0)
            break;
    }
    return (void *)(uintptr_t)(got == TOTAL && h == hash_of_stream(1, TOTAL));
}

/* Both ends send 10 MiB and receive as much, each in one thread. */
static void hc_023_full_duplex(void)
{
    struct pair p = warm_pair();
    pthread_t t = spawn_thread(both_ways, &p.client);
    trace("%d", (int)(uintptr_t)both_ways(&p.server));
    void *good;
    pthread_join(t, &good);
    trace("%d", (int)(uintptr_t)good);
}

static volatile sig_atomic_t signals;

static void count_signal(int s)
{
    (void)s;
    signals++;
}

static long taken;

static void *take_all(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!signals)
        sleep_ms(1);
    uint64_t h;
    int error;
    taken = drain(*(int *)arg, &h, &error);
    trace("same: %d, %s", h == hash_of_stream(2, taken), errno_name(error));
    return NULL;
}

/* A send that is longer than everything that fits, with and without signals. */
static void hc_025_long_send(void)
{
    enum { LONG = 100 << 20 };
    char *data = malloc(LONG);
    fill(data, LONG, 2, 0);
    struct pair p = warm_pair();
    struct sigaction a = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &a, NULL));
    actor('B');
    pthread_t t = spawn_thread(take_all, &p.server);
    actor('A');
    ualarm(20000, 0);
    long n = send(p.client, data, LONG, 0);
    trace("a part: %d, signals %d", n > 0 && n < LONG, signals);
    MUST(shutdown(p.client, SHUT_WR));
    join_thread(t);
    trace("what was counted has arrived: %d", taken == n);
    free(data);
}

static void *nonblock_later(void *arg)
{
    wait_asleep(getpid());
    nonblocking(*(int *)arg, 1);
    wait_asleep(getpid());
    send_all(((int *)arg)[1], "late", 4);
    return NULL;
}

static void nonblock_in_child(void *arg) { nonblocking(*(int *)arg, 1); }

/* O_NONBLOCK set elsewhere: the call that sleeps goes on, the next one does not wait. */
static void hc_030_nonblock_elsewhere(void)
{
    struct pair p = warm_pair();
    int fd[] = {p.server, p.client};
    char b[16];
    pthread_t t = spawn_thread(nonblock_later, fd);
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, 0));
    join_thread(t);
    nonblocking(p.server, 0);
    R(recv(p.server, b, 16, MSG_DONTWAIT));
    join_child(spawn_child('B', nonblock_in_child, &p.server));
    R(recv(p.server, b, 16, 0));
    trace("nonblock %d", !!(fcntl(p.server, F_GETFL) & O_NONBLOCK));
    int d = MUST(dup(p.server)), off = 0;
    R(ioctl(d, FIONBIO, &off));
    set_timeout(p.server, SO_RCVTIMEO, 30);
    R(recv(p.server, b, 16, 0));
}

static void on_urgent(int s)
{
    (void)s;
    signals++;
}

/* Urgent data in the stream, its mark, its signal. */
static void hc_032_urgent(void)
{
    struct pair p = warm_pair();
    int on = 1, mark = -1;
    char b[16] = "";
    signal(SIGURG, on_urgent);
    R(fcntl(p.server, F_SETOWN, getpid()));
    R(fcntl(p.server, F_GETOWN) == getpid());
    R(setsockopt(p.server, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    R(send(p.client, "ab", 2, 0));
    R(send(p.client, "!", 1, MSG_OOB));
    R(send(p.client, "cd", 2, 0));
    sleep_ms(30);
    trace("signals %d", signals);
    R(ioctl(p.server, SIOCATMARK, &mark));
    trace("%d %s", mark, mask_name(poll_mask(p.server, POLLIN | POLLPRI, 1000)));
    R(recv(p.server, b, 16, 0));
    trace("%s", b);
    R(ioctl(p.server, SIOCATMARK, &mark));
    trace("%d", mark);
    memset(b, 0, sizeof b);
    R(recv(p.server, b, 16, 0));
    trace("%s", b);
    R(recv(p.server, b, 16, MSG_OOB));
    warm(p.client, p.server);
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLPRI};
    R(epoll_ctl(ep, EPOLL_CTL_ADD, p.client, &e));
    R(epoll_wait(ep, &e, 1, 20));
    R(send(p.server, "?", 1, MSG_OOB));
    R(epoll_wait(ep, &e, 1, 1000));
    trace("%s", mask_name(e.events));
    R(recv(p.client, b, 16, MSG_OOB));
}

static pthread_t got_pipe;

static void on_pipe(int s)
{
    (void)s;
    signals++;
    got_pipe = pthread_self();
}

static void *write_to_dead(void *arg)
{
    R(write(*(int *)arg, "x", 1));
    return (void *)(uintptr_t)(pthread_equal(got_pipe, pthread_self()) != 0);
}

/* SIGPIPE goes to the thread that has written. */
static void hc_033_sigpipe_thread(void)
{
    struct pair p = warm_pair();
    signal(SIGPIPE, on_pipe);
    struct linger reset = {1, 0};
    char b[4];
    MUST(setsockopt(p.server, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
    close(p.server);
    R(recv(p.client, b, 4, 0));
    for (int i = 0; i < 3; i++) {
        pthread_t t = spawn_thread(write_to_dead, &p.client);
        void *mine;
        pthread_join(t, &mine);
        trace("signals %d, in the writer: %d", signals, (int)(uintptr_t)mine);
    }
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    R(send(p.client, "x", 1, 0));
    sigpending(&pending);
    trace("pending %d", sigismember(&pending, SIGPIPE));
}

/* No pause is added and none is lost: corked bytes leave when the cork is drawn, or after 200 ms. */
static void hc_034_cork(void)
{
    struct pair p = warm_pair();
    int on = 1, off = 0, got = -1;
    socklen_t len = sizeof got;
    char b[64] = "";
    R(setsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off));
    R(getsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &got, &len));
    trace("%d", got);
    R(setsockopt(p.client, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    R(getsockopt(p.client, IPPROTO_TCP, TCP_CORK, &got, &len));
    trace("%d", got);
    R(send(p.client, "one", 3, 0));
    R(send(p.client, "two", 3, 0));
    R(setsockopt(p.client, IPPROTO_TCP, TCP_CORK, &off, sizeof off));
    poll_mask(p.server, POLLIN, 1000);
    sleep_ms(5);
    R(recv(p.server, b, 64, 0));
    R(setsockopt(p.client, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    R(send(p.client, "three", 5, MSG_MORE));
    R(shutdown(p.client, SHUT_WR));
    recv_all(p.server, b, 5);
    R(recv(p.server, b, 64, 0));
    R(setsockopt(p.server, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    R(send(p.server, "last", 4, 0));
    R(close(p.server));
    R(recv(p.client, b, 4, MSG_WAITALL));
    R(recv(p.client, b, 64, 0));
}

/* What comes back on the error queue: by decision of the library such a connection is TCP. */
static void hc_035_error_queue(void)
{
    for (int late = 0; late < 2; late++) {
        struct pair p = late ? warm_pair() : connected();
        int on = 1, stamp = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                            SOF_TIMESTAMPING_OPT_ID;
        char control[512];
        R(recv(p.client, back, 16, MSG_ERRQUEUE));
        R(setsockopt(p.client, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on));
        R(setsockopt(p.client, SOL_SOCKET, SO_TIMESTAMPING, &stamp, sizeof stamp));
        R(setsockopt(p.server, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
        if (!late)
            warm(p.client, p.server);
        R(send(p.client, big, 20000, MSG_ZEROCOPY));
        recv_all(p.server, back, 20000);
        int zero = 0, stamps = 0;
        for (int nothing = 0; nothing < 50 && !(zero && stamps);) {
            struct iovec v = {back, sizeof back};
            struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                               .msg_controllen = sizeof control};
            if (recvmsg(p.client, &m, MSG_ERRQUEUE) < 0) {
                nothing++;
                poll_mask(p.client, 0, 20);
                continue;
            }
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                struct sock_extended_err *e = (void *)CMSG_DATA(c);
                if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) {
                    zero |= e->ee_origin == SO_EE_ORIGIN_ZEROCOPY;
                    stamps |= e->ee_origin == SO_EE_ORIGIN_TIMESTAMPING;
                }
            }
        }
        trace("zero-copy notice %d, time stamp %d", zero, stamps);
        warm(p.client, p.server);
        close_pair(&p);
    }
}

/* TCP_INFO and its relatives work and say sane things. */
static void hc_040_tcp_info(void)
{
    struct pair p = warm_pair();
    for (int i = 0; i < 2; i++) {
        int fd = i ? p.server : p.client, n = -1;
        struct tcp_info info;
        memset(&info, 0xee, sizeof info);
        socklen_t len = sizeof info;
        R(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
        trace("state %d, mss %d, rtt %d, cwnd %d, retransmits %d", info.tcpi_state,
              info.tcpi_snd_mss > 500, info.tcpi_rtt < 1000000, info.tcpi_snd_cwnd > 0,
              info.tcpi_total_retrans);
        len = 3;
        R(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
        trace("%d", len);
        len = sizeof n;
        R(getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &n, &len));
        trace("maxseg %d", n);
        char name[16] = "";
        len = sizeof name;
        R(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
        trace("congestion control has a name: %d", name[0] != 0);
        unsigned memory[9];
        len = sizeof memory;
        R(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &len));
        trace("%d", len);
        len = sizeof n;
        R(getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &n, &len));
        R(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &n, &len));
        trace("listens: %d", n);
        R(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, back, &len));
        R(getsockopt(fd, SOL_SOCKET, SO_COOKIE, back, &len));
        R(getsockopt(fd, 1234, 1, &n, &len));
        R(getsockopt(fd, SOL_SOCKET, SO_TYPE, NULL, NULL));
        int on = 1;
        R(setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on));
        R(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, 2));
        R(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, 4));
    }
}

/* One recvmsg of so many bytes with so much room for control messages. */
static void recv_inq(int fd, int want, int room, int flags)
{
    char back[100], control[64];
    struct iovec v = {back, want};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room ? control : NULL,
                       .msg_controllen = room};
    memset(control, 0x55, sizeof control);
    long n = recvmsg(fd, &m, flags);
    trace("%ld, control %zu, flags %x", n, m.msg_controllen, m.msg_flags);
    if (n >= 0 && m.msg_controllen >= sizeof(struct cmsghdr)) {
        struct cmsghdr *c = (struct cmsghdr *)control;
        int left = -1;
        memcpy(&left, c + 1, sizeof left);
        trace("len %zu level %d type %d left %x", c->cmsg_len, c->cmsg_level, c->cmsg_type, left);
    }
}

/* TCP_INQ, on a connection that is warm: the hint of each recvmsg, its truncation, the end. */
static void hc_040_inq(void)
{
    struct pair p = warm_pair();
    int on = 1, off = 0, bad = 7;
    R(setsockopt(p.server, IPPROTO_TCP, TCP_INQ, &bad, sizeof bad));
    R(setsockopt(p.server, IPPROTO_TCP, TCP_INQ, &on, sizeof on));
    for (int i = 0; i < 3; i++) {
        send_all(p.client, "forty bytes, of which a few at each time", 40);
        poll_mask(p.server, POLLIN, 1000);
        recv_inq(p.server, 5, 64, MSG_PEEK);
        recv_inq(p.server, 5, 64, 0);
        recv_inq(p.server, 5, 0, 0);
        recv_inq(p.server, 5, 8, 0);
        recv_inq(p.server, 5, 18, 0);
        recv_inq(p.server, 5, 20, 0);
        recv_inq(p.server, 5, 24, 0);
        recv_inq(p.server, 9, 64, 0);
        recv_inq(p.server, 9, 64, 0);
        recv_inq(p.server, 9, 64, MSG_DONTWAIT);
    }
    R(setsockopt(p.server, IPPROTO_TCP, TCP_INQ, &off, sizeof off));
    send_all(p.client, "last", 4);
    poll_mask(p.server, POLLIN, 1000);
    recv_inq(p.server, 2, 64, 0);
    R(setsockopt(p.server, IPPROTO_TCP, TCP_INQ, &on, sizeof on));
    R(shutdown(p.client, SHUT_WR));
    poll_mask(p.server, POLLRDHUP, 1000);
    recv_inq(p.server, 1, 64, 0);
    recv_inq(p.server, 5, 64, 0);
    recv_inq(p.server, 5, 64, 0);
}

/* Calls that are meant for other files. */
static void hc_049_not_a_file(void)
{
    struct pair p = warm_pair();
    struct stat s;
    int n = -1;
    R(fstat(p.client, &s));
    trace("socket: %d", S_ISSOCK(s.st_mode));
    R(lseek(p.client, 0, SEEK_END));
    R(pread(p.server, back, 1, 0));
    R(pwrite(p.client, "x", 1, 0));
    R(fsync(p.client));
    R(ftruncate(p.client, 0));
    R(fcntl(p.client, F_GETPIPE_SZ));
    R(isatty(p.client));
    R(ioctl(p.client, TCGETS, big));
    R(ioctl(p.client, 0x12345678, &n));
    R(ioctl(p.client, FIONREAD, NULL));
    R(mmap(NULL, 4096, PROT_READ, MAP_SHARED, p.client, 0) == MAP_FAILED);
    R(fallocate(p.client, 0, 0, 10));
    R(posix_fadvise(p.client, 0, 0, 0));
    struct flock lock = {.l_type = F_WRLCK};
    R(fcntl(p.client, F_GETLK, &lock));
    send_all(p.client, "goes on", 7);
    R(recv(p.server, back, 10, 0));
}

static int at_end_fd;

static void at_end(void) { send_all(at_end_fd, "at exit", 7); }

__attribute__((destructor)) static void destroyed(void)
{
    if (at_end_fd)
        send_all(at_end_fd, "destructor", 10);
}

static void ends_somehow(void *arg)
{
    int *how = arg;
    at_end_fd = connect_to(how[0]);
    warm_client(at_end_fd);
    send_all(at_end_fd, "pending,", 8);
    if (how[1] == 0) {
        atexit(at_end);
        exit(3);
    }
    if (how[1] == 1)
        abort();
    if (how[1] == 2)
        raise(SIGSEGV);
    if (how[1] == 3)
        quick_exit(4);
}

/* Sockets used by atexit functions and destructors; death with bytes under way. */
static void hc_058_last_words(void)
{
    int l = listener(4);
    for (int i = 0; i < 4; i++) {
        int how[] = {l, i};
        pid_t pid = spawn_child('B', ends_somehow, how);
        int s = MUST(accept(l, NULL, NULL));
        warm_server(s);
        join_child(pid);
        char b[64] = "";
        long n, at = 0;
        while ((n = recv(s, b + at, sizeof b - at, 0)) > 0)
            at += n;
        trace("%s, then %s", b, errno_name(n < 0 ? errno : 0));
        close(s);
    }
}

static void *asleep_in_recv(void *arg)
{
    char b[16] = "";
    actor('B');
    R(recv(*(int *)arg, b, 16, 0));
    trace("%s", b);
    return NULL;
}

/* close in another thread: the sleeper keeps its connection; the number may be another's. */
static void hc_059_close_under_a_sleeper(void)
{
    for (int i = 0; i < 4; i++) {
        struct pair p = warm_pair();
        int number = p.server;
        pthread_t t = spawn_asleep(asleep_in_recv, &number);
        R(close(p.server));
        if (i % 2 == 0) {
            /* The same number for another connection, which has bytes to read. */
            struct pair q = connected();
            trace("the number again: %d", q.listener == number || q.client == number);
            send_all(p.client, "for the sleeper", 15);
            sleep_ms(20);
            close_pair(&q);
        }
        close(p.client);
        join_thread(t);
        close(p.listener);
    }
}

/* dup2 over a descriptor in use: the old call ends on the old connection. */
static void hc_060_dup2_under_a_sleeper(void)
{
    for (int i = 0; i < 2; i++) {
        struct pair p = warm_pair(), q = warm_pair();
        int number = p.server;
        char b[16] = "";
        pthread_t t = spawn_asleep(asleep_in_recv, &number);
        trace("%d", dup2(q.server, number) == number);
        send_all(q.client, "new", 3);
        R(recv(number, b, 16, 0));
        send_all(p.client, "old", 3);
        join_thread(t);
        /* The last reference has gone with the sleeper. */
        R(recv(p.client, b, 16, 0));
        close(number);
        send_all(q.client, "rest", 4);
        R(recv(q.server, b, 16, 0));
        close_pair(&q);
    }
}

/* An idle connection with keepalive stays, and the options are read back. */
static void hc_062_keepalive(void)
{
    struct pair p = warm_pair();
    int on = 1, got = -1;
    socklen_t len = sizeof got;
    static const int options[] = {TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT};
    R(setsockopt(p.client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    for (int i = 0; i < 4; i++) {
        int value = i == 3 ? 3000 : 1;
        R(setsockopt(p.client, IPPROTO_TCP, options[i], &value, sizeof value));
        R(getsockopt(p.client, IPPROTO_TCP, options[i], &got, &len));
        trace("%d", got);
    }
    sleep_ms(2500);
    char b[16];
    R(send(p.client, "alive", 5, 0));
    R(recv(p.server, b, 16, 0));
    R(send(p.server, "too", 3, 0));
    R(recv(p.client, b, 16, 0));
}

MAIN({"hc_023_full_duplex", hc_023_full_duplex}, {"hc_025_long_send", hc_025_long_send},
     {"hc_030_nonblock_elsewhere", hc_030_nonblock_elsewhere}, {"hc_032_urgent", hc_032_urgent},
     {"hc_033_sigpipe_thread", hc_033_sigpipe_thread}, {"hc_034_cork", hc_034_cork},
     {"hc_035_error_queue", hc_035_error_queue}, {"hc_040_tcp_info", hc_040_tcp_info}, {"hc_040_inq", hc_040_inq},
     {"hc_049_not_a_file", hc_049_not_a_file}, {"hc_058_last_words", hc_058_last_words},
     {"hc_059_close_under_a_sleeper", hc_059_close_under_a_sleeper},
     {"hc_060_dup2_under_a_sleeper", hc_060_dup2_under_a_sleeper},
     {"hc_062_keepalive", hc_062_keepalive})
