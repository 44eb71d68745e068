//! `smclo top`: connections by rate, live.

use crate::client::Connection;
use crate::report::{Connection as Row, Stats};
use crate::tool::sockets;
use crate::tool::stats::words;
use crate::tool::table::abbreviated;
use protocol::ctl::Verb;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row as Shown, Sparkline, Table};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

type AnyError = Box<dyn std::error::Error>;

/// Rates that the sparkline remembers.
const HISTORY: usize = 300;
const REASONS: usize = 5;

/// A connection with its rates.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rate {
    #[serde(flatten)]
    pub connection: Row,
    pub smc_bytes_per_second: u64,
    pub tcp_bytes_per_second: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub smc_bytes_per_second: u64,
    pub tcp_bytes_per_second: u64,
    /// The fastest first.
    pub connections: Vec<Rate>,
    #[serde(skip)]
    stats: Stats,
}

fn smc(row: &Row) -> u64 {
    row.smc_tx_bytes.saturating_add(row.smc_rx_bytes)
}

fn tcp(row: &Row) -> u64 {
    row.tcp_tx_bytes.saturating_add(row.tcp_rx_bytes)
}

type Key = (u32, u32, u64, String, String);

fn key(row: &Row) -> Key {
    let ends = (row.local.clone(), row.peer.clone());
    (row.pid, row.fd, row.inode, ends.0, ends.1)
}

/// Bytes of each connection at the last look, and of the host.
#[derive(Debug, Default)]
struct Meter {
    at: Option<Instant>,
    bytes: HashMap<Key, (u64, u64)>,
    host: (u64, u64),
}

impl Meter {
    fn look(&mut self, daemon: &Connection) -> Result<Sample, AnyError> {
        let mut rows: Vec<Row> = serde_json::from_slice(&daemon.ask_about(Verb::Ss, 0)?)?;
        sockets::look_up(&mut rows);
        let stats = serde_json::from_slice(&daemon.ask_about(Verb::Stats, 0)?)?;
        let now = Instant::now();
        let since = self.at.replace(now).map(|at| now - at);
        Ok(self.take(rows, stats, since))
    }

    /// Rates since the last look; none at the first.
    fn take(&mut self, rows: Vec<Row>, stats: Stats, since: Option<Duration>) -> Sample {
        let per_second = |now: u64, before: u64| {
            let seconds = since.map_or(0.0, |d| d.as_secs_f64());
            if seconds > 0.0 {
                (now.saturating_sub(before) as f64 / seconds) as u64
            } else {
                0
            }
        };
        let mut bytes = HashMap::new();
        let mut connections = Vec::new();
        for row in rows.into_iter().filter(|r| r.mode != "LISTEN") {
            let key = key(&row);
            let now = (smc(&row), tcp(&row));
            let before = self.bytes.get(&key).copied().unwrap_or(now);
            bytes.insert(key, now);
            connections.push(Rate {
                smc_bytes_per_second: per_second(now.0, before.0),
                tcp_bytes_per_second: per_second(now.1, before.1),
                connection: row,
            });
        }
        connections
            .sort_by_key(|r| std::cmp::Reverse(r.smc_bytes_per_second + r.tcp_bytes_per_second));
        self.bytes = bytes;
        let now = (stats.counts.smc_bytes, stats.counts.tcp_bytes);
        let before = std::mem::replace(&mut self.host, now);
        Sample {
            smc_bytes_per_second: per_second(now.0, before.0),
            tcp_bytes_per_second: per_second(now.1, before.1),
            connections,
            stats,
        }
    }
}

/// One sample over an interval.
pub fn once(daemon: &Connection, interval: Duration) -> Result<Sample, AnyError> {
    let mut meter = Meter::default();
    meter.look(daemon)?;
    std::thread::sleep(interval);
    meter.look(daemon)
}

/// Shows samples until q, Escape or Ctrl-C.
pub fn live(daemon: &Connection, interval: Duration) -> Result<(), AnyError> {
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, daemon, interval);
    ratatui::restore();
    result
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    daemon: &Connection,
    interval: Duration,
) -> Result<(), AnyError> {
    let mut meter = Meter::default();
    let mut history = VecDeque::new();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    loop {
        let sample = meter.look(daemon)?;
        history.push_front(sample.smc_bytes_per_second);
        history.truncate(HISTORY);
        let next = Instant::now() + interval;
        loop {
            terminal.draw(|frame| draw(frame, &sample, &history, plain))?;
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if interrupt => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

fn colour(plain: bool, colour: Color) -> Style {
    if plain {
        Style::new()
    } else {
        Style::new().fg(colour)
    }
}

fn rate(bytes: u64) -> String {
    match bytes {
        0 => "-".into(),
        n => format!("{}B/s", abbreviated(n)),
    }
}

fn draw(frame: &mut Frame<'_>, sample: &Sample, history: &VecDeque<u64>, plain: bool) {
    let counts = &sample.stats.counts;
    let reasons = counts.fallbacks.len().min(REASONS) as u16;
    let below = if reasons == 0 { 0 } else { reasons + 1 };
    let [head, spark, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Min(3),
        Constraint::Length(below),
    ])
    .areas(frame.area());
    let line = Line::from(vec![
        Span::styled("smclo top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            "  {} connections  SMC-D {}  TCP {}  upgrades {}  back {}  q quits",
            counts.connections,
            rate(sample.smc_bytes_per_second),
            rate(sample.tcp_bytes_per_second),
            counts.upgrades,
            counts.reverts,
        )),
    ]);
    frame.render_widget(Paragraph::new(line), head);
    let width = usize::from(spark.width);
    let mut shown: Vec<u64> = history.iter().take(width).copied().collect();
    shown.reverse();
    let top = shown.iter().max().copied().unwrap_or(0);
    let title = format!("bytes over SMC-D, peak {}", rate(top));
    let sparkline = Sparkline::default()
        .block(Block::bordered().title(title))
        .style(colour(plain, Color::Green))
        .data(&shown);
    frame.render_widget(sparkline, spark);
    frame.render_widget(connections(sample, plain, middle), middle);
    draw_reasons(frame, bottom, sample, plain);
}

/// Columns of the table, and which of them a narrow terminal does without first.
const HEAD: [&str; 8] = [
    "Program",
    "PID",
    "Local Address",
    "Peer Address",
    "Mode",
    "SMC-D",
    "TCP",
    "Reason",
];
const GIVEN_UP: [usize; 6] = [7, 1, 6, 0, 3, 5];

fn connections(sample: &Sample, plain: bool, area: Rect) -> Table<'_> {
    let rows: Vec<[String; 8]> = sample
        .connections
        .iter()
        .take(usize::from(area.height))
        .map(|r| {
            let c = &r.connection;
            [
                c.program.clone(),
                c.pid.to_string(),
                c.local.clone(),
                c.peer.clone(),
                c.mode.clone(),
                rate(r.smc_bytes_per_second),
                rate(r.tcp_bytes_per_second),
                c.reason_words.clone(),
            ]
        })
        .collect();
    let shown = fit(&rows, area.width);
    let pick = |row: &[String; 8]| {
        let cells = shown.iter().map(|&(at, _)| {
            let cell = Cell::from(row[at].clone());
            match (HEAD[at], row[at].as_str()) {
                ("Mode", "SMCD") => cell.style(colour(plain, Color::Green)),
                ("Mode", _) => cell.style(colour(plain, Color::Yellow)),
                _ => cell,
            }
        });
        Shown::new(cells.collect::<Vec<_>>())
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let head = Shown::new(shown.iter().map(|&(at, _)| HEAD[at])).style(bold);
    let widths: Vec<_> = shown.iter().map(|&(_, width)| width).collect();
    Table::new(rows.iter().map(pick).collect::<Vec<_>>(), widths).header(head)
}

/// The columns that have room, each as wide as what stands in it. The reason may be cut.
fn fit(rows: &[[String; 8]], width: u16) -> Vec<(usize, Constraint)> {
    const LEAST_REASON: usize = 12;
    const REASON: usize = HEAD.len() - 1;
    let longest = |at: usize| rows.iter().map(|row| row[at].chars().count()).max();
    let widths: [usize; 8] = std::array::from_fn(|at| match longest(at) {
        Some(n) if at == REASON => n.min(LEAST_REASON),
        Some(n) => n.max(HEAD[at].len()),
        None => HEAD[at].len(),
    });
    let mut shown: Vec<usize> = (0..HEAD.len()).filter(|at| widths[*at] > 0).collect();
    let mut give_up = GIVEN_UP.iter();
    // Each column with the blank before the next.
    while shown.iter().map(|at| widths[*at] + 1).sum::<usize>() > usize::from(width) + 1 {
        let Some(next) = give_up.next() else { break };
        shown.retain(|at| at != next);
    }
    let constraint = |at: usize| match at {
        REASON => (at, Constraint::Min(LEAST_REASON as u16)),
        _ => (at, Constraint::Length(widths[at] as u16)),
    };
    shown.into_iter().map(constraint).collect()
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, sample: &Sample, plain: bool) {
    let mut most: Vec<_> = sample.stats.counts.fallbacks.iter().collect();
    most.sort_by(|a, b| b.1.cmp(a.1));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![Line::styled("TCP because of", bold)];
    let mut all = most.into_iter().take(REASONS).map(|(name, count)| {
        Line::from(vec![
            Span::styled(
                format!("  {count:>8}  {name}"),
                colour(plain, Color::Yellow),
            ),
            Span::raw(format!("  {}", words(name))),
        ])
    });
    lines.extend(all.by_ref());
    if lines.len() > 1 {
        frame.render_widget(Paragraph::new(lines), area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn row(inode: u64, bytes: u64) -> Row {
        Row {
            program: format!("p{inode}"),
            inode,
            mode: "SMCD".into(),
            smc_tx_bytes: bytes,
            ..Row::default()
        }
    }

    #[test]
    fn rates_are_what_came_since_the_last_look() {
        let mut meter = Meter::default();
        let stats = Stats::default();
        let first = meter.take(vec![row(1, 100), row(2, 100)], stats.clone(), None);
        assert_eq!(first.connections[0].smc_bytes_per_second, 0);
        let since = Some(Duration::from_secs(2));
        let next = meter.take(vec![row(1, 300), row(2, 900), row(3, 5000)], stats, since);
        let rates: Vec<_> = next
            .connections
            .iter()
            .map(|r| r.smc_bytes_per_second)
            .collect();
        assert_eq!(rates, [400, 100, 0], "a new one has no rate yet");
        assert_eq!(next.connections[0].connection.inode, 2);
    }

    #[test]
    fn a_narrow_terminal_keeps_whole_columns() {
        let line = |program: &str, reason: &str| {
            let cells = [
                program,
                "12345",
                "127.0.0.1:57048",
                "127.0.0.1:18300",
                "SMCD",
                "1.2MB/s",
                "-",
                reason,
            ];
            cells.map(String::from)
        };
        let heads = |rows: &[[String; 8]], width| {
            let all = fit(rows, width).into_iter();
            all.map(|(at, _)| HEAD[at]).collect::<Vec<_>>().join(" ")
        };
        let quiet = [line("redis-benchmark", "")];
        let told = [
            line("redis-benchmark", ""),
            line("nc", "handshake in progress"),
        ];
        let all = "Program PID Local Address Peer Address Mode SMC-D TCP";
        assert_eq!(heads(&quiet, 80), all);
        assert_eq!(heads(&told, 120), format!("{all} Reason"));
        assert_eq!(heads(&told, 80), all);
        assert_eq!(
            heads(&told, 60),
            "Program Local Address Peer Address Mode SMC-D"
        );
        assert_eq!(heads(&told, 20), "Local Address Mode");
        assert_eq!(heads(&[], 30), "Local Address Mode SMC-D");
    }

    #[test]
    fn every_size_of_terminal() {
        let mut meter = Meter::default();
        let mut stats = Stats::default();
        stats.counts.fallbacks = [("NOT_LOCAL".to_string(), 7)].into();
        let sample = meter.take(vec![row(1, 100)], stats, None);
        let history = VecDeque::from([1, 5, 3]);
        for (w, h) in [(1, 1), (20, 5), (120, 30)] {
            let mut terminal = Terminal::new(TestBackend::new(w, h)).unwrap();
            terminal
                .draw(|f| draw(f, &sample, &history, false))
                .unwrap();
            if w == 120 {
                let text = terminal.backend().to_string();
                assert!(
                    text.contains("p1") && text.contains("7  NOT_LOCAL"),
                    "{text}"
                );
            }
        }
    }
}
