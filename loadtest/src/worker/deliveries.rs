//! Checks received messages: publisher, sequence and latency.

use memchr::memmem;

use super::publishers::Publishers;
use super::recovery;
use crate::order::{Cursor, Order};
use crate::plan::{LoadModel, Plan, ReadMode};
use crate::preset::ServerProtocol;
use crate::stamp::Finder;
use crate::stats::Stats;

/// The received messages of all clients of a worker.
pub struct Deliveries {
    /// The order of messages in each room.
    pub rooms: Vec<Order>,
    /// Messages that are due before this time belong to the warm-up: they are checked, but not measured.
    pub measured_from_ns: u64,
    finder: Finder,
}

/// Length limit of an error message of the server.
const ERROR_TEXT_CHARS_MAX: usize = 160;

impl Deliveries {
    /// Nothing has been received.
    pub fn new(plan: &Plan) -> Self {
        let rooms = (0..plan.rooms).map(|_| Order::default()).collect();
        Self { rooms, measured_from_ns: 0, finder: Finder::default() }
    }

    /// Records a payload that `client` has received, which may contain several messages.
    #[expect(
        clippy::too_many_arguments,
        reason = "every argument is borrowed from another part of the connection state"
    )]
    pub fn received(
        &mut self,
        plan: &Plan,
        client: u32,
        now: u64,
        payload: &[u8],
        cursor: &mut Cursor,
        stats: &mut Stats,
        publishers: &mut Publishers,
    ) {
        let Self { rooms, finder, measured_from_ns } = self;
        let own_room = plan.room_of(client);
        let reads_immediately = plan.read_mode(client) == ReadMode::Immediate;
        let any = finder.each(payload, |stamp| {
            if stamp.run != plan.run || stamp.publisher >= plan.publishers {
                return; // of another run in the same room
            }
            if plan.room_of(stamp.publisher) != own_room {
                stats.misdelivered += 1;
                return;
            }
            if !reads_immediately {
                stats.slow_deliveries += 1;
                return;
            }
            let publisher = stamp.publisher / plan.rooms;
            let delivery =
                rooms[own_room as usize].received(cursor, publisher, stamp.sequence, stamp.intended_ns);
            if !stats.record_delivery(delivery) {
                return;
            }
            if stamp.intended_ns < *measured_from_ns {
                stats.warmup_deliveries += 1;
            } else {
                stats.latency.record_ns(now.saturating_sub(stamp.intended_ns));
            }
            if stamp.publisher == client && matches!(plan.load_model, LoadModel::ClosedLoop(_)) {
                publishers.own_message_received(client);
            }
        });
        if !any {
            count_error(plan.protocol(client), payload, stats);
        }
    }

    /// Records a payload of recovered messages; returns their number.
    pub fn received_in_recovery(
        &mut self,
        plan: &Plan,
        client: u32,
        payload: &[u8],
        cursor: &mut Cursor,
        stats: &mut Stats,
    ) -> u64 {
        let Self { rooms, finder, measured_from_ns } = self;
        let own_room = plan.room_of(client);
        let mut count = 0;
        finder.each(payload, |stamp| {
            if stamp.run != plan.run || stamp.publisher >= plan.publishers {
                return;
            }
            if plan.room_of(stamp.publisher) != own_room {
                stats.misdelivered += 1;
                return;
            }
            let publisher = stamp.publisher / plan.rooms;
            let delivery =
                rooms[own_room as usize].received(cursor, publisher, stamp.sequence, stamp.intended_ns);
            let counted = u64::from(stats.record_delivery(delivery));
            count += counted;
            stats.warmup_deliveries += if stamp.intended_ns < *measured_from_ns { counted } else { 0 };
        });
        count
    }

    /// Whether this payload marks a client as connected.
    pub fn is_ready_message(&self, plan: &Plan, client: u32, payload: &[u8], stats: &mut Stats) -> bool {
        let protocol = plan.protocol(client);
        count_error(protocol, payload, stats);
        let ready_match = recovery::ready_match(protocol, plan.resume);
        ready_match.is_none_or(|ready_match| memmem::find(payload, ready_match.as_bytes()).is_some())
    }

    /// The number of different messages received from each publisher.
    pub fn received_from_all(&self, plan: &Plan) -> Vec<u32> {
        let received =
            |publisher| self.rooms[plan.room_of(publisher) as usize].received_from(publisher / plan.rooms);
        (0..plan.publishers).map(received).collect()
    }

    /// The messages of a room that no client of this worker has received, of those in `published`.
    pub fn undelivered_in(&self, plan: &Plan, room: usize, published: &[u32]) -> u64 {
        let in_room = published.iter().skip(room).step_by(plan.rooms as usize);
        self.rooms[room].undelivered(in_room.copied())
    }
}

fn count_error(protocol: &ServerProtocol, payload: &[u8], stats: &mut Stats) {
    let Some(error_match) = protocol.error_match.as_deref() else { return };
    if memmem::find(payload, error_match.as_bytes()).is_some() {
        let text = String::from_utf8_lossy(payload);
        let text: String = text.chars().filter(|c| !c.is_control()).take(ERROR_TEXT_CHARS_MAX).collect();
        stats.error(format!("the server sent an error: {text}"));
    }
}
