//! The sockets of a loop, each in the slot of its connection.

use crate::base::ConnKey;
use crate::base::prefetch::prefetch;

/// Names a connection in what goes through the kernel: the slot, and the lower bits of its generation. It
/// leaves four bits of a word for other purposes. A slot would have to be given away 2²⁸ times between an
/// operation and its completion to be mistaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SocketId(u64);

/// Bits of a [`SocketId`].
pub(super) const ID_BITS: u32 = 60;
const ID_MASK: u64 = (1 << ID_BITS) - 1;

impl SocketId {
    /// As the kernel carries it: below 2⁶⁰.
    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`SocketId::to_bits`].
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits & ID_MASK)
    }

    /// The slot.
    pub(super) const fn index(self) -> usize {
        (self.0 & 0xFFFF_FFFF) as usize
    }

    /// Whether `key` is meant.
    pub(super) const fn is(self, key: ConnKey) -> bool {
        key.to_bits() & ID_MASK == self.0
    }
}

impl From<ConnKey> for SocketId {
    fn from(key: ConnKey) -> Self {
        Self(key.to_bits() & ID_MASK)
    }
}

/// What the loop keeps for a connection.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// The generation, and two flags in the bits that it leaves free: an idle connection of epoll's takes 8
    /// bytes here.
    word: u32,
    /// What the interface to the kernel keeps for it.
    pub(super) socket: T,
}

const QUEUED: u32 = 1 << 30;
const READ_CLOSED: u32 = 1 << 31;
const FLAGS: u32 = QUEUED | READ_CLOSED;

/// The generation of a key, which is below 2³⁰.
const fn generation(key: ConnKey) -> u32 {
    (key.to_bits() >> 32) as u32
}

/// The key of the connection that holds slot `index` in this generation.
const fn key(index: usize, generation: u32) -> ConnKey {
    ConnKey::from_bits((generation as u64) << 32 | index as u64)
}

impl<T> Slot<T> {
    const fn generation(&self) -> u32 {
        self.word & !FLAGS
    }

    /// Puts it into the queue of those to be read from. False: it stands there already.
    pub(super) const fn enqueue(&mut self) -> bool {
        let was_queued = self.word & QUEUED != 0;
        self.word |= QUEUED;
        !was_queued
    }

    /// It has left the queue.
    pub(super) const fn dequeue(&mut self) {
        self.word &= !QUEUED;
    }

    /// An event has reported the end of the peer's stream, or an error. That stays so.
    pub(super) const fn set_read_closed(&mut self) {
        self.word |= READ_CLOSED;
    }

    /// Whether an event has reported that: then the end is read as soon as everything before it is.
    pub(super) const fn is_read_closed(&self) -> bool {
        self.word & READ_CLOSED != 0
    }
}

/// Slots by [`ConnKey::index`].
#[derive(Debug)]
pub(super) struct Slots<T>(Vec<Option<Slot<T>>>);

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// A socket takes the slot of its connection, which is free.
    pub(super) fn insert(&mut self, key: ConnKey, socket: T) {
        let index = key.index();
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        debug_assert!(self.0[index].is_none(), "a slot is given away twice");
        debug_assert_eq!(generation(key) & FLAGS, 0, "the flags stand beside the generation");
        self.0[index] = Some(Slot { word: generation(key), socket });
    }

    /// Has slot `index` fetched into the cache.
    pub(super) fn prefetch(&self, index: usize) {
        if let Some(slot) = self.0.get(index) {
            prefetch(slot);
        }
    }

    /// The slot of a connection, unless it is gone.
    pub(super) fn get_mut(&mut self, key: ConnKey) -> Option<&mut Slot<T>> {
        let slot = self.0.get_mut(key.index())?.as_mut();
        slot.filter(|slot| slot.generation() == generation(key))
    }

    /// The connection that `id` names and its slot, unless it is gone.
    pub(super) fn find(&mut self, id: SocketId) -> Option<(ConnKey, &mut Slot<T>)> {
        let index = id.index();
        let slot = self.0.get_mut(index)?.as_mut()?;
        let key = key(index, slot.generation());
        id.is(key).then_some((key, slot))
    }

    /// The connection that has the slot `index` now.
    pub(super) fn at(&mut self, index: usize) -> Option<(ConnKey, &mut Slot<T>)> {
        let slot = self.0.get_mut(index)?.as_mut()?;
        Some((key(index, slot.generation()), slot))
    }

    /// Frees a slot; returns whose it was.
    pub(super) fn take(&mut self, index: usize) -> Option<(ConnKey, T)> {
        let slot = self.0.get_mut(index)?.take()?;
        Some((key(index, slot.generation()), slot.socket))
    }

    /// Slots that are or were in use: every index is below it.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Frees the slot of a connection.
    pub(super) fn remove(&mut self, key: ConnKey) -> Option<T> {
        self.get_mut(key)?;
        self.0[key.index()].take().map(|slot| slot.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_answers_to_its_connection_alone() {
        let (old, new) = (key(3, 7), key(3, 8));
        let mut slots = Slots::new();
        slots.insert(old, "old");
        assert_eq!(slots.find(old.into()).map(|(key, slot)| (key, slot.socket)), Some((old, "old")));
        assert_eq!(slots.remove(old), Some("old"));
        slots.insert(new, "new");
        assert!(slots.get_mut(old).is_none() && slots.find(old.into()).is_none());
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.at(3).map(|(key, slot)| (key, slot.socket)), Some((new, "new")));
    }

    #[test]
    fn flags_and_generation_leave_each_other_alone() {
        let key = key(0, !FLAGS);
        let mut slots = Slots::new();
        slots.insert(key, ());
        let slot = slots.get_mut(key).unwrap();
        assert!(!slot.is_read_closed() && slot.enqueue() && !slot.enqueue());
        slot.set_read_closed();
        slot.dequeue();
        assert!(slot.is_read_closed() && slot.enqueue());
        assert!(slots.get_mut(key).is_some() && slots.find(key.into()).is_some());
    }

    #[test]
    fn an_id_names_one_connection() {
        let key = ConnKey::from_bits(0x1234_5678_0000_0007);
        let id = SocketId::from(key);
        assert!(id.is(key) && id.index() == 7 && id.to_bits() < 1 << ID_BITS);
        assert!(!id.is(ConnKey::from_bits(0x1234_5679_0000_0007)), "the slot has a new owner");
        assert!(!id.is(ConnKey::from_bits(0x1234_5678_0000_0008)));
    }
}
