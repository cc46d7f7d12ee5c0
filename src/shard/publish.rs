//! Messages that are published by request: `POST /send/{name}`.
//!
//! A connection publishes as one client at a time, whose session is made by its first request and used by the
//! next ones. Several messages of it may be in flight to the homes of their rooms, and other requests wait
//! behind them; the answers have the order of the requests.

use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::Arc;

use super::content::Purpose;
use super::http::{Exchange, JSON, explain};
use super::input::Used;
use super::plain::owned;
use super::{Shard, Slot};
use crate::app::plain::position_body;
use crate::base::{ConnKey, Time};
use crate::chat::{IdempotencyKey, Position, RecoveryRequest};
use crate::conn::State;
use crate::engine::PublishOutcome;
use crate::http::{AnswerOptions, Head, Reject, Response, StatusCode};
use crate::session::{AuthOutcome, Content, PostError, Posted, Session, TextHandshake};

/// Messages of one connection that are in flight; further requests wait.
pub(super) const POSTS_IN_FLIGHT_MAX: usize = 16;

/// A connection's publishing by request.
#[derive(Debug)]
pub(super) struct Publisher {
    /// The client: what was requested as its name, its room and its token.
    client: TextHandshake<'static>,
    /// The message that waits for the auth backend's decision about its client.
    waiting: Option<Post>,
    /// The answers that are still to be given, in the order of their requests.
    answers: VecDeque<Answer>,
    /// A request waits until there are none.
    holds: bool,
}

/// What is known of a message before its content.
#[derive(Clone, Debug)]
struct Envelope {
    is_json: bool,
    idempotency_key: Option<IdempotencyKey>,
    wants_position: bool,
    exchange: Exchange,
}

/// A message.
#[derive(Debug)]
struct Post {
    content: Content,
    envelope: Envelope,
}

/// A message whose content is being read.
#[derive(Debug)]
pub(super) struct Publication {
    client: TextHandshake<'static>,
    envelope: Envelope,
}

/// The answer to a message.
#[derive(Debug)]
struct Answer {
    /// The command of the session; 0: it never became one.
    command: u32,
    /// Until when it must be there.
    deadline: Time,
    wants_position: bool,
    exchange: Exchange,
    outcome: Option<Result<Option<Position>, Reject>>,
}

impl Publisher {
    /// Whether other requests than messages must wait.
    fn is_busy(&self) -> bool {
        self.waiting.is_some() || !self.answers.is_empty()
    }

    fn push(&mut self, answer: Answer) {
        // Nothing that follows the last answer is used.
        self.holds |= !answer.exchange.keep_alive;
        self.answers.push_back(answer);
    }

    /// Whether it publishes as `client` too. The first flag leaves the room aside.
    fn is(&self, client: &TextHandshake<'_>) -> (bool, bool) {
        let known = &self.client;
        let same = known.name == client.name && known.token == client.token;
        (same, same && known.room == client.room)
    }
}

/// Whether the content is JSON; all other types are text, because what `curl -d` and forms send has types of
/// its own. The type decides nothing else.
fn is_json(head: &Head<'_>) -> Result<bool, Reject> {
    if head.fields("Content-Encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Reject::MediaType);
    }
    let mut types = head.fields("Content-Type");
    let media_type = types.next().unwrap_or_default();
    let media_type = std::str::from_utf8(media_type).map_err(|_| Reject::MediaType)?;
    if types.next().is_some() {
        return Err(Reject::MediaType);
    }
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_charset = |part: &str| part.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("charset="));
    let utf8 = parts.filter(|part| is_charset(part)).all(|part| {
        let charset = part[8..].trim_matches('"');
        charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii")
    });
    if utf8 { Ok(essence.eq_ignore_ascii_case("application/json")) } else { Err(Reject::MediaType) }
}

fn envelope(head: &Head<'_>, exchange: Exchange) -> Result<Envelope, Reject> {
    let mut keys = head.fields("Idempotency-Key");
    let idempotency_key = match (keys.next(), keys.next()) {
        (None, _) => None,
        (Some(key), None) => Some(IdempotencyKey::parse(key).ok_or(Reject::IdempotencyKey)?),
        (Some(_), Some(_)) => return Err(Reject::IdempotencyKey),
    };
    let wants_position = head.accepts("application/json");
    Ok(Envelope { is_json: is_json(head)?, idempotency_key, wants_position, exchange })
}

impl Shard {
    /// Uses a request to publish, of which `rest` is what follows its head.
    pub(super) fn take_post(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        name: &str,
        exchange: Exchange,
        rest: &[u8],
    ) -> Used {
        // An interim answer must not come before the answers to earlier requests.
        let limit = if head.expects_continue() == Ok(true) { 1 } else { POSTS_IN_FLIGHT_MAX };
        if self.posts_in_flight(key) >= limit && self.holds_for_answers(key) {
            return Used::Later;
        }
        let opened = self.open_post(head, name, exchange.clone());
        let (client, envelope) = match opened {
            Ok(opened) => opened,
            Err(reject) => return self.refuse_request(key, head, reject, &exchange),
        };
        // What another client has in flight is answered first, as its session ends.
        let is_other = self.publishing(key).is_some_and(|publisher| !publisher.is(&client).1);
        if is_other && self.holds_for_answers(key) {
            return Used::Later;
        }
        let purpose = || Purpose::Publish(Publication { client: owned(&client), envelope: envelope.clone() });
        match self.begin_content(key, head, &exchange, rest, purpose) {
            Ok((content, used)) => {
                self.post(key, &client, envelope, content);
                Used::Some(used)
            }
            Err(used) => used,
        }
    }

    /// What a request's head says of its message.
    fn open_post<'b>(
        &self,
        head: &Head<'b>,
        name: &'b str,
        exchange: Exchange,
    ) -> Result<(TextHandshake<'b>, Envelope), Reject> {
        let mut client = self.text_handshake(name, head)?;
        client.recovery_request = RecoveryRequest::None;
        Ok((client, envelope(head, exchange)?))
    }

    /// Uses the content of a message, or refuses it.
    pub(super) fn publish_content(
        &mut self,
        key: ConnKey,
        publication: Publication,
        content: Result<Vec<u8>, Reject>,
    ) {
        let Publication { client, envelope } = publication;
        match content {
            Ok(content) => self.post(key, &client, envelope, content),
            Err(reject) => {
                // Behind the answers to earlier requests; nothing after it is used.
                let exchange = Exchange { keep_alive: false, ..envelope.exchange };
                self.queue_answer(key, &client, Answer::refused(exchange, reject));
                self.answer_posts(key);
            }
        }
    }

    /// Publishes a message whose content is there.
    fn post(&mut self, key: ConnKey, client: &TextHandshake<'_>, envelope: Envelope, content: Vec<u8>) {
        self.wheel.set(key.index(), self.now + self.options.command_timeout);
        let content = match String::from_utf8(content) {
            Ok(content) if !envelope.is_json => Ok(Content::Text(content)),
            Ok(content) if serde_json::from_str::<&RawValue>(&content).is_ok() => Ok(Content::Json(content)),
            Ok(_) => Err(Reject::Json),
            Err(_) => Err(Reject::BodyEncoding),
        };
        let exchange = envelope.exchange.clone();
        let outcome = content.and_then(|content| {
            let waits = self.open_publisher(key, client)?;
            let post = Post { content, envelope };
            if waits {
                if let Some(publisher) = self.publishing(key) {
                    publisher.waiting = Some(post);
                }
                return Ok(());
            }
            self.submit(key, post);
            Ok(())
        });
        if let Err(reject) = outcome {
            self.queue_answer(key, client, Answer::refused(exchange, reject));
        }
        self.answer_posts(key);
    }

    /// Makes the session of a client that publishes by request, unless it is there. True: the auth backend
    /// decides about it first.
    fn open_publisher(&mut self, key: ConnKey, client: &TextHandshake<'_>) -> Result<bool, Reject> {
        let before = self.conns.get(key).and_then(|slot| slot.session);
        let (same_client, same) = self.publishing(key).map_or((false, false), |it| it.is(client));
        let now = self.now;
        let holds = before.and_then(|key| self.sessions.get(key)).is_some_and(|it| !it.is_expired(now));
        if same && holds {
            return Ok(false);
        }
        let id = self.new_client_id();
        let (mut session, admission) = self.admit(Session::publisher(id), client)?;
        session.conn = Some(key);
        if let Some(before) = before.filter(|_| same_client).and_then(|key| self.sessions.get_mut(key)) {
            session.continue_limits(before);
        }
        self.end_session(key);
        let waits = matches!(admission, Some(AuthOutcome::Pending));
        let session = self.sessions.insert(session);
        let Some(slot) = self.conns.get_mut(key) else { return Ok(false) };
        slot.session = Some(session);
        let publisher = &mut slot.http_or_new().publisher;
        let answers = publisher.take().map(|publisher| publisher.answers).unwrap_or_default();
        let client_owned = owned(client);
        *publisher = Some(Box::new(Publisher { client: client_owned, waiting: None, answers, holds: false }));
        self.open_session(session, client, admission);
        Ok(waits)
    }

    /// Has a message published by its connection's session.
    fn submit(&mut self, key: ConnKey, post: Post) {
        let Some(room) = self.publishing(key).map(|it| Arc::from(&*it.client.room)) else { return };
        let Post { content, envelope } = post;
        let Envelope { idempotency_key, wants_position, exchange, .. } = envelope;
        let posted = Posted { room, content, idempotency_key };
        let outcome = self.with_session(key, |session, ctx| session.post(ctx, posted));
        let deadline = self.now + self.options.command_timeout;
        let answer = match outcome {
            Some(Ok(command)) => Answer { command, deadline, wants_position, exchange, outcome: None },
            Some(Err(PostError::TooLong)) => Answer::refused(exchange, Reject::BodyTooLong),
            Some(Err(PostError::Denied)) => Answer::refused(exchange, Reject::Publish),
            Some(Err(PostError::RateLimit(ends))) => {
                let keep_alive = exchange.keep_alive && !ends;
                Answer::refused(Exchange { keep_alive, ..exchange }, Reject::RateLimit)
            }
            None => Answer::refused(exchange, Reject::TryAgain),
        };
        if let Some(publisher) = self.publishing(key) {
            publisher.push(answer);
        }
    }

    /// The auth backend has accepted a connection's client.
    pub(super) fn publisher_admitted(&mut self, key: ConnKey) {
        if let Some(post) = self.publishing(key).and_then(|publisher| publisher.waiting.take()) {
            self.submit(key, post);
            self.answer_posts(key);
        }
    }

    fn queue_answer(&mut self, key: ConnKey, client: &TextHandshake<'_>, answer: Answer) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        let publisher = slot.http_or_new().publisher.get_or_insert_with(|| {
            let (waiting, answers) = (None, VecDeque::new());
            Box::new(Publisher { client: owned(client), waiting, answers, holds: false })
        });
        publisher.push(answer);
    }

    /// A message is completed.
    pub(super) fn published(
        &mut self,
        key: ConnKey,
        command: u32,
        outcome: PublishOutcome,
        position: Option<Position>,
    ) {
        let Some(publisher) = self.publishing(key) else { return };
        let answer = publisher.answers.iter_mut().find(|it| it.command == command && it.outcome.is_none());
        if let Some(answer) = answer {
            answer.outcome = Some(match outcome {
                PublishOutcome::Ordered | PublishOutcome::Duplicate | PublishOutcome::Superseded => {
                    Ok(position)
                }
                PublishOutcome::Temporary => Err(Reject::TryAgain),
            });
            self.answer_posts(key);
        }
    }

    /// Gives the answers that are there, in the order of their requests.
    fn answer_posts(&mut self, key: ConnKey) {
        while let Some(publisher) = self.publishing(key) {
            if publisher.answers.front().is_none_or(|answer| answer.outcome.is_none()) {
                break;
            }
            let Some(Answer { exchange, wants_position, outcome: Some(outcome), .. }) =
                publisher.answers.pop_front()
            else {
                break;
            };
            match outcome {
                Ok(position) => {
                    self.metrics.requests.add(1);
                    let body = if wants_position { position_body(position) } else { Vec::new() };
                    self.respond_post(key, &exchange, |out, options| {
                        let response = match wants_position {
                            true => Response::new(StatusCode::OK, JSON, &body),
                            false => Response::new(StatusCode::NO_CONTENT, "", b""),
                        };
                        response.with(options).write_into(out);
                    });
                }
                Err(reject) => {
                    self.note_refusal(key, None, reject);
                    self.respond_post(key, &exchange, |out, options| reject.response_into(out, options));
                }
            }
        }
        self.posts_answered(key);
    }

    /// What waited for a connection's answers may go on.
    fn posts_answered(&mut self, key: ConnKey) {
        let Some(publisher) = self.publishing(key) else { return };
        let (busy, next) = (publisher.is_busy(), publisher.answers.front().map(|answer| answer.deadline));
        publisher.holds &= busy;
        self.offer_later(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if let Some(deadline) = next.filter(|_| conn.state() == State::Head) {
            self.wheel.set(key.index(), deadline);
        }
        if !busy && conn.state() == State::Head && conn.has_ended() && !conn.has_waiting_input() {
            let change = conn.end_of_input(&self.options);
            self.apply(key, change);
        }
    }

    /// Appends an answer while the connection may be reading a further request.
    fn respond_post(
        &mut self,
        key: ConnKey,
        exchange: &Exchange,
        write: impl FnOnce(&mut Vec<u8>, &AnswerOptions<'_>),
    ) {
        let is_reading = self.conns.get(key).is_some_and(|slot| slot.conn.state() == State::Body);
        let more = self.publishing(key).is_some_and(|publisher| publisher.is_busy());
        let keep_alive = exchange.keep_alive && (more || is_reading && self.draining.is_none());
        if !keep_alive {
            return self.respond(key, exchange, true, write);
        }
        let fields = exchange.cors.fields();
        let options = self.answer_options_of(exchange);
        let options = AnswerOptions { keep_alive, fields: &fields, ..options };
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        write(conn.outbox.bytes(), &options);
        self.flush_later(key);
    }

    /// The session of a connection's client has ended: its message that waits is refused, and those that are
    /// in flight have no answer any more but that.
    pub(super) fn end_posts(&mut self, key: ConnKey, reject: Reject, reason: &str) {
        let waiting = self.publishing(key).and_then(|publisher| publisher.waiting.take());
        self.end_session(key);
        if let Some(Post { envelope, .. }) = waiting {
            self.note_refusal(key, None, reject);
            self.respond_post(key, &envelope.exchange, |out, options| explain(out, reject, reason, options));
        }
        self.give_up_answers(key, Time::NEVER);
        if let Some(http) = self.conns.get_mut(key).and_then(Slot::http_mut) {
            http.publisher = None;
        }
    }

    /// A connection publishes no more by request, as it becomes something else. It has no message in flight.
    pub(super) fn end_publisher(&mut self, key: ConnKey) {
        self.end_session(key);
        if let Some(http) = self.conns.get_mut(key).and_then(Slot::http_mut) {
            http.publisher = None;
        }
    }

    /// The time of some messages is up. False: none is in flight.
    pub(super) fn posts_timed_out(&mut self, key: ConnKey) -> bool {
        let now = self.now;
        let Some(publisher) = self.publishing(key) else { return false };
        if !publisher.is_busy() {
            return false;
        }
        self.give_up_answers(key, now);
        self.with_session(key, |session, ctx| session.tick(ctx, now));
        true
    }

    /// Gives up the messages of a connection whose deadlines are not after `until`.
    pub(super) fn give_up_answers(&mut self, key: ConnKey, until: Time) {
        let Some(publisher) = self.publishing(key) else { return };
        for answer in publisher.answers.iter_mut().filter(|answer| answer.deadline <= until) {
            answer.outcome.get_or_insert(Err(Reject::TryAgain));
        }
        self.answer_posts(key);
    }

    /// Whether a request must wait for the answers to those before it; then it is offered again after them.
    pub(super) fn holds_for_answers(&mut self, key: ConnKey) -> bool {
        let Some(publisher) = self.publishing(key) else { return false };
        publisher.holds = publisher.is_busy();
        publisher.holds
    }

    /// Whether input of a connection waits for answers. One with a request that waits is read from until
    /// something follows the request: so its client's end is noticed.
    pub(super) fn is_held(slot: &Slot) -> bool {
        (slot.conn.state() == State::Waiting && slot.conn.has_waiting_input())
            || slot.moving_to().is_some()
            || slot.http().and_then(|it| it.publisher.as_ref()).is_some_and(|it| it.holds)
    }

    /// Whether messages of a connection are in flight.
    pub(super) fn awaits_answers(slot: &Slot) -> bool {
        slot.http().and_then(|it| it.publisher.as_deref()).is_some_and(Publisher::is_busy)
    }

    fn posts_in_flight(&mut self, key: ConnKey) -> usize {
        self.publishing(key).map_or(0, |it| it.answers.len() + usize::from(it.waiting.is_some()))
    }

    fn publishing(&mut self, key: ConnKey) -> Option<&mut Publisher> {
        self.conns.get_mut(key)?.http_mut()?.publisher.as_deref_mut()
    }
}

impl Answer {
    const fn refused(exchange: Exchange, reject: Reject) -> Self {
        Self {
            command: 0,
            deadline: Time::NEVER,
            wants_position: false,
            exchange,
            outcome: Some(Err(reject)),
        }
    }
}
