//! The phase of a run as one worker sees it, and what is due next. It handles times and no clients.

use crate::clock::MILLISECOND;

/// The phases of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunPhase {
    /// The clients connect.
    Connecting,
    /// The clients of this worker are connected; those of others may not be.
    Connected,
    /// Messages are published in this interval.
    Running { from_ns: u64, until_ns: u64 },
    /// Other workers may still publish.
    Published,
    /// Messages in flight are drained until this time.
    Draining { until_ns: u64 },
    /// The run is over.
    Over,
}

/// What is due now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Report that the clients are connected.
    Connected,
    /// The stages are over.
    StagesEnd,
    /// Check whether all messages have arrived. After the last check the run is over.
    Check { last: bool },
}

/// The interval of checks while draining.
const CHECK_NS: u64 = 20 * MILLISECOND;

/// The phase of the run.
#[derive(Debug)]
pub struct Progress {
    phase: RunPhase,
    next_check_ns: u64,
}

impl Progress {
    /// Starts in the connect phase.
    pub const fn new() -> Self {
        Self { phase: RunPhase::Connecting, next_check_ns: 0 }
    }

    /// Whether the run is over.
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, RunPhase::Over)
    }

    /// Starts the first stage at `from_ns`; all stages take `length_ns`.
    pub const fn begin(&mut self, from_ns: u64, length_ns: u64) {
        self.phase = RunPhase::Running { from_ns, until_ns: from_ns + length_ns };
    }

    /// Ends publishing. Returns how long it took, if the stages had started.
    pub const fn published(&mut self, now: u64) -> Option<u64> {
        let ran_ns = match self.phase {
            RunPhase::Running { from_ns, .. } => Some(now.saturating_sub(from_ns)),
            RunPhase::Connecting
            | RunPhase::Connected
            | RunPhase::Published
            | RunPhase::Draining { .. }
            | RunPhase::Over => None,
        };
        self.phase = RunPhase::Published;
        ran_ns
    }

    /// No worker publishes any more: drains messages in flight until `until_ns`.
    pub const fn drain(&mut self, until_ns: u64) {
        self.phase = RunPhase::Draining { until_ns };
    }

    /// Ends the run.
    pub const fn end(&mut self) {
        self.phase = RunPhase::Over;
    }

    /// Handles an interruption by the user. True if this worker must stop publishing now.
    #[must_use]
    pub const fn stop(&mut self) -> bool {
        match self.phase {
            RunPhase::Connecting | RunPhase::Connected | RunPhase::Running { .. } => true,
            RunPhase::Published | RunPhase::Over => false,
            RunPhase::Draining { .. } => {
                self.phase = RunPhase::Draining { until_ns: 0 };
                false
            }
        }
    }

    /// What is due. `all_connected`: no client is still connecting.
    pub fn due(&mut self, now: u64, all_connected: bool) -> Due {
        match self.phase {
            RunPhase::Connecting if all_connected => {
                self.phase = RunPhase::Connected;
                Due::Connected
            }
            RunPhase::Running { until_ns, .. } if now >= until_ns => Due::StagesEnd,
            RunPhase::Draining { until_ns } if now >= self.next_check_ns || now >= until_ns => {
                self.next_check_ns = now + CHECK_NS;
                Due::Check { last: now >= until_ns }
            }
            RunPhase::Connecting
            | RunPhase::Connected
            | RunPhase::Running { .. }
            | RunPhase::Published
            | RunPhase::Draining { .. }
            | RunPhase::Over => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_through_its_phases() {
        let mut progress = Progress::new();
        assert_eq!(progress.due(1, false), Due::Nothing);
        assert_eq!(progress.due(2, true), Due::Connected);
        assert_eq!(progress.due(3, true), Due::Nothing, "it is reported once");
        progress.begin(100, 50);
        assert_eq!(progress.due(149, true), Due::Nothing);
        assert_eq!(progress.due(150, true), Due::StagesEnd);
        assert_eq!(progress.published(155), Some(55));
        assert_eq!(progress.due(156, true), Due::Nothing, "the others may still publish");
        let until_ns = 10 * CHECK_NS;
        progress.drain(until_ns);
        assert_eq!(progress.due(200, true), Due::Check { last: false });
        assert_eq!(progress.due(201, true), Due::Nothing);
        assert_eq!(progress.due(200 + CHECK_NS, true), Due::Check { last: false });
        assert_eq!(progress.due(until_ns, true), Due::Check { last: true });
        progress.end();
        assert!(progress.is_over());
    }

    #[test]
    fn it_can_be_stopped_at_any_time() {
        let mut progress = Progress::new();
        assert!(progress.stop());
        assert_eq!(progress.published(5), None, "nothing was published");
        assert!(!progress.stop());
        progress.drain(1000);
        assert!(!progress.stop());
        assert_eq!(progress.due(1, true), Due::Check { last: true });
    }
}
