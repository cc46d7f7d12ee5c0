//! The epoll driver, on mio: edge-triggered, every socket registered once for both directions and never again.

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write as _};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::engine::{ACCEPT_PAUSE, is_shortage, unix_ms};
use super::{Ask, Control, Parts, Waker};
use crate::base::{ConnKey, Time};
use crate::logging::{Escaped, RateLimit};
use crate::shard::{Admission, Close, HowToClose, SLICES_MAX, Shard, Write};

/// Bytes that one read takes at most. One buffer for each shard: no connection owns one.
const READ_BYTES: usize = 64 * 1024;

/// Reads, and accepts, in one turn: then it is the sweep's turn again.
const READS_PER_TURN: usize = 256;
const ACCEPTS_PER_TURN: usize = 128;

/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1024;

const WAKE: Token = Token(usize::MAX);
/// Listeners have the tokens below it, downwards; connections never reach there (their generation is below 2³¹).
const LISTENERS: usize = usize::MAX - 1;

/// An epoll instance.
#[derive(Debug)]
pub struct Engine(Poll);

impl Engine {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Poll::new()?))
    }

    pub(super) fn run(self, parts: Parts) -> io::Result<()> {
        Driver::new(self.0, parts)?.run()
    }
}

/// One socket, in the slot of its connection.
#[derive(Debug, Default)]
struct Socket {
    stream: Option<TcpStream>,
    /// Stands in the queue of sockets to be read from.
    queued: bool,
}

struct Driver {
    shard: Shard,
    poll: Poll,
    listeners: Vec<TcpListener>,
    control: Receiver<Control>,
    wakers: Arc<[Waker]>,
    origin: Instant,
    ask: Ask,
    sockets: Vec<Socket>,
    buffer: Box<[u8]>,
    /// Connections that may have bytes for us.
    readable: VecDeque<ConnKey>,
    /// Which listeners may have connections for us.
    acceptable: Vec<bool>,
    accept_again: Option<Time>,
    stop_at: Option<Time>,
    accept_log: RateLimit,
    close_log: RateLimit,
}

impl Driver {
    fn new(poll: Poll, parts: Parts) -> io::Result<Self> {
        let Parts { shard, id, listeners, control, wakers, origin, ask } = parts;
        let waker = wakers[id].as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&waker), WAKE, Interest::READABLE)?;
        let mut listeners: Vec<_> =
            listeners.into_iter().map(|socket| TcpListener::from_std(socket.into())).collect();
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS - index), Interest::READABLE)?;
        }
        Ok(Self {
            shard,
            poll,
            acceptable: vec![true; listeners.len()],
            listeners,
            control,
            wakers,
            origin,
            ask,
            sockets: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            readable: VecDeque::new(),
            accept_again: None,
            stop_at: None,
            accept_log: RateLimit::new(1, Duration::from_secs(10)),
            close_log: RateLimit::new(100, Duration::from_secs(1)),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            let timeout = self.time_to_sleep();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.shard.awake();
            let begun = self.now();
            self.shard.begin_turn(begun);
            self.shard.tell_wall_clock(unix_ms());
            if !self.obey() {
                return Ok(());
            }
            for event in &events {
                self.dispatch(event);
            }
            self.accept_some(begun);
            self.read_some();
            self.shard.run();
            while let Some(question) = self.shard.poll_question() {
                (self.ask)(question);
            }
            self.write_all();
            self.close_all();
            while let Some(key) = self.shard.poll_resume() {
                self.queue_read(key);
            }
            while let Some(shard) = self.shard.poll_wake() {
                self.wakers[shard].wake();
            }
            let ended = self.now();
            self.shard.end_turn(ended.since(begun));
            if self.shard.is_drained() || self.stop_at.is_some_and(|stop| stop <= ended) {
                return Ok(());
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read for the whole shard")]
    fn now(&self) -> Time {
        Time::ZERO + Instant::now().duration_since(self.origin)
    }

    /// How long to wait for events: not at all while there is work, else until the next deadline.
    fn time_to_sleep(&self) -> Option<Duration> {
        let accepting = self.accept_again.is_none() && self.acceptable.contains(&true);
        if accepting || !self.readable.is_empty() || self.shard.has_work() || !self.shard.may_sleep() {
            return Some(Duration::ZERO);
        }
        let next =
            [self.shard.next_deadline(), self.accept_again, self.stop_at].into_iter().flatten().min()?;
        Some(next.since(self.now()))
    }

    /// Does what the process says. False: end now.
    fn obey(&mut self) -> bool {
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::Reload(options) => self.shard.reconfigure(self.now(), options),
                Control::Drain(bound) => {
                    self.listeners.clear();
                    self.acceptable.clear();
                    self.accept_again = None;
                    self.stop_at = Some(self.now() + bound);
                    self.shard.drain();
                }
                Control::Decided(conn, verdict) => self.shard.decided(conn, verdict),
                Control::Stop => return false,
            }
        }
        true
    }

    fn dispatch(&mut self, event: &Event) {
        let token = event.token();
        if token == WAKE {
            return; // whoever woke us has put something into a ring or a channel, which every turn looks at
        }
        if let Some(ready) = LISTENERS.checked_sub(token.0).and_then(|index| self.acceptable.get_mut(index)) {
            *ready = true;
            return;
        }
        let key = ConnKey::from_bits(token.0 as u64);
        if event.is_writable() {
            self.shard.writable(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.queue_read(key);
        }
    }

    fn queue_read(&mut self, key: ConnKey) {
        let Some(socket) = self.sockets.get_mut(key.index()) else { return };
        if socket.stream.is_some() && !std::mem::replace(&mut socket.queued, true) {
            self.readable.push_back(key);
        }
    }

    fn read_some(&mut self) {
        for _ in 0..READS_PER_TURN.min(self.readable.len()) {
            let Some(key) = self.readable.pop_front() else { return };
            let Some(Socket { stream: Some(stream), queued }) = self.sockets.get_mut(key.index()) else {
                continue;
            };
            *queued = false;
            if !self.shard.may_read(key) {
                continue;
            }
            match stream.read(&mut self.buffer) {
                Ok(0) => self.shard.ended(key),
                Ok(len) => {
                    self.shard.received(key, &mut self.buffer[..len]);
                    // A short read has emptied the socket: the next bytes, or its end, are a new edge (epoll(7)). Else there
                    // may be more, which comes after everybody else's turn.
                    if len == READ_BYTES {
                        self.queue_read(key);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => self.queue_read(key),
                Err(_) => self.shard.broken(key),
            }
        }
    }

    fn accept_some(&mut self, now: Time) {
        if self.accept_again.is_some_and(|again| now < again) {
            return;
        }
        self.accept_again = None;
        let mut budget = ACCEPTS_PER_TURN;
        for index in 0..self.listeners.len() {
            let mut accepted = 0;
            while self.acceptable[index] && budget > 0 {
                if accepted == 1 && !has_connection(&self.listeners[index]) {
                    self.acceptable[index] = false;
                    break;
                }
                budget -= 1;
                let admission = self.shard.admission();
                if admission == Admission::Later {
                    return self.pause_accepting(now, "the server is full");
                }
                // What was closed in this turn must have left its slot before it is given away.
                self.close_all();
                match self.listeners[index].accept() {
                    Ok((stream, peer)) => {
                        accepted += 1;
                        self.open(stream, peer.ip(), admission);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.acceptable[index] = false,
                    Err(error) if Errno::from_io_error(&error).is_some_and(is_shortage) => {
                        return self.pause_accepting(now, &error.to_string());
                    }
                    // The connection was gone before it was accepted; the next one may be fine.
                    Err(error) => tracing::debug!(%error, "accept"),
                }
            }
        }
    }

    fn open(&mut self, mut stream: TcpStream, peer: IpAddr, admission: Admission) {
        let key = self.shard.opened(admission, Some(peer));
        let token = Token(usize::try_from(key.to_bits()).unwrap_or(usize::MAX));
        let registered =
            self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE);
        if key.index() >= self.sockets.len() {
            self.sockets.resize_with(key.index() + 1, Socket::default);
        }
        self.sockets[key.index()] = Socket { stream: Some(stream), queued: false };
        match registered {
            // Its first bytes are most likely there: the listener hands nobody out before (`TCP_DEFER_ACCEPT`).
            Ok(()) => self.queue_read(key),
            Err(error) => {
                tracing::warn!(%error, "a socket cannot be registered with epoll");
                self.shard.broken(key);
            }
        }
    }

    fn pause_accepting(&mut self, now: Time, why: &str) {
        self.accept_again = Some(now + ACCEPT_PAUSE);
        self.shard.accept_paused();
        if let Some(suppressed) = self.accept_log.allow(now.as_nanos()) {
            tracing::warn!(why, suppressed, "accepting pauses: raise LimitNOFILE or lower max_connections");
        }
    }

    fn write_all(&mut self) {
        while let Some(write) = self.shard.poll_write() {
            let ticket = write.ticket;
            let Some(Socket { stream: Some(stream), .. }) = self.sockets.get_mut(write.conn) else {
                self.shard.refused(ticket);
                continue;
            };
            match write_to(stream, &write) {
                Ok((len, offered)) => self.shard.wrote(ticket, len, offered),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.shard.refused(ticket),
                Err(_) => self.shard.write_failed(ticket),
            }
        }
    }

    fn close_all(&mut self) {
        while let Some(Close { key, how, reason, name }) = self.shard.poll_close() {
            let Some(socket) = self.sockets.get_mut(key.index()) else { continue };
            if how == HowToClose::Shutdown {
                if let Some(stream) = &socket.stream {
                    // It fails when the peer is gone already; then its end is an event of its own.
                    let _ = stream.shutdown(Shutdown::Write);
                }
                continue;
            }
            let stream = std::mem::take(socket).stream;
            if let (HowToClose::Reset, Some(stream)) = (how, &stream) {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            drop(stream);
            self.shard.closed(key);
            if tracing::enabled!(tracing::Level::DEBUG)
                && let Some(suppressed) = self.close_log.allow(self.now().as_nanos())
            {
                tracing::debug!(name = %Escaped(&name), reason = reason.label(), suppressed, "closed");
            }
        }
    }
}

/// Writes as much as the socket takes; how much that was, and of how much.
fn write_to(stream: &mut TcpStream, write: &Write<'_>) -> io::Result<(usize, usize)> {
    if let Some(bytes) = write.contiguous() {
        return Ok((stream.write(bytes)?, bytes.len()));
    }
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = write.gather(&mut slices);
    let offered = slices[..count].iter().map(|slice| slice.len()).sum();
    Ok((stream.write_vectored(&slices[..count])?, offered))
}

/// Whether a connection waits. An accept that finds none costs the kernel a socket made and thrown away, ten times as much
/// as this question; where connections come one by one that would be one for each.
fn has_connection(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If it cannot be asked, the accept itself will tell.
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)).map_or(true, |ready| ready > 0)
}
