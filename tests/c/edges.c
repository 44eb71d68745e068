/* What epoll sets hear of besides bytes, and of connections whose descriptors go before they do. */
#include "sets.h"
#include <spawn.h>

enum { ALL = EPOLLIN | EPOLLOUT | EPOLLRDHUP, EDGE = ALL | EPOLLET };

extern char **environ;

/* An own shutdown for reading looks like the peer's end, which is an edge all the same. */
static void end_behind_own_shutdown(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    add(ep, p.server, EDGE, 1);
    show(ep, 0);
    R(shutdown(p.server, SHUT_RD));
    show(ep, 0);
    show(ep, 0);
    R(shutdown(p.client, SHUT_WR));
    show(ep, 1000);
    show(ep, 20);
}

/* What was taken between two waits is an edge, if the connection was accelerated meanwhile or not. */
static void taken_before_the_wait(void)
{
    struct pair p = connected();
    int ep = MUST(epoll_create1(0));
    char b[16];
    add(ep, p.server, EDGE, 1);
    show(ep, 0);
    /* It is accelerated in one of these rounds, whose waits come after the daemon had its time. */
    for (int i = 0; i < 40; i++) {
        send_all(p.client, "abc", 3);
        recv_all(p.server, b, 3);
        send_all(p.server, "abc", 3);
        recv_all(p.client, b, 3);
        sleep_ms(1);
        show(ep, 0);
        show(ep, 0);
        send_all(p.client, "abc", 3);
        poll_mask(p.server, POLLIN, 1000);
        show(ep, 0);
        recv_all(p.server, b, 3);
        send_all(p.server, "abc", 3);
        recv_all(p.client, b, 3);
        show(ep, 0);
    }
}

enum { MANY = 50, EXCHANGES = 100000 };

/* Answers what it is told of, and nothing else, until all have ended. */
static void *answer_edges(void *arg)
{
    struct pair *p = arg;
    struct epoll_event e[MANY];
    int ep = MUST(epoll_create1(0)), empty = 0;
    char b[32];
    for (int i = 0; i < MANY; i++)
        add(ep, p[i].server, EDGE, i);
    for (int open = MANY; open;) {
        int n = MUST(epoll_wait(ep, e, MANY, -1));
        for (int i = 0; i < n; i++) {
            int fd = p[e[i].data.u32].server;
            if (!(e[i].events & EPOLLIN))
                continue;
            ssize_t got = recv(fd, b, sizeof b, MSG_DONTWAIT);
            empty += got < 0;
            for (; got > 0; got = recv(fd, b, sizeof b, MSG_DONTWAIT))
                send_all(fd, b, got);
            if (got == 0) {
                MUST(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
                open--;
            }
        }
    }
    trace("%d times nothing there", empty);
    return NULL;
}

/* Whoever hears of room hears of bytes as well, also when they come in that moment. */
static void room_and_bytes(void)
{
    static struct pair p[MANY];
    struct epoll_event e[MANY];
    int ep = MUST(epoll_create1(0)), done = 0, empty = 0, n = 1;
    char b[32] = "abc";
    for (int i = 0; i < MANY; i++) {
        p[i] = connected();
        add(ep, p[i].client, EDGE, i);
    }
    pthread_t t = spawn_thread(answer_edges, p);
    for (int i = 0; i < MANY; i++)
        send_all(p[i].client, b, sizeof b);
    while (n > 0 && done < EXCHANGES) {
        n = MUST(epoll_wait(ep, e, MANY, 5000));
        for (int i = 0; i < n; i++) {
            int fd = p[e[i].data.u32].client;
            if (!(e[i].events & EPOLLIN))
                continue;
            if (recv(fd, b, sizeof b, MSG_DONTWAIT) < 0) {
                empty++;
                continue;
            }
            done++;
            send_all(fd, b, sizeof b);
        }
    }
    trace("%s, %d times nothing there", n > 0 ? "all exchanged" : "an edge is missing", empty);
    for (int i = 0; i < MANY; i++)
        shutdown(p[i].client, SHUT_WR);
    join_thread(t);
}

/* SO_RCVLOWAT, as it was, is an edge where there is something to read. */
static void lowat_is_an_edge(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), one = 1;
    char b[16];
    add(ep, p.server, EDGE, 1);
    show(ep, 0);
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
    show(ep, 0);
    send_all(p.client, "abc", 3);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 1000);
    show(ep, 0);
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
    show(ep, 0);
    recv_all(p.server, b, 3);
    R(setsockopt(p.server, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
    show(ep, 0);
}

static void *receive(void *arg)
{
    char b[16];
    actor('B');
    R(recv(*(int *)arg, b, sizeof b, 0));
    return NULL;
}

/* The last descriptor is closed while a thread receives from it: its set reports it until then. */
static void closed_in_a_receive(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), fd = p.server;
    add(ep, p.server, EPOLLOUT, 1);
    pthread_t t = spawn_asleep(receive, &fd);
    R(close(p.server));
    show(ep, 1000);
    send_all(p.client, "abc", 3);
    join_thread(t);
    show(ep, 20);
}

/* A child holds the connection: the parent's set goes on reporting it after the parent's close. */
static void closed_and_held_by_a_child(void)
{
    struct pair p = warm_pair();
    int way[2];
    char b;
    MUST(pipe(way));
    send_all(p.client, "unread", 6);
    R(shutdown(p.client, SHUT_WR));
    poll_mask(p.server, POLLRDHUP, 1000);
    pid_t child = MUST(fork());
    if (child == 0) {
        close(way[1]);
        read(way[0], &b, 1);
        _exit(0);
    }
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    add(ep, p.server, ALL, 1);
    R(close(p.server));
    show(ep, 1000);
    show(ep, 1000);
    close(way[1]);
    MUST(waitpid(child, NULL, 0));
    show(ep, 20);
}

/* A child starts a program, which inherits the connection and the set: the parent's set is as it was. */
static void child_starts_a_program(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), status = -1;
    char *argv[] = {"true", NULL}, b[16];
    add(ep, p.server, EPOLLIN, 1);
    add(ep, p.client, EDGE, 2);
    show(ep, 0);
    pid_t child = MUST(fork());
    if (child == 0) {
        execv("/bin/true", argv);
        _exit(9);
    }
    MUST(waitpid(child, &status, 0));
    R(status);
    show(ep, 0);
    send_all(p.client, "abc", 3);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 1000);
    recv_all(p.server, b, 3);
    show(ep, 0);
    send_all(p.server, "abc", 3);
    poll_mask(p.client, POLLIN, 1000);
    show(ep, 1000);
    show(ep, 0);
}

/* A program was started that might read what its peer had ended behind: left unread, it resets. */
static void unread_behind_an_end(void)
{
    struct pair p = warm_pair();
    pid_t child = -1;
    char *argv[] = {"true", NULL};
    signal(SIGPIPE, SIG_IGN);
    send_all(p.client, "unread", 6);
    R(shutdown(p.client, SHUT_WR));
    poll_mask(p.server, POLLRDHUP, 1000);
    MUST(posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ));
    MUST(waitpid(child, NULL, 0));
    R(close(p.server));
    poll_mask(p.client, POLLERR, 1000);
    R(write(p.client, "abc", 3));
    R(write(p.client, "abc", 3));
}

/* A program that is started anew and knows the set finds what it entered there. */
static void set_over_exec(void)
{
    char self[4096] = "", text[64], b[16];
    const char *told = getenv("TEST_SET");
    if (told) {
        int ep, client;
        MUST(sscanf(told, "%d %d", &ep, &client) == 2 ? 0 : -1);
        send_all(client, "abc", 3);
        show(ep, 1000);
        return;
    }
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    add(ep, p.server, EDGE, 7);
    for (int i = 0; i < 3; i++) {
        send_all(p.client, "abc", 3);
        poll_mask(p.server, POLLIN, 1000);
        show(ep, 1000);
        recv_all(p.server, b, 3);
        show(ep, 0);
    }
    snprintf(text, sizeof text, "%d %d", ep, p.client);
    MUST(setenv("TEST_SET", text, 1));
    MUST(readlink("/proc/self/exe", self, sizeof self - 1));
    MUST(execv(self, (char *[]){self, "set_over_exec", NULL}));
}

/* What is taken up to the mark of urgent data and beyond it is nothing new. */
static void beyond_urgent_data(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    char b[16];
    nonblocking(p.server, 1);
    send_all(p.client, "abc", 3);
    R(send(p.client, "def", 3, MSG_OOB));
    send_all(p.client, "ghi", 3);
    poll_mask(p.server, POLLPRI, 1000);
    sleep_ms(20);
    add(ep, p.server, EDGE, 1);
    show(ep, 0);
    add(ep, p.client, EDGE | EPOLLPRI, 2);
    show(ep, 0);
    R(recv(p.server, b, 5, 0));
    show(ep, 0);
    R(recv(p.server, b, 16, 0));
    show(ep, 0);
    send_all(p.client, "abc", 3);
    poll_mask(p.server, POLLIN, 1000);
    show(ep, 1000);
    R(recv(p.server, b, 16, 0));
    show(ep, 0);
    R(send(p.server, "x", 1, MSG_OOB));
    poll_mask(p.client, POLLPRI, 1000);
    show(ep, 1000);
    show(ep, 0);
    R(recv(p.client, b, 16, MSG_OOB));
    show(ep, 0);
}

/* One way to ask: what is told of bytes and of the end behind them, in one answer. */
static void ask_for_end(int way, int ep, int fd)
{
    if (way < 4)
        show(ep, way & 1 ? 1000 : 0);
    else
        trace("%s", mask_name(poll_mask(fd, POLLIN | POLLRDHUP, way & 1 ? 1000 : 0)));
}

/* The end of the stream is told of together with the bytes before it, which were told of already. */
static void end_with_bytes(void)
{
    for (int way = 0; way < 6; way++)
        for (int shut = 0; shut < 2; shut++)
            for (int end = 0; end < 3; end++) {
                struct pair p = warm_pair();
                int ep = MUST(epoll_create1(0));
                trace("way %d, shut %d, end %d", way, shut, end);
                send_all(p.client, "abc", 3);
                if (shut)
                    R(shutdown(p.server, SHUT_WR));
                add(ep, p.server, EPOLLIN | EPOLLRDHUP | (way < 2 ? EPOLLET : 0), 1);
                show(ep, 1000);
                /* Not only by chance at a time at which the kernel is asked anyway. */
                for (int i = 0; way > 1 && i < 3; i++)
                    ask_for_end(way, ep, p.server);
                if (end == 0)
                    R(shutdown(p.client, SHUT_WR));
                else if (end == 1)
                    R(close(p.client));
                else
                    R(dup2(ep, p.client));
                ask_for_end(way, ep, p.server);
                close_pair(&p);
                close(ep);
            }
}

MAIN({"end_behind_own_shutdown", end_behind_own_shutdown}, {"taken_before_the_wait", taken_before_the_wait},
     {"room_and_bytes", room_and_bytes}, {"lowat_is_an_edge", lowat_is_an_edge}, {"closed_in_a_receive", closed_in_a_receive},
     {"closed_and_held_by_a_child", closed_and_held_by_a_child},
     {"child_starts_a_program", child_starts_a_program}, {"unread_behind_an_end", unread_behind_an_end},
     {"set_over_exec", set_over_exec}, {"beyond_urgent_data", beyond_urgent_data},
     {"end_with_bytes", end_with_bytes})
