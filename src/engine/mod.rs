//! Engines: what gives the publications of a room their order, and keeps them.
//!
//! An engine receives calls and answers later, with events that do not depend on one another: `Completed` is
//! for the publisher, `Ordered` is for the members; either may come first, or alone. The engine in memory
//! ([`Memory`]) answers within the turn; a store or a server on the network takes its time. No method blocks.

#![forbid(unsafe_code)]

mod memory;

pub use memory::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_TIME, Memory};

use std::fmt::Debug;
use std::sync::Arc;

use crate::base::{HomeKey, SessionKey, Time};
use crate::chat::{Draft, Position, Publication};

/// Identifies the command of a session that waits for an outcome. Only its shard interprets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyTo {
    /// The shard of the session.
    pub shard: u16,
    /// The session.
    pub session: SessionKey,
    /// Which of its commands it was.
    pub command: u32,
}

/// The outcome of a draft, for its publisher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishOutcome {
    /// It has a position in the room.
    Ordered,
    /// One with the same idempotency key had it before.
    Duplicate,
    /// A newer version of the same is there.
    Superseded,
    /// The engine cannot take it now: the publisher may try again.
    Temporary,
}

/// A run of publications, oldest first, without a hole.
#[derive(Clone, Debug, Default)]
pub struct EnginePage {
    /// The publications. The last one is the newest that the engine had when it read.
    pub publications: Vec<Arc<Publication>>,
    /// Whether nothing between the requested position and the first of them is missing.
    pub is_complete: bool,
}

/// An output of an engine.
#[derive(Debug)]
pub enum Event {
    /// To the publisher.
    Completed {
        /// The room.
        home: HomeKey,
        /// The command that brought the draft.
        reply_to: ReplyTo,
        /// Its outcome.
        outcome: PublishOutcome,
        /// The position that it has, or that the same draft had before; `None`: it has none, or the engine
        /// does not know it.
        position: Option<Position>,
    },
    /// To the members: the next publication of a room.
    Ordered {
        /// The room.
        home: HomeKey,
        /// The publication.
        publication: Arc<Publication>,
    },
    /// A requested page.
    Page {
        /// The room.
        home: HomeKey,
        /// What there is; `None`: it cannot be read now.
        page: Option<EnginePage>,
    },
}

/// What orders the publications of the rooms whose home is one shard.
pub trait Engine: Debug + Send {
    /// Where `room` stands, which begins to be kept at its home now. Until [`Engine::close`] it is named by
    /// `home`, in calls and in events. `entropy` is 64 random bits.
    fn open(&mut self, home: HomeKey, room: &Arc<str>, entropy: u64) -> Position;

    /// The home no longer keeps the room: of its drafts every one is completed.
    fn close(&mut self, home: HomeKey);

    /// Orders a draft at `now`, `unix_ms` milliseconds of Unix time. `Completed` answers, if there is a
    /// `reply_to`.
    fn submit(&mut self, home: HomeKey, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64);

    /// Reads what a room has after `offset`, at most `limit` publications: `Page` answers. An engine that has
    /// no more than the home's own history returns false from [`Engine::has_pages`], and gets no such call.
    fn page(&mut self, home: HomeKey, offset: u64, limit: usize);

    /// Whether it keeps publications that the home's history does not.
    fn has_pages(&self) -> bool;

    /// Idempotency keys that it keeps.
    fn idempotency_keys(&self) -> usize {
        0
    }

    /// The next event; call until `None`.
    fn poll(&mut self, now: Time) -> Option<Event>;

    /// When it will have an event without another call.
    fn next_deadline(&self) -> Option<Time>;
}
