//! Reports on [`crate::results`]: for a terminal, for programs, and as a page.

pub mod html;
pub mod json;
pub mod published;
pub mod svg;
pub mod table;

/// A value for people: three digits or so.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e7 => format!("{:.1}M", value / 1e6),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v > 0.0 && v < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_short() {
        let texts = [12_345_678.0, 12_345.6, 123.45, 1.234, 0.01234].map(super::number);
        assert_eq!(texts, ["12.3M", "12346", "123.5", "1.23", "0.0123"]);
    }
}
