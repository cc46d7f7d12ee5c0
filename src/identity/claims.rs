//! Claims of a token or the hook about a client, and whether they can be taken as they stand. Tokens and hook
//! answers share the members that are read here. What cannot be honoured is an error that names the member:
//! nothing that limits a client is ignored, and no list is cut.
//!
//! As in the JSON form of Protobuf, a member that is `null` is absent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::{EXPIRES_IN_MAX, Policy, USER_BYTES_MAX};
use crate::app::json::compact;
use crate::chat::{self, Grant, Identity, Overrides, RoomOptions, ServerRoom};

/// Why the claims about a client cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// The user id has more than [`USER_BYTES_MAX`].
    UserTooLong,
    /// No room can have this name.
    RoomName(Box<str>),
    /// An entry of this list, or map, of rooms is `null`.
    NullRoom(&'static str),
    /// More rooms than a client may be in.
    TooManyRooms {
        /// Rooms that are named.
        count: usize,
        /// Rooms that a client may be in.
        max: usize,
    },
    /// This member is no point of time.
    Date(&'static str),
    /// This member is not base64.
    NotBase64(&'static str),
    /// This member is base64 of something that is not JSON.
    NotJson(&'static str),
    /// This member has a value of another kind than this.
    Kind(Box<str>, &'static str),
    /// This member limits the client in a way that this server does not know.
    Unsupported(Box<str>),
    /// This override contradicts the room's options.
    Contradiction(&'static str, bool),
    /// A claim about this room is wrong.
    InRoom(Box<str>, Box<Self>),
}

impl Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserTooLong => write!(f, "the user id is longer than {USER_BYTES_MAX} bytes"),
            Self::RoomName(name) => write!(f, "no room can be called {name:?}"),
            Self::NullRoom(list) => write!(f, "`{list}` has an entry that is null"),
            Self::TooManyRooms { count, max } => {
                write!(f, "{count} rooms are named, and a client may be in {max} (max_rooms_per_client)")
            }
            Self::Date(member) => write!(
                f,
                "`{member}` is no point of time: seconds since 1970, as a number or as a string of decimal digits"
            ),
            Self::NotBase64(member) => write!(f, "`{member}` is not base64"),
            Self::NotJson(member) => write!(f, "`{member}` is not JSON"),
            Self::Kind(member, expected) => write!(f, "`{}` is not {expected}", member.escape_debug()),
            Self::Unsupported(member) => {
                write!(
                    f,
                    "`{}` may limit the client, and this server does not know it",
                    member.escape_debug()
                )
            }
            Self::Contradiction(member, value) => {
                write!(
                    f,
                    "the override `{member}` = {value} contradicts the room's settings, which decide this here"
                )
            }
            Self::InRoom(room, why) => write!(f, "room {room:?}: {why}"),
        }
    }
}

/// Claims about a client, not yet checked.
#[derive(Debug)]
pub(super) struct UserClaims<'a> {
    pub(super) user: &'a str,
    pub(super) info: Json<'a>,
    pub(super) channels: &'a [Option<String>],
    pub(super) subs: Option<&'a Fields>,
    pub(super) expires_in: Option<Duration>,
}

impl UserClaims<'_> {
    /// The identity. Its name is that of its info (`name`), else its user id, as far as these are valid
    /// names.
    pub(super) fn identity(&self, policy: &Policy) -> Result<Identity, ClaimError> {
        if self.user.len() > USER_BYTES_MAX {
            return Err(ClaimError::UserTooLong);
        }
        let info = self.info.read("b64info")?;
        let requested =
            info.as_deref().and_then(|info| serde_json::from_str::<Object<NamedInfo>>(info).ok()?.0.name);
        let names = [requested.as_deref(), Some(self.user)].into_iter().flatten();
        let name =
            names.into_iter().find_map(|name| chat::display_name(name, policy.bounds.name_bytes_max).ok());
        let name = name.map_or_else(|| Arc::from("anonymous"), Arc::from);
        let rooms = self.rooms(policy)?;
        Ok(Identity { user: Arc::from(self.user), name, info, expires_in: self.expires_in, rooms })
    }

    /// The rooms that the server joins, each once: those of `channels` in their order, then those of `subs`.
    /// A room that stands in both has the options of `subs`.
    fn rooms(&self, policy: &Policy) -> Result<Vec<ServerRoom>, ClaimError> {
        let mut grants = BTreeMap::new();
        for (name, options) in self.subs.into_iter().flat_map(|subs| &subs.0) {
            let options = options.as_deref().ok_or(ClaimError::NullRoom("subs"))?;
            let grant = grant_of_sub(options, policy.rooms.of(name))
                .map_err(|why| ClaimError::InRoom(name.as_str().into(), Box::new(why)))?;
            grants.insert(name.as_str(), Some(grant));
        }
        let mut listed = Vec::new();
        for name in self.channels {
            let name = name.as_deref().ok_or(ClaimError::NullRoom("channels"))?;
            // What was taken out stays as `None`, so that a name that comes again finds that it was there.
            match grants.insert(name, None) {
                None => listed.push((name, Grant::default())),
                Some(Some(grant)) => listed.push((name, grant)),
                Some(None) => {}
            }
        }
        listed.extend(grants.into_iter().filter_map(|(name, grant)| Some((name, grant?))));
        let (count, max) = (listed.len(), policy.bounds.rooms_per_client_max);
        if count > max {
            return Err(ClaimError::TooManyRooms { count, max });
        }
        let check = |(name, grant): (&str, Grant)| {
            chat::check_room(name, policy.bounds.room_bytes_max)
                .map_err(|_| ClaimError::RoomName(name.into()))?;
            Ok(ServerRoom { name: Arc::from(name), grant })
        };
        listed.into_iter().map(check).collect()
    }
}

/// The grant of `options`, an entry of `subs`. There may be no other members: each is an option, and
/// could limit the client.
fn grant_of_sub(options: &RawValue, room: &RoomOptions) -> Result<Grant, ClaimError> {
    let (mut info, mut data) = (Json::default(), Json::default());
    let (mut b64info, mut b64data) = (None, None);
    let mut overrides = None;
    let members = Fields::read("subs", options)?;
    for (name, value) in members.present_fields() {
        match name {
            "info" => info.plain = Some(value),
            "data" => data.plain = Some(value),
            "b64info" => b64info = Some(text(name, value)?),
            "b64data" => b64data = Some(text(name, value)?),
            "override" => overrides = Some(value),
            other => return Err(ClaimError::Unsupported(other.into())),
        }
    }
    (info.base64, data.base64) = (b64info.as_deref(), b64data.as_deref());
    grant(info, data, overrides, room)
}

/// What a client has in a room with the options `room`.
pub(super) fn grant(
    info: Json<'_>,
    data: Json<'_>,
    overrides: Option<&RawValue>,
    room: &RoomOptions,
) -> Result<Grant, ClaimError> {
    let overrides = overrides.map(|raw| read_overrides(raw, room)).transpose()?.unwrap_or_default();
    Ok(Grant { info: info.read("b64info")?, data: data.read("b64data")?, expires_in: None, overrides })
}

/// Reads `{"presence":{"value":false}, …}`. A value that is left out is false, as in Protobuf.
fn read_overrides(raw: &RawValue, room: &RoomOptions) -> Result<Overrides, ClaimError> {
    let mut overrides = Overrides::default();
    for (name, value) in Fields::read("override", raw)?.present_fields() {
        let target = match name {
            "presence" => &mut overrides.presence,
            "join_leave" => &mut overrides.join_leave,
            "force_push_join_leave" => &mut overrides.force_push_join_leave,
            "force_recovery" => &mut overrides.force_recovery,
            "force_positioning" => &mut overrides.force_positioning,
            other => return Err(ClaimError::Unsupported(format!("override.{other}").into())),
        };
        let wrong =
            |_| ClaimError::Kind(format!("override.{name}").into(), "an object such as {\"value\": true}");
        let value: Object<Switch> = serde_json::from_str(value.get()).map_err(wrong)?;
        *target = Some(value.0.value.unwrap_or_default());
    }
    agree(&overrides, room)?;
    Ok(overrides)
}

/// Every room with a history can be recovered and has positions, and either all members of a room get
/// presence events, or none: an override that contradicts this cannot be honoured.
fn agree(overrides: &Overrides, room: &RoomOptions) -> Result<(), ClaimError> {
    let has_history = room.history_count_max > 0;
    let announces = overrides.join_leave.unwrap_or(room.join_leave);
    for (name, wanted, has) in [
        ("force_recovery", overrides.force_recovery, has_history),
        ("force_positioning", overrides.force_positioning, has_history),
        ("force_push_join_leave", overrides.force_push_join_leave, announces),
    ] {
        if let Some(value) = wanted.filter(|&value| value != has) {
            return Err(ClaimError::Contradiction(name, value));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Switch {
    value: Option<bool>,
}

#[derive(Deserialize)]
struct NamedInfo {
    name: Option<String>,
}

fn text(name: &str, value: &RawValue) -> Result<String, ClaimError> {
    serde_json::from_str(value.get()).map_err(|_| ClaimError::Kind(name.into(), "a string"))
}

/// JSON in one of the two ways to write it. Base64 is stronger, as with Centrifugo.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Json<'a> {
    pub(super) plain: Option<&'a RawValue>,
    pub(super) base64: Option<&'a str>,
}

impl Json<'_> {
    /// The JSON, compact; `member` is the name of the one that is base64.
    pub(super) fn read(&self, member: &'static str) -> Result<Option<Arc<str>>, ClaimError> {
        let json = match (self.base64.filter(|encoded| !encoded.is_empty()), self.plain) {
            (Some(encoded), _) => {
                let bytes = STANDARD.decode(encoded).map_err(|_| ClaimError::NotBase64(member))?;
                let json: &RawValue =
                    serde_json::from_slice(&bytes).map_err(|_| ClaimError::NotJson(member))?;
                compact(json.get())
            }
            (None, Some(json)) => compact(json.get()),
            (None, None) => return Ok(None),
        };
        Ok(String::from_utf8(json).ok().filter(|json| json != "null").map(Arc::from))
    }
}

/// The members of an object whose names are not known beforehand; a name stands there once.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<String, Option<Box<RawValue>>>);

impl Fields {
    /// Those of `raw`, which is the value of the member `name`.
    fn read(name: &str, raw: &RawValue) -> Result<Self, ClaimError> {
        serde_json::from_str(raw.get())
            .map_err(|_| ClaimError::Kind(name.into(), "an object in which every name stands once"))
    }

    /// Those that are not null.
    fn present_fields(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, _>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("duplicate field {name:?}")));
                    }
                    members.insert(name, value);
                }
                Ok(Fields(members))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A `T` that is written as an object. Derived implementations take an array of the fields' values as well.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfMap(PhantomData))
    }
}

/// Whether a member has a value: not `null`, and neither an empty text nor an empty list or object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HasValue(bool);

impl<'de> Deserialize<'de> for HasValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::Null => false,
            Value::Bool(_) | Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(members) => !members.is_empty(),
        }))
    }
}

/// The first of `members` with a value is an error.
pub(super) fn refuse(members: &[(&'static str, HasValue)]) -> Result<(), ClaimError> {
    match members.iter().find(|(_, present_fields)| present_fields.0) {
        Some((name, _)) => Err(ClaimError::Unsupported((*name).into())),
        None => Ok(()),
    }
}

/// A point of time as tokens have it: seconds since 1970, perhaps with a fraction (RFC 7519 §2), as a number
/// or as a string of decimal digits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum NumericDate {
    /// Since 1970. Times that are too far away are clamped.
    At(Duration),
    /// Something else.
    Wrong,
}

impl NumericDate {
    /// The time since 1970; `member` is the name of what has it.
    pub(super) const fn since_1970(self, member: &'static str) -> Result<Duration, ClaimError> {
        match self {
            Self::At(time) => Ok(time),
            Self::Wrong => Err(ClaimError::Date(member)),
        }
    }

    fn parse(json: &str) -> Self {
        let is_decimal = |text: &String| {
            text.starts_with(|c: char| c.is_ascii_digit())
                && text.ends_with(|c: char| c.is_ascii_digit())
                && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let number = match serde_json::from_str::<String>(json) {
            Ok(text) => is_decimal(&text).then_some(text),
            Err(_) => Some(json.to_owned()),
        };
        match number.and_then(|number| number.parse::<f64>().ok()) {
            Some(seconds) if seconds.is_finite() && seconds >= 0.0 => {
                Self::At(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
            }
            Some(_) | None => Self::Wrong,
        }
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(Box::<RawValue>::deserialize(deserializer)?.get()))
    }
}

/// How long it is from `now` until `end`: at most [`EXPIRES_IN_MAX`]. `None`: `end` has passed.
pub(super) fn remaining(end: Duration, now: Duration) -> Option<Duration> {
    (end > now).then(|| end.saturating_sub(now).min(EXPIRES_IN_MAX))
}
