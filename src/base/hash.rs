//! Hashing of what clients choose (names, rooms): seeded, so that no client can aim at a bucket or at a
//! shard.

use ahash::RandomState;
use std::hash::Hash;

/// The map to use for keys that a client can choose.
#[expect(clippy::disallowed_types, reason = "this is the seeded map that the lint points to")]
pub type Map<K, V> = std::collections::HashMap<K, V, RandomState>;

/// One seed for all shards of a process: they must agree on where a room's home is.
#[derive(Clone, Debug)]
pub struct Seed(RandomState);

impl Seed {
    /// A seed from the caller's randomness. The same value gives the same homes.
    pub fn new(value: u64) -> Self {
        Self(RandomState::with_seeds(value, value.rotate_left(32), !value, 0x5374_656e_746f_7221))
    }

    /// The hash of a key, for tables that keep it inside of their values.
    pub fn hash<K: Hash>(&self, key: &K) -> u64 {
        self.0.hash_one(key)
    }

    /// An empty map under this seed.
    pub fn map<K, V>(&self) -> Map<K, V> {
        Map::with_hasher(self.0.clone())
    }

    /// Which of `shards` shards orders the publications of `room`.
    pub fn home(&self, room: &str, shards: usize) -> usize {
        self.spread(room, shards)
    }

    /// Which of `parts` parts is `key`'s.
    pub fn spread(&self, key: &(impl Hash + ?Sized), parts: usize) -> usize {
        let hash = u128::from(self.0.hash_one(key));
        // The high half of hash × parts: uniform without a division (Lemire).
        usize::try_from((hash * parts as u128) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_spread_over_all_shards_and_stay() {
        let seed = Seed::new(7);
        let mut counts = [0_u32; 8];
        for room in 0..8000 {
            let room = format!("room-{room}");
            let home = seed.home(&room, counts.len());
            assert_eq!(home, seed.home(&room, counts.len()));
            counts[home] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
