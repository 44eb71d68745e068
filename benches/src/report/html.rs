//! The page: everything in one file that needs nothing else.

use super::svg::{Bar, Bars, Below, Line, bars, escape, lines};
use super::table::legs_of;
use super::{number, or_dash, published};
use crate::leg::{self, TCP, UNIX};
use crate::place::Placement;
use crate::results::{Cell, Group, PERCENTILES, Results, Row};
use crate::targets;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

pub fn page(results: &Results) -> String {
    let mut body = String::new();
    targets_table(&mut body, results);
    for placement in Placement::ALL {
        let rows = results.rows.iter().filter(|r| r.placement == placement);
        let rows: Vec<&Row> = rows.collect();
        if !rows.is_empty() {
            section(&mut body, placement, &rows);
        }
    }
    standing(&mut body, results);
    published_table(&mut body);
    let style = STYLE.to_owned() + &colours();
    let machine = escape(&results.machine.words());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>libsmclo: the comparison</title>\n<style>\n{style}</style></head>\n<body>\n\
         <h1>Local TCP connections over shared memory</h1>\n\
         <p>The same programs on TCP, on UNIX domain sockets and under libsmclo (SMC-D in user \
         space). Runs are interleaved over the legs; figures are medians, ratios are to TCP in the \
         same run. <i>limit</i>: the same messages through a bare ring in shared memory, without \
         sockets and without sleeping.</p>\n<p class=\"machine\">{machine}</p>\n{body}</body></html>\n"
    )
}

/// The class of each leg colours its marks.
fn colours() -> String {
    let classes = leg::ALL.iter().map(|l| {
        let key = l.key;
        format!(
            "rect.{key}, circle.{key} {{ fill: var(--{key}) }} polyline.{key} {{ stroke: \
             var(--{key}) }} .swatch.{key} {{ background: var(--{key}) }}\n"
        )
    });
    classes.collect()
}

fn legend(body: &mut String, legs: &[&str], marks: bool) {
    body.push_str("<p class=\"legend\">");
    for key in legs {
        let title = escape(leg::title(key));
        let _ = write!(body, "<span><i class=\"swatch {key}\"></i>{title}</span> ");
    }
    if marks {
        body.push_str(
            "<span><i class=\"swatch published\"></i>kernel SMC-D loopback, no copy, as \
             published elsewhere (its own ratio to TCP)</span>",
        );
    }
    body.push_str("</p>\n");
}

fn targets_table(body: &mut String, results: &Results) {
    let verdicts = targets::verdicts(results);
    if verdicts.is_empty() {
        return;
    }
    body.push_str(
        "<h2>Targets</h2>\n<table><tr><th>workload</th><th>placement</th><th>leg</th>\
         <th>measure</th><th>wanted</th><th>measured</th><th></th>\
         <th>kernel, published elsewhere</th></tr>\n",
    );
    for v in verdicts {
        let kernel = or_dash(v.kernel.map(|k| format!("{k}×")));
        let met = if v.met {
            "<td class=\"met\">met</td>"
        } else {
            "<td class=\"missed\">missed</td>"
        };
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td>{met}<td class=\"n\">{kernel}</td></tr>",
            escape(v.workload),
            v.placement.short(),
            escape(leg::title(v.leg)),
            escape(&v.measure),
            escape(&v.wanted),
            number(v.got)
        );
    }
    body.push_str("</table>\n");
}

fn section(body: &mut String, placement: Placement, rows: &[&Row]) {
    let words = placement.words();
    let _ = writeln!(body, "<h2>{}: {words}</h2>", placement.short());
    let legs = legs_of(rows);
    let others: Vec<&str> = legs.iter().copied().filter(|k| *k != TCP).collect();

    body.push_str("<h3>How many times as good as TCP</h3>\n");
    legend(body, &others, true);
    let single: Vec<&Row> = rows
        .iter()
        .copied()
        .filter(|r| r.workload.group == Group::Single)
        .collect();
    let ratio = |row: &Row, key: &str| row.ratio(key, TCP);
    body.push_str(&bars(&groups(&single, &others, ratio, true)));

    body.push_str(
        "<h3>Processor time per operation, in parts of TCP's</h3>\n<p>All processes together: \
         servers, clients, daemon. A bar to the left is less work than on TCP.</p>\n",
    );
    legend(body, &others, false);
    let cpu = |row: &Row, key: &str| row.cpu_ratio(key, TCP);
    body.push_str(&bars(&groups(&single, &others, cpu, false)));

    percentiles(body, rows, &legs);
    connections(body, rows, &legs);
    sizes(body, rows, &legs);
    table(body, rows, &legs);
}

fn groups(
    rows: &[&Row],
    legs: &[&str],
    value: impl Fn(&Row, &str) -> Option<f64>,
    with_published: bool,
) -> Vec<Bars> {
    let bar = |row: &Row, key: &&str| {
        Some(Bar {
            class: key.to_string(),
            title: leg::title(key).into(),
            value: value(row, key)?,
        })
    };
    let marks = |row: &Row| {
        let of = published::RFC
            .iter()
            .filter(|p| p.workload == row.workload.key);
        let mark = |p: &published::Published| Bar {
            class: "published".into(),
            title: format!("{}, kernel, no copy, published elsewhere", p.what),
            value: p.ratio(p.nocopy),
        };
        of.filter(|_| with_published).map(mark).collect()
    };
    let all = rows.iter().map(|row| Bars {
        label: row.workload.title.clone(),
        bars: legs.iter().filter_map(|key| bar(row, key)).collect(),
        marks: marks(row),
    });
    all.filter(|g| !g.bars.is_empty()).collect()
}

fn series(cells: &[(f64, &Row)], key: &str, value: impl Fn(&Cell) -> Option<f64>) -> Option<Line> {
    let points: Vec<(f64, f64)> = cells
        .iter()
        .filter_map(|(x, row)| Some((*x, value(row.cell(key)?)?)))
        .collect();
    (!points.is_empty()).then(|| Line {
        class: key.into(),
        title: leg::title(key).into(),
        points,
    })
}

fn figure(body: &mut String, caption: &str, svg: &str) {
    if !svg.is_empty() {
        let caption = escape(caption);
        let _ = writeln!(
            body,
            "<figure><figcaption>{caption}</figcaption>{svg}</figure>"
        );
    }
}

fn percentiles(body: &mut String, rows: &[&Row], legs: &[&str]) {
    let names: Vec<&str> = PERCENTILES
        .iter()
        .map(|p| if *p == "100" { "max" } else { *p })
        .collect();
    let mut figures = String::new();
    for row in rows {
        let line = |key: &&str| {
            let cell = row.cell(key)?;
            let points = (0..).zip(PERCENTILES);
            let points: Vec<_> = points
                .filter_map(|(i, at)| Some((f64::from(i), cell.percentile(at)?)))
                .collect();
            (points.len() > 1).then(|| Line {
                class: key.to_string(),
                title: leg::title(key).into(),
                points,
            })
        };
        let all: Vec<Line> = legs.iter().filter_map(line).collect();
        let svg = lines(&all, Below::Names(&names), "percentile", "us");
        figure(&mut figures, &row.workload.title, &svg);
    }
    if !figures.is_empty() {
        body.push_str(
            "<h3>Latency</h3>\n<p>As the clients measure it: sockperf half a round trip, all \
                       others until the answer.</p>\n",
        );
        legend(body, legs, false);
        let _ = writeln!(body, "<div class=\"figures\">{figures}</div>");
    }
}

/// The rows of a group, by their number.
fn numbered<'a>(rows: &[&'a Row], group: Group) -> Vec<(f64, &'a Row)> {
    let of = rows.iter().filter(|r| r.workload.group == group);
    of.map(|r| (f64::from(r.workload.x), *r)).collect()
}

fn connections(body: &mut String, rows: &[&Row], legs: &[&str]) {
    let rows = numbered(rows, Group::Connections);
    if rows.is_empty() {
        return;
    }
    body.push_str(
        "<h3>Number of connections</h3>\n<p>Echo of 64 bytes over epoll, one message on \
                   its way on each connection.</p>\n",
    );
    legend(body, legs, false);
    let plot = |value: fn(&Cell) -> Option<f64>, unit: &str| {
        let all: Vec<Line> = legs
            .iter()
            .filter_map(|k| series(&rows, k, value))
            .collect();
        lines(&all, Below::Numbers, "connections", unit)
    };
    body.push_str("<div class=\"figures\">");
    figure(
        body,
        "Exchanges per second",
        &plot(Cell::median, "exchanges/s"),
    );
    figure(
        body,
        "Processor time per exchange",
        &plot(Cell::cpu_us, "us"),
    );
    body.push_str("</div>\n");
}

fn sizes(body: &mut String, rows: &[&Row], legs: &[&str]) {
    let rows = numbered(rows, Group::MessageSize);
    if rows.is_empty() {
        return;
    }
    body.push_str(
        "<h3>Size of messages</h3>\n<p>One direction, one send and one receive for each \
                   message.</p>\n",
    );
    legend(body, legs, false);
    let plot = |value: fn(&Cell) -> Option<f64>, unit: &str| {
        let all: Vec<Line> = legs
            .iter()
            .filter_map(|k| series(&rows, k, value))
            .collect();
        lines(&all, Below::Numbers, "bytes", unit)
    };
    body.push_str("<div class=\"figures\">");
    figure(body, "Throughput", &plot(Cell::median, "MB/s"));
    figure(
        body,
        "Processor time per message",
        &plot(Cell::cpu_us, "us"),
    );
    body.push_str("</div>\n");
}

fn table(body: &mut String, rows: &[&Row], legs: &[&str]) {
    body.push_str(
        "<details open><summary>All figures</summary>\n<table><tr><th>workload</th><th>leg</th>\
         <th>median</th><th>lowest – highest</th><th>runs</th><th>× TCP</th><th>CPU us each</th>\
         <th>of TCP's</th><th>context switches each</th><th>sleeps, doorbells each</th>\
         <th>bytes over SMC</th></tr>\n",
    );
    for row in rows {
        for key in legs {
            let Some(cell) = row.cell(key) else { continue };
            let _ = writeln!(body, "<tr>{}</tr>", columns(row, cell));
        }
    }
    body.push_str("</table></details>\n");
}

fn columns(row: &Row, cell: &Cell) -> String {
    let label = &row.workload;
    let range = cell.range();
    let smc = cell.runs.iter().all(|s| s.smc.is_some());
    let waits = || {
        let sleeps = cell.per_operation(|s| s.smc.unwrap_or_default().sleeps as f64)?;
        let rings = cell.per_operation(|s| s.smc.unwrap_or_default().rings as f64)?;
        Some(format!("{sleeps:.4}, {rings:.4}"))
    };
    let switches = cell.per_operation(|s| (s.voluntary + s.involuntary) as f64);
    let numbers = [
        cell.median()
            .map(|m| format!("{} {}", number(m), label.unit)),
        range.map(|(low, high)| format!("{} – {}", number(low), number(high))),
        Some(cell.runs.len().to_string()),
        row.ratio(&cell.leg, TCP).map(number),
        cell.cpu_us().map(number),
        row.cpu_ratio(&cell.leg, TCP).map(number),
        switches.map(|n| format!("{n:.4}")),
        waits().filter(|_| smc),
        cell.share().map(|s| format!("{:.1} %", s * 100.0)),
    ];
    let mut text = format!(
        "<td>{}</td><td>{}</td>",
        escape(&label.title),
        escape(leg::title(&cell.leg))
    );
    for n in numbers {
        let _ = write!(text, "<td class=\"n\">{}</td>", escape(&or_dash(n)));
    }
    text
}

fn standing(body: &mut String, results: &Results) {
    if results.standing.is_empty() {
        return;
    }
    body.push_str("<h2>Connections that nobody uses</h2>\n<ul>");
    for held in &results.standing {
        let _ = write!(body, "<li>{}</li>", escape(&held.words()));
    }
    body.push_str("</ul>\n");
}

fn published_table(body: &mut String) {
    let _ = writeln!(
        body,
        "<h2>Published elsewhere</h2>\n<p>The kernel's SMC-D loopback, not measured here: {}. \
         Percentages are the difference to TCP there.</p>\n<table><tr><th>workload</th>\
         <th>TCP</th><th>{}</th><th>SMC copy</th><th>SMC no-copy</th></tr>",
        escape(published::SOURCE),
        escape(leg::title(UNIX))
    );
    for p in published::RFC {
        let with = |value: f64| {
            let percent = (value / p.tcp - 1.0) * 100.0;
            format!("{} ({percent:+.1} %)", number(value))
        };
        let _ = writeln!(
            body,
            "<tr><td>{}, {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(p.what),
            p.unit,
            number(p.tcp),
            or_dash(p.unix.map(with)),
            with(p.copy),
            with(p.nocopy)
        );
    }
    body.push_str("</table>\n");
    let merged = published::merged().map(|(w, ratio)| format!("{} {ratio}×", escape(w)));
    let merged: Vec<String> = merged.collect();
    let _ = writeln!(
        body,
        "<p>For the code that was merged, as ratios to TCP: {}.</p>",
        merged.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample::{cell, row};

    #[test]
    fn a_page_has_its_parts() {
        let mut sweep = row("sweep-8", false, vec![cell("tcp", &[2.0])]);
        sweep.workload.group = Group::MessageSize;
        sweep.workload.x = 8;
        let mut slow = row(
            "ipc-bench",
            false,
            vec![cell("tcp", &[1.0]), cell("nocopy", &[50.0])],
        );
        for (at, us) in [("50", 1.0), ("99", 9.0)] {
            let percentiles = &mut slow.cells[0].runs[0].percentiles;
            percentiles.insert(at.into(), us);
        }
        let text = page(&Results {
            rows: vec![slow, sweep],
            ..Default::default()
        });
        for part in [
            "<h2>Targets",
            "class=\"met\"",
            "Latency",
            "Size of messages",
            "50.00×",
        ] {
            assert!(text.contains(part), "{part:?} is not in the page");
        }
        assert!(text.contains("+89.6 %"), "what was published");
        assert!(
            text.contains("mark published"),
            "and its mark beside the bars"
        );
        for forbidden in ["src=", "href=", "url(", "<script"] {
            assert!(
                !text.contains(forbidden),
                "{forbidden} in a page that needs nothing else"
            );
        }
        let count = |what: &str| text.matches(what).count();
        for tag in ["svg", "table", "figure", "tr", "td"] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(
                count(&format!("{open}>")) + count(&format!("{open} ")),
                count(&close)
            );
        }
    }
}
