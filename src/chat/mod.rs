//! The domain: what a room is called, what is said in it, and where it stands in the room's order. Knows no
//! wire format and no connection.

#![forbid(unsafe_code)]

pub mod history;
pub mod identity;
pub mod person;
pub mod presence;
pub mod publication;
pub mod rate;
pub mod rules;

pub use history::{History, NoPage, Page};
pub use identity::{
    Authority, Grant, Identification, Identity, Overrides, Question, ServerRoom, TokenError, Verdict,
};
pub use person::{ClientId, Member, Person};
pub use presence::{Move, Presence};
pub use publication::{Body, Draft, Epoch, Past, Position, Publication, Since, Wanted};
pub use rate::{Rate, Spoken};
pub use rules::{RoomOptions, RoomRules, SlowMember, Who};

/// The room of those who name none.
pub const DEFAULT_ROOM: &str = "lobby";

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
}
