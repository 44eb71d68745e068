//! fdopen, dprintf, vdprintf: libc writes to the descriptor by itself from then on.

use std::arch::naked_asm;
use std::mem::offset_of;

use libc::{FILE, c_char, c_int, c_void};

use crate::real::{self, NEXT, Next};
use crate::{calls, errno, fds};

hook! {
    libc fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        note(fd);
        real::fdopen(fd, mode)
    }

    own fn _IO_fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        fdopen(fd, mode)
    }

    // `list` is a va_list: on x86_64 an array, hence a pointer.
    own fn vdprintf(fd: c_int, format: *const c_char, list: *mut c_void) -> c_int {
        note(fd);
        real::vdprintf(fd, format, list)
    }

    own fn __vdprintf_chk(
        fd: c_int,
        flag: c_int,
        format: *const c_char,
        list: *mut c_void,
    ) -> c_int {
        note(fd);
        real::__vdprintf_chk(fd, flag, format, list)
    }
}

/// Tells the logic, if the descriptor is ours. Called by the trampolines too.
extern "C" fn note(fd: c_int) {
    if fds::get(fd) != 0 {
        errno::keep(|| calls::stdio::note(fd));
    }
    real::init();
}

/// A variadic function that is told about before it runs: all argument registers are kept, the
/// stack arguments stay where they are, and the next definition returns to the caller.
macro_rules! noted {
    ($name:ident) => {
        /// The exported function of this name.
        ///
        /// # Safety
        /// As for the C function.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name() -> c_int {
            // 8 (return address) + 184 keeps the stack aligned by 16. al: number of vector
            // registers in use.
            naked_asm!(
                "sub rsp, 184",
                "movaps [rsp], xmm0",
                "movaps [rsp + 16], xmm1",
                "movaps [rsp + 32], xmm2",
                "movaps [rsp + 48], xmm3",
                "movaps [rsp + 64], xmm4",
                "movaps [rsp + 80], xmm5",
                "movaps [rsp + 96], xmm6",
                "movaps [rsp + 112], xmm7",
                "mov [rsp + 128], rdi",
                "mov [rsp + 136], rsi",
                "mov [rsp + 144], rdx",
                "mov [rsp + 152], rcx",
                "mov [rsp + 160], r8",
                "mov [rsp + 168], r9",
                "mov [rsp + 176], rax",
                "call {note}",
                "mov rax, [rsp + 176]",
                "mov r9, [rsp + 168]",
                "mov r8, [rsp + 160]",
                "mov rcx, [rsp + 152]",
                "mov rdx, [rsp + 144]",
                "mov rsi, [rsp + 136]",
                "mov rdi, [rsp + 128]",
                "movaps xmm7, [rsp + 112]",
                "movaps xmm6, [rsp + 96]",
                "movaps xmm5, [rsp + 80]",
                "movaps xmm4, [rsp + 64]",
                "movaps xmm3, [rsp + 48]",
                "movaps xmm2, [rsp + 32]",
                "movaps xmm1, [rsp + 16]",
                "movaps xmm0, [rsp]",
                "add rsp, 184",
                "jmp qword ptr [rip + {next} + {slot}]",
                note = sym note,
                next = sym NEXT,
                slot = const offset_of!(Next, $name),
            )
        }
    };
}

noted!(dprintf);
noted!(__dprintf_chk);
