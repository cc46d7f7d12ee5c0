//! The clients of a worker as receivers: who of them must have got what. No sockets.

use super::client::Phase;
use super::hearing::Hearing;
use super::slot::Slot;
use crate::message::Assignment;
use crate::plan::Reading as Manner;

/// A worker's clients and what was heard in their rooms.
pub struct Receivers {
    slots: Vec<Slot>,
    hearing: Hearing,
    /// Messages of each speaker, of all workers. Known when all have published.
    said_by_all: Vec<u32>,
}

impl Receivers {
    /// Nobody is connected, and nothing has been heard.
    pub fn new(assignment: &Assignment) -> Self {
        let count = assignment.share(assignment.plan.clients);
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            hearing: Hearing::new(&assignment.plan),
            said_by_all: Vec::new(),
        }
    }

    /// How many clients there are.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// A client's slot.
    pub fn slot(&self, local: usize) -> &Slot {
        &self.slots[local]
    }

    /// A client's slot.
    pub fn slot_mut(&mut self, local: usize) -> &mut Slot {
        &mut self.slots[local]
    }

    /// A client's slot, and what was heard by all.
    pub fn slot_and_hearing(&mut self, local: usize) -> (&mut Slot, &mut Hearing) {
        (&mut self.slots[local], &mut self.hearing)
    }

    /// The first stage begins: those that are connected must get everything.
    pub fn begin(&mut self) {
        for slot in &mut self.slots {
            slot.from_the_begin = slot.client.as_ref().is_some_and(|client| client.phase == Phase::Open);
        }
    }

    /// No worker publishes anything more: `said_by_all` is all that there is. Those that connected last get their places.
    pub fn settle(&mut self, assignment: &Assignment, said_by_all: Vec<u32>) {
        self.said_by_all = said_by_all;
        for room in &mut self.hearing.rooms {
            room.close();
        }
        for (local, slot) in self.slots.iter_mut().enumerate() {
            let room = assignment.plan.room_of(assignment.global(local)) as usize;
            self.hearing.rooms[room].settle(&mut slot.listener);
        }
    }

    /// The clients that are connected and read at once, with their rooms.
    fn present<'r>(&'r self, assignment: &'r Assignment) -> impl Iterator<Item = (usize, &'r Slot)> {
        let plan = &assignment.plan;
        self.slots.iter().enumerate().filter_map(move |(local, slot)| {
            let global = assignment.global(local);
            let open = slot.client.as_ref()?.phase == Phase::Open;
            let there = open && plan.reading(global) == Manner::AtOnce;
            there.then_some((plan.room_of(global) as usize, slot))
        })
    }

    /// Whether nothing is in flight any more.
    pub fn is_complete(&self, assignment: &Assignment) -> bool {
        let mut rooms = vec![false; self.hearing.rooms.len()];
        let complete = self.present(assignment).all(|(room, slot)| {
            rooms[room] = true;
            self.hearing.rooms[room].is_complete(&slot.listener)
        });
        let known = |room| self.hearing.unheard_in(&assignment.plan, room, &self.said_by_all) == 0;
        complete && rooms.iter().enumerate().all(|(room, &has_members)| !has_members || known(room))
    }

    /// How many messages those that are connected have missed.
    pub fn lost(&self, assignment: &Assignment) -> u64 {
        let lost = self.present(assignment).map(|(room, slot)| {
            let unheard = || self.hearing.unheard_in(&assignment.plan, room, &self.said_by_all);
            let missed = self.hearing.rooms[room].missed(&slot.listener);
            missed + if slot.from_the_begin { unheard() } else { 0 }
        });
        lost.sum()
    }

    /// Clients that were cut and did not come back to their places.
    pub fn not_recovered(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.place.is_some() && slot.cut).count() as u64
    }

    /// How many different messages of each speaker have been heard here.
    pub fn heard_of_all(&self, assignment: &Assignment) -> Vec<u32> {
        self.hearing.heard_of_all(&assignment.plan)
    }

    /// What everybody has heard need not be kept. A client that is about to leave still hears.
    pub fn forget(&mut self, assignment: &Assignment) {
        let plan = &assignment.plan;
        let mut floors = vec![u64::MAX; self.hearing.rooms.len()];
        for (local, slot) in self.slots.iter().enumerate() {
            let phase = slot.client.as_ref().map(|client| client.phase);
            let global = assignment.global(local);
            let hears = matches!(phase, Some(Phase::Open | Phase::Leaving));
            // A client that comes back to its place goes on from there.
            if (hears || slot.place.is_some()) && plan.reading(global) == Manner::AtOnce {
                let floor = &mut floors[plan.room_of(global) as usize];
                *floor = slot.listener.floor().min(*floor);
            }
        }
        for (room, floor) in self.hearing.rooms.iter_mut().zip(floors) {
            room.forget_before(floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn without_clients_nothing_is_missed() {
        let options = Options { clients: Some(5), rooms: Some(2), ..Options::default() };
        let plan = options.plan(Scenario::Chat).unwrap();
        let assignment = Assignment { plan, index: 1, of: 2, epoch_ns: 0 };
        let mut receivers = Receivers::new(&assignment);
        assert_eq!(receivers.len(), 2);
        receivers.begin();
        receivers.forget(&assignment);
        receivers.settle(&assignment, vec![3; 5]);
        assert!(receivers.is_complete(&assignment), "nobody is there to hear it");
        assert_eq!((receivers.lost(&assignment), receivers.not_recovered()), (0, 0));
        assert_eq!(receivers.heard_of_all(&assignment), [0; 5]);
        receivers.slot_mut(0).place = Some(Box::default());
        receivers.slot_mut(0).cut = true;
        assert_eq!(receivers.not_recovered(), 1);
    }
}
