//! The reports of a worker: statistics for each second, and the final summary.

use crate::clock::{self, SECOND};
use crate::message::WorkerSummary;

/// The current second of the run, and this process's own cost.
pub struct Reporter {
    epoch_ns: u64,
    second: u64,
    cpu_before_ns: u64,
    memory_before: u64,
    end: WorkerSummary,
}

fn own_memory() -> u64 {
    crate::process::memory(std::process::id()).unwrap_or(0)
}

impl Reporter {
    /// Counts seconds from `epoch_ns`. To be called before the first client connects.
    pub fn new(epoch_ns: u64, now: u64) -> Self {
        Self {
            epoch_ns,
            second: now.saturating_sub(epoch_ns) / SECOND,
            cpu_before_ns: 0,
            memory_before: own_memory(),
            end: WorkerSummary::default(),
        }
    }

    /// Starts the first stage.
    pub fn begin(&mut self) {
        self.cpu_before_ns = clock::cpu_used();
    }

    /// The stages are over; they took `ran_ns`.
    pub fn stages_ended(&mut self, ran_ns: u64) {
        self.end.cpu_ns = clock::cpu_used().saturating_sub(self.cpu_before_ns);
        self.end.running_ns = ran_ns;
    }

    /// The current second.
    pub const fn second(&self) -> u64 {
        self.second
    }

    /// Whether the current second is over.
    pub const fn is_new_second(&self, now: u64) -> bool {
        now.saturating_sub(self.epoch_ns) / SECOND > self.second
    }

    /// Advances to the second of `now`; returns the one before.
    pub const fn advance_to(&mut self, now: u64) -> u64 {
        let ended = self.second;
        self.second = now.saturating_sub(self.epoch_ns) / SECOND;
        ended
    }

    /// The results: the received count per publisher, the recovery time per storm, and the number of source
    /// addresses in use.
    pub fn finish(&mut self, received: Vec<u32>, storms: Vec<Option<u64>>, sources: u32) {
        self.end.received = received;
        self.end.storms = storms;
        self.end.sources = sources;
        self.end.memory = own_memory().saturating_sub(self.memory_before);
    }

    /// The clients have left; so many got no answer to their Close frame.
    pub const fn closed(&mut self, unanswered: u32) {
        self.end.unanswered_closes = unanswered;
    }

    /// The final summary.
    pub fn end(self) -> WorkerSummary {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_reported_as_they_end() {
        let epoch_ns = 5 * SECOND;
        let mut reporter = Reporter::new(epoch_ns, epoch_ns + SECOND / 2);
        assert!(!reporter.is_new_second(epoch_ns + SECOND - 1));
        assert!(reporter.is_new_second(epoch_ns + SECOND));
        assert_eq!(reporter.advance_to(epoch_ns + 4 * SECOND), 0, "what is not reported belongs to it");
        assert_eq!(reporter.second(), 4);
        assert!(!reporter.is_new_second(epoch_ns), "a clock that goes back has no effect");
    }

    #[test]
    fn the_summary_has_all_values() {
        let mut reporter = Reporter::new(0, 0);
        reporter.begin();
        reporter.stages_ended(7);
        reporter.finish(vec![1, 2], vec![None, Some(3)], 2);
        reporter.closed(4);
        let end = reporter.end();
        assert_eq!((end.running_ns, end.received, end.storms), (7, vec![1, 2], vec![None, Some(3)]));
        assert_eq!((end.sources, end.unanswered_closes), (2, 4));
    }
}
