//! Hashing of what clients choose (names, rooms): seeded, so that no client can aim at a bucket or at a
//! shard.

use ahash::RandomState;
use siphasher::sip128::SipHasher24;
use std::hash::Hash;

/// The map to use for keys that a client can choose.
#[expect(clippy::disallowed_types, reason = "this is the seeded map that the lint points to")]
pub type Map<K, V> = std::collections::HashMap<K, V, RandomState>;

/// One seed for all shards of a process: they must agree on where a room's home is.
#[derive(Clone)]
pub struct Seed {
    hasher: RandomState,
    mac: SipHasher24,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// A seed from the caller's randomness. The same value gives the same homes.
    pub fn new(value: u64) -> Self {
        let hasher = RandomState::with_seeds(value, value.rotate_left(32), !value, 0x5374_656e_746f_7221);
        Self { hasher, mac: SipHasher24::new_with_keys(value, 0x5365_7373_696f_6e21) }
    }

    /// The hash of a key, for tables that keep it inside of their values.
    pub fn hash<K: Hash>(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A code by which `bytes` are recognized as this process's: who does not know the seed cannot make it
    /// (SipHash-2-4, 128 bits).
    pub fn mac(&self, bytes: &[u8]) -> u128 {
        self.mac.hash(bytes).as_u128()
    }

    /// An empty map under this seed.
    pub fn map<K, V>(&self) -> Map<K, V> {
        Map::with_hasher(self.hasher.clone())
    }

    /// Which of `shards` shards orders the publications of `room`.
    pub fn home(&self, room: &str, shards: usize) -> usize {
        self.spread(room, shards)
    }

    /// Which of `parts` parts is `key`'s.
    pub fn spread(&self, key: &(impl Hash + ?Sized), parts: usize) -> usize {
        let hash = u128::from(self.hasher.hash_one(key));
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
