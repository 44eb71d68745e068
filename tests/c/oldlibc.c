/* Makes libc one that lacks names: to a library that looks for what LACKING lists they are not there.
 * Says at the end how often one of them was looked for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int looked_for;

static int lacking(const char *name)
{
    const char *all = getenv("LACKING"), *at = all;
    size_t len = strlen(name);
    while (at != NULL && (at = strstr(at, name)) != NULL) {
        if ((at == all || at[-1] == ' ') && (at[len] == ' ' || at[len] == 0))
            return 1;
        at += len;
    }
    return 0;
}

void *dlsym(void *handle, const char *name)
{
    static void *(*real)(void *, const char *);
    if (lacking(name)) {
        looked_for++;
        return NULL;
    }
    if (real == NULL)
        real = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    return real(handle, name);
}

__attribute__((destructor)) static void say(void)
{
    fprintf(stderr, "lacking: %d\n", looked_for);
}
