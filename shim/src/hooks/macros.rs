//! How an exported function is written down.

/// Defines exported functions.
///
/// * `libc fn name(..) -> T { body }`: signature checked against `libc::name`.
/// * `own fn name(..) -> T { body }`: for names that the `libc` crate does not have, and twins.
/// * `fd(module) fn name(fd, ..) -> T;`: the usual shape: the next definition if the first
///   argument has no entry, else `calls::module::name(entry, fd, ..)`.
/// * `point(module) fn name(fd, ..) -> T;`: likewise, of a point of cancellation: a thread that was
///   cancelled does not get past it, whether or not the call would have to wait.
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
