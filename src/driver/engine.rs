//! Either driver behind one face: what it is given, what it waits on, and what wakes it.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::Socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use super::{Ask, Control, epoll, uring};
use crate::base::Time;
use crate::logging::{Escaped, RateLimit};
use crate::metrics::CloseReason;
use crate::shard::Shard;

/// What a driver is given to run. Everything that can fail is made before the thread starts, so that every error is known then.
pub struct Parts {
    /// The shard to be run.
    pub shard: Shard,
    /// Its number.
    pub id: usize,
    /// Its listeners, each bound and listening.
    pub listeners: Vec<Socket>,
    /// What the process has to say; whoever sends something wakes the shard.
    pub control: Receiver<Control>,
    /// The wakers of all shards, by number.
    pub wakers: Arc<[Waker]>,
    /// The origin of this process's time.
    pub origin: Instant,
    /// Takes the shard's questions to somebody outside.
    pub ask: Ask,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// What one shard's driver waits on.
#[derive(Debug)]
pub enum Engine {
    /// An epoll instance.
    Epoll(Box<epoll::Engine>),
    /// A ring.
    Uring(Box<uring::Ring>),
}

impl Engine {
    /// An epoll instance.
    ///
    /// # Errors
    /// The kernel has no descriptor for it.
    pub fn epoll() -> io::Result<Self> {
        Ok(Self::Epoll(Box::new(epoll::Engine::new()?)))
    }

    /// A ring with a table for `sockets_max` connections.
    ///
    /// # Errors
    /// The kernel does not offer what the ring needs, or forbids it.
    pub fn uring(sockets_max: u32) -> io::Result<Self> {
        Ok(Self::Uring(Box::new(uring::Ring::new(sockets_max)?)))
    }

    /// What wakes a shard, whatever it runs on.
    ///
    /// # Errors
    /// The kernel has no descriptor for it.
    pub fn waker() -> io::Result<Waker> {
        Waker::new()
    }

    /// Runs a shard until it is told to stop or is drained.
    ///
    /// # Errors
    /// The kernel refuses to wait, which it has no reason to.
    pub fn run(self, parts: Parts) -> io::Result<()> {
        match self {
            Self::Epoll(engine) => engine.run(parts),
            Self::Uring(ring) => uring::run(*ring, parts),
        }
    }
}

/// Wakes a shard from any thread: an eventfd that its driver watches edge-triggered, so that nobody has to read it.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Ends the shard's sleep, or its next one. A shard that has ended hears nothing, and has nothing to hear.
    pub fn wake(&self) {
        // The counter has room for 2⁶⁴ − 2 wakes, and is emptied when it is full: that is an edge as well.
        if rustix::io::write(&self.0, &1_u64.to_ne_bytes()) == Err(Errno::AGAIN) {
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What either driver has beside its sockets: the shard, the clock, and what the process has to say.
pub(super) struct Station {
    pub(super) shard: Shard,
    id: usize,
    control: Receiver<Control>,
    wakers: Arc<[Waker]>,
    origin: Instant,
    ask: Ask,
    /// Until when nobody is accepted.
    accept_again: Option<Time>,
    /// When a drain ends, whoever is still there.
    stop_at: Option<Time>,
    accept_log: RateLimit,
    close_log: RateLimit,
}

/// What the process wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// That it goes on.
    Serve,
    /// That the listeners are closed, and everybody leaves.
    Drain,
    /// That it ends now.
    Stop,
}

impl Station {
    /// Of its parts, all but the listeners, which are the driver's.
    pub(super) fn new(parts: Parts) -> (Self, Vec<Socket>) {
        let Parts { shard, id, listeners, control, wakers, origin, ask } = parts;
        let station = Self {
            shard,
            id,
            control,
            wakers,
            origin,
            ask,
            accept_again: None,
            stop_at: None,
            accept_log: RateLimit::new(1, Duration::from_secs(10)),
            close_log: RateLimit::new(100, Duration::from_secs(1)),
        };
        (station, listeners)
    }

    /// What wakes it.
    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.wakers[self.id].as_fd()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read for a whole shard")]
    pub(super) fn now(&self) -> Time {
        Time::ZERO + Instant::now().duration_since(self.origin)
    }

    /// How long to wait when the driver itself has nothing to do: not at all while the shard has, else until the next deadline.
    pub(super) fn time_to_sleep(&self, now: Time) -> Option<Duration> {
        if self.shard.has_work() || !self.shard.may_sleep() {
            return Some(Duration::ZERO);
        }
        let next =
            [self.shard.next_deadline(), self.accept_again, self.stop_at].into_iter().flatten().min()?;
        Some(next.since(now))
    }

    /// Begins a turn; returns its time.
    pub(super) fn begin_turn(&mut self) -> Time {
        self.shard.awake();
        let now = self.now();
        self.shard.begin_turn(now);
        self.shard.tell_wall_clock(unix_ms());
        now
    }

    /// Does what the process says, and tells what of it is left to the driver.
    pub(super) fn obey(&mut self) -> Wish {
        let mut wish = Wish::Serve;
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::Reload(options) => self.shard.reconfigure(self.now(), options),
                Control::Drain(bound) => {
                    wish = Wish::Drain;
                    self.accept_again = None;
                    self.stop_at = Some(self.now() + bound);
                    self.shard.drain();
                }
                Control::Decided(conn, verdict) => self.shard.decided(conn, verdict),
                Control::Stop => return Wish::Stop,
            }
        }
        wish
    }

    /// Takes the shard's questions to somebody outside.
    pub(super) fn ask_all(&mut self) {
        while let Some(question) = self.shard.poll_question() {
            (self.ask)(question);
        }
    }

    /// Ends a turn that has `begun`: wakes the shards that have something to hear. `None`: it was the last one.
    pub(super) fn end_turn(&mut self, begun: Time) -> Option<Time> {
        while let Some(shard) = self.shard.poll_wake() {
            self.wakers[shard].wake();
        }
        let now = self.now();
        self.shard.end_turn(now.since(begun));
        let ends = self.shard.is_drained() || self.stop_at.is_some_and(|stop| stop <= now);
        (!ends).then_some(now)
    }

    /// Whether accepting does not pause at present.
    pub(super) const fn accepts(&self) -> bool {
        self.accept_again.is_none()
    }

    /// Whether accepting need not pause any longer.
    pub(super) fn may_accept(&mut self, now: Time) -> bool {
        self.accept_again = self.accept_again.filter(|&again| now < again);
        self.accept_again.is_none()
    }

    /// There is no descriptor left, or no room in a table.
    pub(super) fn pause_accepting(&mut self, now: Time, why: &str) {
        self.accept_again = Some(now + ACCEPT_PAUSE);
        self.shard.accept_paused();
        if let Some(suppressed) = self.accept_log.allow(now.as_nanos()) {
            tracing::warn!(why, suppressed, "accepting pauses: raise LimitNOFILE or lower max_connections");
        }
    }

    /// Notes that a connection was closed.
    pub(super) fn log_close(&mut self, name: &str, reason: CloseReason) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(suppressed) = self.close_log.allow(self.now().as_nanos())
        {
            tracing::debug!(name = %Escaped(name), reason = reason.label(), suppressed, "closed");
        }
    }
}

/// How long accepting pauses when there is no descriptor left, or no room in a table.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// No descriptor, or no memory for one: it will not be better at once.
pub(super) fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}

/// Milliseconds of Unix time.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read for a whole shard")]
fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
