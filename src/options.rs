//! The limits and behaviour of every part of a shard, as plain values.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crate::chat::{AuthMode, RoomRules};
use crate::http::{HeadLimits, OriginRules};
use crate::ws;

/// The limits and behaviour of a shard and its parts. Replaced as a whole on a reload.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Bounds of a request head.
    pub head: HeadLimits,
    /// Bounds of a message, inflated.
    pub message: ws::Limits,
    /// Bytes of a name.
    pub name_bytes_max: usize,
    /// Bytes of a room's name.
    pub room_bytes_max: usize,
    /// From the accept, or the last response, to the end of the next request head.
    pub handshake_timeout: Duration,
    /// Silence after which a member is pinged; zero: never.
    pub ping_interval: Duration,
    /// From a ping to the close, when nothing is received.
    pub pong_timeout: Duration,
    /// How long a long poll waits for publications.
    pub poll_timeout: Duration,
    /// Timeout of a closing handshake and of the final flush.
    pub close_timeout: Duration,
    /// Connections of the whole process.
    pub connections_max: u64,
    /// Connections of one user; 0: any number. Anonymous clients are not counted.
    pub connections_per_user_max: u32,
    /// Connections from one IPv4 address or IPv6 network (/64); 0: any number.
    pub connections_per_address_max: u32,
    /// Bytes of a room's log on one shard, in one format.
    pub room_log_bytes_max: u64,
    /// What holds in which room.
    pub rooms: Arc<RoomRules>,
    /// Bytes of history that all rooms of a shard keep together; above it the least recently used rooms lose
    /// theirs.
    pub history_total_bytes_max: u64,
    /// Messages that a session may publish in a second, with twice as many in a burst; 0: any number.
    pub session_messages_per_second_max: u32,
    /// Commands of any kind that a session may send in a second, with twice as many in a burst; 0: any
    /// number.
    pub session_commands_per_second_max: u32,
    /// How long a command may wait for a home shard, an engine or an authority.
    pub command_timeout: Duration,
    /// Rooms that one client is in, at most.
    pub rooms_per_client_max: usize,
    /// How clients are authenticated.
    pub auth_mode: AuthMode,
    /// Whether anonymous clients may connect, where tokens authenticate clients.
    pub anonymous: bool,
    /// Which origins may open a WebSocket, or use the endpoints of HTTP.
    pub origins: OriginRules,
    /// Whether permessage-deflate is agreed to.
    pub deflate: bool,
    /// Publications shorter than this are not compressed.
    pub deflate_bytes_min: usize,
    /// The address of SockJS's client for pages, which the page for other origins loads.
    pub sockjs_script: Arc<str>,
    /// Whether `/echo` is there.
    pub echo: bool,
    /// Whether `/` is there.
    pub page: bool,
}

/// The defaults of the configuration, without a limit on connections.
impl Default for Options {
    fn default() -> Self {
        Self {
            head: HeadLimits { head_bytes_max: 8 * 1024 },
            message: ws::Limits { message_bytes_max: 64 * 1024 },
            name_bytes_max: 64,
            room_bytes_max: 255,
            handshake_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            poll_timeout: Duration::from_secs(25),
            close_timeout: Duration::from_secs(5),
            connections_max: u64::MAX,
            connections_per_user_max: 0,
            connections_per_address_max: 0,
            room_log_bytes_max: 1024 * 1024,
            rooms: Arc::default(),
            history_total_bytes_max: 256 << 20,
            session_messages_per_second_max: 20,
            session_commands_per_second_max: 100,
            command_timeout: Duration::from_secs(10),
            rooms_per_client_max: 128,
            auth_mode: AuthMode::Open,
            anonymous: false,
            origins: OriginRules::default(),
            deflate: true,
            deflate_bytes_min: 128,
            sockjs_script: SOCKJS_SCRIPT.into(),
            echo: false,
            page: true,
        }
    }
}

impl Options {
    /// A log must hold what is not swept yet beside what slow members need: at least twice the largest
    /// message.
    pub fn log_bytes_max(&self) -> u64 {
        self.room_log_bytes_max.max(2 * self.message.message_bytes_max as u64)
    }

    /// Above this many bytes that a shard has not yet offered to all members, a room's home orders nothing
    /// more for it.
    pub fn congestion_bytes(&self) -> u64 {
        self.log_bytes_max() / 4
    }
}

/// A public address of SockJS's client, in the version whose pages and frames are tested.
const SOCKJS_SCRIPT: &str = "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js";
