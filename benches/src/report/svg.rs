//! Plots as SVG text: bars of ratios, and lines on logarithmic axes.
//!
//! Colours come from the page's style sheet: every mark has the class of its leg.

use super::number;
use std::fmt::Write;

/// Text as it stands in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A logarithmic axis from `low` to `high` on a length of `pixels`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    pixels: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        part.clamp(0.0, 1.0) * self.pixels
    }

    /// Round values: powers of ten, with twos and fives when there are few of them.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 4.0 {
            &[1.0]
        } else if decades > 1.5 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let all = (first..=last).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
        all.filter(|t| *t >= self.low * 0.999 && *t <= self.high * 1.001)
            .collect()
    }
}

/// Smallest and largest of some positive numbers.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold(None, |range, v| match range {
            None => Some((v, v)),
            Some((low, high)) => Some((v.min(low), v.max(high))),
        })
}

/// A number on an axis.
fn tick(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{}G", v / 1e9),
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", v / 1e3),
        v => format!("{}", (v * 1e4).round() / 1e4),
    }
}

/// One bar: class, what it is, value.
#[derive(Clone, Debug)]
pub struct Bar {
    pub class: String,
    pub title: String,
    pub value: f64,
}

/// The bars of one workload, and marks of what others have published.
#[derive(Clone, Debug)]
pub struct Bars {
    pub label: String,
    pub bars: Vec<Bar>,
    pub marks: Vec<Bar>,
}

const BAR: f64 = 13.0;
const GAP: f64 = 12.0;
const LABEL: f64 = 300.0;
const PLOT: f64 = 560.0;

/// Horizontal bars that start at 1, on a logarithmic axis: how many times as much.
pub fn bars(groups: &[Bars]) -> String {
    let values = groups.iter().flat_map(|g| g.bars.iter().chain(&g.marks));
    let Some((low, high)) = extent(values.map(|b| b.value)) else {
        return String::new();
    };
    let axis = Axis {
        low: (low / 1.15).min(0.8),
        high: (high * 1.15).max(1.6),
        pixels: PLOT,
    };
    let rows: f64 = groups.iter().map(|g| g.bars.len() as f64 * BAR + GAP).sum();
    let (width, height) = (LABEL + PLOT + 70.0, rows + 34.0);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
    for t in axis.ticks() {
        let (x, bottom) = (LABEL + axis.at(t), rows + 4.0);
        let class = if t == 1.0 { "one" } else { "grid" };
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\
             <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}×</text>",
            bottom + 15.0,
            tick(t)
        );
    }
    let mut y = 4.0;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text text-anchor=\"end\" x=\"{:.1}\" y=\"{middle:.1}\">{}</text>",
            LABEL - 10.0,
            escape(&group.label)
        );
        let top = y;
        for bar in &group.bars {
            let (one, x) = (LABEL + axis.at(1.0), LABEL + axis.at(bar.value));
            let (from, length) = (one.min(x), (x - one).abs().max(1.0));
            let _ = writeln!(
                svg,
                "<rect class=\"{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\">\
                 <title>{}: {}×</title></rect>\
                 <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}×</text>",
                bar.class,
                y + 1.0,
                BAR - 2.0,
                escape(&bar.title),
                number(bar.value),
                one.max(x) + 5.0,
                y + BAR - 3.0,
                number(bar.value)
            );
            y += BAR;
        }
        for mark in &group.marks {
            let x = LABEL + axis.at(mark.value);
            let _ = writeln!(
                svg,
                "<line class=\"mark {}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\">\
                 <title>{}: {}×</title></line>",
                mark.class,
                top - 3.0,
                y + 3.0,
                escape(&mark.title),
                number(mark.value)
            );
        }
        y += GAP;
    }
    svg + "</svg>\n"
}

/// Points that are joined by a line.
#[derive(Clone, Debug)]
pub struct Line {
    pub class: String,
    pub title: String,
    pub points: Vec<(f64, f64)>,
}

/// What stands below the plot: numbers on a logarithmic axis, or names at even distances.
#[derive(Clone, Copy, Debug)]
pub enum Below<'a> {
    Numbers,
    Names(&'a [&'a str]),
}

const SIDE: f64 = 58.0;
const WIDE: f64 = 340.0;
const HIGH: f64 = 210.0;

/// Lines on a logarithmic axis; with names below, x is the index of one.
pub fn lines(lines: &[Line], below: Below<'_>, x_title: &str, y_title: &str) -> String {
    let points = || lines.iter().flat_map(|l| l.points.iter());
    let Some((low, high)) = extent(points().map(|p| p.1)) else {
        return String::new();
    };
    let ys = Axis {
        low: low / 1.4,
        high: high * 1.4,
        pixels: HIGH,
    };
    let xs = extent(points().map(|p| p.0)).map(|(low, high)| Axis {
        low: low / 1.2,
        high: high * 1.2,
        pixels: WIDE,
    });
    let x_at = |x: f64| match (below, xs) {
        (Below::Names(names), _) => SIDE + (x + 0.5) / names.len() as f64 * WIDE,
        (Below::Numbers, Some(axis)) => SIDE + axis.at(x),
        (Below::Numbers, None) => SIDE,
    };
    let y_at = |y: f64| 22.0 + HIGH - ys.at(y);
    let (width, height) = (SIDE + WIDE + 10.0, HIGH + 66.0);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
    let _ = writeln!(
        svg,
        "<text class=\"tick\" x=\"4\" y=\"12\">{}</text>\
         <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        escape(y_title),
        SIDE + WIDE,
        height - 6.0,
        escape(x_title)
    );
    for t in ys.ticks() {
        let y = y_at(t);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{SIDE}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            SIDE + WIDE,
            SIDE - 6.0,
            y + 4.0,
            tick(t)
        );
    }
    let labels: Vec<(f64, String)> = match below {
        Below::Names(names) => (0..)
            .zip(names)
            .map(|(i, n)| (f64::from(i), n.to_string()))
            .collect(),
        Below::Numbers => {
            let mut all: Vec<f64> = points().map(|p| p.0).collect();
            all.sort_by(f64::total_cmp);
            all.dedup();
            all.into_iter().map(|x| (x, size(x))).collect()
        }
    };
    for (x, label) in labels {
        let _ = writeln!(
            svg,
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x_at(x),
            HIGH + 40.0,
            escape(&label)
        );
    }
    for line in lines {
        let at = |p: &(f64, f64)| (x_at(p.0), y_at(p.1));
        let path: Vec<String> = line
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", at(p).0, at(p).1))
            .collect();
        let (class, title) = (&line.class, escape(&line.title));
        let _ = writeln!(
            svg,
            "<polyline class=\"{class}\" points=\"{}\"/>",
            path.join(" ")
        );
        for p in &line.points {
            let (x, y) = at(p);
            let _ = writeln!(
                svg,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\">\
                 <title>{title}: {}</title></circle>",
                number(p.1)
            );
        }
    }
    svg + "</svg>\n"
}

/// 64, 16K, 1M.
fn size(x: f64) -> String {
    match x {
        x if x >= 1048576.0 => format!("{}M", x / 1048576.0),
        x if x >= 4096.0 => format!("{}K", x / 1024.0),
        x => format!("{x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_logarithmic() {
        let axis = Axis {
            low: 1.0,
            high: 100.0,
            pixels: 200.0,
        };
        assert_eq!(axis.at(10.0), 100.0);
        assert_eq!(axis.at(0.1), 0.0);
        assert!(axis.ticks().contains(&10.0));
    }

    #[test]
    fn bars_go_both_ways_from_one() {
        let bar = |value| Bar {
            class: "nocopy".into(),
            title: "a < b".into(),
            value,
        };
        let svg = bars(&[Bars {
            label: "x & y".into(),
            bars: vec![bar(10.0), bar(0.5)],
            marks: vec![bar(2.0)],
        }]);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(svg.matches("class=\"mark").count(), 1);
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt; b: 10.00×"));
        assert!(bars(&[]).is_empty());
    }

    #[test]
    fn lines_have_their_points() {
        let line = Line {
            class: "tcp".into(),
            title: "TCP".into(),
            points: vec![(8.0, 1.0), (1048576.0, 1000.0)],
        };
        let svg = lines(&[line], Below::Numbers, "bytes", "MB/s");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains(">8<") && svg.contains(">1M<"), "{svg}");
        assert!(lines(&[], Below::Numbers, "", "").is_empty());
    }
}
