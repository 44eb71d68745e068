/* Receives on a connection on which the same thread has slept often before. */
#include "common.h"
#include <sys/syscall.h>

enum { OFTEN = 24 };

/* A thread that receives; what it does after it has slept often. */
struct sleeper {
    struct pair p;
    volatile int fd;
    volatile pid_t thread;
    void (*then)(struct sleeper *);
    pthread_t id;
};

static void *sleep_often(void *arg)
{
    struct sleeper *s = arg;
    char b[16];
    actor('B');
    s->thread = (pid_t)syscall(SYS_gettid);
    for (int i = 0; i < OFTEN; i++)
        recv_all(s->fd, b, 1);
    s->then(s);
    return NULL;
}

/* Lets it sleep often; gives when it sleeps in the receive of `then`. */
static void start(struct sleeper *s, void (*then)(struct sleeper *))
{
    s->fd = s->p.server;
    s->then = then;
    s->thread = 0;
    s->id = spawn_thread(sleep_often, s);
    while (!s->thread)
        sched_yield();
    for (int i = 0; i < OFTEN; i++) {
        wait_asleep(s->thread);
        send_all(s->p.client, "x", 1);
    }
    wait_asleep(s->thread);
}

static void until_the_end(struct sleeper *s)
{
    char b[64];
    while (R(recv(s->fd, b, sizeof b, 0)) > 0)
        ;
    R(recv(s->fd, b, sizeof b, 0));
}

static void finish(struct sleeper *s)
{
    join_thread(s->id);
    close_pair(&s->p);
}

/* Each way in which the peer, or an own shutdown, ends it. */
static void ends(void)
{
    for (int how = 0; how < 5; how++) {
        struct sleeper s = {.p = warm_pair()};
        struct linger hard = {1, 0};
        start(&s, until_the_end);
        switch (how) {
        case 0: R(shutdown(s.p.client, SHUT_WR)); break;
        case 1: R(shutdown(s.p.server, SHUT_RD)); break;
        case 2: R(shutdown(s.p.server, SHUT_RDWR)); break;
        case 3:
            MUST(setsockopt(s.p.client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
            /* fall through */
        case 4: R(dup2(s.p.listener, s.p.client)); break;
        }
        finish(&s);
    }
}

static void killed_peer(void *arg)
{
    struct pair *p = arg;
    close(p->server);
    warm_client(p->client);
    for (;;)
        pause();
}

static void *end_by_kill(void *arg)
{
    char b[64];
    actor('B');
    R(recv(*(int *)arg, b, sizeof b, 0));
    R(recv(*(int *)arg, b, sizeof b, 0));
    return NULL;
}

static void talking_peer(void *arg)
{
    struct pair *p = arg;
    char b;
    close(p->server);
    warm_client(p->client);
    while (recv(p->client, &b, 1, 0) == 1) {
        sleep_ms(1);
        send_all(p->client, "x", 1);
    }
}

/* A peer that is killed; before, one that answers each time when this end sleeps. */
static void killed(void)
{
    struct pair p = connected();
    pid_t child = spawn_child('C', talking_peer, &p);
    char b;
    close(p.client);
    warm_server(p.server);
    for (int i = 0; i < OFTEN; i++) {
        send_all(p.server, "x", 1);
        recv_all(p.server, &b, 1);
    }
    pthread_t t = spawn_asleep(end_by_kill, &p.server);
    kill(child, SIGKILL);
    join_thread(t);
    join_child(child);
    struct pair q = connected();
    child = spawn_child('D', killed_peer, &q);
    close(q.client);
    warm_server(q.server);
    t = spawn_asleep(end_by_kill, &q.server);
    kill(child, SIGKILL);
    join_thread(t);
    join_child(child);
}

/* Urgent data, and what comes behind it. */
static void urgent(void)
{
    struct sleeper s = {.p = warm_pair()};
    start(&s, until_the_end);
    R(send(s.p.client, "u", 1, MSG_OOB));
    wait_asleep(s.thread);
    R(send(s.p.client, "after", 5, 0));
    wait_asleep(s.thread);
    close(s.p.client);
    join_thread(s.id);
}

/* The number on which it sleeps is closed, or becomes another's; the connection has a second one. */
static void renamed(void)
{
    for (int how = 0; how < 2; how++) {
        struct sleeper s = {.p = warm_pair()};
        int second = MUST(dup(s.p.server));
        start(&s, until_the_end);
        if (how == 0)
            R(close(s.p.server));
        else
            RN("dup2", dup2(s.p.listener, s.p.server));
        send_all(s.p.client, "abc", 3);
        join_thread(s.id);
        if (how == 0)
            MUST(dup2(second, s.p.server));
        close(s.p.client);
        char b[16];
        R(recv(second, b, 16, 0));
        close(second);
        close(s.p.server);
    }
}

static void twice_and_again(struct sleeper *s)
{
    char b[16];
    R(recv(s->fd, b, 16, 0));
    R(recv(s->fd, b, 16, 0));
    set_timeout(s->fd, SO_RCVTIMEO, 0);
    R(recv(s->fd, b, 16, 0));
}

/* A time limit that is set while it sleeps holds from the next receive on, and is taken off again. */
static void limit(void)
{
    struct sleeper s = {.p = warm_pair()};
    start(&s, twice_and_again);
    set_timeout(s.p.server, SO_RCVTIMEO, 100);
    send_all(s.p.client, "a", 1);
    while (poll_mask(s.p.server, POLLIN, 0))
        sched_yield();
    sleep_ms(300);
    wait_asleep(s.thread);
    send_all(s.p.client, "abc", 3);
    finish(&s);
}

static volatile sig_atomic_t signals;

static void count_signal(int s)
{
    (void)s;
    signals++;
}

static void interrupted(struct sleeper *s)
{
    char b[16];
    R(recv(s->fd, b, 10, MSG_WAITALL));
    R(recv(s->fd, b, 16, 0));
}

/* A signal whose handler lets it go on, or not, when it has received nothing, or a part. */
static void signalled(void)
{
    for (int restart = 0; restart < 2; restart++)
        for (int part = 0; part < 2; part++) {
            struct sleeper s = {.p = warm_pair()};
            struct sigaction a = {.sa_handler = count_signal,
                                  .sa_flags = restart ? SA_RESTART : 0};
            signals = 0;
            MUST(sigaction(SIGUSR1, &a, NULL));
            start(&s, interrupted);
            if (part) {
                send_all(s.p.client, "abc", 3);
                wait_asleep(s.thread);
            }
            errno = pthread_kill(s.id, SIGUSR1);
            MUST(errno ? -1 : 0);
            while (!signals)
                sched_yield();
            wait_asleep(s.thread);
            send_all(s.p.client, "0123456789", 10);
            if (!part || !restart)
                close(s.p.client);
            else
                shutdown(s.p.client, SHUT_WR);
            join_thread(s.id);
        }
}

static void stopped_server(void *arg)
{
    struct pair *p = arg;
    char b[16];
    close(p->client);
    warm_server(p->server);
    for (int i = 0; i < OFTEN; i++)
        recv_all(p->server, b, 1);
    R(recv(p->server, b, 16, 0));
    R(recv(p->server, b, 16, 0));
    R(recv(p->server, b, 16, 0));
}

static void stop_and_go_on(pid_t child)
{
    wait_asleep(child);
    MUST(kill(child, SIGSTOP));
    MUST(waitpid(child, NULL, WUNTRACED));
    MUST(kill(child, SIGCONT));
    wait_asleep(child);
}

/* A process that is stopped in its receive and goes on. */
static void stopped(void)
{
    struct pair p = connected();
    pid_t child = spawn_child('C', stopped_server, &p);
    close(p.server);
    warm_client(p.client);
    for (int i = 0; i < OFTEN; i++) {
        wait_asleep(child);
        send_all(p.client, "x", 1);
    }
    stop_and_go_on(child);
    send_all(p.client, "abc", 3);
    stop_and_go_on(child);
    stop_and_go_on(child);
    send_all(p.client, "de", 2);
    stop_and_go_on(child);
    close(p.client);
    join_child(child);
}

static void *until_cancelled(void *arg)
{
    recv(*(int *)arg, &(char){0}, 1, 0);
    return NULL;
}

static void then_cancelled(struct sleeper *s)
{
    until_cancelled((int *)&s->fd);
}

/* A thread that is cancelled there; others sleep on the connection after it. */
static void cancelled(void)
{
    struct sleeper s = {.p = warm_pair()};
    for (int i = 0; i < 3; i++) {
        void *result;
        start(&s, then_cancelled);
        pthread_cancel(s.id);
        pthread_join(s.id, &result);
        trace("cancelled: %d", result == PTHREAD_CANCELED);
    }
    start(&s, until_the_end);
    close(s.p.client);
    join_thread(s.id);
}

static void *sleep_by_turns(void *arg)
{
    int *fds = arg;
    char b[16];
    actor('B');
    for (int i = 0; i < 4 * OFTEN; i++)
        recv_all(fds[i / OFTEN % 2], b, 1);
    R(recv(fds[0], b, 16, 0));
    R(recv(fds[1], b, 16, 0));
    return NULL;
}

/* One thread sleeps often on one connection, then on another, and on the first again. Meanwhile a child has them as well,
 * and the parent closes and opens numbers. */
static void by_turns(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    int fds[2] = {p.server, q.server};
    pthread_t t = spawn_asleep(sleep_by_turns, fds);
    for (int i = 0; i < 4 * OFTEN; i++) {
        sleep_ms(1);
        send_all(i / OFTEN % 2 ? q.client : p.client, "x", 1);
        if (i % OFTEN == OFTEN / 2) {
            int other = MUST(dup(i / OFTEN % 2 ? q.server : p.server));
            close(other);
        }
    }
    sleep_ms(20);
    close(p.client);
    sleep_ms(20);
    send_all(q.client, "end", 3);
    join_thread(t);
}

static void holder(void *arg)
{
    /* Until the other end of the pipe is closed. */
    char b;
    int *f = arg;
    close(f[1]);
    R(read(f[0], &b, 1));
}

/* A number is closed while a child has the connection, and means another one by the next sleeps. */
static void left_to_a_child(void)
{
    struct sleeper s = {.p = warm_pair()};
    int f[2];
    MUST(pipe(f));
    start(&s, until_the_end);
    pid_t child = spawn_child('C', holder, f);
    send_all(s.p.client, "abc", 3);
    wait_asleep(s.thread);
    shutdown(s.p.client, SHUT_WR);
    join_thread(s.id);
    int number = s.p.server;
    close_pair(&s.p);
    s.p = warm_pair();
    if (s.p.server != number) {
        MUST(dup2(s.p.server, number));
        close(s.p.server);
        s.p.server = number;
    }
    start(&s, until_the_end);
    close(f[1]);
    join_child(child);
    send_all(s.p.client, "abc", 3);
    wait_asleep(s.thread);
    close(s.p.client);
    join_thread(s.id);
}

MAIN({"ends", ends}, {"killed", killed}, {"urgent", urgent}, {"renamed", renamed}, {"limit", limit},
     {"signalled", signalled}, {"stopped", stopped}, {"cancelled", cancelled},
     {"by_turns", by_turns}, {"left_to_a_child", left_to_a_child})
