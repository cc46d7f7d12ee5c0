//! What is shown while a run goes on: on a terminal a few lines that renew themselves, elsewhere one line a second.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};

use crate::clock::SECOND;
use crate::outcome::Second;
use crate::pace;
use crate::plan::Plan;
use crate::tally::Tally;
use crate::unit::{Unit, seconds};

/// Seconds that the small curves show.
const CURVE_SECONDS: usize = 40;

/// Kinds of errors that are shown; the table at the end has all.
const ERRORS_SHOWN: usize = 3;

/// Where a run is.
pub struct View<'v> {
    /// What is being done, in a word or two.
    pub act: &'v str,
    /// What is to be done.
    pub plan: &'v Plan,
    /// Since the run began, in nanoseconds.
    pub elapsed_ns: u64,
    /// Clients that are in.
    pub connected: u32,
    /// Second by second.
    pub seconds: &'v BTreeMap<u64, Second>,
    /// All of them together.
    pub total: &'v Tally,
}

/// Where it is shown.
pub enum Display {
    /// Nowhere.
    Quiet,
    /// A line a second, to the standard error; and the second that was shown last.
    Lines(u64),
    /// Lines that renew themselves.
    Terminal(Box<Terminal>),
}

/// Lines on a terminal.
pub struct Terminal {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Display {
    /// What suits the standard error.
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

    /// Shows where the run is.
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

    /// Clears what renews itself.
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

/// The newest second that is over.
fn newest<'v>(view: &View<'v>) -> Option<&'v Second> {
    view.seconds.range(..view.elapsed_ns / SECOND).next_back().map(|(_, second)| second)
}

fn line(view: &View<'_>) -> String {
    let last = newest(view).cloned().unwrap_or_default();
    let quantile = |q| Unit::Seconds.show(seconds(last.tally.latency.quantile(q)));
    format!(
        "{:>4} s  {}  {} in  {}  p50 {}  p99 {}  max {}  {} errors",
        view.elapsed_ns / SECOND,
        view.act,
        Unit::Count.show(view.connected.into()),
        Unit::PerSecond.show(number(last.tally.deliveries)),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        view.total.error_count(),
    )
}

#[expect(clippy::cast_precision_loss, reason = "for the eye")]
const fn number(value: u64) -> f64 {
    value as f64
}

/// The lines of a terminal.
fn lines(view: &View<'_>) -> Vec<String> {
    let last = newest(view).cloned().unwrap_or_default();
    let bold = |text: String| format!("\x1b[1m{text}\x1b[0m");
    let dim = |text: &str| format!("\x1b[2m{text}\x1b[0m");
    let time = |microseconds| format!("{:>9}", Unit::Seconds.show(seconds(microseconds)));
    let length = pace::length(&view.plan.stages);
    let mut lines = vec![
        format!(
            "{} {}  {}",
            bold(format!("swarm {}", view.plan.scenario.name())),
            view.plan.target.url,
            dim(&format!("{} · {} s, of which {length:.0} s of talk", view.act, view.elapsed_ns / SECOND)),
        ),
        format!(
            "  {:<12}{:>14}  {}",
            "clients",
            bold(format!("{:>14}", Unit::Count.show(view.connected.into()))),
            bar(view.connected, view.plan.clients),
        ),
        format!(
            "  {:<12}{}  {}",
            "handshakes",
            bold(format!("{:>14}", Unit::PerSecond.show(number(last.tally.handshakes)))),
            curve(view, |second| number(second.tally.handshakes)),
        ),
        format!(
            "  {:<12}{}  {}",
            "heard",
            bold(format!("{:>14}", Unit::PerSecond.show(number(last.tally.deliveries)))),
            curve(view, |second| number(second.tally.deliveries)),
        ),
        format!(
            "  {:<12}{:>14}  {}  {}  {}",
            "latency",
            bold(format!("{:>14}", format!("p99 {}", time(last.tally.latency.quantile(0.99)).trim()))),
            curve(view, |second| number(second.tally.latency.quantile(0.99))),
            dim(&format!("p50 {}", time(last.tally.latency.quantile(0.5)).trim())),
            dim(&format!("max {}", time(last.tally.latency.max()).trim())),
        ),
    ];
    let Tally { duplicated, reordered, crossed, .. } = view.total;
    if duplicated + reordered + crossed > 0 {
        lines.push(format!(
            "  {:<12}{duplicated} duplicated, {reordered} reordered, {crossed} crossed",
            "faults"
        ));
    }
    let mut errors: Vec<_> = view.total.errors.iter().collect();
    errors.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (error, count) in errors.into_iter().take(ERRORS_SHOWN) {
        lines.push(format!("  \x1b[31m{:<12}{count} × {error}\x1b[0m", "error"));
    }
    lines
}

fn bar(value: u32, of: u32) -> String {
    let filled = (u64::from(value) * CURVE_SECONDS as u64 / u64::from(of.max(1))).min(CURVE_SECONDS as u64);
    let filled = usize::try_from(filled).unwrap_or(0);
    format!(
        "\x1b[32m{}\x1b[0m\x1b[2m{}\x1b[0m of {}",
        "━".repeat(filled),
        "━".repeat(CURVE_SECONDS - filled),
        Unit::Count.show(of.into())
    )
}

/// The last seconds as a small curve, its highest value at the top.
fn curve(view: &View<'_>, value: impl Fn(&Second) -> f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let now = view.elapsed_ns / SECOND;
    let values: Vec<_> = (now.saturating_sub(CURVE_SECONDS as u64)..now)
        .map(|second| view.seconds.get(&second).map_or(0.0, &value))
        .collect();
    let max = values.iter().copied().fold(0.0, f64::max);
    let sign = |value: &f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of seven")]
        let height = if max > 0.0 { (value / max * 7.0).round() as usize } else { 0 };
        if *value > 0.0 { BARS[height.min(7)] } else { ' ' }
    };
    let curve: String = values.iter().map(sign).collect();
    format!("\x1b[36m{curve:>CURVE_SECONDS$}\x1b[0m")
}
