/* Socket programs made by a generator: what the coordinator and the actors share.
 *
 * A program is a list of steps. Each is a call, or a few, made by one actor: a thread or a process.
 * The coordinator hands out one step after the other. A call that sleeps is noted as such, and its
 * result when it comes, so that the trace is the same each time. See tests/src/random. */
#ifndef PROGRAM_H
#define PROGRAM_H
#include "common.h"
#include <stdarg.h>
#include <stdatomic.h>

enum { ACTORS_MAX = 6, SLOTS = 16, ARGS = 6, RESULT = 400 };

struct step {
    int number, actor, op;
    long arg[ARGS];
    /* On TCP it slept; steps that came to their end after it. Only known with --expect. */
    int sleeps;
    int ends[ACTORS_MAX], end_count;
};

/* One for each actor, in shared memory. */
struct mailbox {
    _Atomic uint32_t given, done;
    _Atomic int tid, pid;
    struct step step;
    char result[RESULT];
    size_t used;
};

struct shared {
    struct mailbox box[ACTORS_MAX];
    struct sockaddr_in listener;
    /* Over which descriptors are passed. */
    int way[2];
};

extern struct shared *shared;
/* Descriptors by slot, of this process. */
extern int slots[SLOTS];
/* The actor that this thread is. */
extern __thread struct mailbox *me;

/* Adds to the result of the step. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "WHAT=value" or "WHAT=ERRNO". */
long say_result(const char *what, long value);

int op_by_name(const char *name);
/* Makes the calls of a step. */
void perform(const struct step *step);

/* Starts an actor as a thread of this process, or becomes one. */
void actor_thread(int number);
void actor_main(int number) __attribute__((noreturn));

/* Exchanges until both directions are on a ring, on TCP a few. */
void warm_here(int client, int server);
void warm_as_client(int fd);
void warm_as_server(int fd);
#endif
