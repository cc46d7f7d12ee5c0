//! What clients do, and how they take what the server does.

use stentor_testkit as wire;

use super::checker::{OTHER_NODE, PublicationId, Receiver};
use super::engine::ELSEWHERE;
use super::network::End;
use super::scenario::{Act, Deflate, Endpoint, Leave, Reading, Wrong};
use super::session::{ROOMS_MAX, Session, Stage, Sub, SubStage};
use super::simulation::{Due, Simulation};
use super::texts::{is_fill, published_text};
use super::transport::Http;
use crate::chat::SlowMember;
use crate::metrics::CloseReason;
use crate::ws::Window;

impl Simulation<'_> {
    /// A client does something, if it can.
    pub(super) fn act(&mut self, client: usize, act: Act) {
        match self.scenario.clients[client].endpoint {
            Endpoint::Plain(room, _) => self.plain_act(client, room, act),
            Endpoint::Room(_) | Endpoint::Centrifuge(_) | Endpoint::Echo => self.common_act(client, act),
        }
    }

    /// A client with a WebSocket, or without a connection, does something.
    pub(super) fn common_act(&mut self, client: usize, act: Act) {
        let session = self.current[client].filter(|&session| !self.sessions[session].over);
        match (act, session) {
            (Act::Join, None) => self.join(client),
            (Act::Break(wrong), None) if wrong.is_http() => {
                self.connect(client);
                self.break_rule(self.sessions.len() - 1, wrong);
            }
            (_, None) | (Act::Join, Some(_)) => {}
            (Act::Publish(bytes), Some(session)) => {
                let frames = self.publish(session, None, bytes, false);
                self.send(session, &frames);
            }
            (Act::PublishIn(room, bytes), Some(session)) => {
                if matches!(self.sessions[session].plan.endpoint, Endpoint::Centrifuge(_)) {
                    let frames = self.publish(session, Some(room), bytes, false);
                    self.send(session, &frames);
                }
            }
            (Act::Burst(count, bytes), Some(session)) => {
                let frames: Vec<_> =
                    (0..count).flat_map(|_| self.publish(session, None, bytes, true)).collect();
                self.send(session, &frames);
            }
            (Act::Batch(count), Some(session)) => self.batch(session, count),
            (Act::Ping, Some(session)) if self.sessions[session].may_publish() => {
                self.sessions[session].pings += 1;
                let payload = self.sessions[session].pings.to_be_bytes();
                self.send(session, &wire::frame(0x89, &payload));
            }
            (Act::Query(look), Some(session)) => self.look(session, look),
            (Act::Refresh(room, fresh), Some(session)) => self.refresh(session, room, fresh),
            (Act::Stall(length), Some(session)) => {
                self.sessions[session].stalled_until = self.now + length;
                self.sessions[session].was_late = true;
                self.sessions[session].will_read = true;
                self.later(length, Due::Read(session));
            }
            (Act::Leave(leave), Some(session)) => self.leave(session, leave),
            (Act::Break(wrong), Some(session)) => {
                let it = &self.sessions[session];
                let is_json = matches!(it.plan.endpoint, Endpoint::Centrifuge(_));
                // Binary frames are taken everywhere but in chat.
                let fine = wrong == Wrong::Binary && (it.plan.endpoint == Endpoint::Echo || is_json)
                    || wrong == Wrong::Bomb && !it.deflated
                    || wrong.is_json() && (!is_json || it.id.is_empty());
                if !wrong.is_http() && !fine && self.sessions[session].may_publish() {
                    self.break_rule(session, wrong);
                }
            }
            (Act::Ping | Act::Switch(_) | Act::Twin | Act::Cut(_), Some(_)) => {}
        }
    }

    fn connect(&mut self, client: usize) {
        let plan = self.scenario.clients[client];
        let pipe = self.world.connect(plan.shard, plan.capacity);
        let subs = match plan.endpoint {
            Endpoint::Room(room) | Endpoint::Plain(room, _) => {
                vec![Sub::new(Receiver::new(usize::from(room)))]
            }
            // A room of its own.
            Endpoint::Echo => vec![Sub::new(Receiver::new(usize::from(u16::MAX) + pipe))],
            Endpoint::Centrifuge(rooms) => {
                // A reconnecting client goes on with what it has received.
                let before =
                    self.current[client].map(|before| std::mem::take(&mut self.sessions[before].subs));
                let receivers =
                    before.map(|subs| subs.into_iter().map(|sub| sub.receiver).collect::<Vec<_>>());
                let rooms = (0..8).filter(|room| rooms & 1 << room != 0);
                receivers
                    .unwrap_or_else(|| rooms.map(Receiver::new).collect())
                    .into_iter()
                    .map(Sub::new)
                    .collect()
            }
        };
        let mut session = Session::new(client, plan, pipe, subs);
        session.has_rooms = self.scenario.tokens || self.circumstances.uses_hook();
        session.brings_tokens = self.scenario.tokens && plan.endpoint != Endpoint::Echo;
        session.counts_commands = self.circumstances.command_scope().is_some();
        self.sessions.push(session);
        self.current[client] = Some(self.sessions.len() - 1);
        self.stir(plan.shard);
    }

    fn join(&mut self, client: usize) {
        self.connect(client);
        let plan = self.scenario.clients[client];
        let session = self.sessions.len() - 1;
        let target = match plan.endpoint {
            Endpoint::Room(room) if self.scenario.tokens => {
                let it = &mut self.sessions[session];
                let (token, ends) = plan.token(client, self.world.now(), plan.brings);
                it.ends = ends;
                format!("/ws/c{client}?room=r{room}&token={token}")
            }
            Endpoint::Room(room) | Endpoint::Plain(room, _) => format!("/ws/c{client}?room=r{room}"),
            Endpoint::Echo => "/echo".to_owned(),
            Endpoint::Centrifuge(_) => "/connection/websocket".to_owned(),
        };
        let extension = self.extension(client);
        self.send(session, wire::upgrade_request(&target, extension).as_bytes());
        match plan.endpoint {
            Endpoint::Centrifuge(_) => self.introduce(session),
            Endpoint::Room(_) | Endpoint::Echo | Endpoint::Plain(..) => {
                self.sessions[session].subs[0].stage = SubStage::In;
            }
        }
    }

    /// What a client offers in its opening handshake.
    pub(super) fn extension(&self, client: usize) -> &'static str {
        match self.scenario.clients[client].deflate {
            Deflate::No => "",
            Deflate::Full => "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            Deflate::Small => "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n",
        }
    }

    pub(super) fn send(&mut self, session: usize, bytes: &[u8]) {
        let pipe = self.sessions[session].pipe;
        self.world.send(pipe, bytes);
        self.stir(self.world.pipe(pipe).shard);
    }

    pub(super) fn publish(
        &mut self,
        session: usize,
        room: Option<usize>,
        bytes: usize,
        burst: bool,
    ) -> Vec<u8> {
        let it = &self.sessions[session];
        if !it.may_publish() {
            return Vec::new();
        }
        let fill_bytes = bytes.min(self.scenario.options.message.message_bytes_max.saturating_sub(100));
        let count = usize::try_from(self.checker.count()).unwrap_or(0);
        let room = room.unwrap_or_else(|| it.subs[count % it.subs.len()].receiver.room());
        let (id, text) = self.next_message(session, room, fill_bytes);
        let it = &self.sessions[session];
        let deflater = (it.deflated && (burst || id.is_multiple_of(3))).then_some(&mut self.deflater);
        let mut frames = Vec::with_capacity(text.len() + 14);
        match deflater {
            Some(it) => wire::frame_into(&mut frames, 0xC1, it.deflate(Window::Full, &[text.as_bytes()])),
            None => {
                wire::fragments_into(&mut frames, 1, text.as_bytes(), if it.plan.fragments { 3 } else { 1 })
            }
        }
        frames
    }

    /// The next publication of a session in a room, in its protocol.
    pub(super) fn next_message(
        &mut self,
        session: usize,
        room: usize,
        fill_bytes: usize,
    ) -> (PublicationId, String) {
        let it = &mut self.sessions[session];
        // A session in an echo endpoint has no other room.
        let slot = if room < ROOMS_MAX { room } else { 0 };
        let id = self.checker.publish(session, room, it.last_published[slot], fill_bytes);
        it.last_published[slot] = Some(id);
        self.trace.note(self.now, || format!("client {} publishes {id}", it.client));
        let text = published_text(id, fill_bytes);
        match it.plan.endpoint {
            Endpoint::Centrifuge(_) => (id, self.publish_line(session, room, id, &text)),
            Endpoint::Room(_) | Endpoint::Echo | Endpoint::Plain(..) => {
                let scope = self.circumstances.publish_scope(room);
                it.count_command(id, scope.filter(|_| it.plan.endpoint != Endpoint::Echo));
                (id, text)
            }
        }
    }

    fn leave(&mut self, session: usize, leave: Leave) {
        let it = &mut self.sessions[session];
        if it.left.is_some() {
            return;
        }
        // Half of those that end without a closing handshake send something in the same moment: one event
        // reports both.
        let sends = it.may_publish() && it.stage == Stage::Open && !matches!(leave, Leave::Close(_));
        if sends && self.rng.below(2) == 0 {
            self.send(session, &wire::frame(0x8A, b"unasked"));
        }
        let it = &mut self.sessions[session];
        match leave {
            Leave::Close(code) if it.may_publish() && it.stage == Stage::Open => {
                it.left = Some(leave);
                it.close_sent = true;
                self.send(session, &wire::frame(0x88, &code.to_be_bytes()));
            }
            Leave::Close(_) | Leave::HalfClose => {
                it.final_messages = it.stage == Stage::Open && it.may_publish();
                it.left = Some(Leave::HalfClose);
                self.fin(session);
            }
            Leave::Reset => {
                it.left = Some(leave);
                it.over = true;
                self.end(session, End::Reset);
            }
        }
    }

    pub(super) fn fin(&mut self, session: usize) {
        self.end(session, End::Fin);
    }

    pub(super) fn end(&mut self, session: usize, end: End) {
        let pipe = self.sessions[session].pipe;
        if self.world.pipe(pipe).end != Some(end) {
            self.world.end(pipe, end);
            self.stir(self.world.pipe(pipe).shard);
        }
    }

    fn break_rule(&mut self, session: usize, wrong: Wrong) {
        let options = &self.scenario.options;
        let mut bytes = Vec::new();
        match wrong {
            Wrong::Unmasked => bytes.extend_from_slice(b"\x81\x02hi"),
            Wrong::ReservedOpcode => wire::frame_into(&mut bytes, 0x83, b"what"),
            Wrong::ReservedBit => wire::frame_into(&mut bytes, 0xA1, b"what"),
            Wrong::Continuation => wire::frame_into(&mut bytes, 0x80, b"and so on"),
            Wrong::NotUtf8 => wire::frame_into(&mut bytes, 0x81, b"gr\xFC\xDFe"),
            Wrong::TooBig => wire::head_into(&mut bytes, 0x81, options.message.message_bytes_max as u64 + 1),
            Wrong::Bomb => {
                let inflated = vec![b'x'; (options.message.message_bytes_max * 20).min(1 << 20)];
                wire::frame_into(&mut bytes, 0xC1, self.deflater.deflate(Window::Full, &[&inflated]));
            }
            Wrong::ArrayCommand => wire::frame_into(&mut bytes, 0x81, b"{\"id\":999,\"presence\":[\"r0\"]}"),
            Wrong::UnknownDelta => {
                let line = b"{\"id\":999,\"subscribe\":{\"channel\":\"elsewhere\",\"delta\":\"what\"}}";
                wire::frame_into(&mut bytes, 0x81, line);
            }
            Wrong::CloseCode => wire::frame_into(&mut bytes, 0x88, &1005_u16.to_be_bytes()),
            Wrong::LongPing => wire::frame_into(&mut bytes, 0x89, &[b'p'; 126]),
            Wrong::Binary => wire::frame_into(&mut bytes, 0x82, &[0, 1, 2]),
            Wrong::Garbage => {
                bytes.extend_from_slice(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            }
            Wrong::EndlessHead => {
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\nX: ");
                bytes.resize(options.head.head_bytes_max + 100, b'x');
            }
            Wrong::HalfAHead => bytes.extend_from_slice(b"GET /ws/half HTTP/1.1\r\nHost:"),
        }
        self.sessions[session].wrong = Some(wrong);
        self.send(session, &bytes);
    }

    /// Something has reached a client: bytes, or the server's end.
    pub(super) fn news(&mut self, session: usize) {
        let it = &self.sessions[session];
        if it.over {
            return;
        }
        let pipe = self.world.pipe(it.pipe);
        if let Some(reason) = pipe.closed {
            self.trace.note(self.now, || format!("client {}'s socket is closed: {reason:?}", it.client));
            it.check_reason(reason, &self.world, &self.circumstances);
        }
        self.read(session);
    }

    /// A client reads, if it does now.
    pub(super) fn read(&mut self, session: usize) {
        let it = &self.sessions[session];
        let pipe = self.world.pipe(it.pipe);
        if it.over {
            return;
        }
        let (mut bytes_max, mut again) = (usize::MAX, None);
        match it.plan.reading {
            _ if self.now < it.stalled_until => bytes_max = 0,
            Reading::AtOnce => {}
            Reading::Slowly(bytes, every) => {
                if it.will_read {
                    return; // not yet
                }
                bytes_max = bytes;
                again = (pipe.to_client.len() > bytes).then_some(every);
            }
            Reading::Never if it.stage == Stage::Head => {}
            Reading::Never => bytes_max = 0,
        }
        if bytes_max > 0 && !pipe.to_client.is_empty() {
            let (shard, pipe, starved) = (pipe.shard, it.pipe, pipe.starved);
            let mut buffer = std::mem::take(&mut self.sessions[session].buffer);
            self.world.read(pipe, &mut buffer, bytes_max);
            if starved {
                self.stir(shard);
            }
            let used = self.understand(session, &buffer);
            buffer.drain(..used);
            self.sessions[session].buffer = buffer;
        }
        if let Some(every) = again {
            self.sessions[session].will_read = true;
            self.later(every, Due::Read(session));
        }
        self.follow_the_server(session);
    }

    /// The server has ended its stream or closed: so does the client, once it has read everything.
    fn follow_the_server(&mut self, session: usize) {
        let it = &mut self.sessions[session];
        let pipe = self.world.pipe(it.pipe);
        if !pipe.to_client.is_empty() {
            return;
        }
        if pipe.closed.is_some() {
            it.over = true;
            it.has_all = !it.is_late() && pipe.closed != Some(CloseReason::Disconnected);
            if it.is_publisher() {
                self.publisher_gone(session);
            }
        } else if pipe.shut && it.plan.answers && pipe.end.is_none() {
            let delay = self.delay();
            self.later(delay, Due::Fin(session));
        }
    }

    /// Acts on what is complete in `bytes`; returns how much that was.
    fn understand(&mut self, session: usize, bytes: &[u8]) -> usize {
        if self.sessions[session].http.is_some() {
            return self.understand_http(session, bytes);
        }
        let mut used = 0;
        if self.sessions[session].stage == Stage::Head {
            let Some(wire::Response { status, len, .. }) = wire::parse_response(bytes) else { return 0 };
            let it = &mut self.sessions[session];
            it.check_status(status, &self.world, &self.circumstances);
            it.answered += u64::from(status != 101);
            it.stage = if status == 101 { Stage::Open } else { Stage::Refused };
            it.deflated = bytes[..len].windows(18).any(|window| window == b"permessage-deflate");
            self.trace
                .note(self.now, || format!("client {} is answered {status}", self.sessions[session].client));
            used = len;
        }
        if self.sessions[session].stage == Stage::Refused {
            return bytes.len(); // the rest is a reason for readers
        }
        while let Some(frame) = wire::parse(&bytes[used..]) {
            used += frame.len;
            self.receive(session, &frame);
        }
        used
    }

    fn receive(&mut self, session: usize, frame: &wire::Frame<'_>) {
        assert_eq!(self.sessions[session].stage, Stage::Open, "a frame after the Close");
        match (frame.opcode, frame.compressed) {
            (1, false) => self.receive_text(session, frame.payload),
            (1, true) => {
                assert!(self.sessions[session].deflated, "compressed, and never agreed to");
                let mut inflater = std::mem::take(&mut self.inflater);
                let text = inflater.inflate(frame.payload, 1 << 20).expect("what a client can inflate");
                self.receive_text(session, text);
                self.inflater = inflater;
            }
            (8, _) => self.receive_close(session, frame.payload),
            (9, _) => {
                if self.sessions[session].plan.answers {
                    let delay = self.delay();
                    self.later(delay, Due::Send(session, wire::frame(0x8A, frame.payload)));
                }
            }
            (10, _) => {
                let number = frame.payload.try_into().map(u64::from_be_bytes).expect("the payload of a ping");
                let it = &mut self.sessions[session];
                assert!(it.ponged < number && number <= it.pings, "the pong of a ping that waits for one");
                it.ponged = number;
            }
            _ => panic!("an unexpected frame: {frame:?}"),
        }
    }

    fn receive_text(&mut self, session: usize, text: &[u8]) {
        let text = std::str::from_utf8(text).expect("text is UTF-8");
        let it = &mut self.sessions[session];
        if self.circumstances.policy() == SlowMember::Conflate && it.was_full {
            it.subs.iter_mut().for_each(|sub| sub.receiver.conflated = true);
        }
        let (author, text) = match it.plan.endpoint {
            Endpoint::Centrifuge(_) => return self.receive_lines(session, text),
            Endpoint::Echo => (None, text),
            Endpoint::Room(_) | Endpoint::Plain(..) => {
                let (author, text) = text.split_once(": ").expect("name: text");
                (Some(author), text)
            }
        };
        if author == Some("") && text.starts_with("message not sent: try again") {
            self.sessions[session].refusals += 1;
            return;
        }
        if author == Some("") && text.starts_with("message not sent: rate limit") {
            self.sessions[session].too_often += 1;
            self.sessions[session].limits_moved = true;
            return;
        }
        if author == Some("") && text == "messages may be missing here" {
            return self.messages_missing(session);
        }
        if let Some(position) = text.strip_prefix("since=").filter(|_| author == Some("")) {
            return self.begun(session, Http::position(position));
        }
        if author == Some("") {
            let count = text.split(' ').next().and_then(|count| count.parse().ok());
            let count = count.expect("how many were skipped");
            self.trace.note(self.now, || {
                format!("client {} is notified of {count} missed publications", it.client)
            });
            return self.messages_skipped(session, count);
        }
        let id = self.recognise(session, author, text);
        self.receive_unnamed(session, id);
    }

    /// The publication with this text: by that client, and every byte unchanged.
    pub(super) fn recognise(&self, session: usize, author: Option<&str>, text: &str) -> PublicationId {
        let (id, fill) = text.split_once(' ').expect("the id, and what fills the text");
        let id = id.parse().expect("the id of a publication");
        let record = self.checker.record(id);
        self.trace.note(self.now, || format!("client {} receives {id}", self.sessions[session].client));
        if record.session == OTHER_NODE {
            assert!(author.is_none_or(|author| author == ELSEWHERE), "{author:?} instead of another node");
            assert!(is_fill(fill, record.fill_bytes), "the text of {id} has changed");
            return id;
        }
        let publisher = author.and_then(|name| name.strip_prefix('c')?.parse().ok());
        let client = self.sessions[record.session].client;
        assert!(
            publisher.is_none_or(|publisher: usize| publisher == client),
            "{author:?} instead of client {client}"
        );
        assert!(is_fill(fill, record.fill_bytes), "the text of {id} has changed");
        id
    }

    fn receive_close(&mut self, session: usize, payload: &[u8]) {
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        let it = &mut self.sessions[session];
        self.trace.note(self.now, || format!("client {} is closed with {code:?}", it.client));
        it.check_close(code, &self.world, &self.circumstances);
        it.stage = Stage::Closed;
        if it.plan.answers && !it.close_sent {
            it.close_sent = true;
            let (delay, code) = (self.delay(), code.unwrap_or(1000));
            self.later(delay, Due::Send(session, wire::frame(0x88, &code.to_be_bytes())));
        }
    }
}
