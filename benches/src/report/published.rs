//! What others have published about SMC-D loopback in the kernel. Not measured here.

/// One published figure, as a ratio to TCP loopback on the machine where it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The workload of ours that comes closest.
    pub workload: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    pub tcp: f64,
    pub unix: Option<f64>,
    /// SMC-D loopback with a copy into the receive buffer.
    pub copy: f64,
    /// Without it.
    pub nocopy: f64,
    pub lower_is_better: bool,
}

/// Where the figures are from.
pub const SOURCE: &str = "patch series \"net/smc: Introduce SMC-D-based OS internal communication \
    acceleration\", RFC v4 for net-next: a VM with 8 cores (Xeon Platinum, 2.50 GHz), buffers of 1 MiB";

pub const RFC: [Published; 5] = [
    Published {
        workload: "ipc-bench",
        what: "ipc-benchmark, 1,000,000 x 100 B",
        unit: "msg/s",
        tcp: 79_025.0,
        unix: Some(115_736.0),
        copy: 146_760.0,
        nocopy: 149_800.0,
        lower_is_better: false,
    },
    Published {
        workload: "sockperf-tp",
        what: "sockperf throughput 64000 B",
        unit: "MB/s",
        tcp: 4_822.388,
        unix: None,
        copy: 4_940.918,
        nocopy: 8_086.67,
        lower_is_better: false,
    },
    Published {
        workload: "sockperf-pp",
        what: "sockperf ping-pong 14 B",
        unit: "us",
        tcp: 6.298,
        unix: None,
        copy: 3.352,
        nocopy: 3.35,
        lower_is_better: true,
    },
    Published {
        workload: "iperf3",
        what: "iperf3",
        unit: "Gbit/s",
        tcp: 40.7,
        unix: None,
        copy: 40.5,
        nocopy: 72.4,
        lower_is_better: false,
    },
    Published {
        workload: "wrk-500",
        what: "nginx + wrk, 8 threads, 500 clients",
        unit: "req/s",
        tcp: 155_994.57,
        unix: None,
        copy: 214_544.79,
        nocopy: 215_538.55,
        lower_is_better: false,
    },
];

impl Published {
    /// How many times as good as TCP in the published run.
    pub fn ratio(&self, value: f64) -> f64 {
        if self.lower_is_better {
            self.tcp / value
        } else {
            value / self.tcp
        }
    }
}

/// Ratios that were published for the code that went into the kernel (Linux 6.10), rounded; they
/// stand beside the targets ([`crate::targets`]).
pub fn merged() -> impl Iterator<Item = (&'static str, f64)> {
    let targets = crate::targets::ALL.iter();
    targets
        .filter(|t| matches!(t.what, crate::targets::What::Against(crate::leg::TCP)))
        .filter_map(|t| Some((t.workload, t.kernel?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_the_published_ones() {
        let percent = |p: &Published, v| ((p.ratio(v) - 1.0) * 1e4).round() / 1e2;
        assert_eq!(percent(&RFC[0], RFC[0].nocopy), 89.56);
        assert_eq!(percent(&RFC[0], RFC[0].copy), 85.71);
        assert_eq!(percent(&RFC[1], RFC[1].nocopy), 67.69);
        assert_eq!(percent(&RFC[3], RFC[3].nocopy), 77.89);
        assert_eq!(percent(&RFC[4], RFC[4].nocopy), 38.17);
    }
}
