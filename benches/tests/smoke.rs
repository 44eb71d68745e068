//! Each of our own traffic patterns, shortly, over SMC: it works, and its bytes are on the ring.

use benches::leg;
use benches::measure;
use benches::place::Placement;
use benches::workload;
use tests::Lab;

/// Share of the bytes that has to go over SMC.
const SHARE: f64 = 0.95;

fn smoke(name: &str, leg: &str) {
    if tests::plain_only() {
        return;
    }
    let mut lab = Lab::start();
    let leg = leg::by_key(leg).expect("a leg");
    for workload in workload::named(&[name.into()]).expect("a workload") {
        let sample = measure::once(&mut lab, 1, Placement::Free, &workload, &leg)
            .unwrap_or_else(|why| panic!("{}: {why}", workload.key));
        assert!(sample.value > 0.0 && sample.operations > 0.0, "{sample:?}");
        assert!(sample.cpu_s > 0.0, "{sample:?}");
        let smc = sample.smc.expect("counters of the library");
        let all = smc.smc_bytes + smc.tcp_bytes;
        let share = smc.smc_bytes as f64 / all.max(1) as f64;
        assert!(share >= SHARE, "{}: {share}, {smc:?}", workload.key);
    }
}

#[test]
fn ipc_bench() {
    smoke("ipc-bench", "nocopy");
}

#[test]
fn ping_pong_without_spinning() {
    smoke("ping-pong", "nocopy-nospin");
}

#[test]
fn stream() {
    smoke("stream-8", "copy");
}

#[test]
fn large_messages() {
    smoke("sweep-1048576", "nocopy");
}

#[test]
fn echo() {
    smoke("echo-16", "nocopy");
}

#[test]
fn unix_domain_and_the_limit_need_no_library() {
    let mut lab = Lab::without_daemon();
    for (workload, leg) in [
        ("ping-pong", "unix"),
        ("echo-16", "unix"),
        ("stream-8", "limit"),
    ] {
        let leg = leg::by_key(leg).expect("a leg");
        let workload = &workload::named(&[workload.into()]).expect("a workload")[0];
        let placement = Placement::TwoCores.available();
        let sample = measure::once(&mut lab, 1, placement, workload, &leg);
        let sample = sample.unwrap_or_else(|why| panic!("{}: {why}", workload.key));
        assert!(sample.value > 0.0 && sample.smc.is_none(), "{sample:?}");
    }
}
