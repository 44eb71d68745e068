/* Hard cases of setting up: listeners that others hold too, options that only TCP can carry. */
#include "common.h"
#include <linux/filter.h>
#include <netinet/in.h>

extern char **environ;

static void exchange(struct pair *p, const char *text)
{
    char b[64] = "";
    R(send(p->client, text, strlen(text), 0));
    R(recv(p->server, b, sizeof b, 0));
    trace("%s", b);
    R(send(p->server, "back", 4, 0));
    R(recv(p->client, b, sizeof b, 0));
}

/* Nobody accepts and the backlog is full: connect stays in progress, poll shows nothing. */
static void hc_005_full_backlog(void)
{
    int l = listener(0);
    struct sockaddr_in a = address_of(l);
    int fd[4];
    for (int i = 0; i < 4; i++) {
        fd[i] = tcp_socket();
        nonblocking(fd[i], 1);
        int r = connect(fd[i], (struct sockaddr *)&a, sizeof a);
        trace("%d %s", r, errno_name(errno));
    }
    /* How many fit is the kernel's affair; the last one never does. */
    trace("%s", mask_name(poll_mask(fd[3], POLLIN | POLLOUT, 50)));
    R(connect(fd[3], (struct sockaddr *)&a, sizeof a));
    R(send(fd[3], "x", 1, 0));
    set_timeout(fd[3], SO_SNDTIMEO, 50);
    nonblocking(fd[3], 0);
    R(send(fd[3], "x", 1, 0));
}

/* Runs this program again: "setup listen FD COUNT" accepts and answers. */
static pid_t run_listener(int l, char *const env[])
{
    pid_t pid = MUST(fork());
    if (pid == 0) {
        char self[4096] = "";
        MUST(readlink("/proc/self/exe", self, sizeof self - 1));
        if (l != 3)
            MUST(dup2(l, 3));
        close_range(4, ~0u, 0);
        execve(self, (char *[]){self, "accept_on_3", NULL}, env);
        _exit(96);
    }
    return pid;
}

/* The other half: what a program started by inetd "wait" or by systemd does. */
static void accept_on_3(void)
{
    for (;;) {
        int s = accept(3, NULL, NULL);
        if (s < 0)
            _exit(0);
        char b[100];
        long n;
        while ((n = recv(s, b, sizeof b, 0)) > 0)
            send_all(s, b, n);
        close(s);
    }
}

static int ask(int l, int rounds)
{
    int c = connect_to(l), good = 0;
    warm_client(c);
    for (int i = 0; i < rounds; i++) {
        char out[100], in[100];
        fill(out, sizeof out, 3, i);
        send_all(c, out, sizeof out);
        recv_all(c, in, sizeof in);
        good += memcmp(out, in, sizeof in) == 0;
    }
    close(c);
    return good;
}

/* Two members of a SO_REUSEPORT group, one of them without the library. */
static void hc_009_reuseport_mixed(void)
{
    int l[2], one = 1, good = 0;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    pid_t pid[2];
    char *none[] = {NULL};
    for (int i = 0; i < 2; i++) {
        l[i] = tcp_socket();
        MUST(setsockopt(l[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
        MUST(bind(l[i], (struct sockaddr *)&a, sizeof a));
        MUST(listen(l[i], 64));
        a = address_of(l[i]);
    }
    for (int i = 0; i < 2; i++)
        pid[i] = run_listener(l[i], i ? environ : none);
    int name = l[0];
    for (int i = 0; i < 24; i++)
        good += ask(name, 40) == 40;
    trace("%d good", good);
    for (int i = 0; i < 2; i++) {
        MUST(shutdown(l[i], SHUT_RDWR));
        join_child(pid[i]);
    }
}

/* A listener that comes through exec, as from systemd or inetd: its connections accelerate. */
static void hc_010_inherited_listener(void)
{
    int l = listener(8);
    pid_t pid = run_listener(l, environ);
    for (int i = 0; i < 3; i++)
        trace("%d", ask(l, 40));
    MUST(shutdown(l, SHUT_RDWR));
    join_child(pid);
}

static int herd_pipe[2];

static void wait_exclusive(void *arg)
{
    int l = *(int *)arg, ep = MUST(epoll_create1(0)), served = 0;
    struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = l};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e));
    e = (struct epoll_event){.events = EPOLLIN, .data.fd = herd_pipe[0]};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, herd_pipe[0], &e));
    nonblocking(l, 1);
    for (;;) {
        MUST(epoll_wait(ep, &e, 1, -1));
        if (e.data.fd == herd_pipe[0])
            break;
        int s = accept(l, NULL, NULL);
        if (s < 0)
            continue;
        char b[100];
        long n;
        while ((n = recv(s, b, sizeof b, 0)) > 0)
            send_all(s, b, n);
        close(s);
        served++;
    }
    (void)served;
}

/* Workers that watch one listener with EPOLLEXCLUSIVE, as nginx does. */
static void hc_011_exclusive_listener(void)
{
    int l = listener(64), good = 0;
    pid_t pid[3];
    MUST(pipe(herd_pipe));
    for (int i = 0; i < 3; i++)
        pid[i] = spawn_child('B', wait_exclusive, &l);
    for (int i = 0; i < 12; i++)
        good += ask(l, 20) == 20;
    trace("%d good", good);
    MUST(write(herd_pipe[1], "x", 1));
    for (int i = 0; i < 3; i++)
        join_child(pid[i]);
}

/* Options that need TCP, set before the connection exists and after it was accelerated. */
static void hc_015_special_options(void)
{
    int one = 1, five = 5;
    struct sock_filter all = {.code = BPF_RET | BPF_K, .k = 0xffffffff};
    struct sock_fprog filter = {1, &all};
    for (int late = 0; late < 2; late++) {
        for (int which = 0; which < 6; which++) {
            struct pair p = {.listener = tcp_socket()};
            struct sockaddr_in a = {.sin_family = AF_INET,
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
            MUST(bind(p.listener, (struct sockaddr *)&a, sizeof a));
            if (which == 0)
                R(setsockopt(p.listener, IPPROTO_TCP, TCP_FASTOPEN, &five, sizeof five));
            if (which == 1)
                R(setsockopt(p.listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &five, sizeof five));
            MUST(listen(p.listener, 4));
            a = address_of(p.listener);
            p.client = tcp_socket();
            for (int now = 0; now < 2; now++) {
                if (now == late && which == 2)
                    R(setsockopt(p.client, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter));
                if (now == late && which == 3)
                    R(setsockopt(p.client, IPPROTO_TCP, TCP_ULP, "tls", 4));
                if (now == late && which == 4)
                    R(setsockopt(p.client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
                if (now == 0) {
                    if (which == 5)
                        R(sendto(p.client, "fast open", 9, MSG_FASTOPEN, (struct sockaddr *)&a,
                                 sizeof a));
                    else
                        R(connect(p.client, (struct sockaddr *)&a, sizeof a));
                    send_all(p.client, "first", 5);
                    p.server = MUST(accept(p.listener, NULL, NULL));
                    char b[16] = "";
                    recv_all(p.server, b, which == 5 ? 14 : 5);
                    trace("%s", b);
                    warm(p.client, p.server);
                }
            }
            exchange(&p, "after");
            if (which == 2) {
                R(setsockopt(p.client, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one));
                warm(p.client, p.server);
                exchange(&p, "detached");
            }
            close_pair(&p);
        }
    }
}

/* connect, bind and listen in the wrong order, and on connected sockets. */
static void hc_016_wrong_order(void)
{
    struct pair p = warm_pair();
    struct sockaddr_in a = address_of(p.listener);
    struct sockaddr *sa = (struct sockaddr *)&a;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    R(connect(p.client, sa, sizeof a));
    R(connect(p.client, sa, 3));
    R(connect(p.client, NULL, sizeof a));
    R(bind(p.client, sa, sizeof a));
    R(listen(p.client, 1));
    R(listen(p.server, 1));
    R(accept(p.client, NULL, NULL));
    R(connect(p.listener, sa, sizeof a));
    R(bind(p.listener, sa, sizeof a));
    exchange(&p, "unharmed");
    R(connect(p.server, &none, sizeof none));
    char b[4];
    R(recv(p.client, b, 4, 0));
    R(recv(p.server, b, 4, 0));
    R(bind(p.server, sa, sizeof a));
    R(connect(p.listener, &none, sizeof none));
    R(connect(-1, sa, sizeof a));
    R(connect(1000, sa, sizeof a));
    int file = MUST(memfd_create("file", 0));
    R(connect(file, sa, sizeof a));
    R(listen(file, 1));
}

/* IPv6 only, a scoped address, and mapped addresses where they are forbidden. */
static void hc_017_v6only(void)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int one = 1, l = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    MUST(bind(l, (struct sockaddr *)&a, sizeof a));
    MUST(listen(l, 4));
    MUST(getsockname(l, (struct sockaddr *)&a, &len));
    v4.sin_port = a.sin6_port;
    int n = tcp_socket();
    R(connect(n, (struct sockaddr *)&v4, sizeof v4));
    a.sin6_scope_id = 1;
    struct pair p = {.listener = l, .client = MUST(socket(AF_INET6, SOCK_STREAM, 0))};
    R(connect(p.client, (struct sockaddr *)&a, sizeof a));
    p.server = MUST(accept(l, NULL, NULL));
    warm(p.client, p.server);
    exchange(&p, "six");
    len = 4;
    R(getpeername(p.client, (struct sockaddr *)&a, &len));
    trace("%d", len);
    R(getpeername(p.client, NULL, NULL));
    int m = -1;
    len = sizeof m;
    R(getsockopt(p.server, IPPROTO_IPV6, IPV6_V6ONLY, &m, &len));
    trace("%d", m);
}

/* The same four numbers again and again: nothing of the old connection is left in the new. */
static void hc_061_same_ports(void)
{
    int l = listener(8), good = 0;
    struct sockaddr_in to = address_of(l), from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 30; i++) {
        struct linger reset = {1, 0};
        int one = 1;
        struct pair p = {.listener = l, .client = tcp_socket()};
        MUST(setsockopt(p.client, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
        MUST(bind(p.client, (struct sockaddr *)&from, sizeof from));
        MUST(connect(p.client, (struct sockaddr *)&to, sizeof to));
        p.server = MUST(accept(l, NULL, NULL));
        from = address_of(p.client);
        if (i % 2)
            warm(p.client, p.server);
        char out[100], in[100];
        fill(out, sizeof out, 4, i);
        send_all(p.client, out, sizeof out);
        recv_all(p.server, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
        /* A reset leaves no TIME_WAIT; every third end also leaves bytes behind. */
        if (i % 3 == 0)
            send_all(p.server, "never read", 10);
        MUST(setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
        close(p.client);
        while (recv(p.server, in, sizeof in, 0) > 0)
            ;
        close(p.server);
    }
    trace("%d good", good);
}

static const struct test tests[] = {
    {"hc_005_full_backlog", hc_005_full_backlog},
     {"hc_009_reuseport_mixed", hc_009_reuseport_mixed},
     {"hc_010_inherited_listener", hc_010_inherited_listener},
     {"hc_011_exclusive_listener", hc_011_exclusive_listener},
     {"hc_015_special_options", hc_015_special_options},
     {"hc_016_wrong_order", hc_016_wrong_order}, {"hc_017_v6only", hc_017_v6only},
    {"hc_061_same_ports", hc_061_same_ports},
};

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "accept_on_3") == 0)
        accept_on_3();
    return run_case(argc, argv, tests, sizeof tests / sizeof *tests);
}
