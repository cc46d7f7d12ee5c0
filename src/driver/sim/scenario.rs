//! What happens in a simulation, as data: the clients, their actions and times, and the faults of the
//! machine. Drawn from a seed; a value, so that it can be made smaller while it still fails.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Late;
use crate::base::spsc::RingLimits;
use crate::chat::{RoomOptions, RoomRules};
use crate::metrics::CloseReason;
use crate::shard::{Options, mesh};

/// One simulation.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything that is not written here is drawn from it.
    pub seed: u64,
    /// How many shards.
    pub shards: usize,
    /// The options of the shards.
    pub options: Options,
    /// What the kernel does.
    pub faults: Faults,
    /// Whether tokens authenticate clients.
    pub tokens: bool,
    /// How the engines behave; `None`: those in memory.
    pub engine: Option<Late>,
    /// How many rooms clients go into.
    pub rooms: usize,
    /// The clients.
    pub clients: Vec<Plan>,
    /// What they do, in the order of time.
    pub events: Vec<Event>,
    /// How it ends.
    pub ending: Ending,
}

/// What a kernel may do to a driver, all of it legal.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Longest read.
    pub read_bytes_max: usize,
    /// Longest write.
    pub write_bytes_max: usize,
    /// Once in so many writes the socket takes nothing, though there is room; 0: never.
    pub refused_one_in: u64,
    /// Once in so many writes the socket takes less than there is room for; 0: never.
    pub short_one_in: u64,
    /// Once in so many turns a socket is reported readable that is not; 0: never.
    pub spurious_one_in: u64,
    /// Whether bytes arrive by themselves, as on a ring, and not when they are read.
    pub completes: bool,
    /// Whether events are reported in any order.
    pub reorder: bool,
    /// Writes in flight at a time, less one.
    pub writes_at_once: usize,
    /// Reads in a turn.
    pub reads_per_turn: usize,
    /// Accepts in a turn.
    pub accepts_per_turn: usize,
    /// Size of the rings between shards.
    pub rings: RingLimits,
    /// Longest delay of a turn, a wake-up, an answer.
    pub delay_max: Duration,
}

/// A kernel without whims: epoll's, on an idle machine.
impl Default for Faults {
    fn default() -> Self {
        Self {
            read_bytes_max: 64 * 1024,
            write_bytes_max: usize::MAX,
            refused_one_in: 0,
            short_one_in: 0,
            spurious_one_in: 0,
            completes: false,
            reorder: false,
            writes_at_once: 1,
            reads_per_turn: 256,
            accepts_per_turn: 128,
            rings: mesh::RING,
            delay_max: Duration::from_micros(20),
        }
    }
}

/// What a client is like, whenever it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The shard that its connections come to.
    pub shard: usize,
    /// What it connects to.
    pub endpoint: Endpoint,
    /// What it offers of permessage-deflate.
    pub deflate: Deflate,
    /// How it reads.
    pub reading: Reading,
    /// Bytes that it lets wait before its socket is full.
    pub capacity: usize,
    /// Whether it answers pings and Closes, and ends its stream when the server does.
    pub answers: bool,
    /// Whether it sends its messages in several frames.
    pub fragments: bool,
    /// Whether the auth backend, if used, rejects it.
    pub unwanted: bool,
    /// Whether the auth backend, if used, never answers.
    pub unanswered: bool,
    /// The lifetime of its identity, by a token or the auth backend.
    pub lifetime: Option<Duration>,
    /// How long it may be in a room, likewise.
    pub room_lifetime: Option<Duration>,
    /// The rooms that the server puts it into, likewise, by the bits.
    pub server_rooms: u8,
    /// Whether it is not listed in rooms that a token lets it into.
    pub quiet: bool,
    /// What it brings in place of a good token.
    pub brings: Brings,
}

/// What a client brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brings {
    /// A token.
    Good,
    /// One that has expired.
    Expired,
    /// Something else.
    Garbage,
    /// Nothing.
    Nothing,
}

/// What a client brings to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fresh {
    /// A fresh token.
    Good,
    /// One that has expired.
    Expired,
    /// Another user's.
    Foreign,
    /// None.
    Empty,
}

/// Where a client connects to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A room, in the plain text protocol.
    Room(u16),
    /// Several rooms, by the bits, in the Centrifuge protocol. After a reconnect it recovers.
    Centrifuge(u8),
    /// The endpoint that sends back what it gets.
    Echo,
    /// A room, in the plain protocol over WebSocket and HTTP: it begins in this way, and resumes from its
    /// position in any.
    Plain(u16, Way),
}

/// How a client of the plain protocol receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A WebSocket.
    WebSocket,
    /// A stream of events.
    Events,
    /// A stream of lines.
    Lines,
    /// Long polls.
    Poll,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Events, Self::Lines, Self::Poll];
}

/// What a client offers of permessage-deflate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deflate {
    /// Nothing.
    No,
    /// All of it.
    Full,
    /// With a window of 512 bytes.
    Small,
}

/// How a client reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Everything, at once.
    AtOnce,
    /// So many bytes, so often.
    Slowly(usize, Duration),
    /// Nothing after the handshake.
    Never,
}

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, from the beginning.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A client does something; nothing when it cannot at that time.
    Client(usize, Act),
    /// A shard's thread does not run for so long.
    Pause(usize, Duration),
    /// The clock jumps forward.
    Jump(Duration),
    /// Another node publishes so many bytes in a room.
    Elsewhere(usize, usize),
    /// The options change, some of them.
    Reload(Reload),
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Connects, if it is not connected, and joins.
    Join,
    /// Publishes a message of at least so many bytes.
    Publish(usize),
    /// Publishes so many messages of at least so many bytes at once, compressed if that was agreed on.
    Burst(usize, usize),
    /// Publishes in the room of this number, whether it is in it or not, if it is a JSON client.
    PublishIn(usize, usize),
    /// Sends so many commands of all kinds in one frame, if it is a JSON client.
    Batch(usize),
    /// Sends a ping.
    Ping,
    /// Queries presence or history of a room, if it is a JSON client.
    Query(Look),
    /// Brings a fresh token for itself, or for a room that it is in.
    Refresh(bool, Fresh),
    /// Reads nothing for so long.
    Stall(Duration),
    /// Goes over to another way of the plain protocol, from where it is.
    Switch(Way),
    /// Polls a second time beside the poll that waits.
    Twin,
    /// Publishes so many messages by request, at once, and is cut off in the middle of the last one.
    Cut(usize),
    /// Goes.
    Leave(Leave),
    /// Violates the protocol.
    Break(Wrong),
}

/// A query of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Its members.
    Presence,
    /// How many are there.
    Stats,
    /// The last so many publications.
    History(usize),
    /// How far the last publication that it received has come.
    Delivery,
}

/// How a client goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// With a closing handshake, with this status code.
    Close(u16),
    /// It ends its stream.
    HalfClose,
    /// It resets the connection.
    Reset,
}

/// What a client may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// A frame without a mask.
    Unmasked,
    /// An opcode without a meaning.
    ReservedOpcode,
    /// A reserved bit.
    ReservedBit,
    /// The continuation of nothing.
    Continuation,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A message over the bound; only its beginning is sent.
    TooBig,
    /// A Close with a code that must not be sent.
    CloseCode,
    /// A ping of 126 bytes.
    LongPing,
    /// A compressed message that is over the bound when it is inflated.
    Bomb,
    /// A command in the form of an array.
    ArrayCommand,
    /// A subscription with unknown deltas.
    UnknownDelta,
    /// A binary message where only text is taken.
    Binary,
    /// A request that is none, in place of the handshake.
    Garbage,
    /// A request head that never ends.
    EndlessHead,
    /// A head that stops in the middle, and nothing more.
    HalfAHead,
}

impl Wrong {
    /// Everything that can be done wrong.
    pub const ALL: [Self; 15] = [
        Self::Unmasked,
        Self::ReservedOpcode,
        Self::ReservedBit,
        Self::Continuation,
        Self::NotUtf8,
        Self::TooBig,
        Self::CloseCode,
        Self::LongPing,
        Self::Bomb,
        Self::ArrayCommand,
        Self::UnknownDelta,
        Self::Binary,
        Self::Garbage,
        Self::EndlessHead,
        Self::HalfAHead,
    ];

    /// Whether it is wrong only in JSON.
    pub const fn is_json(self) -> bool {
        matches!(self, Self::ArrayCommand | Self::UnknownDelta)
    }

    /// Whether it is done in place of the opening handshake.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Garbage | Self::EndlessHead | Self::HalfAHead)
    }

    /// The status code (RFC 6455 §7.4.1, or RFC 9110 §15) that it is answered with.
    pub const fn answer(self) -> u16 {
        match self {
            Self::Unmasked
            | Self::ReservedOpcode
            | Self::ReservedBit
            | Self::Continuation
            | Self::CloseCode
            | Self::LongPing => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig | Self::Bomb => 1009,
            Self::ArrayCommand | Self::UnknownDelta => 3501,
            Self::Binary => 1003,
            Self::Garbage => 400,
            Self::EndlessHead => 431,
            Self::HalfAHead => 408,
        }
    }

    /// The reason that the server counts it under.
    pub const fn reason(self) -> CloseReason {
        match self {
            Self::Unmasked
            | Self::ReservedOpcode
            | Self::ReservedBit
            | Self::Continuation
            | Self::NotUtf8
            | Self::CloseCode
            | Self::LongPing => CloseReason::ProtocolError,
            Self::ArrayCommand | Self::UnknownDelta => CloseReason::InvalidCommand,
            Self::TooBig | Self::Bomb => CloseReason::MessageTooBig,
            Self::Binary => CloseReason::UnsupportedData,
            Self::Garbage | Self::EndlessHead => CloseReason::RequestRejected,
            Self::HalfAHead => CloseReason::RequestTimeout,
        }
    }
}

/// What a reload changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reload {
    /// How long silence lasts before a ping; zero: forever.
    PingInterval(Duration),
    /// How long a room waits for more.
    Coalesce(Duration),
    /// From which length on publications are compressed.
    DeflateMin(usize),
    /// How much a room's log may hold.
    RoomLog(u64),
}

impl Reload {
    /// Changes `options`.
    pub fn apply(self, options: &mut Options) {
        match self {
            Self::PingInterval(interval) => options.ping_interval = interval,
            Self::Coalesce(coalesce) => {
                let rooms = RoomRules::clone(&options.rooms);
                let otherwise = Arc::new(RoomOptions { coalesce, ..RoomOptions::clone(&rooms.otherwise) });
                options.rooms = Arc::new(RoomRules { otherwise, ..rooms });
            }
            Self::DeflateMin(bytes) => options.deflate_bytes_min = bytes,
            Self::RoomLog(bytes) => options.room_log_bytes_max = bytes,
        }
    }
}

/// How a simulation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Every client goes.
    Leave,
    /// The server is drained.
    Drain,
}
