//! How long rooms and their histories are kept, and how much of them.
//!
//! An empty room is kept as long as a message published at that moment would be, so that a client that was
//! cut off finds it as it was. All histories together have one bound: above it, the least recently used rooms
//! lose theirs; their epochs and offsets stay, so that a reconnecting client learns that it cannot recover.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::Homes;
use crate::base::{HomeKey, Time};

/// Empty rooms that are kept for reconnecting clients. Above it, the ones that expire first go first.
pub(super) const EMPTY_ROOMS_MAX: usize = 10_000;

/// As long as all histories together are larger than this, no room without members is kept.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// How often, and how many rooms at a time, are looked through for what has become too old.
const AGING_INTERVAL: Duration = Duration::from_secs(1);
const AGED_PER_TURN: usize = 1000;

/// Entries of rooms that are gone, in the order of their use, beside as many as there are rooms.
const STALE_USES_MAX: usize = 64;

/// What the homes hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RoomUsage {
    /// Clients that are listed as present, in all rooms.
    pub present: usize,
    /// Bytes of all histories.
    pub history_bytes: u64,
    /// Bytes of drafts that one room has not ordered: they wait for a shard that is behind, or for the
    /// engine.
    pub draft_bytes: u64,
    /// Clients that wait for a page of one room.
    pub joins: usize,
}

/// What is kept, and in which order it is given up.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Bytes of all histories.
    bytes: u64,
    /// Rooms by the time of their last use, or of an earlier one: using a room changes nothing here, and an
    /// entry that comes up too early goes back with its room's present time.
    used: BinaryHeap<Reverse<(Time, HomeKey)>>,
    /// Rooms without members, and until when they are kept.
    empty: BinaryHeap<Reverse<(Time, HomeKey)>>,
    /// When histories are looked through again, and where that goes on.
    ages_at: Time,
    next_aged: usize,
}

impl Keeper {
    /// Bytes of all histories.
    pub(super) const fn history_bytes(&self) -> u64 {
        self.bytes
    }

    /// A history has changed its size.
    pub(super) const fn replace(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes + after as u64 - before as u64;
    }
}

/// What has happened in the homes, to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Subscriptions recovered without a gap.
    pub recovered: u64,
    /// Subscriptions that could not be recovered.
    pub unrecovered: u64,
    /// Publications ordered.
    pub ordered: u64,
    /// Publications that were dropped from histories because all of them together were too large.
    pub evicted: u64,
    /// Drafts that had to wait because a shard was behind.
    pub delayed: u64,
}

impl Homes {
    /// A room is used.
    pub(super) fn touch(&mut self, key: HomeKey, now: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if home.used.replace(now).is_none() {
            self.keeper.used.push(Reverse((now, key)));
        }
        self.evict();
    }

    /// Entries of rooms that are gone go in bulk, once they are as many as the others.
    fn drop_stale_uses(&mut self) {
        if self.keeper.used.len() > 2 * self.homes.len() + STALE_USES_MAX {
            self.keeper.used.retain(|&Reverse((_, key))| self.homes.get(key).is_some());
        }
    }

    /// Gives up the histories of the least recently used rooms, as long as all of them are too large.
    fn evict(&mut self) {
        while self.keeper.bytes > self.limits.history_bytes_max
            && let Some(Reverse((queued, key))) = self.keeper.used.pop()
        {
            let Some(home) = self.homes.get_mut(key) else { continue };
            if let Some(used) = home.used.filter(|&used| used > queued) {
                self.keeper.used.push(Reverse((used, key)));
                continue;
            }
            home.used = None;
            let before = home.history.kept().1;
            self.counts.evicted += home.history.clear() as u64;
            self.keeper.replace(before, 0);
        }
    }

    pub(super) fn forget_old(&mut self, key: HomeKey, now: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let before = home.history.kept().1;
        home.history.forget(now, &home.options);
        self.keeper.replace(before, home.history.kept().1);
    }

    /// Forgets an empty room, or keeps it for a while.
    pub(super) fn keep_or_forget(&mut self, key: HomeKey, now: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if !home.is_empty() {
            return;
        }
        if home.options.history_count_max == 0 {
            return self.forget(key);
        }
        let until = now + home.options.history_age_max;
        home.kept_until = Some(until);
        if home.queued_until.is_none() {
            home.queued_until = Some(until);
            self.keeper.empty.push(Reverse((until, key)));
        }
    }

    fn forget(&mut self, key: HomeKey) {
        let Some(home) = self.homes.remove(key) else { return };
        self.keeper.replace(home.history.kept().1, 0);
        self.by_name.remove(&home.name);
        self.engine.close(key);
        self.drop_stale_uses();
    }

    /// Forgets what is too old: rooms that were kept for their history alone, and a part of the history of
    /// all others.
    pub(super) fn age(&mut self, now: Time) {
        while let Some(&Reverse((queued_until, key))) = self.keeper.empty.peek()
            && (queued_until <= now
                || self.keeper.empty.len() > EMPTY_ROOMS_MAX
                || self.keeper.bytes > KEPT_BYTES_MAX)
        {
            self.keeper.empty.pop();
            let Some(home) = self.homes.get_mut(key) else { continue };
            home.queued_until = None;
            match home.kept_until {
                _ if !home.is_empty() => {}
                // A client was there in the meantime.
                Some(until) if until > queued_until => {
                    home.queued_until = Some(until);
                    self.keeper.empty.push(Reverse((until, key)));
                }
                _ => self.forget(key),
            }
        }
        if now < self.keeper.ages_at {
            return;
        }
        self.keeper.ages_at = now + AGING_INTERVAL;
        for _ in 0..AGED_PER_TURN.min(self.homes.slots()) {
            let index = self.keeper.next_aged;
            self.keeper.next_aged = if index + 1 >= self.homes.slots() { 0 } else { index + 1 };
            if let Some(key) = self.homes.key_at(index) {
                self.forget_old(key, now);
            }
        }
    }

    /// When something will have become too old; `None`: there is nothing that could.
    pub(super) fn next_aging(&self) -> Option<Time> {
        let room = self.keeper.empty.peek().map(|&Reverse((until, _))| until);
        let history = (self.keeper.bytes > 0).then_some(self.keeper.ages_at);
        room.into_iter().chain(history).min()
    }

    /// What they hold. For tests and the simulator.
    pub fn usage(&self) -> RoomUsage {
        let mut usage = RoomUsage { history_bytes: self.keeper.bytes, ..RoomUsage::default() };
        for home in self.homes.values() {
            let (draft_bytes, joins) = home.usage();
            usage.present += home.presence.len();
            usage.draft_bytes = usage.draft_bytes.max(draft_bytes);
            usage.joins = usage.joins.max(joins);
        }
        usage
    }

    /// Checks that the homes agree with their own sums. For tests and the simulator.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_invariants(&self) {
        let bytes: usize = self.homes.values().map(|home| home.history.kept().1).sum();
        assert_eq!(bytes as u64, self.keeper.bytes, "bytes of all histories");
        assert_eq!(self.homes.len(), self.by_name.len(), "a name for each room");
        let used = self.homes.values().filter(|home| home.used.is_some()).count();
        let entries =
            self.keeper.used.iter().filter(|Reverse((_, key))| self.homes.get(*key).is_some()).count();
        assert_eq!(used, entries, "an entry for each room that is used");
        let entries_max = 2 * self.homes.len() + STALE_USES_MAX;
        assert!(self.keeper.used.len() <= entries_max, "entries of rooms that are gone");
        for home in self.homes.values() {
            assert!(Arc::strong_count(&home.name) >= 2, "the map knows the name");
        }
    }
}
