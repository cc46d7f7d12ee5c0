//! The Centrifuge protocol where WebSocket is blocked: a stream brings replies and pushes, and commands come
//! by requests of their own, on any connection and any shard, which are relayed to the stream's session.
//!
//! Such a request is answered when its session has taken what it brought. So a client that sends faster than
//! it is served waits, as one is not read from that does so on a WebSocket.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

use super::content::Purpose;
use super::http::{Exchange, Kind};
use super::input::Used;
use super::messages::{Down, Up};
use super::sockjs::TEXT;
use super::{Shard, Slot};
use crate::app::Protocol;
use crate::app::json::compact;
use crate::base::{ConnKey, SessionKey, Time};
use crate::http::{Framing, Head, Reject, Response, StatusCode, query_value};
use crate::session::{Relayed, RequestId, Session, SessionId, node};

/// Sessions whose relayed messages are taken in one turn; the others wait for the next one.
const RELAYS_PER_TURN: usize = 1024;

/// Commands that are being read.
#[derive(Debug)]
pub(super) struct Commands {
    kind: Kind,
    exchange: Exchange,
}

/// What a connection has passed on to a session.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    /// Numbers its requests: an answer that comes too late is for none of the later ones.
    number: u32,
    /// Until when the present one is to be answered; `None`: none waits.
    deadline: Option<Time>,
    /// The answer says `ok`, as a page's form can read it.
    is_form: bool,
}

/// The content of `POST /emulation`.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    session: Cow<'a, str>,
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Envelope<'_> {
    /// The lines of commands: the text in `data`, or the object that it is.
    fn lines(&self) -> Result<Box<str>, Reject> {
        let data = self.data.get();
        match data.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(data).map(Into::into).map_err(|_| Reject::Commands),
            Some(b'{') => String::from_utf8(compact(data)).map(Into::into).map_err(|_| Reject::Commands),
            _ => Err(Reject::Commands),
        }
    }
}

impl Shard {
    /// Uses a request that brings commands: to open a stream, or for a session that has one.
    pub(super) fn take_commands(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        kind: Kind,
        exchange: Exchange,
        rest: &[u8],
    ) -> Used {
        let purpose = || Purpose::Commands(Commands { kind, exchange: exchange.clone() });
        match self.begin_content(key, head, &exchange, rest, purpose) {
            Ok((content, used)) => {
                self.use_commands(key, Commands { kind, exchange }, Ok(content));
                Used::Some(used)
            }
            Err(used) => used,
        }
    }

    /// Uses commands that are there, or refuses them.
    pub(super) fn use_commands(
        &mut self,
        key: ConnKey,
        commands: Commands,
        content: Result<Vec<u8>, Reject>,
    ) {
        let Commands { kind, exchange } = commands;
        let content = match content {
            Ok(content) => content,
            Err(reject) => return self.refuse_content(key, &exchange, reject),
        };
        let content = String::from_utf8(content).map_err(|_| Reject::BodyEncoding);
        let outcome = content.and_then(|content| match kind {
            Kind::Relay => self.relay(key, &content, &exchange),
            Kind::Events | Kind::Lines | Kind::Poll | Kind::Send | Kind::Centrifuge(..) => {
                self.open_centrifuge(key, kind, &content, &exchange)
            }
        });
        if let Err(reject) = outcome {
            self.note_refusal(key, None, reject);
            self.respond(key, &exchange, true, |out, options| reject.response_into(out, options));
        }
    }

    /// A stream whose first command stands in its request's query.
    pub(super) fn open_by_query(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        kind: Kind,
        exchange: &Exchange,
    ) -> Result<(), Reject> {
        debug_assert_eq!(head.framing, Framing::None);
        let command = query_value(head.query, "cf_connect")?;
        let is_push = matches!(kind, Kind::Centrifuge(Protocol::Push, _));
        let command = match command.as_deref() {
            Some(command) => command,
            None if is_push => "{}", // it introduces itself with nothing
            None => return Err(Reject::Commands),
        };
        self.open_centrifuge(key, kind, command, exchange)
    }

    /// Begins a stream, with a session whose first message this is.
    fn open_centrifuge(
        &mut self,
        key: ConnKey,
        kind: Kind,
        message: &str,
        exchange: &Exchange,
    ) -> Result<(), Reject> {
        self.end_publisher(key);
        let format = kind.format(exchange.is_old);
        let client = self.new_client_id();
        let deadline = self.now + self.options.handshake_timeout;
        let session = self.sessions.insert(Session::json(client, format, deadline, false));
        let id = SessionId { shard: self.mesh.me(), key: session }.to_text(self.mesh.seed());
        if let Some(session) = self.sessions.get_mut(session) {
            session.conn = Some(key);
            session.take_relayed(id);
            let taken = session.relayed(message.into(), None);
            debug_assert_eq!(taken, Ok(()), "its first message");
        }
        let Some(slot) = self.conns.get_mut(key) else { return Ok(()) };
        slot.session = Some(session);
        self.wait_for_answer(key, exchange.clone());
        self.begin_stream(key, session);
        self.relays_ready.push_back(session);
        Ok(())
    }

    /// Passes commands on to the session that they name.
    fn relay(&mut self, key: ConnKey, content: &str, exchange: &Exchange) -> Result<(), Reject> {
        let envelope: Envelope<'_> = serde_json::from_str(content).map_err(|_| Reject::Commands)?;
        let message = envelope.lines()?;
        let seed = self.mesh.seed();
        let is_here = *envelope.node == node(seed);
        let id = SessionId::parse(&envelope.session, seed).filter(|id| id.shard < self.mesh.shards());
        let Some(id) = id.filter(|_| is_here) else { return Err(Reject::UnknownSession) };
        let request = self.expect_relayed(key, exchange, false);
        self.mesh.send_up(id.shard, Up::Relay { session: id.key, message, request });
        Ok(())
    }

    /// A request of a connection waits until a session has taken what it has brought.
    /// `is_form`: it is a form of a page.
    pub(super) fn expect_relayed(&mut self, key: ConnKey, exchange: &Exchange, is_form: bool) -> RequestId {
        self.wait_for_answer(key, exchange.clone());
        let deadline = self.now + self.options.command_timeout;
        let shard = self.mesh.me();
        let Some(slot) = self.conns.get_mut(key) else { return RequestId { shard, conn: key, number: 0 } };
        let relaying = &mut slot.http_or_new().relaying;
        relaying.number = relaying.number.wrapping_add(1);
        relaying.deadline = Some(deadline);
        relaying.is_form = is_form;
        let number = relaying.number;
        self.wheel.set(key.index(), deadline);
        RequestId { shard, conn: key, number }
    }

    /// A message has come for a session of this shard.
    pub(super) fn receive_relayed(&mut self, key: SessionKey, message: Box<str>, request: RequestId) {
        let outcome = match self.sessions.get_mut(key) {
            Some(session) => session.relayed(message, Some(request)),
            None => Err(Relayed::Unknown),
        };
        match outcome {
            Ok(()) => self.relays_ready.push_back(key),
            Err(outcome) => self.answer_relay(request, outcome),
        }
    }

    /// Has sessions take what was relayed to them.
    pub(super) fn take_relayed(&mut self) {
        for _ in 0..self.relays_ready.len().min(RELAYS_PER_TURN) {
            let Some(key) = self.relays_ready.pop_front() else { return };
            while self.takes_relayed(key) {
                if self.budget.is_spent() || !self.mesh.is_clear() {
                    self.relays_ready.push_front(key);
                    return;
                }
                self.budget.messages = self.budget.messages.saturating_sub(1);
                let request = self.call_session(key, Session::take_next).flatten();
                if let Some(request) = request {
                    self.answer_relay(request, Relayed::Taken);
                }
            }
        }
    }

    /// Whether a session takes what was relayed to it. One whose outlet is full does not.
    pub(super) fn takes_relayed(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| {
            session.takes_relayed() && !session.outlet().is_some_and(|outlet| self.outlets.is_full(outlet))
        })
    }

    pub(super) fn answer_relay(&mut self, request: RequestId, outcome: Relayed) {
        self.mesh.send_down(request.shard, Down::Relayed { request, outcome });
    }

    /// A session ends: what was relayed to it and waits is refused.
    pub(super) fn refuse_relayed(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        for request in session.give_up_relayed() {
            self.answer_relay(request, Relayed::Unknown);
        }
    }

    /// What a connection has relayed has found its session, or not.
    pub(super) fn relayed(&mut self, request: RequestId, outcome: Relayed) {
        let relaying = self.conns.get_mut(request.conn).and_then(Slot::http_mut).map(|it| &mut it.relaying);
        let Some(relaying) = relaying.filter(|it| it.number == request.number && it.deadline.is_some())
        else {
            return; // its time was up
        };
        relaying.deadline = None;
        let is_form = relaying.is_form;
        let Some(exchange) = self.take_exchange(request.conn) else { return };
        let reject = match outcome {
            Relayed::Taken => {
                self.metrics.requests.add(1);
                let response = match (is_form, &exchange.sockjs) {
                    (true, _) => Response::new(StatusCode::OK, TEXT, b"ok"),
                    (false, Some(_)) => Response::new(StatusCode::NO_CONTENT, TEXT, b""),
                    (false, None) => Response::new(StatusCode::NO_CONTENT, "", b""),
                };
                return self.respond(request.conn, &exchange, true, |out, options| {
                    response.with(options).write_into(out);
                });
            }
            Relayed::Unknown => Reject::UnknownSession,
            Relayed::Full => Reject::Full,
        };
        self.note_refusal(request.conn, None, reject);
        self.respond(request.conn, &exchange, true, |out, options| reject.response_into(out, options));
    }

    /// The time of a relayed request is up, if one waits on this connection.
    pub(super) fn relay_timed_out(&mut self, key: ConnKey) -> bool {
        let now = self.now;
        let relaying = self.conns.get_mut(key).and_then(Slot::http_mut).map(|it| &mut it.relaying);
        let Some(relaying) = relaying.filter(|it| it.deadline.is_some_and(|deadline| deadline <= now)) else {
            return false;
        };
        relaying.deadline = None;
        self.refuse_waiting(key, Reject::TryAgain)
    }

    /// Until when a connection's relayed request is to be answered.
    pub(super) fn relay_due(slot: &Slot) -> Time {
        slot.http().and_then(|http| http.relaying.deadline).unwrap_or(Time::NEVER)
    }
}
