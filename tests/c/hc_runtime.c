/* Hard cases of threads, signals and what runs around the program. */
#include "common.h"
#include <netdb.h>
#include <setjmp.h>
#include <ucontext.h>

static volatile sig_atomic_t signals;

static void count_signal(int s)
{
    (void)s;
    signals++;
}

static void handle(int signal_number, int flags)
{
    struct sigaction a = {.sa_handler = count_signal, .sa_flags = flags};
    MUST(sigaction(signal_number, &a, NULL));
}

static void *signal_then_send(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    wait_asleep(getpid());
    kill(getpid(), ((int *)arg)[1]);
    sleep_ms(60);
    send_all(((int *)arg)[0], "late", 4);
    return NULL;
}

/* Which handler ran decides, not which handlers there are. */
static void hc_102_which_handler(void)
{
    struct pair p = warm_pair();
    handle(SIGUSR1, 0);
    handle(SIGUSR2, SA_RESTART);
    for (int i = 0; i < 8; i++) {
        int arg[] = {p.client, i % 2 ? SIGUSR1 : SIGUSR2};
        char b[16];
        pthread_t t = spawn_thread(signal_then_send, arg);
        struct iovec v = {b, 16};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
        if (i < 2)
            R(recv(p.server, b, 16, 0));
        else if (i < 4)
            R(read(p.server, b, 16));
        else if (i < 6)
            R(recvmsg(p.server, &m, 0));
        else
            R(recv(p.server, b, 4, MSG_WAITALL));
        join_thread(t);
        R(recv(p.server, b, 16, MSG_DONTWAIT));
    }
    trace("signals %d", signals);
    /* What the program reads back of its handlers. */
    struct sigaction a;
    MUST(sigaction(SIGUSR1, NULL, &a));
    trace("%d %x", a.sa_handler == count_signal, (unsigned)a.sa_flags & ~0x04000000u);
    MUST(sigaction(SIGUSR2, NULL, &a));
    trace("%d %x", a.sa_handler == count_signal, (unsigned)a.sa_flags & ~0x04000000u);
    trace("%d", signal(SIGUSR2, SIG_DFL) == count_signal);
    trace("%d", signal(SIGUSR2, count_signal) == SIG_DFL);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    MUST(siginterrupt(SIGUSR2, 1));
#pragma GCC diagnostic pop
    MUST(sigaction(SIGUSR2, NULL, &a));
    trace("%x", (unsigned)a.sa_flags & SA_RESTART);
}

/* Every call that can sleep, interrupted with and without SA_RESTART. */
static void hc_102_every_call(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0)), pipe_fds[2];
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    MUST(pipe(pipe_fds));
    for (int restart = 0; restart < 2; restart++) {
        handle(SIGUSR1, restart ? SA_RESTART : 0);
        for (int call = 0; call < 12; call++) {
            int arg[] = {p.client, SIGUSR1};
            char b[16];
            struct iovec v = {b, 16};
            struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
            struct pollfd f = {p.server, POLLIN, 0};
            fd_set r;
            FD_ZERO(&r);
            FD_SET(p.server, &r);
            pthread_t t = spawn_thread(signal_then_send, arg);
            switch (call) {
            case 0: R(read(p.server, b, 16)); break;
            case 1: R(readv(p.server, &v, 1)); break;
            case 2: R(recv(p.server, b, 16, 0)); break;
            case 3: R(recvfrom(p.server, b, 16, 0, NULL, NULL)); break;
            case 4: R(recvmsg(p.server, &m.msg_hdr, 0)); break;
            case 5: R(recvmmsg(p.server, &m, 1, 0, NULL)); break;
            case 6: R(recv(p.server, b, 16, MSG_PEEK)); break;
            case 7: R(splice(p.server, NULL, pipe_fds[1], NULL, 16, 0)); break;
            case 8: R(poll(&f, 1, -1)); break;
            case 9: R(ppoll(&f, 1, NULL, NULL)); break;
            case 10: R(select(p.server + 1, &r, NULL, NULL, NULL)); break;
            case 11: R(epoll_wait(ep, &e, 1, -1)); break;
            }
            join_thread(t);
            while (recv(p.server, b, 16, MSG_DONTWAIT) > 0)
                ;
        }
        /* A receive with a time limit is never restarted. */
        set_timeout(p.server, SO_RCVTIMEO, 3000);
        char b[16];
        int arg[] = {p.client, SIGUSR1};
        pthread_t t = spawn_thread(signal_then_send, arg);
        R(recv(p.server, b, 16, 0));
        join_thread(t);
        while (recv(p.server, b, 16, MSG_DONTWAIT) > 0)
            ;
        set_timeout(p.server, SO_RCVTIMEO, 0);
    }
    trace("signals %d", signals);
}

static struct pair in_handler;

static void use_sockets(int s)
{
    (void)s;
    int saved = errno;
    char b[8];
    /* Everything that a program may do there, on another connection and on new ones. */
    signals += write(in_handler.client, "s", 1) == 1 && read(in_handler.server, b, 8) == 1;
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    getsockname(in_handler.listener, (struct sockaddr *)&a, &len);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    signals += connect(c, (struct sockaddr *)&a, sizeof a) == 0;
    int n = accept(in_handler.listener, NULL, NULL);
    signals += send(n, "n", 1, 0) == 1 && recv(c, b, 8, 0) == 1;
    close(c);
    signals += recv(n, b, 8, 0) == 0;
    close(n);
    errno = saved;
}

static void *storm(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (int i = 0; i < 200; i++) {
        pthread_kill(*(pthread_t *)arg, SIGUSR1);
        sleep_ms(1);
    }
    return NULL;
}

/* A handler that connects, accepts, reads, writes and closes, in the middle of traffic. */
static void hc_103_handler_storm(void)
{
    struct pair p = warm_pair();
    in_handler = warm_pair();
    struct sigaction a = {.sa_handler = use_sockets, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGUSR1, &a, NULL));
    pthread_t self = pthread_self(), t = spawn_thread(storm, &self);
    int good = 0;
    for (int i = 0; i < 3000; i++) {
        char out[200], in[200];
        fill(out, sizeof out, 8, i);
        send_all(p.client, out, sizeof out);
        recv_all(p.server, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
        if (i % 10 == 0)
            sleep_ms(1);
    }
    join_thread(t);
    trace("%d good, handlers succeeded: %d", good, signals > 0 && signals % 4 == 0);
}

static jmp_buf jump;

static void jump_out(int s)
{
    (void)s;
    siglongjmp(jump, 1);
}

/* longjmp out of every sleeping call: nothing stays locked or half done. */
static void hc_102_longjmp(void)
{
    struct pair p = warm_pair();
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
    struct sigaction a = {.sa_handler = jump_out, .sa_flags = SA_NODEFER};
    MUST(sigaction(SIGALRM, &a, NULL));
    for (volatile int call = 0; call < 6; call++) {
        char b[16];
        struct pollfd f = {p.server, POLLIN, 0};
        fd_set r;
        FD_ZERO(&r);
        FD_SET(p.server, &r);
        if (sigsetjmp(jump, 1) == 0) {
            ualarm(20000, 0);
            switch (call) {
            case 0: recv(p.server, b, 16, 0); break;
            case 1: recv(p.server, b, 16, MSG_WAITALL); break;
            case 2: poll(&f, 1, -1); break;
            case 3: select(p.server + 1, &r, NULL, NULL, NULL); break;
            case 4: epoll_wait(ep, &e, 1, -1); break;
            case 5: accept(p.listener, NULL, NULL); break;
            }
        }
        R(send(p.client, "after", 5, 0));
        R(epoll_wait(ep, &e, 1, 1000));
        R(recv(p.server, b, 16, 0));
        R(send(p.server, "back", 4, 0));
        R(recv(p.client, b, 16, 0));
    }
}

static void on_alternate_stack(int s)
{
    char b[8];
    (void)s;
    signals += write(in_handler.client, "s", 1) == 1 && read(in_handler.server, b, 8) == 1;
}

static void *tiny(void *arg)
{
    struct pair *p = arg;
    char b[64] = "tiny";
    int good = 0;
    for (int i = 0; i < 50; i++) {
        send_all(p->client, b, sizeof b);
        recv_all(p->server, b, sizeof b);
        struct pollfd f = {p->client, POLLOUT, 0};
        good += poll(&f, 1, 0) == 1;
    }
    return (void *)(uintptr_t)good;
}

/* Handlers on a small alternate stack, threads with the smallest stack. */
static void hc_104_small_stacks(void)
{
    struct pair p = connected();
    in_handler = warm_pair();
    static char alternate[8192];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    MUST(sigaltstack(&stack, NULL));
    struct sigaction a = {.sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK | SA_RESTART};
    MUST(sigaction(SIGUSR1, &a, NULL));
    for (int i = 0; i < 20; i++)
        raise(SIGUSR1);
    trace("handlers %d", signals);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    for (int i = 0; i < 4; i++) {
        pthread_t t;
        void *good;
        MUST(pthread_create(&t, &attributes, tiny, &p) ? -1 : 0);
        pthread_join(t, &good);
        trace("%d", (int)(uintptr_t)good);
        warm(p.client, p.server);
    }
}

static void *cancel_me(void *arg)
{
    int *a = arg;
    char b[16];
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, a[0], &e));
    struct pollfd f = {a[0], POLLIN, 0};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(a[0], &r);
    if (a[1] == 7)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    switch (a[1]) {
    case 0: read(a[0], b, 16); break;
    case 1: recv(a[0], b, 16, MSG_WAITALL); break;
    case 2: poll(&f, 1, -1); break;
    case 3: select(a[0] + 1, &r, NULL, NULL, NULL); break;
    case 4: epoll_wait(ep, &e, 1, -1); break;
    case 5: accept(a[2], NULL, NULL); break;
    case 6: pthread_exit(PTHREAD_CANCELED); break;
    case 7:
        for (;;)
            __asm__ volatile("");
    }
    return NULL;
}

/* Threads cancelled in each sleeping call of an accelerated connection. */
static void hc_105_cancelled(void)
{
    struct pair p = warm_pair();
    for (int call = 0; call < 8; call++) {
        int arg[] = {p.server, call, p.listener};
        pthread_t t = spawn_thread(cancel_me, arg);
        void *result;
        char b[16];
        sleep_ms(20);
        pthread_cancel(t);
        pthread_join(t, &result);
        trace("%d: %d", call, result == PTHREAD_CANCELED);
        R(send(p.client, "alive", 5, 0));
        R(recv(p.server, b, 16, 0));
    }
    /* A cancelled state that is held back until the thread allows it. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    char b[16];
    R(send(p.client, "still", 5, 0));
    R(recv(p.server, b, 16, 0));
    R(recv(p.server, b, 16, MSG_DONTWAIT));
}

struct ready {
    struct pair p;
    int call, ep;
};

/* One call that need not wait, by a thread that was cancelled before. */
static void *cancelled_before(void *arg)
{
    struct ready *a = arg;
    int s = a->p.server, pipes[2];
    char b[16] = "";
    struct iovec iov = {b, sizeof b};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    struct epoll_event e;
    struct pollfd f = {s, POLLIN, 0};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(s, &r);
    MUST(pipe(pipes));
    pthread_cancel(pthread_self());
    switch (a->call) {
    case 0: read(s, b, 16); break;
    case 1: readv(s, &iov, 1); break;
    case 2: recv(s, b, 16, 0); break;
    case 3: recvfrom(s, b, 16, MSG_DONTWAIT, NULL, NULL); break;
    case 4: recvmsg(s, &m, 0); break;
    case 5: recvmmsg(s, &mm, 1, 0, NULL); break;
    case 6: write(s, b, 16); break;
    case 7: writev(s, &iov, 1); break;
    case 8: send(s, b, 16, 0); break;
    case 9: sendto(s, b, 16, MSG_DONTWAIT, NULL, 0); break;
    case 10: sendmsg(s, &m, 0); break;
    case 11: sendmmsg(s, &mm, 1, 0); break;
    case 12: poll(&f, 1, -1); break;
    case 13: ppoll(&f, 1, NULL, NULL); break;
    case 14: select(s + 1, &r, NULL, NULL, NULL); break;
    case 15: pselect(s + 1, &r, NULL, NULL, NULL, NULL); break;
    case 16: epoll_wait(a->ep, &e, 1, -1); break;
    case 17: epoll_pwait(a->ep, &e, 1, 0, NULL); break;
    case 18: splice(s, NULL, pipes[1], NULL, 16, 0); break;
    case 19: fcntl(s, F_GETFL); break;
    case 20: shutdown(s, SHUT_RD + 9); break;
    case 21: accept(s, NULL, NULL); break;
    case 22: close(s); break;
    }
    return NULL;
}

/* A cancellation that is pending ends also a call that would not wait, before it does anything. */
static void hc_105_cancelled_before(void)
{
    for (int call = 0; call < 23; call++) {
        struct ready a = {.p = warm_pair(), .call = call, .ep = MUST(epoll_create1(0))};
        struct epoll_event e = {.events = EPOLLIN};
        MUST(epoll_ctl(a.ep, EPOLL_CTL_ADD, a.p.server, &e));
        R(send(a.p.client, "there", 5, 0));
        pthread_t t = spawn_thread(cancelled_before, &a);
        void *result;
        int n = 0;
        char b[64];
        pthread_join(t, &result);
        trace("%d: %d", call, result == PTHREAD_CANCELED);
        R(ioctl(a.p.server, FIONREAD, &n));
        trace("unread %d", n);
        R(recv(a.p.client, b, 64, MSG_DONTWAIT));
        R(recv(a.p.server, b, 64, MSG_DONTWAIT));
        close(a.p.client);
        close(a.p.server);
        close(a.ep);
    }
}

/* errno is left alone by calls that succeed. */
static void hc_107_errno(void)
{
    struct pair p = warm_pair();
    char b[64];
    int n, changed = 0, ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    struct pollfd f = {p.server, POLLIN, 0};
#define KEEPS(call)                                                           \
    do {                                                                      \
        errno = 4321;                                                         \
        if ((long)(call) < 0 || errno != 4321) {                              \
            trace("%s: errno %d", #call, errno);                              \
            changed++;                                                        \
        }                                                                     \
    } while (0)
    for (int i = 0; i < 50; i++) {
        KEEPS(send(p.client, b, 64, 0));
        KEEPS(poll(&f, 1, 1000));
        KEEPS(ioctl(p.server, FIONREAD, &n));
        KEEPS(recv(p.server, b, 64, 0));
        KEEPS(write(p.server, b, 64));
        KEEPS(read(p.client, b, 64));
        KEEPS(epoll_ctl(ep, EPOLL_CTL_ADD, p.server, &e));
        KEEPS(epoll_wait(ep, &e, 1, 0));
        KEEPS(epoll_ctl(ep, EPOLL_CTL_DEL, p.server, NULL));
        KEEPS(fcntl(p.server, F_GETFL));
        int d;
        KEEPS(d = dup(p.server));
        KEEPS(close(d));
        struct pair q;
        KEEPS((q = connected()).client);
        if (i % 10 == 0)
            warm(q.client, q.server);
        KEEPS(shutdown(q.client, SHUT_WR));
        KEEPS(close(q.client));
        KEEPS(close(q.server));
        KEEPS(close(q.listener));
    }
    trace("changed %d", changed);
}

static ucontext_t main_context, contexts[2];
static struct pair on_contexts;

static void coroutine(int me)
{
    char b[64] = "coroutine";
    for (int i = 0; i < 100; i++) {
        if (me == 0)
            send_all(on_contexts.client, b, 9);
        else
            recv_all(on_contexts.server, b, 9);
        swapcontext(&contexts[me], me ? &contexts[0] : &contexts[1]);
    }
    swapcontext(&contexts[me], &main_context);
}

/* Stacks that are switched by the program. */
static void hc_119_switched_stacks(void)
{
    static char stacks[2][32768];
    on_contexts = warm_pair();
    for (int i = 0; i < 2; i++) {
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = sizeof stacks[i];
        contexts[i].uc_link = &main_context;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
    }
    swapcontext(&main_context, &contexts[0]);
    char b[16];
    R(recv(on_contexts.server, b, 16, MSG_DONTWAIT));
    R(send(on_contexts.client, "after", 5, 0));
    R(recv(on_contexts.server, b, 16, 0));
}

/* The resolver makes and closes sockets inside libc. */
static void hc_120_resolver(void)
{
    struct pair p = warm_pair();
    for (int i = 0; i < 20; i++) {
        struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
        int r = getaddrinfo(i % 2 ? "localhost" : "127.0.0.1", "80", &hints, &list);
        if (i < 2)
            trace("%d", r);
        if (r == 0)
            freeaddrinfo(list);
        char b[8];
        MUST(send(p.client, "x", 1, 0));
        MUST(recv(p.server, b, 8, 0));
    }
    trace("next number: %d", dup(0) == p.server + 1);
}

MAIN({"hc_102_which_handler", hc_102_which_handler}, {"hc_102_every_call", hc_102_every_call},
     {"hc_102_longjmp", hc_102_longjmp}, {"hc_103_handler_storm", hc_103_handler_storm},
     {"hc_104_small_stacks", hc_104_small_stacks}, {"hc_105_cancelled", hc_105_cancelled},
     {"hc_105_cancelled_before", hc_105_cancelled_before},
     {"hc_107_errno", hc_107_errno}, {"hc_119_switched_stacks", hc_119_switched_stacks},
     {"hc_120_resolver", hc_120_resolver})
