//! The user and client of a connection, as others see them.

use std::fmt;
use std::sync::Arc;

/// Identifies one client as long as the server runs: a UUID of the server's own making (RFC 9562 §5.8, version 8), of which
/// the last byte is the shard of the client's session and the rest is random. Unique, not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u128);

impl ClientId {
    /// A client of `shard`, from random bits, of which 114 are used.
    pub fn new(shard: usize, random: u128) -> Self {
        const VERSION: u128 = 0xF << 76;
        const VARIANT: u128 = 0b11 << 62;
        let shard = u8::try_from(shard).unwrap_or(u8::MAX);
        Self(random & !VERSION & !VARIANT & !0xFF | 0x8 << 76 | 0b10 << 62 | u128::from(shard))
    }

    /// The shard of the client's session.
    pub const fn shard(self) -> usize {
        (self.0 & 0xFF) as usize
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, bits: u32| (self.0 >> shift) & ((1 << bits) - 1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 32),
            part(80, 16),
            part(64, 16),
            part(48, 16),
            part(0, 48)
        )
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
    /// The user's id; empty: anonymous.
    pub user: Arc<str>,
    /// What plain members see it called. Never empty.
    pub name: Arc<str>,
    /// JSON that others are shown (`conn_info`), compact.
    pub info: Option<Arc<str>>,
}

/// A person in one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The user and client.
    pub person: Arc<Person>,
    /// JSON that others in this room are shown beside it (`chan_info`), compact.
    pub info: Option<Arc<str>>,
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
}
