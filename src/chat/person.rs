//! The user and client of a connection, as others see them.

use std::fmt;
use std::sync::{Arc, LazyLock};
use uuid::Uuid;

/// Identifies one client as long as the server runs: a UUID of the server's own making (RFC 9562 §5.8,
/// version 8), of which the last byte is the shard of the client's session and the rest is random. Unique,
/// not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Uuid);

impl ClientId {
    /// A client of `shard`, from random bits, of which 114 are used.
    pub fn new(shard: usize, random: u128) -> Self {
        let mut bytes = random.to_be_bytes();
        bytes[15] = u8::try_from(shard).unwrap_or(u8::MAX);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The shard of the client's session.
    pub const fn shard(self) -> usize {
        self.0.as_bytes()[15] as usize
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The user and client of a connection. Shared by all its publications and by every room that it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// The connection.
    pub client: ClientId,
    /// What plain members see it called. Never empty.
    pub name: Arc<str>,
    /// `None`: the name is the user's id, and there is no more to it.
    account: Option<Arc<Account>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Account {
    user: Arc<str>,
    info: Option<Arc<str>>,
}

/// What all anonymous clients share.
static ANONYMOUS: LazyLock<Arc<Account>> =
    LazyLock::new(|| Arc::new(Account { user: Arc::from(""), info: None }));

impl Person {
    /// An anonymous client.
    pub fn anonymous(client: ClientId, name: Arc<str>) -> Self {
        Self { client, name, account: Some(Arc::clone(&ANONYMOUS)) }
    }

    /// A client of `user`, an id, empty for an anonymous one. `info`: JSON that others are shown
    /// (`conn_info`), compact.
    pub fn new(client: ClientId, user: Arc<str>, name: Arc<str>, info: Option<Arc<str>>) -> Self {
        if info.is_none() && user.is_empty() {
            return Self::anonymous(client, name);
        }
        let is_plain = info.is_none() && user == name;
        Self { client, name, account: (!is_plain).then(|| Arc::new(Account { user, info })) }
    }

    /// The user's id; empty: anonymous.
    pub fn user(&self) -> &str {
        self.account.as_ref().map_or(&self.name, |account| &account.user)
    }

    /// JSON that others are shown (`conn_info`), compact.
    pub fn info(&self) -> Option<&str> {
        self.account.as_ref()?.info.as_deref()
    }
}

/// A person in one room. 16 bytes, of which its home keeps one for each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The user and client.
    pub person: Arc<Person>,
    /// Few have it.
    info: Option<Box<Arc<str>>>,
}

impl Member {
    /// `info`: JSON that others in this room are shown beside the person (`chan_info`), compact.
    pub fn new(person: Arc<Person>, info: Option<Arc<str>>) -> Self {
        Self { person, info: info.map(Box::new) }
    }

    /// JSON that others in this room are shown beside the person (`chan_info`), compact.
    pub fn info(&self) -> Option<&str> {
        self.info.as_ref().map(|info| &***info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids() {
        let id = ClientId::new(3, u128::MAX).to_string();
        assert_eq!(id, "ffffffff-ffff-8fff-bfff-ffffffffff03");
        let id = ClientId::new(0xEF, 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF).to_string();
        assert_eq!(id, "01234567-89ab-8def-8123-456789abcdef");
    }

    #[test]
    fn users_names_and_info_are_what_they_were() {
        for (user, name, info) in [
            ("", "", None),
            ("", "n", None),
            ("u", "u", None),
            ("u", "n", None),
            ("u", "u", Some("1")),
            ("", "n", Some("1")),
        ] {
            let person = Person::new(ClientId::new(0, 1), user.into(), name.into(), info.map(Arc::from));
            assert_eq!((person.user(), &*person.name, person.info()), (user, name, info));
        }
    }
}
