//! Who somebody is, at the edge: tokens that others signed ([`jwt`]), and a back end that is asked over HTTP ([`hook`]).

#![forbid(unsafe_code)]

pub mod hook;
pub mod jwt;
pub mod keys;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use hook::{Hook, HookOptions};
pub use jwt::Jwt;
pub use keys::KeyFault;

use crate::app::json::command::Introduction;
use crate::app::json::compact;
use crate::chat::{self, Grant, Identity, ServerRoom};

/// Bytes of the longest user id.
pub const USER_BYTES_MAX: usize = 255;

/// Bounds of what a token, or the hook, says of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of a name.
    pub name_bytes_max: usize,
    /// Bytes of a room's name.
    pub room_bytes_max: usize,
}

/// What is said of somebody, not yet checked.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    user: &'a str,
    info: Option<&'a RawValue>,
    b64info: Option<&'a str>,
    rooms: &'a [String],
    expires_in: Option<Duration>,
}

impl Said<'_> {
    /// The identity. It is called what its info says (`name`), else by its user id, as far as these can be names.
    fn identity(&self, bounds: &Bounds) -> Result<Identity, &'static str> {
        if self.user.len() > USER_BYTES_MAX {
            return Err("the user id is longer than 255 bytes");
        }
        if self.rooms.iter().any(|room| chat::check_room(room, bounds.room_bytes_max).is_err()) {
            return Err("one of the rooms has no possible name");
        }
        let info = info(self.info, self.b64info)?;
        let wished = info.as_deref().and_then(|info| serde_json::from_str::<&RawValue>(info).ok());
        let wished = Introduction::read(wished).name;
        let names = [wished.as_deref(), Some(self.user)].into_iter().flatten();
        let name = names.into_iter().find_map(|name| chat::display_name(name, bounds.name_bytes_max).ok());
        let name = name.map_or_else(|| Arc::from("anonymous"), Arc::from);
        let names: std::collections::BTreeSet<&String> = self.rooms.iter().collect();
        let room = |name: &String| ServerRoom { name: Arc::from(&**name), grant: Grant::default() };
        let rooms = names.into_iter().map(room).collect();
        Ok(Identity { user: Arc::from(self.user), name, info, expires_in: self.expires_in, rooms })
    }
}

/// JSON that others are shown, from one of the two ways to write it.
fn info(plain: Option<&RawValue>, encoded: Option<&str>) -> Result<Option<Arc<str>>, &'static str> {
    let json = match (plain, encoded) {
        (Some(info), _) => compact(info.get()),
        (None, Some(encoded)) if !encoded.is_empty() => {
            let bytes = STANDARD.decode(encoded).map_err(|_| "`b64info` is not base64")?;
            let json: &RawValue = serde_json::from_slice(&bytes).map_err(|_| "`b64info` is not JSON")?;
            compact(json.get())
        }
        _ => return Ok(None),
    };
    Ok(String::from_utf8(json).ok().map(Arc::from))
}

/// A point of time as tokens have it: seconds since 1970, perhaps with a fraction (RFC 7519 §2).
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Deserialize)]
#[serde(try_from = "f64")]
struct NumericDate(Duration);

impl TryFrom<f64> for NumericDate {
    type Error = &'static str;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| "no point of time after 1970")
    }
}

/// Since 1970, by the machine's clock: the one that tokens go by.
pub fn wall_clock() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a token's times are the calendar's")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
