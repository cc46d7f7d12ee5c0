//! Messages between shards.

use std::sync::Arc;

use super::fanout::Backlog;
use super::mesh;
use crate::app::Encodings;
use crate::base::SessionKey;
use crate::base::spsc::Weigh;
use crate::chat::Position;
use crate::engine::ReplyTo;
use crate::room::{Answer, Reply, Request};
use crate::session::{Relayed, RequestId};

/// The ends of one shard's rings.
pub type Mesh = mesh::Mesh<Up, Down>;

/// The ends of the rings to a shard that was built anew.
pub type PeerEnds = mesh::PeerEnds<Up, Down>;

/// To a room's home, or to every shard.
#[derive(Debug)]
pub enum Up {
    /// A request to a room's home.
    Room {
        /// The room.
        room: Arc<str>,
        /// What.
        request: Request,
    },
    /// How far has a publication come on your shard? [`Down::Counted`].
    Count {
        /// The room.
        room: Arc<str>,
        /// The publication.
        offset: u64,
        /// The command that waits.
        reply_to: ReplyTo,
    },
    /// The same for a session of SockJS.
    Sent {
        /// Its outlet's name.
        outlet: Box<str>,
        /// An array of messages.
        message: Box<str>,
        /// The request.
        request: RequestId,
    },
    /// A client's message to one of your sessions, which has come by a request of its own:
    /// [`Down::Relayed`].
    Relay {
        /// The session.
        session: SessionKey,
        /// The message.
        message: Box<str>,
        /// The request.
        request: RequestId,
    },
}

/// From a room's home, or in answer to a request.
#[derive(Clone, Debug)]
pub enum Down {
    /// One publication, in every form in use.
    Publication {
        /// The room.
        room: Arc<str>,
        /// Its position in the room.
        position: Option<Position>,
        /// Its frames.
        encodings: Arc<Encodings>,
    },
    /// Clients have come and gone.
    Presence {
        /// The room.
        room: Arc<str>,
        /// The frames of it.
        encodings: Arc<Encodings>,
    },
    /// For one session.
    Reply(Reply),
    /// How far a publication has come on one shard.
    Counted {
        /// The command that waits.
        reply_to: ReplyTo,
        /// How far.
        backlog: Backlog,
    },
    /// The outcome of a message that a request has brought.
    Relayed {
        /// The request.
        request: RequestId,
        /// What.
        outcome: Relayed,
    },
}

impl Weigh for Up {
    fn weight(&self) -> usize {
        let more = match self {
            Self::Room { request: Request::Publish { draft, .. }, .. } => draft.weight(),
            Self::Relay { message, .. } | Self::Sent { message, .. } => message.len(),
            Self::Room { .. } | Self::Count { .. } => 0,
        };
        size_of::<Self>() + more
    }
}

impl Weigh for Down {
    fn weight(&self) -> usize {
        let more = match self {
            Self::Publication { encodings, .. } | Self::Presence { encodings, .. } => encodings.weight(),
            Self::Reply(Reply::Joined { recovery, .. }) => recovery.weight(),
            Self::Reply(Reply::Answer { answer: Ok(answer), .. }) => weight_of(answer),
            Self::Reply(Reply::Answer { .. } | Reply::Completed { .. })
            | Self::Counted { .. }
            | Self::Relayed { .. } => 0,
        };
        size_of::<Self>() + more
    }
}

/// Bytes of an answer beside what the room keeps anyway.
fn weight_of(answer: &Answer) -> usize {
    match answer {
        Answer::Presence(members, _) => size_of_val(&members[..]),
        Answer::PresenceStats { .. } => 0,
        Answer::History(publications, _) => size_of_val(&publications[..]),
    }
}
