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
    /// How the clients are divided among the workers.
    pub const fn division(&self) -> Division {
        let apart = if self.of > 1 && self.plan.publishers_apart() { self.plan.publishers } else { 0 };
        Division { index: self.index, of: self.of, apart }
    }

    /// The number of this worker's clients among the first `all`.
    pub const fn share(&self, all: u32) -> u32 {
        self.division().share(all)
    }

    /// This worker's part of a rate or limit that holds for all clients together.
    pub fn part(&self, all: f64) -> f64 {
        all * f64::from(self.share(self.plan.clients)) / f64::from(self.plan.clients)
    }

    /// The global index of this worker's client `local`.
    pub const fn global(&self, local: usize) -> u32 {
        self.division().global(local)
    }

    /// The local index of the client `global`, at the worker that has it.
    pub const fn local(&self, global: u32) -> usize {
        self.division().local(global)
    }
}

/// How the clients are divided among the workers: round-robin. If there are clients `apart`, the last worker
/// has these, and the others have the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Division {
    /// The index of this worker.
    index: u32,
    /// The number of workers.
    of: u32,
    /// The first `apart` clients belong to the last worker.
    apart: u32,
}

impl Division {
    /// The number of workers that have the other clients.
    const fn others(self) -> u32 {
        if self.apart == 0 { self.of } else { self.of - 1 }
    }

    const fn has_those_apart(self) -> bool {
        self.apart > 0 && self.index + 1 == self.of
    }

    /// The number of this worker's clients among the first `all`.
    pub const fn share(self, all: u32) -> u32 {
        if self.has_those_apart() {
            return if all < self.apart { all } else { self.apart };
        }
        let all = all.saturating_sub(self.apart);
        (all + self.others() - 1).saturating_sub(self.index) / self.others()
    }

    /// The global index of this worker's client `local`.
    pub const fn global(self, local: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the number of clients is a u32")]
        let local = local as u32;
        if self.has_those_apart() { local } else { self.apart + local * self.others() + self.index }
    }

    /// The local index of the client `global`, at the worker that has it.
    pub const fn local(self, global: u32) -> usize {
        if global < self.apart { global as usize } else { ((global - self.apart) / self.others()) as usize }
    }

    /// Whether this worker has the client `global`.
    pub const fn has(self, global: u32) -> bool {
        if global < self.apart {
            self.has_those_apart()
        } else {
            !self.has_those_apart() && (global - self.apart) % self.others() == self.index
        }
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
    /// Messages in flight have arrived, or have had their time; its clients leave.
    Drained,
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
    /// All that happened before this second has been reported.
    pub complete_before: u64,
    /// The counters.
    pub stats: Stats,
    /// Clients that are connected now.
    pub connected: u32,
    /// Clients in the opening handshake or joining now.
    pub in_handshake: u32,
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
    /// Source addresses that its connections have used; 0: the kernel's choice.
    pub sources: u32,
    /// Clients whose Close frame the server has not answered in time.
    pub unanswered_closes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;

    #[test]
    fn every_client_belongs_to_one_worker() {
        for (clients, publishers, of) in
            [(1, 0, 1), (10, 0, 3), (9, 0, 3), (3, 0, 3), (10, 2, 3), (10, 3, 3), (100, 25, 2), (4, 1, 2)]
        {
            let options = crate::options::Options {
                clients: Some(clients),
                publishers: Some(publishers),
                ..crate::options::Options::default()
            };
            let plan = options.plan(Scenario::Chat).unwrap();
            let assigned = (0..of).flat_map(|index| {
                let assignment = Assignment { plan: plan.clone(), index, of, epoch_ns: 0 };
                for all in 0..=clients {
                    let among = (0..all).filter(|&global| assignment.division().has(global)).count();
                    assert_eq!(among, assignment.share(all) as usize, "{publishers} of {all}, {index}/{of}");
                }
                let locals = 0..assignment.share(clients) as usize;
                locals.map(move |local| {
                    let global = assignment.global(local);
                    assert_eq!(assignment.local(global), local);
                    assert!(assignment.division().has(global));
                    global
                })
            });
            let mut assigned: Vec<_> = assigned.collect();
            assigned.sort_unstable();
            assert_eq!(assigned, (0..clients).collect::<Vec<_>>());
        }
    }

    #[test]
    fn few_publishers_have_a_worker_of_their_own() {
        let own = |publishers, index| {
            let options = crate::options::Options {
                clients: Some(100),
                publishers: Some(publishers),
                ..crate::options::Options::default()
            };
            let plan = options.plan(Scenario::Chat).unwrap();
            Assignment { plan, index, of: 3, epoch_ns: 0 }.share(publishers)
        };
        assert_eq!([0, 1, 2].map(|index| own(10, index)), [0, 0, 10]);
        assert_eq!([0, 1, 2].map(|index| own(25, index)), [0, 0, 25]);
        assert_eq!([0, 1, 2].map(|index| own(26, index)), [9, 9, 8]);
    }
}
