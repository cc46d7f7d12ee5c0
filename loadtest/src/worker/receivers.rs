//! The clients of a worker as receivers, without sockets: which messages each of them must receive.

use super::client::Phase;
use super::deliveries::Deliveries;
use super::slot::Slot;
use crate::message::Assignment;
use crate::plan::ReadMode;

/// A worker's clients and the received messages of their rooms.
pub struct Receivers {
    slots: Vec<Slot>,
    deliveries: Deliveries,
    /// The number of messages of each publisher, of all workers. Known when all have published.
    published_by_all: Vec<u32>,
}

impl Receivers {
    /// No client is connected, and nothing has been received.
    pub fn new(assignment: &Assignment) -> Self {
        let count = assignment.share(assignment.plan.clients);
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            deliveries: Deliveries::new(&assignment.plan),
            published_by_all: Vec::new(),
        }
    }

    /// The number of clients.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of a client.
    pub fn slot(&self, local: usize) -> &Slot {
        &self.slots[local]
    }

    /// The slot of a client.
    pub fn slot_mut(&mut self, local: usize) -> &mut Slot {
        &mut self.slots[local]
    }

    /// The slot of a client, and the received messages.
    pub fn slot_and_deliveries(&mut self, local: usize) -> (&mut Slot, &mut Deliveries) {
        (&mut self.slots[local], &mut self.deliveries)
    }

    /// Starts the first stage: connected clients must receive every message. Those that are due before
    /// `measured_from_ns` belong to the warm-up.
    pub fn begin(&mut self, measured_from_ns: u64) {
        self.deliveries.measured_from_ns = measured_from_ns;
        for slot in &mut self.slots {
            slot.present_from_start = slot.client.as_ref().is_some_and(|client| client.phase == Phase::Open);
        }
    }

    /// Starts draining: `published_by_all` are the final message counts. Pending messages are assigned
    /// indexes.
    pub fn begin_drain(&mut self, assignment: &Assignment, published_by_all: Vec<u32>) {
        self.published_by_all = published_by_all;
        for room in &mut self.deliveries.rooms {
            room.begin_drain();
        }
        for (local, slot) in self.slots.iter_mut().enumerate() {
            let room = assignment.plan.room_of(assignment.global(local)) as usize;
            self.deliveries.rooms[room].flush_pending(&mut slot.cursor);
        }
    }

    /// The connected clients that read immediately, with their rooms.
    fn present<'r>(&'r self, assignment: &'r Assignment) -> impl Iterator<Item = (usize, &'r Slot)> {
        let plan = &assignment.plan;
        self.slots.iter().enumerate().filter_map(move |(local, slot)| {
            let global = assignment.global(local);
            let open = slot.client.as_ref()?.phase == Phase::Open;
            let receives = open && plan.read_mode(global) == ReadMode::Immediate;
            receives.then_some((plan.room_of(global) as usize, slot))
        })
    }

    /// Whether no message is in flight.
    pub fn is_complete(&self, assignment: &Assignment) -> bool {
        let mut rooms = vec![false; self.deliveries.rooms.len()];
        let complete = self.present(assignment).all(|(room, slot)| {
            rooms[room] = true;
            self.deliveries.rooms[room].is_complete(&slot.cursor)
        });
        let known =
            |room| self.deliveries.undelivered_in(&assignment.plan, room, &self.published_by_all) == 0;
        complete && rooms.iter().enumerate().all(|(room, &has_members)| !has_members || known(room))
    }

    /// The number of messages that connected clients have missed.
    pub fn lost(&self, assignment: &Assignment) -> u64 {
        let lost = self.present(assignment).map(|(room, slot)| {
            let undelivered =
                || self.deliveries.undelivered_in(&assignment.plan, room, &self.published_by_all);
            let missed = self.deliveries.rooms[room].missed(&slot.cursor);
            missed + if slot.present_from_start { undelivered() } else { 0 }
        });
        lost.sum()
    }

    /// The number of clients that a storm dropped and that did not recover.
    pub fn not_recovered(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.position.is_some() && slot.dropped).count() as u64
    }

    /// The number of different messages received from each publisher.
    pub fn received_from_all(&self, assignment: &Assignment) -> Vec<u32> {
        self.deliveries.received_from_all(&assignment.plan)
    }

    /// Trims entries that every receiver has passed. A client that is closing still receives.
    pub fn trim(&mut self, assignment: &Assignment) {
        let plan = &assignment.plan;
        let mut floors = vec![u64::MAX; self.deliveries.rooms.len()];
        for (local, slot) in self.slots.iter().enumerate() {
            let phase = slot.client.as_ref().map(|client| client.phase);
            let global = assignment.global(local);
            let receives = matches!(phase, Some(Phase::Open | Phase::Closing));
            // A recovering client continues at its cursor.
            if (receives || slot.position.is_some()) && plan.read_mode(global) == ReadMode::Immediate {
                let floor = &mut floors[plan.room_of(global) as usize];
                *floor = slot.cursor.floor().min(*floor);
            }
        }
        for (room, floor) in self.deliveries.rooms.iter_mut().zip(floors) {
            room.trim_before(floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn without_connected_clients_no_message_is_missed() {
        let options = Options { clients: Some(5), rooms: Some(2), ..Options::default() };
        let plan = options.plan(Scenario::Chat).unwrap();
        let assignment = Assignment { plan, index: 1, of: 2, epoch_ns: 0 };
        let mut receivers = Receivers::new(&assignment);
        assert_eq!(receivers.len(), 2);
        receivers.begin(0);
        receivers.trim(&assignment);
        receivers.begin_drain(&assignment, vec![3; 5]);
        assert!(receivers.is_complete(&assignment), "no receiver is connected");
        assert_eq!((receivers.lost(&assignment), receivers.not_recovered()), (0, 0));
        assert_eq!(receivers.received_from_all(&assignment), [0; 5]);
        receivers.slot_mut(0).position = Some(Box::default());
        receivers.slot_mut(0).dropped = true;
        assert_eq!(receivers.not_recovered(), 1);
    }
}
