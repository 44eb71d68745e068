//! nginx with wrk and curl, and Python's http.server, with the shim at both ends.

use std::fs;
use std::time::Duration;
use tests::{Lab, Running, net, stream};

const SHARE: f64 = 0.95;
/// Of one transfer, see `programs_store`.
const MOST: f64 = 0.5;

fn nginx(lab: &Lab, port: u16, workers: usize, locations: &str) -> Running {
    let config = lab.dir().join("nginx.conf");
    let text = net::nginx_config(lab.dir(), port, workers, locations);
    fs::write(&config, text).unwrap();
    lab.shim("nginx")
        .arg("-p")
        .arg(lab.dir())
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(lab.dir().join("nginx.err"))
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port)
}

/// wrk with keep-alive against files of 10 KiB; each answer is complete.
fn wrk(workers: usize, sendfile: &str) {
    let lab = Lab::start();
    let port = net::free_port();
    let body = "0123456789".repeat(1024);
    fs::write(lab.dir().join("page"), &body).unwrap();
    let server = nginx(&lab, port, workers, &format!("sendfile {sendfile};"));
    let url = format!("http://127.0.0.1:{port}/page");
    let text = lab
        .shim("wrk")
        .words(&format!("-t 2 -c 50 -d 3s {url}"))
        .finish()
        .ok();
    assert!(text.contains("Requests/sec:"), "{text}");
    assert!(!text.contains("Socket errors"), "{text}");
    assert!(!text.contains("Non-2xx"), "{text}");
    let got = lab.shim("curl").words(&format!("-sS {url}")).finish().ok();
    assert!(got == body, "curl got {} bytes", got.len());
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

#[test]
fn one_worker() {
    wrk(1, "off");
}

#[test]
fn one_worker_sendfile() {
    wrk(1, "on");
}

#[test]
fn two_workers() {
    wrk(2, "off");
}

#[test]
fn two_workers_sendfile() {
    wrk(2, "on");
}

/// curl fetches 256 MiB and gets exactly them.
fn fetch(lab: &Lab, port: u16, hash: u64) {
    let back = lab.dir().join("back");
    lab.eager("curl")
        .words(&format!("-sS http://127.0.0.1:{port}/big -o"))
        .arg(&back)
        .finish()
        .ok();
    assert_eq!(stream::hash_file(&back), (256 << 20, hash));
}

fn with_big_file(lab: &Lab) -> u64 {
    let (sample, hash) = stream::sample(256);
    std::os::unix::fs::symlink(sample, lab.dir().join("big")).unwrap();
    hash
}

#[test]
fn curl_from_nginx() {
    for sendfile in ["on", "off"] {
        let lab = Lab::start();
        let hash = with_big_file(&lab);
        let port = net::free_port();
        let server = nginx(&lab, port, 1, &format!("sendfile {sendfile};"));
        fetch(&lab, port, hash);
        server.stop();
        lab.assert_share(MOST);
        lab.assert_clean();
    }
}

#[test]
fn curl_from_python_http_server() {
    let lab = Lab::start();
    let hash = with_big_file(&lab);
    let port = net::free_port();
    let server = lab
        .eager("/usr/bin/python3")
        .words(&format!(
            "-m http.server --bind 127.0.0.1 {port} --directory"
        ))
        .arg(lab.dir())
        .spawn()
        .listening(port);
    fetch(&lab, port, hash);
    server.stop();
    lab.assert_share(MOST);
    lab.assert_clean();
}

/// Several requests on one connection, then one that ends it.
#[test]
fn curl_keep_alive() {
    let lab = Lab::start();
    let port = net::free_port();
    let server = nginx(&lab, port, 1, "location / { return 200 \"$uri\\n\"; }");
    let got = lab
        .eager("curl")
        .words(&format!("-sS http://127.0.0.1:{port}/[1-2000]"))
        .finish()
        .ok();
    let expected: String = (1..=2000).map(|i| format!("/{i}\n")).collect();
    assert_eq!(got, expected);
    server.stop();
    lab.assert_share(MOST);
    lab.assert_clean();
}
