//! Sessions: one client each, its identity, its protocol, its subscriptions, what it waits for, when what
//! expires.
//!
//! A session is an ordered pipeline. It takes one message after the other ([`Session::message`]); each
//! command may wait for an authority, a room's home or an engine, within a bound and a time-out, and gets
//! exactly one reply. What it does is expressed with [`Effect`]s, which its shard carries out. It knows no
//! socket, no frame, and other shards only through what is sent to rooms' homes. It may have no connection
//! for a moment.
//!
//! | file | purpose |
//! |---|---|
//! | `mod` | the session, its subscriptions, coming in and going out of rooms |
//! | `effects` | the effects of a session, and its context |
//! | `identity` | the identity of a connection, and access to rooms |
//! | `limits` | how often a client may publish |
//! | `text` | the plain text protocol |
//! | `http` | the plain protocol over HTTP: long polls, and messages that are published by request |
//! | `json` | the Centrifuge protocol: its state, one message, one command |
//! | `commands` | what each command does |
//! | `replies` | replies for commands that waited |
//! | `slow` | members that read too slowly |
//! | `clock` | pings, pongs, time-outs, what expires |

#![forbid(unsafe_code)]

mod clock;
mod commands;
mod effects;
mod http;
mod identity;
mod json;
mod limits;
mod quoted;
mod relay;
mod replies;
mod slow;
#[cfg(test)]
mod tests;
mod text;

use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

pub use crate::app::json::Delivery;
pub use clock::jittered;
pub use effects::{Budget, Client, Context, Effect, Effects, JoinRequest};
pub use http::{Content, POLL_PAUSE_MAX, PostError, Posted};
pub use identity::{AuthOutcome, TextHandshake};
pub use relay::{Relayed, RequestId, SessionId, node};
pub use text::PendingJoin;

use crate::app::{Framing, Protocol as Wire, WireFormat};
use crate::base::connection_counter::Permit;
use crate::base::{ConnKey, OutletKey, RoomId, SubId, Time};
use crate::chat::{
    ClientId, Grant, Member, Overrides, Person, Position, RateLimiter, Recovered, RecoveryRequest,
    RoomOptions,
};
use json::Json;
use limits::RoomLimiter;

/// How long after its expiry an identity or a subscription may still be refreshed.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(25);

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its connection; `None`: it has none at present.
    pub conn: Option<ConnKey>,
    person: Arc<Person>,
    /// In which form it takes publications.
    format: WireFormat,
    protocol: Protocol,
    /// The rooms that it is in or is joining: each once.
    subscriptions: SmallVec<[Subscription; 1]>,
    /// How often it publishes, in all rooms together, since it first did.
    limiter: Option<Box<RateLimiter>>,
    /// No later than this something is due.
    due: Time,
    /// Numbers the commands that wait for something.
    commands: u32,
    /// Drafts of its own that wait in its shard: nothing more is taken until all have gone.
    parked: u32,
    /// What few sessions have.
    rare: Option<Box<Rare>>,
}

/// What few sessions have.
#[derive(Debug)]
struct Rare {
    /// When its identity expires.
    expires: Time,
    /// While the auth backend decides about a plain client.
    pending_join: Option<PendingJoin>,
    /// How often it publishes in rooms that have a limit of their own.
    room_limiters: Vec<RoomLimiter>,
    /// Skipped publications that are not announced to its client yet.
    skipped: Option<Skipped>,
    /// Counted among the connections of its user.
    user: Option<Permit<Arc<str>>>,
    /// It is one long poll.
    poll: Option<Box<http::Poll>>,
    /// It publishes by request only.
    publisher: Option<http::Publisher>,
    /// Its commands come by request.
    inbox: Option<Box<relay::Inbox>>,
    /// Messages of the present array that have been taken.
    quoted_taken: usize,
    /// It has no connection of its own: what it sends goes there.
    outlet: Option<OutletKey>,
}

impl Default for Rare {
    fn default() -> Self {
        let (expires, room_limiters) = (Time::NEVER, Vec::new());
        Self {
            expires,
            pending_join: None,
            room_limiters,
            skipped: None,
            user: None,
            poll: None,
            publisher: None,
            inbox: None,
            quoted_taken: 0,
            outlet: None,
        }
    }
}

/// Publications that a member will not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Skipped {
    /// How many.
    count: u64,
    /// The last one before them, if one can go back to there.
    after: Option<Position>,
}

/// The protocol of a session.
#[derive(Debug)]
enum Protocol {
    /// Plain text.
    Text,
    /// The Centrifuge protocol.
    Json(Box<Json>),
}

/// A session's subscription to a room.
#[derive(Debug)]
struct Subscription {
    room: Arc<str>,
    options: Arc<RoomOptions>,
    /// The room in its shard's directory.
    id: RoomId,
    /// Its member in the fan-out; `None`: it is joining.
    sub: Option<SubId>,
    /// Distinguishes it from others of the same session.
    number: u32,
    /// A token for the room has let it in.
    granted: bool,
    /// The server has put it there.
    by_server: bool,
    /// What few subscriptions have.
    more: Option<Box<More>>,
}

/// What few subscriptions have.
#[derive(Debug)]
struct More {
    /// What is to be done when it is in; `None`: it is.
    joining: Option<Joining>,
    /// When it ends by itself.
    expires: Time,
}

/// What is to be done when a client has come into a room.
#[derive(Clone, Debug)]
struct Joining {
    /// The command to be answered; 0: none.
    command: u32,
    /// The offset that it wanted to go on from.
    requested_offset: Option<u64>,
    /// It prefers an error to a join without recovery.
    or_nothing: bool,
    /// How long it may stay.
    expires_in: Option<Duration>,
    /// For the client: JSON.
    data: Option<Arc<str>>,
    /// What others in the room are shown of it: JSON.
    info: Option<Arc<str>>,
    /// What holds for it alone.
    overrides: Overrides,
    /// Until when the room's home must have answered.
    deadline: Time,
}

/// The outcome of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Taken {
    /// It was taken.
    All,
    /// It was not, or not all of it: offer the same message again when [`Session::can_take`] is true.
    Later,
}

impl Session {
    fn new(person: Person, format: WireFormat, protocol: Protocol) -> Self {
        Self {
            conn: None,
            person: Arc::new(person),
            format,
            protocol,
            subscriptions: SmallVec::new(),
            limiter: None,
            due: Time::NEVER,
            commands: 0,
            parked: 0,
            rare: None,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.person.name
    }

    /// Its client's id.
    pub fn client(&self) -> ClientId {
        self.person.client
    }

    /// In which form it takes publications.
    pub const fn format(&self) -> WireFormat {
        self.format
    }

    /// Whether its client is shown by its connection that this is alive, not by the session alone.
    pub fn is_pinged_by_connection(&self) -> bool {
        match self.format.parts() {
            (Wire::Text | Wire::Plain | Wire::Quoted, _) | (Wire::Push, Framing::Frames(_)) => true,
            (Wire::Json | Wire::Push, _) => false,
        }
    }

    /// The subscriptions that the fan-out has of it.
    pub fn subs(&self) -> impl Iterator<Item = SubId> + Clone {
        self.subscriptions.iter().filter_map(|subscription| subscription.sub)
    }

    /// Whether the fan-out has more than one subscription of it.
    pub fn is_shared(&self) -> bool {
        self.subscriptions.len() > 1
    }

    /// Whether it is joining a room.
    pub fn is_joining(&self) -> bool {
        self.joining() > 0
    }

    /// Rooms that it is joining.
    fn joining(&self) -> usize {
        self.subscriptions.iter().filter(|subscription| subscription.sub.is_none()).count()
    }

    /// Whether the answer to its handshake waits: a plain client that has it receives everything published
    /// from then on.
    pub fn holds_handshake(&self) -> bool {
        matches!(self.protocol, Protocol::Text) && !self.has_pending_join() && self.is_joining()
    }

    /// Whether its connection is confirmed, so that publications may follow.
    pub fn is_confirmed(&self) -> bool {
        match &self.protocol {
            // What a poll waits for is answered, not swept.
            Protocol::Text => !self.has_pending_join() && self.poll().is_none(),
            Protocol::Json(json) => json.is_open(),
        }
    }

    /// Whether the auth backend decides about it.
    pub fn is_authenticating(&self) -> bool {
        match &self.protocol {
            Protocol::Text => self.has_pending_join(),
            Protocol::Json(json) => json.is_authenticating(),
        }
    }

    /// Whether it takes another message now. It reports when that changes: after a reply, a decision, a
    /// completed draft.
    pub fn can_take(&self) -> bool {
        self.parked == 0
            && match &self.protocol {
                Protocol::Text => !self.has_pending_join(),
                Protocol::Json(json) => json.can_take(self.joining()) && !self.is_in_flight(json.waits_for),
            }
    }

    fn is_in_flight(&self, number: u32) -> bool {
        number != 0 && self.subscriptions.iter().any(|it| it.number == number && it.sub.is_none())
    }

    /// A message of the client's, offered whole. A [`Taken::Later`] one is offered again as it was.
    pub fn message(&mut self, ctx: &mut Context<'_>, message: &str) -> Taken {
        if !self.can_take() {
            return Taken::Later;
        }
        match self.protocol {
            Protocol::Text if self.is_quoted() => self.quoted_message(ctx, message),
            Protocol::Text => self.text_message(ctx, message),
            Protocol::Json(_) => self.json_message(ctx, message),
        }
    }

    /// The auth backend has decided.
    pub fn decided(&mut self, ctx: &mut Context<'_>, decision: crate::chat::AuthDecision) {
        match self.protocol {
            Protocol::Text => self.text_decided(ctx, decision),
            Protocol::Json(_) => self.json_decided(ctx, decision),
        }
    }

    /// A draft of its own, which waited, has gone to the room's home.
    pub const fn unparked(&mut self) {
        self.parked = self.parked.saturating_sub(1);
    }

    /// A draft of its own has to wait.
    pub const fn parked(&mut self) {
        self.parked += 1;
    }

    /// Other options hold from now on.
    pub fn reconfigured(&mut self, ctx: &mut Context<'_>, pings_changed: bool) {
        for subscription in &mut self.subscriptions {
            subscription.options = Arc::clone(ctx.options.rooms.of(&subscription.room));
        }
        if pings_changed {
            self.renew_pings(ctx);
        }
    }

    /// It ends: it leaves all rooms.
    pub fn ended(&mut self, effects: &mut Effects) {
        while !self.subscriptions.is_empty() {
            self.leave(effects, self.subscriptions.len() - 1);
        }
    }

    /// The server goes away.
    pub fn shutdown(&mut self, effects: &mut Effects) {
        match self.protocol {
            Protocol::Text => {
                effects.close(1001, "server is going away", crate::metrics::CloseReason::Shutdown);
            }
            Protocol::Json(_) => effects.disconnect(crate::app::json::Disconnect::Shutdown),
        }
    }

    /// A room's home has accepted the client. `None`: it no longer joins; else its form, and whether its
    /// connection is in other rooms as well. [`Session::joined`] follows.
    pub fn wants(&self, number: u32) -> Option<(RoomId, WireFormat)> {
        let subscription = self.subscriptions.iter().find(|it| it.number == number && it.sub.is_none())?;
        Some((subscription.id, self.format))
    }

    /// It is in a room, where the fan-out calls it `sub`.
    pub fn joined(&mut self, ctx: &mut Context<'_>, number: u32, sub: SubId, recovery: &Recovered) {
        let Some(index) = self.subscriptions.iter().position(|it| it.number == number) else { return };
        let subscription = &mut self.subscriptions[index];
        subscription.sub = Some(sub);
        let joining = subscription.more.as_mut().and_then(|more| more.joining.take());
        if subscription.more.as_ref().is_some_and(|more| more.expires == Time::NEVER) {
            subscription.more = None;
        }
        match (&self.protocol, joining) {
            (Protocol::Text, Some(joining)) => self.text_joined(ctx, recovery, &joining),
            (Protocol::Json(_), Some(joining)) => self.json_joined(ctx, index, recovery, &joining),
            (_, None) => debug_assert!(false, "a client comes into a room once"),
        }
    }

    /// Joins a room. `Effect::Join` is the request to its home, with the room's number.
    fn join(
        &mut self,
        ctx: &mut Context<'_>,
        room: &Arc<str>,
        grant: Grant,
        recovery_request: RecoveryRequest,
        how: Join,
    ) {
        debug_assert!(self.index_of(room).is_none(), "a room once");
        let number = self.next_command();
        let deadline = ctx.now + ctx.options.command_timeout;
        let Join { command, requested_offset, or_nothing, granted, by_server } = how;
        let Grant { info, data, expires_in, overrides } = grant;
        let joining = Joining {
            command,
            requested_offset,
            or_nothing,
            expires_in,
            data,
            info: info.clone(),
            overrides,
            deadline,
        };
        self.subscriptions.push(Subscription {
            room: Arc::clone(room),
            options: Arc::clone(ctx.options.rooms.of(room)),
            id: RoomId(u32::MAX),
            sub: None,
            number,
            granted,
            by_server,
            more: Some(Box::new(More { joining: Some(joining), expires: Time::NEVER })),
        });
        self.due = self.due.min(deadline);
        let member = Member::new(Arc::clone(&self.person), info);
        ctx.effects.push(Effect::Join(JoinRequest {
            number,
            room: Arc::clone(room),
            member,
            recovery_request,
            overrides,
            lease: self.poll().map(|_| ctx.options.poll_timeout + POLL_PAUSE_MAX),
        }));
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn has_pending_join(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.pending_join.is_some())
    }

    /// When its identity expires.
    fn expires(&self) -> Time {
        self.rare.as_ref().map_or(Time::NEVER, |rare| rare.expires)
    }

    /// Its identity expires at `time`, and not at another one any more.
    fn expire_at(&mut self, time: Time) {
        if time != self.expires() {
            self.rare().expires = time;
        }
        self.due = self.due.min(time);
    }

    /// Its shard has the room it goes into under this number, and by a name that all its subscriptions share.
    pub fn attends(&mut self, number: u32, id: RoomId, name: Arc<str>) {
        if let Some(subscription) = self.subscriptions.iter_mut().find(|it| it.number == number) {
            subscription.id = id;
            subscription.room = name;
        }
    }

    /// Goes out of the room of its subscription number `index`.
    fn leave(&mut self, effects: &mut Effects, index: usize) {
        let Subscription { room, id, sub, .. } = self.subscriptions.swap_remove(index);
        if self.subscriptions.is_empty() {
            self.subscriptions.shrink_to_fit();
        }
        effects.push(Effect::Leave { room, id, sub, client: self.person.client, format: self.format });
    }

    fn index_of(&self, room: &str) -> Option<usize> {
        self.subscriptions.iter().position(|subscription| *subscription.room == *room)
    }

    const fn next_command(&mut self) -> u32 {
        self.commands = self.commands.wrapping_add(1);
        self.commands
    }
}

/// How a session goes into a room.
#[derive(Clone, Copy, Debug, Default)]
struct Join {
    /// The command to be answered; 0: none.
    command: u32,
    /// The offset that it wanted to go on from.
    requested_offset: Option<u64>,
    /// It prefers an error to a join without recovery.
    or_nothing: bool,
    /// A token for the room lets it in.
    granted: bool,
    /// The server puts it there.
    by_server: bool,
}
