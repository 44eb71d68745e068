//! redis and memcached.

use super::{Place, Program, Workload, reading};

pub fn all() -> Vec<Workload> {
    let get: fn(&Place<'_>) -> Program = |p| redis_client(p, "-t get");
    let set: fn(&Place<'_>) -> Program = |p| redis_client(p, "-t set");
    vec![
        redis("redis", "redis GET, 50 clients", 50, get),
        redis("redis-set", "redis SET, 50 clients", 50, set),
        redis("redis-1", "redis GET, 1 client", 1, get),
        redis("redis-set-1", "redis SET, 1 client", 1, set),
        redis("redis-200", "redis GET, 200 clients", 200, get),
        redis("redis-set-200", "redis SET, 200 clients", 200, set),
        Workload {
            per_second: 500_000,
            ..redis(
                "redis-p16",
                "redis GET, 50 clients, pipelines of 16",
                50,
                |p| redis_client(p, "-t get -P 16"),
            )
        },
        Workload {
            servers: |p| {
                let user = if super::is_root() { "-u root" } else { "" };
                let args = format!("{user} -l 127.0.0.1 -p {} -t 1 -U 0", p.port);
                vec![Program::new("memcached", &args)]
            },
            // It knows no UNIX domain sockets, though memcached does.
            client: |p| {
                let (port, time) = (p.port, p.seconds);
                let args = format!("-s 127.0.0.1:{port} -T 1 -c 16 -t {time}s");
                Program::new("memcaslap", &args)
            },
            result: reading::memaslap,
            ..Workload::new("memcached", "memcached + memaslap, 16 clients")
        },
    ]
}

fn redis(key: &str, title: &str, clients: u32, client: fn(&Place<'_>) -> Program) -> Workload {
    Workload {
        n: clients,
        per_second: 60_000,
        unix: true,
        servers: redis_server,
        client,
        result: reading::redis,
        ..Workload::new(key, title)
    }
}

fn redis_server(p: &Place<'_>) -> Vec<Program> {
    let args = format!("--port {} --bind 127.0.0.1 --appendonly no --save", p.port);
    let mut server = Program::new("redis-server", &args)
        .arg("")
        .arg("--dir")
        .arg(p.dir.display().to_string());
    if let Some(path) = &p.unix {
        server = server.arg("--unixsocket").arg(path.display().to_string());
    }
    vec![server]
}

fn redis_client(p: &Place<'_>, options: &str) -> Program {
    let at = match &p.unix {
        None => format!("-p {}", p.port),
        Some(path) => format!("-s {}", path.display()),
    };
    let args = format!("{at} -c {} {options} -n {} --csv", p.n, p.count);
    Program::new("redis-benchmark", &args)
}
