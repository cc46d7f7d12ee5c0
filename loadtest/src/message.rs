//! What a worker and its parent tell each other.

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::tally::Tally;

/// What a worker is told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The whole run.
    pub plan: Plan,
    /// Which of the workers it is.
    pub index: u32,
    /// How many workers there are.
    pub of: u32,
    /// When the run began: seconds are counted from here.
    pub epoch_ns: u64,
}

impl Assignment {
    /// This worker's part of `all` things that are dealt out to the workers in turn.
    pub const fn share(&self, all: u32) -> u32 {
        (all + self.of - 1).saturating_sub(self.index) / self.of
    }

    /// The number of this worker's client `local` among the clients of all workers.
    pub const fn global(&self, local: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "there are no more clients than a u32 counts")]
        let local = local as u32;
        local * self.of + self.index
    }

    /// The place at this worker of the client with that number.
    pub const fn local(&self, global: u32) -> usize {
        (global / self.of) as usize
    }
}

/// What a worker is told later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// All have come in: the first stage begins at this moment.
    Begin(u64),
    /// All have spoken: so many messages each. Hear what is still on its way, then end.
    Finish(Vec<u32>),
    /// End now, with what there is.
    Stop,
}

/// What a worker tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Notice {
    /// What has happened since the last one.
    Tick(Box<Tick>),
    /// Its clients have come in, or cannot.
    Gathered,
    /// Its part of the stages is over: its speakers, and how much each of them has said.
    Spoken(Vec<(u32, u32)>),
    /// It is over.
    Done(End),
    /// It cannot go on, for this reason.
    Failed(String),
}

/// What has happened in one second, or in a part of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tick {
    /// Which second, from the run's begin.
    pub second: u64,
    /// What was counted in it.
    pub tally: Tally,
    /// Clients that are in now.
    pub connected: u32,
}

/// What is known only at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct End {
    /// How many different messages of each speaker its clients have heard.
    pub heard: Vec<u32>,
    /// For each storm, how long it took until the last client was back, in nanoseconds.
    pub storms: Vec<Option<u64>>,
    /// CPU that the worker has used while it talked, in nanoseconds.
    pub cpu_ns: u64,
    /// How long it talked, in nanoseconds.
    pub talked_ns: u64,
    /// The memory that its clients have cost it, in bytes.
    pub memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;

    #[test]
    fn every_client_has_one_place_at_one_worker() {
        let plan = crate::options::Options::default().plan(Scenario::Chat).unwrap();
        for (clients, of) in [(1, 1), (10, 3), (9, 3), (3, 3)] {
            let assigned = (0..of).flat_map(|index| {
                let assignment = Assignment { plan: plan.clone(), index, of, epoch_ns: 0 };
                let places = 0..assignment.share(clients) as usize;
                places.map(move |local| {
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
