//! How often a client may do something.

use crate::base::Time;

/// A rate limit: so many in a second, and a burst after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// 0: any number.
    pub per_second: u32,
    /// At least 1.
    pub burst: u32,
}

impl RateLimit {
    /// `per_second`, with twice as many in a burst.
    pub const fn of(per_second: u32) -> Self {
        Self { per_second, burst: per_second.saturating_mul(2) }
    }
}

/// Whether something may be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum RateDecision {
    /// It may.
    Allow,
    /// Not now.
    Throttle,
    /// Not allowed, and throttled so many times in a row that the connection should be closed.
    Disconnect,
}

/// A token bucket. 16 bytes; the limit is an argument, so that a reload changes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    /// When the bucket will be full again. Being a time and not a fill, it needs no limit of its own.
    full_at: Time,
    /// Consecutive [`RateDecision::Throttle`] results since the last [`RateDecision::Allow`].
    throttled: u32,
}

const _: () = assert!(size_of::<RateLimiter>() == 16, "every client has one or two");

const SECOND_NS: u64 = 1_000_000_000;

/// So many refusals in a row do not end a connection, however low the limit.
const THROTTLED_MIN: u32 = 10;

impl RateLimiter {
    /// Counts one more at `now`, if `limit` has room for it.
    pub fn check(&mut self, now: Time, limit: RateLimit) -> RateDecision {
        let Some(one_ns) = SECOND_NS.checked_div(u64::from(limit.per_second)) else {
            return RateDecision::Allow;
        };
        let full_at = self.full_at.max(now).as_nanos() + one_ns;
        if full_at - now.as_nanos() > u64::from(limit.burst.max(1)) * one_ns {
            self.throttled = self.throttled.saturating_add(1);
            let is_enough = self.throttled > limit.burst.max(THROTTLED_MIN);
            return if is_enough { RateDecision::Disconnect } else { RateDecision::Throttle };
        }
        self.full_at = Time::from_nanos(full_at);
        self.throttled = 0;
        RateDecision::Allow
    }

    /// When the bucket will be full again: from then on it equals a new one.
    pub const fn full_at(&self) -> Time {
        self.full_at
    }
}

#[cfg(test)]
mod tests {
    use super::RateDecision::{Allow, Disconnect, Throttle};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const START: Time = Time::from_nanos(100 * SECOND_NS);

    #[test]
    fn a_burst_then_a_rate_then_the_end() {
        let mut limiter = RateLimiter::default();
        let limit = RateLimit::of(5);
        let allowed = (0..20).filter(|_| limiter.check(START, limit) == Allow).count();
        assert_eq!(allowed, 10);
        assert_eq!(limiter.check(START + Duration::from_millis(200), limit), Allow);
        assert_eq!(limiter.check(START + Duration::from_millis(200), limit), Throttle);
        let last = (0..20).map(|_| limiter.check(START, limit)).last();
        assert_eq!(last, Some(Disconnect));
        assert_eq!(limiter.check(START + Duration::from_secs(5), limit), Allow);
    }

    #[test]
    fn none_is_no_limit() {
        let mut limiter = RateLimiter::default();
        assert!((0..1000).all(|_| limiter.check(START, RateLimit::of(0)) == Allow));
    }

    #[test]
    fn a_rate_and_a_burst_of_their_own() {
        let mut limiter = RateLimiter::default();
        let limit = RateLimit { per_second: 100, burst: 3 };
        let decisions = [(); 4].map(|()| limiter.check(START, limit));
        assert_eq!(decisions, [Allow, Allow, Allow, Throttle]);
        assert_eq!(limiter.check(START + Duration::from_millis(10), limit), Allow);
        let mut limiter = RateLimiter::default();
        assert_eq!(limiter.check(START, RateLimit { per_second: 1, burst: 0 }), Allow, "one always may");
    }

    proptest! {
        /// In no span of time are there more than its share and one burst, and a client that keeps to its
        /// share is never held up.
        #[test]
        fn no_span_has_more_than_its_share(
            per_second in 1..200_u32, burst in 1..50_u32, gaps in proptest::collection::vec(0..300_u64, 1..300),
        ) {
            let limit = RateLimit { per_second, burst };
            let (mut limiter, mut now, mut allowed) = (RateLimiter::default(), START, Vec::new());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                if limiter.check(now, limit) == Allow {
                    allowed.push(now);
                }
            }
            for (index, &first) in allowed.iter().enumerate() {
                for (count, &last) in allowed[index..].iter().enumerate() {
                    let share = last.since(first).as_secs_f64() * f64::from(per_second);
                    prop_assert!(count as f64 <= share + f64::from(burst) + 0.01, "{count} in {share}");
                }
            }
            let one = Duration::from_nanos(SECOND_NS / u64::from(per_second));
            let mut steady = RateLimiter::default();
            prop_assert!((0..500).all(|count| steady.check(START + one * count, limit) == Allow));
        }
    }
}
