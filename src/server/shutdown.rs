//! The phases of a shutdown: not ready, still serving; then the drain.
//!
//! Load balancers learn that a server goes away by asking it. So it says so for `shutdown_delay` before it
//! closes anything; they send it no new clients meanwhile, and those that they do send are served.

use std::time::{Duration, Instant};

/// What the process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It serves.
    Serving,
    /// It serves, and is not ready; the drain begins at that time.
    NotReady {
        /// When the drain begins.
        drain_at: Instant,
    },
    /// It drains.
    Draining,
}

impl Phase {
    /// How long to wait for a signal at most, when something else is due in `most`.
    pub(super) fn timeout(self, now: Instant, most: Duration) -> Duration {
        match self {
            Self::NotReady { drain_at } => drain_at.saturating_duration_since(now).min(most),
            Self::Serving | Self::Draining => most,
        }
    }

    /// Whether the drain is to begin now.
    pub(super) fn is_over(self, now: Instant) -> bool {
        matches!(self, Self::NotReady { drain_at } if drain_at <= now)
    }
}
