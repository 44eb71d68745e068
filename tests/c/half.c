/* Two connections with both ends in this process; the second finds memory for one of its ends only. After
 * each line on stdin, of which the first comes when it is known who has what, one step more. */
#include "common.h"
#include <sys/resource.h>

static void next(const char *what)
{
    puts(what);
    fflush(stdout);
    while (getchar() != '\n')
        ;
}

static void exchange(struct pair p, int times)
{
    char b[4];
    for (int i = 0; i < times; i++) {
        send_all(p.client, "ask", 3);
        recv_all(p.server, b, 3);
        send_all(p.server, "say", 3);
        recv_all(p.client, b, 3);
        sleep_ms(1);
    }
}

static long mapped(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld", &pages) != 1)
        exit(1);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

int main(void)
{
    enum { COPY = 256 << 10 };
    struct pair first = connected(), second;
    exchange(first, 50);
    mapped(); /* The buffer of stdio. */
    second = connected();
    next("first");
    struct rlimit old, all;
    MUST(getrlimit(RLIMIT_AS, &old));
    all = old;
    all.rlim_cur = mapped() + COPY + COPY / 2;
    MUST(setrlimit(RLIMIT_AS, &all));
    exchange(second, 50);
    MUST(setrlimit(RLIMIT_AS, &old));
    next("half");
    close(second.server);
    next("closed");
    return 0;
}
