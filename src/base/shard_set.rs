//! Some of a process's shards, as one word.

/// More cores than any machine that this is run on; a [`ShardSet`] is one word.
pub const SHARDS_MAX: usize = 128;

/// Some of the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardSet(u128);

impl ShardSet {
    /// This one.
    pub const fn one(shard: usize) -> Self {
        Self(1 << shard)
    }

    /// All of `shards` shards.
    pub const fn all(shards: usize) -> Self {
        Self(u128::MAX >> (SHARDS_MAX - shards))
    }

    /// Adds `shard`.
    pub const fn insert(&mut self, shard: usize) {
        self.0 |= 1 << shard;
    }

    /// Removes `shard`.
    pub const fn remove(&mut self, shard: usize) {
        self.0 &= !(1 << shard);
    }

    /// Whether `shard` is in it.
    pub const fn contains(self, shard: usize) -> bool {
        self.0 & (1 << shard) != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}
