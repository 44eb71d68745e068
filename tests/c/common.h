/* What the cases share: sockets, a trace that can be compared, warming up.
 *
 * A trace must be the same in each run on TCP: no ports, pids, times, nor partial counts that
 * depend on buffer sizes. Each actor (thread or process) has its own part of the trace, printed
 * in order of the actor's letter when the case ends. */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

struct test {
    const char *name;
    void (*run)(void);
};

/* main() of every program: runs the case named by argv[1], then prints the trace. */
int run_case(int argc, char **argv, const struct test *tests, size_t count);
#define MAIN(...)                                                             \
    static const struct test tests[] = {__VA_ARGS__};                         \
    int main(int argc, char **argv)                                           \
    {                                                                         \
        return run_case(argc, argv, tests, sizeof tests / sizeof *tests);     \
    }

/* Chooses the part of the trace that this thread or process writes ('A' at the start). */
void actor(char letter);
/* Adds a line to the trace. */
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Traces "WHAT = result" or "WHAT = -1 ERRNO"; gives the result back. */
long trace_result(const char *what, long result);
#define R(call) trace_result(#call, (long)(call))
/* As R, under a name that does not show the arguments. */
#define RN(name, call) trace_result(name, (long)(call))
const char *errno_name(int error);
/* Names of the bits of a poll or epoll mask. */
const char *mask_name(unsigned mask);

/* Set-up that must work; ends the case with status 99 when it does not. */
#define MUST(call) must_((long)(call), #call, __FILE__, __LINE__)
long must_(long result, const char *what, const char *file, int line);

struct pair {
    int client, server, listener;
};

int tcp_socket(void);
/* A listener on 127.0.0.1 with a port of the kernel's choice. */
int listener(int backlog);
struct sockaddr_in address_of(int fd);
int connect_to(int listening_fd);
/* Both ends of a connection in this process. */
struct pair connected(void);
/* As connected(), then warm(). */
struct pair warm_pair(void);
void close_pair(struct pair *p);

/* Small exchanges that let a connection be accelerated; nothing on TCP. */
void warm(int client, int server);
/* The two halves, for two threads or processes. */
void warm_client(int fd);
void warm_server(int fd);
/* Exchanges that warm() makes (TEST_WARM). */
int warm_rounds(void);

/* Send or receive exactly len bytes, with blocking calls; ends the case on an error. */
void send_all(int fd, const void *data, size_t len);
void recv_all(int fd, void *data, size_t len);
/* Receives until end of file or error; gives the length, *error gets errno or 0. */
size_t drain(int fd, uint64_t *hash, int *error);

/* Deterministic content, position by position, and its hash. */
void fill(void *data, size_t len, uint64_t seed, uint64_t position);
#define HASH_START 1469598103934665603ull
uint64_t hash(uint64_t state, const void *data, size_t len);
uint64_t hash_of_stream(uint64_t seed, size_t len);

void nonblocking(int fd, int on);
void set_timeout(int fd, int option, int milliseconds);
void sleep_ms(int milliseconds);
/* Waits until a thread, or a process of one thread, sleeps in the kernel (10 s at most). */
void wait_asleep(pid_t thread);
/* Events of one fd now, after at most wait_ms. */
unsigned poll_mask(int fd, int events, int wait_ms);
/* Sends until there is no room, and none comes. */
void fill_up(int fd);
/* fork() whose child runs f(arg) as actor `letter` and exits. */
pid_t spawn_child(char letter, void (*f)(void *), void *arg);
/* Waits for a child and traces how it ended. */
void join_child(pid_t pid);
/* Becomes /bin/cat from one descriptor to another, with no other open. */
void become_cat(int from, int to, char *const env[]);
/* The same in a child: by fork (0), vfork (1), posix_spawn (2). */
pid_t start_cat(int how, int from, int to, char *const env[]);
pthread_t spawn_thread(void *(*f)(void *), void *arg);
/* The same; and waits until the thread sleeps in a call. */
pthread_t spawn_asleep(void *(*f)(void *), void *arg);
/* A thread that sends a signal to the calling one when that is asleep. */
pthread_t spawn_interruption(int signal);
void join_thread(pthread_t thread);
#endif
