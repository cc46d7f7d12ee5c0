//! How clients of the plain protocol take what comes over HTTP: answers, and what streams and polls bring.

use std::time::Duration;

use serde_json::Value;
use stentor_testkit as wire;

use super::checker::Declined;
use super::network::index_below;
use super::scenario::Way;
use super::session::{Session, Stage, SubStage};
use super::simulation::{Due, Simulation};
use super::transport::{Answer, Asked, Http, Message, Purpose, Request};
use crate::chat::SlowMember;
use crate::session::POLL_PAUSE_MAX;

/// What a stream brings.
#[derive(Debug)]
enum Item {
    /// An event, or a line: its type, its data, and the last event id.
    Event(String, Value, Option<String>),
    /// A position alone.
    Position(String),
}

impl Simulation<'_> {
    /// Acts on what is complete in `bytes`; returns how much that was.
    pub(super) fn understand_http(&mut self, session: usize, bytes: &[u8]) -> usize {
        let now = self.world.now();
        let mut used = 0;
        while used < bytes.len() {
            let Some(http) = self.http_of(session) else { return used };
            http.received = now;
            let Some((answer, mut content)) = http.answer.take() else {
                let Some(head) = wire::parse_response(&bytes[used..]) else { break };
                used += head.len;
                self.answer_begins(session, &head);
                continue;
            };
            used += content.read(&bytes[used..], &mut http.body);
            let (is_complete, status) = (content.is_complete(), answer.status);
            http.answer = Some((answer, content));
            if status == 200 && matches!(http.purpose, Purpose::Stream(_)) {
                self.stream_goes_on(session);
            }
            if is_complete {
                self.answer_is_complete(session);
            }
        }
        used
    }

    fn answer_begins(&mut self, session: usize, head: &wire::Response<'_>) {
        let Session { http: Some(http), client, answered, .. } = &mut self.sessions[session] else { return };
        let (client, status) = (*client, head.status);
        *answered += u64::from(status != 100);
        self.trace.note(self.now, || format!("client {client} ({:?}) is answered {status}", http.purpose));
        if status == 100 {
            let request = http.requests.front_mut().expect("a request that waits for 100 Continue");
            assert!(std::mem::take(&mut request.expects), "client {client} has not asked for 100 Continue");
            let Some(rest) = request.rest.take() else { return };
            request.is_complete = true;
            return self.send_in_order(session, rest);
        }
        assert!(http.answer.is_none());
        let closes = head.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let position = head.field("Stentor-Position").map(Http::position);
        let content = wire::Content::of(head);
        http.is_last |= closes;
        let answer = Answer { status, position, closes };
        if let Some(request) = http.requests.front().cloned() {
            let declined = match request.asked {
                Asked::Post(message) => self.checker.record(message.id).declined.is_some(),
                Asked::Stream | Asked::Poll => false,
            };
            let it = &self.sessions[session];
            it.check_answer(status, &request, declined, (&self.world, &self.circumstances));
            if status == 200 && request.asked == Asked::Stream {
                self.check_stream_head(session, head);
            }
        } else {
            assert!(matches!(status, 408 | 503), "client {client} is answered {status}, and has not asked");
        }
        let Some(http) = self.http_of(session) else { return };
        let is_complete = content.is_complete();
        http.answer = Some((answer, content));
        if is_complete {
            self.answer_is_complete(session);
        }
    }

    /// A stream's answer begins.
    fn check_stream_head(&mut self, session: usize, head: &wire::Response<'_>) {
        let it = &mut self.sessions[session];
        let Some(http) = &it.http else { return };
        let content_type = head.field("Content-Type").unwrap_or_default();
        let expected = match http.purpose {
            Purpose::Stream(Way::Events) => "text/event-stream",
            Purpose::Stream(_) | Purpose::Poll | Purpose::Twin | Purpose::Publish => "application/x-ndjson",
        };
        assert!(content_type.starts_with(expected), "{}", head.fields);
        assert_eq!(http.is_old, head.field("Transfer-Encoding").is_none(), "{}", head.fields);
        (it.stage, it.subs[0].stage) = (Stage::Open, SubStage::In);
    }

    /// All of an answer has come.
    fn answer_is_complete(&mut self, session: usize) {
        let now = self.world.now();
        let Session { http: Some(http), .. } = &mut self.sessions[session] else { return };
        let Some((answer, _)) = http.answer.take() else { return };
        let body = std::mem::take(&mut http.body);
        // A 408 is the answer to what has not come, and not to what has come too late for that.
        let request = if answer.status == 408 { None } else { http.requests.pop_front() };
        http.idle_since = now;
        let Some(request) = request else {
            http.is_last = true;
            return;
        };
        match request.asked {
            Asked::Post(message) => self.posted(session, &message, &request, &answer, &body),
            Asked::Poll if answer.status < 300 => self.polled(session, &request, &answer, &body),
            Asked::Stream if answer.status < 300 => {
                // One that takes nothing is given up without more to write.
                let it = &self.sessions[session];
                let is_stuck = self.circumstances.pings && it.is_late();
                assert!(it.stage == Stage::Closed || is_stuck, "a stream ends without a reason");
            }
            Asked::Poll | Asked::Stream => {
                self.sessions[session].stage = Stage::Refused;
                self.sessions[session].left = Some(super::scenario::Leave::HalfClose);
                self.later(Duration::from_micros(5), Due::Fin(session));
            }
        }
    }

    /// The answer to a message.
    fn posted(&mut self, session: usize, message: &Message, request: &Request, answer: &Answer, body: &[u8]) {
        let record = self.checker.record(message.id);
        let id = message.id;
        match answer.status {
            200 | 204 => {
                assert_eq!(answer.status == 200, message.wants_position, "the answer to {id}");
                let declined = matches!(record.declined, Some(Declined::Temporary | Declined::TooOften));
                assert!(!declined, "{id} was declined, and is acknowledged");
                if answer.status == 200 {
                    let body: Value = serde_json::from_slice(body).expect("an answer in JSON");
                    if let Some(position) = body["position"].as_str() {
                        let (epoch, offset) = Http::position(position);
                        self.checker.check_position(message.room, &epoch, offset, id);
                    } else {
                        assert_eq!(record.declined, Some(Declined::Known), "{id} has no position: {body}");
                    }
                }
                self.resolve(message, Some(Ok(())));
            }
            429 => {
                if message.attempts == 1 {
                    self.sessions[record.session].note_throttled(id.into(), &self.circumstances);
                }
                self.resolve(message, Some(Err(Declined::TooOften)));
            }
            503 if record.declined.is_some() => self.sessions[record.session].unresolved -= 1,
            503 => {
                let in_vain =
                    self.world.now().since(request.at) >= self.circumstances.options.command_timeout;
                self.resolve(message, Some(Err(Declined::Refused)).filter(|_| !in_vain));
            }
            _ => self.resolve(message, Some(Err(Declined::Refused))),
        }
        let Some(http) = self.http_of(session) else { return };
        // Nothing behind the last answer is used.
        if answer.closes
            && !http.requests.is_empty()
            && self.world.pipe(self.sessions[session].pipe).end.is_none()
        {
            self.cut_now(session, false);
        }
    }

    /// The answer to a poll: what has been published, or nothing.
    fn polled(&mut self, session: usize, request: &Request, answer: &Answer, body: &[u8]) {
        let position = answer.position.clone().expect("the answer to a poll has a position");
        if answer.status == 204 {
            let waited = self.world.now().since(request.at);
            assert!(waited >= self.scenario.options.poll_timeout, "an empty answer after {waited:?}");
            self.begun(session, position);
        } else {
            let batch: Value = serde_json::from_slice(body).expect("a batch in JSON");
            assert_eq!(batch["position"].as_str().map(Http::position).as_ref(), Some(&position), "{batch}");
            if batch["gap"] == true {
                self.messages_missing(session);
            }
            let messages = batch["messages"].as_array().expect("messages");
            assert!(!messages.is_empty() || batch["gap"] == true, "an empty batch: {batch}");
            for message in messages {
                let at = message["position"].as_str().map(Http::position);
                assert!(at.is_some(), "a position: {message}");
                self.receive_object(session, message, at);
            }
            self.begun(session, position);
        }
        let it = &mut self.sessions[session];
        (it.stage, it.subs[0].stage) = (Stage::Head, SubStage::Out);
        let (client, is_twin) =
            (it.client, it.http.as_ref().is_some_and(|http| http.purpose == Purpose::Twin));
        let until = request.at + self.scenario.options.poll_timeout + POLL_PAUSE_MAX;
        let lease = &mut self.plain[client].lease;
        lease.0 = lease.0.max(until);
        lease.1 = lease.1.max(self.world.now() + self.scenario.options.poll_timeout + POLL_PAUSE_MAX);
        if is_twin {
            self.sessions[session].left = Some(super::scenario::Leave::HalfClose);
            self.later(Duration::from_micros(5), Due::Fin(session));
        } else {
            let most = [50, 2_000, 200_000, 4_000_000][index_below(&mut self.rng, 4)];
            let pause = Duration::from_micros(1 + self.rng.below(most));
            self.later(pause, Due::Poll(session));
        }
    }

    /// More of a stream has come.
    fn stream_goes_on(&mut self, session: usize) {
        let Some(http) = self.http_of(session) else { return };
        let body = std::mem::take(&mut http.body);
        let mut items = Vec::new();
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("an object in JSON");
        if http.purpose == Purpose::Stream(Way::Events) {
            http.events.read(&body, |event| match event.data {
                Some(data) => {
                    let id = Some(event.id.to_owned()).filter(|id| !id.is_empty());
                    items.push(Item::Event(event.event.to_owned(), json(data), id));
                }
                None if !event.id.is_empty() => items.push(Item::Position(event.id.to_owned())),
                None => {}
            });
        } else {
            http.lines.read(&body, |line| items.extend(line_item(json(line))));
        }
        for item in items {
            self.take_item(session, item);
        }
    }

    fn take_item(&mut self, session: usize, item: Item) {
        let it = &mut self.sessions[session];
        assert_eq!(it.stage, Stage::Open, "something behind the end of the stream of client {}", it.client);
        if self.circumstances.policy() == SlowMember::Conflate && it.was_full {
            it.subs[0].receiver.conflated = true;
        }
        match item {
            Item::Position(position) => {
                let has_begun = it.resume.as_ref().is_some_and(|resume| resume.has_begun);
                if has_begun {
                    // A heartbeat's empty line, which dispatches nothing: the id is the last one's.
                    return;
                }
                let is_announced = it.http.as_ref().is_some_and(|http| {
                    http.purpose != Purpose::Stream(Way::Events) || http.events.retry() == Some(2000)
                });
                assert!(is_announced, "an event stream begins with the time to reconnect after");
                self.begun(session, Http::position(&position));
            }
            Item::Event(kind, data, id) => match kind.as_str() {
                "message" => {
                    let position = id.as_deref().map(Http::position);
                    assert!(position.is_some(), "a position: {data}");
                    self.receive_object(session, &data, position);
                }
                "notice" => self.take_notice(session, data["notice"].as_str().expect("a notice")),
                "end" => {
                    let code = data["end"].as_u64().and_then(|code| u16::try_from(code).ok());
                    self.trace.note(self.now, || format!("the stream of client {} ends: {data}", it.client));
                    it.check_close(code, &self.world, &self.circumstances);
                    (it.stage, it.subs[0].stage) = (Stage::Closed, SubStage::Out);
                }
                other => panic!("an event of the type {other}: {data}"),
            },
        }
    }

    fn take_notice(&mut self, session: usize, notice: &str) {
        if notice == "messages may be missing here" {
            return self.messages_missing(session);
        }
        let count = notice.split(' ').next().and_then(|count| count.parse().ok());
        self.messages_skipped(session, count.expect("how many were skipped"));
    }

    fn receive_object(&mut self, session: usize, object: &Value, position: Option<(String, u64)>) {
        let (name, text) = (object["name"].as_str(), object["text"].as_str().expect("a text"));
        assert!(name.is_some(), "a name: {object}");
        let id = self.recognise(session, name, text);
        self.receive_plain(session, id, position);
    }
}

/// What a line of a stream is.
fn line_item(line: Value) -> Option<Item> {
    let position = line["position"].as_str().map(str::to_owned);
    Some(match position {
        // A sign of life.
        _ if line.as_object().is_some_and(serde_json::Map::is_empty) => return None,
        _ if line["notice"].is_string() => Item::Event("notice".to_owned(), line, None),
        _ if line["end"].is_number() => Item::Event("end".to_owned(), line, None),
        Some(position) if line["text"].is_null() => Item::Position(position),
        position => Item::Event("message".to_owned(), line, position),
    })
}
