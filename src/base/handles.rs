//! Numbers that one part of a shard gives out and another carries without looking inside.

use core::num::NonZero;

/// A place in a table. An `Option` of it, or of what holds one, is no larger than itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(NonZero<u32>);

impl Index {
    /// The place `index`, which is below 2³² − 1: no machine's memory reaches that.
    pub const fn new(index: u32) -> Self {
        Self(NonZero::<u32>::MIN.saturating_add(index))
    }

    /// As it was given to [`Index::new`].
    pub const fn get(self) -> u32 {
        self.0.get() - 1
    }
}

impl core::fmt::Debug for Index {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(&self.get(), f)
    }
}

/// Names a room in a shard's directory of rooms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoomId(pub u32);

/// Names an audience of a shard: the members of one room that take one wire form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AudienceId(pub u32);

/// Names a subscription: a member of an audience. Stable as long as the subscription exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubId(Index);

impl SubId {
    /// The subscription at `index`.
    pub const fn new(index: u32) -> Self {
        Self(Index::new(index))
    }

    /// Its place among a shard's subscriptions.
    pub const fn index(self) -> usize {
        self.0.get() as usize
    }
}
