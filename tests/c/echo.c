/* What inetd starts: answers on descriptor 1 what it reads from descriptor 0. */
#include <unistd.h>

int main(void)
{
    char b[4096];
    long n;
    while ((n = read(0, b, sizeof b)) > 0)
        if (write(1, b, n) != n)
            return 1;
    return n < 0;
}
