/* Runs generated socket programs, see program.h: `program FILE`. A FILE holds programs:
 *
 *   program NAME PROCESSES PAIRS WARM THREADS
 *   ACTOR OP ARGUMENTS... [! sleeps on TCP] [>N: the call of actor N ends with this step]
 *   end
 *
 * PROCESSES 1: actor 0 holds both ends of each pair, actor 1 is a thread beside it. 2: actor 0 holds
 * the server's ends (slots 2, 4), actor 1, a process, the client's (slots 1, 3). Actor 2 is a thread
 * of actor 0's process. Slot 0 is the listener. Actors from 3 on are forked by steps. */
#include "program.h"
#include <linux/net_tstamp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

struct shared *shared;
int slots[SLOTS];
__thread struct mailbox *me;

/* A call that sleeps longer than this sleeps until somebody wakes it: all time limits are shorter. */
enum { SLEEP_MS = 16, HANG_MS = 12000 };

static void futex_wait(_Atomic uint32_t *word, uint32_t value, int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    syscall(SYS_futex, word, 0, value, ms < 0 ? NULL : &t, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, 1, 1, NULL, NULL, 0); }

void say(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = vsnprintf(me->result + me->used, RESULT - me->used, format, list);
    va_end(list);
    me->used += n;
    if (me->used >= RESULT)
        me->used = RESULT - 1;
}

long say_result(const char *what, long value)
{
    if (value == -1)
        say("%s=%s", what, errno_name(errno));
    else
        say("%s=%ld", what, value);
    return value;
}

static void on_end(int n) { (void)n; }

void actor_main(int number)
{
    struct sigaction a = {.sa_handler = on_end};
    me = &shared->box[number];
    /* Does not restart anything: ends the last calls. */
    sigaction(SIGALRM, &a, NULL);
    atomic_store(&me->pid, getpid());
    atomic_store(&me->tid, syscall(SYS_gettid));
    futex_wake(&me->done);
    for (uint32_t seen = atomic_load(&me->done);;) {
        uint32_t given = atomic_load(&me->given);
        if (given == seen) {
            futex_wait(&me->given, seen, -1);
            continue;
        }
        me->used = 0;
        me->result[0] = 0;
        perform(&me->step);
        seen = given;
        atomic_store(&me->done, given);
        futex_wake(&me->done);
    }
}

static void *thread_main(void *arg) { actor_main((int)(intptr_t)arg); }

void actor_thread(int number) { spawn_thread(thread_main, (void *)(intptr_t)number); }

/* Bytes of the socket that the kernel has carried: [0] acknowledged, [1] received. */
static void carried(int fd, uint64_t counts[2])
{
    char info[256] = {0};
    socklen_t len = sizeof info;
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len);
    memcpy(counts, info + 120, 16);
}

static int warm_limit(void) { return getenv("TEST_WARM") ? 80 : 3; }

static void pause_us(int us)
{
    struct timespec t = {0, us * 1000L};
    nanosleep(&t, NULL);
}

/* One exchange; whether the kernel has had no part in it. */
static int exchange(int fd, int echo, char last)
{
    uint64_t before[2], after[2];
    char b[32] = {last};
    carried(fd, before);
    send_all(fd, b, sizeof b);
    if (echo >= 0) {
        recv_all(echo, b, sizeof b);
        send_all(echo, b, sizeof b);
    }
    recv_all(fd, b, sizeof b);
    carried(fd, after);
    return memcmp(before, after, sizeof before) == 0;
}

void warm_here(int client, int server)
{
    for (int i = 0; i < warm_limit() && !exchange(client, server, 0); i++)
        pause_us(200);
}

void warm_as_client(int fd)
{
    for (int i = 0; i < warm_limit() && !exchange(fd, -1, 0); i++)
        pause_us(200);
    exchange(fd, -1, 1);
}

void warm_as_server(int fd)
{
    char b[32] = "";
    while (!b[0]) {
        recv_all(fd, b, sizeof b);
        send_all(fd, b, sizeof b);
    }
}

struct plan {
    char name[64];
    int processes, pairs, warm, threads;
};

static void set_up_alone(const struct plan *p)
{
    for (int i = 0; i < p->pairs; i++) {
        slots[1 + 2 * i] = connect_to(slots[0]);
        slots[2 + 2 * i] = MUST(accept(slots[0], NULL, NULL));
        int one = 1;
        MUST(setsockopt(slots[2 + 2 * i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
        if (p->warm)
            warm_here(slots[1 + 2 * i], slots[2 + 2 * i]);
    }
    if (p->threads > 0)
        actor_thread(1);
}

static void set_up_client(const struct plan *p)
{
    close(slots[0]);
    slots[0] = -1;
    for (int i = 0; i < p->pairs; i++) {
        int fd = tcp_socket();
        MUST(connect(fd, (struct sockaddr *)&shared->listener, sizeof shared->listener));
        slots[1 + 2 * i] = fd;
        if (p->warm)
            warm_as_client(fd);
    }
}

static void set_up_server(const struct plan *p)
{
    for (int i = 0; i < p->pairs; i++) {
        int one = 1, fd = MUST(accept(slots[0], NULL, NULL));
        MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
        slots[2 + 2 * i] = fd;
        if (p->warm)
            warm_as_server(fd);
    }
}

/* The first process, and what it starts. */
static void first_process(const struct plan *p)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, SIG_DFL);
    for (int i = 0; i < SLOTS; i++)
        slots[i] = -1;
    slots[0] = listener(8);
    shared->listener = address_of(slots[0]);
    if (p->processes == 1) {
        set_up_alone(p);
    } else if (MUST(fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        set_up_client(p);
        actor_main(1);
    } else {
        set_up_server(p);
    }
    if (p->threads > 1)
        actor_thread(2);
    actor_main(0);
}

/* 'R', 'S', ... or 0 when the actor is gone. */
static char state(const struct mailbox *box)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", box->pid, box->tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    char *end = strrchr(text, ')');
    return end && end[1] && end[2] != 'Z' && end[2] != 'X' ? end[2] : 0;
}

enum outcome { DONE, ASLEEP, GONE, HUNG };

/* Waits for a step. `sure`: it is known to end. Time in which the actor runs does not count. */
static enum outcome await(struct mailbox *box, int sure, int sleep_ms_limit)
{
    int slept = 0;
    for (int ms = 0; ms < HANG_MS; ms++) {
        uint32_t done = atomic_load(&box->done);
        if (done == atomic_load(&box->given))
            return DONE;
        futex_wait(&box->done, done, 1);
        if (atomic_load(&box->done) == atomic_load(&box->given))
            return DONE;
        char s = state(box);
        if (s == 0)
            return GONE;
        slept = s == 'S' ? slept + 1 : 0;
        if (!sure && slept >= sleep_ms_limit)
            return ASLEEP;
    }
    return HUNG;
}

static int busy[ACTORS_MAX];
static struct step running[ACTORS_MAX];

static void give(const struct step *s)
{
    struct mailbox *box = &shared->box[s->actor];
    box->step = *s;
    running[s->actor] = *s;
    atomic_fetch_add(&box->given, 1);
    futex_wake(&box->given);
}

static const char *names[] = {"asleep", "gone", "HUNG"};

/* Reports calls that have ended with this step. False: one that should have has not. */
static int collect(const struct step *s)
{
    for (int a = 0; a < ACTORS_MAX; a++) {
        int sure = 0;
        if (!busy[a])
            continue;
        for (int i = 0; i < s->end_count; i++)
            sure |= s->ends[i] == a;
        enum outcome o = await(&shared->box[a], sure, 2);
        if (o == ASLEEP)
            continue;
        busy[a] = 0;
        printf("%d ended %d A%d: %s\n", s->number, running[a].number, a,
               o == DONE ? shared->box[a].result : names[o - 1]);
        if (o == HUNG)
            return 0;
    }
    return 1;
}

static int run_step(struct step *s, const char *name)
{
    struct mailbox *box = &shared->box[s->actor];
    int target = s->arg[0];
    if (busy[s->actor] || atomic_load(&box->tid) == 0 || state(box) == 0) {
        printf("%d A%d %s: not free\n", s->number, s->actor, name);
        return 1;
    }
    if (strcmp(name, "kill") == 0) {
        /* Of the coordinator's: a signal for an actor. */
        if (target >= 0 && target < ACTORS_MAX && busy[target])
            syscall(SYS_tgkill, shared->box[target].pid, shared->box[target].tid,
                    s->arg[1] == 1 ? SIGUSR1 : SIGUSR2);
        printf("%d kill\n", s->number);
        return collect(s);
    }
    if (strcmp(name, "fork") == 0) {
        struct mailbox *child = &shared->box[target];
        if (atomic_load(&child->tid) != 0 && state(child)) {
            printf("%d A%d %s: taken\n", s->number, s->actor, name);
            return 1;
        }
        /* A child that came before has not done its last step: it ended in it. */
        atomic_store(&child->done, atomic_load(&child->given));
        atomic_store(&child->tid, 0);
    }
    give(s);
    /* The program that is started takes its time, and ends by itself. So does a close that lingers, for as
     * long as the peer's kernel delays the acknowledgement of the FIN. */
    int sure = s->sleeps < 0 || strcmp(name, "spawn") == 0 || strcmp(name, "close") == 0 ||
               strcmp(name, "dup") == 0;
    enum outcome o = await(box, sure, SLEEP_MS);
    printf("%d A%d %s: %s\n", s->number, s->actor, name, o == DONE ? box->result : names[o - 1]);
    busy[s->actor] = o == ASLEEP;
    if (o == DONE && strcmp(name, "fork") == 0)
        for (int ms = 0; ms < 2000 && atomic_load(&shared->box[target].tid) == 0; ms++)
            pause_us(1000);
    return o != HUNG && collect(s);
}

/* Ends the calls that still sleep. */
static void finish(void)
{
    for (int a = 0; a < ACTORS_MAX; a++)
        for (int try = 0; busy[a] && try < 100; try++) {
            syscall(SYS_tgkill, shared->box[a].pid, shared->box[a].tid, SIGALRM);
            if (await(&shared->box[a], 0, 5) == DONE) {
                printf("at last %d A%d: %s\n", running[a].number, a, shared->box[a].result);
                busy[a] = 0;
            }
        }
}

static int read_step(char *line, struct step *s, char *name)
{
    int at = 0, used, value;
    memset(s, 0, sizeof *s);
    if (sscanf(line, "%d %31s%n", &s->actor, name, &at) < 2 || s->actor >= ACTORS_MAX)
        return 0;
    s->op = op_by_name(name);
    if (s->op < 0)
        return 0;
    for (int i = 0; i < ARGS && sscanf(line + at, " %ld%n", &s->arg[i], &used) == 1; i++)
        at += used;
    /* -1: it is known to end; 1: to sleep; 0: not known. */
    char *known = strchr(line + at, '=');
    s->sleeps = strchr(line + at, '!') ? 1 : known ? -1 : 0;
    for (char *end = line + at; (end = strchr(end, '>')); end++)
        if (sscanf(end + 1, "%d", &value) == 1)
            s->ends[s->end_count++] = value;
    return 1;
}

static void run_program(FILE *file, const struct plan *p)
{
    memset(shared->box, 0, sizeof shared->box);
    memset(busy, 0, sizeof busy);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, shared->way));
    for (int i = 0; i < 2; i++) {
        int high = MUST(fcntl(shared->way[i], F_DUPFD, 400 + i));
        close(shared->way[i]);
        shared->way[i] = high;
    }
    fflush(stdout);
    pid_t pid = MUST(fork());
    if (pid == 0) {
        fclose(file);
        first_process(p);
    }
    int actors = p->threads > 1 ? 3 : p->threads > 0 || p->processes > 1 ? 2 : 1, good = 1;
    for (int a = 0; a < actors; a++)
        for (int ms = 0; ms < HANG_MS && atomic_load(&shared->box[a].tid) == 0; ms++)
            if (a > 0 || p->processes == 2 || p->threads || p->warm || 1)
                futex_wait(&shared->box[a].done, 0, 1);
    char line[512], name[32];
    struct step s;
    printf("program %s\n", p->name);
    for (int n = 1; fgets(line, sizeof line, file) && strncmp(line, "end", 3) != 0; n++) {
        if (!good)
            continue;
        if (!read_step(line, &s, name)) {
            printf("bad step: %s", line);
            continue;
        }
        s.number = n;
        good = run_step(&s, name);
    }
    finish();
    printf("end\n");
    for (int a = 0; a < ACTORS_MAX; a++)
        if (shared->box[a].pid > 0)
            kill(shared->box[a].pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    close(shared->way[0]);
    close(shared->way[1]);
}

/* The kernel begins to stamp what comes some time after the first socket of the machine has asked for it: one
 * of ours does all the while, so that SO_TIMESTAMP holds at once. */
static void keep_stamping(void)
{
    int on = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int low = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    int fd = MUST(fcntl(low, F_DUPFD_CLOEXEC, 410));
    close(low);
    MUST(bind(fd, (struct sockaddr *)&a, len));
    MUST(getsockname(fd, (struct sockaddr *)&a, &len));
    MUST(connect(fd, (struct sockaddr *)&a, len));
    MUST(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &on, sizeof on));
    for (int ms = 0; ms < HANG_MS; ms++) {
        /* No room for a stamp: the flags say that there is one. */
        struct msghdr m = {0};
        MUST(send(fd, "", 0, 0));
        MUST(recvmsg(fd, &m, 0));
        if (m.msg_flags & MSG_CTRUNC)
            return;
        pause_us(1000);
    }
}

int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "re") : NULL;
    struct plan p;
    char line[512];
    if (!file)
        return 2;
    keep_stamping();
    /* Actors whose parents are gone are ours. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared == MAP_FAILED ? -1 : 0);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "program %63s %d %d %d %d", p.name, &p.processes, &p.pairs, &p.warm,
                   &p.threads) == 5)
            run_program(file, &p);
    return 0;
}
