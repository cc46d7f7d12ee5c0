//! The numbers of a result: one table, from which the summary, the thresholds, the comparison and the page are made.

use crate::message::End;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::tally::{Tally, Times};
use crate::unit::{Unit, seconds};

/// What is computed from: everything that a run has counted.
#[derive(Debug)]
pub struct Facts<'f> {
    /// What was to be done.
    pub plan: &'f Plan,
    /// What was found.
    pub outcome: &'f Outcome,
    /// All seconds together.
    pub total: Tally,
}

/// One number of a result.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As it is called in thresholds and in JSON.
    pub name: &'static str,
    /// As it is called in tables.
    pub title: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// More is worse; `None` where neither is.
    pub less_is_better: Option<bool>,
    /// Must be zero if all is well.
    pub is_fault: bool,
    /// Where it comes from; nothing if this run does not have it.
    pub value: fn(&Facts<'_>) -> Option<f64>,
}

const fn metric(
    name: &'static str,
    title: &'static str,
    unit: Unit,
    less_is_better: Option<bool>,
    value: fn(&Facts<'_>) -> Option<f64>,
) -> Metric {
    Metric { name, title, unit, less_is_better, is_fault: false, value }
}

const fn fault(name: &'static str, title: &'static str, value: fn(&Facts<'_>) -> Option<f64>) -> Metric {
    Metric { name, title, unit: Unit::Count, less_is_better: Some(true), is_fault: true, value }
}

const LESS: Option<bool> = Some(true);
const MORE: Option<bool> = Some(false);

/// All numbers, in the order of the summary.
pub const METRICS: &[Metric] = &[
    metric("clients", "clients wanted", Unit::Count, None, |f| Some(f64::from(f.plan.clients))),
    metric("connected", "clients in at the end", Unit::Count, None, |f| Some(f64::from(f.outcome.connected))),
    metric("handshakes", "handshakes", Unit::Count, None, |f| Some(count(f.total.handshakes))),
    metric("handshakes_per_s", "handshakes", Unit::PerSecond, MORE, handshakes_per_s),
    metric("handshake_p50", "handshake p50", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.5)),
    metric("handshake_p99", "handshake p99", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.99)),
    metric("handshake_max", "handshake max", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 1.0)),
    metric("said", "said", Unit::Count, None, |f| {
        talk(f, count(f.total.said)).filter(|_| !f.plan.only_listen)
    }),
    metric("said_per_s", "said", Unit::PerSecond, None, |f| {
        per_second(f, f.total.said).filter(|_| !f.plan.only_listen)
    }),
    metric("unsaid", "could not be said", Unit::Count, LESS, |f| talk(f, count(f.total.unsaid))),
    metric("deliveries", "heard", Unit::Count, None, |f| talk(f, count(f.total.deliveries))),
    metric("deliveries_per_s", "heard", Unit::PerSecond, MORE, |f| per_second(f, f.total.deliveries)),
    fault("lost", "lost", |f| talk(f, count(f.total.lost))),
    fault("duplicated", "duplicated", |f| talk(f, count(f.total.duplicated))),
    fault("reordered", "reordered", |f| talk(f, count(f.total.reordered))),
    fault("crossed", "in another order than for others", |f| talk(f, count(f.total.crossed))),
    fault("strayed", "heard in a wrong room", |f| talk(f, count(f.total.strayed))),
    fault("unheard", "heard by nobody", |f| talk(f, count(f.outcome.unheard))),
    fault("errors", "errors", |f| Some(count(f.total.error_count()))),
    metric("mean", "latency mean", Unit::Seconds, LESS, |f| {
        (f.total.latency.count() > 0).then(|| f.total.latency.mean() / 1e6)
    }),
    metric("p50", "latency p50", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.5)),
    metric("p90", "latency p90", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.9)),
    metric("p99", "latency p99", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.99)),
    metric("p999", "latency p99.9", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.999)),
    metric("max", "latency max", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 1.0)),
    metric("storm_back", "all back after a storm in", Unit::Seconds, LESS, storm_back),
    metric("storms_unfinished", "storms after which not all were back", Unit::Count, LESS, storms_unfinished),
    metric("recovered", "returns to where they had been", Unit::Count, MORE, |f| {
        resumed(f, f.total.recovered)
    }),
    metric("caught_up", "heard on return", Unit::Count, None, |f| resumed(f, f.total.caught_up)),
    fault("not_recovered", "returns that missed something", |f| resumed(f, f.total.not_recovered)),
    metric("slow_clients", "slow readers", Unit::Count, None, slow_clients),
    metric("slow_closed", "slow readers closed by the server", Unit::Count, None, |f| {
        slow_clients(f).map(|_| count(f.total.slow_closed))
    }),
    metric("server_cpu", "server CPU, of a core", Unit::Share, LESS, server_cpu),
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
        f.outcome.server.map(|[_, _, spoken]| count(spoken.memory))
    }),
    metric("server_memory_peak", "server memory, most", Unit::Bytes, LESS, server_memory_peak),
    metric(
        "server_memory_per_client",
        "server memory per client",
        Unit::Bytes,
        LESS,
        server_memory_per_client,
    ),
    metric("swarm_late_p99", "the swarm's own lateness p99", Unit::Seconds, LESS, |f| {
        quantile(&f.total.lateness, 0.99)
    }),
    metric("swarm_busy", "the swarm's busiest worker, of a core", Unit::Share, None, busy),
    metric(
        "swarm_cpu_per_delivery",
        "the swarm's CPU per delivery",
        Unit::Seconds,
        None,
        swarm_cpu_per_delivery,
    ),
    metric("swarm_memory_per_client", "the swarm's memory per client", Unit::Bytes, None, |f| {
        let memory = f.outcome.ends.iter().map(|end| end.memory).sum();
        Some(count(memory) / f64::from(f.plan.clients))
    }),
];

#[expect(clippy::cast_precision_loss, reason = "what is counted here stays below 2^52")]
const fn count(value: u64) -> f64 {
    value as f64
}

/// Only for runs in which somebody speaks.
fn talk(facts: &Facts<'_>, value: f64) -> Option<f64> {
    (facts.plan.speakers > 0).then_some(value)
}

fn talked(facts: &Facts<'_>) -> Option<f64> {
    Some(count(facts.outcome.talked_ns) / 1e9).filter(|&talked| talked > 0.0)
}

fn per_second(facts: &Facts<'_>, value: u64) -> Option<f64> {
    talk(facts, count(value) / talked(facts)?)
}

fn quantile(times: &Times, q: f64) -> Option<f64> {
    (times.count() > 0).then(|| seconds(times.quantile(q)))
}

/// Where clients come once, by the time in which they came; where they come again and again, by the whole time.
fn handshakes_per_s(facts: &Facts<'_>) -> Option<f64> {
    let again = facts.plan.close;
    let ns = facts.outcome.gathered_ns + if again { facts.outcome.talked_ns } else { 0 };
    let count =
        if again { facts.total.handshakes } else { facts.total.handshakes.min(facts.plan.clients.into()) };
    (facts.plan.gather || again).then(|| self::count(count) / (self::count(ns) / 1e9))
}

/// The share of a core that the busiest worker used while it talked.
pub fn busy(facts: &Facts<'_>) -> Option<f64> {
    let share = |end: &End| count(end.cpu_ns) / count(end.talked_ns.max(1));
    facts.outcome.ends.iter().filter(|end| end.talked_ns > 0).map(share).reduce(f64::max)
}

fn swarm_cpu_per_delivery(facts: &Facts<'_>) -> Option<f64> {
    let cpu: u64 = facts.outcome.ends.iter().map(|end| end.cpu_ns).sum();
    (facts.total.deliveries > 0).then(|| count(cpu) / 1e9 / count(facts.total.deliveries))
}

fn storm_back(facts: &Facts<'_>) -> Option<f64> {
    let all = facts.outcome.ends.iter().flat_map(|end| end.storms.iter().flatten());
    all.max().map(|&ns| count(ns) / 1e9)
}

fn storms_unfinished(facts: &Facts<'_>) -> Option<f64> {
    let unfinished = |storm: usize| {
        facts.outcome.ends.iter().any(|end| end.storms.get(storm).copied().flatten().is_none())
    };
    let storms = facts.plan.storms.len();
    (storms > 0).then(|| count((0..storms).filter(|&storm| unfinished(storm)).count() as u64))
}

/// Only for runs in which clients resume.
fn resumed(facts: &Facts<'_>, value: u64) -> Option<f64> {
    facts.plan.resume.then(|| count(value))
}

/// As far as looks of one a second can see it.
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
    facts.outcome.server.map(|[_, gathered, spoken]| count(spoken.cpu_ns.saturating_sub(gathered.cpu_ns)))
}

fn server_cpu(facts: &Facts<'_>) -> Option<f64> {
    Some(server_cpu_ns(facts)? / 1e9 / talked(facts)?)
}

fn server_cpu_per_delivery(facts: &Facts<'_>) -> Option<f64> {
    let deliveries = facts.total.deliveries + facts.total.slow_deliveries;
    (deliveries > 0).then(|| Some(server_cpu_ns(facts)? / 1e9 / count(deliveries)))?
}

fn server_cpu_per_handshake(facts: &Facts<'_>) -> Option<f64> {
    let [before, gathered, spoken] = facts.outcome.server?;
    let end = if facts.plan.close { spoken } else { gathered };
    let quiet = facts.plan.gather || facts.plan.close;
    (quiet && facts.total.handshakes > 0).then(|| {
        let once = facts.total.handshakes.min(facts.plan.clients.into());
        let handshakes = if facts.plan.close { facts.total.handshakes } else { once };
        count(end.cpu_ns.saturating_sub(before.cpu_ns)) / 1e9 / count(handshakes)
    })
}

/// What the first `clients` cost: from before the first one to when all were in.
fn server_memory_per_client(facts: &Facts<'_>) -> Option<f64> {
    let [before, gathered, spoken] = facts.outcome.server?;
    let with = if facts.plan.speakers == 0 { spoken } else { gathered };
    let clients = facts.total.handshakes.min(facts.plan.clients.into());
    (facts.plan.gather && clients > 0).then(|| (count(with.memory) - count(before.memory)) / count(clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|other| other.name != metric.name), "{}", metric.name);
        }
    }
}
