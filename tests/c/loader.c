/* Programs that load modules which use sockets, or start other programs. PLUGIN names them. */
#include "common.h"
#include <dlfcn.h>

static int exchange(struct pair *p, int flags, int close_it)
{
    void *module = dlopen(getenv("PLUGIN"), RTLD_NOW | flags);
    MUST(module ? 0 : -1);
    int (*f)(int, int, int) = (int (*)(int, int, int))dlsym(module, "plugin_exchange");
    int good = f(p->client, p->server, 100);
    if (close_it)
        dlclose(module);
    return good;
}

/* Loaded and unloaded as usual: its calls are ours. */
static void plain_module(void)
{
    struct pair p = connected();
    for (int i = 0; i < 3; i++)
        trace("%d", exchange(&p, RTLD_LOCAL, 1));
    warm(p.client, p.server);
    trace("%d", exchange(&p, RTLD_LOCAL, 0));
}

/* RTLD_DEEPBIND prefers the module's own libc: its calls are not ours. The connection is its alone. */
static void deep_module(void)
{
    struct pair p = connected(), q = warm_pair();
    trace("%d", exchange(&p, RTLD_LOCAL | RTLD_DEEPBIND, 0));
    char b[16] = "";
    R(send(p.client, "by the host", 11, 0));
    R(recv(p.server, b, 16, 0));
    warm(p.client, p.server);
    R(send(q.client, "another", 7, 0));
    R(recv(q.server, b, 16, 0));
}

/* A libc of its own in another namespace. */
static void own_namespace(void)
{
    struct pair p = connected();
    void *module = dlmopen(LM_ID_NEWLM, getenv("PLUGIN"), RTLD_NOW);
    MUST(module ? 0 : -1);
    int (*f)(int, int, int) = (int (*)(int, int, int))dlsym(module, "plugin_exchange");
    trace("%d", f(p.client, p.server, 100));
    warm(p.client, p.server);
    char b[16] = "";
    R(send(p.client, "by the host", 11, 0));
    R(recv(p.server, b, 16, 0));
}

enum { EARLY = 96 << 10, LATER = 1 << 20 };

/* More than fits, while its echo is received. */
static void *send_later(void *fd)
{
    static char b[LATER];
    fill(b, sizeof b, 9, EARLY);
    send_all(*(int *)fd, b, sizeof b);
    return NULL;
}

/* As inetd does it: the connection becomes 0 and 1 of another program, a cat; bytes have come before. */
static void inetd(void)
{
    for (int i = 0; i < 3; i++) {
        struct pair p = i ? warm_pair() : connected();
        static char all[EARLY + LATER];
        char b[64] = "";
        fill(all, EARLY, 9, 0);
        send_all(p.client, all, EARLY);
        poll_mask(p.server, POLLIN, 1000);
        pid_t pid = MUST(fork());
        if (pid == 0) {
            MUST(dup2(p.server, 0));
            MUST(dup2(p.server, 1));
            close_range(3, ~0u, 0);
            execl(getenv("PLUGIN"), "cat", NULL);
            _exit(96);
        }
        close(p.server);
        pthread_t sender = spawn_thread(send_later, &p.client);
        memset(all, 0, sizeof all);
        recv_all(p.client, all, sizeof all);
        join_thread(sender);
        trace("all the same: %d", hash(HASH_START, all, sizeof all) == hash_of_stream(9, sizeof all));
        for (int k = 0; k < 50; k++) {
            char out[50];
            fill(out, sizeof out, 9, k);
            send_all(p.client, out, sizeof out);
            recv_all(p.client, b, sizeof out);
            if (memcmp(b, out, sizeof out))
                trace("%d differs", k);
        }
        R(shutdown(p.client, SHUT_WR));
        R(recv(p.client, b, 64, 0));
        join_child(pid);
        close(p.client);
        close(p.listener);
    }
}

MAIN({"inetd", inetd}, {"plain_module", plain_module}, {"deep_module", deep_module},
     {"own_namespace", own_namespace})
