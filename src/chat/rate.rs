//! How often a client may speak.

use crate::base::Time;

/// A token bucket: so many in a second, twice as many in a burst. 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// When the bucket will be full again. Being a time and not a fill, it needs no rate of its own.
    full_at: Time,
    /// How many were refused since the last one that was not.
    refused: u32,
}

const SECOND_NS: u64 = 1_000_000_000;

/// A burst is this many seconds' worth.
const BURST_SECONDS: u64 = 2;

/// Whether somebody may speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    /// Yes.
    Fine,
    /// Not so often.
    TooOften,
    /// It was told so again and again, and goes on.
    Incorrigible,
}

impl Rate {
    /// Counts one message at `now`, of which `per_second` are allowed; 0: any number.
    pub fn spend(&mut self, now: Time, per_second: u32) -> Spoken {
        if per_second == 0 {
            return Spoken::Fine;
        }
        let one = SECOND_NS / u64::from(per_second);
        let full_at = self.full_at.max(now).as_nanos() + one;
        if full_at - now.as_nanos() > BURST_SECONDS * SECOND_NS {
            self.refused += 1;
            let patience = per_second.saturating_mul(2).max(REFUSALS_MIN);
            return if self.refused > patience { Spoken::Incorrigible } else { Spoken::TooOften };
        }
        self.full_at = Time::from_nanos(full_at);
        self.refused = 0;
        Spoken::Fine
    }
}

/// Refusals in a row that everybody is granted before the connection ends.
const REFUSALS_MIN: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_a_rate_then_the_door() {
        let mut rate = Rate::default();
        let start = Time::ZERO + Duration::from_secs(100);
        let fine = (0..20).filter(|_| rate.spend(start, 5) == Spoken::Fine).count();
        assert_eq!(fine, 10);
        assert_eq!(rate.spend(start + Duration::from_millis(200), 5), Spoken::Fine);
        assert_eq!(rate.spend(start + Duration::from_millis(200), 5), Spoken::TooOften);
        let last = (0..20).map(|_| rate.spend(start, 5)).last();
        assert_eq!(last, Some(Spoken::Incorrigible));
        assert_eq!(rate.spend(start + Duration::from_secs(5), 5), Spoken::Fine);
        assert_eq!(rate.spend(start + Duration::from_secs(5), 0), Spoken::Fine);
    }
}
