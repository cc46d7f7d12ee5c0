//! Messages by request: on connections of their own, on any shard, many at a time, in every form of content;
//! those whose answers are lost are sent again under their idempotency keys.

use std::time::Duration;

use stentor_testkit as wire;

use super::checker::Declined;
use super::network::{End, index_below, one_in};
use super::session::Session;
use super::simulation::{Due, Simulation};
use super::transport::{Asked, Http, Message, Purpose, Request};
use crate::base::Time;

/// Messages at a time of a client about which the auth backend never decides.
const WITHOUT_DECISION_MAX: usize = 4;

/// How a request's bytes are sent.
enum Sending {
    /// The head and the content; whether it expects an interim answer all the same.
    Whole(Vec<u8>, bool),
    /// The head, and the content once the server says so.
    OnContinue(Vec<u8>, Vec<u8>),
}

impl Sending {
    const fn expects(&self) -> bool {
        matches!(self, Self::OnContinue(..) | Self::Whole(_, true))
    }
}

impl Simulation<'_> {
    /// A client publishes `count` messages by request, without waiting for the answers.
    pub(super) fn post(&mut self, client: usize, room: u16, count: usize, bytes: usize) {
        for _ in 0..count {
            let Some(session) = self.publisher(client) else { return };
            let message = self.next_post(session, usize::from(room), bytes);
            self.send_post(session, message);
        }
    }

    /// The session in which a client publishes: the one that it has, if that takes another request, or a new
    /// one, on which it repeats first what has had no answer. `None`: it has to wait.
    fn publisher(&mut self, client: usize) -> Option<usize> {
        if let Some(session) = self.plain[client].publisher {
            let (it, pipe) = (&self.sessions[session], self.world.pipe(self.sessions[session].pipe));
            let http = it.http.as_ref()?;
            let is_there = !it.over && it.left.is_none() && pipe.closed.is_none() && !pipe.shut;
            // One about which the auth backend never decides waits for its time-out with each request.
            if it.waits_for_an_answer(&self.circumstances) && http.requests.len() >= WITHOUT_DECISION_MAX {
                return None;
            }
            if is_there && http.requests.back().is_some_and(|request| request.rest.is_some()) {
                return None;
            }
            if is_there && !http.is_last && (!http.is_old || http.requests.is_empty()) {
                return Some(session);
            }
            // What is in flight has its answers first, or is repeated before anything else.
            if !http.requests.is_empty() && !it.over {
                return None;
            }
        }
        if self.circumstances.draining.is_some() {
            return None;
        }
        let session = self.connect_plain(client, Some(Purpose::Publish), Vec::new());
        self.plain[client].publisher = Some(session);
        for mut message in std::mem::take(&mut self.plain[client].unanswered) {
            let http = self.sessions[session].http.as_ref()?;
            if http.is_last || http.requests.back().is_some_and(|request| request.rest.is_some()) {
                self.plain[client].unanswered.push(message);
                continue;
            }
            message.attempts += 1;
            self.report.repeated += 1;
            self.trace.note(self.now, || format!("client {client} repeats {}", message.id));
            self.send_post(session, message);
        }
        let http = self.sessions[session].http.as_ref()?;
        let takes = !http.is_last && http.requests.back().is_none_or(|request| request.rest.is_none());
        takes.then_some(session)
    }

    fn next_post(&mut self, session: usize, room: usize, bytes: usize) -> Message {
        let fill_bytes = bytes.min(self.scenario.options.message.message_bytes_max.saturating_sub(100));
        let (id, _) = self.next_message(session, room, fill_bytes);
        self.checker.by_request(id);
        self.sessions[session].unresolved += 1;
        self.report.posted += 1;
        Message {
            id,
            room,
            fill_bytes,
            is_json: one_in(&mut self.rng, 4),
            has_key: !one_in(&mut self.rng, 8),
            wants_position: one_in(&mut self.rng, 2),
            attempts: 1,
        }
    }

    fn send_post(&mut self, session: usize, message: Message) {
        let (sending, ends) = self.post_request(session, &message);
        let at = self.world.now();
        let expects = sending.expects();
        let (now, rest) = match sending {
            Sending::Whole(bytes, _) => (bytes, None),
            Sending::OnContinue(head, content) => (head, Some(content)),
        };
        if let Some(http) = &mut self.sessions[session].http {
            let is_complete = rest.is_none();
            let asked = Asked::Post(message);
            http.requests.push_back(Request { asked, at, ends, rest, expects, is_complete });
        }
        self.send_in_order(session, now);
    }

    /// Sends bytes behind those that are still to be sent, at once or in two pieces.
    pub(super) fn send_in_order(&mut self, session: usize, mut bytes: Vec<u8>) {
        let in_pieces = one_in(&mut self.rng, 4);
        let pause = Duration::from_micros(1 + self.rng.below(3_000));
        let Some(http) = &mut self.sessions[session].http else { return };
        // What is on the agenda for this moment may still be to come.
        let is_busy = http.busy_until > Time::ZERO && http.busy_until >= self.now;
        let first_at = if is_busy { http.busy_until + Duration::from_nanos(1) } else { self.now };
        let rest = in_pieces.then(|| bytes.split_off(index_below(&mut self.rng, bytes.len())));
        let wait = first_at.since(self.now);
        if is_busy || in_pieces {
            http.busy_until = first_at + if in_pieces { pause } else { Duration::ZERO };
        }
        if wait.is_zero() {
            self.send(session, &bytes);
        } else {
            self.later(wait, Due::Send(session, bytes));
        }
        if let Some(rest) = rest {
            self.later(wait + pause, Due::Send(session, rest));
        }
    }

    /// A request with a message: its head and its content, and when its token ends.
    fn post_request(&mut self, session: usize, message: &Message) -> (Sending, Option<Time>) {
        self.sessions[session].asked += 1;
        let text = super::texts::published_text(message.id, message.fill_bytes);
        let content = if message.is_json { format!("{{\"text\": \"{text}\"}}") } else { text };
        let asks_to_close = one_in(&mut self.rng, 12);
        let Session { client, http: Some(http), .. } = &mut self.sessions[session] else {
            panic!("session {session} publishes by request")
        };
        let (token, ends) = http.token.clone();
        let mut head = format!(
            "POST /send/c{client}?room=r{}{token} HTTP/1.{}\r\nHost: h\r\n",
            message.room,
            u8::from(!http.is_old)
        );
        if asks_to_close {
            head.push_str("Connection: close\r\n");
        }
        http.is_last = asks_to_close || http.is_old;
        if message.has_key {
            head.push_str(&format!("Idempotency-Key: k{}\r\n", message.id));
        }
        if message.wants_position {
            head.push_str("accept: application/json\r\n");
        }
        let types = [
            "",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n",
        ];
        let json = "Content-Type: application/json\r\n";
        head.push_str(if message.is_json { json } else { types[index_below(&mut self.rng, 3)] });
        let is_old = http.is_old;
        (self.post_content(head, content.as_bytes(), is_old), ends)
    }

    /// The end of a head, and the content: by its length or in chunks of any size.
    fn post_content(&mut self, mut head: String, content: &[u8], is_old: bool) -> Sending {
        let expects = !is_old && one_in(&mut self.rng, 8);
        if expects {
            head.push_str("Expect: 100-continue\r\n");
        }
        let body = if !is_old && one_in(&mut self.rng, 2) {
            head.push_str("Transfer-Encoding: chunked\r\n");
            let longest = [1 + content.len() / 20, 10 + content.len() / 5, content.len() + 1]
                [index_below(&mut self.rng, 3)];
            let extension = ["", "", ";x=y", " ; a=\"b;c\""][index_below(&mut self.rng, 4)];
            let trailer = ["", "", "", "Digest: none\r\n"][index_below(&mut self.rng, 4)];
            let rng = &mut self.rng;
            wire::chunked(content, || 1 + index_below(rng, longest), extension, trailer)
        } else {
            head.push_str(&format!("Content-Length: {}\r\n", content.len()));
            content.to_vec()
        };
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if expects && one_in(&mut self.rng, 2) {
            return Sending::OnContinue(bytes, body);
        }
        // One that expects an interim answer need not wait for it.
        bytes.extend_from_slice(&body);
        Sending::Whole(bytes, expects)
    }

    /// A client publishes `count` messages, and its connection ends in the middle of the last one, or behind
    /// it.
    pub(super) fn cut(&mut self, client: usize, room: u16, count: usize) {
        self.post(client, room, count, 60);
        let Some(session) = self.publisher(client) else { return };
        let message = self.next_post(session, usize::from(room), 200);
        let (sending, ends) = self.post_request(session, &message);
        let expects = sending.expects();
        let (Sending::Whole(mut bytes, _) | Sending::OnContinue(mut bytes, _)) = sending;
        if one_in(&mut self.rng, 3) {
            bytes.truncate(index_below(&mut self.rng, bytes.len()) + 1);
        }
        let at = self.world.now();
        if let Some(http) = &mut self.sessions[session].http {
            let asked = Asked::Post(message);
            http.requests.push_back(Request { asked, at, ends, rest: None, expects, is_complete: false });
            http.is_last = true;
        }
        self.send_in_order(session, bytes);
        let busy_until = self.sessions[session].http.as_ref().map_or(self.now, |http| http.busy_until);
        let soon = if one_in(&mut self.rng, 2) { Duration::ZERO } else { self.delay() };
        let after = busy_until.since(self.now) + soon + Duration::from_nanos(1);
        let reset = one_in(&mut self.rng, 2);
        self.later(after, Due::Cut(session, reset));
    }

    /// The connection in which a client publishes ends.
    pub(super) fn cut_now(&mut self, session: usize, reset: bool) {
        let it = &mut self.sessions[session];
        if it.over || it.left.is_some() {
            return;
        }
        it.left = Some(if reset { super::scenario::Leave::Reset } else { super::scenario::Leave::HalfClose });
        if reset {
            it.over = true;
            self.end(session, End::Reset);
            self.publisher_gone(session);
        } else {
            self.fin(session);
        }
    }

    /// A connection on which a client has published is gone: what has had no answer on it is sent again, if
    /// that can do no harm.
    pub(super) fn publisher_gone(&mut self, session: usize) {
        let client = self.sessions[session].client;
        let Some(http) = &mut self.sessions[session].http else { return };
        let requests: Vec<_> = http.requests.drain(..).collect();
        let again = !self.circumstances.limits_publishing()
            && self.circumstances.draining.is_none()
            && !self.plain[client].has_left;
        let is_new = self.plain[client].unanswered.is_empty();
        for Request { asked, .. } in requests {
            let Asked::Post(message) = asked else { continue };
            if again && message.has_key {
                self.plain[client].unanswered.push(message);
            } else {
                self.resolve(&message, None);
            }
        }
        // In the order in which they were published.
        self.plain[client].unanswered.sort_unstable_by_key(|message| message.id);
        if is_new && !self.plain[client].unanswered.is_empty() {
            let most = [1_000, 20_000, 3_000_000][index_below(&mut self.rng, 3)];
            let patience = Duration::from_micros(self.rng.below(most));
            self.later(patience, Due::Repeat(client));
        }
    }

    /// A client repeats what has had no answer.
    pub(super) fn repeat(&mut self, client: usize) {
        if self.plain[client].unanswered.is_empty() {
            return;
        }
        if self.circumstances.draining.is_some() || self.plain[client].has_left {
            for message in std::mem::take(&mut self.plain[client].unanswered) {
                self.resolve(&message, None);
            }
            return;
        }
        let _ = self.publisher(client);
        if !self.plain[client].unanswered.is_empty() {
            self.later(Duration::from_millis(500), Due::Repeat(client));
        }
    }

    /// It is decided the outcome of a message: it is published, or not; `None`: nobody knows.
    pub(super) fn resolve(&mut self, message: &Message, outcome: Option<Result<(), Declined>>) {
        let record = self.checker.record(message.id);
        let it = &mut self.sessions[record.session];
        it.unresolved -= 1;
        match outcome {
            Some(Ok(())) => {
                let last = &mut it.acknowledged[message.room];
                *last = (*last).max(Some(message.id));
                self.checker.acknowledge(message.id);
            }
            // What was sent before may have been published.
            Some(Err(why)) if message.attempts == 1 => self.checker.decline(message.id, why),
            Some(Err(_)) | None => self.checker.leave_open(message.id),
        }
    }

    /// What a session is, when it is no WebSocket.
    pub(super) fn http_of(&mut self, session: usize) -> Option<&mut Http> {
        self.sessions[session].http.as_deref_mut()
    }
}
