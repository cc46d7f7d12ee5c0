//! What a shard knows of a client whose WebSocket is open: who it is, in which rooms it sits, and what it waits for.

use smallvec::SmallVec;
use std::sync::Arc;

use super::fanout::{AudienceId, Seat};
use super::members::Seats;
use super::rooms::RoomId;
use super::session::Session;
use crate::app::WireFormat;
use crate::base::Time;
use crate::chat::{Person, Rate, Wanted};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    /// Who it is.
    pub(super) person: Arc<Person>,
    /// In which form it takes what is published.
    pub(super) format: WireFormat,
    /// The rooms that it is in, or on its way into. A room stands here once.
    pub(super) memberships: SmallVec<[Membership; 1]>,
    /// How often it speaks.
    pub(super) rate: Rate,
    /// Until when it is who it is.
    pub(super) expires: Time,
    /// A write from this audience's log ended inside a frame: nothing else may be written before its rest.
    pub(super) torn: Option<AudienceId>,
    /// The JSON protocol's state.
    pub(super) session: Option<Box<Session>>,
    /// What it has said and what nobody has looked at yet.
    pub(super) held: Option<Box<Held>>,
}

/// Messages that wait, because somebody is still asked who this is, or because too many answers are under way. While any do, the
/// connection is not read from: so they are what one read brought, at most.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Whole messages, one behind the other.
    pub(super) bytes: Vec<u8>,
    /// Where each ends.
    pub(super) ends: Vec<usize>,
    /// Somebody outside is asked who this is; what is to be done when that is known.
    pub(super) entrance: Option<Entrance>,
}

/// What a plain client wants, once it is known who it is.
#[derive(Debug)]
pub(super) struct Entrance {
    /// The room.
    pub(super) room: Box<str>,
    /// What of its past.
    pub(super) wanted: Wanted,
}

/// A client's place in a room.
#[derive(Debug)]
pub(super) struct Membership {
    /// The room.
    pub(super) room: RoomId,
    /// Told from others by this.
    pub(super) number: u32,
    /// Where it sits; `None`: it is on its way.
    pub(super) seat: Option<Seat>,
    /// A token for the room has let it in.
    pub(super) granted: bool,
    /// The server has put it there.
    pub(super) by_server: bool,
    /// What is to be done when it is in.
    pub(super) arriving: Option<Box<Arriving>>,
}

/// What is to be done when somebody has come into a room.
#[derive(Clone, Debug, Default)]
pub(super) struct Arriving {
    /// The command to be answered; 0: none.
    pub(super) command: u32,
    /// The offset that it wanted to go on from.
    pub(super) asked: Option<u64>,
    /// It does not want to be in if it cannot go on from there.
    pub(super) or_nothing: bool,
    /// A token for the room has let it in.
    pub(super) granted: bool,
    /// The server puts it there.
    pub(super) by_server: bool,
    /// How long it may stay.
    pub(super) expires_in: Option<std::time::Duration>,
    /// What it is told with that: JSON.
    pub(super) data: Option<Arc<str>>,
}

impl Client {
    /// Somebody who is in no room.
    pub(super) fn new(person: Arc<Person>, format: WireFormat) -> Self {
        Self {
            person,
            format,
            memberships: SmallVec::new(),
            rate: Rate::default(),
            expires: Time::NEVER,
            torn: None,
            session: None,
            held: None,
        }
    }

    /// Where it sits.
    pub(super) fn seats(&self) -> Seats {
        self.memberships.iter().filter_map(|membership| membership.seat).collect()
    }

    /// Its seat in one audience.
    pub(super) fn seat_mut(&mut self, audience: AudienceId) -> Option<&mut Seat> {
        self.memberships.iter_mut().filter_map(|it| it.seat.as_mut()).find(|seat| seat.audience == audience)
    }

    /// Which of its memberships is in `room`.
    pub(super) fn membership_in(&self, room: RoomId) -> Option<usize> {
        self.memberships.iter().position(|membership| membership.room == room)
    }

    /// Whether it is on its way into a room.
    pub(super) fn is_arriving(&self) -> bool {
        self.memberships.iter().any(|membership| membership.seat.is_none())
    }

    /// Whether what it says next must wait.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some() || self.session.as_ref().is_some_and(|session| session.must_wait())
    }

    /// Keeps a message for later.
    pub(super) fn hold(&mut self, message: &[u8]) {
        let held = self.held.get_or_insert_default();
        held.bytes.extend_from_slice(message);
        held.ends.push(held.bytes.len());
    }
}
