//! Searches for the highest rate, or number of clients, at which all thresholds hold.

use clap::{Args, ValueEnum};

use crate::cli::{self, Exit};
use crate::metric::METRICS;
use crate::options::Options;
use crate::plan::Scenario;
use crate::result::{Probe, Report};
use crate::run::{files, run};
use crate::unit::Unit;
use crate::units::Rate;

/// Runs of one search at most.
const PROBES_MAX: usize = 40;

/// What is raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Varied {
    /// Messages per second of all publishers together
    Rate,
    /// Number of clients
    Clients,
}

/// Options of `find`.
#[derive(Args, Clone, Debug)]
pub struct Find {
    /// What is raised from run to run
    #[arg(long, value_enum, default_value = "rate", help_heading = "Search")]
    vary: Varied,
    /// The first value; it is doubled until a threshold fails
    #[arg(long, value_name = "VALUE", default_value = "100", help_heading = "Search")]
    from: Rate,
    /// The highest value that is tried
    #[arg(long, value_name = "VALUE", default_value = "1000000", help_heading = "Search")]
    to: Rate,
    /// The search ends when the highest value that holds is known up to this part, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, help_heading = "Search")]
    precision: f64,
    /// The kind of run
    #[arg(long, value_enum, default_value = "chat", help_heading = "Search")]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
}

impl Find {
    /// Executes the search. Passed: a value was found that holds.
    ///
    /// # Errors
    /// One sentence: an option is invalid, or a run could not be started.
    pub fn run(&self) -> Result<Exit, String> {
        if self.options.thresholds.is_empty() {
            return Err("find needs what must hold, like --threshold 'p99 < 50ms'".to_owned());
        }
        if !self.options.stages.is_empty() || self.options.in_flight.is_some() && self.vary == Varied::Rate {
            return Err("find sets the rate: it excludes --in-flight and stages".to_owned());
        }
        let mut search = Search::new(self.from.0, self.to.0, self.precision / 100.0)?;
        let files = files(&self.options)?;
        let beside = files.use_standard_output();
        let interrupted = cli::interrupt_flag()?;
        let (mut best, mut curve): (Option<Report>, Vec<Probe>) = (None, Vec::new());
        let mut first = None;
        cli::print_beside(&heading(self.vary), beside)?;
        while let Some(value) = search.next().filter(|_| curve.len() < PROBES_MAX) {
            let report = run(self.scenario, &self.with(value)?, &interrupted)?;
            if report.interrupted {
                return Ok(Exit::Interrupted);
            }
            let probe = probe(&report, value);
            cli::print_beside(&row(self.vary, &probe), beside)?;
            search.record(value, probe.passed);
            if probe.passed {
                best = Some(report);
            } else {
                first.get_or_insert(report);
            }
            curve.push(probe);
        }
        curve.sort_by(|one, other| one.value.total_cmp(&other.value));
        cli::print_beside(&self.summary(&search, &curve), beside)?;
        let found = best.is_some();
        if let Some(report) = best.or(first) {
            files.write(&Report { curve, ..report })?;
        }
        Ok(if found { Exit::Passed } else { Exit::Failed })
    }

    /// The options of a run with this value.
    fn with(&self, value: f64) -> Result<Options, String> {
        let mut options = self.options.clone();
        match self.vary {
            Varied::Rate => options.rate = Some(Rate(value)),
            Varied::Clients => {
                let digits = format!("{value:.0}");
                options.clients = Some(digits.parse().map_err(|_| format!("{digits} clients are too many"))?);
            }
        }
        Ok(options)
    }

    fn summary(&self, search: &Search, curve: &[Probe]) -> String {
        let show = |value| shown(self.vary, value);
        let what = match self.vary {
            Varied::Rate => "rate",
            Varied::Clients => "number of clients",
        };
        let Some(highest) = search.holds else {
            return format!("not even a {what} of {} holds\n", show(self.from.0));
        };
        let failed = curve.iter().find(|probe| probe.value > highest && !probe.passed);
        let next = failed.map_or_else(
            || "no higher one was tried: see --to".to_owned(),
            |probe| format!("{} does not: {}", show(probe.value), probe.reason),
        );
        format!("highest {what} that holds: {} ({next})\n", show(highest))
    }
}

/// One run as a point of the curve. Delivery errors fail it, too.
fn probe(report: &Report, value: f64) -> Probe {
    let reasons =
        report.checks.iter().filter_map(|check| Some(format!("{}: {}", check.name, check.reason.as_ref()?)));
    let errors = METRICS.iter().filter(|metric| metric.is_error);
    let errors =
        errors.filter_map(|metric| Some((metric, report.metric(metric.name).filter(|&count| count > 0.0)?)));
    let is_checked = |name: &str| {
        report.thresholds.iter().any(|result| result.metric == name)
            || report.checks.iter().any(|check| check.name.strip_suffix(" == 0") == Some(name))
    };
    let errors = errors.filter(|(metric, _)| !is_checked(metric.name));
    let errors = errors.map(|(metric, count)| format!("{} {}", Unit::Count.format(count), metric.title));
    let reasons: Vec<_> = reasons.chain(errors).collect();
    Probe {
        value,
        passed: reasons.is_empty(),
        deliveries_per_s: report.metric("deliveries_per_s"),
        p50: report.metric("p50"),
        p99: report.metric("p99"),
        max: report.metric("max"),
        server_cpu: report.metric("server_cpu"),
        limited_by_swarm: report.limited_by_swarm,
        reason: reasons.join("; "),
    }
}

fn shown(vary: Varied, value: f64) -> String {
    match vary {
        Varied::Rate => Unit::PerSecond.format(value),
        Varied::Clients => Unit::Count.format(value),
    }
}

fn heading(vary: Varied) -> String {
    let what = if vary == Varied::Rate { "rate" } else { "clients" };
    format!("{what:>12}{:>16}{:>11}{:>11}{:>11}{:>8}\n", "received", "p50", "p99", "max", "server")
}

fn row(vary: Varied, probe: &Probe) -> String {
    let cell =
        |unit: Unit, value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| unit.format(value));
    let limit = if probe.limited_by_swarm { " (swarm was the limit)" } else { "" };
    let outcome = if probe.passed { "holds".to_owned() } else { probe.reason.clone() };
    format!(
        "{:>12}{:>16}{:>11}{:>11}{:>11}{:>8}  {outcome}{limit}\n",
        shown(vary, probe.value),
        cell(Unit::PerSecond, probe.deliveries_per_s),
        cell(Unit::Seconds, probe.p50),
        cell(Unit::Seconds, probe.p99),
        cell(Unit::Seconds, probe.max),
        cell(Unit::Ratio, probe.server_cpu),
    )
}

/// The search: values are doubled until one fails, then the interval between the highest that holds and the
/// lowest that fails is halved.
#[derive(Clone, Debug)]
struct Search {
    from: f64,
    to: f64,
    /// The interval that is small enough, as a part of its lower end.
    precision: f64,
    /// The highest value that holds.
    holds: Option<f64>,
    /// The lowest value that fails.
    fails: Option<f64>,
}

impl Search {
    fn new(from: f64, to: f64, precision: f64) -> Result<Self, String> {
        if !(from >= 1.0 && to >= from) {
            return Err("--from must be at least 1, and not above --to".to_owned());
        }
        if !(0.001..=1.0).contains(&precision) {
            return Err("--precision must be between 0.1 and 100 percent".to_owned());
        }
        Ok(Self { from, to, precision, holds: None, fails: None })
    }

    /// The next value to try; values are whole numbers.
    fn next(&self) -> Option<f64> {
        match (self.holds, self.fails) {
            (None, None) => Some(self.from.round()),
            (None, Some(_)) => None,
            (Some(holds), None) => Some((holds * 2.0).min(self.to).round()).filter(|&value| value > holds),
            (Some(holds), Some(fails)) => {
                let middle = holds.midpoint(fails).round();
                (fails - holds > holds * self.precision && middle > holds && middle < fails).then_some(middle)
            }
        }
    }

    fn record(&mut self, value: f64, holds: bool) {
        if holds {
            self.holds = Some(self.holds.map_or(value, |before| before.max(value)));
        } else {
            self.fails = Some(self.fails.map_or(value, |before| before.min(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server whose limit is `limit`; returns the values that were tried, and the result.
    fn search(limit: f64, from: f64, to: f64, precision: f64) -> (Vec<f64>, Option<f64>) {
        let mut search = Search::new(from, to, precision).unwrap();
        let mut tried = Vec::new();
        while let Some(value) = search.next() {
            assert!(tried.len() < PROBES_MAX, "{tried:?}");
            tried.push(value);
            search.record(value, value <= limit);
        }
        (tried, search.holds)
    }

    #[test]
    fn the_highest_value_that_holds_is_found() {
        let expected = vec![100.0, 200.0, 400.0, 800.0, 600.0, 700.0, 650.0, 625.0];
        assert_eq!(search(640.0, 100.0, 1e6, 0.05), (expected, Some(625.0)));
        assert_eq!(search(50.0, 100.0, 1e6, 0.05), (vec![100.0], None));
        assert_eq!(search(1e9, 100.0, 300.0, 0.05), (vec![100.0, 200.0, 300.0], Some(300.0)));
        assert_eq!(search(3.0, 1.0, 100.0, 0.001), (vec![1.0, 2.0, 4.0, 3.0], Some(3.0)));
        for limit in [101.0, 12_345.0, 999_999.0] {
            let (_, found) = search(limit, 100.0, 1e6, 0.05);
            assert!(found.is_some_and(|found| found <= limit && found >= limit / 1.06), "{limit}: {found:?}");
        }
        assert!(Search::new(5.0, 1.0, 0.05).is_err() && Search::new(1.0, 5.0, 0.0).is_err());
    }
}
