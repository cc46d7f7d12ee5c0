//! The validated description of a run, sent to every worker.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::pace::Stage;
use crate::preset::ServerProtocol;
use crate::tokens::Tokens;
use crate::units::Sizes;

/// The kind of run: a set of defaults. All options can be combined with each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Some clients publish, all receive.
    Chat,
    /// Each client publishes to a room of its own.
    Echo,
    /// Opening handshakes at the highest rate.
    Connect,
    /// Connected clients without traffic.
    Idle,
    /// Clients disconnect and reconnect while messages are published.
    Churn,
    /// All clients disconnect at once and reconnect.
    Storm,
    /// Some clients read slowly or never.
    Slow,
    /// A long run.
    Soak,
}

impl Scenario {
    /// Its subcommand.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Echo => "echo",
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::Storm => "storm",
            Self::Slow => "slow",
            Self::Soak => "soak",
        }
    }
}

/// The server under test.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The URL with placeholders.
    pub url: String,
    /// The resolved address.
    pub address: SocketAddr,
    /// Host and port, for the `Host` header.
    pub authority: String,
    /// The host, for certificates.
    pub host: String,
    /// Whether the scheme is wss.
    pub tls: bool,
    /// A file of trusted certificate authorities.
    pub ca: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Offer permessage-deflate.
    pub deflate: bool,
    /// The application protocol.
    pub protocol: ServerProtocol,
    /// That of publishers, if it is another one.
    pub publishers_protocol: Option<ServerProtocol>,
}

/// When publishers publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LoadModel {
    /// At the rate of the stages, independent of the server.
    OpenLoop,
    /// Each publisher keeps this many messages in flight, and publishes the next one when one has returned.
    ClosedLoop(u32),
}

/// A disconnection of all clients at once. Times are in seconds from the start of the first stage.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// When they disconnect.
    pub at: f64,
    /// When they reconnect.
    pub reconnect_at: f64,
}

/// The plan of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The scenario.
    pub scenario: Scenario,
    /// Distinguishes the messages of this run from those of others.
    pub run: u32,
    /// The server under test.
    pub target: Target,
    /// The tokens of the clients, if the server authenticates them.
    pub tokens: Option<Tokens>,
    /// The maximum number of clients.
    pub clients: u32,
    /// The first `publishers` clients publish.
    pub publishers: u32,
    /// Another process publishes: these clients only receive.
    pub receive_only: bool,
    /// Clients are assigned to this many rooms, round-robin.
    pub rooms: u32,
    /// Room name; a number is appended if there are several.
    pub room: String,
    /// When publishers publish.
    pub load_model: LoadModel,
    /// Message sizes.
    pub sizes: Sizes,
    /// All clients connect before the first stage; otherwise the stages give their number.
    pub connect_first: bool,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Maximum concurrent handshakes.
    pub handshakes: u32,
    /// New connections per second; `None`: limited by `handshakes` alone.
    pub connect_rate: Option<f64>,
    /// Handshake timeout in nanoseconds.
    pub handshake_timeout_ns: u64,
    /// Connecting ends when no client has connected for this long, in nanoseconds.
    pub connect_timeout_ns: u64,
    /// Messages of the first `warmup_ns` nanoseconds are checked, but not measured.
    pub warmup_ns: u64,
    /// Timeout for messages in flight at the end, in nanoseconds.
    pub drain_timeout_ns: u64,
    /// Each client disconnects as soon as it is connected, and reconnects.
    pub close: bool,
    /// Clients per second that disconnect and reconnect.
    pub churn: f64,
    /// The storms. With `resume`, publishers stay connected.
    pub storms: Vec<Storm>,
    /// Reconnecting clients recover missed messages.
    pub resume: bool,
    /// The last `never_read` clients never read.
    pub never_read: u32,
    /// The `slow_read` clients before them read slowly.
    pub slow_read: u32,
    /// Bytes per second that each slow reader reads.
    pub read_rate: u32,
    /// Lost clients reconnect.
    pub reconnect: bool,
    /// Source addresses of connections, taken in this order as their ports run out; empty: chosen by the
    /// kernel.
    pub sources: Vec<IpAddr>,
    /// Cores that the workers are pinned to, in turn.
    pub pin: Vec<usize>,
}

/// Publishers have a worker of their own if at most one client of so many publishes.
const CLIENTS_PER_PUBLISHER: u32 = 4;

impl Plan {
    /// Whether the publishers have a worker of their own, so that the reception of other clients does not
    /// delay their messages.
    pub const fn publishers_apart(&self) -> bool {
        self.publishers > 0 && !self.receive_only && self.publishers <= self.clients / CLIENTS_PER_PUBLISHER
    }

    /// The number of clients that should be connected at the end of the last stage.
    pub fn clients_at_end(&self) -> u32 {
        if self.connect_first { self.clients } else { self.stages.last().map_or(0, |stage| stage.clients.1) }
    }

    /// The application protocol of a client.
    pub fn protocol(&self, client: u32) -> &ServerProtocol {
        let of_publishers = self.target.publishers_protocol.as_ref().filter(|_| client < self.publishers);
        of_publishers.unwrap_or(&self.target.protocol)
    }

    /// Whether publishers publish by requests of their own, over a second connection.
    pub fn has_uplinks(&self) -> bool {
        self.publishers > 0 && !self.receive_only && self.protocol(0).transport.posts()
    }

    /// The room of a client.
    pub const fn room_of(&self, client: u32) -> u32 {
        client % self.rooms
    }

    /// The name of a room.
    pub fn room_name(&self, room: u32) -> String {
        if self.rooms == 1 { self.room.clone() } else { format!("{}-{room}", self.room) }
    }

    /// The name of a client. All names have the same length, unless they come from a file, so that stamps
    /// have the same offset in a payload.
    pub fn client_name(&self, client: u32) -> String {
        let given = self.tokens.as_ref().and_then(|tokens| tokens.name(client));
        given.map_or_else(|| format!("swarm-{client:06}"), str::to_owned)
    }

    /// The token of a client; empty if it has none.
    pub fn token(&self, client: u32) -> String {
        let token = |tokens: &Tokens| tokens.token(client, &self.client_name(client));
        self.tokens.as_ref().map_or_else(String::new, token)
    }

    /// How a client reads.
    pub const fn read_mode(&self, client: u32) -> ReadMode {
        if client >= self.clients - self.never_read {
            ReadMode::Never
        } else if client >= self.clients - self.never_read - self.slow_read {
            ReadMode::Throttled
        } else {
            ReadMode::Immediate
        }
    }
}

/// How a client reads what it receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// As data arrives.
    Immediate,
    /// A limited number of bytes per second.
    Throttled,
    /// Not at all.
    Never,
}
