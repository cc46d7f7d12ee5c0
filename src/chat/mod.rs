//! The domain: what a room is called, what is said in it, and where it stands in the room's order. Knows no
//! wire format and no connection.

#![forbid(unsafe_code)]

pub mod identity;
pub mod rules;

use bytes::Bytes;
use std::sync::Arc;

pub use identity::{Authority, Grant, Identification, Identity, Question, TokenError, Verdict};
pub use rules::{RoomOptions, RoomRules, SlowMember, Who};

use crate::base::spsc::Weigh;

/// The room of those who name none.
pub const DEFAULT_ROOM: &str = "lobby";

/// Something said that has no place in the room's order yet: on its way to the room's home shard.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it was said.
    pub room: Arc<str>,
    /// Who said it.
    pub author: Arc<str>,
    /// What was said: valid UTF-8.
    pub text: Bytes,
}

impl Weigh for Draft {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// A publication's place in its room's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Which life of the room: offsets of different epochs do not compare.
    pub epoch: u32,
    /// 1, 2, 3 …; 0 before the first publication.
    pub offset: u64,
}

/// Gives the publications of one room their positions. Exists once: on the room's home shard.
#[derive(Debug)]
pub struct Sequence(Position);

impl Sequence {
    /// A room that begins now.
    pub const fn new(epoch: u32) -> Self {
        Self(Position { epoch, offset: 0 })
    }

    /// The position of the next publication.
    pub const fn next(&mut self) -> Position {
        self.0.offset += 1;
        self.0
    }

    /// The position of the newest one.
    pub const fn top(&self) -> Position {
        self.0
    }
}

/// Why a name, or a room's name, is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// Nothing there.
    Empty,
    /// Over the bound in bytes.
    TooLong,
    /// A control character (C0, DEL or C1).
    Control,
}

/// Checks what a client wants to be called, or a room: 1 to `bytes_max` bytes, no control characters.
///
/// # Errors
/// Which of the rules it breaks.
pub fn check_name(name: &str, bytes_max: usize) -> Result<(), BadName> {
    if name.is_empty() {
        Err(BadName::Empty)
    } else if name.len() > bytes_max {
        Err(BadName::TooLong)
    } else if name.chars().any(char::is_control) {
        Err(BadName::Control)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name| check_name(name, 8);
        assert_eq!(check("Grüße 🙂"), Err(BadName::TooLong), "bytes, not characters");
        assert_eq!(check("a: b"), Ok(()));
        assert_eq!(check(""), Err(BadName::Empty));
        for control in ["a\nb", "\u{1b}[m", "\u{85}", "\u{7f}", "\0"] {
            assert_eq!(check(control), Err(BadName::Control));
        }
    }

    #[test]
    fn positions_begin_at_one() {
        let mut sequence = Sequence::new(9);
        assert_eq!(sequence.top(), Position { epoch: 9, offset: 0 });
        assert_eq!(sequence.next(), Position { epoch: 9, offset: 1 });
        assert_eq!(sequence.next(), sequence.top());
    }
}
