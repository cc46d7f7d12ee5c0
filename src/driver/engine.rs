//! Either driver behind one face: what it is given, what it waits on, what wakes it, and the process that it runs in.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::Socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use super::event_loop::Loop;
use super::host::Host;
use super::{Ask, Control, Inquiry, epoll, uring};
use crate::base::{ConnKey, Time};
use crate::chat::Question;
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
        let Parts { shard, id, listeners, control, wakers, origin, ask } = parts;
        let process = Process::new(id, control, wakers, origin, ask);
        match self {
            Self::Epoll(engine) => {
                let sockets = engine.sockets(listeners, process.waker())?;
                Loop::new(sockets, shard, process).run()
            }
            Self::Uring(ring) => {
                let sockets = ring.sockets(listeners, Arc::clone(&process.wakers), id)?;
                Loop::new(sockets, shard, process).run()
            }
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

/// The process around a loop: the clocks of the machine, the other shards' threads, the log.
pub(super) struct Process {
    id: usize,
    control: Receiver<Control>,
    wakers: Arc<[Waker]>,
    origin: Instant,
    ask: Ask,
    accept_log: RateLimit,
    close_log: RateLimit,
}

impl Process {
    fn new(id: usize, control: Receiver<Control>, wakers: Arc<[Waker]>, origin: Instant, ask: Ask) -> Self {
        let accept_log = RateLimit::new(1, Duration::from_secs(10));
        let close_log = RateLimit::new(100, Duration::from_secs(1));
        Self { id, control, wakers, origin, ask, accept_log, close_log }
    }

    /// What wakes this shard.
    fn waker(&self) -> BorrowedFd<'_> {
        self.wakers[self.id].as_fd()
    }
}

impl Host for Process {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read for a whole shard")]
    fn now(&self) -> Time {
        Time::ZERO + Instant::now().duration_since(self.origin)
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read for a whole shard")]
    fn unix_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn next_control(&mut self) -> Option<Control> {
        self.control.try_recv().ok()
    }

    fn wake(&mut self, shard: usize) {
        self.wakers[shard].wake();
    }

    fn ask(&mut self, question: Question) {
        (self.ask)(Inquiry::Ask(question));
    }

    fn withdraw(&mut self, conn: ConnKey) {
        (self.ask)(Inquiry::Withdraw(conn));
    }

    fn accepting_paused(&mut self, now: Time, why: &str) {
        if let Some(suppressed) = self.accept_log.allow(now.as_nanos()) {
            tracing::warn!(why, suppressed, "accepting pauses: raise LimitNOFILE or lower max_connections");
        }
    }

    fn connection_closed(&mut self, name: &str, reason: CloseReason) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(suppressed) = self.close_log.allow(self.now().as_nanos())
        {
            tracing::debug!(name = %Escaped(name), reason = reason.label(), suppressed, "closed");
        }
    }
}

/// No descriptor, or no memory for one: it will not be better at once.
pub(super) fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}
