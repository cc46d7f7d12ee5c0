//! Replies: a line for each command, with its result or its error.

use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::Duration;

use super::push::{self, ClientInfo};
use crate::app::encode::{Raw, Shown, is_default, write};
use crate::chat::{ClientId, Member, Position, Publication, Recovered};

/// Appends a line with the reply to command `id`.
pub fn reply_into(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    #[derive(Serialize)]
    struct Line<'a> {
        id: u32,
        #[serde(flatten)]
        reply: &'a Reply<'a>,
    }
    write(out, &Line { id, reply });
}

/// The reply to a command. A variant is named like the member of the line: `error`, or the command's method.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<'a> {
    /// The command is not executed.
    Error(ErrorReply<'a>),
    /// The client is connected.
    Connect(Connected<'a>),
    /// It is a member of the room.
    Subscribe(Subscribed<'a>),
    /// It is no member of the room any more.
    Unsubscribe(Empty),
    /// The message is published.
    Publish(Empty),
    /// The members of a room.
    Presence(PresencePage<'a>),
    /// How many members a room has.
    PresenceStats(PresenceStats),
    /// Publications of a room.
    History(HistoryPage<'a>),
    /// How far a publication has come: the one method that can be called.
    Rpc(RpcResult),
    /// The identity is valid for longer.
    Refresh(Expiry),
    /// The subscription is valid for longer.
    SubRefresh(Expiry),
}

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorReply<'a> {
    /// The number.
    pub code: u16,
    /// A short text.
    pub message: &'a str,
    /// Whether it makes sense to try again.
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// A result without members.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Empty {}

/// How long an identity or a subscription is valid. The default: without an end, and no member stands for it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Expiry {
    #[serde(skip_serializing_if = "is_default")]
    expires: bool,
    #[serde(skip_serializing_if = "is_default")]
    ttl: u64,
}

/// The longest expiry in a reply. SDKs set a timer to it, some of at most 24 days, some of 32 bits of
/// seconds; an expiry that is further away is sent again when that one is over.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl From<Option<Duration>> for Expiry {
    fn from(expires_in: Option<Duration>) -> Self {
        expires_in.map_or_else(Self::default, |left| Self { expires: true, ttl: seconds(left.min(TTL_MAX)) })
    }
}

/// Whole seconds, and at least one: less would read as none.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// The result of `connect`: heartbeats, identity and server.
#[derive(Clone, Debug, Serialize)]
pub struct Connected<'a> {
    client: Shown<ClientId>,
    version: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    ping: u64,
    /// It is to answer pings.
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// What its commands name when they come by requests of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// The server that knows that session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a str>,
    #[serde(flatten)]
    expiry: Expiry,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "by_room")]
    subs: &'a [ServerSubscription],
}

/// A room that the server has joined for a client, and [`Subscribed::to_json`] of it.
pub type ServerSubscription = (Arc<str>, Box<[u8]>);

impl<'a> Connected<'a> {
    /// The result for `client`. `ping`: the time between two pings; zero: none are sent. `data`: JSON of the
    /// auth backend, compact.
    pub fn new(
        client: ClientId,
        ping: Duration,
        expires_in: Option<Duration>,
        data: Option<&'a [u8]>,
        subs: &'a [ServerSubscription],
    ) -> Self {
        let pings = !ping.is_zero();
        Self {
            client: Shown(client),
            version: concat!("stentor ", env!("CARGO_PKG_VERSION")),
            ping: if pings { seconds(ping) } else { 0 },
            pong: pings,
            session: None,
            node: None,
            expiry: expires_in.into(),
            data: data.map(Raw),
            subs,
        }
    }
}

fn by_room<S: Serializer>(subs: &[ServerSubscription], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(subs.iter().map(|(room, result)| (&**room, Raw(result))))
}

/// The result of `subscribe`.
#[derive(Clone, Debug, Serialize)]
pub struct Subscribed<'a> {
    #[serde(skip_serializing_if = "is_default")]
    recoverable: bool,
    #[serde(skip_serializing_if = "is_default")]
    positioned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    was_recovering: bool,
    #[serde(skip_serializing_if = "is_default")]
    recovered: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "objects")]
    publications: &'a [Arc<Publication>],
    #[serde(flatten)]
    expiry: Expiry,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Raw<'a>>,
}

impl<'a> Subscribed<'a> {
    /// The result of a join. `positioned`: the room keeps a history, so that one can resume.
    /// `requested_offset`: the offset from which the client requested to recover. `data`: the data of its
    /// grant, compact JSON.
    pub fn new(
        recovery: &'a Recovered,
        positioned: bool,
        requested_offset: Option<u64>,
        expires_in: Option<Duration>,
        data: Option<&'a str>,
    ) -> Self {
        let top = positioned.then_some(&recovery.top);
        let recovered = recovery.recovered == Some(true);
        // A recovered client starts at its requested offset: each publication's own offset moves it forward.
        let offset = requested_offset.filter(|_| recovered);
        Self {
            recoverable: positioned,
            positioned,
            epoch: top.map(|top| top.epoch.as_str()),
            offset: top.map(|top| offset.unwrap_or(top.offset)),
            was_recovering: recovery.recovered.is_some(),
            recovered,
            publications: &recovery.publications,
            expiry: expires_in.into(),
            data: data.map(|data| Raw(data.as_bytes())),
        }
    }

    /// The result alone, for the reply to `connect`.
    pub fn to_json(&self) -> Box<[u8]> {
        let publications = self.publications.iter().map(|it| object(it).len() + 1).sum::<usize>();
        let mut out = Vec::with_capacity(140 + publications);
        write(&mut out, self);
        out.into()
    }
}

fn objects<S: Serializer>(publications: &[Arc<Publication>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(publications.iter().map(|publication| Raw(object(publication))))
}

/// A publication that a history keeps, as an object.
fn object(kept: &Publication) -> &[u8] {
    kept.json.get_or_init(|| push::publication(kept, true))
}

/// The result of `history`.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryPage<'a> {
    #[serde(serialize_with = "objects")]
    publications: &'a [Arc<Publication>],
    offset: u64,
    epoch: &'a str,
}

impl<'a> HistoryPage<'a> {
    /// Some publications of a room whose newest position is `top`.
    pub fn new(publications: &'a [Arc<Publication>], top: &'a Position) -> Self {
        Self { publications, offset: top.offset, epoch: top.epoch.as_str() }
    }
}

/// The result of `presence`. If there are more members than are listed, it is marked as truncated, with their
/// number.
#[derive(Clone, Debug, Serialize)]
pub struct PresencePage<'a> {
    #[serde(serialize_with = "by_client")]
    presence: &'a [Member],
    #[serde(skip_serializing_if = "is_default")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_clients: Option<usize>,
}

impl<'a> PresencePage<'a> {
    /// These members, of `count`.
    pub const fn new(members: &'a [Member], count: usize) -> Self {
        let truncated = count > members.len();
        Self { presence: members, truncated, num_clients: if truncated { Some(count) } else { None } }
    }
}

fn by_client<S: Serializer>(members: &[Member], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(members.iter().map(|it| (Shown(it.person.client), ClientInfo::from(it))))
}

/// The result of `presence_stats`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PresenceStats {
    /// Members of the room.
    pub num_clients: usize,
    /// Users, of whom each may have many clients.
    pub num_users: usize,
}

/// The result of `rpc`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RpcResult {
    /// The result of the method that was called.
    pub data: Delivery,
}

/// How far a publication has come, on all shards together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Delivery {
    /// Members of the room.
    pub members: usize,
    /// Those that have been sent it whole.
    pub sent: usize,
    /// Those that are behind, and whose socket takes nothing.
    pub lagging: usize,
}
