//! A strict reader of Prometheus' text format 0.0.4, with the naming rules that promtool checks.

use std::collections::{BTreeMap, HashSet};

/// Labels of a sample, and its value.
pub type Sample = (BTreeMap<String, String>, f64);

#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    /// By the name on the line, which for a histogram is longer than the family's.
    pub samples: Vec<(String, Sample)>,
}

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':';
    text.chars().all(fits) && text.starts_with(|c: char| !c.is_ascii_digit())
}

/// `name{label="text",...} value`, with the escapes of the format and nothing else.
fn sample(line: &str) -> Result<(String, Sample), &'static str> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, text) = rest.split_once("=\"").ok_or("a label without a text")?;
            let mut value = String::new();
            let mut chars = text.char_indices();
            let close = loop {
                match chars.next().ok_or("a text without an end")? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, c @ ('\\' | '"'))) => c,
                        _ => return Err("an unknown escape"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            if !is_name(label, false) || label.starts_with("__") {
                return Err("not the name of a label");
            }
            if labels.insert(label.to_owned(), value).is_some() {
                return Err("a label twice");
            }
            rest = &text[close + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').ok_or("labels without an end")?;
    }
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value = value.parse().map_err(|_| "no number")?;
    Ok((name.to_owned(), (labels, value)))
}

/// A histogram's buckets rise up to `+Inf`, which is its count; with the other labels equal.
fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    let of = |end: &str| {
        let name = format!("{name}_{end}");
        family.samples.iter().filter(move |(n, _)| *n == name)
    };
    for (_, (labels, value)) in of("bucket") {
        let mut labels = labels.clone();
        let bound = labels.remove("le").expect("a bucket has a bound");
        let bound = bound.parse().expect("a bound is a number");
        series.entry(labels).or_default().push((bound, *value));
    }
    for (labels, buckets) in &series {
        let rise = |w: &[(f64, f64)]| w[0].0 < w[1].0 && w[0].1 <= w[1].1;
        assert!(
            buckets.windows(2).all(rise),
            "{name} {labels:?}: {buckets:?}"
        );
        let (bound, all) = *buckets.last().expect("a bucket");
        assert_eq!(bound, f64::INFINITY, "{name} {labels:?}");
        let count = of("count").find(|(_, (l, _))| l == labels);
        assert_eq!(count.map(|(_, (_, n))| *n), Some(all), "{name} {labels:?}");
        assert!(
            of("sum").any(|(_, (l, _))| l == labels),
            "{name} {labels:?}"
        );
    }
    assert!(!series.is_empty(), "{name} has no buckets");
}

/// All families of a page, which has to keep every rule.
#[track_caller]
pub fn read(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n') && !page.contains('\r'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut helped: Option<&str> = None;
    let mut current = String::new();
    let mut seen = HashSet::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(!text.trim().is_empty() && text.ends_with('.'), "{line}");
            helped = Some(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(helped.take(), Some(name), "HELP stands right before TYPE");
            assert!(is_name(name, true), "{line}");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            // What promtool says: counters have this end, and nothing else has.
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let reserved = ["_count", "_sum", "_bucket"]
                .iter()
                .any(|end| name.ends_with(end));
            assert!(!reserved, "{line}");
            let family = Family {
                kind: kind.to_owned(),
                samples: Vec::new(),
            };
            assert!(
                families.insert(name.to_owned(), family).is_none(),
                "{name} twice"
            );
            current = name.to_owned();
        } else {
            let (name, (labels, value)) = sample(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let family = families.get_mut(&current).expect("a type comes first");
            let end = name
                .strip_prefix(&current)
                .unwrap_or_else(|| panic!("in {current}: {line}"));
            let fits = match family.kind.as_str() {
                "histogram" => matches!(end, "_bucket" | "_sum" | "_count"),
                _ => end.is_empty() && !labels.contains_key("le"),
            };
            assert!(fits, "in {current}: {line}");
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
            family.samples.push((name, (labels, value)));
        }
    }
    for (name, family) in &families {
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_errors() {
        let (name, (labels, value)) = sample(r#"a_total{x="q\"\\\n",y=""} 7"#).unwrap();
        assert_eq!((name.as_str(), value), ("a_total", 7.0));
        assert_eq!(
            (labels["x"].as_str(), labels["y"].as_str()),
            ("q\"\\\n", "")
        );
        for wrong in [
            "a",
            "a{} ",
            "a {x=\"\"}",
            "a{x=\"\\t\"} 1",
            "a{x=\"\",x=\"\"} 1",
            "a{1x=\"\"} 1",
            "a{x=\"\"}  1",
            "a{x=\"\"",
        ] {
            assert!(sample(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn one_sample_for_each_series() {
        read("# HELP a_total A.\n# TYPE a_total counter\na_total 1\na_total 1\n");
    }

    #[test]
    #[should_panic(expected = "HELP stands right before TYPE")]
    fn every_family_is_explained() {
        read("# TYPE a_total counter\na_total 1\n");
    }
}
