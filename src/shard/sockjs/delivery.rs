//! What sessions over HTTP have for their clients, delivered to the requests that receive it.

use super::Service;
use super::outlet::{CONTENTION, Receive, Receiver, State, name_of};
use crate::app::{WireFormat, sockjs};
use crate::base::{AudienceId, ConnKey, OutletKey, SubId, Time};
use crate::conn::Stream;
use crate::http::{Reject, Response, StatusCode, StreamHead, StreamKind};
use crate::metrics::CloseReason;
use crate::session::{Relayed, RequestId, Session, TextHandshake};
use crate::shard::messages::Up;
use crate::shard::{OUTBOX_PAUSE_BYTES, Shard, Slot};

/// Bytes of frames after which an answer that goes on ends, and its client asks for the next one.
const RESPONSE_BYTES_MAX: usize = 128 * 1024;

/// The same in the services for tests.
const TEST_RESPONSE_BYTES_MAX: usize = 4096;

/// Bytes of a room's messages in one frame, unless one message alone has more.
const FRAME_BYTES_MAX: u64 = 64 * 1024;

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
        self.outlets.beginning = Some(conn);
        self.open_session(session, handshake, admission);
        self.outlets.beginning = None;
        Ok(())
    }

    /// Has a request receive what there is.
    pub(super) fn attach(&mut self, key: OutletKey, receiver: Receiver) {
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
        self.metrics.requests.add(1);
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
    pub(super) fn turn_away(&mut self, receiver: Receiver) {
        if receiver.transport.is_stream() {
            self.begin_receiving(&receiver);
        }
        let mut frame = Vec::new();
        sockjs::close_into(&mut frame, 2010, "Another connection still open");
        let part = receiver.transport.frame(&receiver.callback, &frame);
        self.release(&receiver);
        self.send_part(&receiver, &part, true);
    }

    /// Sends a frame, as its transport has it, to the client of a request; `is_last`: its answer ends with
    /// it.
    fn send_part(&mut self, receiver: &Receiver, part: &[u8], is_last: bool) {
        let &Receiver { conn: key, transport, .. } = receiver;
        if !transport.is_stream() {
            if let Some(exchange) = self.take_exchange(key) {
                self.metrics.requests.add(1);
                self.respond(key, &exchange, true, |out, options| {
                    Response::new(StatusCode::OK, transport.content_type(), part)
                        .with(options)
                        .write_into(out);
                });
            }
            return;
        }
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let Some(stream) = conn.stream().filter(|_| conn.is_open()) else { return };
        conn.send_part(stream, part);
        if is_last {
            let change = conn.end_stream(b"", CloseReason::RequestComplete, &self.options);
            self.apply(key, change);
        }
        self.flush_later(key);
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
    pub(super) fn send_next(&mut self, key: OutletKey, frame: &[u8], is_end: bool) {
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        let limit = match outlet.service {
            Service::Rooms => RESPONSE_BYTES_MAX,
            Service::Echo { .. } | Service::Close => TEST_RESPONSE_BYTES_MAX,
        };
        let Some(mut receiver) = outlet.receiver.take() else { return };
        let part = receiver.transport.frame(&receiver.callback, frame);
        receiver.sent += part.len();
        let is_last = is_end || !receiver.transport.is_stream() || receiver.sent >= limit;
        if is_last {
            self.release(&receiver);
        }
        self.send_part(&receiver, &part, is_last);
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
            self.outlets.due.push_back(key);
        }
    }

    /// Delivers what has come for outlets.
    pub(in crate::shard) fn deliver_some(&mut self) {
        self.end_overdue_outlets();
        for _ in 0..self.outlets.due.len() {
            let Some(key) = self.outlets.due.pop_front() else { return };
            if let Some(outlet) = self.outlets.get_mut(key) {
                outlet.is_due = false;
            }
            self.deliver(key);
        }
    }

    /// Passes a client's messages on to the shard of its session.
    pub(super) fn relay_to_outlet(
        &mut self,
        service: Service,
        session: &str,
        message: Box<str>,
        request: RequestId,
    ) {
        let home = self.mesh.seed().spread(session, self.mesh.shards());
        self.mesh.send_up(home, Up::Sent { outlet: name_of(service, session), message, request });
    }

    /// A client's messages have come for a session of this shard.
    pub(in crate::shard) fn receive_sent(&mut self, outlet: &str, message: Box<str>, request: RequestId) {
        let found = self.outlets.find(outlet);
        let open =
            found.filter(|&key| self.outlets.get(key).is_some_and(|outlet| outlet.state == State::Open));
        let Some(key) = open else { return self.answer_relay(request, Relayed::Unknown) };
        if let Some(session) = self.outlets.get(key).and_then(|outlet| outlet.session) {
            return self.receive_relayed(session, message, request);
        }
        if self.outlets.is_full(key) {
            return self.answer_relay(request, Relayed::Full);
        }
        for text in sockjs::parse(&message).unwrap_or_default() {
            self.send_to_outlet(key, text.as_bytes());
        }
        self.answer_relay(request, Relayed::Taken);
    }

    /// Publications have come for outlets of an audience, of which at most `left` receive them now. True:
    /// there are more.
    pub(in crate::shard) fn deliver_audience(&mut self, id: AudienceId, left: &mut usize) -> bool {
        let behind = self.fanout.behind_in(id).filter_map(|slot| self.outlets.key_at(slot));
        let due: Vec<_> = behind.filter(|&key| self.takes_frames(key)).take(*left).collect();
        *left -= due.len();
        for key in due {
            self.deliver(key);
        }
        *left == 0
    }

    /// Whether a request receives for an outlet, and fast enough.
    fn takes_frames(&self, key: OutletKey) -> bool {
        let receiver = self.outlets.get(key).and_then(|outlet| outlet.receiver.as_ref());
        receiver.and_then(|receiver| self.conns.get(receiver.conn)).is_some_and(|slot| {
            slot.conn.outbox.len() <= OUTBOX_PAUSE_BYTES && !slot.conn.state().is_ending()
        })
    }
}
