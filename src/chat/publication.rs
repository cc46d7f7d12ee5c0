//! Drafts, publications and their positions in a room.

use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::Member;
use crate::base::Time;

/// Bytes of the longest epoch.
pub const EPOCH_BYTES_MAX: usize = 23;

/// Identifies a room's sequence of offsets: offsets of different epochs do not compare. An opaque text of the
/// engine's choice, 1 to [`EPOCH_BYTES_MAX`] bytes of visible ASCII, so that a room that was forgotten and
/// created again is distinguished.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    len: u8,
    bytes: [u8; EPOCH_BYTES_MAX],
}

impl Epoch {
    /// The epoch that reads as `text`; `None`: no engine chooses such a text.
    pub fn parse(text: &str) -> Option<Self> {
        let len =
            u8::try_from(text.len()).ok().filter(|&len| len > 0 && usize::from(len) <= EPOCH_BYTES_MAX)?;
        let mut bytes = [0; EPOCH_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(Self { len, bytes })
    }

    /// The epoch that the engine in memory makes of 32 random bits: eight hexadecimal digits.
    pub fn from_random(bits: u32) -> Self {
        let mut bytes = [0; EPOCH_BYTES_MAX];
        for (index, digit) in bytes[..8].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(bits >> (28 - 4 * index)) as usize & 0xF];
        }
        Self { len: 8, bytes }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        // Checked in `parse`, and ASCII by construction in `from_random`.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A publication's position in its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The epoch of the offset.
    pub epoch: Epoch,
    /// 1, 2, 3 …; 0 before the first publication. Below 2⁵³, for JSON's sake: three hundred years at a
    /// million a second.
    pub offset: u64,
}

impl fmt::Display for Position {
    /// As clients read and write it: `EPOCH:OFFSET`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// The content of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A text, by a plain client: valid UTF-8.
    Text(Bytes),
    /// JSON, compact: by a client of the JSON protocol.
    Data(Bytes),
}

impl Body {
    /// The bytes, of whichever kind.
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Text(bytes) | Self::Data(bytes) => bytes,
        }
    }
}

/// A message to be published: it has no position yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The client that sent it.
    pub author: Member,
    /// What it carries.
    pub body: Body,
    /// Identifies it among the drafts of its author, if the client may have to send it again.
    pub idempotency_key: Option<Box<IdempotencyKey>>,
}

/// Bytes of the longest idempotency key that a client may choose.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// A client's own name for a draft, which an engine orders once for each author.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// The key that reads as `text`; `None`: it is empty, longer than [`IDEMPOTENCY_KEY_BYTES_MAX`], or has
    /// other characters than visible ASCII.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let valid =
            (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        std::str::from_utf8(text).ok().filter(|_| valid).map(|text| Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Draft {
    /// A draft that is ordered whenever it comes.
    pub const fn new(author: Member, body: Body) -> Self {
        Self { author, body, idempotency_key: None }
    }

    /// Bytes that it keeps in memory, roughly.
    pub fn weight(&self) -> usize {
        let key = self.idempotency_key.as_ref().map_or(0, |key| key.0.len());
        size_of::<Self>() + self.body.bytes().len() + key
    }
}

/// What is the same in each publication's JSON: the names of its members, its numbers, the client's id.
const JSON_FRAME_BYTES: usize = 192;

/// How long a text is in JSON, without its quotation marks: no other character is escaped (RFC 8259 §7).
fn escaped_len(text: &[u8]) -> usize {
    let more = |byte: &u8| match byte {
        b'"' | b'\\' => 1,
        0..=0x1F => 5,
        _ => 0,
    };
    text.len() + text.iter().map(more).sum::<usize>()
}

/// A message that a room's engine has accepted: the same record in a room's history, in an engine's store and
/// in flight to the members.
#[derive(Debug)]
pub struct Publication {
    /// Its position in the room's order; `None`: the engine gives none, and no client can recover from there.
    pub position: Option<Position>,
    /// When it was accepted, on the server's clock.
    pub accepted: Time,
    /// The same, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// The client that sent it.
    pub author: Member,
    /// What it carries.
    pub body: Body,
    /// The record as a JSON object: made at most once, by `app::json`, for all who take it so.
    pub json: OnceLock<Bytes>,
}

impl Publication {
    /// Its offset; 0 where it has no position.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }

    /// Bytes that it keeps in memory, roughly: with its JSON, whether that is made yet or not.
    pub fn weight(&self) -> usize {
        let json = self.json.get().map_or_else(|| self.json_bytes_max(), Bytes::len);
        size_of::<Self>() + self.body.bytes().len() + json
    }

    /// Its JSON is at most so long.
    pub fn json_bytes_max(&self) -> usize {
        let person = &self.author.person;
        let body = match &self.body {
            Body::Text(text) => escaped_len(person.name.as_bytes()) + escaped_len(text),
            Body::Data(data) => data.len(),
        };
        let infos = [person.info(), self.author.info()].into_iter().flatten().map(str::len).sum::<usize>();
        JSON_FRAME_BYTES + escaped_len(person.user().as_bytes()) + body + infos
    }
}

/// The position from which a client recovers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since {
    /// The epoch; `None`: the current one.
    pub epoch: Option<Epoch>,
    /// The last offset that was received.
    pub offset: u64,
}

/// What a joining client requests of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoveryRequest {
    /// Nothing.
    None,
    /// The last so many publications.
    Last(usize),
    /// All from there on, without a gap, or nothing.
    Since(Since),
    /// A position of another epoch, that cannot be recovered from.
    Unrecoverable,
}

/// What a joining client gets of the history.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The newest position when it joined: it will receive everything after it, and nothing else.
    pub top: Position,
    /// What it wanted, oldest first.
    pub publications: Vec<Arc<Publication>>,
    /// Whether there is no gap between what it had and what it gets; `None`: it did not request a recovery.
    pub recovered: Option<bool>,
}

impl Recovered {
    /// Bytes that it keeps in memory beside what the history keeps anyway.
    pub const fn weight(&self) -> usize {
        size_of::<Self>() + self.publications.len() * size_of::<Arc<Publication>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_read_as_they_are_written() {
        for bits in [0, 0xDEAD_BEEF, 7] {
            let epoch = Epoch::from_random(bits);
            assert_eq!(epoch.as_str(), format!("{bits:08x}"));
            assert_eq!(Epoch::parse(epoch.as_str()), Some(epoch));
        }
        assert_eq!(Epoch::parse("q1Zw").map(|epoch| epoch.to_string()).as_deref(), Some("q1Zw"));
        for other in ["", "a b", "é", "a\n", "123456789012345678901234"] {
            assert_eq!(Epoch::parse(other), None, "{other:?}");
        }
    }
}
