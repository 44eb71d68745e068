//! fork, vfork, clone, exec*, spawn, system, daemon, _exit.
//!
//! The exec family is variadic in part, and vfork and clone return twice on one stack frame or
//! return on another one: those are naked functions.

use std::arch::naked_asm;
use std::mem::offset_of;

use libc::{FILE, c_char, c_int, c_void, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};

use std::ptr::null;

use crate::calls::escape::Told;
use crate::real::{self, Argv, NEXT, Next};
use crate::{calls, errno, sandbox};

hook! {
    libc fn fork() -> pid_t {
        calls::proc::fork()
    }

    own fn __fork() -> pid_t {
        calls::proc::fork()
    }

    own fn _Fork() -> pid_t {
        calls::proc::before_clone();
        real::_Fork()
    }

    own fn forkpty(
        master: *mut c_int,
        name: *mut c_char,
        termios: *const c_void,
        size: *const c_void,
    ) -> pid_t {
        calls::proc::before_vfork();
        real::forkpty(master, name, termios, size)
    }

    // Variadic in C, always with five integers or pointers.
    own fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
        if option == libc::PR_SET_SECCOMP {
            sandbox::entering();
        }
        real::prctl(option, a, b, c, d)
    }

    libc fn execve(path: *const c_char, argv: Argv, envp: Argv) -> c_int {
        exec(Told::exec(argv, envp), || real::execve(path, argv, envp))
    }

    libc fn execv(path: *const c_char, argv: Argv) -> c_int {
        exec(Told::exec(argv, null()), || real::execv(path, argv))
    }

    libc fn execvp(file: *const c_char, argv: Argv) -> c_int {
        exec(Told::exec(argv, null()), || real::execvp(file, argv))
    }

    libc fn execvpe(file: *const c_char, argv: Argv, envp: Argv) -> c_int {
        exec(Told::exec(argv, envp), || real::execvpe(file, argv, envp))
    }

    libc fn fexecve(fd: c_int, argv: Argv, envp: Argv) -> c_int {
        exec(Told::exec(argv, envp), || real::fexecve(fd, argv, envp))
    }

    // The libc crate's declaration has other consts.
    own fn execveat(
        dir: c_int,
        path: *const c_char,
        argv: Argv,
        envp: Argv,
        flags: c_int,
    ) -> c_int {
        exec(Told::exec(argv, envp), || {
            real::execveat(dir, path, argv, envp, flags)
        })
    }

    libc fn posix_spawn_file_actions_adddup2(
        actions: *mut posix_spawn_file_actions_t,
        fd: c_int,
        new: c_int,
    ) -> c_int {
        calls::proc::handed_on(fd);
        real::posix_spawn_file_actions_adddup2(actions, fd, new)
    }

    // The libc crate's declarations have other consts.
    own fn posix_spawn(
        pid: *mut pid_t,
        path: *const c_char,
        actions: *const posix_spawn_file_actions_t,
        attr: *const posix_spawnattr_t,
        argv: Argv,
        envp: Argv,
    ) -> c_int {
        calls::proc::before_spawn(Told::spawn(argv, envp));
        real::posix_spawn(pid, path, actions, attr, argv, envp)
    }

    own fn posix_spawnp(
        pid: *mut pid_t,
        file: *const c_char,
        actions: *const posix_spawn_file_actions_t,
        attr: *const posix_spawnattr_t,
        argv: Argv,
        envp: Argv,
    ) -> c_int {
        calls::proc::before_spawn(Told::spawn(argv, envp));
        real::posix_spawnp(pid, file, actions, attr, argv, envp)
    }

    libc fn system(command: *const c_char) -> c_int {
        calls::proc::before_spawn(Told::shell(command));
        real::system(command)
    }

    libc fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
        calls::proc::before_spawn(Told::shell(command));
        real::popen(command, mode)
    }

    own fn _IO_popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
        popen(command, mode)
    }

    libc fn daemon(nochdir: c_int, noclose: c_int) -> c_int {
        calls::proc::daemon(nochdir, noclose)
    }

    libc fn _exit(status: c_int) -> ! {
        calls::proc::exit_now(status);
        real::_exit(status)
    }

    own fn _Exit(status: c_int) -> ! {
        _exit(status)
    }
}

/// An exec, which comes back only when it has failed.
fn exec(told: Told, next: impl FnOnce() -> c_int) -> c_int {
    let may = calls::proc::before_exec(told);
    let answer = if may {
        next()
    } else {
        errno::fail(libc::EAGAIN)
    };
    errno::keep(calls::proc::exec_failed);
    answer
}

/// Called by the trampolines; afterwards the next symbols are known, if they can be.
pub extern "C" fn before_vfork() {
    real::init();
    calls::proc::before_vfork();
}

/// Called by clone's trampolines: a new thread is no concern of ours.
pub extern "C" fn before_clone(flags: usize) {
    real::init();
    if flags & libc::CLONE_THREAD as usize == 0 {
        calls::proc::before_clone();
    }
}

/// vfork. The child comes back through the caller's return address before the parent does, so
/// no frame of ours may be live: call first, then jump.
///
/// # Safety
/// As for the C function.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn vfork() -> pid_t {
    naked_asm!(
        "sub rsp, 8",
        "call {before}",
        "add rsp, 8",
        "jmp qword ptr [rip + {next} + {slot}]",
        before = sym before_vfork,
        next = sym NEXT,
        slot = const offset_of!(Next, vfork),
    )
}

/// libc's other name for [`vfork`].
///
/// # Safety
/// As for the C function.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn __vfork() -> pid_t {
    naked_asm!("jmp {same}", same = sym vfork)
}

/// clone: variadic, and the child runs on another stack.
///
/// # Safety
/// As for the C function.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn clone() -> c_int {
    // Register arguments: function, stack, flags, argument, parent tid, tls.
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "mov edi, edx",
        "call {before}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp qword ptr [rip + {next} + {slot}]",
        before = sym before_clone,
        next = sym NEXT,
        slot = const offset_of!(Next, clone),
    )
}

/// libc's other name for [`clone`].
///
/// # Safety
/// As for the C function.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn __clone() -> c_int {
    naked_asm!("jmp {same}", same = sym clone)
}

/// Lays the variadic arguments of the execl family out as the vector that they are and calls
/// `$inner(path, vector)`.
///
/// On entry the return address lies just below the stack arguments. With it taken off, pushing
/// the register arguments in reverse order completes the vector in place; it is put back, at the
/// same address, before returning.
macro_rules! execl {
    ($(#[$doc:meta])* $name:ident, $inner:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C function.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name() -> c_int {
            naked_asm!(
                "pop rax",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push rax",
                "call {inner}",
                "pop rdx",
                "add rsp, 40",
                "push rdx",
                "ret",
                inner = sym $inner,
            )
        }
    };
}

execl! {
    /// execl.
    execl, execv
}

execl! {
    /// execlp.
    execlp, execvp
}

execl! {
    /// execle: the environment follows the null that ends the arguments.
    execle, exec_with_environment
}

/// execle's vector: arguments, null, environment.
unsafe extern "C-unwind" fn exec_with_environment(path: *const c_char, argv: Argv) -> c_int {
    let mut end = argv;
    // SAFETY: execle's contract: a null ends the arguments, the environment pointer follows it.
    let envp = unsafe {
        while !(*end).is_null() {
            end = end.add(1);
        }
        *end.add(1).cast::<Argv>()
    };
    // SAFETY: the C caller's arguments.
    unsafe { execve(path, argv, envp) }
}
