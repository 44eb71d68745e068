//! nginx under wrk, directly and behind haproxy.

use super::{Place, Program, Workload, reading};
use std::fs;

pub fn all() -> Vec<Workload> {
    let web = |key: &str, title: &str, clients: u32| Workload {
        n: clients,
        servers: |p| vec![nginx(p, p.port)],
        client: |p| wrk(p, "/"),
        result: reading::wrk,
        ..Workload::new(key, title)
    };
    vec![
        web("wrk", "nginx + wrk, keep-alive, 50 clients", 50),
        web("wrk-500", "nginx + wrk, keep-alive, 500 clients", 500),
        Workload {
            client: |p| wrk(p, "/file"),
            ..web("wrk-file", "nginx + wrk, 1 KiB file, 50 clients", 50)
        },
        Workload {
            client: |p| wrk(p, "/").arg("-H").arg("Connection: close"),
            ..web("short", "nginx + wrk, new connection each", 50)
        },
        Workload {
            servers: |p| vec![nginx(p, p.inner_port), haproxy(p)],
            ..web("proxied", "haproxy in front of nginx + wrk, 50 clients", 50)
        },
    ]
}

fn wrk(p: &Place<'_>, path: &str) -> Program {
    let (n, port, time) = (p.n, p.port, p.seconds);
    let args = format!("--latency -t 1 -c {n} -d {time}s http://127.0.0.1:{port}{path}");
    Program::new("wrk", &args)
}

fn write(p: &Place<'_>, name: &str, text: &str) -> String {
    let path = p.dir.join(name);
    fs::write(&path, text).expect("room for a configuration");
    path.display().to_string()
}

/// nginx with one worker and a prefix of its own.
fn nginx(p: &Place<'_>, port: u16) -> Program {
    write(p, "file", &"x".repeat(1024));
    let locations = "location / { return 200 \"ok\\n\"; } location = /file { }";
    let config = tests::net::nginx_config(p.dir, port, 1, locations);
    let file = write(p, "nginx.conf", &config);
    let dir = p.dir.display();
    Program::new("nginx", &format!("-p {dir} -c {file} -e {dir}/nginx.err"))
}

/// haproxy with one thread, which keeps its connections to nginx.
fn haproxy(p: &Place<'_>) -> Program {
    let (port, inner) = (p.port, p.inner_port);
    let config = format!(
        "global\n  maxconn 4000\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         http-reuse always\n\
         listen proxy\n  bind 127.0.0.1:{port}\n  server nginx 127.0.0.1:{inner}\n"
    );
    let file = write(p, "haproxy.cfg", &config);
    Program::new("haproxy", &format!("-db -f {file}"))
}
