//! Progress of a run: a few updating lines on a terminal, as wide as it is; otherwise one line per second.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};

use crate::clock::SECOND;
use crate::outcome::Second;
use crate::pace;
use crate::plan::Plan;
use crate::stats::Stats;
use crate::unit::{Unit, seconds};

/// Seconds that the sparklines cover at most.
const CURVE_SECONDS: usize = 40;

/// Columns before a sparkline: the label and the value.
const HEAD_COLUMNS: usize = 32;

/// Columns of a terminal whose width is unknown.
const COLUMNS: usize = 80;

/// Kinds of errors that are shown; the final table has all of them.
const ERRORS_SHOWN: usize = 3;

/// Without a new connection for so long, the display counts the time.
const WAITING_SHOWN_NS: u64 = 3 * SECOND;

/// The state of a run.
pub struct View<'v> {
    /// What happens now: connecting, running, a stage, draining, closing.
    pub phase: String,
    /// Whether the initial clients connect.
    pub connecting: bool,
    /// The plan of the run.
    pub plan: &'v Plan,
    /// Time since the start of the run, in nanoseconds.
    pub elapsed_ns: u64,
    /// All that happened before this second is known.
    pub complete_before: u64,
    /// Connected clients.
    pub connected: u32,
    /// Clients in the opening handshake or joining.
    pub in_handshake: u32,
    /// Time since the number of connected clients last grew, in nanoseconds.
    pub waiting_ns: u64,
    /// Statistics by second.
    pub seconds: &'v BTreeMap<u64, Second>,
    /// Their sum.
    pub total: &'v Stats,
}

/// Where progress is shown.
pub enum Display {
    /// Not at all.
    Quiet,
    /// One line per second on the standard error; the second that is shown next.
    Lines(u64),
    /// Updating lines.
    Terminal(Box<Terminal>),
}

/// Lines on a terminal.
pub struct Terminal {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Display {
    /// Chooses by the standard error.
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !stderr().is_terminal() {
            return Self::Lines(0);
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self::Terminal(Box::new(Terminal { all, lines: Vec::new() }))
    }

    /// Shows the state of the run. A second has its line when it is complete.
    pub fn show(&mut self, view: &View<'_>) {
        match self {
            Self::Quiet => {}
            Self::Lines(next) => {
                let end = view.complete_before.min(last_second(view) + 1);
                while *next < end {
                    let _ = writeln!(stderr(), "{}", line(view, *next));
                    *next += 1;
                }
            }
            Self::Terminal(terminal) => terminal.show(&lines(view, columns())),
        }
    }

    /// Clears the updating lines.
    pub fn end(&mut self) {
        if let Self::Terminal(terminal) = self {
            let _ = terminal.all.clear();
        }
    }
}

impl Terminal {
    fn show(&mut self, lines: &[String]) {
        while self.lines.len() < lines.len() {
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.lines.push(self.all.add(ProgressBar::no_length().with_style(style)));
        }
        for (bar, line) in
            self.lines.iter().zip(lines.iter().map(String::as_str).chain(std::iter::repeat("")))
        {
            bar.set_message(line.to_owned());
        }
    }
}

/// The width of the terminal.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|&columns| columns > 0)
        .unwrap_or(COLUMNS)
}

/// The newest second with statistics.
fn last_second(view: &View<'_>) -> u64 {
    view.seconds.last_key_value().map_or(0, |(&second, _)| second)
}

/// The newest complete second.
fn newest<'v>(view: &View<'v>) -> Option<&'v Second> {
    view.seconds.range(..view.complete_before).next_back().map(|(_, second)| second)
}

/// The line of one second, which is labelled with its end.
fn line(view: &View<'_>, second: u64) -> String {
    let number_of = second + 1;
    if view.connecting {
        return format!("{number_of:>4} s  connecting  {}", connecting(view));
    }
    let found = view.seconds.get(&second).cloned().unwrap_or_default();
    let connected = view.seconds.range(..=second).next_back().map_or(0, |(_, found)| found.connected);
    let quantile = |q| Unit::Seconds.format(seconds(found.stats.latency.quantile(q)));
    format!(
        "{number_of:>4} s  {}  {} connected  {}  p50 {}  p99 {}  max {}  {} errors",
        view.phase,
        Unit::Count.format(connected.into()),
        Unit::PerSecond.format(number(found.stats.deliveries)),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        view.total.error_count(),
    )
}

/// The progress of connecting.
fn connecting(view: &View<'_>) -> String {
    let count = |value: u32| Unit::Count.format(value.into());
    let mut text = format!(
        "{} / {} connected  {} in handshake",
        count(view.connected),
        count(view.plan.clients),
        count(view.in_handshake)
    );
    if view.waiting_ns >= WAITING_SHOWN_NS {
        let (waiting, timeout) = (view.waiting_ns / SECOND, view.plan.connect_timeout_ns / SECOND);
        text += &format!("  no new one for {waiting} s of {timeout} s");
    }
    let errors = view.total.errors.iter().max_by_key(|&(_, count)| count);
    if let Some((error, _)) = errors {
        text += &format!("  {} errors: {error}", Unit::Count.format(number(view.total.error_count())));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
const fn number(value: u64) -> f64 {
    value as f64
}

/// How a part of a line looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Dim,
    Curve,
    Filled,
    Error,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Curve => "36",
            Self::Filled => "32",
            Self::Error => "31",
        }
    }
}

/// A line in parts.
#[derive(Default)]
struct Line(Vec<(Style, String)>);

impl Line {
    fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// A label and a value.
    fn of(label: &str, value: &str) -> Self {
        Self::default()
            .with(Style::Plain, format!("  {label:<12}"))
            .with(Style::Bold, format!("{value:>16}  "))
    }

    /// The line with its styles, cut at `columns`.
    fn fit(&self, columns: usize) -> String {
        let (mut out, mut left) = (String::new(), columns);
        for (style, text) in &self.0 {
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            match style.code() {
                "" => out += &text,
                code => out += &format!("\x1b[{code}m{text}\x1b[0m"),
            }
        }
        out
    }
}

/// The lines for a terminal of this width.
fn lines(view: &View<'_>, columns: usize) -> Vec<String> {
    let last = newest(view).cloned().unwrap_or_default();
    let time = |microseconds| Unit::Seconds.format(seconds(microseconds));
    let width = columns.saturating_sub(HEAD_COLUMNS).clamp(1, CURVE_SECONDS);
    let latency = &last.stats.latency;
    let plotted = |value: &dyn Fn(&Second) -> f64| (Style::Curve, curve(view, width, value));
    let with_curve =
        |label, value: &str, (style, curve): (Style, String)| Line::of(label, value).with(style, curve);
    let mut lines = vec![
        title(view, columns),
        bar(Line::of("connected", &Unit::Count.format(view.connected.into())), view, width),
        with_curve(
            "handshakes",
            &Unit::PerSecond.format(number(last.stats.handshakes)),
            plotted(&|second| number(second.stats.handshakes)),
        ),
        with_curve(
            "received",
            &Unit::PerSecond.format(number(last.stats.deliveries)),
            plotted(&|second| number(second.stats.deliveries)),
        ),
        with_curve(
            "latency",
            &format!("p99 {}", time(latency.quantile(0.99))),
            plotted(&|second| number(second.stats.latency.quantile(0.99))),
        )
        .with(Style::Dim, format!("  p50 {}  max {}", time(latency.quantile(0.5)), time(latency.max()))),
    ];
    if view.connecting && view.waiting_ns >= WAITING_SHOWN_NS {
        lines.push(Line::default().with(Style::Plain, format!("  {}", connecting(view))));
    }
    let Stats { duplicated, reordered, order_mismatch, .. } = view.total;
    if duplicated + reordered + order_mismatch > 0 {
        let text = format!("{duplicated} duplicated, {reordered} reordered, {order_mismatch} order mismatch");
        lines.push(Line::default().with(Style::Plain, format!("  {text}")));
    }
    let mut errors: Vec<_> = view.total.errors.iter().collect();
    errors.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (error, count) in errors.into_iter().take(ERRORS_SHOWN) {
        lines.push(Line::default().with(Style::Error, format!("  {count} × {error}")));
    }
    lines.iter().map(|line| line.fit(columns)).collect()
}

/// The scenario, the URL, and the phase, which stays visible however narrow the terminal is.
fn title(view: &View<'_>, columns: usize) -> Line {
    let name = format!("swarm {} ", view.plan.scenario.name());
    let length = pace::length(&view.plan.stages);
    let phase = format!("  {} · {} s / {length:.0} s", view.phase, view.elapsed_ns / SECOND);
    let room = columns.saturating_sub(name.chars().count() + phase.chars().count());
    let url = &view.plan.target.url;
    let url = if url.chars().count() <= room {
        url.clone()
    } else {
        url.chars().take(room.saturating_sub(1)).chain(['…']).take(room).collect()
    };
    Line::default().with(Style::Bold, name).with(Style::Plain, url).with(Style::Dim, phase)
}

fn bar(line: Line, view: &View<'_>, width: usize) -> Line {
    let target = format!(" / {}", Unit::Count.format(view.plan.clients.into()));
    let width = width.saturating_sub(target.chars().count());
    let filled = u64::from(view.connected) * width as u64 / u64::from(view.plan.clients.max(1));
    let filled = usize::try_from(filled).unwrap_or(width).min(width);
    line.with(Style::Filled, "━".repeat(filled))
        .with(Style::Dim, "━".repeat(width - filled))
        .with(Style::Plain, target)
}

/// The last seconds as a sparkline, scaled to its maximum.
fn curve(view: &View<'_>, width: usize, value: &dyn Fn(&Second) -> f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let end = view.complete_before.min(last_second(view) + 1);
    let values: Vec<_> = (end.saturating_sub(width as u64)..end)
        .map(|second| view.seconds.get(&second).map_or(0.0, value))
        .collect();
    let max = values.iter().copied().fold(0.0, f64::max);
    let sign = |value: &f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7")]
        let height = if max > 0.0 { (value / max * 7.0).round() as usize } else { 0 };
        if *value > 0.0 { BARS[height.min(7)] } else { ' ' }
    };
    let curve: String = values.iter().map(sign).collect();
    format!("{curve:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    fn plan(clients: u32) -> Plan {
        let url = Some("ws://127.0.0.1:8080/a/very/long/path/of/a/server/{name}?room={room}".to_owned());
        Options { url, clients: Some(clients), ..Options::default() }.plan(Scenario::Connect).unwrap()
    }

    fn shown(line: &str) -> String {
        let mut parts = line.split('\x1b');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let plan = plan(1_000_000);
        let mut total = Stats { duplicated: 1_000_000, reordered: 1_000_000, ..Stats::default() };
        total.errors_of(
            "the server is away, with a long explanation of why that may be so".to_owned(),
            123_456,
        );
        let mut second = Second { connected: 999_999, ..Second::default() };
        second.stats.deliveries = 12_345_678;
        second.stats.latency.record_ns(123_400_000);
        let seconds: BTreeMap<_, _> = (0..90).map(|number| (number, second.clone())).collect();
        let view = View {
            phase: "a stage with a name (1 of 10)".to_owned(),
            connecting: true,
            plan: &plan,
            elapsed_ns: 90 * SECOND,
            complete_before: 90,
            connected: 999_999,
            in_handshake: 100,
            waiting_ns: 12 * SECOND,
            seconds: &seconds,
            total: &total,
        };
        for columns in [20, 40, 60, 80, 120, 200] {
            let lines: Vec<_> = lines(&view, columns).iter().map(|line| shown(line)).collect();
            for line in &lines {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
            if columns >= 60 {
                assert!(
                    lines[0].starts_with("swarm connect ") && lines[0].ends_with("90 s / 0 s"),
                    "{lines:?}"
                );
                assert!(
                    lines[1].ends_with("━━ / 1,000,000") && lines[3].contains("12,345,678/s"),
                    "{lines:?}"
                );
                assert!(lines[4].contains("p99 123.5 ms") && lines[4].contains('█'), "{lines:?}");
                assert!(lines[5].contains("999,999 / 1,000,000 connected"), "{lines:?}");
            }
        }
    }

    #[test]
    fn the_line_of_a_second_has_that_seconds_figures() {
        let (plan, total) = (plan(50), Stats::default());
        let second = |connected, deliveries| Second {
            connected,
            stats: Stats { deliveries, ..Stats::default() },
            ..Second::default()
        };
        let seconds = BTreeMap::from([(0, second(50, 700)), (2, second(49, 900))]);
        let view = View {
            phase: "running".to_owned(),
            connecting: false,
            plan: &plan,
            elapsed_ns: 5 * SECOND,
            complete_before: 3,
            connected: 3,
            in_handshake: 0,
            waiting_ns: 0,
            seconds: &seconds,
            total: &total,
        };
        assert!(line(&view, 0).starts_with("   1 s  running  50 connected  700/s"), "{}", line(&view, 0));
        assert!(line(&view, 1).starts_with("   2 s  running  50 connected  0.0/s"), "{}", line(&view, 1));
        assert!(line(&view, 2).starts_with("   3 s  running  49 connected  900/s"), "{}", line(&view, 2));
        let connecting = View { connecting: true, waiting_ns: 4 * SECOND, ..view };
        let expected = "   5 s  connecting  3 / 50 connected  0 in handshake  no new one for 4 s of 30 s";
        assert_eq!(line(&connecting, 4), expected);
    }
}
