//! Authentication: tokens and what reads them, the auth backend's decisions, and when they expire.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use stentor_testkit as wire;

use super::scenario::{Brings, Endpoint, Fresh, Plan};
use super::session::{Circumstances, PendingCommand, Session, SubStage};
use super::simulation::{Due, Simulation};
use crate::base::{SessionKey, Time};
use crate::chat::{AuthDecision, AuthMode, Authority, Grant, Identity, Overrides, ServerRoom, TokenError};
use crate::session::EXPIRY_GRACE;

/// What a client is closed with that is turned away.
pub(super) const UNWANTED: u16 = 4501;

/// Reads the tokens of a simulation. `user.ends.rooms.ends.quiet` has the user and the server-side rooms, and
/// `user.room.ends.quiet` lets a user into a room; an end is a time of the simulation, or `-`.
#[derive(Debug, Default)]
pub(super) struct SimAuthority {
    /// The time in nanoseconds.
    now: AtomicU64,
}

impl SimAuthority {
    pub(super) fn set_now(&self, now: Time) {
        self.now.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// How long something holds that ends then.
    fn left(&self, ends: &str) -> Result<Option<Duration>, TokenError> {
        if ends == "-" {
            return Ok(None);
        }
        let ends = ends.parse::<u64>().map_err(|_| TokenError::Invalid)?;
        let left = ends.checked_sub(self.now.load(Ordering::Relaxed)).filter(|&left| left > 0);
        left.map(|left| Some(Duration::from_nanos(left))).ok_or(TokenError::Expired)
    }
}

impl Authority for SimAuthority {
    fn identify(&self, token: &str) -> Result<Identity, TokenError> {
        let parts: Vec<_> = token.split('.').collect();
        let &[user, ends, rooms, room_ends, quiet] = &parts[..] else { return Err(TokenError::Invalid) };
        let rooms = rooms.parse().map_err(|_| TokenError::Invalid)?;
        let expires_in = self.left(ends)?;
        let rooms = server_rooms(user, rooms, self.left(room_ends)?, quiet == "q");
        Ok(Identity { user: user.into(), name: user.into(), info: None, expires_in, rooms })
    }

    fn admit(&self, token: &str, user: &str, room: &str) -> Result<Grant, TokenError> {
        let parts: Vec<_> = token.split('.').collect();
        let &[of, to, ends, quiet] = &parts[..] else { return Err(TokenError::Invalid) };
        let expires_in = self.left(ends)?;
        if of != user || to != room {
            return Err(TokenError::Invalid);
        }
        Ok(grant(user, expires_in, quiet == "q"))
    }
}

fn grant(user: &str, expires_in: Option<Duration>, quiet: bool) -> Grant {
    let overrides = Overrides {
        presence: quiet.then_some(false),
        join_leave: quiet.then_some(false),
        ..Overrides::default()
    };
    let info = Some(format!("{{\"seen\":\"{user}\"}}").into());
    Grant { info, data: Some(format!("{{\"user\":\"{user}\"}}").into()), expires_in, overrides }
}

/// The rooms, by the bits, that the server puts a user into.
fn server_rooms(user: &str, rooms: u8, expires_in: Option<Duration>, quiet: bool) -> Vec<ServerRoom> {
    let rooms = (0..8).filter(|room| rooms & 1 << room != 0);
    rooms
        .map(|room| ServerRoom { name: format!("r{room}").into(), grant: grant(user, expires_in, quiet) })
        .collect()
}

fn end(ends: Option<Time>) -> String {
    ends.map_or_else(|| "-".to_owned(), |ends| ends.as_nanos().to_string())
}

impl Plan {
    /// Whether it is a client of the plain protocol, on any transport.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.endpoint, Endpoint::Room(_) | Endpoint::Plain(..))
    }

    fn quiet(&self) -> &'static str {
        if self.quiet { "q" } else { "s" }
    }

    /// The token of a client, and when it ends.
    pub(super) fn token(&self, client: usize, now: Time, brings: Brings) -> (String, Option<Time>) {
        let ends = self.lifetime.map(|lifetime| now + lifetime);
        let rooms = match self.endpoint {
            Endpoint::Room(room) | Endpoint::Plain(room, _) => 1 << room,
            Endpoint::Centrifuge(_) | Endpoint::Echo => self.server_rooms,
        };
        // Plain clients stay in their room until their identity expires.
        let room_ends =
            if self.is_plain() { None } else { self.room_lifetime.map(|lifetime| now + lifetime) };
        let token =
            |user: &str, ends| format!("{user}.{}.{rooms}.{}.{}", end(ends), end(room_ends), self.quiet());
        let user = format!("c{client}");
        match brings {
            Brings::Good => (token(&user, ends), ends),
            Brings::Expired => (token(&user, Some(Time::from_nanos(1))), None),
            Brings::Garbage => ("garbage".to_owned(), None),
            Brings::Nothing => (String::new(), None),
        }
    }

    /// A token that lets a client into a room, and when it ends.
    fn room_token(&self, client: usize, now: Time, room: usize) -> (String, Option<Time>) {
        let ends = self.room_lifetime.map(|lifetime| now + lifetime);
        (format!("c{client}.r{room}.{}.{}", end(ends), self.quiet()), ends)
    }

    /// Whether the server puts a client into this room.
    pub(super) const fn is_put_into(&self, room: usize) -> bool {
        self.server_rooms & 1 << room != 0
    }
}

impl Simulation<'_> {
    /// The client's `connect`: its identity, and its positions in server-side rooms.
    pub(super) fn connect_line(&mut self, session: usize) -> String {
        let now = self.world.now();
        let tokens = self.scenario.tokens;
        let it = &mut self.sessions[session];
        let id = it.ask(now, PendingCommand::Connect);
        let mut line = format!("{{\"id\":{id},\"connect\":{{\"data\":{{\"name\":\"c{}\"}}", it.client);
        if tokens {
            let (token, ends) = it.plan.token(it.client, now, it.plan.brings);
            it.ends = ends;
            let _ = write!(line, ",\"token\":\"{token}\"");
        }
        let there: Vec<_> = it.subs.iter().filter(|sub| it.is_put_into(sub.receiver.room())).collect();
        let positions = there.iter().filter_map(|sub| {
            let (epoch, offset) = sub.receiver.position.as_ref()?;
            let room = sub.receiver.room();
            Some(format!("\"r{room}\":{{\"recover\":true,\"epoch\":\"{epoch}\",\"offset\":{offset}}}"))
        });
        let positions: Vec<_> = positions.collect();
        let _ = write!(line, ",\"subs\":{{{}}}}}}}", positions.join(","));
        for sub in &mut it.subs {
            if it.has_rooms && it.plan.is_put_into(sub.receiver.room()) {
                sub.stage = SubStage::Requested;
                sub.requested_ends = it.plan.room_lifetime.map(|lifetime| now + lifetime);
            }
        }
        line
    }

    /// A client is in, and in the rooms that the server has put it into.
    pub(super) fn connected(&mut self, session: usize, result: &Value) {
        let it = &mut self.sessions[session];
        result["client"].as_str().expect("a client's id").clone_into(&mut it.id);
        assert_eq!(result["expires"] == true, it.ends.is_some(), "{result}");
        let there = result["subs"].as_object().map_or(0, serde_json::Map::len);
        let put: Vec<_> =
            (0..it.subs.len()).filter(|&index| it.is_put_into(it.subs[index].receiver.room())).collect();
        assert_eq!(there, put.len(), "the rooms that the server has put session {session} into: {result}");
        for index in put {
            let room = format!("r{}", self.sessions[session].subs[index].receiver.room());
            self.subscribed(session, index, &result["subs"][room]);
        }
    }

    /// The auth backend decides about a client.
    pub(super) fn decide(&mut self, session: usize, key: SessionKey) {
        let Session { client, plan, pipe, .. } = self.sessions[session];
        let name: Arc<str> = format!("c{client}").into();
        let now = self.world.now();
        let decision = if plan.unwanted {
            AuthDecision::Disconnect { code: UNWANTED, reason: "unwanted".into() }
        } else {
            let user = Arc::clone(&name);
            let rooms = server_rooms(&user, plan.server_rooms, plan.room_lifetime, plan.quiet);
            self.sessions[session].ends = plan.lifetime.map(|lifetime| now + lifetime);
            let put = |sub: &&mut super::session::Sub| plan.is_put_into(sub.receiver.room());
            for sub in self.sessions[session].subs.iter_mut().filter(put) {
                sub.requested_ends = plan.room_lifetime.map(|lifetime| now + lifetime);
            }
            let identity = Identity { user, name, info: None, expires_in: plan.lifetime, rooms };
            AuthDecision::Accept { identity, data: None }
        };
        let shard = self.world.pipe(pipe).shard;
        self.world.decide(shard, key, decision);
        self.stir(shard);
    }

    /// A client brings a fresh token, for itself or for a room that it is in.
    pub(super) fn refresh(&mut self, session: usize, room: bool, fresh: Fresh) {
        let now = self.world.now();
        let it = &mut self.sessions[session];
        if !it.may_publish() || it.id.is_empty() {
            return;
        }
        let index = it.subs.iter().position(|sub| sub.stage == SubStage::In);
        let index = if room { index } else { Some(0) };
        let Some(index) = index else { return };
        let number = it.subs[index].receiver.room();
        let (client, plan) = (it.client, it.plan);
        let (good, ends) =
            if room { plan.room_token(client, now, number) } else { plan.token(client, now, Brings::Good) };
        let other = format!("c{}", client + 1);
        let token = match fresh {
            Fresh::Good => good,
            Fresh::Expired if room => format!("c{client}.r{number}.1.s"),
            Fresh::Expired => format!("c{client}.1.0.-.s"),
            Fresh::Foreign if room => format!("{other}.r{number}.-.s"),
            Fresh::Foreign => format!("{other}.-.0.-.s"),
            Fresh::Empty => String::new(),
        };
        let command = if room {
            PendingCommand::RoomRefresh(index, fresh, ends)
        } else {
            PendingCommand::Refresh(fresh, ends)
        };
        let id = it.ask(now, command);
        let line = if room {
            format!("{{\"id\":{id},\"sub_refresh\":{{\"channel\":\"r{number}\",\"token\":\"{token}\"}}}}")
        } else {
            format!("{{\"id\":{id},\"refresh\":{{\"token\":\"{token}\"}}}}")
        };
        if self.scenario.tokens && (fresh == Fresh::Foreign || fresh == Fresh::Expired && !room) {
            (it.uses_foreign_token, it.is_stale) = (true, fresh == Fresh::Expired);
        }
        self.send(session, &wire::frame(0x81, line.as_bytes()));
    }

    /// The answer to a fresh token.
    pub(super) fn refreshed(
        &mut self,
        session: usize,
        command: PendingCommand,
        waited: Duration,
        reply: &Value,
    ) {
        let (index, fresh, ends) = match command {
            PendingCommand::Refresh(fresh, ends) => (None, fresh, ends),
            PendingCommand::RoomRefresh(index, fresh, ends) => (Some(index), fresh, ends),
            PendingCommand::Connect
            | PendingCommand::Publish(_)
            | PendingCommand::Subscribe(_)
            | PendingCommand::SubscribeAnew(_)
            | PendingCommand::Unsubscribe(_)
            | PendingCommand::Look(..) => panic!("{command:?} brings no token"),
        };
        let it = &mut self.sessions[session];
        match (reply["error"]["code"].as_u64(), fresh) {
            (Some(107), Fresh::Empty) => {}
            (Some(108), _) => assert!(!self.scenario.tokens, "{reply}"),
            (Some(103), _) => assert!(index.is_some(), "{reply}"),
            (Some(109), Fresh::Expired) => {
                assert!(index.is_some() && reply["error"]["temporary"] == true, "{reply}");
            }
            // It has expired in flight.
            (Some(109), Fresh::Good) => {
                let mut lifetimes = [it.plan.lifetime, it.plan.room_lifetime].into_iter().flatten();
                assert!(lifetimes.any(|lifetime| waited >= lifetime), "{reply}");
            }
            (None, Fresh::Good) => {
                let result = &reply[if index.is_some() { "sub_refresh" } else { "refresh" }];
                assert_eq!(result["expires"] == true, ends.is_some(), "{reply}");
                match index {
                    Some(index) => it.subs[index].ends = ends,
                    None => it.ends = ends,
                }
            }
            _ => panic!("session {session} brought {command:?}: {reply}"),
        }
    }

    /// A subscription has ended by itself: the client subscribes again with a fresh token.
    pub(super) fn expired(&self, session: usize, index: usize) {
        let now = self.world.now();
        let it = &self.sessions[session];
        let ends = it.subs[index].ends.filter(|_| !it.batched).map_or(Time::ZERO, |ends| ends + EXPIRY_GRACE);
        assert!(now >= ends, "the subscription of session {session} expires before its time");
    }

    /// It is sent after `after` that a session subscribes to a room.
    pub(super) fn subscribe_later(&mut self, session: usize, index: usize, after: Duration) {
        if self.sessions[session].may_publish() {
            let line = self.sessions[session].subscribe(self.world.now(), index);
            self.later(after, Due::Send(session, wire::frame(0x81, line.as_bytes())));
        }
    }
}

impl Session {
    /// Whether the server puts it into this room.
    pub(super) const fn is_put_into(&self, room: usize) -> bool {
        self.has_rooms && self.plan.is_put_into(room)
    }

    /// The member of a command that lets it into a room.
    pub(super) fn room_token(&mut self, now: Time, index: usize) -> String {
        if !self.brings_tokens {
            return String::new();
        }
        let (token, ends) = self.plan.room_token(self.client, now, self.subs[index].receiver.room());
        self.subs[index].requested_ends = ends;
        format!(",\"token\":\"{token}\"")
    }

    /// Whether its identity may have expired.
    pub(super) fn may_be_expired(&self, at: Time) -> bool {
        let grace =
            if matches!(self.plan.endpoint, Endpoint::Centrifuge(_)) { EXPIRY_GRACE } else { Duration::ZERO };
        self.ends.is_some_and(|ends| at >= ends + grace)
    }

    /// Whether its server-side subscription may have expired.
    pub(super) fn may_be_put_out(&self, at: Time) -> bool {
        let ended = |ends: Option<Time>| ends.is_some_and(|ends| at >= ends + EXPIRY_GRACE);
        self.subs.iter().any(|sub| {
            self.is_put_into(sub.receiver.room()) && (ended(sub.ends) || ended(sub.requested_ends))
        })
    }

    /// Nothing moves any more: what has expired is over, with some patience for what took time to begin.
    /// Clocks jump, and what that brings takes time.
    pub(super) fn check_expiry(&self, at: Time, changed: Time, patience: Duration) {
        let late = |ends: Option<Time>, grace| {
            ends.is_some_and(|ends: Time| at > ends.max(changed) + patience && at > ends + grace + patience)
        };
        let is_json = matches!(self.plan.endpoint, Endpoint::Centrifuge(_));
        let grace = if is_json { EXPIRY_GRACE } else { Duration::ZERO };
        assert!(!late(self.ends, grace), "client {} has expired, and is kept", self.client);
        let of_room = self.subs.iter().filter(|sub| is_json && sub.stage == SubStage::In);
        for sub in of_room {
            let joined_late = Duration::from_secs(10);
            let ended = !self.batched && late(sub.ends, EXPIRY_GRACE + joined_late);
            assert!(!ended, "client {} has a subscription that has expired, and is kept", self.client);
        }
    }

    /// Whether it has sent an expired refresh token, or one is in flight.
    pub(super) fn brought_old(&self, at: Time) -> bool {
        let is_old = |ends: Option<Time>, command: Time| {
            let with_rooms = self.plan.room_lifetime.is_some_and(|lifetime| at >= command + lifetime);
            with_rooms || ends.is_some_and(|ends| at >= ends)
        };
        let mut command = self.pending_commands.iter();
        self.is_stale
            || command
                .any(|&(_, it, since)| matches!(it, PendingCommand::Refresh(_, ends) if is_old(ends, since)))
    }

    /// Whether something that it brings may have been too old when it came.
    pub(super) fn may_be_too_old(&self, at: Time) -> bool {
        let over = |ends: Option<Time>| ends.is_some_and(|ends| at >= ends);
        self.brings_tokens && (over(self.ends) || self.subs.iter().any(|sub| over(sub.requested_ends)))
    }
}

impl Circumstances {
    /// Whether the auth backend decides about clients.
    pub(super) fn uses_hook(&self) -> bool {
        self.options.auth_mode == AuthMode::Hook
    }
}
