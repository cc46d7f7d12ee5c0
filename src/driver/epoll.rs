//! Sockets on epoll, through mio: edge-triggered, every one registered once for both directions and never
//! again.

use core::net::IpAddr;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use socket2::Socket;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::backend::is_shortage;
use super::slots::{ID_BITS, SocketId};
use super::sockets::{Accept, Event, Input, Opened, Outcome, Sockets, Writing};
use crate::base::ConnKey;
use crate::shard::{SLICES_MAX, Write};

/// Bytes that one read takes at most. One buffer for each shard: no connection owns one.
const READ_BYTES: usize = 64 * 1024;

/// Reads, and accepts, in one turn: then it is the sweep's turn again.
const READS_PER_TURN: usize = 256;
const ACCEPTS_PER_TURN: usize = 128;

/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1024;

/// Connections have the tokens below 2⁶⁰ ([`SocketId`]); listeners those from there on.
const LISTENERS: usize = 1 << ID_BITS;
const WAKE: Token = Token(usize::MAX);

/// An epoll instance.
#[derive(Debug)]
pub struct Instance(Poll);

impl Instance {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Poll::new()?))
    }

    /// Has it watch the listeners, and what wakes its shard.
    pub(super) fn sockets(self, listeners: Vec<Socket>, waker: BorrowedFd<'_>) -> io::Result<EpollSockets> {
        let poll = self.0;
        poll.registry().register(&mut SourceFd(&waker.as_raw_fd()), WAKE, Interest::READABLE)?;
        let watched = listeners.into_iter().enumerate().map(|(index, socket)| {
            let mut listener = TcpListener::from_std(socket.into());
            poll.registry().register(&mut listener, Token(LISTENERS + index), Interest::READABLE)?;
            // Connections may have come before it was watched.
            Ok(Listener { listener, edge: Edge::New })
        });
        let listeners = watched.collect::<io::Result<_>>()?;
        Ok(EpollSockets {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            listeners,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }
}

/// The sockets of a shard.
pub(super) struct EpollSockets {
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    buffer: Box<[u8]>,
}

struct Listener {
    listener: TcpListener,
    edge: Edge,
}

/// What is known of a listener's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    /// It is empty.
    None,
    /// Something has come, and nothing was taken yet.
    New,
    /// One connection was taken since.
    One,
    /// More than one.
    More,
}

const _: () = assert!(cfg!(debug_assertions) || size_of::<Option<super::slots::Slot<TcpStream>>>() <= 8);

impl Sockets for EpollSockets {
    type Socket = TcpStream;
    type Completion = std::convert::Infallible;
    type Carrier = OwnedFd;

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event<Self::Completion>>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let token = event.token();
            if token == WAKE {
                continue; // every turn handles control messages and the other shards' messages
            }
            if let Some(index) = token.0.checked_sub(LISTENERS) {
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.edge = Edge::New;
                }
                continue;
            }
            events.push(Event::Ready {
                id: SocketId::from_bits(token.0 as u64),
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed() || event.is_error(),
            });
        }
        Ok(())
    }

    fn accepts_per_turn(&self) -> usize {
        ACCEPTS_PER_TURN
    }

    fn has_connection(&self) -> bool {
        self.listeners.iter().any(|it| it.edge != Edge::None)
    }

    fn accept(&mut self, _wants_address: bool) -> io::Result<Accept<TcpStream>> {
        for Listener { listener, edge } in &mut self.listeners {
            if *edge == Edge::One && !has_connection(listener) {
                *edge = Edge::None;
            }
            if *edge == Edge::None {
                continue;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    *edge = if *edge == Edge::New { Edge::One } else { Edge::More };
                    return Ok(Accept::Connection(stream, Some(peer.ip())));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => *edge = Edge::None,
                Err(error) if Errno::from_io_error(&error).is_some_and(is_shortage) => {
                    return Ok(Accept::Shortage(error));
                }
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    return Ok(Accept::Gone);
                }
            }
        }
        Ok(Accept::Empty)
    }

    fn keep_accepting(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn pause_accepting(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn close_listeners(&mut self) -> io::Result<()> {
        self.listeners.clear();
        Ok(())
    }

    fn open(&mut self, key: ConnKey, stream: &mut TcpStream) -> io::Result<Opened> {
        let token = Token(usize::try_from(SocketId::from(key).to_bits()).unwrap_or(usize::MAX));
        match self.poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => Ok(Opened::Ready),
            Err(error) => {
                let advice = match Errno::from_io_error(&error) {
                    Some(Errno::NOSPC) => "raise fs.epoll.max_user_watches (sysctl)",
                    _ => "the kernel is short of memory",
                };
                tracing::warn!(%error, advice, "a connection was dropped: epoll does not watch it");
                Ok(Opened::Failed)
            }
        }
    }

    fn peer_address(&mut self, stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
        Ok(stream.peer_addr().ok().map(|peer| peer.ip()))
    }

    fn reads_per_turn(&self) -> usize {
        READS_PER_TURN
    }

    fn read(&mut self, _key: ConnKey, stream: &mut TcpStream) -> io::Result<Input<'_>> {
        Ok(match stream.read(&mut self.buffer) {
            Ok(0) => Input::End,
            // A short read has emptied the socket: the next bytes are a new edge (epoll(7)).
            Ok(len) => Input::Bytes { bytes: &mut self.buffer[..len], again: len == READ_BYTES },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Input::Later,
            Err(error) if error.kind() == ErrorKind::Interrupted => Input::Again,
            Err(_) => Input::Broken,
        })
    }

    fn complete(&mut self, _stream: &mut TcpStream, completion: Self::Completion) -> Input<'_> {
        match completion {}
    }

    fn release(&mut self, completion: Self::Completion) {
        match completion {}
    }

    fn stop_reading(&mut self, _key: ConnKey, _stream: &mut TcpStream) -> io::Result<()> {
        Ok(())
    }

    fn is_quiet(&self, _stream: &TcpStream) -> bool {
        true
    }

    fn detach(&mut self, mut stream: TcpStream) -> io::Result<Result<OwnedFd, TcpStream>> {
        Ok(match self.poll.registry().deregister(&mut stream) {
            Ok(()) => Ok(stream.into()),
            Err(_) => Err(stream),
        })
    }

    fn adopt(&mut self, carrier: OwnedFd) -> io::Result<Option<TcpStream>> {
        Ok(Some(TcpStream::from_std(Socket::from(carrier).into())))
    }

    fn writes_at_once(&mut self) -> usize {
        1
    }

    fn write(&mut self, stream: &mut TcpStream, write: &Write<'_>, _write_index: usize) -> Outcome {
        match write_to(stream, write) {
            Ok((len, offered)) => Outcome::Took { len, offered },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Outcome::Full,
            Err(_) => Outcome::Failed,
        }
    }

    fn perform(&mut self, _writes: &mut [Writing]) -> io::Result<()> {
        Ok(())
    }

    fn watch_writable(&mut self, _key: ConnKey, _stream: &mut TcpStream) -> io::Result<()> {
        Ok(())
    }

    fn shut_sending(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let _ = stream.shutdown(Shutdown::Write);
        Ok(())
    }

    fn abandon(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn send_last(&mut self, stream: &mut TcpStream, bytes: &'static [u8]) -> io::Result<()> {
        let _ = stream.write(bytes);
        Ok(())
    }

    fn close(&mut self, _key: ConnKey, stream: TcpStream, reset: bool) -> io::Result<()> {
        if reset {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        drop(stream);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
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

/// Whether a connection waits. An accept that finds none costs the kernel a socket made and thrown away, ten
/// times as much as this check; where connections come one by one that would be one for each.
fn has_connection(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If the check fails, the accept itself will report it.
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)).map_or(true, |ready| ready > 0)
}
