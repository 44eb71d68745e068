/* Connections that are passed on over a Unix socket, before or amid their traffic. */
#include "common.h"
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

extern char **environ;

static long send_message(int over, struct msghdr *m) { return sendmsg(over, m, 0); }
static long (*sender)(int, struct msghdr *) = send_message;

static void pass(int over, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = "", byte = 'f';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    MUST(sender(over, &m));
}

static int take(int over, int flags)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    int fd;
    MUST(recvmsg(over, &m, flags));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

/* A process with a Unix socket to it, over which connections come. */
struct receiver {
    int way[2];
    pid_t pid;
};

/* Echoes what comes on the connection until it ends. */
static void echo(int fd)
{
    char b[4096];
    long n;
    while ((n = MUST(recv(fd, b, sizeof b, 0))) > 0)
        send_all(fd, b, n);
    trace("the end");
}

static void echoes(void *arg)
{
    struct receiver *r = arg;
    close(r->way[1]);
    echo(take(r->way[0], 0));
}

/* Started before there is a connection that it could inherit. */
static struct receiver receiver(void (*f)(void *))
{
    struct receiver r;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, r.way));
    r.pid = spawn_child('B', f, &r);
    close(r.way[0]);
    return r;
}

static void exchanges(int fd, int count)
{
    char out[100], in[100];
    int good = 0;
    for (int i = 0; i < count; i++) {
        fill(out, sizeof out, 8, i);
        send_all(fd, out, sizeof out);
        recv_all(fd, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
    }
    trace("%d good", good);
}

static void hand_over(struct receiver *r, int fd)
{
    pass(r->way[1], fd);
    close(fd);
}

static void finish(struct receiver *r, int fd)
{
    close(fd);
    join_child(r->pid);
}

/* Passed before its first byte was read, as from Node's cluster, with some waiting already. */
static void unread(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[8];
    send_all(p.client, "early...", 8);
    poll_mask(p.server, POLLIN, 1000);
    hand_over(&r, p.server);
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    warm_client(p.client);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

/* Passed after a greeting. */
static void greeted(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[8];
    send_all(p.server, "welcome.", 8);
    hand_over(&r, p.server);
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    warm_client(p.client);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

/* The end that has called connect is passed. */
static void client_end(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[8];
    send_all(p.client, "question", 8);
    hand_over(&r, p.client);
    recv_all(p.server, b, 8);
    trace("%.8s", b);
    warm_client(p.server);
    exchanges(p.server, 300);
    finish(&r, p.server);
}

/* Passed in the middle of its use, with bytes unread. */
static void in_use(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[100];
    for (int i = 0; i < 5; i++) {
        send_all(p.client, b, 100);
        recv_all(p.server, b, 100);
        send_all(p.server, b, 100);
        recv_all(p.client, b, 100);
    }
    send_all(p.client, b, 100);
    poll_mask(p.server, POLLIN, 1000);
    hand_over(&r, p.server);
    recv_all(p.client, b, 100);
    warm_client(p.client);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

static long send_by_number(int over, struct msghdr *m) { return syscall(SYS_sendmsg, over, m, 0); }

/* Passed by syscall(), when it is on a ring. */
static void by_number(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = warm_pair();
    sender = send_by_number;
    hand_over(&r, p.server);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

static void sleeps_elsewhere(void *arg)
{
    int *go = arg;
    struct pair *p = (struct pair *)(go + 2);
    char b[8];
    int c = connect_to(p->listener);
    warm_client(c);
    send_all(c, "early...", 8);
    recv_all(go[0], b, 1);
    send_all(c, "late....", 8);
    exchanges(c, 20);
    close(c);
}

static void reads_both(void *arg)
{
    struct receiver *r = arg;
    char b[16];
    close(r->way[1]);
    int fd = take(r->way[0], 0);
    send_all(r->way[0], "g", 1);
    recv_all(fd, b, 16);
    trace("%.16s", b);
    echo(fd);
}

/* Passed with bytes unread on the ring, while their sender waits for something else. */
static void sender_asleep(void)
{
    struct {
        int go[2];
        struct pair p;
    } s = {.p.listener = listener(4)};
    struct receiver r = receiver(reads_both);
    char b[1];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s.go));
    pid_t client = spawn_child('C', sleeps_elsewhere, &s);
    s.p.server = MUST(accept(s.p.listener, NULL, NULL));
    warm_server(s.p.server);
    poll_mask(s.p.server, POLLIN, 1000);
    hand_over(&r, s.p.server);
    recv_all(r.way[1], b, 1);
    send_all(s.go[1], b, 1);
    join_child(client);
    join_child(r.pid);
}

static void becomes_a_shell(void *arg)
{
    int *go = arg;
    struct pair *p = (struct pair *)(go + 2);
    char command[128];
    int fd = MUST(accept(p->listener, NULL, NULL));
    warm_server(fd);
    poll_mask(fd, POLLIN, 1000);
    MUST(dup2(fd, 8));
    MUST(dup2(go[1], 9));
    close(fd);
    snprintf(command, sizeof command,
             "echo >&9; test \"$(head -c 16 <&8)\" = early...late.... && exec cat <&8 >&8");
    execl("/bin/sh", "sh", "-c", command, NULL);
}

/* Another program goes on with it, likewise. */
static void exec_asleep(void)
{
    struct {
        int go[2];
        struct pair p;
    } s = {.p.listener = listener(4)};
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s.go));
    pid_t server = spawn_child('B', becomes_a_shell, &s);
    pid_t client = spawn_child('C', sleeps_elsewhere, &s);
    join_child(client);
    join_child(server);
}

static int taken_from(pid_t pid, int fd)
{
    int pidfd = MUST(syscall(SYS_pidfd_open, pid, 0));
    int taken = MUST(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    close(pidfd);
    return taken;
}

static void takes(void *arg)
{
    struct receiver *r = arg;
    int fd;
    recv_all(r->way[0], &fd, sizeof fd);
    fd = taken_from(getppid(), fd);
    send_all(r->way[0], &fd, sizeof fd);
    recv_all(r->way[0], &fd, sizeof fd);
    echo(fd);
}

/* pidfd_getfd, before the first byte; the holder closes it. */
static void taken(void)
{
    struct receiver r = receiver(takes);
    struct pair p = connected();
    int theirs;
    prctl(PR_SET_PTRACER, r.pid);
    send_all(r.way[1], &p.server, sizeof p.server);
    recv_all(r.way[1], &theirs, sizeof theirs);
    close(p.server);
    send_all(r.way[1], &theirs, sizeof theirs);
    warm_client(p.client);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

static void only_holds(void *arg)
{
    struct receiver *r = arg;
    int fd;
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    recv_all(r->way[0], &fd, sizeof fd);
    int mine = taken_from(getppid(), fd);
    R(getpeername(mine, (struct sockaddr *)&a, &len));
    send_all(r->way[0], &fd, sizeof fd);
    recv_all(r->way[0], &fd, sizeof fd);
    close(mine);
}

/* pidfd_getfd of a connection on a ring, by one that does not send or receive (as a debugger's). */
static void taken_on_ring(void)
{
    struct receiver r = receiver(only_holds);
    struct pair p = warm_pair();
    char b[4];
    prctl(PR_SET_PTRACER, r.pid);
    send_all(r.way[1], &p.server, sizeof p.server);
    recv_all(r.way[1], &p.listener, sizeof p.listener);
    warm(p.client, p.server);
    send_all(r.way[1], b, sizeof b);
    join_child(r.pid);
    warm(p.client, p.server);
    R(send(p.client, "end", 3, 0));
    R(shutdown(p.client, SHUT_WR));
    R(recv(p.server, b, 4, MSG_WAITALL));
}

/* Who passed it goes on using it. */
static void sender_keeps(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[8];
    pass(r.way[1], p.server);
    warm_client(p.client);
    exchanges(p.client, 300);
    send_all(p.server, "me too..", 8);
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    exchanges(p.client, 300);
    close(p.server);
    finish(&r, p.client);
}

/* Two have received it. */
static void two_receivers(void)
{
    struct receiver r = receiver(echoes), other = receiver(echoes);
    struct pair p = connected();
    pass(r.way[1], p.server);
    hand_over(&other, p.server);
    warm_client(p.client);
    exchanges(p.client, 300);
    shutdown(p.client, SHUT_WR);
    join_child(r.pid);
    finish(&other, p.client);
}

static void peeks(void *arg)
{
    struct receiver *r = arg;
    close(r->way[1]);
    int first = take(r->way[0], MSG_PEEK), second = take(r->way[0], 0);
    char b[8];
    recv_all(first, b, 8);
    send_all(first, b, 8);
    echo(second);
    send_all(first, "other fd", 8);
}

/* A receiver with two descriptors of it. */
static void peeked(void)
{
    struct receiver r = receiver(peeks);
    struct pair p = connected();
    char b[8];
    hand_over(&r, p.server);
    send_all(p.client, "question", 8);
    recv_all(p.client, b, 8);
    warm_client(p.client);
    exchanges(p.client, 300);
    shutdown(p.client, SHUT_WR);
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    finish(&r, p.client);
}

static struct receiver last;

static void passes_on(void *arg)
{
    struct receiver *r = arg;
    close(r->way[1]);
    int fd = take(r->way[0], 0);
    pass(last.way[1], fd);
    close(last.way[1]);
    char b[8];
    recv_all(r->way[0], b, 8);
    send_all(fd, "me too..", 8);
    close(fd);
}

/* The receiver passes it on and keeps it. */
static void passed_twice(void)
{
    last = receiver(echoes);
    struct receiver r = receiver(passes_on);
    struct pair p = connected();
    char b[8];
    hand_over(&r, p.server);
    warm_client(p.client);
    exchanges(p.client, 300);
    send_all(r.way[1], "speak...", 8);
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    join_child(r.pid);
    exchanges(p.client, 300);
    close(last.way[1]);
    finish(&last, p.client);
}

/* Between its passing and its closing a program was started, which has inherited it. */
static void inherited(void)
{
    struct receiver r = receiver(echoes);
    struct pair p = connected();
    char b[8], command[64];
    int go[2];
    MUST(pipe(go));
    pass(r.way[1], p.server);
    snprintf(command, sizeof command, "read a <&%d; printf 'me too..' >&%d", go[0], p.server);
    pid_t pid;
    R(posix_spawn(&pid, "/bin/sh", NULL, NULL, (char *[]){"sh", "-c", command, NULL}, environ));
    close(p.server);
    warm_client(p.client);
    exchanges(p.client, 300);
    MUST(write(go[1], "go\n", 3));
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    join_child(pid);
    exchanges(p.client, 300);
    finish(&r, p.client);
}

MAIN({"unread", unread}, {"greeted", greeted}, {"client_end", client_end}, {"in_use", in_use},
     {"by_number", by_number}, {"sender_asleep", sender_asleep}, {"exec_asleep", exec_asleep}, {"taken", taken},
     {"taken_on_ring", taken_on_ring},
     {"sender_keeps", sender_keeps}, {"two_receivers", two_receivers}, {"peeked", peeked},
     {"passed_twice", passed_twice}, {"inherited", inherited})
