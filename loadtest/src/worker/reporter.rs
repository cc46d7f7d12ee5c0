//! What the parent is told of a worker's clients: a tally for each second, and at the end what only then is known.

use crate::clock::{self, SECOND};
use crate::message::{End, Tick};
use crate::tally::Tally;

/// The seconds of the run, and this process's own cost.
pub struct Reporter {
    epoch_ns: u64,
    second: u64,
    cpu_before_ns: u64,
    memory_before: u64,
    end: End,
}

fn own_memory() -> u64 {
    crate::process::memory(std::process::id()).unwrap_or(0)
}

impl Reporter {
    /// Seconds are counted from `epoch_ns`; before the first client.
    pub fn new(epoch_ns: u64, now: u64) -> Self {
        Self {
            epoch_ns,
            second: now.saturating_sub(epoch_ns) / SECOND,
            cpu_before_ns: 0,
            memory_before: own_memory(),
            end: End::default(),
        }
    }

    /// The first stage begins.
    pub fn begin(&mut self) {
        self.cpu_before_ns = clock::cpu_used();
    }

    /// The stages are over, and took so long.
    pub fn stages_ended(&mut self, ran_ns: u64) {
        self.end.cpu_ns = clock::cpu_used().saturating_sub(self.cpu_before_ns);
        self.end.talked_ns = ran_ns;
    }

    /// What was counted in the second that is told next.
    pub const fn tick(&self, tally: Tally, connected: u32) -> Tick {
        Tick { second: self.second, tally, connected }
    }

    /// Whether another second has begun than the one that is told next.
    pub const fn is_new_second(&self, now: u64) -> bool {
        now.saturating_sub(self.epoch_ns) / SECOND > self.second
    }

    /// The second that is told next is the one of this moment.
    pub const fn turn_to(&mut self, now: u64) {
        self.second = now.saturating_sub(self.epoch_ns) / SECOND;
    }

    /// Everything is counted: so many messages of each speaker were heard, and the storms took so long.
    pub fn close(&mut self, heard: Vec<u32>, storms: Vec<Option<u64>>) {
        self.end.heard = heard;
        self.end.storms = storms;
        self.end.memory = own_memory().saturating_sub(self.memory_before);
    }

    /// The last that is told.
    pub fn end(self) -> End {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_as_they_end() {
        let epoch_ns = 5 * SECOND;
        let mut reporter = Reporter::new(epoch_ns, epoch_ns + SECOND / 2);
        assert!(!reporter.is_new_second(epoch_ns + SECOND - 1));
        assert!(reporter.is_new_second(epoch_ns + SECOND));
        assert_eq!(
            reporter.tick(Tally::default(), 3).second,
            0,
            "what was counted before belongs to the old one"
        );
        reporter.turn_to(epoch_ns + 4 * SECOND);
        assert_eq!(reporter.tick(Tally::default(), 3).second, 4);
        assert!(!reporter.is_new_second(epoch_ns), "no clock goes back, but nothing happens if one does");
    }

    #[test]
    fn the_end_has_all_that_was_told() {
        let mut reporter = Reporter::new(0, 0);
        reporter.begin();
        reporter.stages_ended(7);
        reporter.close(vec![1, 2], vec![None, Some(3)]);
        let end = reporter.end();
        assert_eq!((end.talked_ns, end.heard, end.storms), (7, vec![1, 2], vec![None, Some(3)]));
    }
}
