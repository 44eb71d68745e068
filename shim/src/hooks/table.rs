//! Every name that the library exports. `scripts/check-exports` compares it with the binary.

/// One line per family file; each name must be a function of that file.
macro_rules! exported {
    ($($family:ident: $($name:ident)*;)*) => {
        $($(
            #[allow(unused_imports, reason = "the name must exist")]
            const _: () = { use super::$family::$name; };
        )*)*

        /// All exported names.
        #[cfg(test)]
        pub const NAMES: &[&str] = &[$($(stringify!($name)),*),*];
    };
}

exported! {
    connect: connect __connect accept accept4;
    epoll: epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2;
    fd: close __close shutdown dup dup2 __dup2 dup3 fcntl fcntl64 __fcntl ioctl;
    fd: close_range closefrom;
    file: sendfile sendfile64 splice tee vmsplice;
    io: read __read __read_chk readv write __write writev;
    io: preadv2 preadv64v2 pwritev2 pwritev64v2;
    io: recv __recv_chk recvfrom __recvfrom_chk send __send sendto;
    msg: recvmsg recvmmsg sendmsg sendmmsg;
    poll: poll __poll __poll_chk ppoll __ppoll_chk select __select pselect;
    proc: fork __fork _Fork vfork __vfork clone __clone forkpty daemon _exit _Exit;
    proc: execve execv execvp execvpe execl execlp execle fexecve execveat;
    proc: posix_spawn posix_spawnp posix_spawn_file_actions_adddup2 system popen _IO_popen prctl;
    rawsyscall: syscall;
    signal: sigaction __sigaction signal bsd_signal ssignal sysv_signal __sysv_signal;
    signal: sigset siginterrupt;
    socket: socket bind listen;
    sockopt: getsockopt setsockopt;
    stdio: fdopen _IO_fdopen dprintf __dprintf_chk vdprintf __vdprintf_chk;
    uring: io_uring_queue_init io_uring_queue_init_params io_uring_queue_init_mem;
    uring: io_uring_setup io_uring_enter io_uring_enter2 io_uring_register;
    uring: io_uring_submit io_uring_submit_and_wait io_uring_submit_and_get_events;
    uring: io_uring_submit_and_wait_timeout io_uring_submit_and_wait_min_timeout;
    uring: io_uring_submit_and_wait_reg io_uring_wait_cqes io_uring_wait_cqe_timeout;
    uring: io_uring_register_files io_uring_register_files_tags;
    uring: io_uring_register_files_update io_uring_register_files_update_tag;
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn no_name_is_listed_twice() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }
}
