//! What is counted. Tallies of several workers, or of several seconds, add up to one.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::order::Heard;

/// An hour, in microseconds: longer than anything waits here.
const MICROSECONDS_MAX: u64 = 3_600_000_000;

/// Times in microseconds, to three digits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Times(Histogram<u64>);

impl Default for Times {
    #[expect(clippy::unwrap_used, reason = "the bounds are constants that fit")]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MICROSECONDS_MAX, 3).unwrap())
    }
}

impl Times {
    /// One more, given in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    /// The time that the share `q` is not above, in microseconds.
    pub fn quantile(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q)
    }

    /// The longest one.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// All of them by their number.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// How many there are.
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

impl From<Vec<(u64, u64)>> for Times {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut times = Self::default();
        for (value, count) in pairs {
            times.0.saturating_record_n(value, count);
        }
        times
    }
}

impl From<Times> for Vec<(u64, u64)> {
    fn from(times: Times) -> Self {
        times.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Messages that were said.
    pub said: u64,
    /// Messages that could not be said, since their speaker was not connected.
    pub unsaid: u64,
    /// Messages that were heard, each by each.
    pub deliveries: u64,
    /// Those of them that clients heard which read slowly.
    pub slow_deliveries: u64,
    /// Bytes that arrived, with frames and handshakes.
    pub bytes: u64,
    /// Opening handshakes that were answered, joining included.
    pub handshakes: u64,
    /// Heard twice.
    pub duplicated: u64,
    /// Heard after a later one of the same speaker.
    pub reordered: u64,
    /// In order for its speaker, but at another place among the others than for other listeners.
    pub crossed: u64,
    /// Heard in a room in which it was not said.
    pub strayed: u64,
    /// Missed by a client that was there. Known at the end, or when a client leaves.
    pub lost: u64,
    /// Clients that came back to where they had been, by what the server says.
    pub recovered: u64,
    /// Clients that did not: the server no longer had what they had missed, or they never came back.
    pub not_recovered: u64,
    /// Messages that were said while a client was away, and that it heard when it came back.
    pub caught_up: u64,
    /// Slow readers that the server has closed.
    pub slow_closed: u64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// From the intended moment of saying to hearing.
    pub latency: Times,
    /// From connecting to being in.
    pub handshake: Times,
    /// How late messages were said, by the swarm's own fault.
    pub lateness: Times,
}

/// More kinds of errors than this are not told apart.
const ERROR_KINDS_MAX: usize = 50;

impl Tally {
    /// One more delivery, and what it meant. False if it does not count.
    pub fn hears(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::InOrder => {}
            Heard::Duplicate => self.duplicated += 1,
            Heard::Reordered => self.reordered += 1,
            Heard::Crossed => self.crossed += 1,
            Heard::Old => return false,
        }
        self.deliveries += 1;
        true
    }

    /// One more error.
    pub fn error(&mut self, what: String) {
        self.errors_of(what, 1);
    }

    fn errors_of(&mut self, what: String, count: u64) {
        let known = self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(&what);
        let what = if known { what } else { "other errors".to_owned() };
        *self.errors.entry(what).or_default() += count;
    }

    /// How many errors there are.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Takes another one in.
    pub fn add(&mut self, other: &Self) {
        self.said += other.said;
        self.unsaid += other.unsaid;
        self.deliveries += other.deliveries;
        self.slow_deliveries += other.slow_deliveries;
        self.bytes += other.bytes;
        self.handshakes += other.handshakes;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.crossed += other.crossed;
        self.strayed += other.strayed;
        self.lost += other.lost;
        self.recovered += other.recovered;
        self.not_recovered += other.not_recovered;
        self.caught_up += other.caught_up;
        self.slow_closed += other.slow_closed;
        for (what, &count) in &other.errors {
            self.errors_of(what.clone(), count);
        }
        self.latency.add(&other.latency);
        self.handshake.add(&other.handshake);
        self.lateness.add(&other.lateness);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_survive_the_way_from_worker_to_parent() {
        let mut tally = Tally { said: 3, ..Tally::default() };
        for ns in [900, 1_000, 1_500_000, 77_000_000_000, u64::MAX] {
            tally.latency.record_ns(ns);
        }
        tally.error("gone".to_owned());
        let copy: Tally = serde_json::from_str(&serde_json::to_string(&tally).unwrap()).unwrap();
        assert_eq!(copy.latency.histogram(), tally.latency.histogram());
        let mut both = tally.clone();
        both.add(&copy);
        assert_eq!((both.said, both.latency.count(), both.error_count()), (6, 10, 2));
        assert_eq!(both.latency.quantile(0.5), tally.latency.quantile(0.5));
    }
}
