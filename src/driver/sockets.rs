//! What the loop needs of a kernel: the interface behind which epoll, the ring and the simulation stand.
//!
//! An implementation knows sockets and its kernel interface, and decides nothing: when a connection is read
//! from, written to, accepted or closed, is the loop's alone. It is chosen at compile time, so a call of it
//! costs what a function does.

use core::net::IpAddr;
use std::io;
use std::time::Duration;

use super::slots::SocketId;
use crate::base::ConnKey;
use crate::shard::{Write, WriteId};

/// Sockets of one shard, its listeners among them, and the way to wait for them.
///
/// Every method returns at once, but for [`Sockets::wait`]. An error of one is the kernel refusing the call
/// at all, and ends the loop; that a socket has failed is an outcome.
pub(super) trait Sockets {
    /// What is kept for a connection, in its slot of the loop's table.
    type Socket;

    /// Something that the kernel has done for a connection by itself. Each is given to [`Sockets::complete`],
    /// or to [`Sockets::release`] alone when its connection is gone.
    type Completion: Copy;
    /// A socket between two loops.
    type Carrier;

    /// Waits until something has happened, but at most `timeout` (`None`: however long), and appends what
    /// has. With nothing to report it may return early. What another thread or shard wakes the loop for is
    /// not an event: each turn looks for it.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event<Self::Completion>>,
    ) -> io::Result<()>;

    /// Accepted connections in one turn.
    fn accepts_per_turn(&self) -> usize;

    /// Whether [`Sockets::accept`] has something to answer.
    fn has_connection(&self) -> bool;

    /// The next connection. Its address costs some implementations calls to the kernel, so it need not be
    /// found out unless `wants_address`.
    fn accept(&mut self, wants_address: bool) -> io::Result<Accept<Self::Socket>>;

    /// Has connections come as far as there is room for them. False: some have to wait because there is none.
    fn keep_accepting(&mut self) -> io::Result<bool>;

    /// Accepts no more until [`Sockets::keep_accepting`]. Accepts in flight may still complete, and wait.
    fn pause_accepting(&mut self) -> io::Result<()>;

    /// Closes the listeners, and connections that were not accepted yet.
    fn close_listeners(&mut self) -> io::Result<()>;

    /// A connection was accepted, and is called `key` from now on.
    fn open(&mut self, key: ConnKey, socket: &mut Self::Socket) -> io::Result<Opened>;

    /// Where the peer of an open socket is; `None`: the kernel does not know it any more. It costs some
    /// implementations several calls.
    fn peer_address(&mut self, socket: &mut Self::Socket) -> io::Result<Option<IpAddr>>;

    /// Connections that are read from, in one turn.
    fn reads_per_turn(&self) -> usize;

    /// Reads once; or, where bytes come by themselves, has them come from now on ([`Input::Later`]).
    fn read(&mut self, key: ConnKey, socket: &mut Self::Socket) -> io::Result<Input<'_>>;

    /// What a completion brings.
    fn complete(&mut self, socket: &mut Self::Socket, completion: Self::Completion) -> Input<'_>;

    /// A completion is done with: its bytes were taken, or are not needed.
    fn release(&mut self, completion: Self::Completion);

    /// Where bytes come by themselves: they are not to for now. Some may still come, and are to be taken.
    fn stop_reading(&mut self, key: ConnKey, socket: &mut Self::Socket) -> io::Result<()>;

    /// Whether nothing is done for a socket by itself: it may be taken out.
    fn is_quiet(&self, socket: &Self::Socket) -> bool;

    /// Takes a socket out, so that another loop can have it; `Err`: that cannot be done now.
    fn detach(&mut self, socket: Self::Socket) -> io::Result<Result<Self::Carrier, Self::Socket>>;

    /// Takes a socket in that another loop has had; `None`: there is no place for it, and it is closed.
    fn adopt(&mut self, carrier: Self::Carrier) -> io::Result<Option<Self::Socket>>;

    /// Writes that may be in flight together.
    fn writes_at_once(&mut self) -> usize;

    /// Writes; or takes the write into a batch ([`Outcome::InFlight`]), in which it has the index
    /// `write_index`. Its bytes stay where they are until [`Sockets::perform`] has returned.
    fn write(&mut self, socket: &mut Self::Socket, write: &Write<'_>, write_index: usize) -> Outcome;

    /// Performs the writes in flight, and sets their outcomes.
    fn perform(&mut self, writes: &mut [Writing]) -> io::Result<()>;

    /// A socket has not taken everything: an event is to report when it takes bytes again.
    fn watch_writable(&mut self, key: ConnKey, socket: &mut Self::Socket) -> io::Result<()>;

    /// Ends the stream to the peer; the other direction goes on. It fails when the peer is gone already, and
    /// then its end is an event of its own.
    fn shut_sending(&mut self, socket: &mut Self::Socket) -> io::Result<()>;

    /// The shard has failed: forgets what completions have brought for connections and writes that were not
    /// done, and ends those that are in flight. Every connection will be closed.
    fn abandon(&mut self) -> io::Result<()>;

    /// Writes bytes before the socket is closed, if it takes them at once.
    fn send_last(&mut self, socket: &mut Self::Socket, bytes: &'static [u8]) -> io::Result<()>;

    /// Closes a socket, with a reset when `reset`.
    fn close(&mut self, key: ConnKey, socket: Self::Socket, reset: bool) -> io::Result<()>;

    /// The loop ends: queued operations are still to be done.
    fn finish(&mut self) -> io::Result<()>;
}

/// Something that has happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event<C> {
    /// It can be read from, or written to, or has ended.
    Ready {
        /// Which.
        id: SocketId,
        /// It may have bytes, or its end.
        readable: bool,
        /// It takes bytes.
        writable: bool,
        /// Its end, or an error, is there, behind what bytes there are. No other event will report it.
        read_closed: bool,
    },
    /// The kernel has done something for it.
    Completed(SocketId, C),
}

/// The outcome of an accept.
#[derive(Debug)]
pub(super) enum Accept<T> {
    /// A connection, and where it comes from, if that is known.
    Connection(T, Option<IpAddr>),
    /// The connection was gone before it was accepted; the next one may be fine.
    Gone,
    /// None waits; an event reports the next one.
    Empty,
    /// There is no descriptor for it, or no memory: for what reason.
    Shortage(io::Error),
}

/// The outcome for an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opened {
    /// It is served.
    Ready,
    /// The kernel does not watch it.
    Failed,
}

/// What a read or a completion has brought.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// Bytes. `again`: there may be more that no event will report.
    Bytes {
        /// The bytes, which are the loop's to change.
        bytes: &'a mut [u8],
        /// Whether it must be read from again.
        again: bool,
    },
    /// Nothing; it must be read from again.
    Again,
    /// Nothing for now; an event will follow.
    Later,
    /// Room for writes: the shard is to know.
    Writable,
    /// The peer has ended its stream.
    End,
    /// The socket has failed.
    Broken,
}

/// A write, and its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    /// Identifies the write to the shard.
    pub(super) write_id: WriteId,
    /// The slot of the connection.
    pub(super) conn: usize,
    /// Its outcome.
    pub(super) outcome: Outcome,
}

/// The outcome of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The kernel has not reported yet how many of `offered` bytes it takes.
    InFlight {
        /// What it is offered.
        offered: usize,
    },
    /// The kernel took `len` bytes of `offered`.
    Took {
        /// What it took.
        len: usize,
        /// What it was offered.
        offered: usize,
    },
    /// The socket takes nothing for now.
    Full,
    /// The socket has failed.
    Failed,
}

impl Outcome {
    /// Whether the socket takes no more for now.
    pub(super) const fn is_full(self) -> bool {
        match self {
            Self::Took { len, offered } => len < offered,
            Self::Full => true,
            Self::InFlight { .. } | Self::Failed => false,
        }
    }
}
