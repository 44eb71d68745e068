/* liburing loaded late and with local scope: its functions must still be reached. Does nothing
 * where liburing is not installed or the kernel refuses rings. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	char params[120] = { 0 }, ring[1024] = { 0 };
	long fd = syscall(SYS_io_uring_setup, 4, params);

	if (fd < 0)
		return 0;
	close((int)fd);
	void *library = dlopen("liburing.so.2", RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return 0;

	/* As a module that links with liburing would find it: global scope first, which holds the
	 * preloaded library, then its own. */
	static const char *const names[] = { "io_uring_queue_init", "io_uring_queue_init_params" };
	for (int which = 0; which < 2; which++) {
		int (*init)(unsigned, void *, void *) =
			(int (*)(unsigned, void *, void *))dlsym(RTLD_DEFAULT, names[which]);
		if (!init)
			init = (int (*)(unsigned, void *, void *))dlsym(library, names[which]);
		void (*leave)(void *) = (void (*)(void *))dlsym(library, "io_uring_queue_exit");
		memset(params, 0, sizeof params);
		errno = 77;
		int answer = init(4, ring, which ? params : NULL);
		if (answer != 0 || errno != 77) {
			fprintf(stderr, "%s: %d, errno %d\n", names[which], answer, errno);
			return 1;
		}
		leave(ring);
		answer = init(0, ring, which ? params : NULL);
		if (answer != -EINVAL) {
			fprintf(stderr, "%s with no entries: %d\n", names[which], answer);
			return 1;
		}
	}
	return 0;
}
