//! The plain protocol over HTTP: streams and long polls.
//!
//! A stream or a poll is a session of its own, which joins its room before anything is answered; the answer's
//! head goes out with what the room has for it. What they cannot be served is refused with a status, as for
//! WebSocket.

use std::borrow::Cow;
use std::time::Duration;

use super::http::{Exchange, JSON, Kind, NO_STORE, explain};
use super::requests::PLAIN;
use super::{Shard, Slot};
use crate::app::plain::{NDJSON, end_into};
use crate::app::{Framing, Protocol, WireFormat, json};
use crate::base::{AudienceId, ConnKey, SessionKey, Time};
use crate::chat::{Position, RecoveryRequest};
use crate::conn::{State, Stream};
use crate::http::{EVENT_STREAM, Head, Reject, Response, StatusCode, StreamHead, StreamKind, query_value};
use crate::metrics::CloseReason;
use crate::session::{Session, TextHandshake, jittered};

/// Bytes of the name that a client gives all its polls.
const POLL_SESSION_BYTES_MAX: usize = 64;

/// Polls that are answered with publications in one turn; the others wait for the next one.
const POLLS_PER_TURN: usize = 256;

impl Shard {
    /// A stream, or a long poll: its session joins its room.
    pub(super) fn join_by_request(
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
        let format = kind.format(exchange.is_old);
        let client = self.new_client_id();
        let session = match kind {
            Kind::Poll => {
                let until = self.now + poll_wait(head)?.min(self.options.poll_timeout);
                Session::poll_of(client, format, &self.poll_session(head)?, until)
            }
            Kind::Events | Kind::Lines | Kind::Send | Kind::Centrifuge(..) | Kind::Relay => {
                Session::text(client, format)
            }
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
        self.wait_for_answer(key, exchange.clone());
        self.open_session(session_key, &handshake, admission);
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
            Kind::Poll | Kind::Send | Kind::Centrifuge(..) | Kind::Relay => {
                self.respond(key, exchange, true, |out, options| {
                    let response = Response::new(StatusCode::NO_CONTENT, "", b"");
                    Response { fields: &[NO_STORE], ..response }.with(options).write_into(out);
                })
            }
        }
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
        let Some(slot) = self.conns.get_mut(key) else { return };
        let Framing::Stream(kind, chunked) = format.framing() else { return };
        let messages = format.protocol() != Protocol::Plain;
        let content_type = match (kind, messages) {
            (StreamKind::Events, _) => EVENT_STREAM,
            (StreamKind::Lines, false) => NDJSON,
            (StreamKind::Lines, true) => PLAIN,
        };
        let fields = cors.fields();
        StreamHead { content_type, chunked, fields: &fields, date }.write_into(slot.conn.outbox.bytes());
        // Such a session shows by itself that it is alive.
        let heartbeat_at = if messages { Time::NEVER } else { heartbeat_at };
        slot.conn.begin_stream(Stream { kind, chunked, messages }, heartbeat_at);
        if messages && kind == StreamKind::Events {
            slot.conn.send_part(Stream { kind, chunked, messages }, b"\r\n");
        }
        self.metrics.streams.add(1);
        slot.end_http();
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
            State::Open if conn.stream().is_some() => {
                let format = session.and_then(|session| self.sessions.get(session)).map(Session::format);
                let mut payload = Vec::new();
                match format.map(WireFormat::parts) {
                    Some((Protocol::Json, _)) => json::disconnect_into(&mut payload, code, reason, false),
                    Some((Protocol::Push, _)) => json::disconnect_into(&mut payload, code, reason, true),
                    Some((Protocol::Plain, framing)) => end_into(&mut payload, framing, code, reason),
                    Some((Protocol::Text | Protocol::Quoted, _)) | None => {}
                }
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
            if self.deliver_audience(id, &mut left) {
                self.polls_due.push_front(id);
                return;
            }
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

/// How long a poll may wait at most, of `wait` in its query, in seconds.
fn poll_wait(head: &Head<'_>) -> Result<Duration, Reject> {
    let Some(wait) = query_value(head.query, "wait")? else { return Ok(Duration::MAX) };
    // A number that is too large for its type is more than any poll waits, and no mistake.
    let is_number = !wait.is_empty() && wait.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Ok(wait.parse().map_or(Duration::MAX, Duration::from_secs)) } else { Err(Reject::Query) }
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
