//! From the bytes of a frame to commands. Nothing is copied but strings with escapes in them.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::field::{self, Object, Text};
use crate::chat::{Epoch, RecoveryRequest, Since};

/// One command, as it was sent.
#[derive(Debug)]
pub struct Command<'a> {
    /// What the reply repeats; 0: there is none.
    pub id: u32,
    /// The request.
    pub method: Method<'a>,
}

/// The request of a command.
#[derive(Debug)]
pub enum Method<'a> {
    /// To be authenticated.
    Connect(Connect<'a>),
    /// To be put into a room.
    Subscribe(Subscribe<'a>),
    /// To be taken out of a room.
    Unsubscribe(Channel<'a>),
    /// To publish.
    Publish(Publish<'a>),
    /// The members of a room.
    Presence(Channel<'a>),
    /// How many are.
    PresenceStats(Channel<'a>),
    /// A page of the history.
    History(HistoryQuery<'a>),
    /// Something else.
    Rpc(Rpc<'a>),
    /// Something else, without an answer.
    Send,
    /// To stay, with a fresh token.
    Refresh(Refresh<'a>),
    /// To stay in a room, with a fresh token.
    SubRefresh(SubRefresh<'a>),
    /// In the schema, never sent by a client.
    Ping,
    /// The answer to our ping.
    Pong,
}

/// connect
#[derive(Debug, Deserialize)]
pub struct Connect<'a> {
    /// The connection token.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub token: Cow<'a, str>,
    /// The client's own data.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// Where it stopped in the rooms that the server had joined for it.
    #[serde(borrow, default, deserialize_with = "field::objects_by_name")]
    pub subs: Positions<'a>,
}

impl<'a> Connect<'a> {
    /// Reads it outside of a command; `None`: it is none.
    pub fn read(json: &'a str) -> Option<Self> {
        from_object(json)
    }
}

/// Positions by room.
pub type Positions<'a> = BTreeMap<Cow<'a, str>, Recovery<'a>>;

/// Where a client stopped.
#[derive(Debug, Default, Deserialize)]
pub struct Recovery<'a> {
    /// Whether it requests a recovery from there.
    #[serde(default, deserialize_with = "field::scalar")]
    pub recover: bool,
    /// The last offset that it has had.
    #[serde(default, deserialize_with = "field::scalar")]
    pub offset: u64,
    /// The epoch of that.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub epoch: Cow<'a, str>,
}

impl Recovery<'_> {
    /// What it requests of the history.
    pub fn recovery_request(&self) -> RecoveryRequest {
        recovery_request(self.recover, self.offset, &self.epoch)
    }
}

/// An empty epoch matches any; one that was never ours is another epoch of the room.
fn recovery_request(recover: bool, offset: u64, epoch: &str) -> RecoveryRequest {
    match (recover, Epoch::parse(epoch)) {
        (false, _) => RecoveryRequest::None,
        (true, None) if !epoch.is_empty() => RecoveryRequest::Unrecoverable,
        (true, epoch) => RecoveryRequest::Since(Since { epoch, offset }),
    }
}

/// subscribe
#[derive(Debug, Deserialize)]
pub struct Subscribe<'a> {
    /// The room.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
    /// What lets it in.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub token: Cow<'a, str>,
    /// Bit 2: an error instead of a start without the missed publications.
    #[serde(default, deserialize_with = "field::scalar")]
    pub flag: u32,
    /// Other kinds of subscription than to a stream.
    #[serde(default, rename = "type", deserialize_with = "field::scalar")]
    pub kind: u32,
    /// The requested delta compression.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub delta: Cow<'a, str>,
    /// A filter.
    #[serde(borrow)]
    pub tf: Option<&'a RawValue>,
    /// As in [`Recovery`].
    #[serde(default, deserialize_with = "field::scalar")]
    pub recover: bool,
    /// As in [`Recovery`].
    #[serde(default, deserialize_with = "field::scalar")]
    pub offset: u64,
    /// As in [`Recovery`].
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub epoch: Cow<'a, str>,
}

impl Subscribe<'_> {
    /// What it requests of the history.
    pub fn recovery_request(&self) -> RecoveryRequest {
        recovery_request(self.recover, self.offset, &self.epoch)
    }

    /// Whether it prefers an error to a start without the missed publications.
    pub const fn or_nothing(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// A room.
#[derive(Debug, Deserialize)]
pub struct Channel<'a> {
    /// Its name.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
}

/// publish
#[derive(Debug, Deserialize)]
pub struct Publish<'a> {
    /// The room.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
    /// What is published; `null` is valid data, too.
    #[serde(borrow, default, deserialize_with = "field::any")]
    pub data: Option<&'a RawValue>,
    /// Of another kind of channel.
    #[serde(default, rename = "type", deserialize_with = "field::scalar")]
    pub kind: u32,
    /// Of another kind of channel.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub key: Cow<'a, str>,
    /// Of another kind of channel.
    #[serde(default, deserialize_with = "field::scalar")]
    pub removed: bool,
}

/// history
#[derive(Debug, Deserialize)]
pub struct HistoryQuery<'a> {
    /// The room.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
    /// How many; 0: none, negative: as many as there are.
    #[serde(default, deserialize_with = "field::scalar")]
    pub limit: i64,
    /// From where on.
    #[serde(borrow, default, deserialize_with = "field::object")]
    pub since: Option<StreamPosition<'a>>,
    /// Backwards.
    #[serde(default, deserialize_with = "field::scalar")]
    pub reverse: bool,
}

/// A position in a room.
#[derive(Debug, Deserialize)]
pub struct StreamPosition<'a> {
    /// The offset.
    #[serde(default, deserialize_with = "field::scalar")]
    pub offset: u64,
    /// The epoch; empty: whichever is now.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub epoch: Cow<'a, str>,
}

/// rpc
#[derive(Debug, Deserialize)]
pub struct Rpc<'a> {
    /// What is to be done.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub method: Cow<'a, str>,
    /// With what.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// refresh
#[derive(Debug, Deserialize)]
pub struct Refresh<'a> {
    /// The fresh token.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub token: Cow<'a, str>,
}

/// sub_refresh
#[derive(Debug, Deserialize)]
pub struct SubRefresh<'a> {
    /// The room.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
    /// The fresh token.
    #[serde(borrow, default, deserialize_with = "field::text")]
    pub token: Cow<'a, str>,
}

/// The envelope: at most one of these is there.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "field::scalar")]
    id: u32,
    #[serde(borrow, default, deserialize_with = "field::object")]
    connect: Option<Connect<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    unsubscribe: Option<Channel<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    publish: Option<Publish<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    presence: Option<Channel<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    presence_stats: Option<Channel<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    history: Option<HistoryQuery<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    rpc: Option<Rpc<'a>>,
    #[serde(default, deserialize_with = "field::object")]
    send: Option<Anything>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    refresh: Option<Refresh<'a>>,
    #[serde(borrow, default, deserialize_with = "field::object")]
    sub_refresh: Option<SubRefresh<'a>>,
    #[serde(default, deserialize_with = "field::object")]
    ping: Option<Anything>,
}

/// An object of which nothing is of interest.
#[derive(Deserialize)]
struct Anything {}

/// A line that is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidCommand;

/// The lines of a frame. The last one may end with a newline, too.
pub fn lines(frame: &str) -> impl Iterator<Item = &str> {
    frame.strip_suffix('\n').unwrap_or(frame).split('\n')
}

/// Reads one line.
///
/// # Errors
/// It is no JSON object, has fields of wrong types, more than one method or none that is known, or has no id
/// where a reply is due.
pub fn parse(line: &str) -> Result<Command<'_>, InvalidCommand> {
    if line == "{}" {
        return Ok(Command { id: 0, method: Method::Pong });
    }
    let Object(envelope) = serde_json::from_str::<Object<Envelope<'_>>>(line).map_err(|_| InvalidCommand)?;
    let id = envelope.id;
    let mut methods = [
        envelope.connect.map(Method::Connect),
        envelope.subscribe.map(Method::Subscribe),
        envelope.unsubscribe.map(Method::Unsubscribe),
        envelope.publish.map(Method::Publish),
        envelope.presence.map(Method::Presence),
        envelope.presence_stats.map(Method::PresenceStats),
        envelope.history.map(Method::History),
        envelope.rpc.map(Method::Rpc),
        envelope.send.map(|_| Method::Send),
        envelope.refresh.map(Method::Refresh),
        envelope.sub_refresh.map(Method::SubRefresh),
        envelope.ping.map(|_| Method::Ping),
    ]
    .into_iter()
    .flatten();
    match (methods.next(), methods.next()) {
        (None, _) if id == 0 && is_empty(line) => Ok(Command { id, method: Method::Pong }),
        (Some(Method::Send), None) => Ok(Command { id, method: Method::Send }),
        (Some(method), None) if id != 0 => Ok(Command { id, method }),
        _ => Err(InvalidCommand),
    }
}

/// Whether a line without a method is the empty command, which is a pong: every member of it is absent or
/// zero.
fn is_empty(line: &str) -> bool {
    let members: Result<Object<BTreeMap<Text<'_>, Option<IgnoredAny>>>, _> = serde_json::from_str(line);
    members.is_ok_and(|Object(members)| {
        members.into_iter().all(|(Text(name), value)| value.is_none() || name == "id")
    })
}

/// The client's own data in `connect`, as far as the server uses it.
#[derive(Debug, Default, Deserialize)]
pub struct Introduction<'a> {
    /// The requested name.
    #[serde(borrow, default, deserialize_with = "field::optional_text")]
    pub name: Option<Cow<'a, str>>,
}

impl<'a> Introduction<'a> {
    /// Reads `data`. Data of any other shape are ignored.
    pub fn read(data: Option<&'a RawValue>) -> Self {
        data.and_then(|data| from_object(data.get())).unwrap_or_default()
    }
}

/// What the call `delivery` is about.
#[derive(Debug, Deserialize)]
pub struct DeliveryQuery<'a> {
    /// The room.
    #[serde(borrow, deserialize_with = "field::text")]
    pub channel: Cow<'a, str>,
    /// The publication.
    pub offset: u64,
}

impl<'a> DeliveryQuery<'a> {
    /// Reads the call's `data`; `None`: they are not these two.
    pub fn read(data: Option<&'a RawValue>) -> Option<Self> {
        from_object(data?.get())
    }
}

fn from_object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str::<Object<T>>(json).ok().map(|Object(object)| object)
}

#[cfg(test)]
mod tests;
