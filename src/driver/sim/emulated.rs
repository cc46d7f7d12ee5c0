//! Clients of the Centrifuge protocol where WebSocket is blocked: a stream brings replies and pushes, and
//! their commands go by requests of their own.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::checker::PublicationId;
use super::network::{index_below, one_in};
use super::relay::{Relay, Target};
use super::scenario::{Act, Leave, Way, Wrong};
use super::session::{PendingCommand, Stage};
use super::simulation::Simulation;
use super::transport::{Asked, Http, Purpose, Request};
use crate::chat::SlowMember;

/// Bytes of a request that brings lines, beside them.
const ENVELOPE_BYTES: usize = 400;

impl Simulation<'_> {
    /// A new session opens a stream. False: it is a WebSocket.
    pub(super) fn opens_stream(&mut self, session: usize) -> bool {
        let way = [Way::WebSocket, Way::Events, Way::Lines][index_below(&mut self.rng, 3)];
        self.end_couriers(self.sessions[session].client);
        if way == Way::WebSocket {
            return false;
        }
        let is_old = one_in(&mut self.rng, 5);
        let now = self.world.now();
        self.sessions[session].http = Some(Box::new(Http::new(Purpose::Emulated(way), is_old, now)));
        let line = self.connect_line(session);
        let version = u8::from(!is_old);
        let mut request = if way == Way::Events && !one_in(&mut self.rng, 4) {
            let mut query = String::new();
            for byte in line.bytes() {
                let _ = write!(query, "%{byte:02X}");
            }
            format!("GET /connection/sse?cf_connect={query} HTTP/1.{version}\r\nHost: h\r\n\r\n")
        } else {
            let path = if way == Way::Events { "sse" } else { "http_stream" };
            let len = line.len();
            format!(
                "POST /connection/{path} HTTP/1.{version}\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{line}"
            )
        };
        if one_in(&mut self.rng, 8) {
            request = request.replace("Host: h", "Host: h\r\nX-Nothing: to say");
        }
        let it = &mut self.sessions[session];
        it.asked += 1;
        let ends = it.ends;
        if let Some(http) = &mut it.http {
            let asked = Asked::Stream;
            let request = Request { asked, at: now, ends, rest: None, expects: false, is_complete: true };
            http.requests.push_back(request);
        }
        self.send_in_order(session, request.into_bytes());
        true
    }

    /// Its client learns what requests name the session by, and subscribes.
    pub(super) fn stream_is_named(&mut self, session: usize, result: &Value) {
        let text = |name: &str| result[name].as_str().map(str::to_owned);
        let name = text("session").zip(text("node"));
        let it = &mut self.sessions[session];
        assert_eq!(it.is_emulated(), name.is_some(), "requests name a session whose stream is one: {result}");
        let (Some(http), Some(name)) = (&mut it.http, name) else { return };
        http.name = name;
        let lines = self.subscribe_lines(session, self.world.now());
        if one_in(&mut self.rng, 2) {
            return self.bring_lines(session, &lines.join("\n"));
        }
        for line in lines {
            self.bring_lines(session, &line);
        }
    }

    /// A client that uses streams does something. False: it does that as all clients do.
    pub(super) fn emulated_act(&mut self, session: usize, act: Act) -> bool {
        let it = &self.sessions[session];
        let is_switch = matches!(act, Act::Switch(_)) && it.plan.emulates;
        if !it.is_emulated() && !is_switch {
            return false;
        }
        let client = it.client;
        match act {
            Act::Publish(bytes) => self.publish_by_request(session, None, 1, bytes),
            Act::PublishIn(room, bytes) => self.publish_by_request(session, Some(room), 1, bytes),
            Act::Burst(count, bytes) => self.publish_by_request(session, None, count.min(24), bytes),
            Act::Cut(count) => self.cut_by_request(session, count),
            Act::Twin => self.look_twice(session),
            Act::Switch(_) => self.change_stream(session),
            Act::Break(wrong) if wrong.is_json() && self.may_bring(session) => {
                self.sessions[session].wrong = Some(wrong);
                let line = if wrong == Wrong::ArrayCommand {
                    r#"{"id":999,"presence":["r0"]}"#
                } else {
                    r#"{"id":999,"subscribe":{"channel":"elsewhere","delta":"what"}}"#
                };
                self.bring_lines(session, line);
            }
            Act::Leave(_) if self.sessions[session].left.is_none() => {
                let how = if one_in(&mut self.rng, 2) { Leave::HalfClose } else { Leave::Reset };
                self.leave_http(session, how);
                if how == Leave::Reset {
                    self.stream_is_gone(session);
                }
                if one_in(&mut self.rng, 2) {
                    self.end_couriers(client);
                }
            }
            Act::Leave(_) | Act::Break(_) | Act::Ping => {}
            Act::Join | Act::Batch(_) | Act::Query(_) | Act::Refresh(..) | Act::Stall(_) => return false,
        }
        true
    }

    /// A client goes over to another stream, or to a WebSocket, and recovers.
    pub(super) fn change_stream(&mut self, session: usize) {
        let client = self.sessions[session].client;
        self.report.switched += 1;
        self.abandon(session);
        self.stream_is_gone(session);
        self.act(client, Act::Join);
    }

    fn may_bring(&self, session: usize) -> bool {
        let it = &self.sessions[session];
        it.may_publish() && !it.id.is_empty()
    }

    /// Chooses how the next commands of a session go. False: they cannot.
    pub(super) fn chooses_courier(&mut self, session: usize) -> bool {
        let it = &self.sessions[session];
        !it.is_emulated() || self.may_bring(session) && self.next_courier(self.sessions[session].client)
    }

    fn publish_by_request(&mut self, session: usize, room: Option<usize>, mut count: usize, bytes: usize) {
        while count > 0 && self.may_bring(session) {
            if !self.chooses_courier(session) {
                return;
            }
            // All that one request brings goes over one connection.
            let together = 1 + index_below(&mut self.rng, count);
            let mut lines = Vec::new();
            for _ in 0..together {
                lines.push(self.next_line(session, room, bytes));
            }
            count -= together;
            self.bring_chosen(session, &lines.join("\n"), false);
        }
    }

    /// The next publication, as a line.
    fn next_line(&mut self, session: usize, room: Option<usize>, bytes: usize) -> String {
        let most = self.scenario.options.message.message_bytes_max - ENVELOPE_BYTES;
        let it = &self.sessions[session];
        let number = index_below(&mut self.rng, it.subs.len());
        let room = room.unwrap_or_else(|| it.subs[number].receiver.room());
        self.next_message(session, room, bytes.min(most)).1
    }

    /// Publishes, and the connection is cut off in the middle of the last request, or behind it.
    fn cut_by_request(&mut self, session: usize, count: usize) {
        self.publish_by_request(session, None, count, 60);
        if self.chooses_courier(session) {
            let line = self.next_line(session, None, 300);
            self.bring_chosen(session, &line, true);
        }
    }

    /// Sends the same command by two requests, as what stands between a client and its server may.
    fn look_twice(&mut self, session: usize) {
        if !self.may_bring(session) || self.sessions[session].counts_commands {
            return;
        }
        let now = self.world.now();
        let it = &mut self.sessions[session];
        let Some(index) = it.subs.iter().position(|sub| sub.stage == super::session::SubStage::In) else {
            return;
        };
        let look =
            [super::scenario::Look::Stats, super::scenario::Look::History(5)][index_below(&mut self.rng, 2)];
        let line = it.look_line(now, index, look);
        let pending = *it.pending_commands.last().expect("the command");
        it.pending_commands.push(pending);
        self.bring_lines(session, &line);
        self.bring_lines(session, &line);
    }

    /// Sends lines to a session by requests.
    pub(super) fn bring_lines(&mut self, session: usize, lines: &str) {
        let it = &self.sessions[session];
        let is_known = it.http.as_ref().is_some_and(|http| !http.name.0.is_empty());
        if lines.is_empty() || !is_known || it.over || it.stage != Stage::Open {
            return self.are_not_sent(session, lines);
        }
        if !self.next_courier(self.sessions[session].client) {
            return self.are_not_sent(session, lines);
        }
        self.bring_chosen(session, lines, false);
    }

    /// Commands that are never sent are never answered.
    fn are_not_sent(&mut self, session: usize, lines: &str) {
        let commands = ids(lines);
        let Some(http) = self.http_of(session) else { return };
        http.open_commands.extend(commands);
    }

    /// The same, on the connection that was chosen; `cut`: it ends with that.
    pub(super) fn bring_chosen(&mut self, session: usize, lines: &str, cut: bool) {
        let it = &self.sessions[session];
        let Some(http) = &it.http else { return };
        let (name, node) = &http.name;
        let is_one = !lines.contains('\n') && lines.len() > 2;
        let as_object = is_one && one_in(&mut self.rng, 3);
        let data = if as_object { lines.to_owned() } else { json!(lines).to_string() };
        let content = format!("{{\"session\":\"{name}\",\"node\":\"{node}\",\"data\":{data}}}");
        if content.len() > self.scenario.options.message.message_bytes_max && !is_one {
            let middle = lines.len() / 2;
            let at = lines[..middle].rfind('\n').or_else(|| lines.find('\n')).expect("two lines");
            self.bring_chosen(session, &lines[..at], false);
            return self.bring_chosen_behind(session, &lines[at + 1..], cut);
        }
        let mut relay = Relay::new(it.client, Target::Stream(session));
        relay.commands = ids(lines);
        if cut {
            self.bring_and_cut(relay, "/emulation", &content);
        } else {
            self.bring(relay, "/emulation", &content);
        }
    }

    /// The rest of what one request could not bring, on the same connection if that takes it.
    fn bring_chosen_behind(&mut self, session: usize, lines: &str, cut: bool) {
        let client = self.sessions[session].client;
        let takes = self.takes_request(self.plain[client].courier);
        if takes {
            return self.bring_chosen(session, lines, cut);
        }
        // It asks for the end of its connection, or waits for the server's consent.
        let mut relay = Relay::new(client, Target::Stream(session));
        relay.commands = ids(lines);
        self.relays.push(relay);
        self.relay_is_lost(self.relays.len() - 1);
    }

    /// More of a stream has come.
    pub(super) fn emulated_goes_on(&mut self, session: usize, way: Way) {
        let Some(http) = self.http_of(session) else { return };
        let body = std::mem::take(&mut http.body);
        let mut messages = Vec::new();
        if way == Way::Events {
            http.events.read(&body, |event| {
                assert_eq!((event.event, event.id), ("message", ""));
                messages.extend(event.data.map(str::to_owned));
            });
        } else {
            http.lines.read(&body, |line| messages.push(line.to_owned()));
        }
        let it = &mut self.sessions[session];
        if self.circumstances.policy() == SlowMember::Conflate && it.was_full {
            it.subs.iter_mut().for_each(|sub| sub.receiver.conflated = true);
        }
        for message in messages {
            let is_open = self.sessions[session].stage == Stage::Open;
            assert!(is_open, "something behind the end of stream {session}: {message}");
            self.receive_lines(session, &message);
        }
    }

    /// The server ends a session on its stream.
    pub(super) fn disconnected(&mut self, session: usize, disconnect: &Value) {
        let it = &mut self.sessions[session];
        assert!(it.is_emulated(), "a push of what a Close frame says: {disconnect}");
        let code = disconnect["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        self.trace.note(self.now, || format!("the stream of client {} ends: {disconnect}", it.client));
        it.check_close(code, &self.world, &self.circumstances);
        it.stage = Stage::Closed;
        let client = it.client;
        self.stream_is_gone(session);
        self.join_later(client);
    }

    /// A message that went by request is answered.
    pub(super) fn publish_is_answered(
        &mut self,
        session: usize,
        id: u64,
        record: PublicationId,
        error: Option<u64>,
    ) {
        if !self.sessions[session].is_emulated() {
            return;
        }
        let it = self.checker.record(record);
        let Some(http) = self.http_of(session) else { return };
        let open = http.open_commands.iter().position(|&open| u64::from(open) == id);
        match open {
            Some(index) => drop(http.open_commands.swap_remove(index)),
            None => self.sessions[it.session].unresolved -= 1,
        }
        match error {
            None => {
                let last = &mut self.sessions[it.session].acknowledged[it.room];
                *last = (*last).max(Some(record));
                self.checker.acknowledge(record);
            }
            // Its time was up, and it may be published.
            Some(100) if it.declined.is_none() => self.checker.leave_open(record),
            Some(_) => {}
        }
    }

    /// A stream brings nothing more: what has had no reply has none.
    pub(super) fn stream_is_gone(&mut self, session: usize) {
        let it = &mut self.sessions[session];
        if it.is_sockjs() {
            return self.receiver_is_gone(session);
        }
        if !it.is_emulated() {
            return;
        }
        let open = it.http.as_ref().map_or(Vec::new(), |http| http.open_commands.clone());
        for (id, command, _) in std::mem::take(&mut self.sessions[session].pending_commands) {
            if let PendingCommand::Publish(record) = command
                && !open.contains(&id)
            {
                let courier = self.checker.record(record).session;
                self.checker.leave_open(record);
                self.sessions[courier].unresolved -= 1;
            }
        }
    }
}

/// The ids of the commands in `lines`.
fn ids(lines: &str) -> Vec<u32> {
    let ids = lines.lines().filter_map(|line| {
        let digits = line.strip_prefix("{\"id\":")?;
        digits[..digits.find(|it: char| !it.is_ascii_digit())?].parse().ok()
    });
    ids.collect()
}
