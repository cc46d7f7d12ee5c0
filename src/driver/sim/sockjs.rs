//! Clients of the plain protocol over SockJS: one request after the other receives for a session, in any of
//! five forms, on any connection and any shard; what a client publishes goes by requests of its own. A
//! session that is lost is followed by another one, which goes on from the client's position.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::network::{index_below, one_in};
use super::relay::{Relay, Target};
use super::scenario::{Act, Leave};
use super::session::{Circumstances, Session, Stage, SubStage};
use super::simulation::{Due, Simulation};
use super::transport::{Answer, Asked, Purpose, Request, Transport};
use super::world::World;
use crate::base::{SessionKey, Time};
use crate::chat::SlowMember;

/// How long the server keeps a session for which nothing receives.
const ABSENCE_MAX: Duration = Duration::from_secs(5);

/// What time a session has for what nothing has received at once.
pub(super) const LATENESS: Duration = Duration::from_secs(8);

/// A client's SockJS session.
#[derive(Debug)]
pub(super) struct SockJs {
    pub(super) number: u32,
    /// It has begun, and not ended.
    pub(super) is_open: bool,
    /// A request was answered that it is unknown.
    pub(super) is_denied: bool,
    /// What the server calls it, where the auth backend decides about it.
    pub(super) asked_about: Option<(usize, SessionKey)>,
    /// When it was requested, and when it last brought anything.
    began: Time,
    received: Time,
    /// The session that has a second request, behind the first one.
    second: Option<usize>,
}

impl Transport {
    const ALL: [Self; 5] = [Self::Xhr, Self::XhrStreaming, Self::EventSource, Self::HtmlFile, Self::Jsonp];

    const fn name(self) -> &'static str {
        match self {
            Self::Xhr => "xhr",
            Self::XhrStreaming => "xhr_streaming",
            Self::EventSource => "eventsource",
            Self::HtmlFile => "htmlfile",
            Self::Jsonp => "jsonp",
        }
    }

    /// The frame in a line of an answer.
    fn frame(self, line: &str) -> Option<String> {
        let unquoted = |text: &str| serde_json::from_str::<String>(text).expect(text);
        match self {
            // The prelude is a heartbeat that is long enough for browsers.
            Self::Xhr | Self::XhrStreaming => Some(line.to_owned()),
            // The page around them begins with a function of the same name.
            Self::HtmlFile => Some(unquoted(line.strip_prefix("p(")?.strip_suffix(");")?)),
            Self::Jsonp => Some(unquoted(line.strip_prefix("/**/cb(")?.strip_suffix(");\r")?)),
            Self::EventSource => None,
        }
    }
}

impl Simulation<'_> {
    pub(super) fn any_transport(&mut self) -> Transport {
        Transport::ALL[index_below(&mut self.rng, 5)]
    }

    /// A client begins a session.
    pub(super) fn begin_sockjs(&mut self, session: usize) {
        let client = self.sessions[session].client;
        self.sockjs_count += 1;
        let now = self.world.now();
        self.plain[client].sockjs = Some(SockJs {
            number: self.sockjs_count,
            is_open: false,
            is_denied: false,
            asked_about: None,
            began: now,
            received: now,
            second: None,
        });
        self.request_frames(session);
    }

    /// Requests what its session has.
    fn request_frames(&mut self, session: usize) {
        let client = self.sessions[session].client;
        // A second request has what the first one goes on from.
        let main = self.current[client].unwrap_or(session);
        let from = self.position_query(main);
        let has_content = one_in(&mut self.rng, 4);
        let now = self.world.now();
        let Some(sockjs) = &self.plain[client].sockjs else { return };
        let number = sockjs.number;
        let it = &mut self.sessions[session];
        it.asked += 1;
        it.stage = Stage::Open;
        if let Some(sub) = it.subs.first_mut() {
            sub.stage = SubStage::In;
        }
        let room = self.sessions[main].subs[0].receiver.room();
        let Some(http) = &mut self.sessions[session].http else { return };
        let Purpose::SockJs(transport) = http.purpose else { return };
        let (token, ends) = (&http.token.0, http.token.1);
        let is_post = matches!(transport, Transport::Xhr | Transport::XhrStreaming);
        let method = if is_post { "POST" } else { "GET" };
        let mut head = format!(
            "{method} /sockjs/0/s{number}/{}?name=c{client}&room=r{room}{from}{token}&c=cb HTTP/1.{}\r\nHost: h\r\n",
            transport.name(),
            u8::from(!http.is_old)
        );
        let content = if has_content && is_post { "anything" } else { "" };
        if is_post {
            let _ = write!(head, "Content-Length: {}\r\n", content.len());
        }
        let _ = write!(head, "\r\n{content}");
        let asked = Asked::SockJs;
        http.requests.push_back(Request {
            asked,
            at: now,
            ends,
            rest: None,
            expects: false,
            is_complete: true,
        });
        self.report.frames_requested += 1;
        self.trace.note(self.now, || format!("client {client} requests {transport:?} of s{number}"));
        self.send_in_order(session, head.into_bytes());
    }

    /// The time of the next request has come: on the same connection, or on another one.
    pub(super) fn receive_again(&mut self, session: usize) {
        let it = &self.sessions[session];
        let client = it.client;
        let is_over = self.current[client] != Some(session) || self.plain[client].has_left;
        if is_over || it.left.is_some() || self.circumstances.draining.is_some() {
            return;
        }
        let pipe = self.world.pipe(it.pipe);
        let goes_on = !it.over && pipe.closed.is_none() && !pipe.shut && pipe.end.is_none();
        let takes = it.http.as_ref().is_some_and(|http| !http.is_old && !http.is_last);
        let transport = self.any_transport();
        if goes_on && takes && one_in(&mut self.rng, 2) {
            if let Some(http) = self.http_of(session) {
                http.purpose = Purpose::SockJs(transport);
            }
            return self.request_frames(session);
        }
        let next = self.connect_plain(client, Some(Purpose::SockJs(transport)), Vec::new());
        self.hand_over(session, next);
        if goes_on && one_in(&mut self.rng, 2) {
            self.abandon(session);
        }
        self.request_frames(next);
    }

    /// Another connection receives for a session from now on.
    fn hand_over(&mut self, session: usize, next: usize) {
        let before = &mut self.sessions[session];
        let (sub, resume) = (before.subs.pop(), before.resume.take());
        let (was_full, was_late, ends) = (before.was_full, before.was_late, before.ends);
        let client = before.client;
        let it = &mut self.sessions[next];
        it.subs.extend(sub);
        (it.resume, it.ends) = (resume, ends);
        it.was_full |= was_full;
        it.was_late |= was_late;
        self.current[client] = Some(next);
    }

    /// A second request receives while the first one does.
    pub(super) fn second_receiver(&mut self, session: usize) {
        let it = &self.sessions[session];
        let client = it.client;
        let is_received = it.http.as_ref().is_some_and(|http| http.answer.is_some());
        let has_second =
            self.plain[client].sockjs.as_ref().is_none_or(|it| it.second.is_some() || !it.is_open);
        let is_stuck = it.left.is_some() || it.is_late();
        if !is_received || has_second || is_stuck || self.circumstances.draining.is_some() {
            return;
        }
        let transport = self.any_transport();
        let second = self.connect_plain(client, Some(Purpose::SockJs(transport)), Vec::new());
        if let Some(sockjs) = &mut self.plain[client].sockjs {
            sockjs.second = Some(second);
        }
        self.request_frames(second);
        if one_in(&mut self.rng, 3) {
            // The first one is given up, and the session ends with that, which the second one reports.
            let way = super::scenario::Way::SockJs;
            let pause = self.delay();
            self.plain[client].way = way;
            self.abandon(session);
            self.later(pause, Due::Join(client));
        }
    }

    /// More of an answer has come.
    pub(super) fn frames_go_on(&mut self, session: usize, transport: Transport) {
        let Some(http) = self.http_of(session) else { return };
        let body = std::mem::take(&mut http.body);
        let mut frames = Vec::new();
        if transport == Transport::EventSource {
            http.events.read(&body, |event| frames.extend(event.data.map(|data| data.replace("%25", "%"))));
        } else {
            http.lines.read(&body, |line| frames.extend(transport.frame(line)));
        }
        for frame in frames {
            self.take_frame(session, frame);
        }
    }

    /// A frame has come.
    fn take_frame(&mut self, session: usize, frame: String) {
        let client = self.sessions[session].client;
        let Some(sockjs) = &self.plain[client].sockjs else { return };
        if self.current[client] != Some(session) {
            if sockjs.second == Some(session)
                && let Some(http) = self.http_of(session)
            {
                http.early.push(frame);
            }
            return; // it is of a session that its client has left
        }
        let now = self.world.now();
        let since = sockjs.received;
        if self.may_be_behind() {
            self.sessions[session].was_full = true;
        }
        let it = &self.sessions[session];
        assert_eq!(
            it.stage,
            Stage::Open,
            "something behind the end of the session of client {client}: {frame}"
        );
        match frame.split_at(1) {
            ("o", "") => self.frames_begin(session, since),
            ("h", rest) => assert!(rest.bytes().all(|byte| byte == b'h'), "{frame}"),
            ("a", messages) => {
                assert!(sockjs.is_open, "messages before the session is open: {frame}");
                let texts: Vec<String> = serde_json::from_str(messages).expect("an array of texts");
                for text in texts {
                    self.receive_text(session, text.as_bytes());
                }
            }
            ("c", reason) => {
                assert!(sockjs.is_open, "an end before the session is open: {frame}");
                self.frames_are_over(session, reason);
            }
            _ => panic!("an unknown frame: {frame}"),
        }
        if let Some(sockjs) = &mut self.plain[client].sockjs {
            sockjs.received = now;
        }
    }

    /// A session begins: the one that was requested, or another one in its place, as it was lost.
    fn frames_begin(&mut self, session: usize, since: Time) {
        let at = self.world.now();
        let is_late = self.sessions[session].is_late() || self.circumstances.disturbed;
        let it = &mut self.sessions[session];
        let client = it.client;
        let Some(sockjs) = &mut self.plain[client].sockjs else { return };
        let was_absent = is_late || at.since(since) + Duration::from_millis(100) >= ABSENCE_MAX;
        assert!(!sockjs.is_open || was_absent, "the session of client {client} is lost before its time");
        (sockjs.is_open, sockjs.is_denied, sockjs.began) = (true, false, at);
        it.resume = Some(Box::default());
        it.subs[0].receiver.is_conflated_no_more();
        if let Some(http) = &it.http
            && it.brings_tokens
        {
            it.ends = http.token.1;
        }
    }

    /// A session ends.
    fn frames_are_over(&mut self, session: usize, reason: &str) {
        let (code, reason): (u16, String) = serde_json::from_str(reason).expect("a code and a reason");
        let it = &mut self.sessions[session];
        let client = it.client;
        self.trace.note(self.now, || format!("the session of client {client} ends: {code} {reason}"));
        let Some(sockjs) = &mut self.plain[client].sockjs else { return };
        it.check_end(code, sockjs, &self.world, &self.circumstances);
        sockjs.is_open = false;
        (it.stage, it.subs[0].stage) = (Stage::Closed, SubStage::Out);
        self.join_later(client);
    }

    /// An answer is complete.
    pub(super) fn frames_end(&mut self, session: usize, answer: &Answer) {
        let it = &mut self.sessions[session];
        let client = it.client;
        let is_current = self.current[client] == Some(session);
        if it.stage == Stage::Open {
            it.stage = if is_current { Stage::Head } else { Stage::Refused };
        }
        if let Some(sub) = it.subs.first_mut() {
            sub.stage = SubStage::Out;
        }
        let Some(sockjs) = &self.plain[client].sockjs else { return };
        if !is_current {
            if sockjs.second != Some(session) {
                self.abandon_soon(session);
            }
            return;
        }
        if answer.status != 200 || self.sessions[session].stage == Stage::Closed {
            self.abandon_soon(session);
            if answer.status != 200 {
                self.join_later(client);
            }
            return;
        }
        if let Some(second) = self.plain[client].sockjs.as_mut().and_then(|it| it.second.take()) {
            return self.second_goes_on(session, second);
        }
        let most = [50, 2_000, 200_000, 4_000_000, 7_000_000][index_below(&mut self.rng, 5)];
        let pause = Duration::from_micros(1 + self.rng.below(most));
        self.later(pause, Due::Poll(session));
    }

    /// The second request receives.
    fn second_goes_on(&mut self, session: usize, second: usize) {
        self.hand_over(session, second);
        let Some(http) = self.http_of(second) else { return };
        let (frames, waits) = (std::mem::take(&mut http.early), !http.requests.is_empty());
        self.sessions[second].stage = Stage::Open;
        for frame in frames {
            let is_refusal = frame.starts_with("c[2010,");
            if !is_refusal {
                self.take_frame(second, frame);
            }
        }
        let it = &mut self.sessions[second];
        if it.stage != Stage::Open {
            return self.abandon_soon(second);
        }
        if waits && !it.over {
            it.subs[0].stage = SubStage::In;
        } else {
            it.stage = Stage::Head;
            self.later(Duration::from_micros(20), Due::Poll(second));
        }
    }

    /// A client ends a connection that has nothing more for it.
    fn abandon_soon(&mut self, session: usize) {
        let it = &mut self.sessions[session];
        if it.left.is_none() {
            it.left = Some(Leave::HalfClose);
            self.later(Duration::from_micros(5), Due::Fin(session));
        }
    }

    /// A connection has ended: with its answer, where that ends with it, or in the middle.
    pub(super) fn receiver_is_gone(&mut self, session: usize) {
        let it = &mut self.sessions[session];
        let client = it.client;
        if self.current[client] != Some(session) {
            return;
        }
        if it.left.is_some() {
            return;
        }
        let Some(http) = &mut it.http else { return };
        let is_complete = http
            .answer
            .as_ref()
            .is_some_and(|(answer, content)| answer.status == 200 && content.is_to_the_end());
        if is_complete {
            let (answer, _) = http.answer.take().expect("the answer");
            http.requests.clear();
            return self.frames_end(session, &answer);
        }
        if !http.requests.is_empty() {
            it.stage = Stage::Refused;
            self.join_later(client);
        }
    }

    /// Whether a client publishes over its SockJS session now.
    pub(super) fn sends_by_sockjs(&mut self, client: usize) -> bool {
        let sockjs = self.plain[client].sockjs.as_ref();
        sockjs.is_some_and(|sockjs| sockjs.is_open) && !one_in(&mut self.rng, 4)
    }

    /// A client of SockJS publishes.
    pub(super) fn sockjs_act(&mut self, client: usize, room: u16, act: Act) {
        match act {
            Act::Publish(bytes) => self.send_texts(client, room, 1, bytes, false),
            Act::Burst(count, bytes) => {
                let mut left = count.min(24);
                while left > 0 {
                    let together = 1 + index_below(&mut self.rng, left);
                    self.send_texts(client, room, together, bytes, false);
                    left -= together;
                }
            }
            Act::Cut(count) => self.send_texts(client, room, 1 + count.min(3), 100, true),
            Act::Join | Act::PublishIn(..) | Act::Batch(_) | Act::Ping | Act::Query(_) | Act::Refresh(..) => {
            }
            Act::Stall(_) | Act::Switch(_) | Act::Twin | Act::Leave(_) | Act::Break(_) => {}
        }
    }

    /// Sends an array of messages; `cut`: its connection ends with that.
    fn send_texts(&mut self, client: usize, room: u16, count: usize, bytes: usize, cut: bool) {
        if !self.next_courier(client) {
            return;
        }
        let Some(number) = self.plain[client].sockjs.as_ref().map(|sockjs| sockjs.number) else { return };
        let most = (self.scenario.options.message.message_bytes_max - 200) / count;
        let courier = self.plain[client].courier;
        let mut relay = Relay::new(client, Target::SockJs(number));
        let mut texts = Vec::new();
        for _ in 0..count {
            let (id, text) =
                self.next_message(courier, usize::from(room), bytes.min(most.saturating_sub(40)));
            self.checker.by_request(id);
            self.sessions[courier].unresolved += 1;
            self.report.posted += 1;
            relay.messages.push(id);
            texts.push(text);
        }
        let is_form = one_in(&mut self.rng, 4);
        let content = if count == 1 && one_in(&mut self.rng, 4) { json!(texts[0]) } else { json!(texts) };
        let target = format!("/sockjs/{count}/s{number}/{}", if is_form { "jsonp_send" } else { "xhr_send" });
        if cut {
            self.bring_and_cut(relay, &target, &content.to_string());
        } else {
            self.bring(relay, &target, &content.to_string());
        }
    }

    /// Whether more was published than a room's log may hold, so that a session for which nothing received
    /// may have fallen too far behind.
    pub(super) fn may_be_behind(&self) -> bool {
        self.checker.published_bytes > self.circumstances.options.room_log_bytes_max
    }
}

impl Session {
    /// A frame has come that ends its SockJS session.
    fn check_end(&self, code: u16, sockjs: &SockJs, world: &World, now: &Circumstances) {
        let at = world.now();
        let surplus = now.options.connections_max < u64::MAX || now.draining.is_some();
        let in_vain = at.since(sockjs.began) + LATENESS >= now.options.command_timeout;
        let ends = self.http.as_ref().and_then(|http| http.token.1);
        let is_over = self.may_be_expired(at) || ends.is_some_and(|ends| at >= ends);
        let bad_token = self.brings_tokens && self.plan.brings != super::scenario::Brings::Good;
        let fine = match code {
            3001 => now.draining.is_some(),
            3008 => is_over || now.limits_publishing(),
            3013 => in_vain || self.was_full && now.policy() == SlowMember::Disconnect,
            4401 => bad_token || is_over,
            4503 => surplus,
            super::identity::UNWANTED => self.is_unwanted(now),
            _ => false,
        };
        assert!(fine, "the SockJS session of client {} is closed with {code}", self.client);
    }
}
