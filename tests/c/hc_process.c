/* Hard cases of processes, descriptors and what a process may lose. */
#include "common.h"
#include <dirent.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void exchange(struct pair *p, const char *text)
{
    char b[64] = "";
    R(send(p->client, text, strlen(text), MSG_NOSIGNAL));
    R(recv(p->server, b, sizeof b, 0));
    trace("%s", b);
}

static int tokens[2];

static void write_chunks(void *arg)
{
    int *a = arg;
    static char block[3000], token;
    memset(block, a[1], sizeof block);
    for (int i = 0; i < 300; i++) {
        MUST(read(tokens[0], &token, 1));
        send_all(a[0], block, sizeof block);
    }
}

/* Two processes write to one socket at once: every call's bytes stay together, as long as there is
 * room for them, which the tokens see to. */
static void hc_082_two_writers(void)
{
    struct pair p = warm_pair();
    int args[2][2] = {{p.client, 'x'}, {p.client, 'y'}}, whole = 1;
    MUST(pipe(tokens));
    MUST(write(tokens[1], "12345678", 8));
    pid_t a = spawn_child('B', write_chunks, args[0]), b = spawn_child('B', write_chunks, args[1]);
    static char block[3000];
    for (int i = 0; i < 600; i++) {
        recv_all(p.server, block, sizeof block);
        MUST(write(tokens[1], "x", 1));
        for (int k = 1; k < 3000; k++)
            whole &= block[k] == block[0];
    }
    trace("whole: %d", whole);
    join_child(a);
    join_child(b);
    exchange(&p, "after");
    warm(p.client, p.server);
}

static int in_clone(void *arg)
{
    struct pair *p = arg;
    close(p->listener);
    return 0;
}

/* vfork, clone with shared memory: the child's descriptors are its own, the tables are ours. */
static void hc_084_shared_memory_children(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    static char stack[65536] __attribute__((aligned(16)));
    pid_t pid = vfork();
    if (pid == 0) {
        close(p.client);
        dup2(q.server, p.server);
        _exit(0);
    }
    join_child(pid);
    exchange(&p, "vfork");
    pid = MUST(clone(in_clone, stack + sizeof stack, CLONE_VM | SIGCHLD, &p));
    join_child(pid);
    exchange(&p, "clone");
    exchange(&q, "other");
    struct pair r = {.listener = p.listener, .client = connect_to(p.listener)};
    r.server = MUST(accept(p.listener, NULL, NULL));
    warm(r.client, r.server);
    exchange(&r, "still listens");
    warm(p.client, p.server);
}

/* FD_CLOEXEC set and cleared again on a connection in use. */
static void hc_089_cloexec_changes(void)
{
    for (int i = 0; i < 3; i++) {
        struct pair p = warm_pair();
        R(fcntl(p.server, F_SETFD, FD_CLOEXEC));
        if (i == 1)
            R(fcntl(p.server, F_SETFD, 0));
        if (i == 2)
            R(ioctl(p.server, FIONCLEX));
        R(fcntl(p.server, F_GETFD));
        pid_t pid = MUST(fork());
        if (pid == 0) {
            close(p.client);
            char command[64];
            snprintf(command, sizeof command, "test -e /proc/self/fd/%d && echo here >&%d",
                     p.server, p.server);
            execl("/bin/sh", "sh", "-c", command, NULL);
            _exit(96);
        }
        close(p.server);
        char b[16] = "";
        R(recv(p.client, b, 5, MSG_WAITALL));
        trace("%s", b);
        R(recv(p.client, b, 5, 0));
        join_child(pid);
        close(p.client);
        close(p.listener);
    }
}

static void close_all(int how)
{
    if (how == 0)
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
    if (how == 1)
        close_range(3, ~0u, 0);
    if (how == 2)
        closefrom(3);
    if (how == 3)
        syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_UNSHARE);
    if (how == 4) {
        /* As Python and others: by the list in /proc. */
        DIR *d = opendir("/proc/self/fd");
        struct dirent *e;
        while ((e = readdir(d)))
            if (atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d))
                close(atoi(e->d_name));
        closedir(d);
    }
}

static void daemonised(void *arg)
{
    close_all(*(int *)arg);
    struct pair p = warm_pair();
    trace("%d %d %d", p.listener, p.client, p.server);
    exchange(&p, "fresh");
    R(close_range(p.client, p.client, CLOSE_RANGE_CLOEXEC));
    trace("cloexec %d", fcntl(p.client, F_GETFD));
    exchange(&p, "marked");
    R(close_range(p.server, p.client, 0));
    R(close_range(5, 9, 77));
}

/* A program that closes everything that it does not know, then goes to work. */
static void hc_090_closes_everything(void)
{
    struct pair p = warm_pair();
    for (int how = 0; how < 5; how++) {
        join_child(spawn_child('B', daemonised, &how));
        exchange(&p, "parent");
    }
}

/* dup2 onto every number there is: the library's own make room. */
static void hc_091_numbers(void)
{
    struct rlimit files = {1024, 1024};
    setrlimit(RLIMIT_NOFILE, &files);
    struct pair p = warm_pair(), q;
    int null = MUST(open("/dev/null", O_RDWR)), taken = 0;
    for (int fd = 900; fd < 1024; fd++)
        taken += dup2(null, fd) == fd;
    trace("%d", taken);
    exchange(&p, "goes on");
    q = connected();
    warm(q.client, q.server);
    exchange(&q, "new");
    for (int fd = 900; fd < 1024; fd++) {
        if (write(fd, "x", 1) != 1)
            trace("%d is not ours", fd);
        close(fd);
    }
    exchange(&p, "and on");
    close(0);
    trace("%d", dup(p.client));
}

/* Little memory: TCP instead of a crash. */
static void hc_093_little_memory(void)
{
    struct rlimit room = {200 << 20, 200 << 20};
    MUST(setrlimit(RLIMIT_AS, &room));
    struct pair p = warm_pair();
    exchange(&p, "limited");
    static char block[60000], in[60000];
    for (int i = 0; i < 100; i++) {
        fill(block, sizeof block, 5, i);
        send_all(p.client, block, sizeof block);
        recv_all(p.server, in, sizeof in);
        if (memcmp(block, in, sizeof in))
            trace("%d differs", i);
    }
}

static void in_chroot(void *arg)
{
    struct pair *p = arg;
    close(p->listener);
    R(chroot("/proc/self/fdinfo") == 0 || errno == EPERM);
    R(chdir("/") == 0);
    exchange(p, "moved in");
    struct pair q = connected();
    warm(q.client, q.server);
    exchange(&q, "made inside");
}

/* chroot after the start. */
static void hc_095_chroot(void)
{
    struct pair p = warm_pair();
    join_child(spawn_child('B', in_chroot, &p));
    exchange(&p, "outside");
}

static void drops(void *arg)
{
    struct pair *p = arg;
    p->server = MUST(accept(p->listener, NULL, NULL));
    close(p->listener);
    setgroups(0, NULL);
    if (getuid() == 0 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
        _exit(95);
    warm_server(p->server);
    char b[100];
    for (int i = 0; i < 50; i++) {
        recv_all(p->server, b, sizeof b);
        send_all(p->server, b, sizeof b);
    }
    struct pair q = warm_pair();
    exchange(&q, "as nobody");
}

/* A worker that drops its privileges between accept and the first byte. */
static void hc_096_setuid(void)
{
    struct pair p = {.listener = listener(4)};
    pid_t pid = spawn_child('B', drops, &p);
    int c = connect_to(p.listener), good = 0;
    warm_client(c);
    for (int i = 0; i < 50; i++) {
        char out[100], in[100];
        fill(out, sizeof out, 6, i);
        send_all(c, out, sizeof out);
        recv_all(c, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
    }
    trace("%d good", good);
    join_child(pid);
}

/* Everything but some calls is refused, to this thread or to all. */
static void allow_only(const int *allowed, int n, unsigned refuse, unsigned threads)
{
    struct sock_filter f[64];
    struct sock_fprog program = {n + 3, f};
    f[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                        offsetof(struct seccomp_data, nr));
    for (int i = 0; i < n; i++)
        f[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], n - i, 0);
    f[n + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, refuse);
    f[n + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (threads)
        MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, threads, &program));
    else
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* Only what a program with an accepted connection needs. */
static void sandbox(unsigned refuse)
{
    static const int allowed[] = {
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_sendto, SYS_recvmsg,
        SYS_sendmsg, SYS_poll, SYS_ppoll, SYS_close, SYS_exit, SYS_exit_group, SYS_brk, SYS_mmap,
        SYS_munmap, SYS_mprotect, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
        SYS_getpid, SYS_gettid, SYS_nanosleep, SYS_clock_nanosleep, SYS_futex, SYS_fcntl,
        SYS_shutdown, SYS_getsockopt, SYS_ioctl, SYS_madvise, SYS_sched_yield, SYS_clock_gettime,
        SYS_restart_syscall};
    allow_only(allowed, sizeof allowed / sizeof *allowed, refuse, 0);
}

struct jailed {
    struct pair p;
    int warm, refuse;
};

static void in_sandbox(void *arg)
{
    struct jailed *j = arg;
    int s = MUST(accept(j->p.listener, NULL, NULL));
    char b[100];
    if (j->warm)
        warm_server(s);
    else
        recv_all(s, b, 1);
    sandbox(j->refuse ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM);
    for (int i = 0; i < 200; i++) {
        if (recv(s, b, sizeof b, MSG_WAITALL) != sizeof b ||
            send(s, b, sizeof b, 0) != sizeof b)
            _exit(90);
        struct pollfd f = {s, POLLIN, 0};
        if (i % 10 == 0)
            poll(&f, 1, 1000);
    }
    shutdown(s, SHUT_WR);
    recv(s, b, 1, 0);
    _exit(0);
}

/* A sandbox like that of sshd before authentication, entered before and after the first traffic. */
static void jail(int refuse)
{
    for (int warmed = 0; warmed < 2; warmed++) {
        struct jailed j = {{.listener = listener(4)}, warmed, refuse};
        pid_t pid = spawn_child('B', in_sandbox, &j);
        int c = connect_to(j.p.listener), good = 0;
        char out[100], in[100];
        if (warmed)
            warm_client(c);
        else
            send_all(c, "x", 1);
        for (int i = 0; i < 200; i++) {
            fill(out, sizeof out, 7, i);
            send_all(c, out, sizeof out);
            recv_all(c, in, sizeof in);
            good += memcmp(in, out, sizeof in) == 0;
        }
        trace("%d good", good);
        R(recv(c, in, 1, 0));
        close(c);
        join_child(pid);
    }
}

static void *echoes(void *arg)
{
    char b[100];
    for (long n; (n = read(*(int *)arg, b, sizeof b)) > 0;)
        if (write(*(int *)arg, b, n) != n)
            _exit(91);
    _exit(close(*(int *)arg));
}

static void echoes_in_sandbox(void *arg)
{
    static const int allowed[] = {SYS_read, SYS_write, SYS_close, SYS_exit_group, SYS_pause};
    int s = MUST(accept(*(int *)arg, NULL, NULL));
    warm_server(s);
    spawn_asleep(echoes, &s);
    allow_only(allowed, sizeof allowed / sizeof *allowed, SECCOMP_RET_KILL_PROCESS,
               SECCOMP_FILTER_FLAG_TSYNC);
    for (;;)
        pause();
}

/* A filter for all threads while one of them sleeps in a read: its calls are its own from there on. */
static void hc_117_seccomp_threads(void)
{
    int l = listener(4), good = 0;
    pid_t pid = spawn_child('B', echoes_in_sandbox, &l);
    int c = connect_to(l);
    char path[64], out[100], in[100];
    warm_client(c);
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    for (int within = 0; !within; sleep_ms(2)) {
        static char text[4096];
        int f = MUST(open(path, O_RDONLY));
        text[MUST(read(f, text, sizeof text - 1))] = 0;
        within = strstr(text, "Seccomp:\t2") != NULL;
        close(f);
    }
    for (int i = 0; i < 50; i++) {
        fill(out, sizeof out, 8, i);
        send_all(c, out, sizeof out);
        recv_all(c, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
    }
    trace("%d good", good);
    MUST(shutdown(c, SHUT_WR));
    R(recv(c, in, 1, 0));
    join_child(pid);
}

static void echoes_strictly(void *arg)
{
    struct pair *p = arg;
    char b[100];
    close(p->client);
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    for (long n; (n = read(p->server, b, sizeof b)) > 0;)
        if (write(p->server, b, n) != n)
            break;
    syscall(SYS_exit, 7);
}

/* read, write and exit alone are left, on a connection with and without traffic before. */
static void hc_117_seccomp_strict(void)
{
    for (int warmed = 0; warmed < 2; warmed++) {
        struct pair p = warmed ? warm_pair() : connected();
        char out[100], in[100];
        int good = 0;
        pid_t pid = spawn_child('B', echoes_strictly, &p);
        close(p.server);
        for (int i = 0; i < 50; i++) {
            fill(out, sizeof out, 9, i);
            send_all(p.client, out, sizeof out);
            recv_all(p.client, in, sizeof in);
            good += memcmp(in, out, sizeof in) == 0;
        }
        trace("%d good", good);
        MUST(shutdown(p.client, SHUT_WR));
        R(recv(p.client, in, 1, 0));
        join_child(pid);
        close(p.client);
        close(p.listener);
    }
}

static void hc_117_seccomp_errno(void) { jail(0); }
static void hc_117_seccomp_kill(void) { jail(1); }

MAIN({"hc_082_two_writers", hc_082_two_writers},
     {"hc_084_shared_memory_children", hc_084_shared_memory_children},
     {"hc_089_cloexec_changes", hc_089_cloexec_changes},
     {"hc_090_closes_everything", hc_090_closes_everything}, {"hc_091_numbers", hc_091_numbers},
     {"hc_093_little_memory", hc_093_little_memory}, {"hc_095_chroot", hc_095_chroot},
     {"hc_096_setuid", hc_096_setuid}, {"hc_117_seccomp_errno", hc_117_seccomp_errno},
     {"hc_117_seccomp_kill", hc_117_seccomp_kill},
     {"hc_117_seccomp_threads", hc_117_seccomp_threads},
     {"hc_117_seccomp_strict", hc_117_seccomp_strict})
