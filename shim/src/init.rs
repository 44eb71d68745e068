//! Start-up: the library's one constructor.
//!
//! It runs before main, and after the constructors of what we depend on, but possibly after those
//! of other libraries, whose sockets stay on TCP until then: the environment is not known yet.

/// What exit runs, after the program's own exit handlers.
#[cfg(not(test))]
#[ctor::dtor]
fn end() {
    crate::errno::keep(|| crate::calls::proc::ending(false));
}

/// What the loader runs.
#[cfg(not(test))]
#[ctor::ctor]
fn start() {
    crate::real::init();
    crate::errno::keep(crate::calls::life::start);
}
