//! From the bytes of a frame to commands. Nothing is copied but strings with escapes in them.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

use crate::chat::{Epoch, Since, Wanted};

/// One command, as it was sent.
#[derive(Debug)]
pub struct Command<'a> {
    /// What the reply repeats; 0: there is none.
    pub id: u32,
    /// What is asked for.
    pub method: Method<'a>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Method<'a> {
    /// To be let in.
    Connect(Connect<'a>),
    /// To be put into a room.
    Subscribe(Subscribe<'a>),
    /// To be taken out of a room.
    Unsubscribe(Channel<'a>),
    /// To say something.
    Publish(Publish<'a>),
    /// Who is in a room.
    Presence(Channel<'a>),
    /// How many are.
    PresenceStats(Channel<'a>),
    /// What was said.
    History(History<'a>),
    /// Something else.
    Rpc(Rpc<'a>),
    /// Something else, without an answer.
    Send,
    /// To stay, with a fresh token.
    Refresh(Refresh<'a>),
    /// To stay in a room, with a fresh token.
    SubRefresh(SubRefresh<'a>),
    /// In the schema, never sent by anybody.
    Ping,
    /// The answer to our ping.
    Pong,
}

/// connect
#[derive(Debug, Deserialize)]
pub struct Connect<'a> {
    /// Who it is.
    #[serde(borrow, default)]
    pub token: Cow<'a, str>,
    /// What it says of itself.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// Where it stopped in the rooms that the server had joined for it.
    #[serde(borrow, default)]
    pub subs: Positions<'a>,
}

/// Positions by room.
pub type Positions<'a> = std::collections::BTreeMap<Cow<'a, str>, Recovery<'a>>;

/// Where a client stopped.
#[derive(Debug, Default, Deserialize)]
pub struct Recovery<'a> {
    /// Whether it wants to go on from there.
    #[serde(default)]
    pub recover: bool,
    /// The last offset that it has had.
    #[serde(default)]
    pub offset: u64,
    /// The epoch of that.
    #[serde(borrow, default)]
    pub epoch: Cow<'a, str>,
}

impl Recovery<'_> {
    /// What it wants of the past.
    pub fn wanted(&self) -> Wanted {
        wanted(self.recover, self.offset, &self.epoch)
    }
}

/// An empty epoch is any; one that was never ours is another life of the room.
fn wanted(recover: bool, offset: u64, epoch: &str) -> Wanted {
    match (recover, Epoch::parse(epoch)) {
        (false, _) => Wanted::Nothing,
        (true, None) if !epoch.is_empty() => Wanted::Lost,
        (true, epoch) => Wanted::Since(Since { epoch, offset }),
    }
}

/// subscribe
#[derive(Debug, Deserialize)]
pub struct Subscribe<'a> {
    /// The room.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
    /// What lets it in.
    #[serde(borrow, default)]
    pub token: Cow<'a, str>,
    /// Bit 2: an error instead of a start without the past.
    #[serde(default)]
    pub flag: u32,
    /// Other kinds of subscription than to a stream.
    #[serde(default, rename = "type")]
    pub kind: u32,
    /// A filter.
    #[serde(borrow)]
    pub tf: Option<&'a RawValue>,
    /// As in [`Recovery`].
    #[serde(default)]
    pub recover: bool,
    /// As in [`Recovery`].
    #[serde(default)]
    pub offset: u64,
    /// As in [`Recovery`].
    #[serde(borrow, default)]
    pub epoch: Cow<'a, str>,
}

impl Subscribe<'_> {
    /// What it wants of the past.
    pub fn wanted(&self) -> Wanted {
        wanted(self.recover, self.offset, &self.epoch)
    }

    /// Whether it would rather have an error than a start without the past.
    pub const fn or_nothing(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// A room.
#[derive(Debug, Deserialize)]
pub struct Channel<'a> {
    /// Its name.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
}

/// publish
#[derive(Debug, Deserialize)]
pub struct Publish<'a> {
    /// The room.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
    /// What is said.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// Of another kind of channel.
    #[serde(default, rename = "type")]
    pub kind: u32,
    /// Of another kind of channel.
    #[serde(borrow, default)]
    pub key: Cow<'a, str>,
    /// Of another kind of channel.
    #[serde(default)]
    pub removed: bool,
}

/// history
#[derive(Debug, Deserialize)]
pub struct History<'a> {
    /// The room.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
    /// How many; 0: none, negative: as many as there are.
    #[serde(default)]
    pub limit: i64,
    /// From where on.
    #[serde(borrow)]
    pub since: Option<StreamPosition<'a>>,
    /// Backwards.
    #[serde(default)]
    pub reverse: bool,
}

/// A place in a room's order.
#[derive(Debug, Deserialize)]
pub struct StreamPosition<'a> {
    /// The offset.
    #[serde(default)]
    pub offset: u64,
    /// The epoch; empty: whichever is now.
    #[serde(borrow, default)]
    pub epoch: Cow<'a, str>,
}

/// rpc
#[derive(Debug, Deserialize)]
pub struct Rpc<'a> {
    /// What is to be done.
    #[serde(borrow, default)]
    pub method: Cow<'a, str>,
    /// With what.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// refresh
#[derive(Debug, Deserialize)]
pub struct Refresh<'a> {
    /// The fresh token.
    #[serde(borrow, default)]
    pub token: Cow<'a, str>,
}

/// sub_refresh
#[derive(Debug, Deserialize)]
pub struct SubRefresh<'a> {
    /// The room.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
    /// The fresh token.
    #[serde(borrow, default)]
    pub token: Cow<'a, str>,
}

/// The envelope: at most one of these is there.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<Connect<'a>>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<Channel<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
    #[serde(borrow)]
    presence: Option<Channel<'a>>,
    #[serde(borrow)]
    presence_stats: Option<Channel<'a>>,
    #[serde(borrow)]
    history: Option<History<'a>>,
    #[serde(borrow)]
    rpc: Option<Rpc<'a>>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<Refresh<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<SubRefresh<'a>>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
}

/// A line that is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotACommand;

/// The lines of a frame. The last one may end with a newline, too.
pub fn lines(frame: &str) -> impl Iterator<Item = &str> {
    frame.strip_suffix('\n').unwrap_or(frame).split('\n')
}

/// Reads one line.
///
/// # Errors
/// It is no JSON object, has fields of wrong types, more than one method or none that is known, or has no id where a reply is due.
pub fn parse(line: &str) -> Result<Command<'_>, NotACommand> {
    let envelope: Envelope<'_> = serde_json::from_str(line).map_err(|_| NotACommand)?;
    let Envelope { id, .. } = envelope;
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
        (None, _) if id == 0 && is_empty_object(line) => Ok(Command { id, method: Method::Pong }),
        (Some(Method::Send), None) => Ok(Command { id, method: Method::Send }),
        (Some(method), None) if id != 0 => Ok(Command { id, method }),
        _ => Err(NotACommand),
    }
}

/// `{}`, which is what a pong looks like. That it is an object has been checked.
fn is_empty_object(line: &str) -> bool {
    line.bytes().all(|byte| matches!(byte, b'{' | b'}' | b' ' | b'\t' | b'\r'))
}

/// What a client that connects says of itself, as far as anybody here is interested.
#[derive(Debug, Default, Deserialize)]
pub struct Introduction<'a> {
    /// What it wants to be called.
    #[serde(borrow)]
    pub name: Option<Cow<'a, str>>,
}

impl Introduction<'_> {
    /// Data of any other shape say nothing.
    pub fn read(data: Option<&RawValue>) -> Introduction<'_> {
        data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<&str>) {
        let command = parse(line).ok().map(|command| format!("{}: {:?}", command.id, command.method));
        let begins = match (&command, expected) {
            (Some(command), Some(expected)) => command.starts_with(expected),
            (None, None) => true,
            _ => false,
        };
        assert!(begins, "{line}: {command:?}, expected {expected:?}");
    }

    #[test]
    fn commands() {
        check(r#"{"id":1,"connect":{}}"#, Some("1: Connect("));
        check(
            r#"{"connect":{"token":"a\nb","data":{"x":[1]},"name":"js","newer":1},"id":7}"#,
            Some("7: Connect("),
        );
        check(
            r#"{"id":2,"subscribe":{"channel":"a","flag":1,"recover":true,"offset":3,"epoch":"00000001"}}"#,
            Some("2: Subscribe("),
        );
        check(r#"{"id":3,"unsubscribe":{}}"#, Some("3: Unsubscribe("));
        check(r#"{"id":4,"history":{"channel":"a","limit":-1,"since":{"offset":4}}}"#, Some("4: History("));
        check(r#"{"send":{"data":1}}"#, Some("0: Send"));
        check(r#" { } "#, Some("0: Pong"));
        check(r#"{"id":9,"publish":{"channel":"a","data":null}}"#, Some("9: Publish("));
    }

    #[test]
    fn what_is_none() {
        for line in [
            "",
            "[]",
            "null",
            "{",
            r#"{"id":1}"#,
            r#"{"id":1,"unknown":{}}"#,
            r#"{"unknown":{}}"#,
            r#"{"publish":{"channel":"a","data":1}}"#,
            r#"{"id":-1,"connect":{}}"#,
            r#"{"id":4294967296,"connect":{}}"#,
            r#"{"id":1,"connect":[]}"#,
            r#"{"id":1,"connect":{"token":5}}"#,
            r#"{"id":1,"connect":{},"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"subscribe":{"channel":7}}"#,
            r#"{"id":1,"history":{"channel":"a","limit":1.5}}"#,
            r#"{"id":1,"connect":{}} {"id":2}"#,
        ] {
            check(line, None);
        }
    }

    #[test]
    fn a_trailing_newline_is_no_line() {
        assert_eq!(lines("a\nb\n").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(lines("a\n\n").collect::<Vec<_>>(), ["a", ""]);
        assert_eq!(lines("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn positions() {
        let wanted = |text: &str| serde_json::from_str::<Recovery<'_>>(text).unwrap().wanted();
        assert_eq!(wanted("{}"), Wanted::Nothing);
        let since = |epoch, offset| Wanted::Since(Since { epoch, offset });
        assert_eq!(wanted(r#"{"recover":true}"#), since(None, 0));
        assert_eq!(
            wanted(r#"{"recover":true,"offset":5,"epoch":"0000002a"}"#),
            since(Epoch::parse("0000002a"), 5)
        );
        assert_eq!(
            wanted(r#"{"recover":true,"offset":5,"epoch":"not an epoch of any engine"}"#),
            Wanted::Lost
        );
    }
}
