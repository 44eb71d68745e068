//! The captured messages, for several tests.

/// One line of `clc.txt`.
#[derive(Debug)]
pub struct Line {
    pub scenario: &'static str,
    /// Made by the kernel: the oracle.
    pub kernel: bool,
    /// `PROPOSAL`, `ACCEPT`, `CONFIRM`, `DECLINE` or `RAW`.
    pub kind: &'static str,
    pub bytes: Vec<u8>,
}

/// All messages in capture order.
pub fn lines() -> Vec<Line> {
    include_str!("clc.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let field: Vec<&'static str> = line.split('\t').collect();
            assert_eq!(field.len(), 8, "{line}");
            let bytes = hex(field[7]);
            assert_eq!(bytes.len(), field[6].parse::<usize>().unwrap(), "{line}");
            Line {
                scenario: field[0],
                kernel: field[4] == "kernel",
                kind: field[5],
                bytes,
            }
        })
        .collect()
}

/// The message of this kind in this scenario, made by the kernel or not.
#[allow(dead_code, reason = "not every test that includes this file needs it")]
pub fn find(scenario: &str, kind: &str, kernel: bool) -> Vec<u8> {
    lines()
        .into_iter()
        .find(|line| line.scenario == scenario && line.kind == kind && line.kernel == kernel)
        .unwrap_or_else(|| panic!("no {kind} in {scenario}"))
        .bytes
}

/// Bytes of a hexadecimal string; blanks are ignored.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| (b as char).to_digit(16).expect("hexadecimal digit") as u8)
        .collect();
    digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect()
}
