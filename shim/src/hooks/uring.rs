//! liburing's ways to make a ring and to pass requests on, which do not go through `syscall()`.
//!
//! liburing may be loaded long after us, and with local scope, where the next-symbol search does
//! not find it. So these look in three places: the next definition, the object that made the
//! call (and what it depends on), and a liburing that is loaded by name. If all fail the program
//! is told that the kernel has no io_uring, for which every user of it has an answer.

use std::arch::naked_asm;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use libc::{c_int, c_uint, c_void, size_t};

use crate::calls::uring as calls;
use crate::errno;

/// The definition of `name` that the code at `caller` would have got.
fn lookup(name: &CStr, caller: *const c_void, ours: *const c_void) -> *mut c_void {
    // SAFETY: C strings and a local out-parameter; RTLD_NOLOAD only takes references, which are
    // kept: the object is in use.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        if !next.is_null() {
            return next;
        }
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(caller, &raw mut info) != 0 && !info.dli_fname.is_null() {
            let object = libc::dlopen(info.dli_fname, flags);
            if !object.is_null() {
                let found = libc::dlsym(object, name.as_ptr());
                if !found.is_null() && found.cast_const() != ours {
                    return found;
                }
            }
        }
        let object = libc::dlopen(c"liburing.so.2".as_ptr(), flags);
        if object.is_null() {
            return object;
        }
        libc::dlsym(object, name.as_ptr())
    }
}

/// Calls `$next` once it was looked up, or says that there is no io_uring.
macro_rules! next {
    ($name:ident, $caller:expr, ($($arg:ident: $ty:ty),*)) => {{
        static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
        const NAME: &CStr =
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            };
        let mut next = FOUND.load(Relaxed);
        if next.is_null() {
            next = errno::keep(|| lookup(NAME, $caller, $name as *const c_void));
            FOUND.store(next, Relaxed);
        }
        if next.is_null() {
            return -libc::ENOSYS;
        }
        // SAFETY: liburing's function of this name has this signature; the C caller keeps
        // its contract.
        unsafe {
            let next: unsafe extern "C" fn($($ty),*) -> c_int = std::mem::transmute(next);
            next($($arg),*)
        }
    }};
}

/// Defines `$name`, which passes its return address to `$inner` as one more argument. `$inner` does
/// `$before`, calls liburing's function, and does `$after` when that has succeeded.
macro_rules! with_caller {
    ($name:ident, $register:literal, $inner:ident($($arg:ident: $ty:ty),*)
        $(before $before:block)? $(after $after:block)?) => {
        /// The exported function of this name.
        ///
        /// # Safety
        /// As for liburing's.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> c_int {
            naked_asm!(
                concat!("mov ", $register, ", [rsp]"),
                "jmp {inner}",
                inner = sym $inner,
            )
        }

        unsafe extern "C-unwind" fn $inner($($arg: $ty,)* caller: *const c_void) -> c_int {
            $($before)?
            let answer = next!($name, caller, ($($arg: $ty),*));
            $(if answer >= 0 $after)?
            answer
        }
    };
}

/// Defines `$name`, which has no register left for its return address.
macro_rules! without_caller {
    ($name:ident($($arg:ident: $ty:ty),*) before $before:block) => {
        /// The exported function of this name.
        ///
        /// # Safety
        /// As for liburing's.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> c_int {
            $before
            next!($name, std::ptr::null(), ($($arg: $ty),*))
        }
    };
}

/// `struct io_uring_params`
#[repr(C)]
pub struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

type Ring = *mut c_void;

with_caller!(io_uring_queue_init, "rcx", queue_init(
    entries: c_uint, ring: Ring, flags: c_uint
) after { calls::ring_made(flags) });
with_caller!(io_uring_queue_init_params, "rcx", queue_init_params(
    entries: c_uint, ring: Ring, params: *mut Params
) after {
    // SAFETY: liburing has just read and filled it.
    calls::ring_made(unsafe { (*params).flags })
});
with_caller!(io_uring_queue_init_mem, "r9", queue_init_mem(
    entries: c_uint, ring: Ring, params: *mut Params, memory: *mut c_void, len: size_t
) after {
    // SAFETY: likewise.
    calls::ring_made(unsafe { (*params).flags })
});

// The three that are the system calls themselves.
with_caller!(io_uring_setup, "rdx", setup(
    entries: c_uint, params: *mut Params
) before { calls::ring_unseen() });
with_caller!(io_uring_enter, "r9", enter(
    fd: c_uint, submit: c_uint, wait: c_uint, flags: c_uint, signals: *mut c_void
) before { if submit != 0 { calls::ring_unseen() } });
without_caller!(io_uring_enter2(
    fd: c_uint, submit: c_uint, wait: c_uint, flags: c_uint, arg: *mut c_void, len: size_t
) before { if submit != 0 { calls::ring_unseen() } });
with_caller!(io_uring_register, "r8", register(
    fd: c_uint, what: c_uint, arg: *const c_void, count: c_uint
) before { if registers_files(what) { calls::ring_unseen() } });

/// Whether this `IORING_REGISTER_*` hands descriptors over: FILES, FILES_UPDATE, FILES2,
/// FILES_UPDATE2, or something that we do not know.
fn registers_files(what: c_uint) -> bool {
    matches!(what, 2 | 6 | 13 | 14 | 26..)
}

with_caller!(io_uring_submit, "rsi", submit(ring: Ring) before {
    // SAFETY: the program's ring; likewise below.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_submit_and_wait, "rdx", submit_and_wait(
    ring: Ring, wait: c_uint
) before {
    // SAFETY: see above.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_submit_and_get_events, "rsi", submit_and_get_events(ring: Ring) before {
    // SAFETY: see above.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_submit_and_wait_timeout, "r9", submit_and_wait_timeout(
    ring: Ring, cqe: *mut c_void, wait: c_uint, time: *mut c_void, signals: *mut c_void
) before {
    // SAFETY: see above.
    unsafe { calls::submitting(ring) }
});
without_caller!(io_uring_submit_and_wait_min_timeout(
    ring: Ring, cqe: *mut c_void, wait: c_uint, time: *mut c_void, least: c_uint, signals: *mut c_void
) before {
    // SAFETY: see above.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_submit_and_wait_reg, "r8", submit_and_wait_reg(
    ring: Ring, cqe: *mut c_void, wait: c_uint, index: c_int
) before {
    // SAFETY: see above.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_wait_cqes, "r9", wait_cqes(
    ring: Ring, cqe: *mut c_void, wait: c_uint, time: *mut c_void, signals: *mut c_void
) before {
    // SAFETY: see above. With a time, old kernels are passed all requests here.
    unsafe { calls::submitting(ring) }
});
with_caller!(io_uring_wait_cqe_timeout, "rcx", wait_cqe_timeout(
    ring: Ring, cqe: *mut c_void, time: *mut c_void
) before {
    // SAFETY: likewise.
    unsafe { calls::submitting(ring) }
});

with_caller!(io_uring_register_files, "rcx", register_files(
    ring: Ring, files: *const c_int, count: c_uint
) before {
    // SAFETY: the program's list; likewise below.
    unsafe { calls::registering(files, count) }
});
with_caller!(io_uring_register_files_tags, "r8", register_files_tags(
    ring: Ring, files: *const c_int, tags: *const c_void, count: c_uint
) before {
    // SAFETY: see above.
    unsafe { calls::registering(files, count) }
});
with_caller!(io_uring_register_files_update, "r8", register_files_update(
    ring: Ring, off: c_uint, files: *const c_int, count: c_uint
) before {
    // SAFETY: see above.
    unsafe { calls::registering(files, count) }
});
with_caller!(io_uring_register_files_update_tag, "r9", register_files_update_tag(
    ring: Ring, off: c_uint, files: *const c_int, tags: *const c_void, count: c_uint
) before {
    // SAFETY: see above.
    unsafe { calls::registering(files, count) }
});
