//! What a run has found, in the form in which it is kept, shown and compared.

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
use crate::plan::{Plan, Speech};
use crate::tally::{Tally, Times};
use crate::threshold::{Threshold, Verdict};
use crate::unit::{Unit, seconds};

/// A second of the run, as it is plotted. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Which second of the run.
    pub second: u64,
    /// Clients that were in.
    pub connected: u32,
    /// Messages said.
    pub said: u64,
    /// Messages heard.
    pub deliveries: u64,
    /// Handshakes done.
    pub handshakes: u64,
    /// What went wrong.
    pub errors: u64,
    /// Half of the messages took no longer; absent where there was none.
    pub p50: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Of one core, the share that the server used.
    pub server_cpu: Option<f64>,
    /// Its resident memory, in bytes.
    pub server_memory: Option<u64>,
}

impl Point {
    fn new(second: u64, found: &Second) -> Self {
        let Second { tally, connected, server } = found;
        let quantile = |q| (tally.latency.count() > 0).then(|| seconds(tally.latency.quantile(q)));
        #[expect(clippy::cast_precision_loss, reason = "shares need no more than 52 bits")]
        Self {
            second,
            connected: *connected,
            said: tally.said,
            deliveries: tally.deliveries,
            handshakes: tally.handshakes,
            errors: tally.error_count(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: quantile(1.0),
            server_cpu: server.map(|(cpu_ns, _)| cpu_ns as f64 / 1e9),
            server_memory: server.map(|(_, memory)| memory),
        }
    }
}

/// A run's result. It is written as JSON and read again for comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of swarm that made it.
    pub swarm: String,
    /// What kind of run.
    pub scenario: String,
    /// Against whom.
    pub url: String,
    /// What repeats it.
    pub command: String,
    /// When it ended, RFC 3339.
    pub ended: String,
    /// The numbers by their names: times in seconds, memory in bytes.
    pub metrics: BTreeMap<String, f64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What has to be known to judge the numbers.
    pub notes: Vec<String>,
    /// What became of the thresholds.
    pub thresholds: Vec<Verdict>,
    /// Whether all is well: the thresholds hold; without any, everybody heard everything once and in order.
    pub passed: bool,
    /// Second by second.
    pub timeline: Vec<Point>,
    /// Latencies: microseconds, and how many messages took them.
    pub latency: Times,
    /// The same of opening handshakes.
    pub handshake: Times,
}

/// Behind its own plan by more than this, the swarm measures itself.
const LATE_MAX_US: u64 = 10_000;

/// With more than this share of its core in use, too.
const BUSY_MAX: f64 = 0.95;

impl Report {
    /// Draws the conclusions.
    pub fn new(plan: &Plan, outcome: &Outcome, thresholds: &[Threshold], command: String) -> Self {
        let mut total = Tally::default();
        for second in outcome.seconds.values() {
            total.add(&second.tally);
        }
        let facts = Facts { plan, outcome, total };
        let metrics: BTreeMap<String, f64> = METRICS
            .iter()
            .filter_map(|metric| Some((metric.name.to_owned(), (metric.value)(&facts)?)))
            .collect();
        let verdicts: Vec<_> = thresholds.iter().map(|threshold| threshold.judge(&metrics)).collect();
        let passed = if verdicts.is_empty() {
            let faults = METRICS.iter().filter(|metric| metric.is_fault);
            faults.filter_map(|metric| metrics.get(metric.name)).all(|&count| count == 0.0)
        } else {
            verdicts.iter().all(|verdict| verdict.holds)
        };
        let notes = notes(&facts);
        Self {
            swarm: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: plan.scenario.name().to_owned(),
            url: plan.target.url.clone(),
            command,
            ended: ended(),
            metrics,
            errors: facts.total.errors,
            notes,
            thresholds: verdicts,
            passed,
            timeline: outcome.seconds.iter().map(|(&second, found)| Point::new(second, found)).collect(),
            latency: facts.total.latency,
            handshake: facts.total.handshake,
        }
    }

    /// A number of this run.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// The table for whoever ran it.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// Writes the files that were asked for.
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
        html.map_or(Ok(()), |path| write(path, page::page(self)))
    }

    /// Reads a result.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{} is no result of --json: {error}", path.display()))
    }
}

/// What has to be known to judge the numbers.
fn notes(facts: &Facts<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let late = facts.total.lateness.quantile(0.99);
    let busy = metric::busy(facts).unwrap_or(0.0);
    let advice =
        "what was measured is in part its own; give it more --workers, or other cores than the server";
    if busy > BUSY_MAX {
        let share = busy * 100.0;
        notes.push(format!(
            "the swarm was at its limit, its busiest worker used {share:.0} % of a core: {advice}"
        ));
    }
    if late > LATE_MAX_US {
        let late = Unit::Seconds.show(seconds(late));
        notes.push(format!(
            "the swarm said one message of a hundred {late} or more behind its plan: {advice}"
        ));
    }
    if facts.outcome.interrupted {
        notes.push("it was ended by hand: these are the results so far".to_owned());
    }
    if let (Speech::Window(_), true) = (facts.plan.speech, facts.total.said > 0) {
        notes.push(
            "speakers waited for their own messages to come back: latency is counted from when they were said, and \
             a slow server is asked less"
                .to_owned(),
        );
    }
    if facts.total.unsaid > 0 {
        notes.push(format!(
            "{} messages were due while their speakers were not connected",
            facts.total.unsaid
        ));
    }
    notes
}

fn ended() -> String {
    #[expect(clippy::disallowed_methods, reason = "a date for people: nothing is measured by it")]
    let now = SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string()
}
