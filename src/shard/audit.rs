//! A look at the whole shard from inside: that its parts agree with each other, and what it holds. For tests
//! and the simulator; it costs a walk over every connection.

use super::{Shard, Slot};
use crate::base::SubId;
use crate::conn::State;
use crate::room::RoomUsage;
use crate::session::Session;

/// What a shard holds: the largest of each kind, because bounds hold for each. Memory is counted as it is
/// allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Bytes that a room's log keeps.
    pub log_bytes: u64,
    /// Bytes of its own that wait in a connection.
    pub outbox_bytes: usize,
    /// Bytes that a connection keeps for them.
    pub outbox_capacity: usize,
    /// Bytes of input that a connection keeps: an incomplete message or request head, and what waits.
    pub input_bytes: usize,
    /// Drafts that wait for others of their rooms to be completed: their bytes.
    pub parked_bytes: u64,
    /// Messages that wait for room in a ring to another shard.
    pub mesh_waiting: usize,
    /// Commands of a session that wait for an answer: slots in its list.
    pub commands: usize,
    /// Bytes that a session keeps for a `connect` that is not answered.
    pub connect_bytes: usize,
    /// Bytes of relayed messages that a session keeps until it takes them.
    pub inbox_bytes: usize,
    /// Outlets, and the bytes that one of them holds of its session's own messages.
    pub outlets: usize,
    /// See there.
    pub outlet_bytes: usize,
    /// Auth requests that are not sent yet.
    pub auth_requests: usize,
    /// Counts of members that are in flight.
    pub countings: usize,
    /// Rooms in the directory.
    pub rooms: usize,
    /// What the homes hold.
    pub homes: RoomUsage,
    /// Bytes that the inflater keeps for its next message.
    pub inflater_bytes: usize,
}

impl Shard {
    /// Checks that the parts of the shard agree, and returns what they hold.
    ///
    /// # Panics
    /// When they do not.
    pub fn audit(&self) -> Audit {
        self.homes.assert_invariants();
        self.rooms.assert_invariants();
        let mut audit = Audit {
            log_bytes: self.fanout.assert_invariants(),
            mesh_waiting: self.mesh.waiting(),
            parked_bytes: self.rooms.parked().1,
            auth_requests: self.auth_requests.len(),
            countings: self.countings.len(),
            rooms: self.rooms.count(),
            homes: self.homes.usage(),
            inflater_bytes: self.inflater.capacity(),
            ..Audit::default()
        };
        let (mut members, mut lagging, mut over_limit, mut sessions) = (0, 0, 0, 0);
        for key in self.conns.keys() {
            let Some(slot) = self.conns.get(key) else { continue };
            let Slot { conn, session, .. } = slot;
            audit.outbox_bytes = audit.outbox_bytes.max(conn.outbox.len());
            audit.outbox_capacity = audit.outbox_capacity.max(conn.outbox.capacity());
            let receiving = slot.http().and_then(|http| http.receiving.as_ref());
            let content_bytes = receiving.map_or(0, |receiving| receiving.capacity());
            audit.input_bytes = audit.input_bytes.max(conn.input_bytes() + content_bytes);
            over_limit += u64::from(conn.over_limit);
            sessions += usize::from(session.is_some());
            let session = session.map(|session| self.sessions.get(session).expect("a session of its own"));
            assert!(
                session.is_none_or(|session| session.conn == Some(key)),
                "a session knows its connection"
            );
            assert!(
                session.is_none() || !conn.state().is_ending(),
                "only a connection that is served has a session"
            );
            let (commands, connect_bytes) = session.map_or((0, 0), Session::pending_work);
            audit.commands = audit.commands.max(commands);
            audit.connect_bytes = audit.connect_bytes.max(connect_bytes);
            audit.inbox_bytes = audit.inbox_bytes.max(session.map_or(0, Session::inbox_bytes));
            let takes_relayed = session.is_some_and(Session::takes_relayed);
            let is_ready = slot.session.is_some_and(|key| self.relays_ready.contains(&key));
            assert!(!takes_relayed || is_ready, "a session takes what was relayed to it");
            let subs: Vec<_> = session.into_iter().flat_map(Session::subs).collect();
            members += subs.len() as u64;
            lagging += if conn.blocked { subs.len() as u64 } else { 0 };
            self.audit_output(slot, session, &subs);
            let may_go_on = self.may_go_on(slot) && (conn.has_waiting_input() || conn.paused);
            let will_go_on = conn.ready || self.resumed.contains(&key);
            assert!(!may_go_on || will_go_on, "a connection's input may go on, and does not");
        }
        let (of_outlets, members_there) = self.audit_outlets();
        (sessions, members) = (sessions + of_outlets, members + members_there);
        audit.outlets = self.outlets.len();
        audit.outlet_bytes = self.outlets.bytes_max();
        assert_eq!(sessions, self.sessions.len(), "a connection or an outlet for each session");
        assert_eq!(members, self.metrics.members.value());
        assert_eq!(lagging, self.metrics.lagging.value());
        assert_eq!(over_limit, self.over_limit);
        assert_eq!(self.rooms.occupied() as u64, self.metrics.rooms.value());
        audit
    }

    /// Checks that what a connection has to send will be sent.
    fn audit_output(&self, slot: &Slot, session: Option<&Session>, subs: &[SubId]) {
        let conn = &slot.conn;
        let mid_frame = subs.iter().filter(|&&sub| self.fanout.is_mid_frame(sub)).count();
        assert!(mid_frame <= 1, "a connection is in the middle of one frame");
        let behind = subs.iter().any(|&sub| self.fanout.behind(sub) > 0 && !self.fanout.is_ready(sub));
        let owes = !conn.outbox.is_empty() || mid_frame > 0 || behind;
        // The answer to a handshake waits until its client is in its room, publications until `connect` is
        // answered.
        let waits = session.is_some_and(|session| session.is_joining() || !session.is_confirmed());
        let will_be_flushed = conn.queued || conn.blocked || conn.state() == State::Closed || waits;
        assert!(!owes || will_be_flushed, "a connection has bytes to send, and is not scheduled");
    }

    /// How many sessions have outlets, and how many members they are.
    fn audit_outlets(&self) -> (usize, u64) {
        self.outlets.sessions().fold((0, 0), |(sessions, members), (outlet, session)| {
            let session = self.sessions.get(session).expect("a session of its own");
            assert!(session.outlet() == Some(outlet) && session.conn.is_none(), "a session knows its outlet");
            (sessions + 1, members + session.subs().count() as u64)
        })
    }

    /// Whether nothing of its own holds a connection's input back.
    fn may_go_on(&self, slot: &Slot) -> bool {
        let session = slot.session.and_then(|session| self.sessions.get(session));
        slot.conn.state().is_ending()
            || slot.conn.outbox.len() <= super::OUTBOX_PAUSE_BYTES
                && session.is_none_or(Session::can_take)
                && !Self::is_held(slot)
    }
}
