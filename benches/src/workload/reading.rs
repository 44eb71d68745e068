//! Numbers out of what clients print.

use crate::traffic::Report;
use std::collections::BTreeMap;

/// What a client says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub value: f64,
    /// How many operations there were, for costs per operation; 0 when it does not say.
    pub operations: f64,
    /// Microseconds, by percentile.
    pub percentiles: BTreeMap<String, f64>,
}

/// The number that follows `mark`.
pub fn after(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split_once(mark)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

/// The number that stands before `mark`.
fn before(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split_once(mark)?.0.trim_end();
    rest.rsplit(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .parse()
        .ok()
}

/// What our own programs print.
pub fn report(text: &str) -> Option<Report> {
    let report: Report = serde_json::from_str(text.lines().last()?).ok()?;
    (report.seconds > 0.0).then_some(report)
}

/// Operations per second of our own programs.
pub fn rate(text: &str) -> Option<Reading> {
    let report = report(text)?;
    Some(Reading {
        value: report.operations / report.seconds,
        operations: report.operations + report.warm_up,
        percentiles: report.percentiles,
    })
}

/// Mean time of an operation of our own programs, microseconds.
pub fn mean_us(text: &str) -> Option<Reading> {
    let rate = rate(text)?;
    Some(Reading {
        value: 1e6 / rate.value,
        ..rate
    })
}

/// Bytes per second of our own programs, in units of 10^6; an operation is a message.
pub fn megabytes(text: &str) -> Option<Reading> {
    let report = report(text)?;
    Some(Reading {
        value: report.bytes / report.seconds / 1e6,
        operations: report.operations,
        percentiles: BTreeMap::new(),
    })
}

pub fn sockperf_latency(text: &str) -> Option<Reading> {
    let percentile = |(name, mark): (&str, &str)| Some((name.to_owned(), after(text, mark)?));
    let marks = [
        ("50", "percentile 50.000 ="),
        ("90", "percentile 90.000 ="),
        ("99", "percentile 99.000 ="),
        ("99.9", "percentile 99.900 ="),
        ("100", "<MAX> observation ="),
    ];
    Some(Reading {
        value: after(text, "Summary: Latency is ")?,
        operations: after(text, "ReceivedMessages=")?,
        percentiles: marks.into_iter().filter_map(percentile).collect(),
    })
}

pub fn sockperf_bandwidth(text: &str) -> Option<Reading> {
    Some(Reading {
        value: after(text, "Summary: BandWidth is ")?,
        operations: after(text, "Total of ")?,
        ..Default::default()
    })
}

pub fn iperf3(text: &str) -> Option<Reading> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let received = &json["end"]["sum_received"];
    Some(Reading {
        value: received["bits_per_second"].as_f64()? / 1e9,
        operations: received["bytes"].as_f64()? / f64::from(1 << 20),
        ..Default::default()
    })
}

/// One line of `redis-benchmark --csv`: name, rate, then latencies in milliseconds.
pub fn redis(text: &str) -> Option<Reading> {
    let line = text.lines().last()?;
    let fields: Vec<&str> = line.split(',').map(|f| f.trim_matches('"')).collect();
    let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
    let percentile = |(name, i): (&str, usize)| Some((name.to_owned(), number(i)? * 1e3));
    Some(Reading {
        value: number(1)?,
        operations: 0.0,
        percentiles: [("50", 4), ("99", 6), ("100", 7)]
            .into_iter()
            .filter_map(percentile)
            .collect(),
    })
}

/// wrk goes on, and ends well, when requests fail: a run with errors is no result.
pub fn wrk(text: &str) -> Option<Reading> {
    let errors = ["Socket errors", "Non-2xx"];
    if errors.iter().any(|e| text.contains(e)) {
        return None;
    }
    let percentile = |(name, mark): (&str, &str)| Some((name.to_owned(), micros(text, mark)?));
    let marks = [("50", " 50% "), ("90", " 90% "), ("99", " 99% ")];
    Some(Reading {
        value: after(text, "Requests/sec:")?,
        operations: before(text, " requests in ")?,
        percentiles: marks.into_iter().filter_map(percentile).collect(),
    })
}

/// A time with its unit behind it.
fn micros(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split_once(mark)?.1.trim_start();
    let word = rest.split_whitespace().next()?;
    let unit = word.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &word[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(word[..unit].parse::<f64>().ok()? * factor)
}

pub fn memaslap(text: &str) -> Option<Reading> {
    Some(Reading {
        value: after(text, "TPS:")?,
        operations: after(text, "Ops:")?,
        ..Default::default()
    })
}

pub fn pgbench(text: &str) -> Option<Reading> {
    if after(text, "number of failed transactions:")? != 0.0 {
        return None;
    }
    Some(Reading {
        value: after(text, "tps =")?,
        operations: after(text, "number of transactions actually processed:")?,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found() {
        assert_eq!(after("x: a is 12.5 usec", "is "), Some(12.5));
        assert_eq!(after("Requests/sec:   77", "Requests/sec:"), Some(77.0));
        assert_eq!(after("nothing", "is "), None);
        assert_eq!(after("is not", "is "), None);
        assert_eq!(before("  48 requests in 1s", " requests in"), Some(48.0));
    }

    #[test]
    fn wrk_with_errors_is_no_result() {
        let good = "Latency Distribution\n     50%  120.00us\n     99%   32.00ms\n\
                    48430 requests in 1.14s, 6.88MB read\nRequests/sec:  42396.29\n";
        let reading = wrk(good).unwrap();
        assert_eq!((reading.value, reading.operations), (42396.29, 48430.0));
        assert_eq!(reading.percentiles["99"], 32000.0);
        assert_eq!(reading.percentiles["50"], 120.0);
        assert_eq!(wrk(&format!("Socket errors: read 2\n{good}")), None);
    }

    #[test]
    fn sockperf_prints_summaries() {
        let text = "[Total Run] RunTime=1.001 sec; SentMessages=12; ReceivedMessages=11\n\
                    Summary: Latency is 20.564 usec\n---> <MAX> observation = 22.187\n\
                    ---> percentile 99.000 =  150.627\n";
        let reading = sockperf_latency(text).unwrap();
        assert_eq!((reading.value, reading.operations), (20.564, 11.0));
        assert_eq!(reading.percentiles["99"], 150.627);
        assert_eq!(reading.percentiles["100"], 22.187);
        let text = "Total of 15788 messages sent in 1.001 sec\n\
                    Summary: BandWidth is 963.135 MBps (7705.078 Mbps)";
        let reading = sockperf_bandwidth(text).unwrap();
        assert_eq!((reading.value, reading.operations), (963.135, 15788.0));
    }

    #[test]
    fn stores_print_rates() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\
                    \"GET\",\"54054.05\",\"0.581\",\"0.072\",\"0.535\",\"1.071\",\"1.239\",\"2.087\"\n";
        let reading = redis(text).unwrap();
        assert_eq!(reading.value, 54054.05);
        assert_eq!(reading.percentiles["99"], 1239.0);
        let text = "Run time: 1.0s Ops: 65058 TPS: 65052 Net_rate: 72.8M/s";
        assert_eq!(memaslap(text).unwrap().value, 65052.0);
        let text = "number of transactions actually processed: 10\n\
                    number of failed transactions: 0 (0.000%)\ntps = 5.5 (without)";
        assert_eq!(pgbench(text).unwrap().value, 5.5);
        assert_eq!(pgbench(&text.replace(": 0 (", ": 1 (")), None);
    }

    #[test]
    fn own_programs_print_json() {
        let text = r#"{"operations":100.0,"seconds":2.0,"bytes":4e6,"percentiles":{"50":1.5}}"#;
        assert_eq!(rate(text).unwrap().value, 50.0);
        assert_eq!(mean_us(text).unwrap().value, 20000.0);
        assert_eq!(megabytes(text).unwrap().value, 2.0);
        assert_eq!(rate(text).unwrap().percentiles["50"], 1.5);
        assert_eq!(rate("ready"), None);
    }
}
