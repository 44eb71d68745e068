//! Comparisons of TCP and UNIX domain sockets with SMC-D, under real programs and bare traffic.
//!
//! A *workload* is servers and a client that prints numbers; a *leg* says what carries the bytes; a
//! *placement* says on which cores; a *cell* is some runs of a workload on a leg in a placement.
//! Rounds are interleaved over the legs, so that slow changes of the machine meet all of them.
//!
//! Measuring ([`measure`]) fills [`results`], plain data; [`report`] reads nothing else.

pub mod bare;
pub mod cost;
pub mod instructions;
pub mod leg;
pub mod machine;
pub mod measure;
pub mod place;
pub mod report;
pub mod results;
pub mod standing;
pub mod targets;
pub mod traffic;
pub mod workload;
