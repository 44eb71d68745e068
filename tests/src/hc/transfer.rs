//! Moving data.

super::rows! {
    22 P0 Same "every mix of sizes, both ways, around the end of the ring"
        ["differential::bulk::random_sizes" "programs_bulk::socat" "random::programs"] "";
    23 P0 Same "both ends full, one thread each, or one for both"
        ["differential::hc_data::hc_023_full_duplex" "differential::bulk::own_both_ends"] "";
    24 P0 Same "partial writes, EAGAIN, then room"
        ["differential::bulk::full_then_room" "differential::polling::full_and_out"] "";
    25 P0 Same "a send longer than all buffers, also when a signal cuts it short"
        ["differential::hc_data::hc_025_long_send" "differential::waiting::eintr"]
        "How many bytes fit differs, see [limits](limits.md).";
    26 P0 Same "vectors: empty, null, IOV_MAX and beyond"
        ["differential::transfer::vectors" "differential::calls::headers"] "";
    27 P0 Same "transfers of no bytes"
        ["differential::transfer::flags"] "";
    28 P0 Same "MSG_PEEK, repeated, short, with MSG_WAITALL"
        ["differential::transfer::flags"] "";
    29 P0 Same "MSG_WAITALL with a signal or an end in the middle"
        ["differential::transfer::flags" "differential::waiting::eintr"
         "differential::waiting::asleep_in_waitall"] "";
    30 P0 Same "O_NONBLOCK changed by a duplicate, another thread or another process"
        ["differential::hc_data::hc_030_nonblock_elsewhere" "differential::process::both_share"] "";
    31 P1 Same "MSG_TRUNC drops bytes"
        ["differential::transfer::flags" "differential::calls::headers"] "";
    32 P1 Tcp "urgent data, SO_OOBINLINE, SIOCATMARK, EPOLLPRI, SIGURG"
        ["differential::transfer::oob" "differential::hc_data::hc_032_urgent"] "";
    33 P0 Same "EPIPE and SIGPIPE, to the thread that wrote"
        ["differential::closing::broken_pipe" "differential::closing::own_shutdown_pipe"
         "differential::closing::default_sigpipe" "differential::hc_data::hc_033_sigpipe_thread"
         "differential::calls::senders_woken"] "";
    34 P1 Same "MSG_MORE, TCP_CORK, TCP_NODELAY"
        ["differential::hc_data::hc_034_cork" "differential::transfer::buffer_options"] "";
    35 P1 Tcp "zero-copy notices and time stamps on the error queue"
        ["differential::hc_data::hc_035_error_queue"] "";
    36 P0 Same "SO_RCVTIMEO, SO_SNDTIMEO"
        ["differential::transfer::timeouts" "differential::hc_runtime::hc_102_every_call"
         "differential::calls::times_below_zero"] "";
    37 P1 Tcp "SO_RCVLOWAT, also in poll"
        ["differential::transfer::lowat"] "";
    38 P1 Same "SO_SNDBUF, SO_RCVBUF read back"
        ["differential::transfer::buffer_options"] "";
    39 P0 Same "FIONREAD, SIOCOUTQ, SIOCOUTQNSD"
        ["differential::transfer::fionread"]
        "What lies on a ring counts as received; SIOCOUTQ shows only what TCP has to send.";
    40 P1 Limit "TCP_INFO, TCP_MAXSEG, SO_MEMINFO and their like; TCP_INQ"
        ["differential::hc_data::hc_040_tcp_info" "differential::hc_data::hc_040_inq"
         "programs_bench::iperf3_upload"]
        "They work; the counters of TCP_INFO show a connection that is idle while a ring carries.";
    41 P0 Same "SO_ERROR is read once"
        ["differential::closing::so_error_after_reset" "differential::setup::refused"] "";
    42 P0 Same "getsockname, getpeername after the peer has gone; msg_name of a stream"
        ["differential::closing::unread_data" "differential::transfer::vectors"] "";
    43 P0 Same "sendfile with and without offset, longer than the file, in order with send"
        ["differential::transfer::sendfile" "programs_web::two_workers_sendfile"
         "programs_bench::iperf3_sendfile"] "";
    44 P1 Same "splice, vmsplice, tee"
        ["differential::transfer::splice" "differential::waiting::asleep_in_splice"
         "differential::calls::splice_refused"] "";
    45 P0 Same "sendmmsg, recvmmsg"
        ["differential::transfer::mmsg"] "";
    46 P0 Same "the checking twins of _FORTIFY_SOURCE"
        ["hooks::fortify" "hooks::stdio_fortified"] "";
    47 P0 Limit "bad pointers"
        ["differential::transfer::bad_pointers"]
        "Null, the first page and impossible addresses give EFAULT. Other addresses that are not mapped are found by touching them, as in memcpy: SIGSEGV.";
    48 P1 Tcp "stdio on a socket"
        ["differential::process::stdio" "hooks::stdio"] "";
    49 P1 Same "calls meant for files"
        ["differential::hc_data::hc_049_not_a_file" "differential::transfer::vectors"] "";
    50 P2 Tcp "aio_read, aio_write"
        [] "libc's threads read and write past the library, which the byte counts uncover (COUNTS).";
}
