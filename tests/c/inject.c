/* Preloaded behind the library, or into the daemon: from some moment on a system call fails, by a
 * seccomp filter over all threads of the process.
 *
 *   INJECT="NUMBER ARGUMENT MASK VALUE ERRNO DELAY_MS"    DELAY_MS -1: when SIGUSR2 comes
 *
 * The call fails when (argument & mask) == value in its low 32 bits (mask 0: always). ERRNO 0: it ends
 * the process, with SIGSYS, so that it is seen to be made.
 *
 *   INJECT_KNOWN="NUMBER NUMBER ..."    from SIGUSR2 on the process says which other call it makes, and ends
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned number, argument, mask, value, error;
static int delay;

/* Not by way of syscall(): the library knows that one, and goes to TCP for a sandbox. */
static long enter_filter(const struct sock_fprog *program)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_seccomp), "D"(SECCOMP_SET_MODE_FILTER), "S"(SECCOMP_FILTER_FLAG_TSYNC), "d"(program)
                     : "rcx", "r11", "memory");
    return result;
}

static void filter_calls(struct sock_filter *filter, unsigned short length)
{
    struct sock_fprog program = {length, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || enter_filter(&program) != 0) {
        perror("seccomp");
        _exit(98);
    }
}

static void install(void)
{
    unsigned at = offsetof(struct seccomp_data, args) + 8 * argument;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, error == 0 ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filter_calls(filter, sizeof filter / sizeof *filter);
}

static void on_unknown(int unused, siginfo_t *info, void *context)
{
    char text[32];
    int n = snprintf(text, sizeof text, "unknown call %d\n", info->si_syscall);
    (void)unused, (void)context;
    (void)!write(2, text, n);
    _exit(95);
}

static void install_known(int unused)
{
    enum { MOST = 200 };
    static struct sock_filter filter[MOST + 3];
    struct sigaction action = {.sa_sigaction = on_unknown, .sa_flags = SA_SIGINFO};
    char *at = getenv("INJECT_KNOWN"), *end;
    unsigned short n = 0;
    (void)unused;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned long number; n <= MOST && (number = strtoul(at, &end, 10), end != at); at = end)
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 0);
    for (unsigned short i = 1; i < n; i++)
        filter[i].jt = n - i;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    sigaction(SIGSYS, &action, NULL);
    filter_calls(filter, n);
}

static void *later(void *unused)
{
    usleep(delay * 1000);
    install();
    return unused;
}

static void on_signal(int unused)
{
    (void)unused;
    install();
}

__attribute__((constructor)) static void start(void)
{
    const char *text = getenv("INJECT");
    pthread_t thread;
    if (getenv("INJECT_KNOWN") != NULL)
        signal(SIGUSR2, install_known);
    if (text == NULL)
        return;
    if (sscanf(text, "%u %u %x %x %u %d", &number, &argument, &mask, &value, &error, &delay) != 6)
        _exit(97);
    if (delay < 0)
        signal(SIGUSR2, on_signal);
    else if (delay == 0)
        install();
    else if (pthread_create(&thread, NULL, later, NULL) != 0)
        _exit(96);
}
