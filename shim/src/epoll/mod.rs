//! Epoll sets of this process.
//!
//! The program's registrations stay in the kernel's set. A registration of a connection that may go
//! onto a ring is *converted*: in the kernel it is edge-triggered and carries a tag of ours, the
//! set's doorbell is in the kernel's set, and the program's rules (level, edge, one-shot) are applied
//! here, over what the ring and the kernel say together.

mod active;
mod afar;
mod convert;
mod ctl;
mod dormant;
mod heat;
mod mine;
mod output;
mod quick;
mod reg;
mod report;
mod set;
mod share;
pub mod short;
mod shown;
mod sift;
mod spin;
mod table;
mod wait;

pub use afar::{moved, outlived, sweep, watches as watched_afar};
pub use convert::{convert, forbids, leave_to_kernel, restore, tags};
pub use ctl::ctl;
pub use dormant::closing;
pub use heat::{ask, rouse, stir};
pub use output::absorb;
pub use reg::{any as registered, forget};
pub use set::MAX as SETS;
pub use set::{create, duplicated, forked, forking, get as known, set_closed};
pub use share::{before_program, before_wait, look_into, passed, returned, surrender};
pub use sift::{tells, watched};
pub use wait::wait;
