//! A session's clock: pings and pongs, the time-outs of what it waits for, and what expires.

use std::time::Duration;

use super::json::{Json, Pending, Phase};
use super::{Context, EXPIRY_GRACE, Effect, More, Protocol, Session};
use crate::app::json::{self, Disconnect, ErrorCode, Unsubscribe};
use crate::base::Time;
use crate::base::rng::Rng;
use crate::metrics::CloseReason;

impl Session {
    /// No later than this something is due; [`Session::tick`] does it.
    pub const fn due(&self) -> Time {
        self.due
    }

    /// Does what is due. Of its client, something was last received at `last_received`.
    pub fn tick(&mut self, ctx: &mut Context<'_>, last_received: Time) {
        if ctx.now < self.due {
            return;
        }
        match self.protocol {
            Protocol::Text if self.expires() <= ctx.now => {
                if self.has_pending_join() {
                    ctx.effects.close(1013, "authentication timed out", CloseReason::AuthTimeout);
                } else {
                    ctx.effects.close(1008, "token expired", CloseReason::Expired);
                }
            }
            Protocol::Text => self.poll_tick(ctx),
            Protocol::Json(_) => self.json_tick(ctx, last_received),
        }
        if !ctx.effects.closes() {
            self.end_late_joins(ctx);
        }
        if !ctx.effects.closes() {
            self.end_expired_subscriptions(ctx);
        }
        self.due = self.next_due();
    }

    /// When something is due next.
    fn next_due(&self) -> Time {
        let subscriptions = self.subscriptions.iter().filter_map(|it| it.more.as_deref()).map(|more| {
            let joining = more.joining.as_ref().map_or(Time::NEVER, |joining| joining.deadline);
            joining.min(more.expires)
        });
        let own = match &self.protocol {
            Protocol::Text => self.poll().map_or(Time::NEVER, super::http::Poll::due),
            Protocol::Json(state) => state.next_due(),
        };
        subscriptions.fold(own.min(self.expires()), Time::min)
    }

    fn json_tick(&mut self, ctx: &mut Context<'_>, last_received: Time) {
        let (now, pong_timeout) = (ctx.now, ctx.options.pong_timeout);
        let (expires, is_push) = (self.expires(), self.is_push());
        let Some(state) = self.json_state() else { return };
        if state.pong_by <= now {
            // A client that sends is alive: behind a long message on a slow line the pong is still in flight.
            state.pong_by = state.pong_by.max(last_received + pong_timeout);
            state.ping_at = state.ping_at.max(state.pong_by);
        }
        let is_in = matches!(state.phase, Phase::Open | Phase::Entering(_));
        if state.pong_by <= now {
            return ctx.effects.disconnect(Disconnect::NoPong);
        }
        if expires <= now {
            return ctx.effects.disconnect(Disconnect::Expired);
        }
        if !is_in && state.ping_at <= now {
            // A client that waits for the auth backend waits for us: that must not be final.
            let waits = matches!(state.phase, Phase::Authenticating(_));
            let why = if waits { Disconnect::Internal } else { Disconnect::Stale };
            return ctx.effects.disconnect(why);
        }
        if state.ping_at <= now {
            // One ping at a time: a second one would put off the end of the first one's time, and its pong be
            // one too many.
            state.ping_at = now + ctx.options.ping_interval.max(pong_timeout);
            state.pong_by = if is_push { Time::NEVER } else { now + pong_timeout };
            if state.frame_pings {
                ctx.effects.push(Effect::Ping);
            } else {
                ctx.effects.send(|out| out.extend_from_slice(json::PING));
            }
        }
        while let Some(index) = state.pending.iter().position(|pending| pending.deadline <= now) {
            let Pending { id, .. } = state.pending.remove(index);
            ctx.effects.error(id, ErrorCode::Internal);
        }
    }

    /// Gives up going into rooms whose homes do not answer in time.
    fn end_late_joins(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        let is_late = |more: &More| more.joining.as_ref().is_some_and(|joining| joining.deadline <= now);
        while let Some(index) =
            self.subscriptions.iter().position(|it| it.more.as_deref().is_some_and(is_late))
        {
            let subscription = &self.subscriptions[index];
            let joining = subscription.more.as_ref().and_then(|more| more.joining.clone());
            let (by_server, command) = (subscription.by_server, joining.map_or(0, |joining| joining.command));
            self.leave(ctx.effects, index);
            match &mut self.protocol {
                Protocol::Text => {
                    return ctx.effects.close(1013, "joining the room timed out", CloseReason::RoomTimeout);
                }
                Protocol::Json(_) if !by_server => {
                    ctx.effects.error(command, ErrorCode::Internal);
                }
                Protocol::Json(state) => {
                    let phase = std::mem::replace(&mut state.phase, Phase::Refused);
                    if let Phase::Entering(connecting) = phase {
                        self.error(ctx.effects, connecting.command, ErrorCode::Internal);
                    }
                    return self.ended(ctx.effects);
                }
            }
        }
    }

    fn end_expired_subscriptions(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        while let Some(index) =
            self.subscriptions.iter().position(|it| it.more.as_ref().is_some_and(|more| more.expires <= now))
        {
            if self.subscriptions[index].by_server {
                return ctx.effects.disconnect(Disconnect::SubscriptionExpired);
            }
            self.unsubscribe(ctx.effects, index, Unsubscribe::Expired);
        }
    }

    /// Has a subscription end by itself, unless it is refreshed before; `None`: it does not.
    pub(super) fn expire_subscription(&mut self, now: Time, index: usize, expires_in: Option<Duration>) {
        let expires = expires_in.map_or(Time::NEVER, |time| now + time + EXPIRY_GRACE);
        let more = &mut self.subscriptions[index].more;
        match more {
            Some(more) => more.expires = expires,
            None if expires == Time::NEVER => {}
            None => *more = Some(Box::new(More { joining: None, expires })),
        }
        self.due = self.due.min(expires);
    }

    /// Begins the pings of a new client.
    pub(super) fn begin_pings(&mut self, ctx: &mut Context<'_>) {
        let interval = ctx.options.ping_interval;
        let first = ctx.now + jittered(ctx.rng, interval);
        let Some(state) = self.json_state() else { return };
        // A ping that is in flight already will be answered.
        let first = if state.pong_by == Time::NEVER { first } else { first.max(state.pong_by) };
        state.ping_at = if interval.is_zero() { Time::NEVER } else { first };
        let ping_at = state.ping_at;
        self.due = self.due.min(ping_at);
    }

    /// Another interval holds from now on.
    pub(super) fn renew_pings(&mut self, ctx: &mut Context<'_>) {
        if self.json_state().is_some_and(|state| matches!(state.phase, Phase::Open)) {
            self.begin_pings(ctx);
        }
    }

    /// The answer to a ping has come. False: no ping had requested it.
    pub(super) fn pong(&mut self) -> bool {
        let Some(state) = self.json_state() else { return false };
        std::mem::replace(&mut state.pong_by, Time::NEVER) != Time::NEVER
    }

    /// A WebSocket pong has come.
    pub fn frame_pong(&mut self) {
        if self.json_state().is_some_and(|state| state.frame_pings) {
            self.pong();
        }
    }
}

impl Json {
    fn next_due(&self) -> Time {
        let pending = self.pending.iter().map(|pending| pending.deadline).min().unwrap_or(Time::NEVER);
        self.ping_at.min(self.pong_by).min(pending)
    }
}

/// Between half of `interval` and the whole: what many began in one moment spreads out over time.
pub fn jittered(rng: &mut Rng, interval: Duration) -> Duration {
    let half = u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX);
    Duration::from_nanos(half + rng.below(half))
}
