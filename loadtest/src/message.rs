//! The messages between the coordinator and its workers.

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::stats::Stats;

/// The first message to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The plan of the run.
    pub plan: Plan,
    /// The index of this worker.
    pub index: u32,
    /// The number of workers.
    pub of: u32,
    /// The start of the run, from which seconds are counted.
    pub epoch_ns: u64,
}

impl Assignment {
    /// This worker's share of `all` items that are assigned round-robin.
    pub const fn share(&self, all: u32) -> u32 {
        (all + self.of - 1).saturating_sub(self.index) / self.of
    }

    /// The global index of this worker's client `local`.
    pub const fn global(&self, local: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the number of clients is a u32")]
        let local = local as u32;
        local * self.of + self.index
    }

    /// The local index of the client `global`, at the worker that has it.
    pub const fn local(&self, global: u32) -> usize {
        (global / self.of) as usize
    }
}

/// A command to a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// All clients are connected: the first stage starts at this time.
    Start(u64),
    /// All workers have published; the number of messages of each publisher. Drain what is in flight, then
    /// finish.
    Drain(Vec<u32>),
    /// Finish now, with the results so far.
    Stop,
}

/// A message from a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WorkerMessage {
    /// What happened since the last interval report.
    Interval(Box<IntervalReport>),
    /// Its clients have connected or failed.
    Connected,
    /// Its stages are over; the messages of each of its publishers.
    Published(Vec<(u32, u32)>),
    /// The worker has finished.
    Finished(WorkerSummary),
    /// The worker cannot continue, for this reason.
    Failed(String),
}

/// The statistics of one second, or of a part of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntervalReport {
    /// The second, from the start of the run.
    pub second: u64,
    /// The counters.
    pub stats: Stats,
    /// Clients that are connected now.
    pub connected: u32,
}

/// What is known only at the end of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerSummary {
    /// The number of different messages of each publisher that this worker's clients have received.
    pub received: Vec<u32>,
    /// For each storm, the recovery time in nanoseconds.
    pub storms: Vec<Option<u64>>,
    /// CPU that the worker used while publishing, in nanoseconds.
    pub cpu_ns: u64,
    /// Duration of publishing, in nanoseconds.
    pub running_ns: u64,
    /// Memory that its clients cost, in bytes.
    pub memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;

    #[test]
    fn every_client_belongs_to_one_worker() {
        let plan = crate::options::Options::default().plan(Scenario::Chat).unwrap();
        for (clients, of) in [(1, 1), (10, 3), (9, 3), (3, 3)] {
            let assigned = (0..of).flat_map(|index| {
                let assignment = Assignment { plan: plan.clone(), index, of, epoch_ns: 0 };
                let locals = 0..assignment.share(clients) as usize;
                locals.map(move |local| {
                    let global = assignment.global(local);
                    assert_eq!(assignment.local(global), local);
                    global
                })
            });
            let mut assigned: Vec<_> = assigned.collect();
            assigned.sort_unstable();
            assert_eq!(assigned, (0..clients).collect::<Vec<_>>());
        }
    }
}
