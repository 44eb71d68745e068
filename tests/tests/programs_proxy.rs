//! haproxy and nginx as reverse proxies, and Apache: every connection has the shim at both ends.

use protocol::reason;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::stage::{Stage, same_and_fast};
use tests::{Lab, Running, Stats, net, plain_only, process, rounds, stream};

fn mib() -> usize {
    rounds(32, 256)
}

fn nginx(stage: &Stage, name: &str, port: u16, http: &str, locations: &str) -> Running {
    let dir = stage.dir().join(name);
    fs::create_dir(&dir).unwrap();
    let text =
        net::nginx_config(&dir, port, 1, locations).replace("http {", &format!("http {{ {http}"));
    let config = dir.join("nginx.conf");
    fs::write(&config, text).unwrap();
    let (sample, _) = stream::sample(mib());
    std::os::unix::fs::symlink(sample, dir.join("big")).unwrap();
    fs::write(dir.join("small"), "0123456789".repeat(100)).unwrap();
    stage
        .run("nginx")
        .arg("-p")
        .arg(&dir)
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(dir.join("nginx.err"))
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port)
}

fn haproxy(stage: &Stage, port: u16, backend: u16, options: &str) -> Running {
    let config = stage.dir().join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "defaults
              timeout connect 5s
              timeout client 30s
              timeout server 30s
              {options}
            frontend f
              bind 127.0.0.1:{port}
              default_backend b
            backend b
              server s 127.0.0.1:{backend}\n"
        ),
    )
    .unwrap();
    stage
        .run("haproxy")
        .args(["-db", "-f"])
        .arg(&config)
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port)
}

/// A large file, and many small ones on one connection.
fn fetch(stage: &Stage, port: u16) -> ((u64, u64), String) {
    let back = stage.dir().join("back");
    let curl = || stage.run("curl").args(["-sS", "--noproxy", "*"]);
    curl()
        .arg(format!("http://127.0.0.1:{port}/big"))
        .arg("-o")
        .arg(&back)
        .finish()
        .ok();
    let small = curl()
        .arg(format!("http://127.0.0.1:{port}/small?[1-200]"))
        .finish()
        .ok();
    (stream::hash_file(&back), small)
}

fn through_haproxy(options: &str) {
    same_and_fast(|stage| {
        let (port, backend) = (net::free_port(), net::free_port());
        let server = nginx(stage, "origin", backend, "", "");
        let proxy = haproxy(stage, port, backend, options);
        let got = fetch(stage, port);
        proxy.stop();
        server.stop();
        got
    });
}

#[test]
fn haproxy_tcp() {
    through_haproxy("mode tcp");
}

#[test]
fn haproxy_tcp_splice() {
    through_haproxy("mode tcp\noption splice-auto\noption splice-request\noption splice-response");
}

#[test]
fn haproxy_http() {
    through_haproxy("mode http");
}

#[test]
fn haproxy_http_splice() {
    through_haproxy("mode http\noption splice-auto\noption splice-request\noption splice-response");
}

/// Up and down again through haproxy, spliced: a large value of redis.
#[test]
fn haproxy_before_redis() {
    same_and_fast(|stage| {
        let (port, backend) = (net::free_port(), net::free_port());
        let server = stage
            .run("redis-server")
            .words(&format!("--port {backend} --bind 127.0.0.1 --save"))
            .args(["", "--dir"])
            .arg(stage.dir())
            .spawn()
            .listening(backend);
        let proxy = haproxy(stage, port, backend, "mode tcp\noption splice-auto");
        let (sample, _) = stream::sample(mib());
        let cli = || stage.run("redis-cli").words(&format!("-p {port}"));
        let set = cli().words("-x set big").stdin(&sample).finish().ok();
        let back = stage.dir().join("back");
        cli().words("--raw get big").stdout(&back).finish().ok();
        proxy.stop();
        server.stop();
        (set, stream::hash_file(&back))
    });
}

#[test]
fn nginx_reverse_proxy() {
    same_and_fast(|stage| {
        let (port, backend) = (net::free_port(), net::free_port());
        let server = nginx(stage, "origin", backend, "", "");
        let proxy = nginx(
            stage,
            "proxy",
            port,
            &format!("upstream o {{ server 127.0.0.1:{backend}; keepalive 8; }}"),
            "location / { proxy_pass http://o; proxy_http_version 1.1;
             proxy_set_header Connection \"\"; }",
        );
        let got = fetch(stage, port);
        proxy.stop();
        server.stop();
        got
    });
}

/// Apache as Debian builds it, in the foreground, with a root of its own that takes uploads.
fn apache(stage: &Stage, port: u16, mpm: &str) -> Running {
    let dir = stage.dir().join("www");
    fs::create_dir(&dir).unwrap();
    let (sample, _) = stream::sample(mib());
    std::os::unix::fs::symlink(sample, dir.join("big")).unwrap();
    fs::write(dir.join("small"), "0123456789".repeat(100)).unwrap();
    let load: String = [&format!("mpm_{mpm}"), "authz_core", "dir", "dav", "dav_fs"]
        .iter()
        .map(|m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n"))
        .collect();
    let at = stage.dir().display();
    let config = stage.dir().join("apache.conf");
    fs::write(
        &config,
        format!(
            "{load}
            ServerRoot {at}
            PidFile {at}/apache.pid
            DefaultRuntimeDir {at}
            ServerName localhost
            Listen 127.0.0.1:{port}
            DocumentRoot {at}/www
            ErrorLog {at}/apache.err
            DavLockDB {at}/lock
            EnableSendfile On
            MaxKeepAliveRequests 0
            <Directory {at}/www>
              Options FollowSymLinks
              Require all granted
              Dav On
            </Directory>
            "
        ),
    )
    .unwrap();
    stage
        .run("apache2")
        .args(["-DFOREGROUND", "-f"])
        .arg(&config)
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port)
}

fn with_apache(mpm: &str) {
    same_and_fast(|stage| {
        let port = net::free_port();
        // Its workers run as another user, who has to be able to write there.
        open_to_all(stage.dir());
        let server = apache(stage, port, mpm);
        open_to_all(&stage.dir().join("www"));
        let got = fetch(stage, port);
        let (sample, _) = stream::sample(mib());
        let status = stage
            .run("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-T"])
            .arg(sample)
            .arg(format!("http://127.0.0.1:{port}/up"))
            .finish()
            .ok();
        let stored: PathBuf = stage.dir().join("www/up");
        let sent = stream::hash_file(&stored);
        server.stop();
        (got, status, sent)
    });
}

fn open_to_all(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn apache_prefork() {
    with_apache("prefork");
}

#[test]
fn apache_event() {
    with_apache("event");
}

/// Passes 32 MiB on by splices of that length through a relay. Gives what of all bytes went over SMC, and how many
/// connections were left to TCP for being spliced.
fn spliced(piece: usize) -> (f64, usize) {
    const RELAY: &str = "import os, socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
end, _ = listener.accept()
out = socket.create_connection(('127.0.0.1', int(sys.argv[2])))
source, sink = os.pipe()
while n := os.splice(end.fileno(), sink, int(sys.argv[3])):
    while n: n -= os.splice(source, out.fileno(), n)
print('all', flush=True)
sys.stdin.read()";
    const SINK: &str = "import hashlib, socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
end, _ = listener.accept()
seen = hashlib.sha256()
while data := end.recv(1 << 16): seen.update(data)
print(seen.hexdigest())";
    const SOURCE: &str = "import hashlib, random, socket, sys
end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
sent = hashlib.sha256()
for i in range(512):
    data = random.Random(i).randbytes(1 << 16)
    sent.update(data)
    end.sendall(data)
print(sent.hexdigest())";
    let lab = Lab::start();
    let (port, beyond) = (net::free_port(), net::free_port());
    let start =
        |program: &str, words: &str| lab.eager("python3").args(["-c", program]).words(words);
    let sink = start(SINK, &beyond.to_string()).spawn().listening(beyond);
    let input = lab.dir().join("input");
    let open = process::fifo(&input);
    let relay = start(RELAY, &format!("{port} {beyond} {piece}")).stdin(&input);
    let relay = relay.spawn().listening(port);
    let sent = start(SOURCE, &port.to_string()).finish().ok();
    let passed_on = || relay.stdout() == "all\n";
    let done = net::wait_until(Duration::from_secs(30), passed_on);
    assert!(done, "{}", relay.stderr());
    let rows = match plain_only() {
        true => Vec::new(),
        false => lab.sockets(),
    };
    drop(open);
    relay.finish().ok();
    assert_eq!(sink.finish().ok(), sent);
    lab.assert_clean();
    let left = rows.iter().filter(|row| row.is_tcp_for(reason::SPLICED));
    (lab.settled().share_smc(&Stats::zero()), left.count())
}

/// What TCP passes on by reference is copied to and from a ring: a relay that splices in bulk is left on TCP, at both
/// of its ends; one that passes on small pieces is not.
#[test]
fn a_bulk_splicer_stays_on_tcp() {
    let (long, left) = spliced(1 << 20);
    let (short, stayed) = spliced(4096);
    if !plain_only() {
        assert_eq!((left, stayed), (2, 0));
        assert!(long < 0.5 && short > 0.8, "{long} and {short} over SMC");
    }
}
