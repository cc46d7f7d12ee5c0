//! Counters and histograms of a run. Those of several workers or seconds add up.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::order::Delivery;

/// An hour in microseconds, the upper bound of a recorded time.
const MICROSECONDS_MAX: u64 = 3_600_000_000;

/// A histogram of times in microseconds, with three significant digits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct TimeHistogram(Histogram<u64>);

impl Default for TimeHistogram {
    #[expect(clippy::unwrap_used, reason = "the bounds are constants that fit")]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MICROSECONDS_MAX, 3).unwrap())
    }
}

impl TimeHistogram {
    /// Records a time in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    /// The value at quantile `q`, in microseconds.
    pub fn quantile(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q)
    }

    /// The maximum, in microseconds.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The mean, in microseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The number of recorded times.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The histogram itself.
    pub const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }
}

impl From<Vec<(u64, u64)>> for TimeHistogram {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut times = Self::default();
        for (value, count) in pairs {
            times.0.saturating_record_n(value, count);
        }
        times
    }
}

impl From<TimeHistogram> for Vec<(u64, u64)> {
    fn from(times: TimeHistogram) -> Self {
        times.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

/// The counters and histograms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Published messages.
    pub published: u64,
    /// Those of the warm-up, which are included.
    pub warmup_published: u64,
    /// Messages that were due while their publisher was not connected.
    pub skipped: u64,
    /// Messages received by clients that read immediately.
    pub deliveries: u64,
    /// Those of the warm-up, which are included.
    pub warmup_deliveries: u64,
    /// Messages received by slow readers.
    pub slow_deliveries: u64,
    /// Received bytes, including frames and handshakes.
    pub bytes: u64,
    /// Completed opening handshakes, including joins.
    pub handshakes: u64,
    /// Messages received twice.
    pub duplicated: u64,
    /// Messages received after a later one of the same publisher.
    pub reordered: u64,
    /// Messages in order for their publisher, but received by another client in another order relative to
    /// other publishers.
    pub order_mismatch: u64,
    /// Messages received in a room to which they were not published.
    pub misdelivered: u64,
    /// Messages that a connected client did not receive. Known at the end, or when a client disconnects.
    pub lost: u64,
    /// Reconnected clients without missing messages, according to the server.
    pub recovered: u64,
    /// Reconnected clients with missing messages, and clients that did not reconnect.
    pub not_recovered: u64,
    /// Messages that reconnected clients recovered.
    pub recovered_messages: u64,
    /// Slow readers that the server has disconnected.
    pub slow_closed: u64,
    /// Connections that had to wait for a free source port.
    pub no_port: u64,
    /// Errors by message.
    pub errors: BTreeMap<String, u64>,
    /// From the intended send time to the reception.
    pub latency: TimeHistogram,
    /// From the start of a connection to its readiness.
    pub handshake: TimeHistogram,
    /// From the intended to the actual send time.
    pub send_lag: TimeHistogram,
}

/// The number of different error messages that are kept.
const ERROR_KINDS_MAX: usize = 50;

impl Stats {
    /// Counts a delivery. False if it is not counted.
    pub fn record_delivery(&mut self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::InOrder => {}
            Delivery::Duplicate => self.duplicated += 1,
            Delivery::Reordered => self.reordered += 1,
            Delivery::OrderMismatch => self.order_mismatch += 1,
            Delivery::Old => return false,
        }
        self.deliveries += 1;
        true
    }

    /// Counts an error.
    pub fn error(&mut self, text: String) {
        self.errors_of(text, 1);
    }

    /// Counts `count` errors of one kind.
    pub fn errors_of(&mut self, text: String, count: u64) {
        if count > 0 {
            self.add_errors(text, count);
        }
    }

    fn add_errors(&mut self, text: String, count: u64) {
        let known = self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(&text);
        let text = if known { text } else { "other errors".to_owned() };
        *self.errors.entry(text).or_default() += count;
    }

    /// The number of errors.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds another set of statistics.
    pub fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.warmup_published += other.warmup_published;
        self.skipped += other.skipped;
        self.deliveries += other.deliveries;
        self.warmup_deliveries += other.warmup_deliveries;
        self.slow_deliveries += other.slow_deliveries;
        self.bytes += other.bytes;
        self.handshakes += other.handshakes;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.order_mismatch += other.order_mismatch;
        self.misdelivered += other.misdelivered;
        self.lost += other.lost;
        self.recovered += other.recovered;
        self.not_recovered += other.not_recovered;
        self.recovered_messages += other.recovered_messages;
        self.slow_closed += other.slow_closed;
        self.no_port += other.no_port;
        for (text, &count) in &other.errors {
            self.add_errors(text.clone(), count);
        }
        self.latency.add(&other.latency);
        self.handshake.add(&other.handshake);
        self.send_lag.add(&other.send_lag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_survive_serialization() {
        let mut stats = Stats { published: 3, ..Stats::default() };
        for ns in [900, 1_000, 1_500_000, 77_000_000_000, u64::MAX] {
            stats.latency.record_ns(ns);
        }
        stats.error("refused".to_owned());
        let copy: Stats = serde_json::from_str(&serde_json::to_string(&stats).unwrap()).unwrap();
        assert_eq!(copy.latency.histogram(), stats.latency.histogram());
        let mut both = stats.clone();
        both.add(&copy);
        assert_eq!((both.published, both.latency.count(), both.error_count()), (6, 10, 2));
        assert_eq!(both.latency.quantile(0.5), stats.latency.quantile(0.5));
    }
}
