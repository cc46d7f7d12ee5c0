//! The machine's monotonic clock. All processes read the same one, so a worker can judge a stamp of another.

use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::io;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds since an arbitrary moment.
pub fn now() -> u64 {
    nanos(ClockId::Monotonic)
}

/// CPU that this process has used, in nanoseconds.
pub fn cpu_used() -> u64 {
    nanos(ClockId::ProcessCPUTime)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
}

/// Wakes an event loop with a resolution of microseconds. The timeout of epoll has milliseconds, too coarse
/// for the send times.
pub struct Timer {
    timer: OwnedFd,
    set_for: u64,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The process has no free file descriptor.
    pub fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer, set_for: 0 })
    }

    /// The descriptor, to be registered for reading.
    pub fn descriptor(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Sets the timer to `at_ns`, replacing an earlier setting.
    pub fn set(&mut self, at_ns: u64) {
        if self.set_for == at_ns {
            return;
        }
        self.set_for = at_ns;
        let moment = |ns: u64| Timespec {
            tv_sec: i64::try_from(ns / SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % SECOND).unwrap_or(0),
        };
        // Zero would disarm the timer.
        let spec = Itimerspec { it_interval: moment(0), it_value: moment(at_ns.max(1)) };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec);
    }

    /// The timer has fired.
    pub const fn fired(&mut self) {
        self.set_for = 0;
    }
}
