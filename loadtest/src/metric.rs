//! The metrics of a result: one table for the summary, thresholds, comparison and HTML report.

use crate::message::WorkerSummary;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::stats::{Stats, TimeHistogram};
use crate::unit::{Unit, seconds};

/// The input of all metrics.
#[derive(Debug)]
pub struct Facts<'f> {
    /// The plan of the run.
    pub plan: &'f Plan,
    /// What the run measured.
    pub outcome: &'f Outcome,
    /// The sum of all seconds.
    pub total: Stats,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name in thresholds and in JSON.
    pub name: &'static str,
    /// Title in tables.
    pub title: &'static str,
    /// Unit of the value.
    pub unit: Unit,
    /// Whether lower values are better; `None`: neutral.
    pub less_is_better: Option<bool>,
    /// Must be zero in a run that passes without thresholds.
    pub is_error: bool,
    /// Computes the value; `None`: the run does not have it.
    pub value: fn(&Facts<'_>) -> Option<f64>,
}

const fn metric(
    name: &'static str,
    title: &'static str,
    unit: Unit,
    less_is_better: Option<bool>,
    value: fn(&Facts<'_>) -> Option<f64>,
) -> Metric {
    Metric { name, title, unit, less_is_better, is_error: false, value }
}

const fn error(name: &'static str, title: &'static str, value: fn(&Facts<'_>) -> Option<f64>) -> Metric {
    Metric { name, title, unit: Unit::Count, less_is_better: Some(true), is_error: true, value }
}

const LESS: Option<bool> = Some(true);
const MORE: Option<bool> = Some(false);

/// All metrics, in the order of the summary.
pub const METRICS: &[Metric] = &[
    metric("clients", "target clients", Unit::Count, None, |f| Some(f64::from(f.plan.clients))),
    metric("connected", "connected clients", Unit::Count, None, |f| Some(f64::from(f.outcome.connected))),
    metric("handshakes", "handshakes", Unit::Count, None, |f| Some(count(f.total.handshakes))),
    metric("handshakes_per_s", "handshakes", Unit::PerSecond, MORE, handshakes_per_s),
    metric("handshake_p50", "handshake p50", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.5)),
    metric("handshake_p99", "handshake p99", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.99)),
    metric("handshake_max", "handshake max", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 1.0)),
    metric("published", "published", Unit::Count, None, |f| {
        if_publishing(f, count(f.total.published)).filter(|_| !f.plan.receive_only)
    }),
    metric("published_per_s", "published", Unit::PerSecond, None, |f| {
        per_second(f, f.total.published).filter(|_| !f.plan.receive_only)
    }),
    metric("skipped", "skipped", Unit::Count, LESS, |f| if_publishing(f, count(f.total.skipped))),
    metric("deliveries", "received", Unit::Count, None, |f| if_publishing(f, count(f.total.deliveries))),
    metric("deliveries_per_s", "received", Unit::PerSecond, MORE, |f| per_second(f, f.total.deliveries)),
    error("lost", "lost", |f| if_publishing(f, count(f.total.lost))),
    error("duplicated", "duplicated", |f| if_publishing(f, count(f.total.duplicated))),
    error("reordered", "reordered", |f| if_publishing(f, count(f.total.reordered))),
    error("order_mismatch", "order mismatch", |f| if_publishing(f, count(f.total.order_mismatch))),
    error("misdelivered", "misdelivered", |f| if_publishing(f, count(f.total.misdelivered))),
    error("undelivered", "undelivered", |f| if_publishing(f, count(f.outcome.undelivered))),
    error("errors", "errors", |f| Some(count(f.total.error_count()))),
    metric("mean", "latency mean", Unit::Seconds, LESS, |f| {
        (f.total.latency.count() > 0).then(|| f.total.latency.mean() / 1e6)
    }),
    metric("p50", "latency p50", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.5)),
    metric("p90", "latency p90", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.9)),
    metric("p99", "latency p99", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.99)),
    metric("p999", "latency p99.9", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.999)),
    metric("max", "latency max", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 1.0)),
    metric("recovery_time", "recovery time", Unit::Seconds, LESS, recovery_time),
    metric("storms_incomplete", "incomplete storms", Unit::Count, LESS, storms_incomplete),
    metric("recovered", "recovered clients", Unit::Count, MORE, |f| if_resuming(f, f.total.recovered)),
    metric("recovered_messages", "recovered messages", Unit::Count, None, |f| {
        if_resuming(f, f.total.recovered_messages)
    }),
    error("not_recovered", "clients not recovered", |f| if_resuming(f, f.total.not_recovered)),
    metric("slow_clients", "slow readers", Unit::Count, None, slow_clients),
    metric("slow_closed", "slow readers closed", Unit::Count, None, |f| {
        slow_clients(f).map(|_| count(f.total.slow_closed))
    }),
    metric("server_cpu", "server CPU (of a core)", Unit::Ratio, LESS, server_cpu),
    metric(
        "server_cpu_per_delivery",
        "server CPU per delivery",
        Unit::Seconds,
        LESS,
        server_cpu_per_delivery,
    ),
    metric(
        "server_cpu_per_handshake",
        "server CPU per handshake",
        Unit::Seconds,
        LESS,
        server_cpu_per_handshake,
    ),
    metric("server_memory", "server memory", Unit::Bytes, LESS, |f| {
        f.outcome.server.map(|[_, _, finished]| count(finished.memory))
    }),
    metric("server_memory_peak", "server memory peak", Unit::Bytes, LESS, server_memory_peak),
    metric(
        "server_memory_per_client",
        "server memory per client",
        Unit::Bytes,
        LESS,
        server_memory_per_client,
    ),
    metric("send_lag_p99", "send lag p99", Unit::Seconds, LESS, |f| quantile(&f.total.send_lag, 0.99)),
    metric("swarm_cpu_max", "swarm CPU, busiest worker", Unit::Ratio, None, cpu_max),
    metric("swarm_cpu_per_delivery", "swarm CPU per delivery", Unit::Seconds, None, swarm_cpu_per_delivery),
    metric("swarm_memory_per_client", "swarm memory per client", Unit::Bytes, None, |f| {
        let memory = f.outcome.workers.iter().map(|worker| worker.memory).sum();
        Some(count(memory) / f64::from(f.plan.clients))
    }),
];

#[expect(clippy::cast_precision_loss, reason = "counters stay below 2^52")]
const fn count(value: u64) -> f64 {
    value as f64
}

/// Only for runs with publishers.
fn if_publishing(facts: &Facts<'_>, value: f64) -> Option<f64> {
    (facts.plan.publishers > 0).then_some(value)
}

fn running_seconds(facts: &Facts<'_>) -> Option<f64> {
    Some(count(facts.outcome.running_ns) / 1e9).filter(|&running_seconds| running_seconds > 0.0)
}

fn per_second(facts: &Facts<'_>, value: u64) -> Option<f64> {
    if_publishing(facts, count(value) / running_seconds(facts)?)
}

fn quantile(times: &TimeHistogram, q: f64) -> Option<f64> {
    (times.count() > 0).then(|| seconds(times.quantile(q)))
}

/// Divides by the connect phase if each client connects once, and by the whole run with `--close`.
fn handshakes_per_s(facts: &Facts<'_>) -> Option<f64> {
    let again = facts.plan.close;
    let ns = facts.outcome.connect_ns + if again { facts.outcome.running_ns } else { 0 };
    let count =
        if again { facts.total.handshakes } else { facts.total.handshakes.min(facts.plan.clients.into()) };
    (facts.plan.connect_first || again).then(|| self::count(count) / (self::count(ns) / 1e9))
}

/// The share of a core that the busiest worker used while messages were published.
pub fn cpu_max(facts: &Facts<'_>) -> Option<f64> {
    let share = |worker: &WorkerSummary| count(worker.cpu_ns) / count(worker.running_ns.max(1));
    facts.outcome.workers.iter().filter(|worker| worker.running_ns > 0).map(share).reduce(f64::max)
}

fn swarm_cpu_per_delivery(facts: &Facts<'_>) -> Option<f64> {
    let cpu: u64 = facts.outcome.workers.iter().map(|worker| worker.cpu_ns).sum();
    (facts.total.deliveries > 0).then(|| count(cpu) / 1e9 / count(facts.total.deliveries))
}

fn recovery_time(facts: &Facts<'_>) -> Option<f64> {
    let all = facts.outcome.workers.iter().flat_map(|worker| worker.storms.iter().flatten());
    all.max().map(|&ns| count(ns) / 1e9)
}

fn storms_incomplete(facts: &Facts<'_>) -> Option<f64> {
    let unfinished = |storm: usize| {
        facts.outcome.workers.iter().any(|worker| worker.storms.get(storm).copied().flatten().is_none())
    };
    let storms = facts.plan.storms.len();
    (storms > 0).then(|| count((0..storms).filter(|&storm| unfinished(storm)).count() as u64))
}

/// Only for runs with `--resume`.
fn if_resuming(facts: &Facts<'_>, value: u64) -> Option<f64> {
    facts.plan.resume.then(|| count(value))
}

/// The maximum of the samples, one per second.
fn server_memory_peak(facts: &Facts<'_>) -> Option<f64> {
    let samples = facts.outcome.server?.map(|sample| sample.memory);
    let seconds = facts.outcome.seconds.values().filter_map(|second| Some(second.server?.1));
    samples.into_iter().chain(seconds).max().map(count)
}

fn slow_clients(facts: &Facts<'_>) -> Option<f64> {
    let slow = facts.plan.never_read + facts.plan.slow_read;
    (slow > 0).then(|| f64::from(slow))
}

fn server_cpu_ns(facts: &Facts<'_>) -> Option<f64> {
    facts
        .outcome
        .server
        .map(|[_, connected, finished]| count(finished.cpu_ns.saturating_sub(connected.cpu_ns)))
}

fn server_cpu(facts: &Facts<'_>) -> Option<f64> {
    Some(server_cpu_ns(facts)? / 1e9 / running_seconds(facts)?)
}

fn server_cpu_per_delivery(facts: &Facts<'_>) -> Option<f64> {
    let deliveries = facts.total.deliveries + facts.total.slow_deliveries;
    (deliveries > 0).then(|| Some(server_cpu_ns(facts)? / 1e9 / count(deliveries)))?
}

fn server_cpu_per_handshake(facts: &Facts<'_>) -> Option<f64> {
    let [before, connected, finished] = facts.outcome.server?;
    let end = if facts.plan.close { finished } else { connected };
    let quiet = facts.plan.connect_first || facts.plan.close;
    (quiet && facts.total.handshakes > 0).then(|| {
        let once = facts.total.handshakes.min(facts.plan.clients.into());
        let handshakes = if facts.plan.close { facts.total.handshakes } else { once };
        count(end.cpu_ns.saturating_sub(before.cpu_ns)) / 1e9 / count(handshakes)
    })
}

/// Memory of the first `clients` clients: the difference between before the first one and after all have
/// connected.
fn server_memory_per_client(facts: &Facts<'_>) -> Option<f64> {
    let [before, connected, finished] = facts.outcome.server?;
    let with = if facts.plan.publishers == 0 { finished } else { connected };
    let clients = facts.total.handshakes.min(facts.plan.clients.into());
    (facts.plan.connect_first && clients > 0)
        .then(|| (count(with.memory) - count(before.memory)) / count(clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|other| other.name != metric.name), "{}", metric.name);
        }
    }
}
