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

/// Rooms with a limit of their own of which a session remembers how often it published there. Above it the one that has
/// been quiet longest is forgotten.
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
            return self.room_limiter(room).check(now, RateLimit::of(own));
        }
        self.limiter.check(now, RateLimit::of(options.session_messages_per_second_max))
    }

    fn room_limiter(&mut self, room: &Arc<str>) -> &mut RateLimiter {
        let limiters = self.room_limiters.get_or_insert_default();
        let index = limiters.iter().position(|it| it.room == *room).unwrap_or_else(|| {
            if limiters.len() >= ROOM_LIMITERS_MAX {
                let quietest = (0..limiters.len()).min_by_key(|&index| limiters[index].limiter.full_at());
                limiters.swap_remove(quietest.unwrap_or(0));
            }
            limiters.push(RoomLimiter { room: Arc::clone(room), limiter: RateLimiter::default() });
            limiters.len() - 1
        });
        &mut limiters[index].limiter
    }
}
