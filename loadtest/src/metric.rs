//! The metrics of a result: one table for the summary, thresholds, comparison and HTML report.

use crate::message::WorkerSummary;
use crate::outcome::{Outcome, ServerUsage};
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
    metric("connected", "connected clients", Unit::Count, None, |f| {
        Some(f64::from(f.outcome.connected)).filter(|_| !f.plan.close)
    }),
    error("not_connected", "clients not connected", not_connected),
    metric("handshakes", "handshakes", Unit::Count, None, |f| Some(count(f.total.handshakes))),
    metric("reconnects", "reconnects", Unit::Count, None, reconnects),
    metric("handshakes_per_s", "handshakes", Unit::PerSecond, MORE, handshakes_per_s),
    metric("handshake_p50", "handshake p50", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.5)),
    metric("handshake_p99", "handshake p99", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 0.99)),
    metric("handshake_max", "handshake max", Unit::Seconds, LESS, |f| quantile(&f.total.handshake, 1.0)),
    metric("published", "published", Unit::Count, None, |f| {
        if_publishing(f, count(f.total.published)).filter(|_| !f.plan.receive_only)
    }),
    metric("published_per_s", "published", Unit::PerSecond, None, |f| {
        per_second(f, f.total.published - f.total.warmup_published).filter(|_| !f.plan.receive_only)
    }),
    metric("skipped", "skipped", Unit::Count, LESS, |f| if_publishing(f, count(f.total.skipped))),
    metric("deliveries", "received", Unit::Count, None, |f| if_publishing(f, count(f.total.deliveries))),
    metric("deliveries_per_s", "received", Unit::PerSecond, MORE, |f| {
        per_second(f, f.total.deliveries - f.total.warmup_deliveries)
    }),
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
    metric("p95", "latency p95", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.95)),
    metric("p99", "latency p99", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.99)),
    metric("p999", "latency p99.9", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 0.999)),
    metric("max", "latency max", Unit::Seconds, LESS, |f| quantile(&f.total.latency, 1.0)),
    metric("recovery_time", "recovery time", Unit::Seconds, LESS, recovery_time),
    error("storms_incomplete", "incomplete storms", storms_incomplete),
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
        f.outcome.server.map(|server| count(server.finished.memory))
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

/// The time of publishing that is measured: without the warm-up.
fn measured_seconds(facts: &Facts<'_>) -> Option<f64> {
    let measured_ns = facts.outcome.running_ns.saturating_sub(facts.plan.warmup_ns);
    Some(count(measured_ns) / 1e9).filter(|&seconds| seconds > 0.0)
}

fn per_second(facts: &Facts<'_>, value: u64) -> Option<f64> {
    if_publishing(facts, count(value) / measured_seconds(facts)?)
}

/// Clients that were missing at the start of the first stage or at the end, whichever are more. Slow readers
/// that the server has disconnected are not missed.
fn not_connected(facts: &Facts<'_>) -> Option<f64> {
    let Outcome { connected_at_start, connected, interrupted, .. } = *facts.outcome;
    if facts.plan.close || interrupted {
        return None;
    }
    let at_start = connected_at_start.map_or(0, |connected| facts.plan.clients.saturating_sub(connected));
    let at_end = u64::from(facts.plan.clients_at_end().saturating_sub(connected));
    Some(count(at_end.saturating_sub(facts.total.slow_closed).max(at_start.into())))
}

/// Handshakes after the connect phase.
fn reconnects(facts: &Facts<'_>) -> Option<f64> {
    let count = facts.total.handshakes - facts.outcome.connect_handshakes;
    (facts.plan.connect_first && count > 0).then(|| self::count(count))
}

fn quantile(times: &TimeHistogram, q: f64) -> Option<f64> {
    (times.count() > 0).then(|| seconds(times.quantile(q)))
}

/// Of the connect phase if each client connects once, while publishing with churn, and of the whole run with
/// `--close`.
fn handshakes_per_s(facts: &Facts<'_>) -> Option<f64> {
    let Outcome { connect_ns, running_ns, connect_handshakes, running_handshakes, .. } = *facts.outcome;
    let (handshakes, ns) = if facts.plan.close {
        (facts.total.handshakes, connect_ns + running_ns)
    } else if facts.plan.churn > 0.0 {
        (running_handshakes, running_ns)
    } else if facts.plan.connect_first {
        (connect_handshakes, connect_ns)
    } else {
        return None;
    };
    (ns > 0).then(|| count(handshakes) / (count(ns) / 1e9))
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
    let ServerUsage { before, connected, measured, finished } = facts.outcome.server?;
    let samples = [before, connected, measured, finished].map(|sample| sample.memory);
    let seconds = facts.outcome.seconds.values().filter_map(|second| Some(second.server?.1));
    samples.into_iter().chain(seconds).max().map(count)
}

fn slow_clients(facts: &Facts<'_>) -> Option<f64> {
    let slow = facts.plan.never_read + facts.plan.slow_read;
    (slow > 0).then(|| f64::from(slow))
}

fn server_cpu_ns(facts: &Facts<'_>) -> Option<f64> {
    let server = facts.outcome.server?;
    Some(count(server.finished.cpu_ns.saturating_sub(server.measured.cpu_ns)))
}

fn server_cpu(facts: &Facts<'_>) -> Option<f64> {
    Some(server_cpu_ns(facts)? / 1e9 / measured_seconds(facts)?)
}

fn server_cpu_per_delivery(facts: &Facts<'_>) -> Option<f64> {
    let deliveries = facts.total.deliveries - facts.total.warmup_deliveries + facts.total.slow_deliveries;
    (deliveries > 0).then(|| Some(server_cpu_ns(facts)? / 1e9 / count(deliveries)))?
}

fn server_cpu_per_handshake(facts: &Facts<'_>) -> Option<f64> {
    let server = facts.outcome.server?;
    let (end, handshakes) = if facts.plan.close {
        (server.finished, facts.total.handshakes)
    } else {
        (server.connected, facts.outcome.connect_handshakes)
    };
    (handshakes > 0 && (facts.plan.connect_first || facts.plan.close))
        .then(|| count(end.cpu_ns.saturating_sub(server.before.cpu_ns)) / 1e9 / count(handshakes))
}

/// What the server's memory has grown by from before the first client until all had connected, for each. None
/// if it has not grown.
fn server_memory_per_client(facts: &Facts<'_>) -> Option<f64> {
    let server = facts.outcome.server?;
    let with = if facts.plan.publishers == 0 { server.finished } else { server.connected };
    let (clients, grown) =
        (facts.outcome.connect_handshakes, with.memory.saturating_sub(server.before.memory));
    (facts.plan.connect_first && clients > 0 && grown > 0).then(|| count(grown) / count(clients))
}

/// The histograms of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Times {
    Latency,
    Handshake,
    SendLag,
}

/// Any percentile of the latency, of the handshakes (`handshake_p75`) or of the send lag (`send_lag_p50`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Percentile {
    times: Times,
    quantile: f64,
}

impl Percentile {
    /// Parses a name: `p50`, `p99.95`; without a point, digits after the second are decimals: `p999` is
    /// `p99.9`.
    pub fn parse(name: &str) -> Option<Self> {
        let prefixes =
            [("handshake_p", Times::Handshake), ("send_lag_p", Times::SendLag), ("p", Times::Latency)];
        let (digits, times) =
            prefixes.iter().find_map(|&(prefix, times)| Some((name.strip_prefix(prefix)?, times)))?;
        if !digits.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return None;
        }
        let percent: f64 = match digits.split_at_checked(2) {
            Some((whole, decimals)) if digits != "100" && !digits.contains('.') => {
                format!("{whole}.{decimals}").parse().ok()?
            }
            _ => digits.parse().ok()?,
        };
        (0.0..=100.0).contains(&percent).then_some(Self { times, quantile: percent / 100.0 })
    }

    /// Its value, in seconds; `None` without times.
    pub fn of(self, total: &Stats) -> Option<f64> {
        let times = match self.times {
            Times::Latency => &total.latency,
            Times::Handshake => &total.handshake,
            Times::SendLag => &total.send_lag,
        };
        quantile(times, self.quantile)
    }
}

/// The unit of a metric or percentile.
pub fn unit_of(name: &str) -> Option<Unit> {
    let metric = METRICS.iter().find(|metric| metric.name == name);
    metric.map(|metric| metric.unit).or_else(|| Percentile::parse(name).map(|_| Unit::Seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn names_are_unique() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|other| other.name != metric.name), "{}", metric.name);
        }
    }

    #[test]
    fn percentiles_are_parsed() {
        let quantile = |name: &str| Percentile::parse(name).map(|percentile| percentile.quantile * 100.0);
        for (name, percent) in [
            ("p50", 50.0),
            ("p5", 5.0),
            ("p95", 95.0),
            ("p999", 99.9),
            ("p9999", 99.99),
            ("p99.95", 99.95),
            ("p100", 100.0),
            ("handshake_p75", 75.0),
            ("send_lag_p50", 50.0),
        ] {
            assert!((quantile(name).unwrap() - percent).abs() < 1e-9, "{name}");
        }
        assert_eq!(["p", "p101.5", "published", "px", "q50", "p-1", "p1.2.3"].map(quantile), [None; 7]);
        assert_eq!(Percentile::parse("handshake_p75").unwrap().times, Times::Handshake);
    }

    /// What `change` makes of the facts of a chat run of ten clients for ten seconds.
    fn value(name: &str, options: &Options, change: impl Fn(&mut Outcome, &mut Stats)) -> Option<f64> {
        let plan = Options { clients: Some(10), publishers: Some(1), ..options.clone() }
            .plan(Scenario::Chat)
            .unwrap();
        let mut outcome = Outcome {
            seconds: std::collections::BTreeMap::new(),
            connected_at_start: Some(10),
            connected: 10,
            connect_ns: 1_000_000,
            connect_handshakes: 10,
            running_ns: 10_000_000_000,
            running_handshakes: 0,
            ended_ns: 11_000_000_000,
            undelivered: 0,
            workers: Vec::new(),
            server: None,
            interrupted: false,
        };
        let mut total = Stats { handshakes: 10, ..Stats::default() };
        change(&mut outcome, &mut total);
        let facts = Facts { plan: &plan, outcome: &outcome, total };
        (METRICS.iter().find(|metric| metric.name == name).unwrap().value)(&facts)
    }

    #[test]
    fn clients_that_are_not_connected_are_counted() {
        let options = Options::default();
        let missing = |change: fn(&mut Outcome, &mut Stats)| value("not_connected", &options, change);
        assert_eq!(missing(|_, _| {}), Some(0.0));
        assert_eq!(missing(|outcome, _| outcome.connected = 3), Some(7.0));
        assert_eq!(missing(|outcome, _| outcome.connected_at_start = Some(8)), Some(2.0));
        assert_eq!(missing(|outcome, _| outcome.interrupted = true), None);
        assert_eq!(
            missing(|outcome, total| (outcome.connected, total.slow_closed) = (6, 4)),
            Some(0.0),
            "slow readers"
        );
    }

    #[test]
    fn churn_has_the_rate_of_the_run_and_a_warm_up_is_left_out() {
        let churn = Options { churn: Some(crate::units::Rate(5.0)), ..Options::default() };
        let rate = value("handshakes_per_s", &churn, |outcome, total| {
            (outcome.running_handshakes, total.handshakes) = (40, 50);
        });
        assert_eq!(rate, Some(4.0));
        assert_eq!(value("handshakes_per_s", &Options::default(), |_, _| {}), Some(10_000.0));
        let warm = Options { warmup: Some(crate::units::Span::seconds(5)), ..Options::default() };
        let rate = value("deliveries_per_s", &warm, |_, total| {
            (total.deliveries, total.warmup_deliveries) = (10_000, 9_000);
        });
        assert_eq!(rate, Some(200.0));
    }

    #[test]
    fn memory_that_has_not_grown_is_not_shown() {
        let usage = |memory| crate::process::Usage { memory, ..crate::process::Usage::default() };
        let grown = |before, connected| {
            value("server_memory_per_client", &Options::default(), |outcome, _| {
                let [before, connected] = [before, connected].map(usage);
                outcome.server =
                    Some(ServerUsage { before, connected, measured: connected, finished: connected });
            })
        };
        assert_eq!((grown(1000, 2000), grown(2000, 1000), grown(5, 5)), (Some(100.0), None, None));
    }
}
