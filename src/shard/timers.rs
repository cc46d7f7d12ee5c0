//! What is due: time-outs, pings, expiries, the drain; and how streams end.

use super::{Shard, Slot};
use crate::base::{ConnKey, Time};
use crate::conn::{CloseMethod, Ending, State};
use crate::http::Reject;
use crate::metrics::CloseReason;
use crate::session::jittered;

/// Closes that a drain begins in one turn, so that the rooms that still talk are not held up.
const DRAINS_PER_TURN: usize = 256;

impl Shard {
    /// The peer has ended its stream. What it has sent before is used first.
    pub fn ended(&mut self, key: ConnKey) {
        let now = self.now;
        let Some(slot) = self.conns.get_mut(key) else { return };
        // A client may end its side after a request and still read the answer.
        if slot.conn.state() == State::Head && Self::awaits_answers(slot) {
            return slot.conn.end_later();
        }
        let change = slot.conn.ended(now, &self.options);
        self.apply(key, change);
    }

    /// The socket failed.
    pub fn broken(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let change = conn.close(CloseMethod::Now, CloseReason::Disconnected);
        self.apply(key, change);
    }

    /// Handles expired timers.
    pub(super) fn expire(&mut self) {
        while let Some(index) = self.wheel.poll_expired(self.now) {
            if let Some(key) = self.conns.key_at(index) {
                self.timed_out(key);
            }
        }
        self.expire_outlets();
    }

    fn timed_out(&mut self, key: ConnKey) {
        let date = self.date();
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.over_limit && conn.state() == State::Head {
            return self.reject(key, self.surplus_refusal(), None, false);
        }
        let is_reading_body = conn.state() == State::Body;
        if is_reading_body {
            self.give_up_answers(key, Time::NEVER); // they come before the answer to this one
        }
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state() == State::Head && self.posts_timed_out(key) {
            return;
        }
        if self.relay_timed_out(key) {
            return;
        }
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if let Some(change) = conn.timed_out(self.now, date, &self.options) {
            let is_http = matches!(conn.state(), State::Finishing(_)) && conn.endpoint().is_none();
            if is_http {
                let reject = if is_reading_body { Reject::BodyTimeout } else { Reject::HeadTimeout };
                self.note_refusal(key, None, reject);
            }
            return self.apply(key, change);
        }
        let next = jittered(&mut self.rng, self.options.ping_interval);
        let change = conn.tick(self.now, next, &self.options);
        self.apply(key, change);
        let last_received = self.conns.get(key).map_or(Time::ZERO, |slot| slot.conn.last_received());
        self.with_session(key, |session, ctx| session.tick(ctx, last_received));
        self.rearm(key);
    }

    /// Another ping interval holds from now on for this connection.
    pub(super) fn renew_pings(&mut self, key: ConnKey) {
        let interval = self.options.ping_interval;
        let first = self.now + jittered(&mut self.rng, interval);
        let Some(slot) = self.conns.get_mut(key) else { return };
        if !slot.conn.is_open() {
            return;
        }
        let session = slot.session.and_then(|session| self.sessions.get(session));
        if session.is_none_or(crate::session::Session::is_pinged_by_connection) {
            if interval.is_zero() { slot.conn.stop_pings() } else { slot.conn.set_ping(first) }
        }
        self.rearm(key);
    }

    pub(super) fn drain_some(&mut self) {
        let Some(first) = self.draining else { return };
        if first == 0 {
            self.drain_outlets();
        }
        let next = self.conns.slots().min(first + DRAINS_PER_TURN);
        for index in first..next {
            let Some(key) = self.conns.key_at(index) else { continue };
            let Some(slot) = self.conns.get_mut(key) else { continue };
            let awaits_answers = Self::awaits_answers(slot);
            let Slot { conn, session, .. } = slot;
            if conn.over_limit {
                continue; // it ends with its answer
            }
            match conn.state() {
                State::Open | State::Waiting if session.is_some() => {
                    self.with_session(key, |session, ctx| session.shutdown(ctx.effects));
                }
                // Messages that are in flight are answered first, and the connection ends with that.
                State::Head if awaits_answers => {}
                State::Open if conn.stream().is_some() => {
                    let change = conn.end_stream(b"", CloseReason::Shutdown, &self.options);
                    self.apply(key, change);
                }
                State::Waiting => {
                    self.refuse_waiting(key, Reject::ShuttingDown);
                }
                State::Open => {
                    let (code, sentence) = (crate::ws::CloseCode::Away, "server is going away");
                    let change = conn.begin_close(code, sentence, CloseReason::Shutdown, &self.options);
                    self.apply(key, change);
                }
                State::Head | State::Body => {
                    let change = conn.finish(Ending::AtOnce, CloseReason::Shutdown, &self.options);
                    self.apply(key, change);
                }
                State::Closing | State::Finishing(_) | State::Lingering | State::Closed => {}
            }
        }
        self.draining = Some(next);
    }
}
