//! The result of a run, as it is stored, shown and compared.

mod asked;
mod chart;
mod checks;
pub mod compare;
mod files;
mod hgrm;
mod host;
mod junit;
mod page;
mod prometheus;
mod table;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use crate::clock::SECOND;
use crate::metric::{self, Facts, METRICS, Percentile};
use crate::outcome::{Outcome, Second, ServerUsage};
use crate::plan::{LoadModel, Plan};
use crate::stats::{Stats, TimeHistogram};
use crate::threshold::{Threshold, ThresholdResult};
use crate::unit::{Unit, seconds};
pub use checks::Check;
pub use files::{Files, Kind};
use host::Host;

/// One second of the run. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The second, from the start of the run.
    pub second: u64,
    /// How much of it belongs to the run, in seconds: less than 1 in the last one.
    pub covered: f64,
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
    fn new(second: u64, found: &Second, ended_ns: u64) -> Self {
        let Second { stats, connected, server } = found;
        let quantile = |q| (stats.latency.count() > 0).then(|| seconds(stats.latency.quantile(q)));
        let covered_ns = ended_ns.saturating_sub(second * SECOND).min(SECOND);
        #[expect(clippy::cast_precision_loss, reason = "shares need no more than 52 bits")]
        Self {
            second,
            covered: covered_ns as f64 / 1e9,
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

/// One run of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The rate, or the number of clients.
    pub value: f64,
    /// Whether all thresholds held, without an error.
    pub passed: bool,
    /// Deliveries per second.
    pub deliveries_per_s: Option<f64>,
    /// Median latency.
    pub p50: Option<f64>,
    /// Latency at the 99th percentile.
    pub p99: Option<f64>,
    /// Maximum latency.
    pub max: Option<f64>,
    /// CPU of the server, as a share of one core.
    pub server_cpu: Option<f64>,
    /// Whether swarm itself was the limit.
    pub limited_by_swarm: bool,
    /// What did not hold.
    pub reason: String,
}

/// The result of a run, stored as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The version of swarm.
    pub version: String,
    /// The scenario.
    pub scenario: String,
    /// How messages travelled.
    pub transport: String,
    /// The URL of the server.
    pub url: String,
    /// The command line.
    pub command: String,
    /// The end of the run, RFC 3339.
    pub finished_at: String,
    /// The machine that swarm ran on.
    pub host: Host,
    /// What the run was asked to do, by option.
    pub asked: BTreeMap<String, String>,
    /// Values of metrics by name: times in seconds, memory in bytes.
    pub metrics: BTreeMap<String, f64>,
    /// Errors by message.
    pub errors: BTreeMap<String, u64>,
    /// Limitations of the measurement.
    pub notes: Vec<String>,
    /// The evaluated thresholds.
    pub thresholds: Vec<ThresholdResult>,
    /// What the run had to fulfil: the thresholds; without them, no errors; and always, that it was complete.
    pub checks: Vec<Check>,
    /// Whether all checks passed.
    pub passed: bool,
    /// Whether the user interrupted the run.
    pub interrupted: bool,
    /// Whether the latencies include swarm's own delay.
    pub limited_by_swarm: bool,
    /// The runs of a search, by value; this is the result of the highest that held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Probe>,
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
        let value =
            |name: &str| metrics.get(name).copied().or_else(|| Percentile::parse(name)?.of(&facts.total));
        let evaluate = |threshold: &Threshold| threshold.evaluate(value(threshold.metric()));
        let results: Vec<_> = thresholds.iter().map(evaluate).collect();
        let checks = checks::checks(&facts, &results);
        let (notes, limited_by_swarm) = (notes(&facts), limited_by_swarm(&facts));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: plan.scenario.name().to_owned(),
            transport: plan.target.protocol.transport.name().to_owned(),
            url: plan.target.url.clone(),
            command,
            finished_at: finished_at(),
            host: Host::read(),
            asked: asked::asked(plan),
            metrics,
            errors: facts.total.errors,
            notes,
            thresholds: results,
            passed: checks.iter().all(|check| check.reason.is_none()),
            checks,
            interrupted: outcome.interrupted,
            limited_by_swarm,
            curve: Vec::new(),
            timeline: outcome
                .seconds
                .iter()
                .map(|(&second, found)| Point::new(second, found, outcome.ended_ns))
                .collect(),
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

    /// The result in the form of each kind of file.
    ///
    /// # Errors
    /// The message of the library that renders it.
    fn rendered(&self, kind: Kind) -> Result<String, String> {
        match kind {
            Kind::Json => {
                serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| error.to_string())
            }
            Kind::Hdr => Ok(hgrm::hgrm(self.latency.histogram())),
            Kind::Html => page::page(self),
            Kind::Junit => Ok(junit::junit(self)),
            Kind::Prometheus => Ok(prometheus::prometheus(self)),
        }
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

/// Whether swarm's own delay is part of the latencies.
fn limited_by_swarm(facts: &Facts<'_>) -> bool {
    let late = facts.total.send_lag.quantile(0.99) > SEND_LAG_MAX_US;
    late || metric::cpu_max(facts).is_some_and(|share| share > CPU_MAX)
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
    notes.extend(own_limits(facts));
    notes.extend(facts.outcome.server.and_then(warmed_note));
    if facts.plan.warmup_ns > 0 {
        let warmup = Unit::Seconds.format(seconds(facts.plan.warmup_ns / 1000));
        notes.push(format!("the first {warmup} of publishing are checked, but not measured"));
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

/// What swarm or its machine lacked.
fn own_limits(facts: &Facts<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if facts.total.no_port > 0 {
        notes.push(format!(
            "{} times swarm found no free source port, and the client had to wait: the ports of its addresses are in \
             use or in TIME_WAIT; add addresses with --source",
            facts.total.no_port
        ));
    }
    let sources = facts.outcome.workers.iter().map(|worker| worker.sources).max().unwrap_or(0);
    if sources > 1 {
        notes.push(format!(
            "connections came from {sources} source addresses, as the ports of one are too few"
        ));
    }
    let unanswered: u32 = facts.outcome.workers.iter().map(|worker| worker.unanswered_closes).sum();
    if unanswered > 0 {
        notes.push(format!("{unanswered} clients got no answer to their Close frame at the end"));
    }
    notes
}

/// CPU of a server that has done no more than start, in nanoseconds.
const START_CPU_NS: u64 = SECOND;

/// Memory that a server frees after its start, in bytes.
const START_FREED: u64 = 1 << 20;

/// A server that was in use before the run reuses the memory of earlier clients.
fn warmed_note(ServerUsage { before, .. }: ServerUsage) -> Option<String> {
    let freed = before.memory_peak.saturating_sub(before.memory);
    let warmed = before.cpu_ns > START_CPU_NS || freed > START_FREED.max(before.memory / 20);
    warmed.then(|| {
        "the server was in use before this run and may reuse memory: for its memory per client, restart it first".to_owned()
    })
}

fn finished_at() -> String {
    #[expect(clippy::disallowed_methods, reason = "a date for the reader, not a measurement")]
    let now = SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Usage;

    #[test]
    fn the_last_second_may_be_a_part_of_one() {
        let covered = |second| Point::new(second, &Second::default(), 5 * SECOND / 2).covered;
        assert_eq!([0, 1, 2, 3].map(covered), [1.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn a_server_that_was_in_use_is_noticed() {
        let note = |cpu_ns, memory, memory_peak| {
            let before = Usage { cpu_ns, memory, memory_peak };
            warmed_note(ServerUsage { before, connected: before, measured: before, finished: before })
                .is_some()
        };
        assert!(!note(SECOND / 10, 5 << 20, 5 << 20), "it has started");
        assert!(note(20 * SECOND, 5 << 20, 5 << 20), "it has worked");
        assert!(note(SECOND / 10, 5 << 20, 50 << 20), "it has freed memory");
    }
}
