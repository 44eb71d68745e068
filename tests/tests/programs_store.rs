//! redis and memcached, as Debian ships them, with the shim at both ends.

use std::time::Duration;
use tests::stage::{Stage, same_and_fast};
use tests::{Lab, Running, net};

const SHARE: f64 = 0.95;
/// Of one transfer: on a busy machine it is on TCP for some megabytes until the daemon has had a processor,
/// and again whenever the reader gets none for 100 ms (a buffer that grows by copying is enough).
const MOST: f64 = 0.5;

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
    lab.assert_share(MOST);
    lab.assert_clean();
}

/// A fork for a snapshot under load leaves the connections where they are, on rings.
#[test]
fn snapshot_under_load() {
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, port);
    let mut load = lab
        .shim("redis-benchmark")
        .words(&format!(
            "-p {port} -t set,get -c 20 -n 400000 -r 10000 --csv"
        ))
        .limit(Duration::from_secs(90))
        .spawn();
    let mut snapshots = 0;
    while snapshots < 5 {
        let said = redis_cli(&lab, port, "bgsave");
        snapshots += u32::from(said.starts_with("Background saving started"));
        let over = || redis_cli(&lab, port, "info").contains("rdb_bgsave_in_progress:0");
        assert!(net::wait_until(Duration::from_secs(20), over), "{said}");
    }
    assert!(load.alive(), "the load was over first");
    let text = load.finish().ok();
    assert!(text.contains("\"GET\","), "{text}");
    let info = redis_cli(&lab, port, "info");
    assert!(info.contains("rdb_last_bgsave_status:ok"), "{info}");
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

/// What `info` says under a name.
fn info(stage: &Stage, port: u16, name: &str) -> String {
    let text = stage
        .lab
        .plain("redis-cli")
        .words(&format!("-p {port} info"))
        .finish()
        .ok();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .to_owned()
}

/// A server with an append-only file, which takes snapshots and rewrites the file while four clients
/// write and a second server becomes its replica: the contents of both, and of what the file gives.
fn replicated(stage: &Stage, diskless: &str) -> [String; 3] {
    let [port, replica] = [(); 2].map(|()| net::free_port());
    let server = |name: &str, port: u16, more: &str| {
        let dir = stage.dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let run = stage.run("redis-server");
        let run = run.words(&format!(
            "--port {port} --bind 127.0.0.1 --enable-debug-command yes"
        ));
        let run = run
            .words("--repl-diskless-sync-delay 0 --save")
            .args(["", "--dir"]);
        run.arg(dir)
            .words(more)
            .limit(Duration::from_secs(240))
            .spawn()
            .listening(port)
    };
    let cli = |port: u16, words: &str| {
        let run = stage
            .lab
            .plain("redis-cli")
            .words(&format!("-p {port} {words}"));
        run.finish().ok().trim().to_owned()
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        assert!(net::wait_until(Duration::from_secs(120), done), "{what}");
    };
    let digest = |port: u16| cli(port, "debug digest");
    let options = format!("--appendonly yes --appendfsync no --repl-diskless-sync {diskless}");
    let master = server("master", port, &options);
    let clients: Vec<_> = (0..4)
        .map(|client| {
            // One of them without waiting for answers.
            let pipe = if client == 0 { "--pipe" } else { "" };
            let input = stage.dir().join(format!("commands{client}"));
            std::fs::write(&input, commands(client)).expect("room for the commands");
            let run = stage.run("redis-cli").words(&format!("-p {port} {pipe}"));
            let output = stage.dir().join(format!("answers{client}"));
            run.stdin(&input)
                .stdout(&output)
                .limit(Duration::from_secs(240))
                .spawn()
        })
        .collect();
    until("they write", &|| {
        cli(port, "dbsize").parse::<u64>().is_ok_and(|n| n > 1000)
    });
    cli(port, "bgsave");
    let copy = server("replica", replica, &format!("--replicaof 127.0.0.1 {port}"));
    until("the snapshot", &|| {
        info(stage, port, "rdb_bgsave_in_progress") == "0"
    });
    cli(port, "bgrewriteaof");
    for client in clients {
        client.finish().ok();
    }
    until("the rewrite", &|| {
        let under_way = ["aof_rewrite_in_progress", "aof_rewrite_scheduled"];
        under_way.iter().all(|name| info(stage, port, name) == "0")
    });
    until("the replica", &|| {
        info(stage, replica, "master_link_status") == "up"
    });
    let whole = digest(port);
    until("the same contents", &|| digest(replica) == whole);
    let replicas = digest(replica);
    // A wait for the replica's acknowledgement uses the connection in the other direction.
    assert_eq!(cli(port, "wait 1 60000"), "1");
    copy.stop();
    master.stop();
    let again = server("master", port, &options);
    // It listens, and answers this question, before it has read its file.
    until("the file", &|| info(stage, port, "loading") == "0");
    let from_file = digest(port);
    again.stop();
    [whole, replicas, from_file]
}

/// What one client writes: keys of its own, so that the result does not depend on the order.
fn commands(client: usize) -> String {
    let mut stream = tests::stream::Stream::new(client as u64);
    let mut lines = String::new();
    for i in 0..tests::rounds(10_000, 100_000) {
        let (key, length) = (stream.below(2000), stream.below(400) as usize + 1);
        let line = match stream.below(5) {
            0 => format!("set {client}:s{key} {}", "x".repeat(length)),
            1 => format!("incrby {client}:n{key} {length}"),
            2 => format!("rpush {client}:l{} {i} {length}", key % 50),
            3 => format!("hset {client}:h{} {key} {}", key % 100, "y".repeat(length)),
            _ => format!("del {client}:s{}", key / 2),
        };
        lines += &line;
        lines.push('\n');
    }
    lines
}

fn replication(diskless: &str) {
    same_and_fast(|stage| {
        let all = replicated(stage, diskless);
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all
    });
}

/// The child that takes the snapshot gives it to its parent, who passes it on as it comes.
#[test]
fn replication_diskless() {
    replication("yes");
}

#[test]
fn replication_by_file() {
    replication("no");
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
    // What is stored comes back: the key is the name of the file.
    let value = lab.dir().join("value");
    let hash = tests::stream::Stream::new(7).to_file(&value, 960 << 10);
    let servers = format!("--servers=127.0.0.1:{port}");
    for round in 0..5 {
        let back = lab.dir().join(format!("back.{round}"));
        let store = lab.eager("memccp").arg(&servers).arg(&value);
        store.finish().ok();
        let fetch = lab.eager("memccat").arg(&servers).arg("--file");
        fetch.arg(&back).arg("value").finish().ok();
        assert_eq!(tests::stream::hash_file(&back), (960 << 10, hash));
    }
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}
