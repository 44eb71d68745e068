/* Programs written for SMC sockets: socket(AF_SMC) and IPPROTO_SMC. */
#include "common.h"

static void use(int domain, int protocol, int v6)
{
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    struct sockaddr *a = v6 ? (void *)&a6 : (void *)&a4;
    socklen_t len = v6 ? sizeof a6 : sizeof a4;
    int l = MUST(socket(domain, SOCK_STREAM, protocol));
    MUST(bind(l, a, len));
    MUST(listen(l, 4));
    MUST(getsockname(l, a, &len));
    int c = MUST(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, protocol));
    MUST(connect(c, a, len));
    int s = MUST(accept(l, NULL, NULL));
    warm(c, s);
    char b[16] = "";
    R(send(c, "over smc", 8, 0));
    R(recv(s, b, sizeof b, 0));
    close(c);
    R(recv(s, b, sizeof b, 0));
    close(s);
    close(l);
}

static void sockets(void)
{
    enum { SMC_FAMILY = 43, SMC_PROTOCOL = 256 };
    use(SMC_FAMILY, 0, 0);
    use(SMC_FAMILY, 1, 1);
    use(AF_INET, SMC_PROTOCOL, 0);
    use(AF_INET6, SMC_PROTOCOL, 1);
}

MAIN({"sockets", sockets})
