//! What a run does, checked and complete: the one value that every worker gets.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::pace::Stage;
use crate::preset::Dialect;
use crate::units::Sizes;

/// Which kind of run it is. Each is a set of defaults; the options can be combined at will.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Some speak, all hear.
    Chat,
    /// Each client hears itself.
    Echo,
    /// Opening handshakes, as fast as they go.
    Connect,
    /// Silent clients.
    Idle,
    /// Clients come and go while the room talks.
    Churn,
    /// All clients are cut, and come back at once.
    Storm,
    /// Some clients read slowly or never.
    Slow,
    /// For a long time.
    Soak,
}

impl Scenario {
    /// As it is called on the command line.
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

/// The server, and how it is talked to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// What the name in it stands for.
    pub address: SocketAddr,
    /// Host and port, for the header.
    pub authority: String,
    /// The host alone, for certificates.
    pub host: String,
    /// wss
    pub tls: bool,
    /// A file of authorities that are believed.
    pub ca: Option<PathBuf>,
    /// Everybody is believed.
    pub insecure: bool,
    /// permessage-deflate is offered.
    pub deflate: bool,
    /// What is said.
    pub dialect: Dialect,
}

/// How the speakers speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Speech {
    /// At the stages' rate, whatever the server does.
    Paced,
    /// Each speaker has so many messages under way, and says the next one when one has come back.
    Window(u32),
}

/// All clients are cut at once. In seconds from the begin of the first stage.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// When they are cut.
    pub at: f64,
    /// When they come back.
    pub back: f64,
}

/// Everything that a worker needs to know.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What kind of run.
    pub scenario: Scenario,
    /// Tells this run's messages from those of others.
    pub run: u32,
    /// Whom.
    pub target: Target,
    /// How many clients there are at most.
    pub clients: u32,
    /// The first ones speak.
    pub speakers: u32,
    /// The speakers are elsewhere: these clients only listen to them.
    pub only_listen: bool,
    /// Clients are dealt out to so many rooms.
    pub rooms: u32,
    /// What the rooms are called; a number is added if there are several.
    pub room: String,
    /// How they speak.
    pub speech: Speech,
    /// How long messages are.
    pub sizes: Sizes,
    /// All clients come in before the first stage; otherwise the stages say when.
    pub gather: bool,
    /// What happens when.
    pub stages: Vec<Stage>,
    /// Handshakes under way at a time.
    pub handshakes: u32,
    /// New connections a second; without it, as the handshakes allow.
    pub ramp: Option<f64>,
    /// Nanoseconds that a handshake may take.
    pub handshake_timeout_ns: u64,
    /// Nanoseconds that the last messages may take.
    pub patience_ns: u64,
    /// A client that is in closes at once and comes again.
    pub close: bool,
    /// Clients that leave and come back each second.
    pub churn: f64,
    /// When all clients are cut; those that resume, but for the speakers.
    pub storms: Vec<Storm>,
    /// Whoever comes back goes on from where it was, in the way that the dialect says.
    pub resume: bool,
    /// The last ones never read.
    pub never_read: u32,
    /// Those before them read slowly.
    pub slow_read: u32,
    /// How many bytes a second.
    pub read_rate: u32,
    /// Clients that are lost come back.
    pub reconnect: bool,
    /// Addresses that connections come from; none: the system chooses.
    pub sources: Vec<IpAddr>,
    /// The cores that workers are bound to, one after the other.
    pub pin: Vec<usize>,
}

/// Clients from one source address. It has some 28,000 ports, but the fuller it is the longer the kernel looks for a free one.
pub const CLIENTS_PER_SOURCE: u32 = 10_000;

impl Plan {
    /// The room of a client.
    pub const fn room_of(&self, client: u32) -> u32 {
        client % self.rooms
    }

    /// What a room is called.
    pub fn room_name(&self, room: u32) -> String {
        if self.rooms == 1 { self.room.clone() } else { format!("{}-{room}", self.room) }
    }

    /// What a client is called. All names are of one length, so that stamps stand at one place.
    pub fn client_name(&self, client: u32) -> String {
        format!("swarm-{client:06}")
    }

    /// How a client reads.
    pub const fn reading(&self, client: u32) -> Reading {
        if client >= self.clients - self.never_read {
            Reading::Never
        } else if client >= self.clients - self.never_read - self.slow_read {
            Reading::Slowly
        } else {
            Reading::AtOnce
        }
    }
}

/// How a client reads what it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// When it comes.
    AtOnce,
    /// So many bytes a second.
    Slowly,
    /// Not at all.
    Never,
}
