//! Tables of connections and of sessions: slabs whose slots carry a generation, so that an event for an entry
//! that is gone never reaches the one that took over its slot.

use slab::Slab;
use std::marker::PhantomData;

use super::Index;

/// What names an entry of a [`Table`]: a slot, and a generation that no other entry of that slot has for a
/// long time.
pub trait Key: Copy {
    /// The key of the entry in slot `index` with that generation.
    fn new(index: u32, generation: u32) -> Self;

    /// The slot. Dense: other tables may be indexed with it.
    fn index(self) -> usize;

    /// The generation.
    fn generation(self) -> u32;
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name {
            index: Index,
            generation: u32,
        }

        impl $name {
            /// The slot. Dense: other tables may be indexed with it.
            pub const fn index(self) -> usize {
                self.index.get() as usize
            }
        }

        impl Key for $name {
            fn new(index: u32, generation: u32) -> Self {
                Self { index: Index::new(index), generation }
            }

            fn index(self) -> usize {
                self.index()
            }

            fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}

key! {
    /// Identifies a connection; never reused.
    ConnKey
}

key! {
    /// Identifies a session; never reused.
    SessionKey
}

key! {
    /// Identifies where the messages of a session go that has no connection of its own; never reused.
    OutletKey
}

key! {
    /// Names a room at its home shard for as long as it is kept there.
    HomeKey
}

impl SessionKey {
    /// Both halves in one word.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index.get() as u64
    }

    /// The reverse of [`SessionKey::to_bits`]; `None`: no entry has this key.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let index = u32::try_from(bits & 0xFFFF_FFFF).ok().filter(|&index| index != u32::MAX)?;
        Some(Self { index: Index::new(index), generation: u32::try_from(bits >> 32).ok()? })
    }
}

impl ConnKey {
    /// Both halves in one word, to be carried through the kernel as an event's token.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index.get() as u64
    }

    /// The reverse of [`ConnKey::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "each half of the word is a u32 by construction")]
        Self { index: Index::new(bits as u32), generation: (bits >> 32) as u32 }
    }
}

/// A slab with a generation beside each value.
#[derive(Debug)]
pub struct Table<K, T> {
    slots: Slab<(u32, T)>,
    next_generation: u32,
    slots_used: usize,
    keys: PhantomData<fn() -> K>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { slots: Slab::new(), next_generation: 0, slots_used: 0, keys: PhantomData }
    }
}

impl<K: Key, T> Table<K, T> {
    /// Stores `value`.
    ///
    /// # Panics
    /// Beyond 2³² − 1 entries, which no machine's memory reaches.
    pub fn insert(&mut self, value: T) -> K {
        self.insert_with(|_| value)
    }

    /// Stores the value that `make` makes for its key.
    ///
    /// # Panics
    /// As [`Table::insert`].
    pub fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        self.next_generation = self.next_generation.wrapping_add(1) & GENERATION_MASK;
        let entry = self.slots.vacant_entry();
        self.slots_used = self.slots_used.max(entry.key() + 1);
        let index = u32::try_from(entry.key()).expect("fewer than 2^32 entries");
        let key = K::new(index, self.next_generation);
        entry.insert((self.next_generation, make(key)));
        key
    }

    /// Gives no key away that `other` has given away.
    pub const fn continue_after(&mut self, other: &Self) {
        self.next_generation = other.next_generation;
    }

    /// The value, unless that entry is gone.
    pub fn get(&self, key: K) -> Option<&T> {
        self.slots
            .get(key.index())
            .and_then(|(generation, value)| (*generation == key.generation()).then_some(value))
    }

    /// The value, unless that entry is gone.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.slots
            .get_mut(key.index())
            .and_then(|(generation, value)| (*generation == key.generation()).then_some(value))
    }

    /// Takes the value out and frees the slot.
    pub fn remove(&mut self, key: K) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.index()).1)
    }

    /// The key of the entry that holds slot `index` now.
    pub fn key_at(&self, index: usize) -> Option<K> {
        let (generation, _) = self.slots.get(index)?;
        Some(K::new(u32::try_from(index).ok()?, *generation))
    }

    /// The value in slot `index`.
    pub fn at_mut(&mut self, index: usize) -> Option<&mut T> {
        self.slots.get_mut(index).map(|(_, value)| value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots that are or were in use: every index is below it.
    pub fn slots(&self) -> usize {
        self.slots_used
    }

    /// Every key, in slot order.
    pub fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.slots
            .iter()
            .filter_map(|(index, (generation, _))| Some(K::new(u32::try_from(index).ok()?, *generation)))
    }

    /// Every value, in slot order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, (_, value))| value)
    }

    /// Every value, in slot order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|(_, (_, value))| value)
    }
}

/// Generations stay below 2³⁰: a driver keeps two flags in the bits beside one.
const GENERATION_MASK: u32 = u32::MAX >> 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_the_old_key() {
        let mut table = Table::<ConnKey, _>::default();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
    }

    #[test]
    fn a_table_that_goes_on_after_another_gives_no_key_again() {
        let (mut old, mut new) = (Table::<ConnKey, _>::default(), Table::default());
        let keys: Vec<_> = (0..3).map(|value| old.insert(value)).collect();
        new.continue_after(&old);
        for value in 0..3 {
            assert!(!keys.contains(&new.insert(value)));
        }
    }

    #[test]
    fn keys_survive_the_trip_through_a_token() {
        let mut table = Table::<ConnKey, _>::default();
        for value in 0..3 {
            let key = table.insert(value);
            assert_eq!(ConnKey::from_bits(key.to_bits()), key);
            assert_eq!(table.key_at(key.index()), Some(key));
        }
    }
}
