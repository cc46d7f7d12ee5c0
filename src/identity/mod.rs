//! Authentication, at the edge: signed tokens ([`jwt`]), and an auth backend over HTTP ([`hook`]). The claims
//! of both are read by [`claims`].

#![forbid(unsafe_code)]

pub mod claims;
pub mod hook;
pub mod jwt;
pub mod keys;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use claims::ClaimError;
pub use hook::{Hook, HookOptions};
pub use jwt::Jwt;
pub use keys::KeyFault;

use crate::chat::RoomRules;

/// Bytes of the longest user id.
pub const USER_BYTES_MAX: usize = 255;

/// The longest time that a client may keep its identity, or a room, before it must send a fresh token: a
/// year. A later end is taken, and means this.
pub const EXPIRES_IN_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Bounds of the claims of a token or the hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of a name.
    pub name_bytes_max: usize,
    /// Bytes of a room's name.
    pub room_bytes_max: usize,
    /// Rooms that a client may be in.
    pub rooms_per_client_max: usize,
}

/// The checks of the claims of a token or the hook.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// How much.
    pub bounds: Bounds,
    /// What holds in the rooms that are named: what contradicts it is refused.
    pub rooms: Arc<RoomRules>,
}

/// Since 1970, by the machine's clock: the one that tokens go by.
pub fn wall_clock() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a token's times are the calendar's")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
