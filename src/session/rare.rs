//! What few sessions have, in boxes, so that it costs the others one pointer.

use std::sync::Arc;

use super::http::{Poll, Publisher};
use super::limits::RoomLimiter;
use super::relay::Inbox;
use super::{PendingJoin, Session};
use crate::base::Time;
use crate::base::connection_counter::Permit;
use crate::chat::Position;

/// What few sessions have.
#[derive(Debug)]
pub(super) struct Rare {
    /// When its identity expires.
    pub(super) expires: Time,
    /// Counted among the connections of its user.
    pub(super) user: Permit<Arc<str>>,
    /// What it has because its client uses requests, where others have a WebSocket.
    pub(super) requests: Option<Requests>,
    /// What fewer have, or for a moment only.
    pub(super) rarer: Option<Box<Rarer>>,
}

// 16 n + 8 bytes fill a piece of glibc's heap.
const _: () =
    assert!(size_of::<Rare>() <= 56, "every long poll has one, and every client whose token expires");

/// How a client uses requests.
#[derive(Debug)]
pub(super) enum Requests {
    /// The session is one long poll.
    Poll(Box<Poll>),
    /// It publishes by request only.
    Publisher(Publisher),
    /// Its commands come by request.
    Relayed(Box<Inbox>),
}

/// What fewer sessions have, or for a moment only.
#[derive(Debug, Default)]
pub(super) struct Rarer {
    /// While the auth backend decides about a plain client.
    pub(super) pending_join: Option<PendingJoin>,
    /// How often it publishes in rooms that have a limit of their own.
    pub(super) room_limiters: Vec<RoomLimiter>,
    /// Skipped publications that are not announced to its client yet.
    pub(super) skipped: Option<Skipped>,
    /// Messages of the present array that have been taken.
    pub(super) quoted_taken: usize,
}

/// Publications that a member will not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Skipped {
    /// How many.
    pub(super) count: u64,
    /// The last one before them, if one can go back to there.
    pub(super) after: Option<Position>,
}

impl Default for Rare {
    fn default() -> Self {
        Self { expires: Time::NEVER, user: Permit::default(), requests: None, rarer: None }
    }
}

impl Session {
    /// What few sessions have, empty at first.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What fewer have, empty at first.
    pub(super) fn rarer(&mut self) -> &mut Rarer {
        self.rare().rarer.get_or_insert_default()
    }

    /// The same, unless it has nothing of that.
    pub(super) fn known_rarer(&mut self) -> Option<&mut Rarer> {
        self.rare.as_mut()?.rarer.as_deref_mut()
    }

    /// What it has because its client uses requests.
    pub(super) fn requests(&self) -> Option<&Requests> {
        self.rare.as_ref()?.requests.as_ref()
    }

    pub(super) fn requests_mut(&mut self) -> Option<&mut Requests> {
        self.rare.as_mut()?.requests.as_mut()
    }

    pub(super) fn has_pending_join(&self) -> bool {
        let rarer = self.rare.as_ref().and_then(|rare| rare.rarer.as_ref());
        rarer.is_some_and(|rarer| rarer.pending_join.is_some())
    }

    /// When its identity expires.
    pub(super) fn expires(&self) -> Time {
        self.rare.as_ref().map_or(Time::NEVER, |rare| rare.expires)
    }

    /// Its identity expires at `time`, and not at another one any more.
    pub(super) fn expire_at(&mut self, time: Time) {
        if time != self.expires() {
            self.rare().expires = time;
        }
        self.due = self.due.min(time);
    }
}
