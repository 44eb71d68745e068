//! Micro-benchmarks (criterion): codec, cursors, ring, and what a call on a descriptor that is not
//! ours costs with and without the library.
//!
//!     cargo bench -p benches

#[path = "../../protocol/tests/golden/mod.rs"]
mod golden;

use benches::bare::{End, Memory};
use criterion::{Criterion, Throughput};
use nix::unistd::{pipe, read, write};
use protocol::clc::{self, MAX_LEN};
use protocol::shm::cdc::{Cursor, Place, owes_update};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::process::Command;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    // The same calls once more in a process that has the library.
    if std::env::var_os("LD_PRELOAD").is_some() {
        pass_through(&mut criterion, "under the library");
        return criterion.final_summary();
    }
    codec(&mut criterion);
    cursor(&mut criterion);
    ring(&mut criterion);
    pass_through(&mut criterion, "plain");
    criterion.final_summary();
    let me = std::env::current_exe().expect("a running program has a path");
    let status = Command::new(me)
        .args(std::env::args_os().skip(1))
        .env("LD_PRELOAD", tests::artefacts::library())
        .status()
        .expect("this program starts again");
    assert!(status.success(), "under the library: {status}");
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("clc");
    for kind in ["PROPOSAL", "ACCEPT", "CONFIRM"] {
        let bytes = golden::find("A01-first-contact", kind, true);
        let message = clc::decode(&bytes).expect("bytes of a kernel");
        group.bench_function(format!("decode {kind}"), |b| {
            b.iter(|| clc::decode(black_box(&bytes)));
        });
        group.bench_function(format!("encode {kind}"), |b| {
            let mut out = [0; MAX_LEN];
            b.iter(|| black_box(&message).encode(&mut out));
        });
    }
    group.finish();
}

fn cursor(c: &mut Criterion) {
    let size = 256 << 10;
    let place = Place::at(123_456_789, size);
    let newer = place.cursor.advance(1000, size);
    let mut group = c.benchmark_group("cursor");
    group.bench_function("word and back", |b| {
        b.iter(|| Cursor::from_word(black_box(newer).word(black_box(0))));
    });
    group.bench_function("advance", |b| {
        b.iter(|| black_box(place).advance(black_box(1000), size));
    });
    group.bench_function("follow", |b| {
        b.iter(|| black_box(place).follow(black_box(newer), size, u64::MAX));
    });
    group.bench_function("owes_update", |b| {
        b.iter(|| owes_update(size, black_box(0), black_box(7000), black_box(40_000), 0));
    });
    group.finish();
}

/// Through the ring and out again on one core: everything is in its cache.
fn ring(c: &mut Criterion) {
    let memory = Memory::new().expect("memory for a ring");
    let mut group = c.benchmark_group("ring");
    for size in [8, 100, 1024, 16 << 10, 64 << 10] {
        let (mut a, mut b) = (End::new(memory, 0, false), End::new(memory, 1, false));
        memory.clear();
        let out = vec![1; size];
        let mut into = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size} B there"), |bench| {
            bench.iter(|| a.send(&out).is_ok() && b.recv(&mut into).is_ok());
        });
    }
    group.finish();
}

fn pass_through(c: &mut Criterion, how: &str) {
    let (out, into) = pipe().expect("a pipe");
    let mut bytes = [0; 8];
    let mut group = c.benchmark_group("not ours");
    group.bench_function(format!("write and read of a pipe, {how}"), |b| {
        b.iter(|| {
            write(&into, &bytes).expect("room in the pipe");
            read(out.as_raw_fd(), &mut bytes)
        });
    });
    group.finish();
}
