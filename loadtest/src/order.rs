//! The order in which a room's messages were first received, and each receiver's cursor in it. A receiver
//! that receives the same order as all others costs one comparison per message, and memory that does not
//! depend on the number of publishers; only gaps cost more. Lost, duplicated and reordered messages are
//! counted exactly for every pair of publisher and receiver.

use std::collections::VecDeque;

/// Entries that a room keeps for receivers that are behind. A receiver that is further behind has lost the
/// rest.
const ENTRIES_MAX: usize = 1 << 20;

/// Gaps that one cursor keeps. Beyond, the messages of the oldest gap count as lost.
const GAPS_MAX: usize = 4096;

/// Sequence numbers of a publisher that are not received yet and still expected.
const OUTSTANDING_MAX: usize = 1 << 16;

/// Messages that a new receiver keeps while no other has received the first of them.
const PENDING_MAX: usize = 64;

/// The index of a message that no receiver has received yet.
const NOT_RECEIVED: u64 = u64::MAX;

/// The classification of a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Received once and in order.
    InOrder,
    /// Received before.
    Duplicate,
    /// Received after a later message of the same publisher.
    Reordered,
    /// In order for its publisher, but others have received it in another order relative to other publishers.
    OrderMismatch,
    /// From before the receiver connected; its entry is trimmed.
    Old,
}

/// One message of a room.
#[derive(Clone, Copy, Debug)]
struct Entry {
    publisher: u32,
    sequence: u32,
    intended_ns: u64,
    /// A later message of the same publisher precedes it in the order.
    out_of_order: bool,
}

/// The indexes of one publisher's messages.
#[derive(Debug, Default)]
struct PublisherIndex {
    /// Sequence number of the first of `indexes`.
    first: u32,
    indexes: VecDeque<u64>,
    /// Number of different messages received, by any receiver.
    received: u32,
}

/// The order of one room.
#[derive(Debug, Default)]
pub struct Order {
    /// Index of the first entry that is kept. Indexes count from the room's first message.
    base: u64,
    entries: VecDeque<Entry>,
    publishers: Vec<PublisherIndex>,
    /// The run is draining: new receivers keep no messages as pending.
    draining: bool,
}

/// The progress of one receiver in its room's order. All entries before `next` are received, except for the
/// gaps.
#[derive(Debug, Default)]
pub struct Cursor {
    next: u64,
    /// Skipped ranges before `next`: from, to (exclusive). Ascending.
    gaps: Vec<(u64, u64)>,
    /// Missing messages whose entries are trimmed or whose gap was dropped.
    abandoned: u64,
    /// The receiver connected during the run, at this time, and has no index yet.
    connected_ns: Option<u64>,
    /// Messages that a new receiver was the first to receive. Messages published just before it connected
    /// precede them, and other receivers may receive those only now; so the others determine the indexes.
    pending: Vec<Entry>,
}

impl Order {
    /// A cursor that receives everything from the room's first message on.
    pub fn cursor_from_start(&self) -> Cursor {
        Cursor { next: self.base, ..Cursor::default() }
    }

    /// A cursor that starts now: later messages are required, earlier ones accepted.
    pub fn cursor_from(&self, now_ns: u64) -> Cursor {
        Cursor { next: self.end(), connected_ns: Some(now_ns), ..Cursor::default() }
    }

    /// Records a message received at `cursor`.
    pub fn received(
        &mut self,
        cursor: &mut Cursor,
        publisher: u32,
        sequence: u32,
        intended_ns: u64,
    ) -> Delivery {
        let offset = usize::try_from(cursor.next.wrapping_sub(self.base)).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get(offset)
            && (entry.publisher, entry.sequence) == (publisher, sequence)
            && cursor.gaps.is_empty()
            && cursor.connected_ns.is_none()
        {
            cursor.next += 1;
            return if entry.out_of_order { Delivery::Reordered } else { Delivery::InOrder };
        }
        let message = Entry { publisher, sequence, intended_ns, out_of_order: false };
        if cursor.connected_ns.is_some() {
            let first = cursor.pending.first().copied().unwrap_or(message);
            if !self.is_known(first) && !self.draining && cursor.pending.len() < PENDING_MAX {
                let mut of_publisher = cursor.pending.iter().filter(|pending| pending.publisher == publisher);
                if of_publisher.clone().any(|pending| pending.sequence == sequence) {
                    return Delivery::Duplicate;
                }
                let out_of_order = of_publisher.any(|pending| pending.sequence > sequence);
                cursor.pending.push(message);
                return if out_of_order { Delivery::Reordered } else { Delivery::InOrder };
            }
            self.flush_pending(cursor);
        }
        self.received_at_index(cursor, message)
    }

    /// Assigns indexes to a new receiver's pending messages.
    pub fn flush_pending(&mut self, cursor: &mut Cursor) {
        for message in std::mem::take(&mut cursor.pending) {
            self.received_at_index(cursor, message);
        }
    }

    /// From now on, messages of new receivers are assigned indexes at once.
    pub const fn begin_drain(&mut self) {
        self.draining = true;
    }

    /// Whether the message has an index, even if its entry is trimmed.
    fn is_known(&self, message: Entry) -> bool {
        let Some(publisher) = self.publishers.get(message.publisher as usize) else { return false };
        let Some(offset) = message.sequence.checked_sub(publisher.first) else { return true };
        publisher.indexes.get(offset as usize).is_some_and(|&index| index != NOT_RECEIVED)
    }

    /// Records a message that is new to the room, or not at `cursor.next`.
    fn received_at_index(&mut self, cursor: &mut Cursor, message: Entry) -> Delivery {
        let Some(index) = self.index_of(message) else {
            return if cursor.connected_ns.is_some() { Delivery::Old } else { Delivery::Duplicate };
        };
        self.set_start(cursor, index);
        if cursor.next < self.base {
            cursor.abandon_before(self.base);
        }
        if index >= cursor.next {
            if index > cursor.next {
                cursor.gaps.push((cursor.next, index));
                cursor.bound_gaps();
            }
            cursor.next = index + 1;
            // Only a message behind a later one of its publisher can have been received after it.
            let out_of_order = self.entry(index).is_some_and(|entry| entry.out_of_order);
            return if out_of_order && self.has_received_later(cursor, message) {
                Delivery::Reordered
            } else {
                Delivery::InOrder
            };
        }
        if !cursor.fill_gap(index) {
            return Delivery::Duplicate;
        }
        if self.has_received_later(cursor, message) { Delivery::Reordered } else { Delivery::OrderMismatch }
    }

    /// The index of a message, assigned at the end if it is new; `None` if its entry is trimmed.
    fn index_of(&mut self, mut message: Entry) -> Option<u64> {
        let end = self.end();
        let publisher = message.publisher as usize;
        if publisher >= self.publishers.len() {
            self.publishers.resize_with(publisher + 1, PublisherIndex::default);
        }
        let publisher = &mut self.publishers[publisher];
        let offset = message.sequence.checked_sub(publisher.first)? as usize;
        if offset >= publisher.indexes.len() {
            publisher.indexes.resize(offset + 1, NOT_RECEIVED);
        } else {
            message.out_of_order = true;
        }
        let index = &mut publisher.indexes[offset];
        if *index == NOT_RECEIVED {
            *index = end;
            publisher.received += 1;
            self.entries.push_back(message);
            return Some(end);
        }
        Some(*index)
    }

    /// Sets the start of a cursor that connected during the run, from its first message.
    fn set_start(&self, cursor: &mut Cursor, index: u64) {
        let Some(connected_ns) = cursor.connected_ns.take() else { return };
        if index < cursor.next {
            cursor.next = index; // the server has sent earlier messages
            return;
        }
        let first = cursor.next.max(self.base);
        let due = (first..index).rev().take_while(|&before| self.is_after(before, connected_ns));
        cursor.next = due.last().unwrap_or(index);
    }

    fn is_after(&self, index: u64, connected_ns: u64) -> bool {
        self.entry(index).is_some_and(|entry| entry.intended_ns > connected_ns)
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        usize::try_from(index.checked_sub(self.base)?).ok().and_then(|offset| self.entries.get(offset))
    }

    fn has_received_later(&self, cursor: &Cursor, message: Entry) -> bool {
        let publisher = &self.publishers[message.publisher as usize];
        let offset = message.sequence.saturating_sub(publisher.first) as usize;
        publisher.indexes.iter().skip(offset + 1).any(|&index| cursor.has_received(index))
    }

    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The messages that no receiver has received, of `published` by each publisher.
    pub fn undelivered(&self, published: impl Iterator<Item = u32>) -> u64 {
        let received = self.publishers.iter().map(|publisher| publisher.received).chain(std::iter::repeat(0));
        published
            .zip(received)
            .map(|(published, received)| u64::from(published.saturating_sub(received)))
            .sum()
    }

    /// The number of different messages received from one publisher.
    pub fn received_from(&self, publisher: u32) -> u32 {
        self.publishers.get(publisher as usize).map_or(0, |publisher| publisher.received)
    }

    /// Whether the receiver has received everything that any other has.
    pub fn is_complete(&self, cursor: &Cursor) -> bool {
        match cursor.connected_ns {
            Some(connected_ns) => self.end() == self.base || !self.is_after(self.end() - 1, connected_ns),
            None => cursor.next == self.end() && cursor.gaps.is_empty(),
        }
    }

    /// The messages that the receiver has missed, of all that any other has received.
    pub fn missed(&self, cursor: &Cursor) -> u64 {
        let behind = match cursor.connected_ns {
            Some(connected_ns) => {
                let first = cursor.next.max(self.base);
                (first..self.end()).rev().take_while(|&index| self.is_after(index, connected_ns)).count()
                    as u64
            }
            None => self.end() - cursor.next,
        };
        cursor.missing() + behind
    }

    /// Drops the entries before `floor`, the lowest index that any cursor still needs.
    pub fn trim_before(&mut self, floor: u64) {
        let at_least = self.end().saturating_sub(ENTRIES_MAX as u64);
        let floor = floor.max(at_least).clamp(self.base, self.end());
        self.entries.drain(..usize::try_from(floor - self.base).unwrap_or(0));
        self.base = floor;
        for publisher in &mut self.publishers {
            while let Some(&index) = publisher.indexes.front()
                && (index < floor || index == NOT_RECEIVED && publisher.indexes.len() > OUTSTANDING_MAX)
            {
                publisher.indexes.pop_front();
                publisher.first += 1;
            }
        }
    }
}

impl Cursor {
    /// The lowest index that it still needs.
    pub fn floor(&self) -> u64 {
        self.gaps.first().map_or(self.next, |&(from, _)| from)
    }

    /// Skipped messages that have not been received since.
    pub fn missing(&self) -> u64 {
        self.abandoned + self.gaps.iter().map(|(from, to)| to - from).sum::<u64>()
    }

    fn has_received(&self, index: u64) -> bool {
        index < self.next && self.gap_around(index).is_none()
    }

    fn gap_around(&self, index: u64) -> Option<usize> {
        let gap = self.gaps.partition_point(|&(_, to)| to <= index);
        self.gaps.get(gap).is_some_and(|&(from, _)| from <= index).then_some(gap)
    }

    /// Removes `index` from the gaps. False if it is in none.
    fn fill_gap(&mut self, index: u64) -> bool {
        let Some(gap) = self.gap_around(index) else { return false };
        let (from, to) = self.gaps[gap];
        let left = [(from, index), (index + 1, to)].into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(gap..=gap, left);
        true
    }

    fn bound_gaps(&mut self) {
        if self.gaps.len() > GAPS_MAX {
            let (from, to) = self.gaps.remove(0);
            self.abandoned += to - from;
        }
    }

    fn abandon_before(&mut self, base: u64) {
        self.abandoned = self.missing() + (base - self.next);
        self.gaps.clear();
        self.next = base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room of two receivers: the first receives `leader`, then the second `follower`. `expected` is the
    /// classification for the second, `missed` the messages it has missed. `a3` is message 3 of publisher a.
    fn check(leader: &str, follower: &str, expected: &str, missed: u64) {
        let mut order = Order::default();
        let mut cursors = [order.cursor_from_start(), order.cursor_from_start()];
        let mut outcomes = String::new();
        for (receiver, received) in [leader, follower].into_iter().enumerate() {
            outcomes.clear();
            for word in received.split_whitespace() {
                let publisher = u32::from(word.as_bytes()[0] - b'a');
                let sequence = word[1..].parse().unwrap();
                outcomes.push(match order.received(&mut cursors[receiver], publisher, sequence, 0) {
                    Delivery::InOrder => '.',
                    Delivery::Duplicate => 'd',
                    Delivery::Reordered => 'r',
                    Delivery::OrderMismatch => 'm',
                    Delivery::Old => 'o',
                });
            }
        }
        let found = (outcomes.as_str(), order.missed(&cursors[1]));
        assert_eq!(found, (expected, missed), "{leader} | {follower}");
        assert_eq!(order.is_complete(&cursors[1]), missed == 0);
    }

    #[test]
    fn each_delivery_error_is_counted_once() {
        check("a0 b0 a1", "a0 b0 a1", "...", 0);
        check("a0 b0 a1", "a0 b0", "..", 1);
        check("a0 b0 a1", "a0 a1", "..", 1);
        check("a0 b0 a1", "", "", 3);
        check("a0 b0 a1", "a0 a0 b0 b0 a1", ".d.d.", 0);
        check("a0 b0 a1 a2", "a1 a0 a2 b0", ".r.m", 0);
        check("a0 b0 a1", "a0 a1 b0", "..m", 0);
        check("a0 a1 a2 a3", "a0 a2 a1 a1 a3", "..rd.", 0);
    }

    #[test]
    fn a_shared_wrong_order_is_counted_for_each_receiver() {
        check("a1 a0 a2", "a1 a0 a2", ".r.", 0);
        check("a1 a0 a2", "a0 a1 a2", ".m.", 0);
    }

    #[test]
    fn undelivered_messages_follow_from_the_published_count() {
        let mut order = Order::default();
        let mut cursor = order.cursor_from_start();
        assert_eq!(order.received(&mut cursor, 1, 2, 0), Delivery::InOrder);
        assert_eq!(order.received(&mut cursor, 1, 4, 0), Delivery::InOrder);
        assert_eq!((order.missed(&cursor), order.undelivered([1, 6].into_iter())), (0, 5));
        assert_eq!(order.received(&mut cursor, 1, 3, 0), Delivery::Reordered);
        assert_eq!(order.undelivered([0, 6].into_iter()), 3);
    }

    #[test]
    fn a_new_receiver_requires_messages_published_after_it_connected() {
        let mut order = Order::default();
        let mut stays = order.cursor_from_start();
        order.received(&mut stays, 0, 0, 10);
        let (mut prompt, mut late, mut early) =
            (order.cursor_from(15), order.cursor_from(15), order.cursor_from(15));
        let silent = order.cursor_from(15);
        for sequence in 1..5 {
            order.received(&mut stays, 0, sequence, 10 * (1 + u64::from(sequence)));
        }
        assert_eq!(order.received(&mut prompt, 0, 1, 20), Delivery::InOrder);
        assert_eq!(order.received(&mut late, 0, 3, 40), Delivery::InOrder);
        assert_eq!(order.received(&mut early, 0, 0, 10), Delivery::InOrder);
        assert_eq!([&prompt, &late, &early, &silent].map(|cursor| order.missed(cursor)), [3, 3, 4, 4]);
    }

    #[test]
    fn a_new_receiver_that_is_first_does_not_determine_the_order() {
        let mut order = Order::default();
        let mut stays = order.cursor_from_start();
        order.received(&mut stays, 0, 0, 10);
        let mut joiner = order.cursor_from(25);
        // The message of time 20 precedes it; it receives those of 30 and 40 before the other receives
        // anything.
        assert_eq!(order.received(&mut joiner, 1, 0, 30), Delivery::InOrder);
        assert_eq!(order.received(&mut joiner, 1, 1, 40), Delivery::InOrder);
        assert_eq!(order.received(&mut stays, 0, 1, 20), Delivery::InOrder);
        assert_eq!(order.received(&mut stays, 1, 0, 30), Delivery::InOrder);
        assert_eq!(order.received(&mut stays, 1, 1, 40), Delivery::InOrder);
        assert_eq!(order.received(&mut stays, 1, 2, 50), Delivery::InOrder);
        assert_eq!(order.received(&mut joiner, 1, 2, 50), Delivery::InOrder);
        assert_eq!([&stays, &joiner].map(|cursor| order.missed(cursor)), [0, 0]);
        let mut alone = order.cursor_from(55);
        assert_eq!(order.received(&mut alone, 1, 3, 60), Delivery::InOrder);
        order.begin_drain();
        order.flush_pending(&mut alone);
        assert_eq!([&stays, &alone].map(|cursor| order.missed(cursor)), [1, 0]);
    }

    #[test]
    fn trimmed_messages_still_count_as_received() {
        let mut order = Order::default();
        let mut cursor = order.cursor_from_start();
        for sequence in 0..100 {
            order.received(&mut cursor, 0, sequence, 0);
        }
        order.trim_before(cursor.floor());
        assert_eq!(order.entries.len(), 0);
        assert_eq!(order.received(&mut cursor, 0, 99, 0), Delivery::Duplicate);
        assert_eq!(order.received(&mut cursor, 0, 100, 0), Delivery::InOrder);
        let mut joiner = order.cursor_from(1);
        assert_eq!(order.received(&mut joiner, 0, 50, 0), Delivery::Old);
        assert_eq!(order.received(&mut joiner, 0, 101, 2), Delivery::InOrder);
        order.flush_pending(&mut joiner);
        assert_eq!((order.missed(&joiner), order.missed(&cursor)), (0, 1));
    }

    #[test]
    fn a_receiver_too_far_behind_loses_the_trimmed_messages() {
        let mut order = Order::default();
        let (mut fast, mut slow) = (order.cursor_from_start(), order.cursor_from_start());
        for sequence in 0..=u32::try_from(ENTRIES_MAX).unwrap() + 10 {
            order.received(&mut fast, 0, sequence, 0);
        }
        order.trim_before(slow.floor());
        assert_eq!(order.entries.len(), ENTRIES_MAX);
        assert_eq!(order.received(&mut slow, 0, 20, 0), Delivery::InOrder);
        assert_eq!(slow.missing(), 20);
    }
}
