//! Clients of the plain protocol on every transport: each goes over from one way to another, and goes on
//! where it was. What it publishes it publishes by request, or over its WebSocket.

use std::fmt::Write as _;
use std::time::Duration;

use stentor_testkit as wire;

use super::checker::{Checker, PublicationId, Receiver};
use super::json::{PAUSES_MAX, check_lost};
use super::network::{End, index_below, one_in};
use super::scenario::{Act, Endpoint, Leave, Plan, Way};
use super::session::{Session, Stage, Sub, SubStage};
use super::simulation::Simulation;
use super::transport::{Asked, Http, Message, Purpose, Request};
use crate::base::Time;
use crate::session::POLL_PAUSE_MAX;

/// What is known of a client of the plain protocol beyond its connections.
#[derive(Debug)]
pub(super) struct PlainClient {
    /// How it receives.
    pub(super) way: Way,
    /// The session in which it publishes by request.
    pub(super) publisher: Option<usize>,
    /// Messages that it sends again.
    pub(super) unanswered: Vec<Message>,
    /// It does nothing more by itself.
    pub(super) has_left: bool,
    /// Until when it is a member without a connection, at least and at most.
    pub(super) lease: (Time, Time),
}

impl PlainClient {
    pub(super) const fn new(plan: &Plan) -> Self {
        let way = match plan.endpoint {
            Endpoint::Plain(_, way) => way,
            Endpoint::Room(_) | Endpoint::Centrifuge(_) | Endpoint::Echo => Way::WebSocket,
        };
        let lease = (Time::ZERO, Time::ZERO);
        Self { way, publisher: None, unanswered: Vec::new(), has_left: false, lease }
    }
}

/// How a session goes on where its client was.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The room's position has come.
    pub(super) has_begun: bool,
    /// Publications before it, over a WebSocket, where they have no positions.
    pub(super) early: Vec<PublicationId>,
    /// What its client had received before messages were missing.
    pub(super) lost: Option<Receiver>,
}

impl Simulation<'_> {
    /// A client of the plain protocol does something, if it can.
    pub(super) fn plain_act(&mut self, client: usize, room: u16, act: Act) {
        let session = self.current[client].filter(|&session| !self.sessions[session].over);
        let is_http = session.is_some_and(|session| self.sessions[session].http.is_some());
        match (act, session) {
            (Act::Join, None) => self.join_plain(client, room),
            (Act::Switch(way), _) => {
                if let Some(session) = session {
                    self.abandon(session);
                }
                self.plain[client].way = way;
                self.report.switched += 1;
                self.join_plain(client, room);
            }
            (Act::Twin, Some(session)) if self.sessions[session].polls() => self.twin(session, room),
            (Act::Publish(bytes), Some(session)) if !is_http && one_in(&mut self.rng, 2) => {
                let frames = self.publish(session, None, bytes, false);
                self.send(session, &frames);
            }
            (Act::Publish(bytes), _) => self.post(client, room, 1, bytes),
            (Act::Burst(count, bytes), _) => self.post(client, room, count.min(24), bytes),
            (Act::Cut(count), _) => self.cut(client, room, count),
            (Act::Leave(_), Some(session)) if is_http => {
                let how = if one_in(&mut self.rng, 2) { Leave::HalfClose } else { Leave::Reset };
                self.leave_http(session, how);
            }
            (Act::Break(_) | Act::Ping, _) if is_http => {}
            (Act::Leave(_) | Act::Stall(_) | Act::Ping | Act::Break(_), Some(_)) => {
                self.common_act(client, act)
            }
            _ => {}
        }
    }

    /// It takes nothing more from a connection, and ends it in one way or another.
    fn abandon(&mut self, session: usize) {
        let end = if one_in(&mut self.rng, 2) { End::Fin } else { End::Reset };
        let it = &mut self.sessions[session];
        it.over = true;
        it.left = Some(if end == End::Fin { Leave::HalfClose } else { Leave::Reset });
        self.end(session, end);
    }

    /// It goes, without any closing handshake.
    fn leave_http(&mut self, session: usize, how: Leave) {
        let it = &mut self.sessions[session];
        it.left = Some(how);
        match how {
            Leave::Reset => {
                it.over = true;
                self.end(session, End::Reset);
            }
            Leave::Close(_) | Leave::HalfClose => self.fin(session),
        }
    }

    /// A connection for `purpose`, on any shard; `None`: a WebSocket.
    pub(super) fn connect_plain(&mut self, client: usize, purpose: Option<Purpose>, subs: Vec<Sub>) -> usize {
        let mut plan = self.scenario.clients[client];
        if one_in(&mut self.rng, 2) {
            plan.shard = index_below(&mut self.rng, self.scenario.shards);
        }
        match (purpose, plan.endpoint) {
            (None, Endpoint::Plain(room, _)) => plan.endpoint = Endpoint::Room(room),
            _ => plan.answers = true,
        }
        let pipe = self.world.connect(plan.shard, plan.capacity);
        let mut session = Session::new(client, plan, pipe, subs);
        session.has_rooms = self.scenario.tokens || self.circumstances.uses_hook();
        session.brings_tokens = self.scenario.tokens;
        session.resume = Some(Box::default());
        session.http = purpose.map(|purpose| {
            let is_old = one_in(&mut self.rng, 5);
            let mut http = Http::new(purpose, is_old, self.world.now());
            if self.scenario.tokens {
                let (token, ends) = plan.token(client, self.world.now(), plan.brings);
                http.token = (format!("&token={token}"), ends);
                session.ends = ends;
            }
            Box::new(http)
        });
        self.sessions.push(session);
        self.stir(plan.shard);
        self.sessions.len() - 1
    }

    /// It connects in its way, and asks for what it has missed.
    pub(super) fn join_plain(&mut self, client: usize, room: u16) {
        self.plain[client].has_left = false;
        let before = self.current[client].and_then(|before| self.sessions[before].subs.pop());
        let mut receiver = before.map_or_else(|| Receiver::new(usize::from(room)), |before| before.receiver);
        if receiver.position.is_none() {
            self.report.received += receiver.received;
            receiver = Receiver::new(usize::from(room));
        }
        receiver.is_conflated_no_more();
        let way = self.plain[client].way;
        let purpose = match way {
            Way::WebSocket => None,
            Way::Events | Way::Lines => Some(Purpose::Stream(way)),
            Way::Poll => Some(Purpose::Poll),
        };
        let session = self.connect_plain(client, purpose, vec![Sub::new(receiver)]);
        self.current[client] = Some(session);
        match way {
            Way::WebSocket => {
                self.sessions[session].subs[0].stage = SubStage::In;
                let token = self.websocket_token(session);
                let from = self.position_query(session);
                let target = format!("/ws/c{client}?room=r{room}{from}{token}");
                let extension = self.extension(client);
                self.send(session, wire::upgrade_request(&target, extension).as_bytes());
            }
            Way::Events | Way::Lines => self.request_stream(session, way),
            Way::Poll => self.request_poll(session),
        }
    }

    fn websocket_token(&mut self, session: usize) -> String {
        if !self.scenario.tokens {
            return String::new();
        }
        let it = &mut self.sessions[session];
        let (token, ends) = it.plan.token(it.client, self.world.now(), it.plan.brings);
        it.ends = ends;
        format!("&token={token}")
    }

    /// From where a session goes on.
    fn position_query(&mut self, session: usize) -> String {
        match &self.sessions[session].subs[0].receiver.position {
            Some((epoch, offset)) => format!("&since={epoch}:{offset}"),
            None => format!("&history={}", [0, 1, 5, 200][index_below(&mut self.rng, 4)]),
        }
    }

    fn request_stream(&mut self, session: usize, way: Way) {
        let mut from = self.position_query(session);
        let (path, mut field) =
            if way == Way::Events { ("sse", String::new()) } else { ("stream", String::new()) };
        if way == Way::Events
            && let Some((_, since)) = from.split_once("&since=")
            && one_in(&mut self.rng, 2)
        {
            // An EventSource keeps its address, with what was the position then.
            field = format!("Last-Event-ID: {since}\r\n");
            from = ["", "&history=3", "&since=00000001:0"][index_below(&mut self.rng, 3)].to_owned();
        }
        self.get(session, path, &from, &field, Asked::Stream);
    }

    pub(super) fn request_poll(&mut self, session: usize) {
        let from = self.position_query(session);
        let it = &mut self.sessions[session];
        (it.stage, it.subs[0].stage) = (Stage::Open, SubStage::In);
        it.resume = Some(Box::default());
        let query = format!("{from}&session=p{}", it.client);
        self.report.polled += 1;
        self.get(session, "poll", &query, "", Asked::Poll);
    }

    fn get(&mut self, session: usize, path: &str, query: &str, fields: &str, asked: Asked) {
        let now = self.world.now();
        let it = &mut self.sessions[session];
        let room = it.subs[0].receiver.room();
        let Some(http) = &mut it.http else { return };
        it.asked += 1;
        let (token, ends) = (&http.token.0, http.token.1);
        let mut head = format!("GET /{path}/c{}?room=r{room}{query}{token} HTTP/1.", it.client);
        let _ = write!(head, "{}\r\nHost: h\r\n{fields}\r\n", u8::from(!http.is_old));
        http.requests.push_back(Request {
            asked,
            at: now,
            ends,
            rest: None,
            expects: false,
            is_complete: true,
        });
        if asked == Asked::Poll {
            let until = now + self.scenario.options.poll_timeout + POLL_PAUSE_MAX;
            self.plain[self.sessions[session].client].lease.1 = until;
        }
        self.send(session, head.as_bytes());
    }

    /// A second poll of the same session, on another connection.
    fn twin(&mut self, session: usize, room: u16) {
        let (client, position) = {
            let it = &self.sessions[session];
            (it.client, it.subs[0].receiver.position.clone())
        };
        let mut receiver = Receiver::new(usize::from(room));
        receiver.position = position;
        let twin = self.connect_plain(client, Some(Purpose::Twin), vec![Sub::new(receiver)]);
        self.request_poll(twin);
    }

    /// The time of the next poll has come.
    pub(super) fn poll_again(&mut self, session: usize) {
        let it = &self.sessions[session];
        let client = it.client;
        let Endpoint::Plain(room, _) = self.scenario.clients[client].endpoint else { return };
        let is_over = self.current[client] != Some(session) || self.plain[client].has_left;
        if is_over || it.left.is_some() || self.circumstances.draining.is_some() {
            return;
        }
        let pipe = self.world.pipe(it.pipe);
        let goes_on = !it.over && pipe.closed.is_none() && !pipe.shut && pipe.end.is_none();
        let takes = it.http.as_ref().is_some_and(|http| !http.is_old && !http.is_last);
        if goes_on && takes && !one_in(&mut self.rng, 4) {
            return self.request_poll(session);
        }
        if !it.over {
            self.abandon(session);
        }
        self.join_plain(client, room);
    }

    /// A publication has come, at `position` if it has one.
    pub(super) fn receive_plain(
        &mut self,
        session: usize,
        id: PublicationId,
        position: Option<(String, u64)>,
    ) {
        let received_at = self.received_at(session);
        let receiver = &mut self.sessions[session].subs[0].receiver;
        if let Some((epoch, offset)) = position {
            let (own, _) = receiver.position.get_or_insert_with(|| (epoch.clone(), offset - 1));
            assert_eq!(*own, epoch, "session {session} receives {id} in another epoch");
            self.checker.record_position(receiver, id, offset);
        }
        receiver.position_at = received_at;
        self.checker.receive(session, receiver, id);
    }

    /// A message over a WebSocket: it is at the next position, if one is known.
    pub(super) fn receive_unnamed(&mut self, session: usize, id: PublicationId) {
        let it = &mut self.sessions[session];
        let receiver = &mut it.subs[0].receiver;
        if it.resume.as_ref().is_none_or(|resume| resume.has_begun) {
            if receiver.conflated {
                receiver.position = None;
            }
            let position = receiver.position.clone().map(|(epoch, offset)| (epoch, offset + 1));
            return self.receive_plain(session, id, position);
        }
        if let Some(resume) = &mut it.resume {
            resume.early.push(id);
        }
    }

    /// Messages before the next one are missing: what is received begins anew.
    pub(super) fn messages_missing(&mut self, session: usize) {
        let it = &mut self.sessions[session];
        let room = it.subs[0].receiver.room();
        self.report.received += it.subs[0].receiver.received;
        let before = std::mem::replace(&mut it.subs[0].receiver, Receiver::new(room));
        it.subs[0].receiver.published_before = true;
        assert!(before.position.is_some(), "session {session} has nothing that could be missing");
        if let Some(resume) = &mut it.resume {
            assert!(!resume.has_begun, "session {session} is notified of missing messages twice");
            resume.lost = Some(before);
        }
    }

    /// `count` publications were skipped.
    pub(super) fn messages_skipped(&mut self, session: usize, count: u64) {
        let receiver = &mut self.sessions[session].subs[0].receiver;
        if let Some((_, offset)) = &mut receiver.position {
            *offset += count;
        }
        Checker::skip(receiver, count);
    }

    /// The room's position has come, behind what was missed.
    pub(super) fn begun(&mut self, session: usize, position: (String, u64)) {
        let it = &mut self.sessions[session];
        let Some(resume) = &mut it.resume else { panic!("session {session} has not asked for a position") };
        assert!(!std::mem::replace(&mut resume.has_begun, true), "session {session} begins twice");
        let (early, lost) = (std::mem::take(&mut resume.early), resume.lost.take());
        let first = position.1 - early.len() as u64;
        for (id, offset) in early.into_iter().zip(first + 1..) {
            self.receive_plain(session, id, Some((position.0.clone(), offset)));
        }
        let has_history = self.scenario.options.rooms.otherwise.history_count_max > 0;
        if let Some(before) = lost.filter(|_| has_history) {
            let patience = if self.circumstances.disturbed { PAUSES_MAX } else { Duration::from_secs(1) };
            let weight = 2 * self.checker.longest_fill + 600;
            let until = self.world.now() + patience;
            check_lost(&before, Some(&position), until, (self.scenario, weight));
        }
        let received_at = self.received_at(session);
        let receiver = &mut self.sessions[session].subs[0].receiver;
        receiver.position_at = received_at;
        if receiver.received > 0 {
            self.report.recovered += 1;
        }
        match &receiver.position {
            Some(before) => assert_eq!(*before, position, "session {session} goes on from where it was"),
            None => receiver.position = Some(position),
        }
        receiver.skipped_is_over();
    }
}
