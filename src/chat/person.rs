//! Who is behind a connection, as others see it.

use std::fmt;
use std::sync::Arc;

/// Names one connection for as long as the server lives: a random UUID (RFC 9562, version 4). Unique, not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u128);

impl ClientId {
    /// From 128 random bits, six of which say that they are random.
    pub const fn from_random(bits: u128) -> Self {
        const VERSION: u128 = 0xF << 76;
        const VARIANT: u128 = 0b11 << 62;
        Self(bits & !VERSION & !VARIANT | 0x4 << 76 | 0b10 << 62)
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

/// Who is behind a connection. Shared by everything that it says and by every room that it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// The connection.
    pub client: ClientId,
    /// The user's id; empty: nobody in particular.
    pub user: Arc<str>,
    /// What plain members see it called. Never empty.
    pub name: Arc<str>,
    /// JSON that others are shown (`conn_info`), compact.
    pub info: Option<Arc<str>>,
}

/// A person in one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who.
    pub person: Arc<Person>,
    /// JSON that others in this room are shown beside it (`chan_info`), compact.
    pub info: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids() {
        let id = ClientId::from_random(u128::MAX).to_string();
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let id = ClientId::from_random(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF).to_string();
        assert_eq!(id, "01234567-89ab-4def-8123-456789abcdef");
    }
}
