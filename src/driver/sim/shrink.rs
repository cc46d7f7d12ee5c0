//! From a scenario that fails to a smaller one that still does.

use super::scenario::{Event, Faults, What};
use super::{Failure, Scenario, try_run};

/// Removes everything that the failure does not need: events, half of them, a quarter, at last one by one;
/// then faults, clients' behaviour and shards. Takes `tries_max` runs at most. Returns the smallest scenario
/// that failed, and how.
pub fn shrink(scenario: &Scenario, failure: Failure, tries_max: usize) -> (Scenario, Failure) {
    let mut smallest = Smallest { scenario: scenario.clone(), failure, tries: tries_max };
    loop {
        let before = smallest.size();
        smallest.fewer_events();
        smallest.fewer_faults();
        if smallest.size() == before || smallest.tries == 0 {
            return (smallest.scenario, smallest.failure);
        }
    }
}

struct Smallest {
    scenario: Scenario,
    failure: Failure,
    tries: usize,
}

impl Smallest {
    fn size(&self) -> usize {
        self.scenario.events.len()
    }

    /// Keeps `candidate` if it fails too.
    fn try_out(&mut self, candidate: Scenario) -> bool {
        if self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        match try_run(&candidate) {
            // Another failure is another story.
            Err(failure) if failure.kind() == self.failure.kind() => {
                (self.scenario, self.failure) = (candidate, failure);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn fewer_events(&mut self) {
        for client in 0..self.scenario.clients.len() {
            self.without(|event| matches!(event.what, What::Client(other, _) if other == client));
        }
        let mut run = self.size().div_ceil(2);
        while run > 0 {
            let mut first = 0;
            while first < self.size() {
                let mut candidate = self.scenario.clone();
                candidate.events.drain(first..self.size().min(first + run));
                if !self.try_out(candidate) {
                    first += run;
                }
            }
            run /= 2;
        }
    }

    fn without(&mut self, gone: impl Fn(&Event) -> bool) {
        let mut candidate = self.scenario.clone();
        candidate.events.retain(|event| !gone(event));
        if candidate.events.len() < self.size() {
            self.try_out(candidate);
        }
    }

    /// One fault after the other is taken back to what an idle machine does.
    fn fewer_faults(&mut self) {
        let calm = Faults::default();
        let simpler: [fn(&mut Faults, &Faults); 11] = [
            |faults, calm| faults.read_bytes_max = calm.read_bytes_max,
            |faults, calm| faults.write_bytes_max = calm.write_bytes_max,
            |faults, calm| faults.refused_one_in = calm.refused_one_in,
            |faults, calm| faults.short_one_in = calm.short_one_in,
            |faults, calm| faults.spurious_one_in = calm.spurious_one_in,
            |faults, calm| faults.completes = calm.completes,
            |faults, calm| faults.reorder = calm.reorder,
            |faults, calm| faults.writes_at_once = calm.writes_at_once,
            |faults, calm| faults.reads_per_turn = calm.reads_per_turn,
            |faults, calm| faults.accepts_per_turn = calm.accepts_per_turn,
            |faults, calm| faults.rings = calm.rings,
        ];
        let mut candidate = self.scenario.clone();
        if candidate.engine.take().is_some() {
            self.try_out(candidate);
        }
        for simplify in simpler {
            let mut candidate = self.scenario.clone();
            simplify(&mut candidate.faults, &calm);
            self.try_out(candidate);
        }
    }
}
