//! A connection that is no WebSocket: its requests and where the answer that is being read has come to, and
//! how the server may answer and end it.

use std::collections::VecDeque;

use stentor_testkit::{Content, EventStream, Lines};

use super::checker::PublicationId;
use super::scenario::{Brings, Way};
use super::session::{Circumstances, SLACK, Session, Stage};
use super::world::World;
use crate::base::Time;
use crate::chat::SlowMember;
use crate::metrics::CloseReason;

/// What a client uses a connection for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// One stream.
    Stream(Way),
    /// Long polls, one after the other.
    Poll,
    /// A second poll beside another.
    Twin,
    /// Messages.
    Publish,
}

/// A message that is published by request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) id: PublicationId,
    pub(super) room: usize,
    pub(super) fill_bytes: usize,
    pub(super) is_json: bool,
    /// It has an idempotency key, so that it may be sent again.
    pub(super) has_key: bool,
    pub(super) wants_position: bool,
    /// How often it was sent.
    pub(super) attempts: u32,
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Stream,
    Poll,
    Post(Message),
}

/// A request without its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) asked: Asked,
    /// When it was sent.
    pub(super) at: Time,
    /// When its token ends.
    pub(super) ends: Option<Time>,
    /// Its content, which waits for the interim answer.
    pub(super) rest: Option<Vec<u8>>,
    /// It expects an interim answer.
    pub(super) expects: bool,
    /// All of it is sent, or will be.
    pub(super) is_complete: bool,
}

/// The head of the answer whose content is being read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) position: Option<(String, u64)>,
    /// The connection ends with it.
    pub(super) closes: bool,
}

/// One connection that is no WebSocket.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) purpose: Purpose,
    /// It uses HTTP/1.0.
    pub(super) is_old: bool,
    pub(super) requests: VecDeque<Request>,
    /// The answer whose content is being read, and the content so far.
    pub(super) answer: Option<(Answer, Content)>,
    pub(super) body: Vec<u8>,
    pub(super) events: EventStream,
    pub(super) lines: Lines,
    /// The token in all its requests, and when it ends.
    pub(super) token: (String, Option<Time>),
    /// No sooner than this its next bytes are sent.
    pub(super) busy_until: Time,
    /// When it last read anything, and when it was last owed nothing.
    pub(super) received: Time,
    pub(super) idle_since: Time,
    /// Nothing more is requested on it.
    pub(super) is_last: bool,
}

impl Http {
    pub(super) fn new(purpose: Purpose, is_old: bool, now: Time) -> Self {
        Self {
            purpose,
            is_old,
            requests: VecDeque::new(),
            answer: None,
            body: Vec::new(),
            events: EventStream::default(),
            lines: Lines::default(),
            token: (String::new(), None),
            busy_until: Time::ZERO,
            received: now,
            idle_since: now,
            is_last: false,
        }
    }

    /// A position as the server writes it.
    pub(super) fn position(text: &str) -> (String, u64) {
        let (epoch, offset) = text.split_once(':').expect("EPOCH:OFFSET");
        (epoch.to_owned(), offset.parse().expect("an offset"))
    }
}

impl Session {
    /// Whether it publishes by request.
    pub(super) fn is_publisher(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.purpose == Purpose::Publish)
    }

    /// Whether a poll of it waits for its answer.
    pub(super) fn polls(&self) -> bool {
        let polls = |http: &Http| matches!(http.purpose, Purpose::Poll | Purpose::Twin);
        self.http.as_ref().is_some_and(|http| polls(http) && !http.requests.is_empty())
    }

    /// Whether its answer may be a refusal for what it brings.
    fn may_be_unauthorized(&self, ends: Option<Time>, at: Time) -> bool {
        let is_over = ends.is_some_and(|ends| at >= ends) || self.may_be_expired(at);
        self.brings_tokens && self.plan.brings != Brings::Good || is_over
    }

    /// A status has come; `declined`: the engine could not take the message.
    pub(super) fn check_answer(
        &self,
        status: u16,
        request: &Request,
        declined: bool,
        (world, now): (&World, &Circumstances),
    ) {
        let at = world.now();
        let is_post = matches!(request.asked, Asked::Post(_));
        let fine = match status {
            200 => true,
            204 => request.asked != Asked::Stream,
            401 => self.may_be_unauthorized(request.ends, at),
            403 => self.is_unwanted(now),
            408 => at.since(world.pipe(self.pipe).opened) >= now.options.handshake_timeout,
            429 => is_post && now.limits_publishing(),
            503 => {
                let in_vain = at.since(request.at) >= now.options.command_timeout;
                declined || in_vain || now.options.connections_max < u64::MAX || now.draining.is_some()
            }
            _ => false,
        };
        assert!(fine, "client {} is answered with {status}: {:?}", self.client, request.asked);
    }

    /// The server has closed the connection.
    pub(super) fn check_http_reason(
        &self,
        reason: CloseReason,
        http: &Http,
        world: &World,
        now: &Circumstances,
    ) {
        let pipe = world.pipe(self.pipe);
        let at = world.now();
        let age = at.since(pipe.opened);
        let is_stream = matches!(http.purpose, Purpose::Stream(_));
        let late = self.was_full || self.was_late;
        let bad = self.may_be_unauthorized(http.token.1, at) || self.is_unwanted(now);
        let surplus = now.options.connections_max < u64::MAX || now.draining.is_some();
        let fine = match reason {
            CloseReason::Disconnected => pipe.end.is_some(),
            CloseReason::RequestComplete => {
                pipe.end.is_some() || http.is_old || http.is_last || surplus || self.may_be_flooding(now)
            }
            CloseReason::RequestRejected => bad || surplus || self.wrong.is_some(),
            CloseReason::RequestTimeout => age >= now.options.handshake_timeout,
            CloseReason::PingTimeout => is_stream && now.pings && late,
            CloseReason::SlowConsumer => is_stream && self.was_full && now.policy() == SlowMember::Disconnect,
            CloseReason::Shutdown => now.draining.is_some(),
            CloseReason::AuthTimeout | CloseReason::RoomTimeout => self.may_be_given_up(world, now),
            CloseReason::Unauthorized => self.is_unwanted(now) || bad,
            CloseReason::Expired => self.may_be_expired(at),
            CloseReason::ClosedByPeer
            | CloseReason::ProtocolError
            | CloseReason::InvalidCommand
            | CloseReason::MessageTooBig
            | CloseReason::UnsupportedData
            | CloseReason::RateLimited
            | CloseReason::ShardPanic
            | CloseReason::ConnectionLimit => false,
        };
        assert!(
            fine,
            "client {} ({:?}) is closed for {reason:?}: {:?}",
            self.client, http.purpose, self.left
        );
    }

    /// Nothing moves any more: no request that can be answered is without its answer, and nothing is kept
    /// beyond its time.
    pub(super) fn check_http_at_rest(&self, world: &World, now: &Circumstances) {
        let pipe = world.pipe(self.pipe);
        let Some(http) = &self.http else { return };
        let reads = !pipe.starved && pipe.to_client.is_empty();
        if !reads || self.waits_for_an_answer(now) {
            return;
        }
        let (at, options, client) = (world.now(), &now.options, self.client);
        assert!(pipe.to_server.is_empty(), "what client {client} has sent is not read: {:?}", pipe.to_server);
        let most = options.close_timeout + SLACK;
        let waited = |since: Time| at.since(since.max(now.changed));
        if let Some(drain) = now.draining {
            assert!(at.since(drain) <= most, "client {client} outlives the drain");
        }
        if pipe.end.is_some() {
            return;
        }
        match http.requests.front() {
            None => {
                let stays =
                    self.stage == Stage::Open || waited(http.idle_since) <= options.handshake_timeout + most;
                assert!(stays, "client {client} requests nothing, and is kept");
            }
            Some(request) if request.asked == Asked::Poll => {
                let late = waited(request.at) > options.poll_timeout + most;
                assert!(!late, "client {client} polls since {:?}", request.at);
            }
            Some(request) if request.asked == Asked::Stream && self.stage == Stage::Open => {
                let interval = options.ping_interval;
                let silent = !interval.is_zero() && waited(http.received) > 2 * interval + most;
                assert!(
                    !silent || self.was_late,
                    "the stream of client {client} is silent since {:?}",
                    http.received
                );
            }
            Some(request) if request.rest.is_some() => {
                panic!("client {client} waits for 100 Continue since {:?}", request.at)
            }
            Some(request) if !request.is_complete => {
                let late = waited(request.at) > options.handshake_timeout + most;
                assert!(!late, "client {client} does not send the rest of a request, and is kept");
            }
            Some(request) => panic!("client {client} waits for the answer to {request:?}"),
        }
        if self.stage == Stage::Open {
            self.check_expiry(at, now.changed, most);
        }
    }
}
