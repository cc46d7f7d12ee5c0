//! One connection's life: what it is doing, what it has not yet understood of the input, and what it has still to say.
//!
//! A connection yields whole requests and messages and takes whole answers. It does not know that rooms
//! exist. An idle one owns its slot, its name and nothing else.

#![forbid(unsafe_code)]

mod outbox;

pub use outbox::{Outbox, Skipped};

use crate::base::Time;
use crate::metrics::CloseReason;
use crate::ws::{Decoder, Window};

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Reading a request head (RFC 9112), the first one or the next.
    Head,
    /// An open WebSocket.
    Open,
    /// Our Close frame is out, or on its way; the peer's is awaited (RFC 6455 §7.1.2).
    Closing,
    /// Nothing more is taken in: when everything has gone out, the connection ends.
    Finishing(Ending),
    /// The sending side is shut; what still arrives is thrown away until the peer ends the stream too. Closing at
    /// once would make the kernel answer unread bytes with a reset, which can destroy our last words.
    Lingering,
    /// Handed to the driver to be closed.
    Closed,
}

impl State {
    /// Whether what still arrives brings about nothing but the end.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Closing | Self::Finishing(_) | Self::Lingering | Self::Closed)
    }
}

/// How a connection ends once its last bytes are out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Close at once: the peer has said everything it had to say.
    AtOnce,
    /// Shut the sending side and wait for the peer's end.
    Linger,
}

/// What an open WebSocket is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// Every message is sent back.
    Echo,
    /// The plain text protocol, in a room.
    Chat,
    /// The Centrifuge protocol, in JSON.
    Centrifuge,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// What it is doing.
    pub state: State,
    /// What its WebSocket is connected to, once it is one.
    pub endpoint: Option<Endpoint>,
    /// Why it ends; the first reason stays.
    pub reason: CloseReason,
    /// How what only it gets is compressed, if it is.
    pub window: Option<Window>,
    /// Accepted above the bound on connections: whatever it asks, the answer is 503.
    pub surplus: bool,
    /// The kernel takes no more bytes until it says otherwise.
    pub blocked: bool,
    /// Stands in the shard's queue of connections with bytes of their own to send.
    pub queued: bool,
    /// Stands in the shard's list of connections that are not read from for now.
    pub paused: bool,
    /// The peer has ended its stream.
    pub ended: bool,
    /// A ping is unanswered.
    pub pinged: bool,
    /// A write is under way, in a batch with others. Kept up only for those who sit in several rooms.
    pub under_way: bool,
    /// The fragments of a message under way.
    pub decoder: Decoder,
    /// Bytes of a request head that is not complete.
    pub head: Option<Box<PartialHead>>,
    /// Bytes of its own that wait to be written.
    pub outbox: Outbox,
    /// When anything was last received.
    pub heard: Time,
}

/// The beginning of a request head.
#[derive(Debug, Default)]
pub struct PartialHead {
    /// What has come of it.
    pub bytes: Vec<u8>,
    /// How much of it has been searched for the end.
    pub scanned: usize,
}

impl Conn {
    /// A connection that was accepted at `now`.
    pub fn new(now: Time, surplus: bool) -> Self {
        Self {
            state: State::Head,
            endpoint: None,
            reason: CloseReason::Gone,
            window: None,
            surplus,
            blocked: false,
            queued: false,
            paused: false,
            ended: false,
            under_way: false,
            pinged: false,
            decoder: Decoder::default(),
            head: None,
            outbox: Outbox::default(),
            heard: now,
        }
    }

    /// Whether input is still of interest.
    pub const fn listens(&self) -> bool {
        matches!(self.state, State::Head | State::Open | State::Closing | State::Lingering)
    }
}

/// An idle member costs its slot in the table, 16 bytes in its audience, 16 in the timer wheel, a descriptor in the
/// driver's table and what its shard knows of the client.
const _: () = assert!(size_of::<Conn>() <= 80, "a connection's slot has grown");
