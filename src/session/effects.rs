//! The effects of a session, and its context.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::app::WireFormat;
use crate::app::json::{self, Disconnect, ErrorCode, ErrorReply, Reply};
use crate::base::connection_counter::ConnectionCounter;
use crate::base::hash::Seed;
use crate::base::rng::Rng;
use crate::base::{RoomId, SubId, Time};
use crate::chat::{ClientId, Draft, Member, Overrides, Position, RecoveryRequest};
use crate::engine::PublishOutcome;
use crate::metrics::CloseReason;
use crate::options::Options;
use crate::room::Query;

/// The context of a call to a session.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time.
    pub now: Time,
    /// The shard that the session is on.
    pub shard: usize,
    /// The limits and behaviour.
    pub options: &'a Options,
    /// How many connections each user has.
    pub users: &'a Arc<ConnectionCounter<Arc<str>>>,
    /// What all shards hash with.
    pub seed: &'a Seed,
    /// Randomness.
    pub rng: &'a mut Rng,
    /// What may still be done in this turn.
    pub budget: &'a mut Budget,
    /// What the session does.
    pub effects: &'a mut Effects,
}

/// Work that may still be done for clients in one turn. What goes beyond waits for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Messages, or commands.
    pub messages: u32,
    /// Bytes that come out of an inflater.
    pub inflated_bytes: usize,
    /// Signatures that are checked.
    pub signatures: u32,
    /// Queries that look at many members or publications.
    pub scans: u32,
}

impl Budget {
    /// One turn's.
    pub const TURN: Self = Self { messages: 2048, inflated_bytes: 1 << 20, signatures: 32, scans: 32 };

    /// Whether something of it is used up.
    pub const fn is_spent(&self) -> bool {
        self.messages == 0 || self.inflated_bytes == 0 || self.signatures == 0 || self.scans == 0
    }
}

/// A session's request to join a room.
#[derive(Debug)]
pub struct JoinRequest {
    /// The subscription; the answer to the request names it.
    pub number: u32,
    /// The room.
    pub room: Arc<str>,
    /// The client as the members see it.
    pub member: Member,
    /// What it requests of the history.
    pub recovery_request: RecoveryRequest,
    /// What holds for it alone.
    pub overrides: Overrides,
    /// It polls: for how long it is a member without another poll.
    pub lease: Option<Duration>,
}

/// A client, as the auth backend gets to know it.
#[derive(Debug)]
pub struct Client {
    /// The protocol: `text` or `json`.
    pub protocol: &'static str,
    /// The requested name.
    pub name: Option<Box<str>>,
    /// Its token.
    pub token: Option<Box<str>>,
    /// The client's own data: JSON.
    pub data: Option<Box<str>>,
}

/// Something that a session does.
#[derive(Debug)]
pub enum Effect {
    /// Sends its client a message of its protocol: this part of [`Effects::payload`].
    Send(Range<usize>),
    /// Has a notice for its client as soon as what was sent before has gone out: [`super::Session::notice`].
    Notice,
    /// Ends its connection.
    Close {
        /// The status code.
        code: u16,
        /// The reason.
        reason: Cow<'static, str>,
        /// What is counted.
        why: CloseReason,
    },
    /// Joins a room: a request to its home, with `number` as the command.
    Join(JoinRequest),
    /// Sends a join request to a room's new home: the previous one is lost.
    JoinAgain(JoinRequest),
    /// Goes out of a room, or gives up going in.
    Leave {
        /// The room.
        room: Arc<str>,
        /// The same, in the shard's directory.
        id: RoomId,
        /// Its subscription; `None`: it was not in yet.
        sub: Option<SubId>,
        /// The client.
        client: ClientId,
        /// The form that it took publications in.
        format: WireFormat,
    },
    /// Publishes.
    Publish {
        /// The command.
        command: u32,
        /// The room.
        room: Arc<str>,
        /// The message.
        draft: Draft,
    },
    /// Sends a query to a room's home.
    Query {
        /// The command.
        command: u32,
        /// The room.
        room: Arc<str>,
        /// What.
        query: Query,
    },
    /// Queries all shards how far a publication has come.
    CountDelivery {
        /// The command.
        command: u32,
        /// The room.
        room: Arc<str>,
        /// The publication.
        offset: u64,
    },
    /// Sends an auth request.
    Authenticate(Client),
    /// It is in: what its rooms publish may follow what it was sent.
    Confirmed,
    /// Pings its client with a WebSocket ping.
    Ping,
    /// Begins its stream: what it sends follows.
    Begin,
    /// Answers its poll, and ends.
    Batch {
        /// The content: this part of [`Effects::payload`]; `None`: there is nothing yet.
        content: Option<Range<usize>>,
        /// From where to go on; `None`: it is not known.
        position: Option<Position>,
    },
    /// A message that was published by request is completed.
    Published {
        /// The command that brought it.
        command: u32,
        /// Its outcome.
        outcome: PublishOutcome,
        /// Its position.
        position: Option<Position>,
    },
}

/// What sessions do, in order, and the messages that they send with it. Emptied by the shard after each call.
#[derive(Debug, Default)]
pub struct Effects {
    list: VecDeque<Effect>,
    /// The bytes of all `Effect::Send`.
    payload: Vec<u8>,
    /// One of them ends the connection.
    closes: bool,
    /// The numbers of the errors among the messages.
    errors: Vec<u16>,
}

/// Between calls no more than this is kept of the buffer.
const KEPT_BYTES_MAX: usize = 256 * 1024;

impl Effects {
    /// Adds an effect.
    pub fn push(&mut self, effect: Effect) {
        self.list.push_back(effect);
    }

    /// Sends a message, which `write` appends.
    pub fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.payload.len();
        write(&mut self.payload);
        self.list.push_back(Effect::Send(from..self.payload.len()));
    }

    /// Answers a poll with what `write` appends.
    pub fn batch(&mut self, position: Option<Position>, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.payload.len();
        write(&mut self.payload);
        self.list.push_back(Effect::Batch { content: Some(from..self.payload.len()), position });
    }

    /// Answers a command.
    pub fn reply(&mut self, command: u32, reply: &Reply<'_>) {
        self.send(|out| json::reply_into(out, command, reply));
    }

    /// Answers a command with an error.
    pub fn error(&mut self, command: u32, code: ErrorCode) {
        let (number, message, temporary) = code.parts();
        self.other_error(command, number, message, temporary);
    }

    /// Answers a command with an error whose number the auth backend has chosen.
    pub fn other_error(&mut self, command: u32, code: u16, message: &str, temporary: bool) {
        self.reply(command, &Reply::Error(ErrorReply { code, message, temporary }));
        self.count_error(code);
    }

    /// Counts an error that a client receives as a text.
    pub fn count_error(&mut self, number: u16) {
        self.errors.push(number);
    }

    /// The numbers of the errors that were sent to clients.
    pub fn errors(&self) -> &[u16] {
        &self.errors
    }

    /// Ends the connection.
    pub fn close(&mut self, code: u16, reason: impl Into<Cow<'static, str>>, why: CloseReason) {
        self.closes = true;
        self.push(Effect::Close { code, reason: reason.into(), why });
    }

    /// Ends the connection, as the Centrifuge protocol has it.
    pub fn disconnect(&mut self, why: Disconnect) {
        let (code, reason) = why.parts();
        let why = match why {
            Disconnect::Shutdown => CloseReason::Shutdown,
            Disconnect::Expired | Disconnect::SubscriptionExpired => CloseReason::Expired,
            Disconnect::Slow | Disconnect::InsufficientState => CloseReason::SlowConsumer,
            Disconnect::NoPong => CloseReason::PingTimeout,
            Disconnect::TooManyRequests => CloseReason::RateLimited,
            Disconnect::Stale => CloseReason::RequestTimeout,
            Disconnect::Internal => CloseReason::AuthTimeout,
            Disconnect::BadRequest | Disconnect::NotAvailable => CloseReason::InvalidCommand,
            Disconnect::ConnectionLimit => CloseReason::ConnectionLimit,
            Disconnect::InvalidToken | Disconnect::PermissionDenied => CloseReason::Unauthorized,
        };
        self.close(u16::from(code), reason, why);
    }

    /// Whether one of them ends the connection.
    pub const fn closes(&self) -> bool {
        self.closes
    }

    /// The next effect.
    pub fn pop(&mut self) -> Option<Effect> {
        self.list.pop_front()
    }

    /// A part of the messages.
    pub fn payload(&self, range: Range<usize>) -> &[u8] {
        &self.payload[range]
    }

    /// Bytes of messages that wait to be carried out.
    pub const fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// All effects are carried out.
    pub fn clear(&mut self) {
        debug_assert!(self.list.is_empty());
        self.closes = false;
        self.errors.clear();
        self.payload.clear();
        self.payload.shrink_to(KEPT_BYTES_MAX);
    }
}
