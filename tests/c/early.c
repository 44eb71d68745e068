/* Sockets in use before any constructor has run, ours included. */
#include "common.h"

static struct pair first;
static char before[16];

static void at_the_very_start(void)
{
    first = connected();
    send_all(first.client, "early", 5);
    recv_all(first.server, before, 5);
    char b[8];
    struct pollfd f = {first.server, POLLIN, 0};
    poll(&f, 1, 0);
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, first.server, &e);
    epoll_wait(ep, &e, 1, 0);
    recv(first.server, b, 8, MSG_DONTWAIT);
    close(ep);
    struct pair second = connected();
    close_pair(&second);
}

__attribute__((section(".preinit_array"), used)) static void (*start)(void) = at_the_very_start;

static void before_constructors(void)
{
    char b[16] = "";
    trace("%s", before);
    warm(first.client, first.server);
    R(send(first.client, "later", 5, 0));
    R(recv(first.server, b, 16, 0));
    R(shutdown(first.client, SHUT_WR));
    R(recv(first.server, b, 16, 0));
    struct pair p = warm_pair();
    R(send(p.client, "known", 5, 0));
    R(recv(p.server, b, 16, 0));
}

MAIN({"before_constructors", before_constructors})
