//! The epoll driver, on mio: edge-triggered, every socket registered once for both directions and never again.

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write as _};
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::Parts;
use super::engine::{Station, Wish, is_shortage};
use crate::base::{ConnKey, Time};
use crate::shard::{Admission, Close, HowToClose, SLICES_MAX, Write};

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
    station: Station,
    poll: Poll,
    listeners: Vec<TcpListener>,
    sockets: Vec<Socket>,
    buffer: Box<[u8]>,
    /// Connections that may have bytes for us.
    readable: VecDeque<ConnKey>,
    /// Which listeners may have connections for us.
    acceptable: Vec<bool>,
}

impl Driver {
    fn new(poll: Poll, parts: Parts) -> io::Result<Self> {
        let (station, listeners) = Station::new(parts);
        let waker = station.waker().as_raw_fd();
        poll.registry().register(&mut SourceFd(&waker), WAKE, Interest::READABLE)?;
        let mut listeners: Vec<_> =
            listeners.into_iter().map(|socket| TcpListener::from_std(socket.into())).collect();
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS - index), Interest::READABLE)?;
        }
        Ok(Self {
            station,
            poll,
            acceptable: vec![true; listeners.len()],
            listeners,
            sockets: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            readable: VecDeque::new(),
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
            let begun = self.station.begin_turn();
            match self.station.obey() {
                Wish::Serve => {}
                Wish::Drain => {
                    self.listeners.clear();
                    self.acceptable.clear();
                }
                Wish::Stop => return Ok(()),
            }
            for event in &events {
                self.dispatch(event);
            }
            self.accept_some(begun);
            self.read_some();
            self.station.shard.run();
            self.station.ask_all();
            self.write_all();
            self.close_all();
            while let Some(key) = self.station.shard.poll_resume() {
                self.queue_read(key);
            }
            if self.station.end_turn(begun).is_none() {
                return Ok(());
            }
        }
    }

    fn time_to_sleep(&self) -> Option<Duration> {
        let accepting = self.station.accepts() && self.acceptable.contains(&true);
        if accepting || !self.readable.is_empty() {
            return Some(Duration::ZERO);
        }
        self.station.time_to_sleep(self.station.now())
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
            self.station.shard.writable(key);
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
            if !self.station.shard.may_read(key) {
                continue;
            }
            match stream.read(&mut self.buffer) {
                Ok(0) => self.station.shard.ended(key),
                Ok(len) => {
                    self.station.shard.received(key, &mut self.buffer[..len]);
                    // A short read has emptied the socket: the next bytes, or its end, are a new edge (epoll(7)). Else there
                    // may be more, which comes after everybody else's turn.
                    if len == READ_BYTES {
                        self.queue_read(key);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => self.queue_read(key),
                Err(_) => self.station.shard.broken(key),
            }
        }
    }

    fn accept_some(&mut self, now: Time) {
        if !self.station.may_accept(now) {
            return;
        }
        let mut budget = ACCEPTS_PER_TURN;
        for index in 0..self.listeners.len() {
            let mut accepted = 0;
            while self.acceptable[index] && budget > 0 {
                if accepted == 1 && !has_connection(&self.listeners[index]) {
                    self.acceptable[index] = false;
                    break;
                }
                budget -= 1;
                let admission = self.station.shard.admission();
                if admission == Admission::Later {
                    return self.station.pause_accepting(now, "the server is full");
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
                        return self.station.pause_accepting(now, &error.to_string());
                    }
                    // The connection was gone before it was accepted; the next one may be fine.
                    Err(error) => tracing::debug!(%error, "accept"),
                }
            }
        }
    }

    fn open(&mut self, mut stream: TcpStream, peer: IpAddr, admission: Admission) {
        let key = self.station.shard.opened(admission, Some(peer));
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
                self.station.shard.broken(key);
            }
        }
    }

    fn write_all(&mut self) {
        while let Some(write) = self.station.shard.poll_write() {
            let ticket = write.ticket;
            let Some(Socket { stream: Some(stream), .. }) = self.sockets.get_mut(write.conn) else {
                self.station.shard.refused(ticket);
                continue;
            };
            match write_to(stream, &write) {
                Ok((len, offered)) => self.station.shard.wrote(ticket, len, offered),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.station.shard.refused(ticket),
                Err(_) => self.station.shard.write_failed(ticket),
            }
        }
    }

    fn close_all(&mut self) {
        while let Some(Close { key, how, reason, name }) = self.station.shard.poll_close() {
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
            self.station.shard.closed(key);
            self.station.log_close(&name, reason);
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
