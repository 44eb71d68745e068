//! Tables on a terminal. Colours are always in the text; the stream that it is printed to takes
//! them away where they are not wanted (no terminal, `NO_COLOR`).

use clap::builder::styling::{AnsiColor, Style};
use std::fmt::Write as _;

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const FAINT: Style = Style::new().dimmed();
pub const BOLD: Style = Style::new().bold();

/// A text in a style.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub fn new(text: impl Into<String>) -> Self {
        Cell {
            text: text.into(),
            ..Cell::default()
        }
    }

    pub fn number(n: impl ToString) -> Self {
        Cell {
            text: n.to_string(),
            right: true,
            ..Cell::default()
        }
    }

    #[must_use]
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::new(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::new(text)
    }
}

/// Columns as wide as their longest cell; a heading stands as its column does.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    headed: bool,
}

impl Table {
    pub fn new() -> Self {
        Table::default()
    }

    pub fn headed<const N: usize>(names: [&str; N]) -> Self {
        Table {
            rows: vec![names.map(|name| Cell::new(name).style(BOLD)).to_vec()],
            headed: true,
        }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// More headings to the right.
    pub fn head(&mut self, names: &[&str]) {
        if let Some(head) = self.rows.first_mut().filter(|_| self.headed) {
            head.extend(names.iter().map(|name| Cell::new(*name).style(BOLD)));
        }
    }

    pub fn finish(mut self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let column = |i: usize| self.rows.iter().filter_map(move |r| r.get(i));
        let width = |i: usize| column(i).map(|c| c.text.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
        let rights: Vec<bool> = (0..columns).map(|i| column(i).any(|c| c.right)).collect();
        if let Some(head) = self.rows.first_mut().filter(|_| self.headed) {
            for (cell, right) in head.iter_mut().zip(rights) {
                cell.right = right;
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let last = row.iter().rposition(|c| !c.text.is_empty());
            for (i, cell) in row.iter().enumerate().take_while(|(i, _)| Some(*i) <= last) {
                let pad = " ".repeat(widths[i].saturating_sub(cell.text.chars().count()));
                let text = paint(cell.style, &cell.text);
                let _ = match (cell.right, Some(i) == last) {
                    (true, true) => write!(out, "{pad}{text}"),
                    (true, false) => write!(out, "{pad}{text}  "),
                    (false, true) => write!(out, "{text}"),
                    (false, false) => write!(out, "{text}{pad}  "),
                };
            }
            out.push('\n');
        }
        out
    }
}

/// Names with their values, one on a line.
pub fn pairs<const N: usize>(rows: [(&str, String); N]) -> String {
    let mut table = Table::new();
    for (name, value) in rows {
        table.row(vec![name.into(), value.into()]);
    }
    table.finish()
}

/// A number with a decimal unit, as smc-tools abbreviate: at most six characters.
pub fn abbreviated(n: u64) -> String {
    let mut value = n as f64;
    let mut units = ["", "K", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or("");
    // What would be rounded up to 1000 has the next unit.
    while value >= 999.95
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = next;
    }
    if unit.is_empty() {
        n.to_string()
    } else {
        format!("{value:.1}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_headings() {
        let mut table = Table::headed(["Name", "N", "Last"]);
        table.row(vec!["a".into(), Cell::number(5), "x".into()]);
        table.row(vec!["longer".into(), Cell::number(1234), "".into()]);
        let text = anstream::adapter::strip_str(&table.finish()).to_string();
        assert_eq!(text, "Name       N  Last\na          5  x\nlonger  1234\n");
    }

    #[test]
    fn numbers_are_abbreviated() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (655_360, "655.4K"),
            (999_999, "1.0M"),
            (8_192_000, "8.2M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(abbreviated(n), text);
        }
    }
}
