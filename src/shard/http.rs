//! Requests beside pages and handshakes: what each path takes, and how its answers are given.
//!
//! A request is checked here once, for whatever it asks: its origin, whether it is served at all, its method,
//! whether it may have content. What it then does stands with its protocol: `plain`, `publish`, `emulation`.

use super::content::Receiving;
use super::emulation::Relaying;
use super::input::Used;
use super::publish::Publisher;
use super::sockjs::Answers;
use super::{Shard, Slot};
use crate::app::{Framing as WireFraming, Protocol, WireFormat};
use crate::base::{ConnKey, OutletKey};
use crate::conn::State;
use crate::http::{AnswerOptions, Cors, Fields, Framing, Head, Reject, Response, StatusCode, StreamKind};
use crate::metrics::CloseReason;

/// What a request asks for.
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
    /// A stream of the Centrifuge protocol, which carries one message to a line or to an event.
    Centrifuge(Protocol, StreamKind),
    /// `POST /emulation`: commands for a session whose stream is another connection.
    Relay,
}

impl Kind {
    /// What is at `path`, and the name in it; `None`: it is none of these.
    pub(super) fn at(path: &str) -> Option<(Self, &str)> {
        let fixed = match path {
            "/connection/http_stream" => Self::Centrifuge(Protocol::Json, StreamKind::Lines),
            "/connection/sse" => Self::Centrifuge(Protocol::Json, StreamKind::Events),
            "/connection/uni_http_stream" => Self::Centrifuge(Protocol::Push, StreamKind::Lines),
            "/connection/uni_sse" => Self::Centrifuge(Protocol::Push, StreamKind::Events),
            "/emulation" => Self::Relay,
            _ => {
                let (first, name) = path.strip_prefix('/')?.split_once('/')?;
                let kind = match first {
                    "sse" => Self::Events,
                    "stream" => Self::Lines,
                    "poll" => Self::Poll,
                    "send" => Self::Send,
                    _ => return None,
                };
                return Some((kind, name));
            }
        };
        Some((fixed, ""))
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Events | Self::Lines | Self::Poll => "GET, HEAD, OPTIONS",
            Self::Centrifuge(_, StreamKind::Events) => "GET, POST, OPTIONS",
            Self::Send | Self::Centrifuge(_, StreamKind::Lines) | Self::Relay => "POST, OPTIONS",
        }
    }

    fn check_method(self, head: &Head<'_>) -> Result<(), Reject> {
        let is_served = self.methods().split(", ").any(|method| method == head.method);
        if is_served { Ok(()) } else { Err(Reject::Method(self.methods())) }
    }

    /// In which format its client takes publications; `is_old`: of HTTP/1.0, which has no chunks.
    pub(super) fn format(self, is_old: bool) -> WireFormat {
        let framing = match self {
            Self::Events | Self::Centrifuge(_, StreamKind::Events) => {
                WireFraming::Stream(StreamKind::Events, !is_old)
            }
            Self::Lines | Self::Centrifuge(_, StreamKind::Lines) => {
                WireFraming::Stream(StreamKind::Lines, !is_old)
            }
            Self::Poll => WireFraming::Entries,
            Self::Send | Self::Relay => return WireFormat::Text,
        };
        let protocol = if let Self::Centrifuge(protocol, _) = self { protocol } else { Protocol::Plain };
        WireFormat::new(protocol, framing)
    }
}

/// What is in progress on a connection.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// The request whose answer comes later.
    pub(super) exchange: Option<Exchange>,
    /// The request whose content is being read.
    pub(super) receiving: Option<Box<Receiving>>,
    /// What it publishes by request.
    pub(super) publisher: Option<Box<Publisher>>,
    /// The shard that its next request is for.
    pub(super) moving_to: Option<usize>,
    /// Whose messages its present request receives.
    pub(super) outlet: Option<OutletKey>,
    /// The commands that it has passed on to a session.
    pub(super) relaying: Relaying,
}

/// What the answer to a request depends on beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Exchange {
    pub(super) cors: Cors,
    pub(super) keep_alive: bool,
    pub(super) is_old: bool,
    pub(super) head_only: bool,
    /// What SockJS's answers have.
    pub(super) sockjs: Option<Box<Answers>>,
}

impl Exchange {
    /// The fields that its answer has by itself; `is_cached`: something else decides what caches do.
    pub(super) fn fields(&self, is_cached: bool) -> Fields<'_> {
        let mut fields = self.cors.fields();
        if let Some(answers) = &self.sockjs {
            answers.fields_into(&mut fields, is_cached);
        }
        fields
    }

    /// Why the connection ends with the answer; `None`: it goes on.
    pub(super) fn ending(&self) -> Option<CloseReason> {
        (!self.keep_alive).then_some(CloseReason::RequestComplete)
    }
}

/// How long a browser may keep an answer: not at all.
pub(super) const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");

/// The media type of answers in JSON.
pub(super) const JSON: &str = "application/json; charset=utf-8";

impl Shard {
    /// Uses a request of one of these kinds, of which `rest` is what follows its head.
    pub(super) fn take_http(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        (kind, name): (Kind, &str),
        rest: &[u8],
    ) -> Used {
        let is_post = head.method == "POST";
        // Answers have the order of their requests.
        if (kind != Kind::Send || !is_post) && self.holds_for_answers(key) {
            return Used::Later;
        }
        let has_content = head.framing != Framing::None;
        let mut exchange = self.exchange_of(key, head);
        let outcome = Cors::check(head, &self.options.origins, is_post).and_then(|cors| {
            exchange.cors = cors;
            self.check_service(key)?;
            kind.check_method(head)
        });
        let outcome = match (outcome, head.method) {
            (Err(reject), _) => Err(reject),
            (Ok(()), "POST") if kind == Kind::Send => return self.take_post(key, head, name, exchange, rest),
            (Ok(()), "POST") => return self.take_commands(key, head, kind, exchange, rest),
            (Ok(()), _) if has_content => Err(Reject::Body),
            (Ok(()), "OPTIONS") => {
                self.answer_options(key, head, kind, &exchange);
                Ok(())
            }
            (Ok(()), _) if matches!(kind, Kind::Centrifuge(..)) => {
                self.open_by_query(key, head, kind, &exchange)
            }
            (Ok(()), _) => self.join_by_request(key, head, kind, name, &exchange),
        };
        match outcome {
            Ok(()) => Used::Some(head.len),
            Err(reject) => self.refuse_request(key, head, reject, &exchange),
        }
    }

    /// Refuses a request. The connection goes on only if nothing of the request can follow.
    pub(super) fn refuse_request(
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

    pub(super) fn exchange_of(&self, key: ConnKey, head: &Head<'_>) -> Exchange {
        let over_limit = self.conns.get(key).is_some_and(|slot| slot.conn.over_limit);
        Exchange {
            cors: Cors::None,
            keep_alive: head.keep_alive() && self.draining.is_none() && !over_limit,
            is_old: head.minor_version == 0,
            head_only: head.method == "HEAD",
            sockjs: None,
        }
    }

    /// Whether the connection is served at all.
    pub(super) fn check_service(&self, key: ConnKey) -> Result<(), Reject> {
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
        let fields = exchange.fields(false);
        let keep_alive = exchange.keep_alive && goes_on && self.draining.is_none();
        let options = AnswerOptions { keep_alive, fields: &fields, ..self.answer_options_of(exchange) };
        let reason = if goes_on { CloseReason::RequestComplete } else { CloseReason::RequestRejected };
        self.write_answer(key, (!keep_alive).then_some(reason), |out| write(out, &options));
    }

    /// The same; `ending`: why the connection ends with it.
    pub(super) fn write_answer(
        &mut self,
        key: ConnKey,
        ending: Option<CloseReason>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
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

    /// A request is taken whose answer comes later.
    pub(super) fn wait_for_answer(&mut self, key: ConnKey, exchange: Exchange) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        slot.conn.wait();
        slot.http_or_new().exchange = Some(exchange);
        self.metrics.waiting_requests.add(1);
    }

    /// Refuses the request that waits for its answer. False: none does.
    pub(super) fn refuse_waiting(&mut self, key: ConnKey, reject: Reject) -> bool {
        let Some(exchange) = self.take_exchange(key) else { return false };
        self.note_refusal(key, None, reject);
        self.respond(key, &exchange, true, |out, options| reject.response_into(out, options));
        true
    }

    /// The request that waits for its answer.
    pub(super) fn take_exchange(&mut self, key: ConnKey) -> Option<Exchange> {
        let slot = self.conns.get_mut(key)?;
        if slot.conn.state() != State::Waiting {
            return None;
        }
        let exchange = slot.http_mut()?.exchange.take()?;
        self.metrics.waiting_requests.sub(1);
        Some(exchange)
    }
}

/// Appends a refusal with its own reason, as the server or the auth backend gives it.
pub(super) fn explain(out: &mut Vec<u8>, reject: Reject, reason: &str, options: &AnswerOptions<'_>) {
    let mut sentence = reason.trim_end_matches('.').replace(|it: char| it.is_control(), " ");
    sentence.push('.');
    reject.explained_into(out, &sentence, options);
}
