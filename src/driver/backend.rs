//! The I/O backend of a shard, epoll or io_uring: its parts, its waker, and the process around it.

use core::net::IpAddr;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::Socket;
use std::fmt::{self, Display};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
#[cfg(debug_assertions)]
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::event_loop::Loop;
use super::host::{AcceptProblem, Host, Replacement};
use super::passing::{PASSING_MAX, Passing};
use super::{AuthCommand, AuthSender, Control, epoll, uring};
use crate::base::{SessionKey, Time};
use crate::chat::AuthRequest;
use crate::logging::{Escaped, RateLimit};
use crate::metrics::{CloseReason, ShardMetrics};
use crate::shard::{Refusal, Shard};

/// The parts of a shard's loop. Everything that can fail is made before the thread starts, so that every
/// error is known then.
pub struct Parts {
    /// The shard to be run.
    pub shard: Shard,
    /// Its number.
    pub id: usize,
    /// Its listeners, each bound and listening.
    pub listeners: Vec<Socket>,
    /// Control messages of the process; each sender wakes the shard.
    pub control: Receiver<Control>,
    /// The wakers of all shards, by number.
    pub wakers: Arc<[Waker]>,
    /// The ways on which connections come from other shards, and go to them.
    pub passages: Passages,
    /// The origin of this process's time.
    pub origin: Instant,
    /// Takes the shard's auth requests.
    pub auth: AuthSender,
    /// The shard's block of counters.
    pub metrics: Arc<ShardMetrics>,
    /// Makes a shard that replaces this one after a panic; `None`: that cannot be done, and the thread ends.
    pub rebuild: Rebuild,
    /// Called once a drain has closed every connection of the shard that it waits for, perhaps many times.
    pub drained: Box<dyn FnMut() + Send>,
}

/// The ways on which connections come to a shard from others, and go to them.
#[derive(Debug)]
pub struct Passages {
    arrivals: Receiver<Passing<OwnedFd>>,
    /// To each shard, by number.
    departures: Arc<[SyncSender<Passing<OwnedFd>>]>,
}

impl Passages {
    /// Those of each of `shards` shards.
    pub fn between(shards: usize) -> Vec<Self> {
        let (departures, arrivals): (Vec<_>, Vec<_>) = (0..shards).map(|_| sync_channel(PASSING_MAX)).unzip();
        let departures: Arc<[_]> = departures.into();
        arrivals.into_iter().map(|arrivals| Self { arrivals, departures: Arc::clone(&departures) }).collect()
    }
}

/// Makes a shard that replaces one that has panicked.
pub type Rebuild = Box<dyn FnMut() -> Option<Shard> + Send>;

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// The I/O backend of one shard.
#[derive(Debug)]
pub enum IoBackend {
    /// An epoll instance.
    Epoll(Box<epoll::Instance>),
    /// A ring.
    Uring(Box<uring::Ring>),
}

impl IoBackend {
    /// An epoll instance.
    ///
    /// # Errors
    /// The kernel has no descriptor for it.
    pub fn epoll() -> io::Result<Self> {
        Ok(Self::Epoll(Box::new(epoll::Instance::new()?)))
    }

    /// A ring with a table for `sockets_max` connections.
    ///
    /// # Errors
    /// The kernel does not offer what the ring needs, or forbids it.
    pub fn uring(sockets_max: u32) -> io::Result<Self> {
        Ok(Self::Uring(Box::new(uring::Ring::new(sockets_max)?)))
    }

    /// What wakes a shard, on any driver.
    ///
    /// # Errors
    /// The kernel has no descriptor for it.
    pub fn waker() -> io::Result<Waker> {
        Waker::new()
    }

    /// Runs a shard until it is stopped or drained.
    ///
    /// # Errors
    /// The kernel refuses to wait, which it has no reason to.
    pub fn run(self, parts: Parts) -> io::Result<()> {
        let Parts { shard, id, listeners, .. } = parts;
        let Parts { control, wakers, passages, .. } = parts;
        let Parts { origin, auth, metrics, rebuild, drained, .. } = parts;
        let process = ProcessHost {
            id,
            control,
            wakers,
            passages,
            origin,
            auth,
            metrics,
            rebuild,
            drained,
            limit_log: RateLimit::new(1, Duration::from_secs(10)),
            accept_log: RateLimit::new(1, Duration::from_secs(10)),
            close_log: RateLimit::new(100, Duration::from_secs(1)),
        };
        match self {
            Self::Epoll(instance) => {
                let sockets = instance.sockets(listeners, process.waker())?;
                Loop::new(sockets, shard, process).run()
            }
            Self::Uring(ring) => {
                let sockets = ring.sockets(listeners, Arc::clone(&process.wakers), id)?;
                Loop::new(sockets, shard, process).run()
            }
        }
    }
}

/// Wakes a shard from any thread: an eventfd that its driver watches edge-triggered, so that it need not be
/// read.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Ends the shard's sleep, or its next one. On a shard that has ended it has no effect.
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
pub(super) struct ProcessHost {
    id: usize,
    control: Receiver<Control>,
    wakers: Arc<[Waker]>,
    passages: Passages,
    origin: Instant,
    auth: AuthSender,
    metrics: Arc<ShardMetrics>,
    rebuild: Rebuild,
    drained: Box<dyn FnMut() + Send>,
    limit_log: RateLimit,
    accept_log: RateLimit,
    close_log: RateLimit,
}

/// A shard that panics so soon after another panic, its own or another shard's, ends the process: it would go
/// on like that.
const PANIC_INTERVAL: Duration = Duration::from_secs(10);

/// When a shard has panicked last, in nanoseconds of the process's time; [`u64::MAX`]: never.
static LAST_PANIC_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// The error of a shard that has panicked soon after another panic.
#[derive(Debug)]
pub struct RepeatedPanic;

impl Display for RepeatedPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a second panic within {PANIC_INTERVAL:?}; please report this")
    }
}

impl std::error::Error for RepeatedPanic {}

impl ProcessHost {
    /// What wakes this shard.
    fn waker(&self) -> BorrowedFd<'_> {
        self.wakers[self.id].as_fd()
    }
}

impl Host for ProcessHost {
    type Carrier = OwnedFd;

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

    fn pass(&mut self, shard: usize, passing: Passing<OwnedFd>) -> Result<(), Passing<OwnedFd>> {
        match self.passages.departures[shard].try_send(passing) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(passing)) => Err(passing),
            // That shard has ended, and its sockets are closed.
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    fn next_arrival(&mut self) -> Option<Passing<OwnedFd>> {
        self.passages.arrivals.try_recv().ok()
    }

    fn request_auth(&mut self, auth_request: AuthRequest) {
        (self.auth)(AuthCommand::Request(auth_request));
    }

    fn cancel_auth(&mut self, session: SessionKey) {
        (self.auth)(AuthCommand::Cancel(session));
    }

    fn cannot_accept(&mut self, now: Time, why: &AcceptProblem) {
        let (log, advice) = match why {
            AcceptProblem::LimitReached => {
                if let Some(suppressed) = self.limit_log.allow(now.as_nanos()) {
                    tracing::warn!(
                        suppressed,
                        "max_connections reached, further clients get status 503: raise max_connections (with auto: \
                         LimitNOFILE), or add a server"
                    );
                }
                return;
            }
            AcceptProblem::Shortage(error) => (error.to_string(), shortage_advice(error)),
            AcceptProblem::TableFull => (
                "the shard's table of sockets is full".to_owned(),
                "raise LimitNOFILE (ulimit -n), which is the table's size, or lower max_connections",
            ),
        };
        if let Some(suppressed) = self.accept_log.allow(now.as_nanos()) {
            tracing::warn!(why = log, advice, suppressed, "accepting connections paused");
        }
    }

    fn drained(&mut self) {
        (self.drained)();
    }

    fn logs_connections(&self) -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    fn request_refused(&mut self, refusal: &Refusal, address: Option<IpAddr>) {
        let Refusal { method, path, host, origin, status, cause, .. } = refusal;
        tracing::debug!(
            address = address.map(tracing::field::display),
            status,
            cause,
            %method,
            path = %Escaped(path),
            host = %Escaped(host),
            origin = %Escaped(origin),
            "request refused"
        );
    }

    fn replacement(&mut self, begun: Time) -> Replacement {
        // Between the two the panic was logged, and to put names to a backtrace takes its time.
        let last = LAST_PANIC_NS.swap(self.now().as_nanos(), Ordering::Relaxed);
        if last != u64::MAX && begun.since(Time::from_nanos(last)) < PANIC_INTERVAL {
            return Replacement::End(io::Error::other(RepeatedPanic));
        }
        (self.rebuild)().map_or(Replacement::None, |shard| Replacement::Shard(Box::new(shard)))
    }

    fn shard_failed(&mut self) {
        let connections = self.metrics.connections.value();
        self.metrics.shard_failed();
        tracing::error!(
            shard = self.id,
            connections,
            "shard panicked: its connections are closed and it restarts"
        );
    }

    #[cfg(debug_assertions)]
    fn before_input(&self, bytes: &[u8]) {
        if let Some(text) = PANIC_ON.as_ref().filter(|text| !text.is_empty()) {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "what PANIC_ON names has arrived");
        }
    }

    fn connection_closed(&mut self, name: &str, reason: CloseReason, address: Option<IpAddr>) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(suppressed) = self.close_log.allow(self.now().as_nanos())
        {
            let address = address.map(tracing::field::display);
            tracing::debug!(address, name = %Escaped(name), reason = reason.label(), suppressed, "connection closed");
        }
    }
}

/// What helps when the kernel has no descriptor, or no memory.
fn shortage_advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "raise LimitNOFILE (ulimit -n), or lower max_connections",
        Some(Errno::NFILE) => "the whole system has too many open files: raise fs.file-max (sysctl)",
        _ => {
            "the kernel is short of memory for sockets: lower max_connections, or raise net.ipv4.tcp_mem (sysctl)"
        }
    }
}

/// For tests of this build alone: input with this text makes a shard panic. No client's, as its frames are
/// masked, unless it means to.
#[cfg(debug_assertions)]
static PANIC_ON: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("PANIC_ON").ok());

/// No descriptor, or no memory for one: it will not be better at once.
pub(super) fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}
