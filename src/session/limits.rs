//! How often a client may publish: in all rooms together, and in each room that has a limit of its own.

use std::sync::Arc;

use super::Session;
use crate::base::Time;
use crate::chat::{RateDecision, RateLimit, RateLimiter, RoomOptions};
use crate::options::Options;

/// How often a client publishes in one room.
#[derive(Debug)]
pub(super) struct RoomLimiter {
    room: Arc<str>,
    limiter: RateLimiter,
}

/// Rooms with a limit of their own of which a session remembers how often it published there. Above it the
/// one that has been quiet longest is forgotten, once it may be: until then no further room may be published
/// in. Else each other room would be a fresh budget.
const ROOM_LIMITERS_MAX: usize = 128;

impl Session {
    /// Counts one publication in `room`.
    pub(super) fn spend(
        &mut self,
        now: Time,
        options: &Options,
        room: &Arc<str>,
        room_options: &RoomOptions,
    ) -> RateDecision {
        let own = room_options.messages_per_second_max;
        if own > 0 {
            // A room that has a limit has a budget of its own, beside the session's.
            let Some(limiter) = self.room_limiter(now, room) else { return RateDecision::Throttle };
            return limiter.check(now, RateLimit::of(own));
        }
        let limit = RateLimit::of(options.session_messages_per_second_max);
        self.limiter.get_or_insert_default().check(now, limit)
    }

    /// `None`: too many other rooms have been published in lately.
    fn room_limiter(&mut self, now: Time, room: &Arc<str>) -> Option<&mut RateLimiter> {
        let limiters = &mut self.rare().room_limiters;
        if let Some(index) = limiters.iter().position(|it| it.room == *room) {
            return Some(&mut limiters[index].limiter);
        }
        if limiters.len() >= ROOM_LIMITERS_MAX {
            let quietest = (0..limiters.len()).min_by_key(|&index| limiters[index].limiter.full_at())?;
            if limiters[quietest].limiter.full_at() > now {
                return None;
            }
            limiters.swap_remove(quietest);
        }
        limiters.push(RoomLimiter { room: Arc::clone(room), limiter: RateLimiter::default() });
        limiters.last_mut().map(|it| &mut it.limiter)
    }
}
