//! What is shown while it runs and when it is over.

#![expect(clippy::print_stdout, reason = "the result is for whoever ran it")]

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use crate::ledger::Faults;

/// Everything that a run has found.
pub struct Summary {
    /// Clients that were open at the end.
    pub connected: usize,
    /// Clients that were wanted.
    pub wanted: usize,
    /// Messages said.
    pub said: u64,
    /// Messages heard.
    pub deliveries: u64,
    /// Lost, doubled, late.
    pub faults: Faults,
    /// From the intended moment of saying to hearing, in microseconds.
    pub latency_us: Histogram<u64>,
    /// How long the talking took.
    pub elapsed: Duration,
    /// Why clients were lost.
    pub errors: BTreeMap<String, u64>,
    /// The most that saying was late against its plan.
    pub late_max: Duration,
    /// CPU of the server while it was talked to, if it was asked for.
    pub server_cpu: Option<Duration>,
    /// Its resident memory at the end, in bytes.
    pub server_rss: Option<u64>,
}

impl Summary {
    /// Whether everybody heard everything once and in order.
    pub fn is_clean(&self) -> bool {
        self.faults == Faults::default() && self.connected == self.wanted
    }

    /// When the swarm itself could not keep its plan, its latencies are its own.
    fn saturated(&self) -> bool {
        self.late_max > Duration::from_millis(20)
    }

    /// The table at the end.
    pub fn print(&self) {
        let rate = |count: u64| per_second(count, self.elapsed);
        let quantile = |q| Duration::from_micros(self.latency_us.value_at_quantile(q));
        println!("clients        {} of {}", self.connected, self.wanted);
        println!("said           {} ({}/s)", self.said, rate(self.said));
        println!("heard          {} ({}/s)", self.deliveries, rate(self.deliveries));
        let Faults { lost, duplicated, reordered } = self.faults;
        println!("lost           {lost}\nduplicated     {duplicated}\nreordered      {reordered}");
        for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            println!("latency {name:<6} {:?}", quantile(q));
        }
        if let Some(cpu) = self.server_cpu {
            println!("server CPU     {cpu:.2?}, {} ns for each delivery", nanos_each(cpu, self.deliveries));
        }
        if let Some(rss) = self.server_rss {
            println!("server memory  {} KiB", rss / 1024);
        }
        for (error, count) in &self.errors {
            println!("error          {count} × {error}");
        }
        if self.saturated() {
            println!(
                "note           the swarm was up to {:?} behind its own plan: it, not only the server, was at its limit",
                self.late_max
            );
        }
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        let quantiles: serde_json::Map<_, _> =
            [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
                .into_iter()
                .map(|(name, q)| (name.to_owned(), self.latency_us.value_at_quantile(q).into()))
                .collect();
        serde_json::json!({
            "clients": self.connected,
            "clients_wanted": self.wanted,
            "said": self.said,
            "deliveries": self.deliveries,
            "lost": self.faults.lost,
            "duplicated": self.faults.duplicated,
            "reordered": self.faults.reordered,
            "latency_us": quantiles,
            "elapsed_s": self.elapsed.as_secs_f64(),
            "errors": self.errors,
            "swarm_late_max_us": u64::try_from(self.late_max.as_micros()).unwrap_or(u64::MAX),
            "swarm_saturated": self.saturated(),
            "server_cpu_ns_per_delivery": self.server_cpu.map(|cpu| nanos_each(cpu, self.deliveries)),
            "server_rss_bytes": self.server_rss,
        })
    }
}

/// One line a second: on a terminal it replaces itself.
pub fn live(connected: usize, deliveries_per_s: u64, latency_us: &Histogram<u64>) {
    let p99 = Duration::from_micros(latency_us.value_at_quantile(0.99));
    let (begin, end) = if stderr().is_terminal() { ("\r\x1b[2K", "") } else { ("", "\n") };
    let _ =
        write!(stderr(), "{begin}{connected} connected, {deliveries_per_s} deliveries/s, p99 {p99:?}{end}");
    let _ = stderr().flush();
}

/// Ends the live line.
pub fn live_end() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[2K");
    }
}

fn nanos_each(cpu: Duration, count: u64) -> u64 {
    u64::try_from(cpu.as_nanos() / u128::from(count.max(1))).unwrap_or(u64::MAX)
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX)
}
