//! The life of an outlet: how its session ends, and what is due in the meantime.

use super::outlet::{ABSENCE_MAX, State};
use crate::app::sockjs;
use crate::base::{ConnKey, OutletKey, SessionKey, SubId, Time};
use crate::chat::SlowMember;
use crate::session::{Effects, Session};
use crate::shard::{Shard, Slot};

impl Shard {
    /// A session ends, or never begins: every later request receives the reason.
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
    pub(super) fn end_detached(&mut self, key: SessionKey) {
        let mut effects = Effects::default();
        let mut authenticates = false;
        if let Some(ending) = self.sessions.get_mut(key) {
            authenticates = ending.is_authenticating();
            ending.ended(&mut effects);
        }
        if authenticates {
            self.cancel_auth(key);
        }
        self.run_effects(key, None, effects);
        self.refuse_relayed(key);
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

    pub(super) fn attach_contender(&mut self, key: OutletKey) {
        let Some(outlet) = self.outlets.get_mut(key) else { return };
        if outlet.receiver.is_none()
            && let Some(contender) = outlet.contender.take()
        {
            self.attach(key, contender);
        }
    }

    /// From now on a session is silent, or its client absent.
    pub(super) fn renew_outlet(&mut self, key: OutletKey) {
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

    /// A member that nobody receives for has fallen behind by more than its room's log may hold.
    fn outlet_overdue(&mut self, session: SessionKey, sub: SubId) {
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
    pub(super) fn end_overdue_outlets(&mut self) {
        let bound = self.options.log_bytes_max();
        for key in std::mem::take(&mut self.outlets.overdue) {
            let Some(session) = self.outlets.get(key).and_then(|outlet| outlet.session) else { continue };
            let subs: Vec<SubId> = self.sessions.get(session).into_iter().flat_map(Session::subs).collect();
            for sub in subs {
                if self.fanout.behind(sub) > bound {
                    self.outlet_overdue(session, sub);
                }
            }
        }
    }
}
