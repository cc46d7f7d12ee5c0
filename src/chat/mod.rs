//! The domain: what a room is called, what is said in it, and where it stands in the room's order. Knows no
//! wire format and no connection.

#![forbid(unsafe_code)]

pub mod forms;
pub mod history;
pub mod identity;
mod name;
pub mod person;
pub mod presence;
pub mod publication;
pub mod rate;
pub mod rules;

pub use forms::Forms;
pub use history::{History, NoPage, Page};
pub use identity::{
    Authority, Grant, Identification, Identity, Overrides, Question, ServerRoom, TokenError, Verdict,
};
pub use name::{BadName, check_room, display_name};
pub use person::{ClientId, Member, Person};
pub use presence::{Move, Presence};
pub use publication::{Body, Draft, Epoch, Past, Position, Publication, Since, Wanted};
pub use rate::{RateDecision, RateLimit, RateLimiter};
pub use rules::{RoomOptions, RoomRules, SlowMember, Who};

/// The room of those who name none.
pub const DEFAULT_ROOM: &str = "lobby";
