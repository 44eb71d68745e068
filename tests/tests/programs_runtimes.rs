//! Programs on the runtimes of other languages: Node.js, Java, gRPC's core under Python, and Go,
//! whose system calls are its own.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tests::stage::{Stage, same, same_and_fast};
use tests::{Run, artefacts, net, plain_only, rounds, stream};

const LIMIT: Duration = Duration::from_secs(240);

fn script(path: &str) -> PathBuf {
    artefacts::workspace().join("tests").join(path)
}

fn mib() -> usize {
    rounds(8, 64)
}

/// A server that ends when its client has asked it to; what the client prints.
fn talk(server: Run, client: Run, port: u16) -> String {
    let server = server.limit(LIMIT).spawn().listening(port);
    let text = client.limit(LIMIT).finish().ok();
    server.finish().ok();
    text
}

/// HTTP/1.1 with kept connections, pipes and large bodies, HTTP/2, half-open connections.
#[test]
fn node() {
    same_and_fast(|stage| {
        let ports = [(); 3].map(|()| net::free_port());
        let (sample, _) = stream::sample(mib());
        let run = |path: &str| {
            let run = stage.run("node").arg(script(path));
            run.args(ports.map(|p| p.to_string())).arg(&sample)
        };
        talk(run("node/serve.js"), run("node/ask.js"), ports[0])
    });
}

/// Node's cluster: the process that accepts passes each connection on to another.
#[test]
fn node_cluster() {
    same_and_fast(|stage| {
        let port = net::free_port();
        let (sample, _) = stream::sample(mib());
        let server = stage
            .run("node")
            .arg(script("node/cluster.js"))
            .arg(port.to_string())
            .arg(&sample)
            .limit(LIMIT)
            .spawn()
            .listening(port);
        let curl = || stage.run("curl").args(["-sS", "--noproxy", "*"]);
        let at = |path: &str| format!("http://127.0.0.1:{port}/{path}");
        let back = stage.dir().join("back");
        let mut text = String::new();
        for _ in 0..4 {
            text += &curl().arg(at("small?[1-200]")).finish().ok();
        }
        curl().arg(at("big")).arg("-o").arg(&back).finish().ok();
        curl().arg(at("end")).finish().ok();
        server.finish().ok();
        (text, stream::hash_file(&back))
    });
}

fn java(stage: &Stage, server: &str, more: &[&str]) -> String {
    let port = net::free_port();
    let (sample, _) = stream::sample(mib());
    let run = |class: &str| {
        let run = stage
            .run("java")
            .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1"]);
        run.arg(script(&format!("java/{class}.java")))
            .arg(port.to_string())
    };
    let client = run("Ask").arg((mib() / 2).to_string()).args(more);
    talk(run(server).arg(&sample), client, port)
}

/// One thread with a selector, channels that do not block, `transferTo`.
#[test]
fn java_nio() {
    same_and_fast(|stage| java(stage, "Nio", &[]));
}

/// A thread for each connection, streams, objects, time-outs.
#[test]
fn java_blocking() {
    same_and_fast(|stage| java(stage, "Blocking", &["more"]));
}

/// All four kinds of calls, on three connections at once.
#[test]
fn grpc() {
    same_and_fast(|stage| {
        let port = net::free_port();
        let python = |path: &str| {
            let run = stage.run("/usr/bin/python3").arg(script(path));
            run.arg(port.to_string())
        };
        let (server, client) = ("python/grpc_server.py", "python/grpc_client.py");
        talk(python(server), python(client), port)
    });
}

/// The Go program, linked statically, or with libc, which takes the library in but is not called.
fn go(linked: bool) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    let built = BUILT[usize::from(linked)].get_or_init(|| {
        let lab = tests::Lab::without_daemon();
        let dir = artefacts::target().join("tests");
        let path = dir.join(format!("go-http-{linked}"));
        lab.plain("go")
            .args(["build", "-o"])
            .arg(&path)
            .arg(script("go/http.go"))
            .env("CGO_ENABLED", if linked { "1" } else { "0" })
            .env("GO111MODULE", "off")
            .env("GOCACHE", dir.join("go-cache"))
            .env("GOPATH", lab.dir().join("go"))
            .limit(LIMIT)
            .finish()
            .ok();
        path
    });
    built.clone()
}

/// A Go client of a server with the library: TCP.
fn go_client(linked: bool) {
    let program = go(linked);
    let stage = same(|stage| {
        let port = net::free_port();
        let (sample, _) = stream::sample(mib());
        let config = stage.dir().join("nginx.conf");
        let text = net::nginx_config(stage.dir(), port, 1, "location /small { return 200 ok; }");
        std::fs::write(&config, text).unwrap();
        std::os::unix::fs::symlink(sample, stage.dir().join("big")).unwrap();
        let server = stage
            .run("nginx")
            .args(["-e".as_ref(), stage.dir().join("nginx.err").as_os_str()])
            .args(["-p".as_ref(), stage.dir().as_os_str()])
            .args(["-c".as_ref(), config.as_os_str()])
            .limit(LIMIT)
            .spawn()
            .listening(port);
        let client = stage.run(&program).args(["ask", &port.to_string()]);
        let text = client.limit(LIMIT).finish().ok();
        server.stop();
        text
    });
    stays_tcp(&stage);
}

/// The server's end saw the traffic, and none of it left TCP.
fn stays_tcp(stage: &Stage) {
    if plain_only() {
        return;
    }
    let stats = stage.lab.settled();
    assert_eq!(stats.smc_bytes(), 0, "{}", stats.raw);
    assert!(stats.tcp_bytes() > 1 << 20, "{}", stats.raw);
    stage.lab.assert_clean();
}

#[test]
fn go_static_client() {
    go_client(false);
}

#[test]
fn go_linked_client() {
    go_client(true);
}

/// curl with the library, of a Go server.
#[test]
fn go_server() {
    let program = go(true);
    let stage = same(|stage| {
        let port = net::free_port();
        let (sample, _) = stream::sample(mib());
        let server = stage
            .run(&program)
            .args(["serve", &port.to_string()])
            .arg(sample);
        let server = server.limit(LIMIT).spawn().listening(port);
        let back = stage.dir().join("back");
        let curl = || stage.run("curl").args(["-sS", "--noproxy", "*"]);
        let big = format!("http://127.0.0.1:{port}/big");
        curl().arg(big).arg("-o").arg(&back).finish().ok();
        let small = format!("http://127.0.0.1:{port}/small?[1-200]");
        let text = curl().arg(small).finish().ok();
        server.stop();
        (stream::hash_file(&back), text)
    });
    stays_tcp(&stage);
}
