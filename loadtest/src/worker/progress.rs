//! The phase of a run as one worker sees it, and what is due next. It handles times and no clients.

use crate::clock::{MILLISECOND, SECOND};
use crate::plan::Plan;

/// The phases of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunPhase {
    /// The clients connect; `connected` of them have, the last one at `since_ns`.
    Connecting { connected: u32, since_ns: u64 },
    /// The clients of this worker are connected; those of others may not be.
    Connected,
    /// Messages are published in this interval.
    Running { from_ns: u64, until_ns: u64 },
    /// Other workers may still publish.
    Published,
    /// Messages in flight are drained until this time. `away`: clients are awaited that are reconnecting.
    Draining { until_ns: u64, away: bool },
    /// The clients have sent Close frames, which the server answers until this time.
    Closing { until_ns: u64 },
    /// The run is over.
    Over,
}

/// The clients of a worker, as far as the phases depend on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// No client is still to connect for the first time.
    pub all_connected: bool,
    /// Connected clients.
    pub connected: u32,
    /// Clients that are disconnected and will reconnect.
    pub away: bool,
    /// Clients whose Close frame is not answered.
    pub closing: bool,
}

/// What is due now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Report that the clients are connected. `timeout`: no client has connected for the connect timeout.
    Connected { timeout: bool },
    /// The stages are over.
    StagesEnd,
    /// Check whether all messages have arrived. After the last check the clients leave.
    Check { last: bool },
    /// The clients have left, or have had their time for it.
    Closed,
}

/// The interval of checks while draining.
const CHECK_NS: u64 = 20 * MILLISECOND;

/// The time that a server has to answer the Close frames at the end of a run.
const CLOSE_TIMEOUT_NS: u64 = 5 * SECOND;

/// The phase of the run.
#[derive(Debug)]
pub struct Progress {
    phase: RunPhase,
    next_check_ns: u64,
    connect_timeout_ns: u64,
    /// The time that clients have to reconnect after the stages.
    return_timeout_ns: u64,
    drain_timeout_ns: u64,
}

impl Progress {
    /// Starts in the connect phase.
    pub fn new(plan: &Plan, now: u64) -> Self {
        Self {
            phase: RunPhase::Connecting { connected: 0, since_ns: now },
            next_check_ns: 0,
            connect_timeout_ns: plan.connect_timeout_ns,
            return_timeout_ns: plan.handshake_timeout_ns.max(plan.drain_timeout_ns),
            drain_timeout_ns: plan.drain_timeout_ns,
        }
    }

    /// Whether the run is over.
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, RunPhase::Over)
    }

    /// Whether statistics are still collected.
    pub const fn is_measuring(&self) -> bool {
        !matches!(self.phase, RunPhase::Closing { .. } | RunPhase::Over)
    }

    /// Starts the first stage at `from_ns`; all stages take `length_ns`.
    pub const fn begin(&mut self, from_ns: u64, length_ns: u64) {
        self.phase = RunPhase::Running { from_ns, until_ns: from_ns + length_ns };
    }

    /// Ends publishing. Returns how long it took, if the stages had started.
    pub const fn published(&mut self, now: u64) -> Option<u64> {
        let ran_ns = match self.phase {
            RunPhase::Running { from_ns, .. } => Some(now.saturating_sub(from_ns)),
            RunPhase::Connecting { .. }
            | RunPhase::Connected
            | RunPhase::Published
            | RunPhase::Draining { .. }
            | RunPhase::Closing { .. }
            | RunPhase::Over => None,
        };
        self.phase = RunPhase::Published;
        ran_ns
    }

    /// No worker publishes any more. Clients that are away have time to reconnect; then messages in flight
    /// have time to arrive.
    pub const fn drain(&mut self, now: u64) {
        self.phase = RunPhase::Draining { until_ns: now + self.return_timeout_ns, away: true };
    }

    /// The results are known, and the clients leave.
    pub const fn close(&mut self, now: u64) {
        self.phase = RunPhase::Closing { until_ns: now + CLOSE_TIMEOUT_NS };
    }

    /// Ends the run.
    pub const fn end(&mut self) {
        self.phase = RunPhase::Over;
    }

    /// Handles an interruption by the user. True if this worker must stop publishing now.
    #[must_use]
    pub const fn stop(&mut self) -> bool {
        match self.phase {
            RunPhase::Connecting { .. } | RunPhase::Connected | RunPhase::Running { .. } => true,
            RunPhase::Published | RunPhase::Closing { .. } | RunPhase::Over => false,
            RunPhase::Draining { .. } => {
                self.phase = RunPhase::Draining { until_ns: 0, away: false };
                false
            }
        }
    }

    /// What is due.
    pub fn due(&mut self, now: u64, observed: Observed) -> Due {
        match self.phase {
            RunPhase::Connecting { connected, since_ns } => {
                self.connecting(now, observed, connected, since_ns)
            }
            RunPhase::Running { until_ns, .. } if now >= until_ns => Due::StagesEnd,
            RunPhase::Draining { away: true, .. } if !observed.away => {
                self.phase = RunPhase::Draining { until_ns: now + self.drain_timeout_ns, away: false };
                self.next_check_ns = now + CHECK_NS;
                Due::Check { last: false }
            }
            RunPhase::Draining { until_ns, .. } if now >= until_ns => Due::Check { last: true },
            RunPhase::Draining { away: false, .. } if now >= self.next_check_ns => {
                self.next_check_ns = now + CHECK_NS;
                Due::Check { last: false }
            }
            RunPhase::Closing { until_ns } if now >= until_ns || !observed.closing => Due::Closed,
            RunPhase::Connected
            | RunPhase::Running { .. }
            | RunPhase::Published
            | RunPhase::Draining { .. }
            | RunPhase::Closing { .. }
            | RunPhase::Over => Due::Nothing,
        }
    }

    fn connecting(&mut self, now: u64, observed: Observed, connected: u32, since_ns: u64) -> Due {
        let timeout = now.saturating_sub(since_ns) > self.connect_timeout_ns;
        if observed.all_connected || timeout {
            self.phase = RunPhase::Connected;
            return Due::Connected { timeout: !observed.all_connected };
        }
        if observed.connected > connected {
            self.phase = RunPhase::Connecting { connected: observed.connected, since_ns: now };
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    const ALL: Observed = Observed { all_connected: true, connected: 9, away: false, closing: false };
    const AWAY: Observed = Observed { away: true, ..ALL };

    fn progress() -> Progress {
        Progress::new(&Options::default().plan(Scenario::Chat).unwrap(), 0)
    }

    #[test]
    fn a_run_goes_through_its_phases() {
        let mut progress = progress();
        assert_eq!(progress.due(1, Observed::default()), Due::Nothing);
        assert_eq!(progress.due(2, ALL), Due::Connected { timeout: false });
        assert_eq!(progress.due(3, ALL), Due::Nothing, "it is reported once");
        progress.begin(100, 50);
        assert_eq!(progress.due(149, ALL), Due::Nothing);
        assert_eq!(progress.due(150, ALL), Due::StagesEnd);
        assert_eq!(progress.published(155), Some(55));
        assert_eq!(progress.due(156, ALL), Due::Nothing, "the others may still publish");
        progress.drain(160);
        assert_eq!(progress.due(200, ALL), Due::Check { last: false });
        assert_eq!(progress.due(201, ALL), Due::Nothing);
        assert_eq!(progress.due(200 + CHECK_NS, ALL), Due::Check { last: false });
        assert_eq!(progress.due(200 + 3 * SECOND, ALL), Due::Check { last: true });
        assert!(progress.is_measuring());
        progress.close(4 * SECOND);
        assert!(!progress.is_measuring() && !progress.is_over());
        let closing = Observed { closing: true, ..ALL };
        assert_eq!(progress.due(5 * SECOND, closing), Due::Nothing);
        assert_eq!(progress.due(5 * SECOND, ALL), Due::Closed);
        assert_eq!(progress.due(9 * SECOND, closing), Due::Closed, "a server that does not answer");
        progress.end();
        assert!(progress.is_over());
    }

    #[test]
    fn connecting_ends_when_no_client_has_connected_for_the_timeout() {
        let mut progress = progress();
        let some = |connected| Observed { connected, ..Observed::default() };
        assert_eq!(progress.due(29 * SECOND, some(1)), Due::Nothing);
        assert_eq!(progress.due(58 * SECOND, some(2)), Due::Nothing, "any client prolongs it");
        assert_eq!(progress.due(88 * SECOND, some(2)), Due::Nothing);
        assert_eq!(progress.due(89 * SECOND, some(2)), Due::Connected { timeout: true });
        assert_eq!(progress.due(90 * SECOND, some(2)), Due::Nothing);
    }

    #[test]
    fn clients_that_are_away_at_the_end_are_awaited() {
        let mut progress = progress();
        progress.drain(0);
        assert_eq!(progress.due(9 * SECOND, AWAY), Due::Nothing);
        assert_eq!(progress.due(9 * SECOND + 1, ALL), Due::Check { last: false });
        assert_eq!(progress.due(12 * SECOND, ALL), Due::Check { last: false }, "they have time to receive");
        assert_eq!(progress.due(12 * SECOND + 1, ALL), Due::Check { last: true });
        progress.drain(0);
        assert_eq!(progress.due(10 * SECOND, AWAY), Due::Check { last: true }, "but not for ever");
    }

    #[test]
    fn it_can_be_stopped_at_any_time() {
        let mut progress = progress();
        assert!(progress.stop());
        assert_eq!(progress.published(5), None, "nothing was published");
        assert!(!progress.stop());
        progress.drain(1000);
        assert!(!progress.stop());
        assert_eq!(progress.due(1, AWAY), Due::Check { last: true });
    }
}
