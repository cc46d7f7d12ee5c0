//! Progress of a run: a few updating lines on a terminal, otherwise one line per second.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};

use crate::clock::SECOND;
use crate::outcome::Second;
use crate::pace;
use crate::plan::Plan;
use crate::stats::Stats;
use crate::unit::{Unit, seconds};

/// Seconds that the sparklines cover.
const CURVE_SECONDS: usize = 40;

/// Kinds of errors that are shown; the final table has all of them.
const ERRORS_SHOWN: usize = 3;

/// The state of a run.
pub struct View<'v> {
    /// The phase: connecting, running, draining.
    pub phase: &'v str,
    /// The plan of the run.
    pub plan: &'v Plan,
    /// Time since the start of the run, in nanoseconds.
    pub elapsed_ns: u64,
    /// Connected clients.
    pub connected: u32,
    /// Statistics by second.
    pub seconds: &'v BTreeMap<u64, Second>,
    /// Their sum.
    pub total: &'v Stats,
}

/// Where progress is shown.
pub enum Display {
    /// Not at all.
    Quiet,
    /// One line per second on the standard error; the last second shown.
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

    /// Shows the state of the run.
    pub fn show(&mut self, view: &View<'_>) {
        match self {
            Self::Quiet => {}
            Self::Lines(last) => {
                let second = view.elapsed_ns / SECOND;
                if second > *last {
                    *last = second;
                    let _ = writeln!(stderr(), "{}", line(view));
                }
            }
            Self::Terminal(terminal) => terminal.show(&lines(view)),
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

/// The last complete second.
fn newest<'v>(view: &View<'v>) -> Option<&'v Second> {
    view.seconds.range(..view.elapsed_ns / SECOND).next_back().map(|(_, second)| second)
}

fn line(view: &View<'_>) -> String {
    let last = newest(view).cloned().unwrap_or_default();
    let quantile = |q| Unit::Seconds.format(seconds(last.stats.latency.quantile(q)));
    format!(
        "{:>4} s  {}  {} connected  {}  p50 {}  p99 {}  max {}  {} errors",
        view.elapsed_ns / SECOND,
        view.phase,
        Unit::Count.format(view.connected.into()),
        Unit::PerSecond.format(number(last.stats.deliveries)),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        view.total.error_count(),
    )
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
const fn number(value: u64) -> f64 {
    value as f64
}

/// The lines for a terminal.
fn lines(view: &View<'_>) -> Vec<String> {
    let last = newest(view).cloned().unwrap_or_default();
    let bold = |text: String| format!("\x1b[1m{text}\x1b[0m");
    let dim = |text: &str| format!("\x1b[2m{text}\x1b[0m");
    let time = |microseconds| format!("{:>9}", Unit::Seconds.format(seconds(microseconds)));
    let length = pace::length(&view.plan.stages);
    let mut lines = vec![
        format!(
            "{} {}  {}",
            bold(format!("swarm {}", view.plan.scenario.name())),
            view.plan.target.url,
            dim(&format!("{} · {} s / {length:.0} s", view.phase, view.elapsed_ns / SECOND)),
        ),
        format!(
            "  {:<16}{:>14}  {}",
            "connected",
            bold(format!("{:>14}", Unit::Count.format(view.connected.into()))),
            bar(view.connected, view.plan.clients),
        ),
        format!(
            "  {:<16}{}  {}",
            "handshakes",
            bold(format!("{:>14}", Unit::PerSecond.format(number(last.stats.handshakes)))),
            curve(view, |second| number(second.stats.handshakes)),
        ),
        format!(
            "  {:<16}{}  {}",
            "received",
            bold(format!("{:>14}", Unit::PerSecond.format(number(last.stats.deliveries)))),
            curve(view, |second| number(second.stats.deliveries)),
        ),
        format!(
            "  {:<16}{:>14}  {}  {}  {}",
            "latency",
            bold(format!("{:>14}", format!("p99 {}", time(last.stats.latency.quantile(0.99)).trim()))),
            curve(view, |second| number(second.stats.latency.quantile(0.99))),
            dim(&format!("p50 {}", time(last.stats.latency.quantile(0.5)).trim())),
            dim(&format!("max {}", time(last.stats.latency.max()).trim())),
        ),
    ];
    let Stats { duplicated, reordered, order_mismatch, .. } = view.total;
    if duplicated + reordered + order_mismatch > 0 {
        lines.push(format!(
            "  {:<16}{duplicated} duplicated, {reordered} reordered, {order_mismatch} order mismatch",
            "delivery errors"
        ));
    }
    let mut errors: Vec<_> = view.total.errors.iter().collect();
    errors.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (error, count) in errors.into_iter().take(ERRORS_SHOWN) {
        lines.push(format!("  \x1b[31m{:<16}{count} × {error}\x1b[0m", "error"));
    }
    lines
}

fn bar(value: u32, target: u32) -> String {
    let filled =
        (u64::from(value) * CURVE_SECONDS as u64 / u64::from(target.max(1))).min(CURVE_SECONDS as u64);
    let filled = usize::try_from(filled).unwrap_or(0);
    format!(
        "\x1b[32m{}\x1b[0m\x1b[2m{}\x1b[0m / {}",
        "━".repeat(filled),
        "━".repeat(CURVE_SECONDS - filled),
        Unit::Count.format(target.into())
    )
}

/// The last seconds as a sparkline, scaled to its maximum.
fn curve(view: &View<'_>, value: impl Fn(&Second) -> f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let now = view.elapsed_ns / SECOND;
    let values: Vec<_> = (now.saturating_sub(CURVE_SECONDS as u64)..now)
        .map(|second| view.seconds.get(&second).map_or(0.0, &value))
        .collect();
    let max = values.iter().copied().fold(0.0, f64::max);
    let sign = |value: &f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7")]
        let height = if max > 0.0 { (value / max * 7.0).round() as usize } else { 0 };
        if *value > 0.0 { BARS[height.min(7)] } else { ' ' }
    };
    let curve: String = values.iter().map(sign).collect();
    format!("\x1b[36m{curve:>CURVE_SECONDS$}\x1b[0m")
}
