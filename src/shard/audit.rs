//! A look at the whole shard from inside: that its parts agree with each other, and what it holds. For tests and the
//! simulator; it costs a walk over every connection.

use super::{Shard, Slot};
use crate::conn::State;

/// What a shard holds: the largest of each kind, because bounds hold for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Bytes that a room's log keeps.
    pub log_bytes: u64,
    /// Bytes of its own that wait in a connection.
    pub outbox_bytes: usize,
    /// Bytes of an incomplete message or request head.
    pub partial_bytes: usize,
    /// Messages that wait for room in a ring to another shard.
    pub mesh_waiting: usize,
}

impl Shard {
    /// Checks that the parts of the shard agree, and says what they hold.
    ///
    /// # Panics
    /// When they do not.
    pub fn audit(&self) -> Audit {
        let mut audit = Audit {
            log_bytes: self.fanout.assert_invariants(),
            mesh_waiting: self.mesh.waiting(),
            ..Audit::default()
        };
        let (mut members, mut lagging, mut paused, mut surplus) = (0, 0, 0, 0);
        for Slot { conn, client, .. } in self.conns.keys().filter_map(|key| self.conns.get(key)) {
            let head_bytes = conn.head.as_ref().map_or(0, |head| head.bytes.capacity());
            audit.outbox_bytes = audit.outbox_bytes.max(conn.outbox.len());
            audit.partial_bytes = audit.partial_bytes.max(conn.decoder.kept_bytes()).max(head_bytes);
            paused += usize::from(conn.paused);
            surplus += u64::from(conn.surplus);
            let seats = client.as_ref().map(|client| client.seats()).unwrap_or_default();
            members += seats.len() as u64;
            lagging += if conn.blocked { seats.len() as u64 } else { 0 };
            assert!(seats.is_empty() || conn.state == State::Open, "only an open connection has a seat");
            let torn = client.as_ref().and_then(|client| client.torn);
            let torn_there = torn.is_none_or(|torn| seats.iter().any(|seat| seat.audience == torn));
            assert!(torn_there, "only in the log of a room that it is in can a frame be torn");
            let behind =
                seats.iter().any(|&seat| self.fanout.behind(seat) > 0 && !self.fanout.is_ready(seat));
            let owes = !conn.outbox.is_empty() || torn.is_some() || behind;
            // The answer to a handshake waits until its client is in its room.
            let arriving = client.as_ref().is_some_and(|client| client.is_arriving());
            let will_be_flushed = conn.queued || conn.blocked || conn.state == State::Closed || arriving;
            assert!(!owes || will_be_flushed, "a connection has something to say, and nobody asks it");
        }
        assert_eq!(members, self.metrics.members.value());
        assert_eq!(lagging, self.metrics.lagging.value());
        assert_eq!(surplus, self.surplus);
        assert!(paused <= self.paused.len(), "a connection is not read from, and nobody looks after it");
        assert_eq!(self.rooms.count() as u64, self.metrics.rooms.value());
        audit
    }
}
