//! What a run must fulfil to pass, and the reason for each check that has failed.

use serde::{Deserialize, Serialize};

use crate::metric::{Facts, METRICS, unit_of};
use crate::pace::Pace;
use crate::threshold::ThresholdResult;
use crate::unit::{Unit, grouped};

/// A check of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The condition.
    pub name: String,
    /// Why it has failed; absent if it has passed.
    pub reason: Option<String>,
}

/// Checks that hold with thresholds, too, unless one of these metrics has a threshold: the clients are all
/// there when they should be.
const ALWAYS: [(&str, &[&str]); 2] = [
    ("not_connected", &["not_connected", "connected"]),
    ("storms_incomplete", &["storms_incomplete", "recovery_time", "not_connected", "connected"]),
];

/// The checks of a run with these thresholds. Without thresholds, all error metrics must be 0.
pub fn checks(facts: &Facts<'_>, thresholds: &[ThresholdResult]) -> Vec<Check> {
    let mut checks = vec![Check {
        name: "the run is complete".to_owned(),
        reason: facts
            .outcome
            .interrupted
            .then(|| "it was interrupted; these are the results so far".to_owned()),
    }];
    checks.extend(thresholds.iter().map(of_threshold));
    let has_threshold =
        |names: &[&str]| thresholds.iter().any(|result| names.contains(&result.metric.as_str()));
    for metric in METRICS.iter().filter(|metric| metric.is_error) {
        let always = ALWAYS.iter().find(|(name, _)| *name == metric.name);
        let applies = match always {
            Some((_, names)) => !has_threshold(names),
            None => thresholds.is_empty(),
        };
        if let (true, Some(value)) = (applies, (metric.value)(facts)) {
            let reason = (value != 0.0).then(|| reason(facts, metric.name, value));
            checks.push(Check { name: format!("{} == 0", metric.name), reason });
        }
    }
    checks
}

fn of_threshold(result: &ThresholdResult) -> Check {
    let unit = unit_of(&result.metric).unwrap_or(Unit::Count);
    let reason = || match result.value {
        Some(value) => format!("the value is {}", unit.format(value)),
        None => "this run does not have the metric".to_owned(),
    };
    Check { name: result.threshold.clone(), reason: (!result.passed).then(reason) }
}

/// Why an error metric is not 0, and what to do about it.
fn reason(facts: &Facts<'_>, name: &str, value: f64) -> String {
    let count = grouped(value);
    match name {
        "lost" => format!("{count} messages were published, and not received by a client that was connected"),
        "duplicated" => format!("{count} messages were received twice by a client"),
        "reordered" => format!("{count} messages were received after a later one of the same publisher"),
        "order_mismatch" => format!("{count} messages were received in another order than by other clients"),
        "misdelivered" => format!("{count} messages were received in another room than their own"),
        "undelivered" => format!("{count} messages were received by no client"),
        "storms_incomplete" => format!(
            "after {count} storms not all clients had reconnected: use a longer --duration, or a higher --handshakes"
        ),
        "not_connected" => format!(
            "{count} of {} clients were not connected when they should be{}",
            grouped(facts.plan.clients.into()),
            most_frequent(facts)
        ),
        "not_recovered" => format!(
            "{count} clients did not recover the messages that they had missed{}; the server's history must reach back \
             to the disconnection (Stentor: --history), or --downtime and --rate be lower",
            missed(facts)
        ),
        "errors" => format!("{count} errors were counted{}", most_frequent(facts)),
        _ => format!("{count}, where 0 is expected"),
    }
}

fn most_frequent(facts: &Facts<'_>) -> String {
    let most = facts.total.errors.iter().max_by_key(|&(_, count)| count);
    most.map_or_else(String::new, |(error, &count)| format!(": {count} × {error}"))
}

/// The number of messages that each client misses in the first storm.
fn missed(facts: &Facts<'_>) -> String {
    let Some(storm) = facts.plan.storms.first() else { return String::new() };
    let sent = Pace::new(facts.plan.stages.clone());
    let missed = sent.filter(|at| (storm.at..storm.reconnect_at).contains(at)).count();
    let missed = missed / (facts.plan.rooms.max(1) as usize);
    if missed == 0 { String::new() } else { format!(" (about {missed} for each)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::outcome::Outcome;
    use crate::plan::Scenario;
    use crate::stats::Stats;
    use crate::threshold::Threshold;

    fn outcome() -> Outcome {
        Outcome {
            seconds: std::collections::BTreeMap::new(),
            connected_at_start: Some(1000),
            connected: 1000,
            connect_ns: 1,
            connect_handshakes: 1000,
            running_ns: 1_000_000_000,
            running_handshakes: 0,
            ended_ns: 2_000_000_000,
            undelivered: 0,
            workers: Vec::new(),
            server: None,
            interrupted: false,
        }
    }

    /// The reasons of the checks that fail in a storm with these thresholds and errors.
    fn reasons(thresholds: &[&str], outcome: &Outcome, total: Stats) -> Vec<String> {
        let text = "resume = true\ndowntime = \"2s\"\nrate = 100\n";
        let plan = toml::from_str::<Options>(text).unwrap().plan(Scenario::Storm).unwrap();
        let facts = Facts { plan: &plan, outcome, total };
        let results = thresholds.iter().map(|text| {
            let threshold: Threshold = text.parse().unwrap();
            let metric = METRICS.iter().find(|metric| metric.name == threshold.metric()).unwrap();
            threshold.evaluate((metric.value)(&facts))
        });
        let results: Vec<_> = results.collect();
        checks(&facts, &results).into_iter().filter_map(|check| check.reason).collect()
    }

    #[test]
    fn a_failure_has_its_reason() {
        let recovered = Outcome { workers: vec![storm_of(Some(1))], ..outcome() };
        assert_eq!(reasons(&[], &recovered, Stats::default()), Vec::<String>::new());
        let total = Stats { not_recovered: 990, ..Stats::default() };
        let found = reasons(&[], &recovered, total);
        assert!(
            found[0].contains("990 clients did not recover") && found[0].contains("about 200"),
            "{found:?}"
        );
        assert_eq!(found.len(), 1);
    }

    fn storm_of(recovery_ns: Option<u64>) -> crate::message::WorkerSummary {
        crate::message::WorkerSummary {
            storms: vec![recovery_ns],
            ..crate::message::WorkerSummary::default()
        }
    }

    #[test]
    fn missing_clients_fail_a_run_unless_a_threshold_is_about_them() {
        let missing = Outcome { connected: 400, workers: vec![storm_of(None)], ..outcome() };
        let mut total = Stats::default();
        total.error("the handshake timed out".to_owned());
        let found = reasons(&["lost == 0"], &missing, total.clone());
        assert!(
            found[0].contains("600 of 1,000 clients") && found[0].contains("1 × the handshake"),
            "{found:?}"
        );
        assert_eq!(found.len(), 2, "and the storm");
        assert_eq!(reasons(&["connected >= 300"], &missing, total.clone()), Vec::<String>::new());
        assert_eq!(reasons(&["connected >= 500"], &missing, total), ["the value is 400"]);
    }

    #[test]
    fn an_interrupted_run_has_not_passed() {
        let interrupted = Outcome { interrupted: true, workers: vec![storm_of(Some(1))], ..outcome() };
        let found = reasons(&["lost == 0"], &interrupted, Stats::default());
        assert!(found.len() == 1 && found[0].contains("interrupted"), "{found:?}");
    }
}
