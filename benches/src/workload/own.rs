//! Our own traffic patterns ([`crate::traffic`]).

use super::{Place, Program, Workload, own_program, reading};
use crate::results::Group;

fn traffic(end: &str, p: &Place<'_>, pattern: &str) -> Program {
    let at = p.at();
    let time = match end {
        "talk" => format!("--seconds {}", p.seconds),
        _ => String::new(),
    };
    Program::new(
        own_program("traffic"),
        &format!("{end} {at} {time} {pattern}"),
    )
}

fn ping_pong(key: &str, title: &str, size: u32) -> Workload {
    Workload {
        n: size,
        unix: true,
        operation: "exchange",
        servers: |p| vec![traffic("serve", p, &format!("ping-pong {}", p.n))],
        client: |p| traffic("talk", p, &format!("ping-pong {}", p.n)),
        limit: Some(|n| format!("ping-pong {n}")),
        ..Workload::new(key, title)
    }
}

fn one_way(key: String, title: String, size: u32) -> Workload {
    Workload {
        n: size,
        unix: true,
        operation: "message",
        servers: |p| vec![traffic("serve", p, &format!("one-way {}", p.n))],
        client: |p| traffic("talk", p, &format!("one-way {}", p.n)),
        limit: Some(|n| format!("one-way {n}")),
        ..Workload::new(key, title)
    }
}

pub fn messages() -> Vec<Workload> {
    vec![
        Workload {
            unit: "msg/s",
            // As ipc-bench is called for the published numbers, or as far as the time reaches.
            client: |p| traffic("talk", p, &format!("ping-pong {} --count 1000000", p.n)),
            result: reading::rate,
            limit_result: reading::rate,
            ..ping_pong("ipc-bench", "ipc-bench pattern, 1,000,000 x 100 B", 100)
        },
        Workload {
            unit: "us",
            lower_is_better: true,
            result: reading::mean_us,
            limit_result: reading::mean_us,
            ..ping_pong("ping-pong", "ping-pong 14 B, round trip", 14)
        },
        Workload {
            unit: "msg/s",
            result: reading::rate,
            limit_result: reading::rate,
            ..one_way(
                "stream-8".into(),
                "one-way stream of 8 B messages".into(),
                8,
            )
        },
    ]
}

fn echo(n: u32) -> Workload {
    Workload {
        n,
        unix: true,
        operation: "exchange",
        servers: |p| vec![traffic("serve", p, "echo")],
        client: |p| traffic("talk", p, &format!("echo {}", p.n)),
        result: reading::rate,
        group: Group::Connections,
        ..Workload::new(format!("echo-{n}"), format!("echo 64 B, {n} connections"))
    }
}

pub fn connections() -> Vec<Workload> {
    let mut all: Vec<Workload> = [2, 16, 64, 256, 1000].into_iter().map(echo).collect();
    let title = "echo 64 B, 10 busy connections";
    all.push(Workload {
        key: "busy-10".into(),
        title: title.into(),
        group: Group::Single,
        ..echo(10)
    });
    all.push(Workload {
        key: "busy-10-idle-10000".into(),
        title: format!("{title}, 10,000 idle"),
        client: |p| traffic("talk", p, "echo 10 --idle 10000"),
        group: Group::Single,
        ..echo(10)
    });
    all
}

pub const SIZES: [u32; 8] = [8, 64, 512, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

pub fn sizes() -> Vec<Workload> {
    let sweep = |size: u32| Workload {
        unit: "MB/s",
        group: Group::MessageSize,
        result: reading::megabytes,
        limit_result: reading::megabytes,
        ..one_way(
            format!("sweep-{size}"),
            format!("one-way stream, {size} B messages"),
            size,
        )
    };
    SIZES.into_iter().map(sweep).collect()
}
