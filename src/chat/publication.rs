//! What is said in a room, before and after it has its place in the room's order.

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

use super::Member;
use crate::base::Time;

/// Which life of a room: offsets of different epochs do not compare. Random, so that a room that was forgotten and came back
/// is known as another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Epoch {
    /// The reverse of `Display`; `None`: no epoch of ours ever read like this.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| u32::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

/// A publication's place in its room's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Which life of the room.
    pub epoch: Epoch,
    /// 1, 2, 3 …; 0 before the first publication. Below 2⁵³, for JSON's sake: three hundred years at a million a second.
    pub offset: u64,
}

/// What was said.
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

/// Something said that has no place in its room's order yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// Who said it.
    pub author: Member,
    /// What was said.
    pub body: Body,
}

/// Something said, in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Its place.
    pub position: Position,
    /// When it was said, on the server's clock.
    pub said: Time,
    /// When it was said, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// Who said it.
    pub author: Member,
    /// What was said.
    pub body: Body,
    /// It as a JSON object, made once for all who want it so; empty where nobody does.
    pub json: Bytes,
}

impl Publication {
    /// Bytes that it keeps in memory, roughly.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.body.bytes().len() + self.json.len()
    }
}

/// Where somebody stopped who comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since {
    /// Which life of the room it was; `None`: whichever is now.
    pub epoch: Option<Epoch>,
    /// The last offset that was heard.
    pub offset: u64,
}

/// What a newcomer wants of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// The last so many publications.
    Last(usize),
    /// All from there on, without a gap, or nothing.
    Since(Since),
    /// A position of another room's life, that cannot be recovered from.
    Lost,
}

/// What a newcomer gets of the past.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// The newest position when it came in: it will hear everything after it, and nothing else.
    pub top: Position,
    /// What it wanted, oldest first.
    pub publications: Vec<Arc<Publication>>,
    /// Whether there is no gap between what it had and what it gets; `None`: it did not ask to resume.
    pub recovered: Option<bool>,
}

impl Past {
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
        for epoch in [Epoch(0), Epoch(0xDEAD_BEEF), Epoch(7)] {
            assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        }
        for other in ["", "7", "0000000g", "DEADBEEF", "+0000007", "000000007"] {
            assert_eq!(Epoch::parse(other), None, "{other:?}");
        }
    }
}
