//! The plain protocol over HTTP, where it differs from the same protocol over WebSocket: a long poll is a
//! session that ends with its answer, and a message that is published by request has one answer of its own.
//!
//! A client that polls is the same member of its room in every poll, on whichever shard it arrives: its
//! client id is made of the session's name in the request, its identity and the room. So a poll needs nothing
//! that is kept between two of them but the room's lease (`room::lease`).

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

use super::identity::{may_join, may_publish};
use super::{Context, Effect, Session};
use crate::app::{self, Framing, WireFormat, json, plain};
use crate::base::Time;
use crate::base::hash::Seed;
use crate::chat::{Body, ClientId, Draft, IdempotencyKey, Member, Position, RateDecision, Recovered};

/// How long a client that polls is still a member after the time that a poll may take, until its next one.
pub const POLL_PAUSE_MAX: Duration = Duration::from_secs(10);

/// One long poll.
#[derive(Debug)]
pub(super) struct Poll {
    /// The session's name in the request.
    session: Box<str>,
    /// Until when it waits for publications.
    pub(super) until: Time,
    /// Where the room stood when it joined.
    top: Option<Position>,
}

impl Poll {
    /// When it is to be answered. Before it has joined, the join's own deadline holds.
    pub(super) fn due(&self) -> Time {
        self.top.map_or(Time::NEVER, |_| self.until)
    }
}

/// What a session needs that publishes by request only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publisher {
    /// A token for the room has let it in.
    granted: bool,
}

/// A message that is to be published by request.
#[derive(Debug)]
pub struct Posted {
    /// The room.
    pub room: Arc<str>,
    /// What it carries.
    pub content: Content,
    /// The client's name for it.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// The content of such a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A text.
    Text(String),
    /// JSON.
    Json(String),
}

impl Content {
    fn body(self) -> Body {
        match self {
            Self::Text(text) => Body::Text(Bytes::from(text)),
            Self::Json(data) => Body::Data(json::compact(&data).into()),
        }
    }
}

/// Why a message is not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostError {
    /// It is longer than the room takes.
    TooLong,
    /// The client may not publish there.
    Denied,
    /// The client publishes too fast. The flag: it has done so for too long.
    RateLimit(bool),
}

impl Session {
    /// A client's long poll, which ends at `until`; `session` is the client's name for all its polls.
    pub fn poll_of(client: ClientId, format: WireFormat, session: &str, until: Time) -> Self {
        let mut poll = Self::text(client, format);
        poll.rare().poll = Some(Box::new(Poll { session: session.into(), until, top: None }));
        poll
    }

    /// A client that publishes by request, and is no member of the room.
    pub fn publisher(client: ClientId) -> Self {
        let mut publisher = Self::text(client, WireFormat::Text);
        publisher.rare().publisher = Some(Publisher { granted: false });
        publisher
    }

    pub(super) fn poll(&self) -> Option<&Poll> {
        self.rare.as_ref()?.poll.as_deref()
    }

    /// The session's name in its poll.
    pub fn poll_session(&self) -> Option<&str> {
        self.poll().map(|poll| &*poll.session)
    }

    pub(super) fn is_publisher(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.publisher.is_some())
    }

    /// Its client's id, which in all polls of one client in one room is the same. Another identity makes
    /// another client: the session's name alone lets nobody pass for a member.
    pub(super) fn poll_client(&self, seed: &Seed, user: &str, name: &str, room: &str) -> ClientId {
        let Some(poll) = self.poll() else { return self.person.client };
        let half = |salt: u8| u128::from(seed.hash(&(salt, &*poll.session, user, name, room)));
        // No shard: its sessions come and go on all of them.
        ClientId::new(usize::MAX, half(0) << 64 | half(1))
    }

    /// A stream's head goes out, and what an `EventSource` is to do when it ends.
    pub(super) fn begin_stream(ctx: &mut Context<'_>, kind: app::StreamKind) {
        ctx.effects.push(Effect::Begin);
        if kind == app::StreamKind::Events {
            ctx.effects.send(|out| out.extend_from_slice(plain::RETRY));
        }
    }

    /// It has joined its room: it is answered at once if something is there for it, or is missing.
    pub(super) fn poll_joined(&mut self, ctx: &mut Context<'_>, recovery: &Recovered) {
        let gap = recovery.recovered == Some(false);
        if let Some(poll) = self.rare().poll.as_mut() {
            poll.top = Some(recovery.top);
            let until = poll.until;
            self.due = self.due.min(until);
        }
        if recovery.publications.is_empty() && !gap {
            return;
        }
        let mut entries = Vec::new();
        for publication in &recovery.publications {
            plain::publication_into(&mut entries, Framing::Entries, publication);
        }
        let content = plain::batch(&entries, recovery.top, gap);
        ctx.effects.batch(Some(recovery.top), |out| out.extend_from_slice(&content));
    }

    /// What has been published since it joined: entries of a batch, of which the last one is at `position`.
    pub fn poll_answered(&self, ctx: &mut Context<'_>, entries: &[u8], position: Option<Position>) {
        let Some(poll) = self.poll() else { return };
        let Some(position) = position.or(poll.top) else { return };
        let content = plain::batch(entries, position, false);
        ctx.effects.batch(Some(position), |out| out.extend_from_slice(&content));
    }

    /// Nothing has come in time.
    pub(super) fn poll_tick(&self, ctx: &mut Context<'_>) {
        let Some(poll) = self.poll().filter(|poll| poll.until <= ctx.now) else { return };
        // One that has not joined yet gets its answer when it has, or when that takes too long.
        if let Some(position) = poll.top {
            ctx.effects.push(Effect::Batch { content: None, position: Some(position) });
        }
    }

    /// Whether its identity holds no more.
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires() <= now
    }

    /// A publisher is authenticated.
    pub(super) fn admitted(&mut self, ctx: &mut Context<'_>, granted: bool) {
        self.rare().publisher = Some(Publisher { granted });
        ctx.effects.push(Effect::Confirmed);
    }

    /// Goes on with the limits of another session of the same client.
    pub fn continue_limits(&mut self, other: &mut Self) {
        self.limiter = other.limiter.take();
        if let Some(rare) = &mut other.rare {
            self.rare().room_limiters = std::mem::take(&mut rare.room_limiters);
        }
    }

    /// Publishes a message; the returned number is that of [`Effect::Published`].
    ///
    /// # Errors
    /// The message is not published.
    pub fn post(&mut self, ctx: &mut Context<'_>, posted: Posted) -> Result<u32, PostError> {
        let Posted { room, content, idempotency_key } = posted;
        let options = Arc::clone(ctx.options.rooms.of(&room));
        let body = content.body();
        if body.bytes().len() > options.message_bytes_max {
            return Err(PostError::TooLong);
        }
        let granted = self.rare.as_ref().and_then(|rare| rare.publisher).is_some_and(|it| it.granted);
        // It could join the room: so it counts as a member, and has not to be one at the same time.
        let is_member = granted || may_join(&options, self.person.user());
        if !may_publish(&options, self.person.user(), is_member, granted) {
            return Err(PostError::Denied);
        }
        match self.spend(ctx.now, ctx.options, &room, &options) {
            RateDecision::Allow => {}
            RateDecision::Throttle => return Err(PostError::RateLimit(false)),
            RateDecision::Disconnect => return Err(PostError::RateLimit(true)),
        }
        let author = Member::new(Arc::clone(&self.person), None);
        let command = self.next_command().max(1);
        let idempotency_key = idempotency_key.map(Box::new);
        let draft = Draft { idempotency_key, ..Draft::new(author, body) };
        ctx.effects.push(Effect::Publish { command, room, draft });
        Ok(command)
    }
}
