//! How often a client may do something.

use crate::base::Time;

/// A token bucket. 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    /// When the bucket will be full again. Being a time and not a fill, it needs no rate of its own.
    full_at: Time,
    /// How many were refused since the last one that was not.
    refused: u32,
}

const SECOND_NS: u64 = 1_000_000_000;

/// Whether a client may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateDecision {
    /// Yes.
    Allow,
    /// Not so often.
    Throttle,
    /// It was throttled again and again, and goes on: its connection ends.
    Disconnect,
}

/// Refusals in a row that everyone is granted before the connection ends.
const REFUSALS_MIN: u32 = 10;

impl RateLimiter {
    /// Counts one event at `now`, of which `per_second` are allowed, and `burst` at once; `per_second` 0: any number.
    pub fn spend(&mut self, now: Time, per_second: u32, burst: u32) -> RateDecision {
        if per_second == 0 {
            return RateDecision::Allow;
        }
        let one = SECOND_NS / u64::from(per_second);
        let full_at = self.full_at.max(now).as_nanos() + one;
        if full_at - now.as_nanos() > one * u64::from(burst.max(1)) {
            self.refused = self.refused.saturating_add(1);
            let patience = per_second.saturating_mul(2).max(REFUSALS_MIN);
            return if self.refused > patience { RateDecision::Disconnect } else { RateDecision::Throttle };
        }
        self.full_at = Time::from_nanos(full_at);
        self.refused = 0;
        RateDecision::Allow
    }

    /// When the bucket will be full again: from then on it says nothing that a new one would not.
    pub const fn full_at(&self) -> Time {
        self.full_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_a_rate_then_the_door() {
        let mut rate = RateLimiter::default();
        let start = Time::ZERO + Duration::from_secs(100);
        let fine = (0..20).filter(|_| rate.spend(start, 5, 10) == RateDecision::Allow).count();
        assert_eq!(fine, 10);
        assert_eq!(rate.spend(start + Duration::from_millis(200), 5, 10), RateDecision::Allow);
        assert_eq!(rate.spend(start + Duration::from_millis(200), 5, 10), RateDecision::Throttle);
        let last = (0..20).map(|_| rate.spend(start, 5, 10)).last();
        assert_eq!(last, Some(RateDecision::Disconnect));
        assert_eq!(rate.spend(start + Duration::from_secs(5), 5, 10), RateDecision::Allow);
        assert_eq!(rate.spend(start + Duration::from_secs(5), 0, 10), RateDecision::Allow);
    }
}
