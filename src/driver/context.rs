//! The loop's context beside its sockets: the shard, the clock, and the process's control messages.

use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::host::{AcceptProblem, Host};
use crate::base::Time;
use crate::shard::{Admission, Options, Shard};

/// How long accepting pauses when there is no descriptor left, or no room in a table.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the loop has beside its sockets.
#[derive(Debug)]
pub(super) struct LoopContext<H> {
    pub(super) shard: Shard,
    pub(super) host: H,
    /// The beginning of the last turn.
    begun: Time,
    /// The end of the last turn.
    now: Time,
    /// Until when no connection is accepted.
    accept_again: Option<Time>,
    /// That is for want of a place among the surplus connections, and no longer than that.
    waits_for_surplus: bool,
    /// When a drain ends, with or without open connections.
    stop_at: Option<Time>,
    /// Options that are newer than those that the shard began with.
    options: Option<Arc<Options>>,
}

/// What a control message requires of the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ControlAction {
    /// To go on.
    Serve,
    /// To close the listeners; the shard closes the connections.
    CloseListeners,
    /// To end now.
    Stop,
}

/// When the next turn is due even if nothing happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// At once: there is something to do.
    Now,
    /// Then.
    At(Time),
    /// Never.
    Never,
}

impl<H: Host> LoopContext<H> {
    pub(super) fn new(shard: Shard, host: H) -> Self {
        let now = host.now();
        Self {
            shard,
            host,
            begun: now,
            now,
            accept_again: None,
            waits_for_surplus: false,
            stop_at: None,
            options: None,
        }
    }

    /// When the next turn is due, as far as the sockets have nothing to do. Announces to the other shards
    /// that this one sleeps.
    pub(super) fn due(&self) -> Due {
        if self.shard.has_work() || !self.shard.may_sleep() {
            return Due::Now;
        }
        let next = [self.shard.next_deadline(), self.accept_again, self.stop_at].into_iter().flatten().min();
        next.map_or(Due::Never, Due::At)
    }

    /// The time of the end of the last turn.
    pub(super) const fn now(&self) -> Time {
        self.now
    }

    /// The time of the beginning of the last turn.
    pub(super) const fn begun(&self) -> Time {
        self.begun
    }

    /// Begins a turn; returns its time.
    pub(super) fn begin_turn(&mut self) -> Time {
        self.shard.awake();
        self.begun = self.host.now();
        self.shard.begin_turn(self.begun);
        self.shard.set_wall_clock(self.host.unix_ms());
        self.begun
    }

    /// Handles the process's control messages, and returns what is left to the loop.
    pub(super) fn handle_control(&mut self) -> ControlAction {
        let mut action = ControlAction::Serve;
        while let Some(control) = self.host.next_control() {
            match control {
                Control::Reload(options) => {
                    self.options = Some(Arc::clone(&options));
                    self.shard.reconfigure(self.host.now(), options);
                }
                Control::Drain { timeout, close_listeners } => {
                    if close_listeners {
                        action = ControlAction::CloseListeners;
                        self.accept_again = None;
                    }
                    self.stop_at = Some(self.host.now() + timeout);
                    self.shard.drain();
                }
                Control::AuthDecided(session, decision) => self.shard.decided(session, decision),
                Control::Peer(ends) => self.shard.replace_peer(*ends),
                Control::Stop => return ControlAction::Stop,
            }
        }
        action
    }

    /// Replaces a failed shard, which is returned.
    pub(super) fn replace_shard(&mut self, mut shard: Shard) -> Shard {
        shard.replace(&self.shard);
        if let Some(options) = &self.options {
            shard.reconfigure(self.host.now(), Arc::clone(options));
        }
        if self.stop_at.is_some() {
            shard.drain();
        }
        std::mem::replace(&mut self.shard, shard)
    }

    /// Sends the shard's auth requests to the auth backend, and cancels those of closed connections.
    pub(super) fn ask_all(&mut self) {
        while let Some(session) = self.shard.poll_auth_cancellation() {
            self.host.cancel_auth(session);
        }
        while let Some(auth_request) = self.shard.poll_auth_request() {
            self.host.request_auth(auth_request);
        }
    }

    /// Ends a turn: wakes the shards that have something to take. False: it was the last one.
    pub(super) fn end_turn(&mut self) -> bool {
        while let Some(shard) = self.shard.poll_wake() {
            self.host.wake(shard);
        }
        self.now = self.host.now();
        self.shard.end_turn(self.now.since(self.begun));
        if self.waits_for_surplus && self.shard.admission() != Admission::Wait {
            (self.waits_for_surplus, self.accept_again) = (false, None);
        }
        // Until the process stops it, a drained shard answers health checks.
        if self.shard.is_drained() {
            self.host.drained();
        }
        self.stop_at.is_none_or(|stop| self.now < stop)
    }

    /// Whether accepting does not pause at present.
    pub(super) const fn accepts(&self) -> bool {
        self.accept_again.is_none()
    }

    /// Whether accepting need not pause any longer.
    pub(super) fn may_accept(&mut self, now: Time) -> bool {
        self.accept_again = self.accept_again.filter(|&again| now < again);
        self.waits_for_surplus &= self.accept_again.is_some();
        self.accept_again.is_none()
    }

    /// There is no descriptor left, or no room in a table.
    pub(super) fn pause_accepting(&mut self, now: Time, why: &AcceptProblem) {
        self.accept_again = Some(now + ACCEPT_PAUSE);
        self.waits_for_surplus = false;
        self.shard.accept_paused();
        self.host.cannot_accept(now, why);
    }

    /// All places of surplus connections are taken. When one becomes free here, accepting goes on at once;
    /// when a connection ends on another shard, after the pause.
    pub(super) fn wait_for_surplus(&mut self, now: Time) {
        self.accept_again = Some(now + ACCEPT_PAUSE);
        self.waits_for_surplus = true;
    }
}
