/* Preloaded behind the library, or into the daemon: from some moment on a system call fails, by a
 * seccomp filter over all threads of the process.
 *
 *   INJECT="NUMBER ARGUMENT MASK VALUE ERRNO DELAY_MS"    DELAY_MS -1: when SIGUSR2 comes
 *
 * The call fails when (argument & mask) == value in its low 32 bits (mask 0: always). */
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

static void install(void)
{
    unsigned at = offsetof(struct seccomp_data, args) + 8 * argument;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) < 0) {
        perror("seccomp");
        _exit(98);
    }
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
