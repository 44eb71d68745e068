/* Processes that are killed: what the survivor sees. */
#include "common.h"

static void killed_client(void *arg)
{
    int c = connect_to(*(int *)arg);
    warm_client(c);
    MUST(shutdown(c, SHUT_WR));
    sleep_ms(10000);
}

/* The peer is killed after its half-close: the next bytes meet EPIPE or a reset, as on TCP. */
static void killed_after_half_close(void)
{
    int l = listener(4);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        pid_t pid = spawn_child('B', killed_client, &l);
        int s = MUST(accept(l, NULL, NULL));
        char b[16];
        warm_server(s);
        R(recv(s, b, 16, 0));
        if (i == 1)
            R(send(s, "before", 6, 0));
        sleep_ms(20);
        kill(pid, SIGKILL);
        join_child(pid);
        R(send(s, "first", 5, 0));
        trace("%s", mask_name(poll_mask(s, POLLIN | POLLRDHUP, 100) & ~POLLIN));
        sleep_ms(50);
        R(send(s, "second", 6, 0));
        R(send(s, "third", 5, 0));
        R(recv(s, b, 16, 0));
        close(s);
    }
}

static void endless_writer(void *arg)
{
    static char block[50000];
    int c = connect_to(*(int *)arg);
    warm_client(c);
    for (size_t at = 0;; at += sizeof block) {
        fill(block, sizeof block, 9, at);
        send_all(c, block, sizeof block);
    }
}

/* The writer is killed: what arrives is a clean beginning of its stream, then the end. */
static void killed_writer(void)
{
    int l = listener(4);
    for (int i = 0; i < 5; i++) {
        pid_t pid = spawn_child('B', endless_writer, &l);
        int s = MUST(accept(l, NULL, NULL));
        warm_server(s);
        static char block[100000];
        size_t total = 0;
        uint64_t h = HASH_START;
        long n;
        while ((n = recv(s, block, sizeof block, 0)) > 0) {
            total += n;
            h = hash(h, block, n);
            if (total > (i + 1) * 700000u && pid) {
                kill(pid, SIGKILL);
                join_child(pid);
                pid = 0;
            }
        }
        trace("end %s, same: %d", errno_name(n < 0 ? errno : 0), h == hash_of_stream(9, total));
        close(s);
    }
}

static void slow_reader(void *arg)
{
    int c = connect_to(*(int *)arg);
    static char block[100000];
    warm_client(c);
    recv_all(c, block, sizeof block);
    sleep_ms(10000);
}

/* The reader is killed while the writer sleeps in send: the writer wakes with an error. */
static void killed_reader(void)
{
    int l = listener(4);
    for (int i = 0; i < 3; i++) {
        static char block[1 << 20];
        pid_t pid = spawn_child('B', slow_reader, &l);
        int s = MUST(accept(l, NULL, NULL));
        warm_server(s);
        pid_t killer = MUST(fork());
        if (killer == 0) {
            sleep_ms(100 + i * 100);
            kill(pid, SIGKILL);
            _exit(0);
        }
        while (send(s, block, sizeof block, MSG_NOSIGNAL) > 0)
            ;
        trace("%s", errno_name(errno));
        char b[4];
        R(recv(s, b, 4, 0));
        close(s);
        join_child(pid);
        join_child(killer);
    }
}

static void reader_of_one_block(void *arg)
{
    int c = connect_to(*(int *)arg);
    static char block[100000];
    warm_client(c);
    recv_all(c, block, sizeof block);
    send_all(c, "done", 4);
    sleep_ms(10000);
}

/* The reader has not moved for longer than the writer waits for a ring, and is killed before the
   writer has sent anything more: what it left unread resets the connection. */
static void killed_behind_full(void)
{
    int l = listener(4);
    pid_t pid = spawn_child('B', reader_of_one_block, &l);
    int s = MUST(accept(l, NULL, NULL));
    static char block[1 << 20];
    char b[4];
    warm_server(s);
    send_all(s, block, 100000);
    recv_all(s, b, 4);
    while (send(s, block, sizeof block, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        ;
    poll_mask(s, POLLOUT, 1000);
    kill(pid, SIGKILL);
    join_child(pid);
    R(send(s, block, sizeof block, MSG_NOSIGNAL));
    R(send(s, block, sizeof block, MSG_NOSIGNAL));
    R(recv(s, b, 4, 0));
    close(s);
}

/* Some exchanges, then nothing but a sleep: whatever its peer's library sends now lies unread. */
static volatile int *asleep;

static void sleeper(int fd, int rounds, int client)
{
    char b[64] = "turn";
    for (int i = 0; i < rounds; i++) {
        if (client)
            send_all(fd, b, sizeof b);
        recv_all(fd, b, sizeof b);
        if (!client)
            send_all(fd, b, sizeof b);
        sleep_ms(2);
    }
    *asleep = 1;
    sleep_ms(10000);
}

static int rounds;

static void sleeping_client(void *arg)
{
    sleeper(connect_to(*(int *)arg), rounds, 1);
}

static void sleeping_server(void *arg)
{
    sleeper(MUST(accept(*(int *)arg, NULL, NULL)), rounds, 0);
}

/* What the survivor of a peer sees that was killed with nothing of the program's unread. */
static void survive(int fd, pid_t pid, int client)
{
    char b[64] = "turn";
    for (int i = 0; i < rounds; i++) {
        if (client)
            send_all(fd, b, sizeof b);
        recv_all(fd, b, sizeof b);
        if (!client)
            send_all(fd, b, sizeof b);
        sleep_ms(2);
    }
    while (!*asleep)
        sleep_ms(1);
    *asleep = 0;
    int set = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLOUT};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
    for (int i = 0; i < 3; i++) {
        recv(fd, b, sizeof b, MSG_DONTWAIT);
        poll_mask(fd, POLLIN, 3);
    }
    kill(pid, SIGKILL);
    join_child(pid);
    sleep_ms(20);
    int error = 0;
    socklen_t len = sizeof error;
    trace("%s", mask_name(poll_mask(fd, POLLIN | POLLOUT | POLLRDHUP, 100)));
    R(epoll_wait(set, &e, 1, 100));
    trace("%s", mask_name(e.events));
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
    trace("%s", errno_name(error));
    R(recv(fd, b, 16, 0));
    R(recv(fd, b, 16, MSG_PEEK));
    R(send(fd, "first", 5, 0));
    sleep_ms(20);
    trace("%s", mask_name(poll_mask(fd, POLLIN | POLLOUT | POLLRDHUP, 100) & ~POLLERR));
    R(send(fd, "second", 6, 0));
    R(recv(fd, b, 16, 0));
    close(set);
    close(fd);
}

/* At each stage of the handshake, either end. */
static void killed_asleep(void)
{
    int l = listener(4);
    asleep = mmap(NULL, sizeof *asleep, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGPIPE, SIG_IGN);
    for (rounds = 1; rounds < 9; rounds++) {
        pid_t pid = spawn_child('B', sleeping_client, &l);
        survive(MUST(accept(l, NULL, NULL)), pid, 0);
        pid = spawn_child('B', sleeping_server, &l);
        survive(connect_to(l), pid, 1);
    }
}

static void reader_of_nothing(void *arg)
{
    int c = connect_to(*(int *)arg);
    warm_client(c);
    send_all(c, "done", 4);
    sleep_ms(10000);
}

/* The reader is killed in a pause of a writer that has just sent several messages, of which none was read: the first
   one after the pause meets the reset; after a burst of them one of the first. */
static void killed_in_a_pause(void)
{
    int l = listener(4);
    signal(SIGPIPE, SIG_IGN);
    for (int before = 1; before < 200; before *= 3) {
        char b[16] = "some bytes";
        pid_t pid = spawn_child('B', reader_of_nothing, &l);
        int s = MUST(accept(l, NULL, NULL));
        warm_server(s);
        recv_all(s, b, 4);
        for (int i = 0; i < before; i++)
            send_all(s, b, 10);
        kill(pid, SIGKILL);
        join_child(pid);
        sleep_ms(5);
        int most = before < 4 ? 1 : 20;
        while (most-- > 0 && send(s, b, 10, 0) == 10)
            ;
        trace("%s", errno_name(errno));
        R(send(s, b, 10, 0));
        close(s);
    }
}

MAIN({"killed_after_half_close", killed_after_half_close}, {"killed_writer", killed_writer},
     {"killed_reader", killed_reader}, {"killed_behind_full", killed_behind_full},
     {"killed_asleep", killed_asleep}, {"killed_in_a_pause", killed_in_a_pause})
