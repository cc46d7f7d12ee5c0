//! What clients of the JSON protocol ask for, and what becomes of it. A command that cannot be obeyed gets its error, and nothing
//! else happens; one that is none ends the connection.

use serde_json::value::RawValue;
use std::sync::Arc;

use super::client::Arriving;
use super::fanout::Backlog;
use super::mesh::{Answer, Ask, Question, ShardSet, Up};
use super::rooms::RoomId;
use super::session::{Connecting, EXPIRY_GRACE, Phase};
use super::{Counting, Shard, Slot};
use crate::app::json::command::{self, Connect, Delivery, Introduction, Publish, Rpc, SubRefresh, Subscribe};
use crate::app::json::{self, Command, Disconnect, ErrorCode, Method, Refusal, Unsubscribe, Welcome};
use crate::base::{ConnKey, Time};
use crate::chat::{
    self, Body, Draft, Grant, Identification, Identity, Member, Past, Person, RateDecision, RateLimit,
    RoomOptions, TokenError, Verdict, Wanted, Who,
};
use crate::conn::State;
use crate::metrics::CloseReason;

/// A result of a command's that is there at once; `None`: the answer comes later, or there is none.
type Outcome = Result<Option<(&'static str, Vec<u8>)>, Refusal>;

impl Shard {
    /// A frame of commands. False when the connection takes nothing more.
    pub(super) fn commands(&mut self, key: ConnKey, frame: &str) -> bool {
        for line in command::lines(frame) {
            if self.must_hold(key) {
                if let Some(client) = self.client_mut(key) {
                    client.hold(line.as_bytes());
                }
                self.pause(key);
                continue;
            }
            self.command(key, line);
            if !self.is_open(key) {
                return false;
            }
        }
        true
    }

    fn command(&mut self, key: ConnKey, line: &str) {
        let Ok(Command { id, method }) = command::parse(line) else {
            return self.disconnect(key, Disconnect::BadRequest);
        };
        let Some(session) = self.session_mut(key) else { return };
        match (&session.phase, &method) {
            (Phase::New, Method::Connect(_)) => {}
            (Phase::Open, _) if !matches!(method, Method::Connect(_)) => {}
            // Nothing comes before `connect`, no second one, and nothing after one that was refused.
            _ => return self.disconnect(key, Disconnect::BadRequest),
        }
        match self.obey(key, id, method) {
            Ok(Some((method, result))) => self.tell(key, |out| json::reply_into(out, id, method, &result)),
            Ok(None) => {}
            Err(Refusal::Error(code)) => self.tell(key, |out| json::error_into(out, id, code)),
            Err(Refusal::Disconnect(disconnect)) => self.disconnect(key, disconnect),
        }
    }

    fn obey(&mut self, key: ConnKey, id: u32, method: Method<'_>) -> Outcome {
        method.check()?;
        match method {
            Method::Connect(connect) => self.connect(key, id, &connect),
            Method::Subscribe(subscribe) => self.subscribe(key, id, &subscribe),
            Method::Unsubscribe(room) => {
                check_channel(&room.channel)?;
                if let Some((_, index)) = self.membership(key, &room.channel) {
                    self.part(key, index);
                }
                Ok(Some(("unsubscribe", b"{}".to_vec())))
            }
            Method::Publish(publish) => self.publish_data(key, id, &publish),
            Method::Presence(room) => self.ask(key, id, &room.channel, Question::Presence),
            Method::PresenceStats(room) => self.ask(key, id, &room.channel, Question::PresenceStats),
            Method::History(history) => {
                let page = history.page()?;
                self.ask(key, id, &history.channel, Question::History(page))
            }
            Method::Rpc(rpc) => self.call(key, id, &rpc),
            Method::Send => Err(Disconnect::NotAvailable.into()),
            Method::Refresh(refresh) => self.refresh(key, &refresh.token),
            Method::SubRefresh(refresh) => self.refresh_membership(key, &refresh),
            Method::Ping => Err(ErrorCode::NotAvailable.into()),
            Method::Pong if self.pong(key) => Ok(None),
            Method::Pong => Err(Disconnect::BadRequest.into()),
        }
    }

    /// Lets somebody in, or has somebody asked who it is.
    fn connect(&mut self, key: ConnKey, id: u32, connect: &Connect<'_>) -> Outcome {
        let positions = connect
            .subs
            .iter()
            .map(|(room, recovery)| (Box::from(&**room), recovery.wanted(), recovery.offset));
        let connecting = Connecting { command: id, positions: positions.collect(), ..Connecting::default() };
        let refused = |code| Err(Refusal::Error(code));
        let identity = match &self.options.identification {
            Identification::Open => {
                let name = Introduction::read(connect.data).name;
                let name = name.as_deref().map(|name| chat::display_name(name, self.options.name_bytes_max));
                match name.transpose() {
                    Ok(name) => self.open_identity(key, name.as_deref()),
                    Err(_) => {
                        self.set_phase(key, Phase::Refused);
                        return refused(ErrorCode::BadRequest);
                    }
                }
            }
            Identification::Token(_) if connect.token.is_empty() && self.options.anonymous => {
                self.open_identity(key, None)
            }
            Identification::Token(_) if connect.token.is_empty() => return Err(Disconnect::BadRequest.into()),
            Identification::Token(authority) => match authority.identify(&connect.token) {
                Ok(identity) if identity.user.is_empty() && !self.options.anonymous => {
                    return Err(Disconnect::PermissionDenied.into());
                }
                Ok(identity) => identity,
                Err(TokenError::Expired) => {
                    self.set_phase(key, Phase::Refused);
                    return refused(ErrorCode::TokenExpired);
                }
                Err(TokenError::Invalid) => return Err(Disconnect::InvalidToken.into()),
            },
            Identification::Asked => {
                self.set_phase(key, Phase::Asked(connecting));
                let name = Introduction::read(connect.data).name;
                let token = (!connect.token.is_empty()).then_some(&*connect.token);
                self.question(key, "json", name.as_deref(), token, connect.data.map(RawValue::get));
                return Ok(None);
            }
        };
        self.enter(key, identity, connecting);
        Ok(None)
    }

    /// It is known who somebody is: the rooms that come with that are entered, and then `connect` is answered.
    fn enter(&mut self, key: ConnKey, identity: Identity, mut connecting: Connecting) {
        if !self.count_user(key, &identity.user) {
            return self.disconnect(key, Disconnect::ConnectionLimit);
        }
        let Identity { user, name, info, expires_in, rooms } = identity;
        let expires = expires_in.map_or(Time::NEVER, |time| self.now + time + EXPIRY_GRACE);
        let Some(client) = self.client_mut(key) else { return };
        client.person = Arc::new(Person { client: client.person.client, user, name, info });
        client.expires = expires;
        let rooms: Vec<_> = rooms.into_iter().take(self.options.rooms_per_client_max).collect();
        connecting.missing = rooms.len();
        let positions = std::mem::take(&mut connecting.positions);
        self.set_phase(key, Phase::Entering(connecting));
        for room in rooms {
            let position = positions.iter().find(|(name, ..)| **name == *room);
            let (wanted, asked) =
                position.map_or((Wanted::Nothing, None), |(_, wanted, offset)| (*wanted, Some(*offset)));
            let arriving = Arriving { asked, by_server: true, granted: true, ..Arriving::default() };
            self.join(key, &room, Grant::default(), wanted, arriving);
        }
        self.welcome_if_complete(key, expires_in);
    }

    /// Answers `connect` once no room is missing.
    fn welcome_if_complete(&mut self, key: ConnKey, expires_in: Option<std::time::Duration>) {
        let interval = self.options.ping_interval;
        let Some(client) = self.client_mut(key) else { return };
        let Some(session) = &mut client.session else { return };
        if !matches!(&session.phase, Phase::Entering(connecting) if connecting.missing == 0) {
            return;
        }
        let Phase::Entering(connecting) = std::mem::replace(&mut session.phase, Phase::Open) else { return };
        let ping = if session.frame_pings { std::time::Duration::ZERO } else { interval };
        let welcome = Welcome {
            client: client.person.client,
            ping,
            expires_in,
            data: connecting.data.as_deref(),
            subs: &connecting.subs,
        };
        let result = json::connected(&welcome);
        self.tell(key, |out| json::reply_into(out, connecting.command, "connect", &result));
        self.begin_pings(key);
    }

    /// What somebody outside says of a client that asked to be let in with `connect`.
    pub(super) fn verdict_of_connect(&mut self, key: ConnKey, verdict: Verdict) {
        let Some(session) = self.session_mut(key) else { return };
        if !matches!(session.phase, Phase::Asked(_)) {
            return;
        }
        let Phase::Asked(connecting) = std::mem::replace(&mut session.phase, Phase::Refused) else { return };
        match verdict {
            Verdict::Welcome { identity, data } => {
                self.enter(key, identity, Connecting { data, ..connecting });
            }
            Verdict::Refused { code, message, temporary } => self.tell(key, |out| {
                json::other_error_into(out, connecting.command, code, &message, temporary);
            }),
            Verdict::Disconnect { code, reason } => {
                self.fail(key, code.into(), &reason, CloseReason::Denied);
            }
        }
    }

    fn subscribe(&mut self, key: ConnKey, id: u32, subscribe: &Subscribe<'_>) -> Outcome {
        let name = &*subscribe.channel;
        check_channel(name)?;
        if subscribe.kind > 0 {
            return Err(ErrorCode::NotAvailable.into());
        }
        if subscribe.tf.is_some() || chat::check_room(name, self.options.room_bytes_max).is_err() {
            return Err(ErrorCode::BadRequest.into());
        }
        if self.membership(key, name).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        let options = Arc::clone(self.options.rooms.of(name));
        let Some(client) = self.client_mut(key) else { return Ok(None) };
        let (count, person) = (client.memberships.len(), Arc::clone(&client.person));
        if count >= self.options.rooms_per_client_max {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let grant = self.grant(&options, &person.user, name, &subscribe.token)?;
        let wanted = subscribe.wanted();
        let arriving = Arriving {
            command: id,
            asked: Some(subscribe.offset),
            or_nothing: subscribe.or_nothing(),
            granted: grant.is_some(),
            by_server: false,
            expires_in: grant.as_ref().and_then(|grant| grant.expires_in),
        };
        self.join(key, name, grant.unwrap_or_default(), wanted, arriving);
        Ok(None)
    }

    /// What lets a client into a room: a token's grant, or the room's being open to it.
    pub(super) fn grant(
        &self,
        options: &RoomOptions,
        user: &str,
        room: &str,
        token: &str,
    ) -> Result<Option<Grant>, ErrorCode> {
        if let Identification::Token(authority) = &self.options.identification
            && !token.is_empty()
        {
            return match authority.admit(token, user, room) {
                Ok(grant) => Ok(Some(grant)),
                Err(TokenError::Expired) => Err(ErrorCode::TokenExpired),
                Err(TokenError::Invalid) => Err(ErrorCode::PermissionDenied),
            };
        }
        let open = match options.subscribe {
            Who::Anyone | Who::Members => true,
            Who::Users => !user.is_empty(),
            Who::Token | Who::Nobody => false,
        };
        if open { Ok(None) } else { Err(ErrorCode::PermissionDenied) }
    }

    /// A client has come into a room that it subscribed to, or that the server has put it into.
    pub(super) fn arrived_json(&mut self, key: ConnKey, id: RoomId, past: &Past, arriving: &Arriving) {
        let room = &self.rooms[id];
        let positioned = room.options.history_count_max > 0;
        let result = json::subscribed(past, positioned, arriving.asked, arriving.expires_in);
        let name = Arc::clone(&room.name);
        let now = self.now;
        if arriving.by_server {
            let Some(client) = self.client_mut(key) else { return };
            let expires = client.expires;
            let Some(session) = &mut client.session else { return };
            if let Phase::Entering(connecting) = &mut session.phase {
                json::named_into(&mut connecting.subs, &name, &result);
                connecting.missing -= 1;
            }
            let left = (expires != Time::NEVER).then(|| expires.since(now).saturating_sub(EXPIRY_GRACE));
            return self.welcome_if_complete(key, left);
        }
        if arriving.or_nothing && past.recovered == Some(false) {
            if let Some((_, index)) = self.membership(key, &name) {
                self.part(key, index);
            }
            let code = ErrorCode::UnrecoverablePosition;
            return self.tell(key, |out| json::error_into(out, arriving.command, code));
        }
        self.tell(key, |out| json::reply_into(out, arriving.command, "subscribe", &result));
        let number = self
            .membership(key, &name)
            .and_then(|(_, index)| Some(self.client_mut(key)?.memberships[index].number));
        if let (Some(number), Some(_)) = (number, arriving.expires_in) {
            self.expire_membership(key, number, arriving.expires_in);
        }
    }

    /// Takes a client out of a room without its asking, and tells it why.
    pub(super) fn unsubscribe(&mut self, key: ConnKey, index: usize, why: Unsubscribe) {
        let Some(client) = self.client_mut(key) else { return };
        let id = client.memberships[index].room;
        let name = Arc::clone(&self.rooms[id].name);
        self.part(key, index);
        self.tell(key, |out| json::unsubscribe_into(out, &name, why));
    }

    fn publish_data(&mut self, key: ConnKey, id: u32, publish: &Publish<'_>) -> Outcome {
        check_channel(&publish.channel)?;
        if publish.kind > 0 || publish.removed || !publish.key.is_empty() {
            return Err(ErrorCode::NotAvailable.into());
        }
        let Some(data) = publish.data else { return Err(ErrorCode::BadRequest.into()) };
        let name = &*publish.channel;
        if chat::check_room(name, self.options.room_bytes_max).is_err() {
            return Err(ErrorCode::BadRequest.into());
        }
        let options = Arc::clone(self.options.rooms.of(name));
        let membership = self.membership(key, name);
        let now = self.now;
        let Some(client) = self.client_mut(key) else { return Ok(None) };
        let granted = membership.is_some_and(|(_, index)| client.memberships[index].granted);
        if !may_publish(&options, &client.person, membership.is_some(), granted) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        match client.rate.check(now, RateLimit::of(options.messages_per_second_max)) {
            RateDecision::Allow => {}
            RateDecision::Throttle => return Err(ErrorCode::TooManyRequests.into()),
            RateDecision::Disconnect => return Err(Disconnect::TooManyRequests.into()),
        }
        let author = Member { person: Arc::clone(&client.person), info: None };
        let data = json::compact(data.get());
        if data.len() > options.message_bytes_max {
            return Err(ErrorCode::LimitExceeded.into());
        }
        self.metrics.messages_in.add(1);
        let draft = Draft { author, body: Body::Data(data.into()) };
        let room = self.room(name);
        self.expect_answer(key);
        let (room_name, ask) = (Arc::clone(&self.rooms[room].name), Ask { conn: key, number: id });
        self.tell_home(room, Up::Say { room: room_name, draft, ask: Some(ask) });
        if self.rooms.find(name).is_some() {
            self.forget_if_deserted(room);
        }
        Ok(None)
    }

    /// Asks a room's home something, for a client that is in the room.
    fn ask(&mut self, key: ConnKey, id: u32, channel: &str, question: Question) -> Outcome {
        check_channel(channel)?;
        let Some((room, _)) = self.membership(key, channel) else {
            return Err(ErrorCode::PermissionDenied.into());
        };
        self.expect_answer(key);
        let name = Arc::clone(&self.rooms[room].name);
        self.tell_home(room, Up::Ask { room: name, question, ask: Ask { conn: key, number: id } });
        Ok(None)
    }

    /// The answer to a command of some client's.
    pub(super) fn answered(&mut self, ask: Ask, answer: &Answer) {
        let Some(session) = self.session_mut(ask.conn) else { return };
        session.answers_under_way = session.answers_under_way.saturating_sub(1);
        self.tell(ask.conn, |out| match &answer.result {
            Ok(result) => json::reply_into(out, ask.number, answer.method, result),
            Err(code) => json::error_into(out, ask.number, *code),
        });
    }

    /// How far a publication has come is the one thing that can be called. Every shard is asked.
    fn call(&mut self, key: ConnKey, id: u32, rpc: &Rpc<'_>) -> Outcome {
        let Delivery { channel, offset } = rpc.delivery()?;
        if self.membership(key, &channel).is_none() {
            return Err(ErrorCode::PermissionDenied.into());
        }
        self.expect_answer(key);
        let ask = Ask { conn: key, number: id };
        let shards = self.mesh.shards();
        self.countings.push(Counting { ask, missing: shards, sum: Backlog::default() });
        let room: Arc<str> = Arc::from(&*channel);
        let others = ShardSet::others(self.mesh.me(), shards);
        for shard in (0..shards).filter(|&shard| others.contains(shard)) {
            self.mesh.send_up(shard, Up::Count { room: Arc::clone(&room), offset, ask });
        }
        let here = self.backlog(&room, offset);
        self.counted(ask, here);
        Ok(None)
    }

    /// One shard's count; the last one completes the answer.
    pub(super) fn counted(&mut self, ask: Ask, backlog: Backlog) {
        let Some(index) = self.countings.iter().position(|counting| counting.ask == ask) else { return };
        let Counting { sum, missing, .. } = &mut self.countings[index];
        sum.members += backlog.members;
        sum.unsent += backlog.unsent;
        sum.lagging += backlog.lagging;
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let Backlog { members, unsent, lagging } = self.countings.swap_remove(index).sum;
        let sent = members - unsent;
        let result = format!("{{\"data\":{{\"members\":{members},\"sent\":{sent},\"lagging\":{lagging}}}}}");
        self.answered(ask, &Answer { method: "rpc", result: Ok(result.into()) });
    }

    /// How far a publication has come among the members on this shard.
    pub(super) fn backlog(&self, room: &str, offset: u64) -> Backlog {
        let Some(id) = self.rooms.find(room) else { return Backlog::default() };
        let here = self.rooms[id].attended().map(|(_, audience)| self.fanout.backlog(audience, offset));
        here.fold(Backlog::default(), |sum, one| Backlog {
            members: sum.members + one.members,
            unsent: sum.unsent + one.unsent,
            lagging: sum.lagging + one.lagging,
        })
    }

    fn refresh(&mut self, key: ConnKey, token: &str) -> Outcome {
        let Identification::Token(authority) = &self.options.identification else {
            return Err(ErrorCode::NotAvailable.into());
        };
        let identity = match authority.identify(token) {
            Ok(identity) => identity,
            Err(TokenError::Expired) => return Err(Disconnect::Expired.into()),
            Err(TokenError::Invalid) => return Err(Disconnect::InvalidToken.into()),
        };
        let now = self.now;
        let Some(client) = self.client_mut(key) else { return Ok(None) };
        if identity.user != client.person.user {
            return Err(Disconnect::InvalidToken.into());
        }
        client.expires = identity.expires_in.map_or(Time::NEVER, |time| now + time + EXPIRY_GRACE);
        self.rearm(key);
        Ok(Some(("refresh", json::refreshed(identity.expires_in))))
    }

    fn refresh_membership(&mut self, key: ConnKey, refresh: &SubRefresh<'_>) -> Outcome {
        check_channel(&refresh.channel)?;
        let Some((_, index)) = self.membership(key, &refresh.channel) else {
            return Err(ErrorCode::PermissionDenied.into());
        };
        let Some(client) = self.client_mut(key) else { return Ok(None) };
        let (number, person) = (client.memberships[index].number, Arc::clone(&client.person));
        let Identification::Token(authority) = &self.options.identification else {
            return Err(ErrorCode::NotAvailable.into());
        };
        match authority.admit(&refresh.token, &person.user, &refresh.channel) {
            Ok(grant) => {
                self.expire_membership(key, number, grant.expires_in);
                Ok(Some(("sub_refresh", json::refreshed(grant.expires_in))))
            }
            Err(TokenError::Expired) => Err(ErrorCode::RefreshTokenExpired.into()),
            Err(TokenError::Invalid) => Err(Disconnect::InvalidToken.into()),
        }
    }

    /// The room of that name and the client's membership in it, if it is in it.
    fn membership(&self, key: ConnKey, room: &str) -> Option<(RoomId, usize)> {
        let id = self.rooms.find(room)?;
        let index = self.conns.get(key)?.client.as_ref()?.membership_in(id)?;
        Some((id, index))
    }

    fn expect_answer(&mut self, key: ConnKey) {
        if let Some(session) = self.session_mut(key) {
            session.answers_under_way += 1;
        }
    }

    fn set_phase(&mut self, key: ConnKey, phase: Phase) {
        if let Some(session) = self.session_mut(key) {
            session.phase = phase;
        }
    }

    /// Says something to one connection alone.
    pub(super) fn tell(&mut self, key: ConnKey, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state == State::Open {
            write(conn.outbox.bytes());
            self.flush_later(key);
        }
    }
}

/// An empty name of a room is not even a mistake: no client of the protocol sends one.
const fn check_channel(channel: &str) -> Result<(), Refusal> {
    if channel.is_empty() { Err(Refusal::Disconnect(Disconnect::BadRequest)) } else { Ok(()) }
}

/// Whether somebody may speak in a room.
pub(super) fn may_publish(options: &RoomOptions, person: &Person, is_member: bool, granted: bool) -> bool {
    match options.publish {
        Who::Anyone => true,
        Who::Members => is_member,
        Who::Users => !person.user.is_empty(),
        Who::Token => is_member && granted,
        Who::Nobody => false,
    }
}
