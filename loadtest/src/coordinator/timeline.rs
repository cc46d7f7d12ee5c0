//! What all workers have reported so far, by second.

use std::collections::BTreeMap;

use crate::message::IntervalReport;
use crate::outcome::Second;
use crate::stats::Stats;

/// The newest state of a worker.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    connected: u32,
    in_handshake: u32,
    complete_before: u64,
}

/// The reports of all workers.
#[derive(Debug)]
pub struct Timeline {
    /// By second, from the start of the run.
    pub seconds: BTreeMap<u64, Second>,
    /// The sum of all seconds.
    pub total: Stats,
    workers: Vec<Reported>,
}

impl Timeline {
    /// No worker has reported.
    pub fn new(workers: usize) -> Self {
        Self {
            seconds: BTreeMap::new(),
            total: Stats::default(),
            workers: vec![Reported::default(); workers],
        }
    }

    /// Adds a report of a worker.
    pub fn add(&mut self, worker: usize, report: &IntervalReport) {
        let &IntervalReport { connected, in_handshake, complete_before, .. } = report;
        self.workers[worker] = Reported { connected, in_handshake, complete_before };
        let connected = self.connected();
        let second = self.seconds.entry(report.second).or_default();
        second.stats.add(&report.stats);
        second.connected = connected;
        self.total.add(&report.stats);
    }

    /// A worker reports no more.
    pub fn completed(&mut self, worker: usize) {
        self.workers[worker].complete_before = u64::MAX;
    }

    /// Connected clients.
    pub fn connected(&self) -> u32 {
        self.workers.iter().map(|worker| worker.connected).sum()
    }

    /// Clients in the opening handshake or joining.
    pub fn in_handshake(&self) -> u32 {
        self.workers.iter().map(|worker| worker.in_handshake).sum()
    }

    /// All workers have reported everything that happened before this second.
    pub fn complete_before(&self) -> u64 {
        self.workers.iter().map(|worker| worker.complete_before).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_complete_when_all_workers_have_reported_it() {
        let mut timeline = Timeline::new(2);
        let report = |second, complete_before, deliveries| IntervalReport {
            second,
            complete_before,
            stats: Stats { deliveries, ..Stats::default() },
            connected: 3,
            in_handshake: 1,
        };
        timeline.add(0, &report(0, 1, 10));
        assert_eq!((timeline.complete_before(), timeline.connected()), (0, 3), "the other is late");
        timeline.add(1, &report(0, 0, 4));
        assert_eq!(timeline.complete_before(), 0, "a part of a second");
        timeline.add(1, &report(0, 3, 7));
        assert_eq!((timeline.complete_before(), timeline.in_handshake()), (1, 2));
        timeline.add(0, &report(1, 2, 5));
        timeline.completed(1);
        assert_eq!(timeline.complete_before(), 2);
        let deliveries: Vec<_> = timeline.seconds.values().map(|second| second.stats.deliveries).collect();
        assert_eq!((deliveries, timeline.total.deliveries), (vec![21, 5], 26));
    }
}
