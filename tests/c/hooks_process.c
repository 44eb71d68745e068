/* vfork, clone, fork with handlers, posix_spawn, system, popen, daemon, _exit. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

extern char **environ;
static volatile int shared, before, parent, child;

static void on_before(void) { before++; }
static void on_parent(void) { parent++; }
static void on_child(void) { child++; }

static int in_clone(void *argument)
{
	shared += *(int *)argument;
	return 9;
}

static void *in_thread(void *argument)
{
	return argument;
}

static void reap(pid_t pid, int want)
{
	int status;

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == want);
}

/* vfork from different depths: the child calls functions, the parent's frame survives. */
static int __attribute__((noinline)) deep(int depth)
{
	volatile int local = depth * 7;

	if (depth == 0) {
		pid_t pid = vfork();
		if (pid == 0) {
			shared = 1234;
			close(-1);
			_exit(5);
		}
		reap(pid, 5);
		return 0;
	}
	int below = deep(depth - 1);
	return local == depth * 7 ? below : 1;
}

int main(void)
{
	CHECK(pthread_atfork(on_before, on_parent, on_child) == 0);

	for (int i = 0; i < 50; i++) {
		shared = 0;
		CHECK(deep(i) == 0);
		CHECK(shared == 1234); /* the memory was shared */
	}
	CHECK(before == 0);

	pid_t pid = fork();
	if (pid == 0)
		_Exit(child == 1 ? 7 : 1);
	reap(pid, 7);
	CHECK(before == 1 && parent == 1);
	pid = _Fork();
	if (pid == 0)
		_exit(child == 0 ? 8 : 1);
	reap(pid, 8);
	CHECK(before == 1);

	static char stack[65536] __attribute__((aligned(16)));
	int argument = 11;
	shared = 0;
	pid = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &argument);
	reap(pid, 9);
	CHECK(shared == 11);

	pthread_t thread;
	void *result;
	CHECK(pthread_create(&thread, NULL, in_thread, &argument) == 0);
	CHECK(pthread_join(thread, &result) == 0 && result == &argument);

	char *argv[] = { "sh", "-c", "exit 21", NULL };
	CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) == 0);
	reap(pid, 21);
	CHECK(posix_spawnp(&pid, "sh", NULL, NULL, argv, environ) == 0);
	reap(pid, 21);
	CHECK(posix_spawn(&pid, "/nonexistent", NULL, NULL, argv, environ) == ENOENT);

	int status = system("exit 22");
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 22);
	CHECK(system(NULL) != 0);

	FILE *pipe = popen("echo from the shell", "r");
	char line[64] = "";
	CHECK(pipe && fgets(line, sizeof line, pipe) && !strcmp(line, "from the shell\n"));
	CHECK(pclose(pipe) == 0);

	int ends[2];
	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	pid = fork();
	if (pid == 0) {
		if (daemon(1, 1))
			_exit(1);
		pid_t me = getpid();
		ssize_t sent = write(ends[1], &me, sizeof me);
		_exit(sent == sizeof me ? 0 : 1);
	}
	reap(pid, 0);
	pid_t far;
	CHECK(read(ends[0], &far, sizeof far) == sizeof far && far != pid);
	return 0;
}
