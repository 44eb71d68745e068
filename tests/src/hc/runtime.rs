//! Threads, signals, surroundings.

super::rows! {
    101 P0 Same "two senders, two receivers, both at once"
        ["differential::waiting::two_senders" "differential::waiting::two_receivers"
         "differential::bulk::random_sizes"] "";
    102 P0 Same "EINTR and SA_RESTART in every call that waits; handlers that jump out"
        ["differential::hc_runtime::hc_102_every_call"
         "differential::hc_runtime::hc_102_which_handler"
         "differential::hc_runtime::hc_102_longjmp" "differential::waiting::eintr"
         "differential::waiting::restart" "differential::calls::sends_interrupted"
         "differential::calls::receives_interrupted"] "";
    103 P0 Same "handlers that connect, read, write and close"
        ["differential::hc_runtime::hc_103_handler_storm"
         "differential::waiting::handler_uses_sockets"]
        "Receiving on the very connection whose receive was interrupted: see [limits](limits.md).";
    104 P1 Same "alternate signal stacks, threads with 16 KiB of stack"
        ["differential::hc_runtime::hc_104_small_stacks" "differential::odd::small_stacks"] "";
    105 P1 Same "cancellation, pthread_exit out of a wait"
        ["differential::hc_runtime::hc_105_cancelled"
         "differential::hc_runtime::hc_105_cancelled_before" "differential::waiting::cancellation"
         "hooks::cancel"] "";
    106 P0 Same "fork while other threads are in the middle of calls"
        ["differential::odd::fork_among_threads"] "";
    107 P1 Same "errno is left alone by calls that succeed"
        ["differential::hc_runtime::hc_107_errno"] "";
    108 P0 Same "jemalloc, tcmalloc, AddressSanitizer"
        ["surroundings::hc_108_jemalloc" "surroundings::hc_108_tcmalloc"
         "surroundings::hc_108_address_sanitizer"] "";
    109 P0 Same "sockets before any constructor has run"
        ["surroundings::hc_109_before_constructors"] "";
    110 P1 Same "modules loaded late, with RTLD_DEEPBIND, in a namespace of their own"
        ["surroundings::hc_110_module" "surroundings::hc_110_deep_module"
         "surroundings::hc_110_module_in_a_namespace"]
        "Calls past the library keep their connection on TCP.";
    111 P1 Same "symbols that an older or newer libc has or lacks"
        ["surroundings::hc_111_older_libc"]
        "A name that is missing falls back to the system call. The library needs glibc 2.34 or newer (`scripts/check-exports`); run on Debian 12's 2.36 only.";
    112 P1 Limit "musl"
        ["surroundings::hc_112_musl" "doctor::musl"]
        "`smclo run` starts such a program without the library, `smclo doctor` says why. With the library in LD_PRELOAD it does not start.";
    113 P1 Tcp "static programs"
        ["surroundings::hc_113_static_program"] "";
    114 P0 Tcp "raw system calls (Go) at one end, or mixed with ours"
        ["differential::odd::past_the_library" "differential::odd::one_end_past"
         "programs_runtimes::go_static_client" "programs_runtimes::go_linked_client"] "";
    115 P1 Same "syscall() on a connection"
        ["differential::odd::by_number" "hooks::syscall"] "";
    116 P1 Tcp "io_uring"
        ["surroundings::hc_116_uring_server" "surroundings::hc_116_uring_comes_late"
         "surroundings::hc_116_uring_names_sockets" "surroundings::hc_116_uring_for_files"
         "programs_sql::mariadb" "hooks::uring"] "";
    117 P1 Tcp "seccomp sandboxes"
        ["differential::hc_process::hc_117_seccomp_errno"
         "differential::hc_process::hc_117_seccomp_kill"
         "differential::hc_process::hc_117_seccomp_threads"
         "differential::hc_process::hc_117_seccomp_strict"] "";
    118 P1 Same "security modules, noexec mounts"
        ["surroundings::hc_118_nothing_executable"]
        "No code is patched and no helper started; the memory files are sealed against execution. From a noexec mount the loader takes no library: TCP. The test machine has no security module to confine a program with; what one must allow is a Unix socket, memfds, timerfds and passing them on.";
    119 P1 Same "stacks that the program switches"
        ["differential::hc_runtime::hc_119_switched_stacks"] "";
    120 P1 Same "sockets that the resolver makes inside libc"
        ["differential::hc_runtime::hc_120_resolver"] "";
    121 P1 Same "other preloaded libraries, in front and behind"
        ["surroundings::hc_121_other_preloads"] "";
    122 P1 Same "descriptors 0 to 2 closed and used for sockets"
        ["differential::odd::standard_descriptors"] "";
    123 P1 Limit "ss, tcpdump and the kernel's counters"
        ["tables::ss_lists_connections_with_reasons" "dissector::tshark_sees_smc"]
        "They show an idle TCP connection; `smclo ss` shows the rest.";
    124 P0 Same "the library loaded, nothing accelerated: no cost worth mentioning"
        ["numbers::ratios"] "";
    125 P1 Same "the library or the daemon replaced while programs run"
        ["faults::daemon_killed"]
        "Another protocol version of the daemon is refused (DAEMON_VERSION): TCP.";
}
