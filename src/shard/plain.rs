//! Requests of the plain protocol over HTTP: streams, long polls, messages to be published, and what browsers
//! ask before them.
//!
//! A stream or a poll is a session of its own, which joins its room before anything is answered; the answer's
//! head goes out with what the room has for it. What they cannot be served is refused with a status, as for
//! WebSocket.

use std::borrow::Cow;

use super::input::Used;
use super::publish::{Publisher, Receiving};
use super::{Shard, Slot};
use crate::app::plain::{NDJSON, end_into};
use crate::app::{Protocol, WireFormat};
use crate::base::{AudienceId, ConnKey, SessionKey, Time};
use crate::chat::{Position, RecoveryRequest};
use crate::conn::{Endpoint, State};
use crate::http::{
    AnswerOptions, Cors, EVENT_STREAM, Framing, Head, Reject, Response, StatusCode, StreamHead, query_value,
};
use crate::metrics::CloseReason;
use crate::session::{Session, TextHandshake, jittered};

/// What a request of the plain protocol asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `GET /sse/{name}`.
    Events,
    /// `GET /stream/{name}`.
    Lines,
    /// `GET /poll/{name}`.
    Poll,
    /// `POST /send/{name}`.
    Send,
}

impl Kind {
    /// What is at `path`, and the name in it; `None`: it is none of these.
    pub(super) fn at(path: &str) -> Option<(Self, &str)> {
        let (first, name) = path.strip_prefix('/')?.split_once('/')?;
        let kind = match first {
            "sse" => Self::Events,
            "stream" => Self::Lines,
            "poll" => Self::Poll,
            "send" => Self::Send,
            _ => return None,
        };
        Some((kind, name))
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Events | Self::Lines | Self::Poll => "GET, HEAD, OPTIONS",
            Self::Send => "POST, OPTIONS",
        }
    }

    fn check_method(self, head: &Head<'_>) -> Result<(), Reject> {
        let is_served = self.methods().split(", ").any(|method| method == head.method);
        if is_served { Ok(()) } else { Err(Reject::Method(self.methods())) }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Events => Protocol::Events,
            Self::Lines => Protocol::Lines,
            Self::Poll => Protocol::Batches,
            Self::Send => Protocol::Text,
        }
    }
}

/// What is in progress on a connection.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// The request whose answer comes later.
    pub(super) exchange: Option<Exchange>,
    /// The request whose content is being read.
    pub(super) receiving: Option<Receiving>,
    /// What it publishes by request.
    pub(super) publisher: Option<Publisher>,
}

/// What the answer to a request depends on beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Exchange {
    pub(super) cors: Cors,
    pub(super) keep_alive: bool,
    pub(super) is_old: bool,
    pub(super) head_only: bool,
}

impl Exchange {
    /// Why the connection ends with the answer; `None`: it goes on.
    fn ending(&self) -> Option<CloseReason> {
        (!self.keep_alive).then_some(CloseReason::RequestComplete)
    }
}

/// Bytes of the name that a client gives all its polls.
const POLL_SESSION_BYTES_MAX: usize = 64;

/// Polls that are answered with publications in one turn; the others wait for the next one.
const POLLS_PER_TURN: usize = 256;

/// How long a browser may take a HEAD's answer for: not at all, like the stream's.
const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");

impl Shard {
    /// Uses a request of the plain protocol, of which `rest` is what follows its head.
    pub(super) fn take_plain(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        (kind, name): (Kind, &str),
        rest: &[u8],
    ) -> Used {
        // Answers have the order of their requests.
        if (kind != Kind::Send || head.method != "POST") && self.holds_for_answers(key) {
            return Used::Later;
        }
        let has_content = head.framing != Framing::None;
        let mut exchange = self.exchange_of(key, head);
        let cors = Cors::check(head, &self.options.origins, kind == Kind::Send && head.method == "POST");
        let outcome = cors.and_then(|cors| {
            exchange.cors = cors;
            self.check_service(key)?;
            kind.check_method(head)
        });
        let outcome = match (outcome, head.method) {
            (Err(reject), _) => Err(reject),
            (Ok(()), "POST") => return self.take_post(key, head, name, exchange, rest),
            (Ok(()), _) if has_content => Err(Reject::Body),
            (Ok(()), "OPTIONS") => {
                self.answer_options(key, head, kind, &exchange);
                Ok(())
            }
            (Ok(()), _) => self.join_by_request(key, head, kind, name, &exchange),
        };
        match outcome {
            Ok(()) => Used::Some(head.len),
            Err(reject) => self.refuse_plain(key, head, reject, &exchange),
        }
    }

    /// Refuses a request. The connection goes on only if nothing of the request can follow.
    pub(super) fn refuse_plain(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        reject: Reject,
        exchange: &Exchange,
    ) -> Used {
        if self.holds_for_answers(key) {
            return Used::Later;
        }
        self.note_refusal(key, Some(head), reject);
        let goes_on = head.framing == Framing::None && !reject.ends_connection();
        self.respond(key, exchange, goes_on, |out, options| reject.response_into(out, options));
        if goes_on { Used::Some(head.len) } else { Used::All }
    }

    fn exchange_of(&self, key: ConnKey, head: &Head<'_>) -> Exchange {
        let over_limit = self.conns.get(key).is_some_and(|slot| slot.conn.over_limit);
        Exchange {
            cors: Cors::None,
            keep_alive: head.keep_alive() && self.draining.is_none() && !over_limit,
            is_old: head.minor_version == 0,
            head_only: head.method == "HEAD",
        }
    }

    /// Whether the connection is served at all.
    fn check_service(&self, key: ConnKey) -> Result<(), Reject> {
        let Some(Slot { conn, details, .. }) = self.conns.get(key) else { return Ok(()) };
        if conn.over_limit {
            return Err(self.surplus_refusal());
        }
        let peer = details.as_ref().and_then(|details| details.peer.as_ref());
        if peer.is_some_and(|peer| peer.counted.is_none()) {
            return Err(Reject::TooMany);
        }
        if self.draining.is_some() { Err(Reject::ShuttingDown) } else { Ok(()) }
    }

    fn answer_options(&mut self, key: ConnKey, head: &Head<'_>, kind: Kind, exchange: &Exchange) {
        let is_preflight = head.fields("Access-Control-Request-Method").next().is_some();
        let options = self.answer_options_of(exchange);
        self.metrics.requests.add(1);
        let fields = exchange.cors.options_fields(kind.methods(), is_preflight);
        let response =
            Response { fields: &fields, ..Response::new(StatusCode::NO_CONTENT, "", b"").with(&options) };
        self.write_answer(key, exchange.ending(), |out| response.write_into(out));
    }

    /// A stream, or a long poll: its session joins its room.
    fn join_by_request(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        kind: Kind,
        name: &str,
        exchange: &Exchange,
    ) -> Result<(), Reject> {
        let mut handshake = self.text_handshake(name, head)?;
        if kind == Kind::Events {
            // An EventSource reconnects with the address that it was made with: the newer position is this.
            if let Some(since) = head.only_field("Last-Event-ID").filter(|since| !since.is_empty()) {
                let since = std::str::from_utf8(since).map_err(|_| Reject::Query)?;
                handshake.recovery_request =
                    crate::app::text::recovery_request(None, Some(since)).ok_or(Reject::Query)?;
            }
        }
        let mut format = WireFormat::new(kind.protocol(), None);
        if exchange.is_old {
            format = format.unchunked();
        }
        let client = self.new_client_id();
        let session = match kind {
            Kind::Poll => {
                let until = self.now + self.options.poll_timeout;
                Session::poll_of(client, format, &self.poll_session(head)?, until)
            }
            Kind::Events | Kind::Lines | Kind::Send => Session::text(client, format),
        };
        let (session, admission) = self.admit(session, &handshake)?;
        if exchange.head_only {
            self.answer_head(key, kind, exchange);
            return Ok(());
        }
        self.end_publisher(key);
        let session_key = self.sessions.insert(session);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.conn = Some(key);
        }
        let Some(slot) = self.conns.get_mut(key) else { return Ok(()) };
        slot.session = Some(session_key);
        slot.conn.wait();
        slot.http_or_new().exchange = Some(exchange.clone());
        self.metrics.waiting_requests.add(1);
        self.open_session(key, &handshake, admission);
        self.rearm(key);
        Ok(())
    }

    /// The client's name for all its polls: of the request, or a new one.
    fn poll_session(&mut self, head: &Head<'_>) -> Result<String, Reject> {
        match query_value(head.query, "session")? {
            None => Ok(self.new_client_id().to_string()),
            Some(session) => {
                let valid = (1..=POLL_SESSION_BYTES_MAX).contains(&session.len())
                    && session
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
                if valid { Ok(session.into_owned()) } else { Err(Reject::Session) }
            }
        }
    }

    /// The answer to a HEAD: what a GET would begin with (RFC 9110 §9.3.2).
    fn answer_head(&mut self, key: ConnKey, kind: Kind, exchange: &Exchange) {
        let date = self.date();
        let fields = exchange.cors.fields();
        self.metrics.requests.add(1);
        match kind {
            Kind::Events | Kind::Lines => {
                let chunked = !exchange.is_old;
                let content_type = if kind == Kind::Events { EVENT_STREAM } else { NDJSON };
                let head = StreamHead { content_type, chunked, fields: &fields, date };
                let ending = exchange.ending().or_else(|| (!chunked).then_some(CloseReason::RequestComplete));
                self.write_answer(key, ending, |out| head.write_into(out));
            }
            Kind::Poll | Kind::Send => self.respond(key, exchange, true, |out, options| {
                let response = Response::new(StatusCode::NO_CONTENT, "", b"");
                Response { fields: &[NO_STORE], ..response }.with(options).write_into(out);
            }),
        }
    }

    pub(super) fn answer_options_of(&self, exchange: &Exchange) -> AnswerOptions<'static> {
        AnswerOptions {
            keep_alive: exchange.keep_alive,
            is_old: exchange.is_old,
            head_only: exchange.head_only,
            fields: &[],
            date: self.date(),
        }
    }

    /// Appends an answer, after which the connection reads the next request, or ends.
    pub(super) fn respond(
        &mut self,
        key: ConnKey,
        exchange: &Exchange,
        goes_on: bool,
        write: impl FnOnce(&mut Vec<u8>, &AnswerOptions<'_>),
    ) {
        let fields = exchange.cors.fields();
        let keep_alive = exchange.keep_alive && goes_on && self.draining.is_none();
        let options = AnswerOptions { keep_alive, fields: &fields, ..self.answer_options_of(exchange) };
        let reason = if goes_on { CloseReason::RequestComplete } else { CloseReason::RequestRejected };
        self.write_answer(key, (!keep_alive).then_some(reason), |out| write(out, &options));
    }

    /// The same; `ending`: why the connection ends with it.
    fn write_answer(&mut self, key: ConnKey, ending: Option<CloseReason>, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if !matches!(conn.state(), State::Head | State::Body | State::Waiting) {
            return;
        }
        write(conn.outbox.bytes());
        if let Some(reason) = ending {
            return self.end_after_answer(key, reason);
        }
        conn.next_request();
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        self.flush_later(key);
        self.offer_later(key);
    }

    /// A stream's session has joined its room: the answer begins.
    pub(super) fn begin_stream(&mut self, key: ConnKey, session: SessionKey) {
        let date = self.date();
        let Some(format) = self.sessions.get(session).map(Session::format) else { return };
        let interval = self.options.ping_interval;
        let heartbeat_at =
            if interval.is_zero() { Time::NEVER } else { self.now + jittered(&mut self.rng, interval) };
        // A session that joins anew, as its room's home was lost, goes on with its stream.
        let Some(Exchange { cors, .. }) = self.take_exchange(key) else { return };
        self.metrics.requests.add(1);
        let Some(Slot { conn, details, .. }) = self.conns.get_mut(key) else { return };
        let (endpoint, content_type) = match (format.protocol() == Protocol::Events, format.is_chunked()) {
            (true, true) => (Endpoint::Events, EVENT_STREAM),
            (true, false) => (Endpoint::EventsUnchunked, EVENT_STREAM),
            (false, true) => (Endpoint::Lines, NDJSON),
            (false, false) => (Endpoint::LinesUnchunked, NDJSON),
        };
        let (chunked, fields) = (format.is_chunked(), cors.fields());
        StreamHead { content_type, chunked, fields: &fields, date }.write_into(conn.outbox.bytes());
        conn.begin_stream(endpoint, heartbeat_at);
        self.metrics.streams.add(1);
        if let Some(known) = details {
            known.http = None;
            if known.peer.is_none() && known.name.is_none() {
                *details = None;
            }
        }
        self.rearm(key);
        self.flush_later(key);
    }

    /// Answers a poll, whose session ends.
    pub(super) fn answer_poll(
        &mut self,
        key: ConnKey,
        session: SessionKey,
        content: Option<&[u8]>,
        position: Option<Position>,
    ) {
        let Some(exchange) = self.take_exchange(key) else { return };
        self.metrics.requests.add(1);
        let name = self.sessions.get(session).and_then(Session::poll_session).unwrap_or_default().to_owned();
        let position = position.map(|position| position.to_string());
        let mut fields = vec![NO_STORE, ("Stentor-Session", name.as_str())];
        fields.extend(position.as_deref().map(|position| ("Stentor-Position", position)));
        self.end_session(key);
        self.respond(key, &exchange, true, |out, options| {
            let response = match content {
                Some(content) => Response::new(StatusCode::OK, JSON, content),
                None => Response::new(StatusCode::NO_CONTENT, "", b""),
            };
            Response { fields: &fields, ..response }.with(options).write_into(out);
        });
    }

    pub(super) fn take_exchange(&mut self, key: ConnKey) -> Option<Exchange> {
        let slot = self.conns.get_mut(key)?;
        if slot.conn.state() != State::Waiting {
            return None;
        }
        let exchange = slot.http_mut()?.exchange.take()?;
        self.metrics.waiting_requests.sub(1);
        Some(exchange)
    }

    /// A session ends before its request is answered, or ends its stream: `code` is that which a WebSocket
    /// would be closed with. False: it has neither.
    pub(super) fn end_by_request(&mut self, key: ConnKey, code: u16, reason: &str, why: CloseReason) -> bool {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return false };
        let reject = refusal_of(code, why);
        match conn.state() {
            State::Waiting => {
                self.end_session(key);
                if let Some(exchange) = self.take_exchange(key) {
                    self.note_refusal(key, None, reject);
                    self.respond(key, &exchange, true, |out, options| explain(out, reject, reason, options));
                }
            }
            State::Open if conn.is_stream() => {
                let format = session.and_then(|session| self.sessions.get(session)).map(Session::format);
                let protocol = format.map_or(Protocol::Lines, WireFormat::protocol);
                let mut payload = Vec::new();
                end_into(&mut payload, protocol, code, reason);
                let change = conn.end_stream(&payload, why, &self.options);
                self.apply(key, change);
            }
            State::Head | State::Body if session.is_some() => self.end_posts(key, reject, reason),
            State::Head
            | State::Body
            | State::Open
            | State::Closing
            | State::Finishing(_)
            | State::Lingering
            | State::Closed => return false,
        }
        true
    }

    /// Publications have come for polls that wait in an audience.
    pub(super) fn poll_later(&mut self, audience: AudienceId) {
        if !self.polls_due.contains(&audience) {
            self.polls_due.push_back(audience);
        }
    }

    /// Answers the polls for which publications have come.
    pub(super) fn answer_polls(&mut self) {
        let mut left = POLLS_PER_TURN;
        for _ in 0..self.polls_due.len() {
            let Some(id) = self.polls_due.pop_front() else { return };
            let due = self.fanout.unanswered(id, left);
            left -= due.len();
            let is_rest = left == 0;
            for (conn, entries, position) in due {
                let Some(key) = self.conns.key_at(conn) else { continue };
                self.metrics.deliveries.add(entries.count);
                self.with_session(key, |session, ctx| session.poll_answered(ctx, &entries.bytes, position));
            }
            if is_rest {
                self.polls_due.push_front(id);
                return;
            }
        }
    }
}

/// The media type of answers in JSON.
pub(super) const JSON: &str = "application/json; charset=utf-8";

/// Appends a refusal with its own reason, as the server or the auth backend gives it.
pub(super) fn explain(out: &mut Vec<u8>, reject: Reject, reason: &str, options: &AnswerOptions<'_>) {
    let mut sentence = reason.trim_end_matches('.').replace(|it: char| it.is_control(), " ");
    sentence.push('.');
    reject.explained_into(out, &sentence, options);
}

/// The refusal for what a WebSocket would be closed with.
const fn refusal_of(code: u16, why: CloseReason) -> Reject {
    match (code, why) {
        (_, CloseReason::Shutdown) => Reject::ShuttingDown,
        (_, CloseReason::ConnectionLimit) => Reject::TooMany,
        (_, CloseReason::Expired) => Reject::Token,
        (1013, _) => Reject::TryAgain,
        _ => Reject::Denied,
    }
}

/// A handshake that outlives its request.
pub(super) fn owned(handshake: &TextHandshake<'_>) -> TextHandshake<'static> {
    let own = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
    TextHandshake {
        name: own(&handshake.name),
        room: own(&handshake.room),
        recovery_request: RecoveryRequest::None,
        token: handshake.token.as_ref().map(own),
    }
}
