//! redis and memcached, as Debian ships them, with the shim at both ends.

use std::time::Duration;
use tests::{Lab, Running, net};

const SHARE: f64 = 0.95;

fn redis(lab: &Lab, port: u16) -> Running {
    lab.shim("redis-server")
        .words(&format!("--port {port} --bind 127.0.0.1 --appendonly no"))
        .args(["--save", "", "--dir"])
        .arg(lab.dir())
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port)
}

fn redis_cli(lab: &Lab, port: u16, words: &str) -> String {
    lab.plain("redis-cli")
        .words(&format!("-p {port} {words}"))
        .finish()
        .ok()
        .trim()
        .to_owned()
}

/// Runs redis-benchmark and checks its results and the share of SMC.
fn benchmark(options: &str) {
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, port);
    let text = lab
        .shim("redis-benchmark")
        .words(&format!("-p {port} --csv {options}"))
        .limit(Duration::from_secs(90))
        .finish()
        .ok();
    assert!(
        text.contains("\"GET\",") && text.contains("\"SET\","),
        "{text}"
    );
    assert_eq!(redis_cli(&lab, port, "get key:__rand_int__"), "VXK");
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

#[test]
fn one_client() {
    benchmark("-t set,get,lrange_100 -c 1 -n 10000");
}

#[test]
fn fifty_clients() {
    benchmark("-t set,get,lrange_100 -c 50 -n 100000");
}

#[test]
fn two_hundred_clients() {
    benchmark("-t set,get -c 200 -n 400000");
}

#[test]
fn pipelined() {
    benchmark("-t set,get -c 50 -P 16 -n 500000");
}

/// A large value comes back unchanged.
#[test]
fn large_value() {
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, port);
    let (sample, hash) = tests::stream::sample(256);
    lab.eager("redis-cli")
        .words(&format!("-p {port} -x set big"))
        .stdin(&sample)
        .finish()
        .ok();
    let back = lab.dir().join("back");
    lab.eager("redis-cli")
        .words(&format!("-p {port} --raw get big"))
        .stdout(&back)
        .finish()
        .ok();
    // redis-cli adds a newline.
    let file = std::fs::File::options().write(true).open(&back).unwrap();
    file.set_len(256 << 20).unwrap();
    assert_eq!(tests::stream::hash_file(&back), (256 << 20, hash));
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

/// A fork for a snapshot under load leaves the connections alone.
#[test]
fn snapshot_under_load() {
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, port);
    let load = lab
        .shim("redis-benchmark")
        .words(&format!(
            "-p {port} -t set,get -c 20 -n 200000 -r 10000 --csv"
        ))
        .spawn();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(200));
        redis_cli(&lab, port, "bgsave");
    }
    let text = load.finish().ok();
    assert!(text.contains("\"GET\","), "{text}");
    server.stop();
    lab.assert_clean();
}

#[test]
fn memcached() {
    let lab = Lab::start();
    let port = net::free_port();
    // memcached does not run as root unless told so.
    let server = lab
        .shim("memcached")
        .words(&format!("-l 127.0.0.1 -p {port} -u root -m 256 -t 2"))
        .spawn()
        .listening(port);
    for test in ["set", "get"] {
        let options = format!("--servers=127.0.0.1:{port} --test={test}");
        lab.shim("memcslap")
            .words(&format!("{options} --concurrency=4 --execute-number=20000"))
            .finish()
            .ok();
    }
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}
