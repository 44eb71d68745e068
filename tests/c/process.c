/* Several processes: fork, exec, descriptors passed on, stdio, death. */
#include "common.h"
#include <spawn.h>

extern char **environ;

static void serve_accepted(void *arg)
{
    struct pair *p = arg;
    char b[100];
    close(p->listener);
    warm_server(p->server);
    for (int i = 0; i < 100; i++) {
        recv_all(p->server, b, sizeof b);
        send_all(p->server, b, sizeof b);
    }
    R(recv(p->server, b, 1, 0));
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

static void client_of(void *arg)
{
    struct pair *p = arg;
    int c = connect_to(p->listener);
    close(p->listener);
    warm_client(c);
    exchanges(c, 100);
}

/* The usual server: accept, fork, the child serves, the parent closes. */
static void child_serves(void)
{
    struct pair p = {.listener = listener(4)};
    for (int i = 0; i < 3; i++) {
        pid_t client = spawn_child('C', client_of, &p);
        p.server = MUST(accept(p.listener, NULL, NULL));
        pid_t server = spawn_child('B', serve_accepted, &p);
        close(p.server);
        join_child(client);
        join_child(server);
    }
}

static void accept_loop(void *arg)
{
    struct pair *p = arg;
    p->server = MUST(accept(p->listener, NULL, NULL));
    serve_accepted(p);
}

/* Workers that were forked before and share the listener. */
static void prefork(void)
{
    struct pair p = {.listener = listener(16)};
    pid_t workers[4], clients[4];
    for (int i = 0; i < 4; i++)
        workers[i] = spawn_child('B', accept_loop, &p);
    for (int i = 0; i < 4; i++)
        clients[i] = spawn_child('C', client_of, &p);
    for (int i = 0; i < 4; i++) {
        join_child(clients[i]);
        join_child(workers[i]);
    }
}

static void child_sends(void *arg)
{
    struct pair *p = arg;
    R(send(p->client, "child", 5, 0));
    nonblocking(p->client, 1);
}

/* Parent and child use the same connection in turns; the flag is the description's. */
static void both_share(void)
{
    struct pair p = warm_pair();
    char b[16];
    for (int i = 0; i < 3; i++) {
        nonblocking(p.client, 0);
        R(send(p.client, "parent", 6, 0));
        R(recv(p.server, b, 16, 0));
        join_child(spawn_child('B', child_sends, &p));
        R(recv(p.server, b, 16, 0));
        R(recv(p.client, b, 16, 0));
        R(send(p.server, "answer", 6, 0));
        poll_mask(p.client, POLLIN, 1000);
        R(recv(p.client, b, 16, 0));
    }
    nonblocking(p.client, 0);
    warm(p.client, p.server);
    R(send(p.client, "end", 3, 0));
    close(p.client);
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, 0));
}

static void leave(void *arg) { (void)arg; }

static void keep_open(void *arg)
{
    char b;
    MUST(read(*(int *)arg, &b, 1));
}

/* A child that exits, and one that lives on with copies: neither ends the connection early. */
static void snapshot_child(void)
{
    struct pair p = warm_pair();
    char b[16];
    join_child(spawn_child('B', leave, NULL));
    R(send(p.client, "one", 3, 0));
    R(recv(p.server, b, 16, 0));
    int way[2];
    MUST(pipe(way));
    pid_t pid = spawn_child('B', keep_open, way);
    R(send(p.client, "two", 3, 0));
    R(recv(p.server, b, 16, 0));
    close(p.client);
    trace("while the child has a copy: %s", mask_name(poll_mask(p.server, POLLIN, 50)));
    MUST(write(way[1], "x", 1));
    join_child(pid);
    R(recv(p.server, b, 16, 0));
}

/* As inetd does it: the connection becomes 0, 1 of a new program. */
static void exec_on(struct pair *p, char *const argv[], char *const env[])
{
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(dup2(p->server, 0));
        MUST(dup2(p->server, 1));
        close_range(3, ~0u, 0);
        execve(argv[0], argv, env);
        _exit(96);
    }
    close(p->server);
    char b[64] = "";
    R(send(p->client, "line one\n", 9, 0));
    recv_all(p->client, b, 9);
    trace("%s", b);
    R(shutdown(p->client, SHUT_WR));
    R(recv(p->client, b, 64, 0));
    join_child(pid);
}

static void inetd_cat(void)
{
    char *cat[] = {"/bin/cat", NULL}, *none[] = {NULL};
    for (int i = 0; i < 4; i++) {
        struct pair p = i < 2 ? connected() : warm_pair();
        exec_on(&p, cat, i % 2 ? none : environ);
        close(p.client);
        close(p.listener);
    }
}

/* Bytes that arrived before exec are the new program's. */
static void exec_with_unread(void)
{
    struct pair p = warm_pair();
    R(send(p.client, "early\n", 6, 0));
    poll_mask(p.server, POLLIN, 1000);
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(dup2(p.server, 0));
        close_range(3, ~0u, 0);
        execl("/bin/sh", "sh", "-c", "read a; test \"$a\" = early", NULL);
        _exit(96);
    }
    join_child(pid);
    close(p.server);
    char b[4];
    R(recv(p.client, b, 4, 0));
}

/* exec closes what is marked CLOEXEC: the peer sees the end at once. */
static void cloexec(void)
{
    struct pair p = warm_pair();
    char b[4];
    pid_t pid = MUST(fork());
    if (pid == 0) {
        close(p.client);
        MUST(fcntl(p.server, F_SETFD, FD_CLOEXEC));
        execl("/bin/sleep", "sleep", "0.3", NULL);
        _exit(96);
    }
    close(p.server);
    R(recv(p.client, b, 4, 0));
    join_child(pid);
}

static void spawned(void)
{
    struct pair p = warm_pair();
    char b[32] = "";
    posix_spawn_file_actions_t acts;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, p.server, 1);
    pid_t pid;
    R(posix_spawn(&pid, "/bin/echo", &acts, NULL, (char *[]){"echo", "spawned", NULL}, environ));
    recv_all(p.client, b, 8);
    trace("%s", b);
    join_child(pid);
    R(system("true"));
    FILE *f = popen("echo from popen", "r");
    trace("%s", fgets(b, sizeof b, f) ? b : "nothing");
    R(pclose(f));
    pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(96);
    }
    join_child(pid);
    R(send(p.client, "goes on", 7, 0));
    R(recv(p.server, b, 32, 0));
    warm(p.client, p.server);
}

static void stdio(void)
{
    struct pair p = warm_pair();
    char b[64] = "";
    R(dprintf(p.server, "%s %d\n", "number", 42));
    recv_all(p.client, b, 10);
    trace("%s", b);
    FILE *f = fdopen(p.server, "r+");
    R(fprintf(f, "hello %d\n", 1));
    R(fflush(f));
    recv_all(p.client, b, 8);
    trace("%.8s", b);
    send_all(p.client, "first\nsecond\n", 13);
    trace("%s", fgets(b, sizeof b, f));
    trace("%s", fgets(b, sizeof b, f));
    for (int i = 0; i < 20; i++) {
        fseek(f, 0, SEEK_CUR);
        fprintf(f, "line %02d\n", i);
        fflush(f);
        recv_all(p.client, b, 8);
        send_all(p.client, b, 8);
        MUST(fgets(b, sizeof b, f) ? 0 : -1);
    }
    trace("%s", b);
    R(fclose(f));
    R(recv(p.client, b, 64, 0));
    R(send(p.server, "x", 1, 0));
}

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
    MUST(sendmsg(over, &m, 0));
}

static int take(int over)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    int fd;
    MUST(recvmsg(over, &m, 0));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static void taker(void *arg)
{
    int fd = take(*(int *)arg);
    char b[100];
    for (int i = 0; i < 50; i++) {
        recv_all(fd, b, sizeof b);
        send_all(fd, b, sizeof b);
    }
    R(recv(fd, b, 1, 0));
}

/* The connection goes to a process that was there before it. */
static void passed_on(void)
{
    for (int i = 0; i < 2; i++) {
        int way[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, way));
        pid_t pid = spawn_child('B', taker, way);
        struct pair p = i ? warm_pair() : connected();
        pass(way[1], p.server);
        close(p.server);
        exchanges(p.client, 50);
        close(p.client);
        join_child(pid);
    }
}

/* A program gets a connection as its standard output by a file action, although it is marked. */
static void spawned_marked(void)
{
    struct pair p = warm_pair();
    char b[32] = "";
    posix_spawn_file_actions_t acts;
    fcntl(p.server, F_SETFD, FD_CLOEXEC);
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, p.server, 1);
    pid_t pid;
    R(posix_spawn(&pid, "/bin/echo", &acts, NULL, (char *[]){"echo", "spawned", NULL}, environ));
    recv_all(p.client, b, 8);
    trace("%s", b);
    join_child(pid);
    R(send(p.client, "goes on", 7, 0));
    R(recv(p.server, b, 32, 0));
    posix_spawn_file_actions_destroy(&acts);
    close_pair(&p);
}

/* A server with many connections starts programs, which inherit them all by accident; one of them
 * is told of two connections. */
static void many_inherited(void)
{
    enum { MANY = 40 };
    struct pair p[MANY];
    char b[64] = "", command[64], argument[64];
    for (int i = 0; i < MANY; i++)
        p[i] = warm_pair();
    R(system("true"));
    FILE *f = popen("echo from popen", "r");
    trace("%s", fgets(b, sizeof b, f) ? b : "nothing");
    R(pclose(f));
    pid_t pid;
    R(posix_spawn(&pid, "/bin/true", NULL, NULL, (char *[]){"true", NULL}, environ));
    join_child(pid);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(96);
    }
    join_child(pid);
    pid = fork();
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(96);
    }
    join_child(pid);
    /* sh -c 'echo named >/dev/fd/N' */
    snprintf(command, sizeof command, "echo named >/dev/fd/%d", p[30].server);
    /* A socket cannot be opened by its name: the shell says so. Its number is known all the same. */
    trace("opened by name: %d", system(command) != 0);
    snprintf(command, sizeof command, "/bin/bash -c 'echo named >&%d'", p[31].server);
    R(system(command));
    R(recv(p[31].client, b, 6, MSG_WAITALL));
    snprintf(argument, sizeof argument, "import os; os.write(%d, b'argued')", p[32].server);
    pid = fork();
    if (pid == 0) {
        execl("/usr/bin/python3", "python3", "-c", argument, NULL);
        _exit(96);
    }
    join_child(pid);
    R(recv(p[32].client, b, 6, MSG_WAITALL));
    trace("%.6s", b);
    for (int i = 0; i < MANY; i++) {
        long sum = 0;
        for (int k = 0; k < 20; k++) {
            sum += send(p[i].client, "question", 8, 0);
            sum += recv(p[i].server, b, 8, MSG_WAITALL);
            sum += send(p[i].server, "answer", 6, 0);
            sum += recv(p[i].client, b, 6, MSG_WAITALL);
        }
        trace("%d: %ld", i, sum);
    }
    for (int i = 0; i < MANY; i++) {
        close(p[i].server);
        trace("%d: end %zd", i, recv(p[i].client, b, 1, 0));
        close(p[i].client);
        close(p[i].listener);
    }
}

static void asleep_in_recv(void *arg)
{
    char b[32] = "";
    for (int i = 0; i < 2; i++) {
        R(recv(*(int *)arg, b, sizeof b - 1, 0));
        trace("%s", b);
    }
}

static void asleep_in_poll(void *arg)
{
    char b[32] = "";
    for (int i = 0; i < 2; i++) {
        trace("%x", poll_mask(*(int *)arg, POLLIN, 10000));
        R(recv(*(int *)arg, b, sizeof b - 1, 0));
        trace("%s", b);
    }
}

/* A child sleeps on a connection while its parent starts a program: the connection goes back to TCP,
 * and the child is woken by what comes there. */
static void asleep_while_parent_spawns(void)
{
    for (int i = 0; i < 2; i++) {
        struct pair p = warm_pair();
        pid_t child = spawn_child('B', i ? asleep_in_poll : asleep_in_recv, &p.server);
        wait_asleep(child);
        send_all(p.client, "over the ring", 13);
        wait_asleep(child);
        R(system("true"));
        send_all(p.client, "from then on", 12);
        join_child(child);
        close_pair(&p);
    }
}

MAIN({"asleep_while_parent_spawns", asleep_while_parent_spawns}, {"child_serves", child_serves}, {"prefork", prefork}, {"both_share", both_share},
     {"snapshot_child", snapshot_child}, {"inetd_cat", inetd_cat},
     {"exec_with_unread", exec_with_unread}, {"cloexec", cloexec}, {"spawned", spawned},
     {"spawned_marked", spawned_marked},
     {"many_inherited", many_inherited}, {"stdio", stdio}, {"passed_on", passed_on})
