//! How an exported function is written down.

/// Defines exported functions.
///
/// * `libc fn name(..) -> T { body }`: signature checked against `libc::name`.
/// * `own fn name(..) -> T { body }`: for names that the `libc` crate does not have, and twins.
/// * `fd(module) fn name(fd, ..) -> T;`: the usual shape: the next definition if the first
///   argument has no entry, else `calls::module::name(entry, fd, ..)`.
/// * `point(module) fn name(fd, ..) -> T;`: likewise, of a point of cancellation: a thread that was
///   cancelled does not get past it, whether or not the call would have to wait.
/// * `receive(module, flags) fn name(fd, ..) -> ssize_t;`, `send(module) ...`: likewise, for bytes of a
///   stream: on a connection that is TCP for good the next definition, whose result is counted, else
///   `calls::module::name(fd, .., connection)`.
macro_rules! hook {
    () => {};
    (libc fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        hook!(@check $name($($ty),*) $(-> $ret)?);
        hook!(own fn $name($($arg: $ty),*) $(-> $ret)? $body);
        hook!($($rest)*);
    };
    (fd($module:ident) fn $name:ident($fd:ident: $fd_ty:ty $(, $arg:ident: $ty:ty)* $(,)?) -> $ret:ty; $($rest:tt)*) => {
        hook!(@check $name($fd_ty $(, $ty)*) -> $ret);
        hook!(own fn $name($fd: $fd_ty $(, $arg: $ty)*) -> $ret {
            match $crate::fds::get($fd) {
                0 => $crate::real::$name($fd $(, $arg)*),
                entry => $crate::calls::$module::$name(entry, $fd $(, $arg)*),
            }
        });
        hook!($($rest)*);
    };
    (point($module:ident) fn $name:ident($fd:ident: $fd_ty:ty $(, $arg:ident: $ty:ty)* $(,)?) -> $ret:ty; $($rest:tt)*) => {
        hook!(@check $name($fd_ty $(, $ty)*) -> $ret);
        hook!(own fn $name($fd: $fd_ty $(, $arg: $ty)*) -> $ret {
            match $crate::fds::get($fd) {
                0 => $crate::real::$name($fd $(, $arg)*),
                entry => {
                    $crate::real::cancellation_point();
                    $crate::calls::$module::$name(entry, $fd $(, $arg)*)
                }
            }
        });
        hook!($($rest)*);
    };
    (receive($module:ident, $flags:expr) fn $($rest:tt)*) => {
        hook!(@data $module, |sock, n| $crate::calls::way::settled_received(sock, n, $flags), $($rest)*);
    };
    (send($module:ident) fn $($rest:tt)*) => {
        hook!(@data $module, |sock, n| $crate::calls::way::settled_sent(sock, n), $($rest)*);
    };
    (@data $module:ident, $count:expr, $name:ident($fd:ident: $fd_ty:ty $(, $arg:ident: $ty:ty)* $(,)?) -> $ret:ty; $($rest:tt)*) => {
        hook!(@check $name($fd_ty $(, $ty)*) -> $ret);
        hook!(own fn $name($fd: $fd_ty $(, $arg: $ty)*) -> $ret {
            // Three functions with the same arguments, each of which jumps to the next: what is not ours, or TCP
            // for good, does not save the registers that the others need.
            #[inline(never)]
            unsafe fn known($fd: $fd_ty $(, $arg: $ty)*) -> $ret {
                // SAFETY: the C caller keeps the function's contract; arguments pass unchanged.
                unsafe {
                    match $crate::fds::sock($fd) {
                        Some(sock) if $crate::calls::way::settled(sock) => {
                            let n = $crate::real::$name($fd $(, $arg)*);
                            ($count)(sock, n);
                            n
                        }
                        sock => live($fd $(, $arg)*, sock.map(|sock| sock.conn)),
                    }
                }
            }
            #[inline(never)]
            unsafe fn live($fd: $fd_ty $(, $arg: $ty)*, found: Option<&'static $crate::conn::Conn>) -> $ret {
                $crate::real::cancellation_point();
                // SAFETY: likewise.
                unsafe { $crate::calls::$module::$name($fd $(, $arg)*, found) }
            }
            match $crate::fds::get($fd) {
                0 => $crate::real::$name($fd $(, $arg)*),
                _ => known($fd $(, $arg)*),
            }
        });
        hook!($($rest)*);
    };
    (own fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        /// The exported function of this name.
        ///
        /// # Safety
        /// As for the C function.
        #[allow(non_snake_case, reason = "the name is libc's")]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the C caller keeps the function's contract; arguments pass unchanged.
            #[allow(unused_unsafe, reason = "some calls take no pointers")]
            unsafe { $body }
        }
        hook!($($rest)*);
    };
    (@check $name:ident($($ty:ty),*) $(-> $ret:ty)?) => {
        #[allow(clippy::disallowed_methods, reason = "only the type is looked at")]
        const _: unsafe extern "C" fn($($ty),*) $(-> $ret)? = libc::$name;
    };
}
