//! The result of a run, as it is stored, shown and compared.

mod chart;
pub mod compare;
mod hgrm;
mod page;
mod table;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use crate::metric::{self, Facts, METRICS};
use crate::outcome::{Outcome, Second};
use crate::plan::{LoadModel, Plan};
use crate::stats::{Stats, TimeHistogram};
use crate::threshold::{Threshold, ThresholdResult};
use crate::unit::{Unit, seconds};

/// One second of the run. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The second, from the start of the run.
    pub second: u64,
    /// Connected clients.
    pub connected: u32,
    /// Published messages.
    pub published: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Completed handshakes.
    pub handshakes: u64,
    /// Errors.
    pub errors: u64,
    /// Median latency; absent without deliveries.
    pub p50: Option<f64>,
    /// Latency at the 99th percentile.
    pub p99: Option<f64>,
    /// Maximum latency.
    pub max: Option<f64>,
    /// CPU of the server, as a share of one core.
    pub server_cpu: Option<f64>,
    /// Resident memory of the server, in bytes.
    pub server_memory: Option<u64>,
}

impl Point {
    fn new(second: u64, found: &Second) -> Self {
        let Second { stats, connected, server } = found;
        let quantile = |q| (stats.latency.count() > 0).then(|| seconds(stats.latency.quantile(q)));
        #[expect(clippy::cast_precision_loss, reason = "shares need no more than 52 bits")]
        Self {
            second,
            connected: *connected,
            published: stats.published,
            deliveries: stats.deliveries,
            handshakes: stats.handshakes,
            errors: stats.error_count(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: quantile(1.0),
            server_cpu: server.map(|(cpu_ns, _)| cpu_ns as f64 / 1e9),
            server_memory: server.map(|(_, memory)| memory),
        }
    }
}

/// The result of a run, stored as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of swarm.
    pub version: String,
    /// The scenario.
    pub scenario: String,
    /// The URL of the server.
    pub url: String,
    /// The command line.
    pub command: String,
    /// The end of the run, RFC 3339.
    pub finished_at: String,
    /// Values of metrics by name: times in seconds, memory in bytes.
    pub metrics: BTreeMap<String, f64>,
    /// Errors by message.
    pub errors: BTreeMap<String, u64>,
    /// Limitations of the measurement.
    pub notes: Vec<String>,
    /// The evaluated thresholds.
    pub thresholds: Vec<ThresholdResult>,
    /// Whether all thresholds passed; without thresholds, whether no error was counted.
    pub passed: bool,
    /// Statistics by second.
    pub timeline: Vec<Point>,
    /// Latencies: pairs of microseconds and count.
    pub latency: TimeHistogram,
    /// Handshake durations, in the same form.
    pub handshake: TimeHistogram,
}

/// With a higher send lag, latencies include swarm's own delay.
const SEND_LAG_MAX_US: u64 = 10_000;

/// With a higher share of its core in use, a worker is the limit.
const CPU_MAX: f64 = 0.95;

impl Report {
    /// Computes the result.
    pub fn new(plan: &Plan, outcome: &Outcome, thresholds: &[Threshold], command: String) -> Self {
        let mut total = Stats::default();
        for second in outcome.seconds.values() {
            total.add(&second.stats);
        }
        let facts = Facts { plan, outcome, total };
        let metrics: BTreeMap<String, f64> = METRICS
            .iter()
            .filter_map(|metric| Some((metric.name.to_owned(), (metric.value)(&facts)?)))
            .collect();
        let results: Vec<_> = thresholds.iter().map(|threshold| threshold.evaluate(&metrics)).collect();
        let passed = if results.is_empty() {
            let errors = METRICS.iter().filter(|metric| metric.is_error);
            errors.filter_map(|metric| metrics.get(metric.name)).all(|&count| count == 0.0)
        } else {
            results.iter().all(|result| result.passed)
        };
        let notes = notes(&facts);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: plan.scenario.name().to_owned(),
            url: plan.target.url.clone(),
            command,
            finished_at: finished_at(),
            metrics,
            errors: facts.total.errors,
            notes,
            thresholds: results,
            passed,
            timeline: outcome.seconds.iter().map(|(&second, found)| Point::new(second, found)).collect(),
            latency: facts.total.latency,
            handshake: facts.total.handshake,
        }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// The summary for a terminal.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// Writes the requested files.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn write(&self, json: Option<&Path>, hdr: Option<&Path>, html: Option<&Path>) -> Result<(), String> {
        let as_json =
            || serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| error.to_string());
        let write = |path: &Path, text: String| {
            std::fs::write(path, text)
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))
        };
        json.map_or(Ok(()), |path| write(path, as_json()?))?;
        hdr.map_or(Ok(()), |path| write(path, hgrm::hgrm(self.latency.histogram())))?;
        html.map_or(Ok(()), |path| write(path, page::page(self)?))
    }

    /// Reads a result.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{} is not a result of --json: {error}", path.display()))
    }
}

/// Limitations of the measurement.
fn notes(facts: &Facts<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let send_lag = facts.total.send_lag.quantile(0.99);
    let cpu_max = metric::cpu_max(facts).unwrap_or(0.0);
    let advice =
        "latencies include swarm's own delay; use more --workers, or cores that the server does not use";
    if cpu_max > CPU_MAX {
        let share = cpu_max * 100.0;
        notes.push(format!("swarm was the limit, its busiest worker used {share:.0} % of a core: {advice}"));
    }
    if send_lag > SEND_LAG_MAX_US {
        let send_lag = Unit::Seconds.format(seconds(send_lag));
        notes.push(format!("the send lag has a p99 of {send_lag}: {advice}"));
    }
    if facts.outcome.interrupted {
        notes.push("interrupted: these are the results so far".to_owned());
    }
    if let (LoadModel::ClosedLoop(_), true) = (facts.plan.load_model, facts.total.published > 0) {
        notes.push(
            "closed loop: a slow server receives fewer messages, and latency is counted from the actual send time"
                .to_owned(),
        );
    }
    if facts.total.skipped > 0 {
        notes.push(format!(
            "{} messages were skipped because their publishers were not connected",
            facts.total.skipped
        ));
    }
    notes
}

fn finished_at() -> String {
    #[expect(clippy::disallowed_methods, reason = "a date for the reader, not a measurement")]
    let now = SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string()
}
