//! What sessions over HTTP have for their clients, delivered to the requests that receive it; and the life of
//! an outlet.

use serde_json::json;

use super::outlet::{ABSENCE_MAX, CONTENTION, Receive, Receiver, State, name_of};
use super::{Service, Transport};
use crate::app::{WireFormat, sockjs};
use crate::base::{AudienceId, ConnKey, OutletKey, SessionKey, SubId, Time};
use crate::chat::SlowMember;
use crate::conn::Stream;
use crate::http::{Reject, Response, StatusCode, StreamHead, StreamKind};
use crate::metrics::CloseReason;
use crate::session::{Effects, Relayed, Session, TextHandshake, Ticket};
use crate::shard::messages::Up;
use crate::shard::{OUTBOX_PAUSE_BYTES, Shard, Slot};

/// Bytes of frames after which an answer that goes on ends, and its client asks for the next one.
const RESPONSE_BYTES_MAX: usize = 128 * 1024;

/// The same in the services for tests.
const TEST_RESPONSE_BYTES_MAX: usize = 4096;

/// Bytes of a room's messages in one frame, unless one message alone has more.
const FRAME_BYTES_MAX: u64 = 64 * 1024;

/// The media type of scripts.
const SCRIPT: &str = "application/javascript; charset=UTF-8";

impl Transport {
    /// Whether its answer goes on after a frame.
    const fn is_stream(self) -> bool {
        matches!(self, Self::XhrStreaming | Self::EventSource | Self::HtmlFile)
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::Jsonp => SCRIPT,
            Self::EventSource => "text/event-stream",
            Self::HtmlFile => "text/html; charset=UTF-8",
        }
    }

    /// What an answer that goes on begins with: enough for browsers to pass it on.
    fn prelude(self, callback: &str) -> Vec<u8> {
        match self {
            Self::Xhr | Self::Jsonp => Vec::new(),
            Self::XhrStreaming => [&[b'h'; 2048][..], b"\n"].concat(),
            Self::EventSource => b"\r\n".to_vec(),
            Self::HtmlFile => {
                let mut page = HTML_FILE.replace("CALLBACK", callback).into_bytes();
                page.resize(page.len().max(1024) + 1, b' ');
                page.extend_from_slice(b"\r\n\r\n");
                page
            }
        }
    }

    /// A frame as this transport has it.
    fn frame(self, callback: &str, frame: &[u8]) -> Vec<u8> {
        let text = || std::str::from_utf8(frame).unwrap_or_default();
        match self {
            Self::Xhr | Self::XhrStreaming => [frame, b"\n"].concat(),
            // Clients decode it as a URI.
            Self::EventSource => format!("data: {}\r\n\r\n", text().replace('%', "%25")).into_bytes(),
            Self::HtmlFile => {
                // Nothing in a message may end the script.
                let script = json!(text()).to_string().replace('<', "\\u003c");
                format!("<script>\np({script});\n</script>\r\n").into_bytes()
            }
            Self::Jsonp => format!("/**/{callback}({});\r\n", json!(text())).into_bytes(),
        }
    }
}

/// The page whose scripts bring the frames.
const HTML_FILE: &str = r#"<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
"#;

impl Shard {
    /// A request receives for its session, which begins with the first one.
    pub(super) fn receive(&mut self, key: ConnKey, receive: Receive) {
        let Receive { service, session, transport, callback, client, exchange } = receive;
        let known = self.outlets.find(&name_of(service, &session));
        if known.is_none() && self.outlets.len() as u64 >= self.options.connections_max {
            self.note_refusal(key, None, Reject::Overloaded);
            return self.respond(key, &exchange, true, |out, options| {
                Reject::Overloaded.response_into(out, options);
            });
        }
        let outlet = known.unwrap_or_else(|| self.outlets.insert(service, &session));
        self.wait_for_answer(key, exchange);
        if let Some(slot) = self.conns.get_mut(key) {
            slot.http_or_new().outlet = Some(outlet);
            self.wheel.cancel(key.index());
        }
        let receiver = Receiver { conn: key, transport, callback, sent: 0 };
        if known.is_none() {
            self.open_outlet(outlet, service, client, key);
        }
        let Some(it) = self.outlets.get_mut(outlet) else { return };
        if it.receiver.is_none() {
            self.attach(outlet, receiver);
        } else if it.contender.is_none() {
            it.contender = Some(receiver);
            let due = self.now + CONTENTION;
            self.outlets.wheel.set_earlier(outlet.index(), due);
        } else {
            self.turn_away(receiver);
        }
    }

    /// What a new session does.
    fn open_outlet(
        &mut self,
        key: OutletKey,
        service: Service,
        client: Result<TextHandshake<'static>, Reject>,
        conn: ConnKey,
    ) {
        match service {
            Service::Echo { .. } => {}
            Service::Close => self.close_outlet(key, 3000, "Go away!"),
            Service::Rooms => {
                let opened = client.and_then(|client| self.open_outlet_session(key, &client, conn));
                if let Err(reject) = opened {
                    self.note_refusal(conn, None, reject);
                    let code = 4000 + reject.status().as_u16();
                    self.close_outlet(key, code, reject.sentence());
                }
            }
        }
    }

    fn open_outlet_session(
        &mut self,
        key: OutletKey,
        handshake: &TextHandshake<'_>,
        conn: ConnKey,
    ) -> Result<(), Reject> {
        let client = self.new_client_id();
        let session = Session::text(client, WireFormat::QuotedEntries);
        let (mut session, admission) = self.admit(session, handshake)?;
        session.set_outlet(key);
        let session = self.sessions.insert(session);
        if let Some(outlet) = self.outlets.get_mut(key) {
            outlet.session = Some(session);
        }
        self.authenticating = Some(conn);
        self.open_session(session, handshake, admission);
        self.authenticating = None;
        Ok(())
    }

    /// Has a request receive what there is.
    fn attach(&mut self, key: OutletKey, receiver: Receiver) {
        if receiver.transport.is_stream() {
            self.begin_receiving(&receiver);
        }
        if let Some(outlet) = self.outlets.get_mut(key) {
            outlet.receiver = Some(receiver);
        }
        self.renew_outlet(key);
        self.deliver(key);
    }

    /// The answer to a request that receives frames one after the other begins.
    fn begin_receiving(&mut self, receiver: &Receiver) {
        let &Receiver { conn: key, transport, ref callback, .. } = receiver;
        let date = self.date();
        let Some(exchange) = self.take_exchange(key) else { return };
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let chunked = !exchange.is_old;
        let fields = exchange.fields(true);
        let head = StreamHead { content_type: transport.content_type(), chunked, fields: &fields, date };
        head.write_into(conn.outbox.bytes());
        let stream = Stream { kind: StreamKind::Events, chunked, messages: false };
        conn.begin_stream(stream, Time::NEVER);
        conn.send_part(stream, &transport.prelude(callback));
        self.metrics.streams.add(1);
        self.rearm(key);
        self.flush_later(key);
    }

    /// A request that is one too many.
    fn turn_away(&mut self, receiver: Receiver) {
        if receiver.transport.is_stream() {
            self.begin_receiving(&receiver);
        }
        let mut frame = Vec::new();
        sockjs::close_into(&mut frame, 2010, "Another connection still open");
        self.release(&receiver);
        self.send_frame(&receiver, &frame, true);
    }

    /// Sends a frame to the client of a request; `is_last`: its answer ends with it.
    fn send_frame(&mut self, receiver: &Receiver, frame: &[u8], is_last: bool) -> usize {
        let &Receiver { conn: key, transport, ref callback, .. } = receiver;
        let frame = transport.frame(callback, frame);
        if !transport.is_stream() {
            if let Some(exchange) = self.take_exchange(key) {
                self.respond(key, &exchange, true, |out, options| {
                    Response::new(StatusCode::OK, transport.content_type(), &frame).with(options).write_into(out);
                });
            }
            return frame.len();
        }
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return 0 };
        let Some(stream) = conn.stream().filter(|_| conn.is_open()) else { return 0 };
        conn.send_part(stream, &frame);
        if is_last {
            let change = conn.end_stream(b"", CloseReason::RequestComplete, &self.options);
            self.apply(key, change);
        }
        self.flush_later(key);
        frame.len()
    }

    /// A connection receives no more.
    fn release(&mut self, receiver: &Receiver) {
        if let Some(http) = self.conns.get_mut(receiver.conn).and_then(Slot::http_mut) {
            http.outlet = None;
        }
    }

    /// Delivers what there is to the request that receives, if one does.
    pub(in crate::shard) fn deliver(&mut self, key: OutletKey) {
        while self.takes_frames(key) {
            let Some((frame, is_end)) = self.next_frame(key) else { return };
            self.send_next(key, &frame, is_end);
        }
    }

    /// Sends a frame to the request that receives, whose answer may end with it.
    fn send_next(&mut self, key: OutletKey, frame: &[u8], is_end: bool) {
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        let limit = match outlet.service {
            Service::Rooms => RESPONSE_BYTES_MAX,
            Service::Echo { .. } | Service::Close => TEST_RESPONSE_BYTES_MAX,
        };
        let Some(mut receiver) = outlet.receiver.take() else { return };
        let len = receiver.transport.frame(&receiver.callback, frame).len();
        let is_last = is_end || !receiver.transport.is_stream() || receiver.sent + len >= limit;
        receiver.sent += len;
        if is_last {
            self.release(&receiver);
        }
        self.send_frame(&receiver, frame, is_last);
        if !is_last && let Some(outlet) = self.outlets.get_mut(key) {
            outlet.receiver = Some(receiver);
        }
        self.renew_outlet(key);
        self.attach_contender(key);
    }

    /// The next frame of a session, and whether nothing can follow it.
    fn next_frame(&mut self, key: OutletKey) -> Option<(Vec<u8>, bool)> {
        let outlet = self.outlets.get_mut(key)?;
        // First of all its client learns that it is there.
        if !std::mem::replace(&mut outlet.is_announced, true) {
            return Some((sockjs::OPEN.to_vec(), false));
        }
        match &outlet.state {
            State::Open => {}
            State::Closed(code, reason) if outlet.pending.is_empty() => {
                let mut frame = Vec::new();
                sockjs::close_into(&mut frame, *code, reason);
                return Some((frame, true));
            }
            State::Closed(..) => {}
        }
        let session = outlet.session;
        if let Some(session) = session {
            self.call_session(session, |session, ctx| session.notice(ctx.effects));
        }
        let mut entries = std::mem::take(&mut self.outlets.get_mut(key)?.pending);
        if let Some(session) = session {
            let subs: Vec<SubId> = self.sessions.get(session).into_iter().flat_map(Session::subs).collect();
            for sub in subs {
                let (bytes, count) = self.fanout.take_entries(sub, FRAME_BYTES_MAX);
                entries.extend_from_slice(&bytes);
                self.metrics.deliveries.add(count);
            }
        }
        if entries.is_empty() {
            return None;
        }
        let mut frame = Vec::with_capacity(entries.len() + 2);
        sockjs::messages_into(&mut frame, &entries);
        Some((frame, false))
    }

    /// A session has something for its client.
    pub(in crate::shard) fn send_to_outlet(&mut self, key: OutletKey, text: &[u8]) {
        if let Some(outlet) = self.outlets.get_mut(key)
            && !matches!(outlet.state, State::Closed(..))
        {
            outlet.push(std::str::from_utf8(text).unwrap_or_default());
            self.deliver_later(key);
        }
    }

    /// Has an outlet deliver in this turn.
    pub(in crate::shard) fn deliver_later(&mut self, key: OutletKey) {
        if let Some(outlet) = self.outlets.get_mut(key)
            && !std::mem::replace(&mut outlet.is_due, true)
        {
            self.outlets_due.push_back(key);
        }
    }

    /// Delivers what has come for outlets.
    pub(in crate::shard) fn deliver_some(&mut self) {
        self.end_overdue_outlets();
        for _ in 0..self.outlets_due.len() {
            let Some(key) = self.outlets_due.pop_front() else { return };
            if let Some(outlet) = self.outlets.get_mut(key) {
                outlet.is_due = false;
            }
            self.deliver(key);
        }
    }

    /// A session ends, or never begins: whoever receives is told so.
    pub(in crate::shard) fn close_outlet(&mut self, key: OutletKey, code: u16, reason: &str) {
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        if matches!(outlet.state, State::Closed(..)) {
            return;
        }
        let reason: Box<str> = reason.into();
        outlet.state = State::Closed(code, reason);
        if let Some(session) = outlet.session.take() {
            self.end_detached(session);
        }
        self.deliver_later(key);
    }

    /// Ends a session that has no connection of its own.
    fn end_detached(&mut self, key: SessionKey) {
        let mut effects = Effects::default();
        if let Some(ending) = self.sessions.get_mut(key) {
            ending.ended(&mut effects);
        }
        self.run_effects(key, None, effects);
        self.refuse_relayed(key);
        self.cancel_detached_auth(key);
        self.sessions.remove(key);
    }

    /// The connection of a request that receives has ended: what its answer had may not have arrived.
    pub(in crate::shard) fn receiver_ended(&mut self, conn: ConnKey) {
        let Some(key) = self.conns.get(conn).and_then(Slot::outlet) else { return };
        if let Some(http) = self.conns.get_mut(conn).and_then(Slot::http_mut) {
            http.outlet = None;
        }
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        if outlet.contender.as_ref().is_some_and(|it| it.conn == conn) {
            outlet.contender = None;
            return;
        }
        if outlet.receiver.as_ref().is_none_or(|it| it.conn != conn) {
            return;
        }
        outlet.receiver = None;
        self.close_outlet(key, 1002, "Connection interrupted");
        self.renew_outlet(key);
        self.attach_contender(key);
    }

    fn attach_contender(&mut self, key: OutletKey) {
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        if outlet.receiver.is_none()
            && let Some(contender) = outlet.contender.take()
        {
            self.attach(key, contender);
        }
    }

    /// From now on a session is silent, or its client absent.
    fn renew_outlet(&mut self, key: OutletKey) {
        let now = self.now;
        let interval = self.options.ping_interval;
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        outlet.due = if outlet.receiver.is_none() {
            now + ABSENCE_MAX
        } else if interval.is_zero() {
            Time::NEVER
        } else {
            now + interval
        };
        self.rearm_outlet(key);
    }

    /// Sets an outlet's timer to the next thing that is due for it or its session.
    pub(in crate::shard) fn rearm_outlet(&mut self, key: OutletKey) {
        let Some(outlet) = self.outlets.get(key) else { return };
        let session = outlet.session.and_then(|session| self.sessions.get(session));
        let due = outlet.due.min(session.map_or(Time::NEVER, Session::due));
        let contends = outlet.contender.is_some();
        if due == Time::NEVER && !contends {
            self.outlets.wheel.cancel(key.index());
        } else if contends {
            self.outlets.wheel.set_earlier(key.index(), due);
        } else {
            self.outlets.wheel.set(key.index(), due);
        }
    }

    /// Handles expired timers of outlets.
    pub(in crate::shard) fn expire_outlets(&mut self) {
        while let Some(index) = self.outlets.wheel.poll_expired(self.now) {
            if let Some(key) = self.outlets.key_at(index) {
                self.outlet_due(key);
            }
        }
    }

    fn outlet_due(&mut self, key: OutletKey) {
        let now = self.now;
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        if outlet.receiver.is_some()
            && let Some(contender) = outlet.contender.take()
        {
            self.turn_away(contender);
        }
        let Some(outlet) = self.outlets.get(key) else { return };
        let (is_due, receives, session) = (outlet.due <= now, outlet.receiver.is_some(), outlet.session);
        if is_due && !receives {
            if let Some(session) = session {
                self.end_detached(session);
            }
            return self.outlets.remove(key);
        }
        if is_due {
            self.beat(key);
        }
        if let Some(session) = session {
            self.call_session(session, |session, ctx| session.tick(ctx, now));
        }
        self.rearm_outlet(key);
    }

    /// Shows a client that its session is alive, unless something waits for it anyway.
    fn beat(&mut self, key: OutletKey) {
        let receiver = self.outlets.get(key).and_then(|outlet| outlet.receiver.as_ref());
        let Some(slot) = receiver.and_then(|receiver| self.conns.get(receiver.conn)) else { return };
        if slot.conn.outbox.is_empty() && !slot.conn.blocked {
            self.send_next(key, sockjs::HEARTBEAT, false);
        } else {
            self.renew_outlet(key);
        }
    }

    /// Passes a client's messages on to the shard of its session.
    pub(super) fn relay_to_outlet(
        &mut self,
        service: Service,
        session: &str,
        message: Box<str>,
        ticket: Ticket,
    ) {
        let home = self.mesh.seed().spread(session, self.mesh.shards());
        self.mesh.send_up(home, Up::Sent { outlet: name_of(service, session), message, ticket });
    }

    /// A client's messages have come for a session of this shard.
    pub(in crate::shard) fn receive_sent(&mut self, outlet: &str, message: Box<str>, ticket: Ticket) {
        let found = self.outlets.find(outlet);
        let open = found.filter(|&key| {
            self.outlets.get(key).is_some_and(|outlet| outlet.state == State::Open)
        });
        let Some(key) = open else { return self.answer_relay(ticket, Relayed::Unknown) };
        if let Some(session) = self.outlets.get(key).and_then(|outlet| outlet.session) {
            return self.receive_relayed(session, message, ticket);
        }
        if self.outlets.is_full(key) {
            return self.answer_relay(ticket, Relayed::Full);
        }
        for text in sockjs::parse(&message).unwrap_or_default() {
            self.send_to_outlet(key, text.as_bytes());
        }
        self.answer_relay(ticket, Relayed::Taken);
    }

    /// Publications have come for outlets of an audience: `left` of them are delivered to at most. True: there
    /// are more.
    pub(in crate::shard) fn deliver_audience(&mut self, id: AudienceId, left: &mut usize) -> bool {
        let behind = self.fanout.behind_in(id).filter_map(|slot| self.outlets.key_at(slot));
        let due: Vec<_> = behind.filter(|&key| self.takes_frames(key)).take(*left).collect();
        *left -= due.len();
        for key in due {
            self.deliver(key);
        }
        *left == 0
    }

    /// Whether somebody receives for an outlet, and fast enough.
    fn takes_frames(&self, key: OutletKey) -> bool {
        let receiver = self.outlets.get(key).and_then(|outlet| outlet.receiver.as_ref());
        receiver.and_then(|receiver| self.conns.get(receiver.conn)).is_some_and(|slot| {
            slot.conn.outbox.len() <= OUTBOX_PAUSE_BYTES && !slot.conn.state().is_ending()
        })
    }

    /// A member that nobody receives for has fallen behind by more than its room's log may hold.
    fn outlet_overdue(&mut self, sub: SubId) {
        let slot = self.fanout.conn(sub);
        let Some(key) = self.outlets.key_at(slot) else { return };
        let Some(session) = self.outlets.get(key).and_then(|outlet| outlet.session) else { return };
        match self.fanout[self.fanout.audience_of(sub)].options.slow_member {
            SlowMember::Disconnect => {
                self.call_session(session, |session, ctx| session.too_slow(ctx.effects));
            }
            SlowMember::Skip => {
                let missed = self.fanout.jump_to_head(sub);
                self.metrics.skipped.add(missed.count);
                let (count, after) = (missed.count, missed.after);
                self.call_session(session, |session, ctx| session.lagged(ctx.effects, sub, count, after));
            }
            SlowMember::Conflate => {
                let missed = self.fanout.jump_to_newest(sub);
                self.metrics.skipped.add(missed.count);
            }
        }
    }

    /// The server goes away: so do all sessions that have an outlet.
    pub(in crate::shard) fn drain_outlets(&mut self) {
        for key in self.outlets.keys() {
            self.close_outlet(key, sockjs::close_code(1001), "server is going away");
            self.deliver(key);
        }
    }

    /// Applies the slow-consumer policy to sessions for which nobody receives, or too slowly.
    fn end_overdue_outlets(&mut self) {
        let bound = self.options.log_bytes_max();
        for key in std::mem::take(&mut self.outlets_overdue) {
            let session = self.outlets.get(key).and_then(|outlet| outlet.session);
            let subs: Vec<SubId> = session
                .and_then(|session| self.sessions.get(session))
                .into_iter()
                .flat_map(Session::subs)
                .collect();
            for sub in subs {
                if self.fanout.behind(sub) > bound {
                    self.outlet_overdue(sub);
                }
            }
        }
    }
}
