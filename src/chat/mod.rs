//! The domain: names of rooms, publications, and their positions. Knows no
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
pub use history::{History, Page, PageError};
pub use identity::{
    AuthDecision, AuthMode, AuthRequest, Authority, Grant, Identity, Overrides, ServerRoom, TokenError,
};
pub use name::{BadName, check_room, display_name};
pub use person::{ClientId, Member, Person};
pub use presence::{Presence, PresenceEvent};
pub use publication::{
    Body, Draft, Epoch, IDEMPOTENCY_KEY_BYTES_MAX, IdempotencyKey, Position, Publication, Recovered,
    RecoveryRequest, Since,
};
pub use rate::{RateDecision, RateLimit, RateLimiter};
pub use rules::{Access, RoomOptions, RoomRules, SlowMember};

/// The room of clients that name none.
pub const DEFAULT_ROOM: &str = "lobby";
