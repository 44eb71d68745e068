//! Processes and descriptors.

super::rows! {
    81 P0 Same "accept, fork, the child serves, the parent closes"
        ["differential::process::child_serves"] "";
    82 P0 Same "two processes write to one socket"
        ["differential::hc_process::hc_082_two_writers" "differential::process::both_share"]
        "While two processes hold it, a connection is not claimed; one that is on a ring stays there.";
    83 P0 Same "fork for a snapshot; the child leaves by _exit"
        ["differential::process::snapshot_child" "differential::leaving::forks"
         "programs_store::snapshot_under_load"
         "programs_store::replication_diskless"] "";
    84 P0 Same "vfork, posix_spawn, clone with shared memory, system, popen"
        ["differential::hc_process::hc_084_shared_memory_children" "differential::process::spawned"
         "hooks::process"] "";
    85 P1 Tcp "exec with a connection, into a program with the library"
        ["surroundings::hc_085_inetd_with_the_library" "differential::process::inetd_cat"
         "differential::process::exec_with_unread" "differential::passing::exec_asleep"] "";
    86 P1 Tcp "exec with a connection, into a program without it"
        ["surroundings::hc_086_inetd_static" "surroundings::hc_086_inetd_busybox" "programs_copy::socat_exec"
         "differential::leaving::programs" "differential::process::inetd_cat"] "";
    87 P1 Limit "connections passed on by SCM_RIGHTS; taken by pidfd_getfd"
        ["differential::process::passed_on" "differential::passing::unread"
         "differential::passing::in_use" "differential::passing::sender_keeps"
         "differential::passing::sender_asleep" "differential::passing::taken" "differential::passing::taken_on_ring"
         "programs_runtimes::node_cluster"]
        "SCM_RIGHTS: back to TCP first; accelerated again when only its receiver holds it. pidfd_getfd: the holder is not asked; a connection on a ring that the taker uses is reset.";
    88 P0 Same "dup, dup2, dup3, F_DUPFD, onto 0 to 2"
        ["differential::closing::duplicates" "differential::setup::lowest_fd"
         "differential::odd::standard_descriptors"] "";
    89 P0 Same "FD_CLOEXEC set and cleared later"
        ["differential::hc_process::hc_089_cloexec_changes" "differential::process::cloexec"] "";
    90 P0 Same "daemons that close everything"
        ["differential::hc_process::hc_090_closes_everything"
         "differential::closing::close_range_all"] "";
    91 P0 Same "lowest free number; dup2 onto a number of ours"
        ["differential::hc_process::hc_091_numbers" "differential::setup::lowest_fd"] "";
    92 P1 Same "few descriptors allowed, EMFILE in accept"
        ["differential::odd::few_descriptors"] "";
    93 P1 Tcp "little address space"
        ["differential::hc_process::hc_093_little_memory" "fallback::out_of_dmbs"]
        "An arena needs 256 MiB of address space.";
    94 P1 Same "no /dev/shm, read-only file systems"
        ["surroundings::hc_094_no_shm_and_read_only"] "";
    95 P1 Same "chroot after the start"
        ["differential::hc_process::hc_095_chroot"] "";
    96 P1 Tcp "privileges dropped after accept"
        ["differential::hc_process::hc_096_setuid" "users::nobody_claims_the_socket_of_another_user"]
        "NOT_VERIFIED: the kernel says that the socket belongs to the old user.";
    97 P1 Tcp "set-user-id programs and file capabilities"
        ["surroundings::hc_097_set_user_id"] "The loader preloads nothing into them.";
    98 P1 Same "a descriptor closed inside libc (fclose)"
        ["differential::process::stdio"] "";
    99 P2 Same "under strace or a debugger"
        [] "By hand: `strace -f` of the cases above.";
    100 P2 Untested "checkpoint and restore"
        [] "Shared memory between processes is not restored; not supported.";
}
