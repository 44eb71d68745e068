/* Comes and goes as fast as it can, in several processes:
 *   attempts SECONDS PROCESSES PATH    sessions with the daemon that listens at PATH
 *   attempts SECONDS PROCESSES PORT    connections to 127.0.0.1, ended by a reset: no port stays taken
 * Waits for nobody to let it in. Prints how many were let in, and how many turned away. */
#include "common.h"
#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

struct counts {
    long in, away;
};

static double now(void)
{
    struct timespec t;
    MUST(clock_gettime(CLOCK_MONOTONIC, &t));
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int session(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    int fd = MUST(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    int in = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    MUST(close(fd));
    return in;
}

static int connection(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct linger reset = {.l_onoff = 1};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)), in = 0;
    /* The second one tells how the first one went. */
    for (int i = 0; i < 2 && !in; i++)
        in = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
    MUST(close(fd));
    return in;
}

static void come_and_go(double until, const char *where, struct counts *counts)
{
    int port = atoi(where);
    while (now() < until)
        for (int i = 0; i < 100; i++)
            (port > 0 ? connection(port) : session(where)) ? counts->in++ : counts->away++;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int processes = atoi(argv[2]);
    size_t size = processes * sizeof(struct counts);
    struct counts *counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), all = {0};
    double start = now();
    for (int i = 0; i < processes; i++) {
        if (MUST(fork()) == 0) {
            come_and_go(start + atof(argv[1]), argv[3], &counts[i]);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    for (int i = 0; i < processes; i++) {
        all.in += counts[i].in;
        all.away += counts[i].away;
    }
    printf("%ld %ld\n", all.in, all.away);
    return 0;
}
