//! What connections and sessions do, carried to the other parts.

use std::sync::Arc;

use super::rooms::Parked;
use super::{Counting, Shard, Slot};
use crate::app::{Protocol, WireFormat, json, sockjs};
use crate::base::{ConnKey, RoomId, SessionKey, SubId, Time};
use crate::chat::{AuthRequest, ClientId, Draft, Overrides};
use crate::conn::{Change, Conn, State};
use crate::engine::ReplyTo;
use crate::metrics::CloseReason;
use crate::room::Request;
use crate::session::{Client, Effect, Effects, JoinRequest, Session};
use crate::shard::fanout::Backlog;
use crate::shard::messages::Up;
use crate::ws::CloseCode;

impl Shard {
    /// Carries out what a session does.
    pub(super) fn apply_effects(&mut self, key: SessionKey) {
        let mut effects = std::mem::take(&mut self.effects);
        let conn = self.sessions.get(key).and_then(|session| session.conn);
        while let Some(effect) = effects.pop() {
            self.effect(key, conn, &effects, effect);
        }
        for &code in effects.errors() {
            self.metrics.count_error(code);
        }
        effects.clear();
        self.effects = effects;
        if let Some(conn) = conn {
            self.rearm(conn);
            self.offer_later(conn);
        }
        if let Some(outlet) = self.sessions.get(key).and_then(Session::outlet) {
            self.rearm_outlet(outlet);
        }
        if self.takes_relayed(key) && !self.relays_ready.contains(&key) {
            self.relays_ready.push_back(key);
        }
    }

    fn effect(&mut self, key: SessionKey, conn: Option<ConnKey>, effects: &Effects, effect: Effect) {
        match effect {
            Effect::Send(range) => self.send(key, conn, effects.payload(range)),
            Effect::Notice => match self.sessions.get(key).and_then(Session::outlet) {
                Some(outlet) => self.deliver_later(outlet),
                None => self.on_open(conn, |conn| conn.outbox.notice_later()),
            },
            Effect::Ping => self.on_open(conn, Conn::ping),
            Effect::Close { code, reason, why } => {
                if let Some(outlet) = self.sessions.get(key).and_then(Session::outlet) {
                    return self.close_outlet(outlet, sockjs::close_code(code), &reason);
                }
                if let Some(conn) = conn
                    && !self.end_by_request(conn, code, &reason, why)
                {
                    self.close_session(conn, CloseCode::from(code), &reason, why);
                }
            }
            Effect::Join(join) => self.join(key, join),
            Effect::JoinAgain(join) => self.request_join(key, join),
            Effect::Leave { room, id, sub, client, format } => {
                if let Some(sub) = sub {
                    self.unsubscribe(conn, sub);
                }
                self.leave(&room, id, client, format);
            }
            Effect::Publish { command, room, draft } => self.publish(key, command, &room, draft),
            Effect::Query { command, room, query } => {
                let reply_to = self.reply_to(key, command);
                self.request_home(&room, Request::Query { query, reply_to });
            }
            Effect::CountDelivery { command, room, offset } => {
                self.count_delivery(self.reply_to(key, command), &room, offset);
            }
            Effect::Authenticate(client) => self.authenticate(key, conn, client),
            Effect::Confirmed => self.confirmed(conn),
            Effect::Begin => {
                if let Some(conn) = conn {
                    self.begin_stream(conn, key);
                }
            }
            Effect::Batch { content, position } => {
                if let Some(conn) = conn {
                    let content = content.map(|range| effects.payload(range));
                    self.answer_poll(conn, key, content, position);
                }
            }
            Effect::Published { command, outcome, position } => {
                if let Some(conn) = conn {
                    self.published(conn, command, outcome, position);
                }
            }
        }
    }

    /// Requests the auth backend's decision about a client.
    fn authenticate(&mut self, key: SessionKey, conn: Option<ConnKey>, client: Client) {
        let Some(session) = self.sessions.get(key) else { return };
        let id = session.client().to_string().into();
        let conn = conn.or(self.outlets.beginning);
        let details = conn.and_then(|conn| self.conns.get(conn)).and_then(|slot| slot.details.as_ref());
        let address = details.and_then(|details| details.peer.as_ref()).map(|peer| peer.address);
        let Client { protocol, name, token, data } = client;
        self.auth_requests.push_back(AuthRequest {
            session: key,
            client: id,
            protocol,
            name,
            token,
            data,
            address,
        });
    }

    /// Sends a session's client a message of its protocol.
    fn send(&mut self, key: SessionKey, conn: Option<ConnKey>, payload: &[u8]) {
        let session = self.sessions.get(key);
        if let Some(outlet) = session.and_then(Session::outlet) {
            return self.send_to_outlet(outlet, payload);
        }
        if session.is_some_and(|session| session.format() == WireFormat::Quoted) {
            let mut frame = Vec::with_capacity(payload.len() + 16);
            sockjs::message_into(&mut frame, std::str::from_utf8(payload).unwrap_or_default());
            return self.on_open(conn, |conn| conn.send_payload(&frame));
        }
        self.on_open(conn, |conn| conn.send_payload(payload));
    }

    /// The auth backend's decision about a client is no longer needed.
    pub(super) fn cancel_auth(&mut self, key: SessionKey) {
        let waiting = self.auth_requests.len();
        self.auth_requests.retain(|auth_request| auth_request.session != key);
        if self.auth_requests.len() == waiting {
            self.cancelled.push(key);
        }
    }

    /// A session's client is in: what waited for that may go.
    fn confirmed(&mut self, conn: Option<ConnKey>) {
        if let Some(conn) = conn {
            self.publisher_admitted(conn);
            self.flush_later(conn);
        }
    }

    /// Has an open connection, if it is one, send something.
    fn on_open(&mut self, conn: Option<ConnKey>, send: impl FnOnce(&mut Conn)) {
        if let Some((key, Slot { conn, .. })) = self.open(conn) {
            send(conn);
            self.flush_later(key);
        }
    }

    fn open(&mut self, conn: Option<ConnKey>) -> Option<(ConnKey, &mut Slot)> {
        let key = conn?;
        let slot = self.conns.get_mut(key)?;
        slot.conn.is_open().then_some((key, slot))
    }

    pub(super) fn reply_to(&self, session: SessionKey, command: u32) -> ReplyTo {
        ReplyTo { shard: u16::try_from(self.mesh.me()).unwrap_or(u16::MAX), session, command }
    }

    /// Has a session go into a room, which begins to exist with its first member.
    fn join(&mut self, key: SessionKey, join: JoinRequest) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (id, is_new) =
            self.rooms.add_client(&join.room, session.format(), &self.options.rooms, &mut self.fanout);
        let name = self.rooms.get(id).map_or_else(|| Arc::clone(&join.room), |room| Arc::clone(&room.name));
        session.attends(join.number, id, name);
        if is_new {
            self.send_forms(&join.room, id);
            self.metrics.rooms.set(self.rooms.occupied() as u64);
        }
        self.request_join(key, join);
    }

    fn request_join(&mut self, key: SessionKey, join: JoinRequest) {
        let JoinRequest { number, room, member, recovery_request, overrides, lease } = join;
        let reply_to = self.reply_to(key, number);
        // The others only ever repeat what the room does anyway.
        let Overrides { presence, join_leave, .. } = overrides;
        let join = Request::Join { member, recovery_request, presence, join_leave, lease, reply_to };
        self.request_home(&room, join);
    }

    /// A client goes out of a room, which ends with its last member.
    fn leave(&mut self, room: &Arc<str>, id: RoomId, client: ClientId, format: WireFormat) {
        if self.rooms.remove_client(id, format, &mut self.fanout) {
            self.send_forms(room, id);
        }
        self.request_home(room, Request::Leave { client });
        self.forget_unused(id);
    }

    /// Queries all shards how far a publication has come, this one too.
    fn count_delivery(&mut self, reply_to: ReplyTo, room: &Arc<str>, offset: u64) {
        let shards = self.mesh.shards();
        self.countings.push(Counting { reply_to, missing: shards, sum: Backlog::default() });
        for shard in 0..shards {
            self.mesh.send_up(shard, Up::Count { room: Arc::clone(room), offset, reply_to });
        }
    }

    /// Sends a room's home the forms this shard has members for.
    fn send_forms(&mut self, room: &Arc<str>, id: RoomId) {
        let forms = self.rooms.get(id).map(super::rooms::Room::forms).unwrap_or_default();
        self.request_home(room, Request::Listen { forms });
    }

    pub(super) fn request_home(&mut self, room: &Arc<str>, request: Request) {
        let home = self.mesh.home(room);
        self.mesh.send_up(home, Up::Room { room: Arc::clone(room), request });
    }

    pub(super) fn forget_unused(&mut self, id: RoomId) {
        self.rooms.forget_unused(id);
        self.metrics.rooms.set(self.rooms.occupied() as u64);
    }

    /// Takes a member out of the fan-out. The rest of a frame that has begun to go out stays with its
    /// connection.
    fn unsubscribe(&mut self, conn: Option<ConnKey>, sub: SubId) {
        let rest = self.fanout.unsubscribe(sub);
        self.metrics.members.sub(1);
        if let Some(Slot { conn, .. }) = conn.and_then(|key| self.conns.get_mut(key)) {
            self.metrics.lagging.sub(u64::from(conn.blocked));
            if conn.state() != State::Closed {
                conn.outbox.prepend(&rest);
            }
        }
    }

    fn publish(&mut self, key: SessionKey, command: u32, room: &Arc<str>, draft: Draft) {
        self.metrics.messages_received.add(1);
        let parked = Parked { session: key, command, draft };
        match self.rooms.submit(room, parked, &self.options.rooms) {
            Some(draft) => {
                let reply_to = self.reply_to(key, command);
                self.request_home(room, Request::Publish { draft, reply_to });
            }
            None => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.parked();
                }
            }
        }
    }

    /// Carries out a change of a connection's state.
    pub(super) fn apply(&mut self, key: ConnKey, change: Change) {
        let Change { leaves, flush, close, timer } = change;
        if leaves {
            self.end_session(key);
            self.receiver_ended(key);
        }
        if let Some(timer) = timer {
            self.wheel.set(key.index(), self.now + timer);
        }
        if flush {
            self.flush_later(key);
        }
        if let Some(how) = close {
            if self.conns.get(key).is_some_and(|slot| slot.conn.state() == State::Closed) {
                self.wheel.cancel(key.index());
            }
            self.closing.push_back((key, how));
        }
        if leaves {
            self.offer_later(key);
        }
    }

    /// Ends the session of a connection, if it has one: it leaves its rooms.
    pub(super) fn end_session(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        let Some(session) = slot.session.take() else { return };
        let mut effects = Effects::default();
        let mut authenticates = false;
        if let Some(ending) = self.sessions.get_mut(session) {
            if ending.is_authenticating() {
                authenticates = true;
            }
            ending.ended(&mut effects);
            slot.details.get_or_insert_default().name = Some(Arc::clone(ending.name()));
        }
        if authenticates {
            self.cancel_auth(session);
        }
        self.run_effects(session, Some(key), effects);
        self.refuse_relayed(session);
        self.sessions.remove(session);
    }

    /// Carries out what a session does last.
    pub(super) fn run_effects(&mut self, key: SessionKey, conn: Option<ConnKey>, mut effects: Effects) {
        while let Some(effect) = effects.pop() {
            self.effect(key, conn, &effects, effect);
        }
    }

    /// A session ends its connection.
    fn close_session(&mut self, key: ConnKey, code: CloseCode, reason: &str, why: CloseReason) {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return };
        if !conn.is_open() {
            return;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        // As on a stream: its client reads the reason as it reads everything.
        let mut payload = Vec::new();
        match session.map(|session| session.format().protocol()) {
            Some(Protocol::Push) => json::disconnect_into(&mut payload, code.into(), reason, true),
            Some(Protocol::Quoted) => {
                sockjs::close_into(&mut payload, sockjs::close_code(code.into()), reason);
            }
            Some(Protocol::Text | Protocol::Plain | Protocol::Json) | None => {}
        }
        if !payload.is_empty() {
            conn.send_payload(&payload);
        }
        let change = if why == CloseReason::Shutdown {
            conn.begin_close(code, reason, why, &self.options)
        } else {
            conn.fail(code, reason, why, &self.options)
        };
        self.apply(key, change);
    }

    /// Fails a WebSocket.
    pub(super) fn fail(&mut self, key: ConnKey, code: CloseCode, sentence: &str, reason: CloseReason) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let change = conn.fail(code, sentence, reason, &self.options);
        self.apply(key, change);
    }

    /// Sets a connection's one timer to the next thing that is due for it or its session.
    pub(super) fn rearm(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get(key) else { return };
        let Slot { conn, session, .. } = slot;
        let relay_due = Self::relay_due(slot);
        if !conn.is_open() && conn.state() != State::Waiting {
            return;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        let due = session.map_or(Time::NEVER, Session::due).min(conn.due()).min(relay_due);
        if due == Time::NEVER {
            self.wheel.cancel(key.index());
        } else {
            self.wheel.set_earlier(key.index(), due);
        }
    }
}
