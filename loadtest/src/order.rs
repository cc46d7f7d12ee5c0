//! What a room has said, in the order in which it was first heard here, and each listener's place in that order.
//!
//! A listener is a cursor: while it hears the same as all others, one comparison is all that a message costs, and its memory
//! does not depend on how many speak. Only what deviates, a gap, costs more. So lost, duplicated and reordered messages are
//! counted exactly for every pair of speaker and listener, without a ledger for each pair.

use std::collections::VecDeque;

/// Messages that a room keeps for listeners that are behind. Whoever falls further behind has lost the rest.
const KEPT_MAX: usize = 1 << 20;

/// Gaps that are kept for one listener. Beyond, what is missing in the oldest is taken for lost.
const GAPS_MAX: usize = 4096;

/// Numbers of a speaker that nobody has heard and that are still waited for.
const AWAITED_MAX: usize = 1 << 16;

/// Messages that a newcomer keeps for itself, since nobody else has heard the first of them.
const EARLY_MAX: usize = 64;

/// Stands for the place of a message that nobody has heard yet.
const UNHEARD: u64 = u64::MAX;

/// What hearing a message meant for the one that heard it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// As it should be.
    InOrder,
    /// It has been heard before.
    Duplicate,
    /// A later message of the same speaker was heard before it.
    Reordered,
    /// In order for its speaker; but others have heard it at another place among those of other speakers.
    Crossed,
    /// From before the listener came, and forgotten here.
    Old,
}

/// One message of a room.
#[derive(Clone, Copy, Debug)]
struct Entry {
    speaker: u32,
    sequence: u32,
    intended_ns: u64,
    /// A later message of the same speaker stands before it in the order.
    late: bool,
}

/// Where the messages of one speaker stand in the order.
#[derive(Debug, Default)]
struct Spoken {
    /// Sequence number of the first of `places`.
    first: u32,
    places: VecDeque<u64>,
    /// How many different messages were heard, by anybody.
    heard: u32,
}

/// The order of one room.
#[derive(Debug, Default)]
pub struct Order {
    /// Place of the first entry that is kept. Places count from the room's first message.
    base: u64,
    entries: VecDeque<Entry>,
    speakers: Vec<Spoken>,
    /// The last messages are heard: newcomers keep nothing for themselves any more.
    closing: bool,
}

/// One listener's place in its room's order. Everything before `next` is heard, but for the gaps.
#[derive(Debug, Default)]
pub struct Listener {
    next: u64,
    /// Places before `next` that were passed over: from, to (not included). Ascending.
    gaps: Vec<(u64, u64)>,
    /// Missing, and too far behind to be told from a duplicate should it come.
    given_up: u64,
    /// Came while the room was talking, at this moment, and has no place yet.
    came_ns: Option<u64>,
    /// What a newcomer was the first to hear. What was said just before it came belongs before that, and those who have been
    /// here will hear it only now: so its place is theirs to say.
    early: Vec<Entry>,
}

impl Order {
    /// A listener that hears everything from the room's first message on.
    pub fn listener_from_the_start(&self) -> Listener {
        Listener { next: self.base, ..Listener::default() }
    }

    /// A listener that comes in now: it must hear what was said later than that, and may hear what was said before.
    pub fn listener_from(&self, now_ns: u64) -> Listener {
        Listener { next: self.end(), came_ns: Some(now_ns), ..Listener::default() }
    }

    /// `listener` has heard a message.
    pub fn heard(&mut self, listener: &mut Listener, speaker: u32, sequence: u32, intended_ns: u64) -> Heard {
        let offset = usize::try_from(listener.next.wrapping_sub(self.base)).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get(offset)
            && (entry.speaker, entry.sequence) == (speaker, sequence)
            && listener.gaps.is_empty()
            && listener.came_ns.is_none()
        {
            listener.next += 1;
            return if entry.late { Heard::Reordered } else { Heard::InOrder };
        }
        let message = Entry { speaker, sequence, intended_ns, late: false };
        if listener.came_ns.is_some() {
            let first = listener.early.first().copied().unwrap_or(message);
            if !self.is_known(first) && !self.closing && listener.early.len() < EARLY_MAX {
                let mut of_speaker = listener.early.iter().filter(|early| early.speaker == speaker);
                if of_speaker.clone().any(|early| early.sequence == sequence) {
                    return Heard::Duplicate;
                }
                let late = of_speaker.any(|early| early.sequence > sequence);
                listener.early.push(message);
                return if late { Heard::Reordered } else { Heard::InOrder };
            }
            self.settle(listener);
        }
        self.heard_elsewhere(listener, message)
    }

    /// Gives a newcomer's first messages their places.
    pub fn settle(&mut self, listener: &mut Listener) {
        for message in std::mem::take(&mut listener.early) {
            self.heard_elsewhere(listener, message);
        }
    }

    /// From now on whoever hears a message first says its place.
    pub const fn close(&mut self) {
        self.closing = true;
    }

    /// Whether anybody's hearing has given the message a place, even if it is forgotten.
    fn is_known(&self, message: Entry) -> bool {
        let Some(spoken) = self.speakers.get(message.speaker as usize) else { return false };
        let Some(offset) = message.sequence.checked_sub(spoken.first) else { return true };
        spoken.places.get(offset as usize).is_some_and(|&place| place != UNHEARD)
    }

    /// A message that is new to the room, or not at the listener's place.
    fn heard_elsewhere(&mut self, listener: &mut Listener, message: Entry) -> Heard {
        let Some(place) = self.place(message) else {
            return if listener.came_ns.is_some() { Heard::Old } else { Heard::Duplicate };
        };
        self.admit(listener, place);
        if listener.next < self.base {
            listener.give_up_before(self.base);
        }
        if place >= listener.next {
            if place > listener.next {
                listener.gaps.push((listener.next, place));
                listener.bound_gaps();
            }
            listener.next = place + 1;
            // Only what stands behind a later message of its speaker can have been heard after it.
            let late = self.entry(place).is_some_and(|entry| entry.late);
            return if late && self.heard_later_one(listener, message) {
                Heard::Reordered
            } else {
                Heard::InOrder
            };
        }
        if !listener.fill(place) {
            return Heard::Duplicate;
        }
        if self.heard_later_one(listener, message) { Heard::Reordered } else { Heard::Crossed }
    }

    /// Where a message stands: at the end, if nobody has heard it before; `None` when that is forgotten.
    fn place(&mut self, mut message: Entry) -> Option<u64> {
        let end = self.end();
        let index = message.speaker as usize;
        if index >= self.speakers.len() {
            self.speakers.resize_with(index + 1, Spoken::default);
        }
        let spoken = &mut self.speakers[index];
        let offset = message.sequence.checked_sub(spoken.first)? as usize;
        if offset >= spoken.places.len() {
            spoken.places.resize(offset + 1, UNHEARD);
        } else {
            message.late = true;
        }
        let place = &mut spoken.places[offset];
        if *place == UNHEARD {
            *place = end;
            spoken.heard += 1;
            self.entries.push_back(message);
            return Some(end);
        }
        Some(*place)
    }

    /// The first message of a listener that has come in while the room was talking decides where its hearing begins.
    fn admit(&self, listener: &mut Listener, place: u64) {
        let Some(came_ns) = listener.came_ns.take() else { return };
        if place < listener.next {
            listener.next = place; // the server has told what was said before
            return;
        }
        let first = listener.next.max(self.base);
        let due = (first..place).rev().take_while(|&before| self.is_after(before, came_ns));
        listener.next = due.last().unwrap_or(place);
    }

    fn is_after(&self, place: u64, came_ns: u64) -> bool {
        self.entry(place).is_some_and(|entry| entry.intended_ns > came_ns)
    }

    fn entry(&self, place: u64) -> Option<&Entry> {
        usize::try_from(place.checked_sub(self.base)?).ok().and_then(|offset| self.entries.get(offset))
    }

    fn heard_later_one(&self, listener: &Listener, message: Entry) -> bool {
        let spoken = &self.speakers[message.speaker as usize];
        let offset = message.sequence.saturating_sub(spoken.first) as usize;
        spoken.places.iter().skip(offset + 1).any(|&place| listener.has_heard(place))
    }

    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Messages of `said` (speaker by speaker) that nobody has heard.
    pub fn unheard(&self, said: impl Iterator<Item = u32>) -> u64 {
        let heard = self.speakers.iter().map(|spoken| spoken.heard).chain(std::iter::repeat(0));
        said.zip(heard).map(|(said, heard)| u64::from(said.saturating_sub(heard))).sum()
    }

    /// How many different messages of one speaker have been heard.
    pub fn heard_of(&self, speaker: u32) -> u32 {
        self.speakers.get(speaker as usize).map_or(0, |spoken| spoken.heard)
    }

    /// Whether the listener has heard all that anybody has.
    pub fn is_complete(&self, listener: &Listener) -> bool {
        match listener.came_ns {
            Some(came_ns) => self.end() == self.base || !self.is_after(self.end() - 1, came_ns),
            None => listener.next == self.end() && listener.gaps.is_empty(),
        }
    }

    /// What the listener has missed of all that anybody has heard.
    pub fn missed(&self, listener: &Listener) -> u64 {
        let behind = match listener.came_ns {
            Some(came_ns) => {
                let first = listener.next.max(self.base);
                (first..self.end()).rev().take_while(|&place| self.is_after(place, came_ns)).count() as u64
            }
            None => self.end() - listener.next,
        };
        listener.missing() + behind
    }

    /// Forgets what stands before `floor`, the lowest place that any listener still needs.
    pub fn forget_before(&mut self, floor: u64) {
        let at_least = self.end().saturating_sub(KEPT_MAX as u64);
        let floor = floor.max(at_least).clamp(self.base, self.end());
        self.entries.drain(..usize::try_from(floor - self.base).unwrap_or(0));
        self.base = floor;
        for spoken in &mut self.speakers {
            while let Some(&place) = spoken.places.front()
                && (place < floor || place == UNHEARD && spoken.places.len() > AWAITED_MAX)
            {
                spoken.places.pop_front();
                spoken.first += 1;
            }
        }
    }
}

impl Listener {
    /// The lowest place that it still needs.
    pub fn floor(&self) -> u64 {
        self.gaps.first().map_or(self.next, |&(from, _)| from)
    }

    /// Passed over, and not heard since.
    pub fn missing(&self) -> u64 {
        self.given_up + self.gaps.iter().map(|(from, to)| to - from).sum::<u64>()
    }

    fn has_heard(&self, place: u64) -> bool {
        place < self.next && self.gap_around(place).is_none()
    }

    fn gap_around(&self, place: u64) -> Option<usize> {
        let index = self.gaps.partition_point(|&(_, to)| to <= place);
        self.gaps.get(index).is_some_and(|&(from, _)| from <= place).then_some(index)
    }

    /// Takes `place` out of the gaps. False if it was in none.
    fn fill(&mut self, place: u64) -> bool {
        let Some(index) = self.gap_around(place) else { return false };
        let (from, to) = self.gaps[index];
        let left = [(from, place), (place + 1, to)].into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(index..=index, left);
        true
    }

    fn bound_gaps(&mut self) {
        if self.gaps.len() > GAPS_MAX {
            let (from, to) = self.gaps.remove(0);
            self.given_up += to - from;
        }
    }

    fn give_up_before(&mut self, base: u64) {
        self.given_up = self.missing() + (base - self.next);
        self.gaps.clear();
        self.next = base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room of two listeners: the first hears `leader`, then the second `follower`. What the second's hearing meant, and
    /// what it has missed. `a3` is the message 3 of the speaker a.
    fn check(leader: &str, follower: &str, expected: &str, missed: u64) {
        let mut order = Order::default();
        let mut listeners = [order.listener_from_the_start(), order.listener_from_the_start()];
        let mut outcomes = String::new();
        for (listener, heard) in [leader, follower].into_iter().enumerate() {
            outcomes.clear();
            for word in heard.split_whitespace() {
                let speaker = u32::from(word.as_bytes()[0] - b'a');
                let sequence = word[1..].parse().unwrap();
                outcomes.push(match order.heard(&mut listeners[listener], speaker, sequence, 0) {
                    Heard::InOrder => '.',
                    Heard::Duplicate => 'd',
                    Heard::Reordered => 'r',
                    Heard::Crossed => 'c',
                    Heard::Old => 'o',
                });
            }
        }
        let found = (outcomes.as_str(), order.missed(&listeners[1]));
        assert_eq!(found, (expected, missed), "{leader} | {follower}");
        assert_eq!(order.is_complete(&listeners[1]), missed == 0);
    }

    #[test]
    fn each_fault_is_counted_once() {
        check("a0 b0 a1", "a0 b0 a1", "...", 0);
        check("a0 b0 a1", "a0 b0", "..", 1);
        check("a0 b0 a1", "a0 a1", "..", 1);
        check("a0 b0 a1", "", "", 3);
        check("a0 b0 a1", "a0 a0 b0 b0 a1", ".d.d.", 0);
        check("a0 b0 a1 a2", "a1 a0 a2 b0", ".r.c", 0);
        check("a0 b0 a1", "a0 a1 b0", "..c", 0);
        check("a0 a1 a2 a3", "a0 a2 a1 a1 a3", "..rd.", 0);
    }

    #[test]
    fn whoever_hears_the_same_wrong_order_hears_it_wrong_too() {
        check("a1 a0 a2", "a1 a0 a2", ".r.", 0);
        check("a1 a0 a2", "a0 a1 a2", ".c.", 0);
    }

    #[test]
    fn what_nobody_heard_is_known_from_what_was_said() {
        let mut order = Order::default();
        let mut listener = order.listener_from_the_start();
        assert_eq!(order.heard(&mut listener, 1, 2, 0), Heard::InOrder);
        assert_eq!(order.heard(&mut listener, 1, 4, 0), Heard::InOrder);
        assert_eq!((order.missed(&listener), order.unheard([1, 6].into_iter())), (0, 5));
        assert_eq!(order.heard(&mut listener, 1, 3, 0), Heard::Reordered);
        assert_eq!(order.unheard([0, 6].into_iter()), 3);
    }

    #[test]
    fn a_newcomer_must_hear_what_was_said_after_it_came() {
        let mut order = Order::default();
        let mut stays = order.listener_from_the_start();
        order.heard(&mut stays, 0, 0, 10);
        let (mut prompt, mut late, mut early) =
            (order.listener_from(15), order.listener_from(15), order.listener_from(15));
        let deaf = order.listener_from(15);
        for sequence in 1..5 {
            order.heard(&mut stays, 0, sequence, 10 * (1 + u64::from(sequence)));
        }
        assert_eq!(order.heard(&mut prompt, 0, 1, 20), Heard::InOrder);
        assert_eq!(order.heard(&mut late, 0, 3, 40), Heard::InOrder);
        assert_eq!(order.heard(&mut early, 0, 0, 10), Heard::InOrder);
        assert_eq!([&prompt, &late, &early, &deaf].map(|listener| order.missed(listener)), [3, 3, 4, 4]);
    }

    #[test]
    fn a_newcomer_that_is_the_first_to_hear_says_nothing_of_the_order() {
        let mut order = Order::default();
        let mut stays = order.listener_from_the_start();
        order.heard(&mut stays, 0, 0, 10);
        let mut newcomer = order.listener_from(25);
        // What was said at 20 came before it; it hears what was said at 30 and 40 before the other hears anything.
        assert_eq!(order.heard(&mut newcomer, 1, 0, 30), Heard::InOrder);
        assert_eq!(order.heard(&mut newcomer, 1, 1, 40), Heard::InOrder);
        assert_eq!(order.heard(&mut stays, 0, 1, 20), Heard::InOrder);
        assert_eq!(order.heard(&mut stays, 1, 0, 30), Heard::InOrder);
        assert_eq!(order.heard(&mut stays, 1, 1, 40), Heard::InOrder);
        assert_eq!(order.heard(&mut stays, 1, 2, 50), Heard::InOrder);
        assert_eq!(order.heard(&mut newcomer, 1, 2, 50), Heard::InOrder);
        assert_eq!([&stays, &newcomer].map(|listener| order.missed(listener)), [0, 0]);
        let mut alone = order.listener_from(55);
        assert_eq!(order.heard(&mut alone, 1, 3, 60), Heard::InOrder);
        order.close();
        order.settle(&mut alone);
        assert_eq!([&stays, &alone].map(|listener| order.missed(listener)), [1, 0]);
    }

    #[test]
    fn what_all_have_heard_is_forgotten_and_still_known_as_heard() {
        let mut order = Order::default();
        let mut listener = order.listener_from_the_start();
        for sequence in 0..100 {
            order.heard(&mut listener, 0, sequence, 0);
        }
        order.forget_before(listener.floor());
        assert_eq!(order.entries.len(), 0);
        assert_eq!(order.heard(&mut listener, 0, 99, 0), Heard::Duplicate);
        assert_eq!(order.heard(&mut listener, 0, 100, 0), Heard::InOrder);
        let mut newcomer = order.listener_from(1);
        assert_eq!(order.heard(&mut newcomer, 0, 50, 0), Heard::Old);
        assert_eq!(order.heard(&mut newcomer, 0, 101, 2), Heard::InOrder);
        order.settle(&mut newcomer);
        assert_eq!((order.missed(&newcomer), order.missed(&listener)), (0, 1));
    }

    #[test]
    fn whoever_is_too_far_behind_has_lost_the_rest() {
        let mut order = Order::default();
        let (mut fast, mut slow) = (order.listener_from_the_start(), order.listener_from_the_start());
        for sequence in 0..=u32::try_from(KEPT_MAX).unwrap() + 10 {
            order.heard(&mut fast, 0, sequence, 0);
        }
        order.forget_before(slow.floor());
        assert_eq!(order.entries.len(), KEPT_MAX);
        assert_eq!(order.heard(&mut slow, 0, 20, 0), Heard::InOrder);
        assert_eq!(slow.missing(), 20);
    }
}
