/* An echo server on liburing (accept, recv, send, poll), and a client whose connection it also uses,
 * in a process that otherwise uses hooked calls. */
#include "common.h"
#include <liburing.h>

static struct io_uring ring;

static int complete(void)
{
    struct io_uring_cqe *cqe;
    int r = io_uring_submit(&ring);
    if (r < 0 || (r = io_uring_wait_cqe(&ring, &cqe)) < 0)
        return r;
    r = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    return r;
}

static int uring_accept(int l)
{
    io_uring_prep_accept(io_uring_get_sqe(&ring), l, NULL, NULL, 0);
    return complete();
}

static int uring_recv(int fd, void *b, size_t len)
{
    io_uring_prep_recv(io_uring_get_sqe(&ring), fd, b, len, 0);
    return complete();
}

static int uring_send(int fd, const void *b, size_t len)
{
    io_uring_prep_send(io_uring_get_sqe(&ring), fd, b, len, 0);
    return complete();
}

static int uring_poll(int fd)
{
    io_uring_prep_poll_add(io_uring_get_sqe(&ring), fd, POLLIN);
    return complete();
}

static void start_ring(void)
{
    int r = io_uring_queue_init(8, &ring, 0);
    errno = r < 0 ? -r : 0;
    MUST(r < 0 ? -1 : 0);
}

static void *serve(void *arg)
{
    actor('B');
    start_ring();
    int s = uring_accept(*(int *)arg);
    trace("accepted: %d", s >= 0);
    char b[256];
    int n, count = 0;
    while ((n = uring_poll(s)) > 0 && (n = uring_recv(s, b, sizeof b)) > 0) {
        count++;
        if (uring_send(s, b, n) != n)
            trace("short send");
    }
    trace("%d answers, end %d", count, n);
    close(s);
    return NULL;
}

static void server(void)
{
    int l = listener(4);
    pthread_t t = spawn_thread(serve, &l);
    int c = connect_to(l), good = 0;
    for (int i = 0; i < 300; i++) {
        char out[100], in[100];
        fill(out, sizeof out, 1, i);
        send_all(c, out, sizeof out);
        recv_all(c, in, sizeof in);
        good += memcmp(in, out, sizeof in) == 0;
    }
    trace("%d good", good);
    MUST(shutdown(c, SHUT_WR));
    join_thread(t);
}

/* The ring comes when the connections are accelerated already; some of their bytes lie unread. */
static void late_ring(void)
{
    struct pair p = warm_pair(), q = warm_pair();
    char b[64] = "";
    send_all(p.client, "before the ring", 15);
    start_ring();
    trace("%d", uring_recv(p.server, b, 64));
    trace("%s", b);
    for (int i = 0; i < 100; i++) {
        MUST(uring_send(p.client, "request", 7) - 7);
        recv_all(p.server, b, 7);
        send_all(p.server, "answer", 6);
        MUST(uring_recv(p.client, b, 6) - 6);
    }
    warm(q.client, q.server);
    R(send(q.client, "hooked", 6, 0));
    trace("%d", uring_recv(q.server, b, 64));
    struct pair r = warm_pair();
    trace("%d", uring_send(r.client, "new", 3));
    R(recv(r.server, b, 64, 0));
}

/* A ring for files alone: the connections of the process are nothing to it. */
static void files_only(void)
{
    struct pair p = warm_pair();
    FILE *file = tmpfile();
    char out[1000], in[1000], b[1000];
    start_ring();
    int good = 0;
    for (int i = 0; i < 300; i++) {
        fill(out, sizeof out, 1, i);
        io_uring_prep_write(io_uring_get_sqe(&ring), fileno(file), out, sizeof out, 0);
        good += complete() == sizeof out;
        send_all(p.client, out, sizeof out);
        recv_all(p.server, in, sizeof in);
        io_uring_prep_read(io_uring_get_sqe(&ring), fileno(file), b, sizeof b, 0);
        good += complete() == sizeof b && !memcmp(in, b, sizeof b);
        send_all(p.server, b, sizeof b);
        recv_all(p.client, in, sizeof in);
        good += !memcmp(in, out, sizeof in);
    }
    trace("%d good", good);
}

/* Requests that name a connection in other ways, or what watches it, with bytes on its way. */
static void other_names(void)
{
    struct pair p = warm_pair(), q = warm_pair(), r = warm_pair(), w = warm_pair();
    char b[64] = "";
    int pipe_ends[2], two[2] = {q.server, p.server};
    MUST(pipe(pipe_ends));
    start_ring();
    send_all(p.client, "fixed file", 10);
    send_all(r.client, "spliced", 7);

    errno = -io_uring_register_files(&ring, two, 2);
    MUST(-errno);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_recv(sqe, 1, b, sizeof b, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    trace("%d %s", complete(), b);

    io_uring_prep_splice(io_uring_get_sqe(&ring), r.server, -1, pipe_ends[1], -1, 7, 0);
    trace("%d", complete());
    memset(b, 0, sizeof b);
    R(read(pipe_ends[0], b, sizeof b));
    trace("%s", b);

    int set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 7};
    MUST(set);
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, w.server, &event));
    send_all(w.client, "watched", 7);
    trace("%d", uring_poll(set));
    R(epoll_wait(set, &event, 1, 1000));
    trace("%u", event.data.u32);
    R(recv(w.server, b, sizeof b, 0));
    R(send(q.client, "q", 1, 0));
    trace("%d", uring_recv(q.server, b, sizeof b));
}

MAIN({"server", server}, {"late_ring", late_ring}, {"files_only", files_only},
     {"other_names", other_names})
