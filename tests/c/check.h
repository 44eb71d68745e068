/* For programs that check themselves and need nothing of common.h. */
#ifndef CHECK_H
#define CHECK_H
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                         \
	do {                                                                     \
		if (!(condition)) {                                              \
			fprintf(stderr, "line %d: %s, errno %d\n", __LINE__, #condition, errno); \
			exit(1);                                                 \
		}                                                                \
	} while (0)

#endif
