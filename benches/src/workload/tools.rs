//! sockperf and iperf3.

use super::{Place, Program, Workload, reading};

pub fn all() -> Vec<Workload> {
    vec![
        Workload {
            unit: "us",
            lower_is_better: true,
            operation: "exchange",
            servers: sockperf_server,
            // In its own fastest mode sockperf has room for 600,000 messages a second, and fails when
            // it meets more; this rate is above what it reaches and so never holds it back.
            client: |p| sockperf(p, "ping-pong --mps 4000000", 14),
            result: reading::sockperf_latency,
            limit: Some(|_| "ping-pong 14".into()),
            // sockperf counts half a round trip.
            limit_result: |text| {
                let mut reading = reading::mean_us(text)?;
                reading.value /= 2.0;
                reading.percentiles.values_mut().for_each(|us| *us /= 2.0);
                Some(reading)
            },
            ..Workload::new("sockperf-pp", "sockperf ping-pong 14 B")
        },
        Workload {
            unit: "MB/s",
            operation: "message",
            servers: sockperf_server,
            client: |p| sockperf(p, "throughput", 64000),
            result: reading::sockperf_bandwidth,
            limit: Some(|_| "one-way 64000".into()),
            // sockperf's MBps are 2^20 bytes.
            limit_result: |text| {
                let mut reading = reading::megabytes(text)?;
                reading.value *= 1e6 / f64::from(1 << 20);
                Some(reading)
            },
            ..Workload::new("sockperf-tp", "sockperf throughput 64000 B")
        },
        Workload {
            unit: "Gbit/s",
            operation: "MiB",
            servers: |p| {
                vec![Program::new(
                    "iperf3",
                    &format!("-s -B 127.0.0.1 -p {}", p.port),
                )]
            },
            client: |p| {
                let args = format!("-c 127.0.0.1 -p {} -t {} -J", p.port, p.seconds);
                Program::new("iperf3", &args)
            },
            result: reading::iperf3,
            // iperf3 sends 128 KiB at a time.
            limit: Some(|_| "one-way 131072".into()),
            limit_result: |text| {
                let mut reading = reading::megabytes(text)?;
                reading.value *= 8.0 / 1e3;
                reading.operations /= 8.0;
                Some(reading)
            },
            ..Workload::new("iperf3", "iperf3")
        },
    ]
}

fn sockperf_server(p: &Place<'_>) -> Vec<Program> {
    let args = format!("server --tcp -i 127.0.0.1 -p {}", p.port);
    vec![Program::new("sockperf", &args)]
}

fn sockperf(p: &Place<'_>, kind: &str, size: u32) -> Program {
    let (port, time) = (p.port, p.seconds);
    let args = format!("{kind} --tcp -i 127.0.0.1 -p {port} -m {size} -t {time}");
    Program::new("sockperf", &args)
}
