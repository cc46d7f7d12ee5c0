//! The state of a client of the JSON protocol, and its clock: pings, pongs and what expires.

use std::time::Duration;

use super::{Shard, Slot, jittered};
use crate::app::json::{self, Disconnect, Unsubscribe};
use crate::base::{ConnKey, Time};
use crate::chat::Wanted;
use crate::ws;

/// How long after its expiry an identity or a subscription may still be refreshed.
pub(super) const EXPIRY_GRACE: Duration = Duration::from_secs(25);

/// Answers of other shards that a client may wait for at a time; what it asks beyond waits with it.
const ANSWERS_UNDER_WAY_MAX: u16 = 16;

/// Where a client of the JSON protocol is.
#[derive(Debug)]
pub(super) enum Phase {
    /// It has not said `connect` yet.
    New,
    /// Somebody outside is asked who it is.
    Asked(Connecting),
    /// The rooms that the server puts it into are being entered.
    Entering(Connecting),
    /// It is in.
    Open,
    /// It was refused, and has nothing more to say.
    Refused,
}

/// A `connect` that has not been answered.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    /// The command.
    pub(super) command: u32,
    /// Where it stopped in rooms that the server may put it into again.
    pub(super) positions: Vec<(Box<str>, Wanted, u64)>,
    /// What somebody outside has to tell it: JSON.
    pub(super) data: Option<Box<[u8]>>,
    /// Rooms that are still being entered.
    pub(super) missing: usize,
    /// What is to be said of those that have been: JSON members.
    pub(super) subs: Vec<u8>,
}

/// The state of a client of the JSON protocol.
#[derive(Debug)]
pub(super) struct Session {
    /// Where it is.
    pub(super) phase: Phase,
    /// Commands that other shards have not answered yet.
    pub(super) answers_under_way: u16,
    /// Pings are those of RFC 6455, for tools that show them.
    pub(super) frame_pings: bool,
    /// When the next ping is due, or until when it must have said `connect`.
    pub(super) ping_at: Time,
    /// Until when the last ping must be answered.
    pub(super) pong_by: Time,
    /// Memberships that expire, by their numbers, and when.
    pub(super) expiring: Vec<(u32, Time)>,
}

impl Session {
    /// Nobody, who has until `deadline` to say who it is.
    pub(super) const fn new(deadline: Time, frame_pings: bool) -> Self {
        Self {
            phase: Phase::New,
            answers_under_way: 0,
            frame_pings,
            ping_at: deadline,
            pong_by: Time::NEVER,
            expiring: Vec::new(),
        }
    }

    /// Whether its next command must wait.
    pub(super) const fn must_wait(&self) -> bool {
        matches!(self.phase, Phase::Asked(_) | Phase::Entering(_))
            || self.answers_under_way >= ANSWERS_UNDER_WAY_MAX
    }

    /// The next moment at which something is to be done.
    fn next_deadline(&self) -> Time {
        let expiry = self.expiring.iter().map(|&(_, at)| at).min().unwrap_or(Time::NEVER);
        self.ping_at.min(self.pong_by).min(expiry)
    }
}

impl Shard {
    /// Begins the pings of a client that has just come in.
    pub(super) fn begin_pings(&mut self, key: ConnKey) {
        let interval = self.options.ping_interval;
        let first = self.now + jittered(&mut self.rng, interval);
        let Some(session) = self.session_mut(key) else { return };
        // A ping that is under way already will be answered.
        let first = if session.pong_by == Time::NEVER { first } else { first.max(session.pong_by) };
        session.ping_at = if interval.is_zero() { Time::NEVER } else { first };
        self.rearm(key);
    }

    /// Sets the connection's one timer to the next thing that is due for its session.
    pub(super) fn rearm(&mut self, key: ConnKey) {
        let Some(client) = self.client_mut(key) else { return };
        let Some(session) = &client.session else { return };
        let deadline = session.next_deadline().min(client.expires);
        if deadline == Time::NEVER {
            self.wheel.cancel(key.index());
        } else {
            self.wheel.set(key.index(), deadline);
        }
    }

    /// Does what is due for a session.
    pub(super) fn session_due(&mut self, key: ConnKey) {
        let (now, interval) = (self.now, self.options.ping_interval);
        let pong_timeout = self.options.pong_timeout;
        let Some(Slot { conn, client: Some(client), .. }) = self.conns.get_mut(key) else { return };
        let expires = client.expires;
        let Some(session) = &mut client.session else { return };
        if session.pong_by <= now {
            // Whoever is heard lives: behind a long message on a slow line the pong is still on its way.
            session.pong_by = session.pong_by.max(conn.heard + pong_timeout);
            session.ping_at = session.ping_at.max(session.pong_by);
        }
        let is_in = matches!(session.phase, Phase::Open | Phase::Entering(_));
        let disconnect = if session.pong_by <= now {
            Some(Disconnect::NoPong)
        } else if expires <= now {
            Some(Disconnect::Expired)
        } else if matches!(session.phase, Phase::Asked(_)) && session.ping_at <= now {
            // It waits for us: that it waits in vain must not be final.
            Some(Disconnect::Internal)
        } else if !is_in && session.ping_at <= now {
            Some(Disconnect::Stale)
        } else {
            None
        };
        if let Some(disconnect) = disconnect {
            return self.disconnect(key, disconnect);
        }
        if session.ping_at <= now {
            // One ping at a time: a second one would put off the end of the first one's time, and its pong be one too many.
            session.ping_at = now + interval.max(pong_timeout);
            session.pong_by = now + pong_timeout;
            let frame_pings = session.frame_pings;
            if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                if frame_pings {
                    ws::frame_into(conn.outbox.bytes(), ws::Opcode::Ping, &[]);
                } else {
                    json::frame_into(conn.outbox.bytes(), json::PING);
                }
            }
            self.flush_later(key);
        }
        self.end_expired_memberships(key);
        self.rearm(key);
    }

    /// The answer to a ping has come. False: no ping had asked for it.
    pub(super) fn pong(&mut self, key: ConnKey) -> bool {
        let Some(session) = self.session_mut(key) else { return false };
        let asked = std::mem::replace(&mut session.pong_by, Time::NEVER) != Time::NEVER;
        self.rearm(key);
        asked
    }

    /// The answer to a ping that was a frame has come.
    pub(super) fn frame_pong(&mut self, key: ConnKey) {
        if self.session_mut(key).is_some_and(|session| session.frame_pings) {
            self.pong(key);
        }
    }

    /// Another interval holds from now on.
    pub(super) fn renew_pings(&mut self, key: ConnKey) {
        if self.session_mut(key).is_some_and(|session| matches!(session.phase, Phase::Open)) {
            self.begin_pings(key);
        }
    }

    /// Has a membership end by itself, unless it is refreshed before.
    pub(super) fn expire_membership(&mut self, key: ConnKey, number: u32, expires_in: Option<Duration>) {
        let now = self.now;
        let Some(session) = self.session_mut(key) else { return };
        session.expiring.retain(|&(other, _)| other != number);
        if let Some(expires_in) = expires_in {
            session.expiring.push((number, now + expires_in + EXPIRY_GRACE));
        }
        self.rearm(key);
    }

    fn end_expired_memberships(&mut self, key: ConnKey) {
        let now = self.now;
        loop {
            let Some(client) = self.client_mut(key) else { return };
            let Some(session) = &mut client.session else { return };
            let Some(expired) = session.expiring.iter().position(|&(_, at)| at <= now) else { return };
            let (number, _) = session.expiring.swap_remove(expired);
            let Some(index) = client.memberships.iter().position(|it| it.number == number) else { continue };
            if client.memberships[index].by_server {
                return self.disconnect(key, Disconnect::SubscriptionExpired);
            }
            self.unsubscribe(key, index, Unsubscribe::Expired);
        }
    }

    pub(super) fn session_mut(&mut self, key: ConnKey) -> Option<&mut Session> {
        self.client_mut(key)?.session.as_deref_mut()
    }
}
