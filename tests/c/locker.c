/* A library that is preloaded beside ours and locks the program's memory: LOCK_FIRST in its constructor, LOCK_LAST at the
 * end (flags of mlockall). It prints the KiB of shared memory that the process has, and whether what it maps in between
 * is locked. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEN (1 << 20)

static void lock(const char *name)
{
    const char *flags = getenv(name);
    if (flags != NULL && mlockall(atoi(flags)) != 0) {
        perror("mlockall");
        _exit(2);
    }
}

static long status(const char *field)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, field, strlen(field)) == 0)
            kib = atol(line + strlen(field));
    if (file != NULL)
        fclose(file);
    return kib;
}

static void *own;

__attribute__((constructor)) static void begin(void)
{
    lock("LOCK_FIRST");
    own = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

__attribute__((destructor)) static void end(void)
{
    unsigned char pages[LEN / 4096];
    int resident = 0;
    lock("LOCK_LAST");
    if (mincore(own, LEN, pages) == 0)
        for (size_t i = 0; i < sizeof pages; i++)
            resident += pages[i] & 1;
    fprintf(stderr, "shared %ld resident %d\n", status("RssShmem:"), resident);
}
