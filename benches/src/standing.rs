//! What connections cost that nobody uses: memory, the daemon's time, the upgrade, processor time
//! while all is idle. Two processes hold many connections between them.

use crate::cost::Cost;
use crate::leg::{self, Leg};
use crate::workload::own_program;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Duration;
use tests::{Lab, Running, net};

/// Two processes with so many connections between them, each used for some exchanges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub connections: u32,
    /// Connections with a direction on a ring, as `smclo ss` lists them.
    pub accelerated: u32,
    /// Kilobytes for each connection in both processes and the daemon, beyond those of plain TCP.
    pub memory_kb: f64,
    /// Processor microseconds of the daemon for each connection.
    pub daemon_us: f64,
    /// Processor microseconds of everybody for each connection, beyond those of a library that
    /// accelerates nothing.
    pub upgrade_us: f64,
    /// Seconds from the first connection until all were used, and the same on plain TCP.
    pub seconds: f64,
    pub plain_seconds: f64,
    /// Processor time of all three processes while nothing happens, percent of one core.
    pub idle_percent: f64,
}

/// How long is looked at idle processes.
const IDLE: Duration = Duration::from_secs(3);
/// When the client is ready the others may still be at its last messages: so long is waited for a time of [`QUIET`] in
/// which nobody does anything. Who never comes to rest is measured as he is.
const SETTLED: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(50);

/// What one leg gives.
#[derive(Debug)]
struct Held {
    cpu_us: f64,
    daemon_us: f64,
    memory_kb: f64,
    accelerated: u32,
    seconds: f64,
    idle_percent: f64,
}

pub fn measure(connections: u32) -> Result<Standing, String> {
    let on = |key| hold(leg::by_key(key).ok_or("no such leg")?, connections);
    let (plain, off, smc) = (on(leg::TCP)?, on("off")?, on(leg::NO_COPY)?);
    let each = f64::from(connections);
    Ok(Standing {
        connections,
        accelerated: smc.accelerated,
        memory_kb: (smc.memory_kb - plain.memory_kb) / each,
        daemon_us: smc.daemon_us / each,
        upgrade_us: (smc.cpu_us - off.cpu_us) / each,
        seconds: smc.seconds,
        plain_seconds: plain.seconds,
        idle_percent: smc.idle_percent,
    })
}

fn hold(leg: Leg, connections: u32) -> Result<Held, String> {
    let mut lab = Lab::start();
    let daemon = lab.daemon().map(|d| d.pid()).ok_or("no daemon")?;
    let daemon_before = Cost::of_process(daemon);
    let port = net::free_port();
    let at = format!("127.0.0.1:{port}");
    let program = own_program("traffic");
    let limit = Duration::from_secs(180);
    let mut server = leg
        .server(&lab, &program)
        .args(["serve", &at, "echo"])
        .limit(limit)
        .spawn();
    if !server.comes_up(port) {
        return Err(server.stop().to_string());
    }
    let mut client = leg
        .client(&lab, &program)
        .args(["talk", &at, "hold", &connections.to_string()])
        .limit(limit)
        .spawn();
    let ready = net::wait_until(limit, || {
        client.stdout().starts_with("ready") || !client.alive()
    });
    if !ready || !client.alive() {
        return Err(client.stop().to_string());
    }
    let processes = [server.pid(), client.pid(), daemon];
    let cost = || {
        processes
            .iter()
            .map(|p| Cost::of_process(*p).cpu_s)
            .sum::<f64>()
    };
    let cpu_us = (cost() - daemon_before.cpu_s) * 1e6;
    let daemon_us = (Cost::of_process(daemon) - daemon_before).cpu_s * 1e6;
    let memory_kb = processes.iter().map(|p| proportional_kb(*p)).sum();

    let mut before = cost();
    for _ in 0..SETTLED.as_millis() / QUIET.as_millis() {
        std::thread::sleep(QUIET);
        let last = std::mem::replace(&mut before, cost());
        if last == before {
            break;
        }
    }
    std::thread::sleep(IDLE);
    let idle_percent = (cost() - before) / IDLE.as_secs_f64() * 100.0;

    let smcd = lab.sockets().iter().filter(|s| s.is_smcd()).count();
    let seconds = ready_after(&client).ok_or("no time from the client")?;
    client.stop();
    server.stop();
    Ok(Held {
        cpu_us,
        daemon_us,
        memory_kb,
        // A row for each end.
        accelerated: smcd as u32 / 2,
        seconds,
        idle_percent,
    })
}

fn ready_after(client: &Running) -> Option<f64> {
    let text = client.stdout();
    text.strip_prefix("ready ")?.trim().parse().ok()
}

/// Memory of a process; what several map counts in parts.
fn proportional_kb(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    pss(&text).unwrap_or(0.0)
}

fn pss(rollup: &str) -> Option<f64> {
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Standing {
    pub fn words(&self) -> String {
        format!(
            "{} connections between two processes: {} accelerated; {:.1} KiB of memory each beyond \
             TCP's; CPU each: daemon {:.0} us, upgrade (everybody) {:.0} us; opened and used in \
             {:.2} s (TCP {:.2} s); while idle {:.2} % of a core",
            self.connections,
            self.accelerated,
            self.memory_kb,
            self.daemon_us,
            self.upgrade_us,
            self.seconds,
            self.plain_seconds,
            self.idle_percent
        )
    }
}

#[cfg(test)]
mod tests_of_memory {
    #[test]
    fn memory_is_found() {
        let text = "00400000-7fff rollup\nRss:            1000 kB\nPss:             321 kB\n";
        assert_eq!(super::pss(text), Some(321.0));
        assert!(super::proportional_kb(std::process::id()) > 100.0);
    }
}
