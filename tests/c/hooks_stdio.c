/* dprintf and its twins with many integer and floating-point arguments; fdopen. Also compiled
 * with -O2 -D_FORTIFY_SOURCE=3, where dprintf is __dprintf_chk. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int pipe_fds[2];

static void expect(const char *what, int written, const char *want)
{
	char got[1024];
	ssize_t len = read(pipe_fds[0], got, sizeof got - 1);

	got[len > 0 ? len : 0] = 0;
	if (written != (int)strlen(want) || strcmp(got, want)) {
		fprintf(stderr, "%s: %d, \"%s\", wanted \"%s\"\n", what, written, got, want);
		exit(1);
	}
}

static int forward(int fd, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	int written = vdprintf(fd, format, list);
	va_end(list);
	return written;
}

int main(void)
{
	if (pipe(pipe_fds))
		return 2;
	int fd = pipe_fds[1];
	volatile double x = 1.5;
	char want[1024];

	expect("plain", dprintf(fd, "hello"), "hello");
	expect("integers",
	       dprintf(fd, "%d %d %d %d %d %d %d %d %ld", 1, 2, 3, 4, 5, 6, 7, 8, 9L),
	       "1 2 3 4 5 6 7 8 9");
	expect("floats",
	       dprintf(fd, "%.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f", x, x + 1, x + 2,
		       x + 3, x + 4, x + 5, x + 6, x + 7, x + 8, x + 9),
	       "1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5 10.5");
	snprintf(want, sizeof want, "%s %d %.3f %c %Lf %s %.2f %d %d %d %.1f", "a", 1, 2.5, 'b',
		 (long double)3, "c", 4.25, 5, 6, 7, 8.5);
	expect("mixed",
	       dprintf(fd, "%s %d %.3f %c %Lf %s %.2f %d %d %d %.1f", "a", 1, 2.5, 'b',
		       (long double)3, "c", 4.25, 5, 6, 7, 8.5),
	       want);
	expect("vdprintf", forward(fd, "%d %.1f %s", 1, x, "end"), "1 1.5 end");

	errno = 0;
	if (dprintf(-1, "%d %f", 1, x) >= 0 || errno != EBADF) {
		fprintf(stderr, "dprintf on a bad descriptor: errno %d\n", errno);
		return 1;
	}

	FILE *file = fdopen(fd, "w");
	if (!file)
		return 1;
	int written = fprintf(file, "%s", "stream");
	fflush(file);
	expect("fdopen", written, "stream");
	errno = 0;
	if (fdopen(-1, "r") || errno != EBADF)
		return 1;
	return 0;
}
