/* execl, execlp, execle with every number of arguments, the vector forms, fexecve, execveat, and
 * each from a child of fork and of vfork. The program runs itself and checks what arrives. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define A(n) "a" #n

static char self[4096];

/* Started by a test: argv = {"child", count, env, a1, a2, ...}. */
static int child(int argc, char **argv)
{
	int count = atoi(argv[1]);
	char want[16];

	if (argc != count + 3)
		return 10;
	for (int i = 1; i <= count; i++) {
		snprintf(want, sizeof want, "a%d", i);
		if (strcmp(argv[i + 2], want))
			return 11;
	}
	const char *mark = getenv("HOOKS_EXEC");
	if (!strcmp(argv[2], "given"))
		return mark && !strcmp(mark, "given") ? 42 : 12;
	return mark && !strcmp(mark, "inherited") ? 42 : 13;
}

static void expect(pid_t pid, const char *what, int count)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    WEXITSTATUS(status) != 42) {
		fprintf(stderr, "%s with %d arguments: status %x\n", what, count, status);
		exit(1);
	}
}

static void run(int count, int how, char **env)
{
	static const char *const names[] = { "execl", "execlp", "execle" };
	char n[8];

	snprintf(n, sizeof n, "%d", count);
	for (int quick = 0; quick < 2; quick++) {
		pid_t pid = quick ? vfork() : fork();
		if (pid == 0) {
#define FIRST "child", n
#define RUN(...)                                                              \
	do {                                                                  \
		if (how == 0)                                                 \
			execl(self, FIRST, "inherited", ##__VA_ARGS__, (char *)NULL);  \
		else if (how == 1)                                            \
			execlp(self, FIRST, "inherited", ##__VA_ARGS__, (char *)NULL); \
		else                                                          \
			execle(self, FIRST, "given", ##__VA_ARGS__, (char *)NULL, env); \
	} while (0)
			switch (count) {
			case 0: RUN(); break;
			case 1: RUN(A(1)); break;
			case 2: RUN(A(1), A(2)); break;
			case 3: RUN(A(1), A(2), A(3)); break;
			case 4: RUN(A(1), A(2), A(3), A(4)); break;
			case 5: RUN(A(1), A(2), A(3), A(4), A(5)); break;
			case 6: RUN(A(1), A(2), A(3), A(4), A(5), A(6)); break;
			case 7: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7)); break;
			case 8: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8)); break;
			case 9: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9)); break;
			case 10: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10)); break;
			case 11: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11)); break;
			case 12: RUN(A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11), A(12)); break;
			}
			_exit(99);
		}
		expect(pid, names[how], count);
	}
}

/* A failed exec comes back to the right place with everything in its place. */
static int fails(long a, long b)
{
	long c = a * 3;
	char text[16] = "intact";

	errno = 0;
	if (execl("/nonexistent/program", "x", "1", "2", "3", "4", "5", "6", "7", (char *)NULL) != -1)
		return 1;
	if (errno != ENOENT || strcmp(text, "intact") || c != a * 3)
		return 2;
	if (execlp("nonexistent-program-name", "x", (char *)NULL) != -1 || errno != ENOENT)
		return 3;
	char *env[] = { NULL };
	if (execle("/nonexistent/program", "x", "1", (char *)NULL, env) != -1 || errno != ENOENT)
		return 4;
	if (execl("/nonexistent/program", "x", (char *)NULL) != -1 || errno != ENOENT)
		return 5;
	return b == 7 ? 0 : 6;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[0], "child"))
		return child(argc, argv);

	ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
	if (len <= 0)
		return 2;
	self[len] = 0;
	setenv("HOOKS_EXEC", "inherited", 1);

	/* The environment for execle keeps what preloads the library. */
	char preload[8192];
	char *env[3] = { "HOOKS_EXEC=given", NULL, NULL };
	if (getenv("LD_PRELOAD")) {
		snprintf(preload, sizeof preload, "LD_PRELOAD=%s", getenv("LD_PRELOAD"));
		env[1] = preload;
	}

	int failed = fails(5, 7);
	if (failed) {
		fprintf(stderr, "failed exec: %d\n", failed);
		return 1;
	}
	for (int how = 0; how < 3; how++)
		for (int count = 0; count <= 12; count++)
			run(count, how, env);

	char *plain[] = { "child", "1", "inherited", "a1", NULL };
	char *given[] = { "child", "1", "given", "a1", NULL };
	for (int which = 0; which < 6; which++) {
		int fd = open(self, O_RDONLY | O_CLOEXEC);
		pid_t pid = which & 1 ? fork() : vfork();
		if (pid == 0) {
			switch (which) {
			case 0: execv(self, plain); break;
			case 1: execve(self, given, env); break;
			case 2: execvp(self, plain); break;
			case 3: execvpe(self, given, env); break;
			case 4: fexecve(fd, given, env); break;
			case 5: execveat(AT_FDCWD, self, given, env, 0); break;
			}
			_exit(98);
		}
		expect(pid, "vector form", which);
		close(fd);
	}
	return 0;
}
