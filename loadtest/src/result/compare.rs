//! Results side by side, with ratios relative to the first, what differs in what they were asked, and, with a
//! tolerance, what has become worse.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

use super::Report;
use crate::metric::{METRICS, Metric};

/// A difference that the comparison marks.
const MARKED: f64 = 0.05;

/// How much worse than the first a metric may be: `10%` for all that have a better direction, `p99=20%` for
/// one.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// The metric; `None`: all without a tolerance of their own.
    metric: Option<String>,
    /// A part of the first value.
    part: f64,
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (metric, part) = match text.split_once('=') {
            Some((metric, part)) => (Some(metric.trim().to_owned()), part),
            None => (None, text),
        };
        let directed = |name: &String| {
            METRICS.iter().any(|metric| metric.name == name && metric.less_is_better.is_some())
        };
        if let Some(name) = metric.as_ref().filter(|name| !directed(name)) {
            return Err(format!("there is no metric {name:?} that can become worse"));
        }
        let percent = part.trim().strip_suffix('%').and_then(|digits| digits.trim().parse::<f64>().ok());
        match percent {
            Some(percent) if (0.0..=1e6).contains(&percent) => Ok(Self { metric, part: percent / 100.0 }),
            _ => Err("write it as 10%, or as p99=10%".to_owned()),
        }
    }
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// For a terminal.
    pub text: String,
    /// Metrics that are worse than the tolerance allows.
    pub worse: usize,
}

/// Compares named results with the first.
pub fn compare(reports: &[(String, Report)], tolerances: &[Tolerance]) -> Comparison {
    let mut out = table(reports);
    for note in differences(reports) {
        let _ = writeln!(out, "note: {note}");
    }
    let worse = worse(reports, tolerances);
    for line in &worse {
        let _ = writeln!(out, "FAILED: {line}");
    }
    if worse.is_empty() && !tolerances.is_empty() {
        out.push_str("passed: no metric is worse than the tolerance\n");
    }
    Comparison { text: out, worse: worse.len() }
}

fn table(reports: &[(String, Report)]) -> String {
    let mut out = String::new();
    let width = reports.iter().map(|(name, _)| name.chars().count() + 2).max().unwrap_or(0).max(24);
    let _ = write!(out, "{:<42}", "");
    for (name, _) in reports {
        let _ = write!(out, "{name:>width$}");
    }
    out.push('\n');
    for metric in METRICS {
        let values: Vec<_> = reports.iter().map(|(_, report)| report.metric(metric.name)).collect();
        if values.iter().all(|value| value.is_none_or(|value| value == 0.0)) {
            continue;
        }
        let title = format!("{} ({})", metric.title, metric.name);
        let _ = write!(out, "{title:<42}");
        for (index, value) in values.iter().enumerate() {
            let cell = value.map_or_else(|| "–".to_owned(), |value| metric.unit.format(value));
            let ratio = if index == 0 { String::new() } else { ratio(metric, values[0], *value) };
            let _ = write!(out, "{:>width$}", format!("{cell}{ratio:>11}"));
        }
        out.push('\n');
    }
    out
}

/// What the later runs were asked to do otherwise than the first, and other machines.
fn differences(reports: &[(String, Report)]) -> Vec<String> {
    let Some(((first_name, first), others)) = reports.split_first() else { return Vec::new() };
    let mut notes = Vec::new();
    for (name, other) in others {
        let names: BTreeSet<_> = first.asked.keys().chain(other.asked.keys()).collect();
        let value =
            |report: &Report, name: &str| report.asked.get(name).cloned().unwrap_or_else(|| "–".to_owned());
        let differing = names.into_iter().filter(|name| first.asked.get(*name) != other.asked.get(*name));
        let differing: Vec<_> =
            differing.map(|name| format!("{name} {} → {}", value(first, name), value(other, name))).collect();
        if !differing.is_empty() {
            notes.push(format!(
                "{first_name} and {name} were asked different things: {}",
                differing.join(", ")
            ));
        }
        let machine =
            |report: &Report| (report.host.kernel.clone(), report.host.cpu.clone(), report.host.cores);
        if machine(first) != machine(other) {
            notes.push(format!(
                "{first_name} and {name} are from different machines: {} → {}",
                first.host.line(),
                other.host.line()
            ));
        }
    }
    notes
}

/// What is worse than the tolerances allow.
fn worse(reports: &[(String, Report)], tolerances: &[Tolerance]) -> Vec<String> {
    let Some(((_, first), others)) = reports.split_first() else { return Vec::new() };
    let general = tolerances.iter().find(|tolerance| tolerance.metric.is_none());
    let of = |metric: &Metric| {
        let own = tolerances.iter().find(|tolerance| tolerance.metric.as_deref() == Some(metric.name));
        own.or(general).map(|tolerance| tolerance.part)
    };
    let mut found = Vec::new();
    for (name, other) in others {
        for metric in METRICS {
            let (Some(less), Some(part)) = (metric.less_is_better, of(metric)) else { continue };
            let Some(before) = first.metric(metric.name) else { continue };
            let show = |value| metric.unit.format(value);
            let allowed = if less { before * (1.0 + part) } else { before * (1.0 - part) };
            match other.metric(metric.name) {
                None => found.push(format!("{name} has no {} ({} before)", metric.name, show(before))),
                Some(now) if (less && now > allowed) || (!less && now < allowed) => found.push(format!(
                    "{name}: {} is {}, more than {:.0} % worse than {}",
                    metric.name,
                    show(now),
                    part * 100.0,
                    show(before)
                )),
                Some(_) => {}
            }
        }
    }
    found
}

/// The ratio to the first value, and whether it is better.
fn ratio(metric: &Metric, first: Option<f64>, value: Option<f64>) -> String {
    let (Some(first), Some(value)) = (first.filter(|&first| first != 0.0), value) else {
        return String::new();
    };
    let ratio = value / first;
    let mark = match metric.less_is_better {
        Some(less) if (ratio - 1.0).abs() >= MARKED => {
            if (ratio < 1.0) == less {
                " +"
            } else {
                " −"
            }
        }
        _ => "",
    };
    format!("×{ratio:.2}{mark:<2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_mark_the_better_value() {
        let of = |name: &str, first, value| {
            let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
            ratio(metric, first, Some(value))
        };
        assert_eq!(of("p99", Some(0.010), 0.005), "×0.50 +");
        assert_eq!(of("p99", Some(0.010), 0.020), "×2.00 −");
        assert_eq!(of("p99", Some(0.010), 0.0102), "×1.02  ");
        assert_eq!(of("deliveries_per_s", Some(100.0), 300.0), "×3.00 +");
        assert_eq!(of("published", Some(100.0), 300.0), "×3.00  ");
        assert_eq!((of("p99", None, 1.0), of("lost", Some(0.0), 1.0)), (String::new(), String::new()));
    }

    fn named(name: &str, metrics: &[(&str, f64)], asked: &[(&str, &str)]) -> (String, Report) {
        let report = Report {
            metrics: metrics.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            asked: asked.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..Report::default()
        };
        (name.to_owned(), report)
    }

    #[test]
    fn a_tolerance_finds_what_is_worse() {
        let before = named("before", &[("p99", 0.010), ("deliveries_per_s", 100.0), ("lost", 0.0)], &[]);
        let check = |now: &[(&str, f64)], tolerances: &[&str], worse: &[&str]| {
            let tolerances: Vec<_> = tolerances.iter().map(|text| text.parse().unwrap()).collect();
            let found = compare(&[before.clone(), named("now", now, &[])], &tolerances);
            assert_eq!(found.worse, worse.len(), "{}", found.text);
            assert!(worse.iter().all(|part| found.text.contains(part)), "{}", found.text);
        };
        let now = [("p99", 0.012), ("deliveries_per_s", 95.0), ("lost", 0.0)];
        check(&now, &[], &[]);
        check(&now, &["25%"], &[]);
        check(&now, &["10%"], &["now: p99 is 12.0 ms, more than 10 % worse than 10.0 ms"]);
        check(&now, &["10%", "p99=50%"], &[]);
        check(&now, &["p99=10%"], &["now: p99"]);
        check(&now, &["1%"], &["now: p99", "now: deliveries_per_s is 95.0/s"]);
        check(&[("p99", 0.01), ("deliveries_per_s", 100.0), ("lost", 1.0)], &["90%"], &["now: lost is 1"]);
        check(&[("p99", 0.01), ("lost", 0.0)], &["90%"], &["now has no deliveries_per_s"]);
        for wrong in ["10", "x%", "published=10%", "-5%"] {
            assert!(wrong.parse::<Tolerance>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_asked_differently_is_noted() {
        let one = named("one", &[], &[("clients", "100"), ("rate", "10/s")]);
        let two = named("two", &[], &[("clients", "200"), ("rate", "10/s"), ("resume", "yes")]);
        let text = compare(&[one.clone(), two], &[]).text;
        assert!(
            text.contains("note: one and two were asked different things: clients 100 → 200, resume – → yes"),
            "{text}"
        );
        assert!(!compare(&[one.clone(), one], &[]).text.contains("note"));
    }
}
