//! A hashed timer wheel whose lists run through a table indexed by slot: one deadline for each connection, no
//! allocation to set, move or cancel one. Deadlines are late by up to one tick, never early.

use super::Time;
use std::time::Duration;

/// How fine the wheel turns.
pub const TICK: Duration = Duration::from_millis(20);

const SLOTS: usize = 1024;
const TURN: u32 = 1024;
const WORDS: usize = SLOTS / 64;
const NONE: u32 = u32::MAX;

const _: () = assert!(SLOTS == TURN as usize && SLOTS == WORDS * 64);

/// Deadlines of connections, by slot index.
#[derive(Debug)]
pub struct TimerWheel {
    heads: Box<[u32; SLOTS]>,
    /// One bit for each slot that is not empty.
    occupied: [u64; WORDS],
    nodes: Vec<Node>,
    /// The next tick to be looked at: every deadline before it has fired.
    tick: u32,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    prev: u32,
    next: u32,
    /// The tick at which it fires; `NONE` when not armed.
    due: u32,
}

const IDLE: Node = Node { prev: NONE, next: NONE, due: NONE };

impl Default for TimerWheel {
    fn default() -> Self {
        Self { heads: Box::new([NONE; SLOTS]), occupied: [0; WORDS], nodes: Vec::new(), tick: 0, armed: 0 }
    }
}

impl TimerWheel {
    /// Arms, or moves, the deadline of slot `index`.
    pub fn set(&mut self, index: usize, deadline: Time) {
        self.cancel(index);
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, IDLE);
        }
        // Rounded up, so that nothing fires early; never into a tick that has been looked at already.
        let due = to_tick(deadline).saturating_add(1).max(self.tick);
        let slot = due as usize % SLOTS;
        let first = self.heads[slot];
        let this = as_link(index);
        self.nodes[index] = Node { prev: NONE, next: first, due };
        if first != NONE {
            self.nodes[first as usize].prev = this;
        }
        self.heads[slot] = this;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.armed += 1;
    }

    /// Arms the deadline of slot `index`, or moves it if it is armed for later.
    pub fn set_earlier(&mut self, index: usize, deadline: Time) {
        let due = to_tick(deadline).saturating_add(1);
        if self.nodes.get(index).is_none_or(|node| node.due > due) {
            self.set(index, deadline);
        }
    }

    /// Disarms slot `index`; nothing happens when it was not armed.
    pub fn cancel(&mut self, index: usize) {
        let Some(&node) = self.nodes.get(index) else { return };
        if node.due == NONE {
            return;
        }
        let slot = node.due as usize % SLOTS;
        if node.prev == NONE {
            self.heads[slot] = node.next;
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
        if node.next != NONE {
            self.nodes[node.next as usize].prev = node.prev;
        }
        if self.heads[slot] == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.nodes[index] = IDLE;
        self.armed -= 1;
    }

    /// Takes one slot whose deadline has passed; call until `None`.
    pub fn poll_expired(&mut self, now: Time) -> Option<usize> {
        let now = to_tick(now);
        while self.armed > 0 && self.tick <= now {
            let mut link = self.heads[self.tick as usize % SLOTS];
            while link != NONE {
                let index = link as usize;
                if self.nodes[index].due <= self.tick {
                    self.cancel(index);
                    return Some(index);
                }
                link = self.nodes[index].next;
            }
            // A jump over more than one turn of the wheel looks at each slot once.
            self.tick = if now - self.tick > TURN { now - TURN } else { self.tick + 1 };
        }
        self.tick = self.tick.max(now.saturating_add(1));
        None
    }

    /// When [`TimerWheel::poll_expired`] should be called again; `None` when nothing is armed. May be earlier
    /// than the first deadline (a far one shares its slot), never later than it.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.armed == 0 {
            return None;
        }
        let from = self.tick as usize % SLOTS;
        let ahead = (0..=WORDS).find_map(|step| {
            let word = (from / 64 + step) % WORDS;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (from % 64);
            }
            (bits != 0).then(|| (word * 64 + bits.trailing_zeros() as usize + SLOTS - from) % SLOTS)
        })?;
        Some(Time::from_nanos((u64::from(self.tick) + ahead as u64) * tick_nanos()))
    }
}

const fn tick_nanos() -> u64 {
    TICK.subsec_nanos() as u64
}

/// Two years of ticks fit; what lies beyond is as good as never.
fn to_tick(time: Time) -> u32 {
    u32::try_from(time.as_nanos() / tick_nanos()).unwrap_or(NONE - 2).min(NONE - 2)
}

fn as_link(index: usize) -> u32 {
    u32::try_from(index).expect("slots are u32 in the table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn expired(wheel: &mut TimerWheel, now: Time) -> Vec<usize> {
        let mut all: Vec<_> = std::iter::from_fn(|| wheel.poll_expired(now)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn fires_once_and_never_early() {
        let mut wheel = TimerWheel::default();
        wheel.set(3, at(100));
        wheel.set(1, at(90_000)); // more than one turn of the wheel away
        assert_eq!(expired(&mut wheel, at(99)), [0_usize; 0]);
        assert_eq!(expired(&mut wheel, at(140)), [3]);
        assert_eq!(expired(&mut wheel, at(89_999)), [0_usize; 0]);
        assert_eq!(expired(&mut wheel, at(90_040)), [1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn moving_and_cancelling() {
        let mut wheel = TimerWheel::default();
        for index in 0..4 {
            wheel.set(index, at(50));
        }
        wheel.cancel(2);
        wheel.set(0, at(500));
        assert_eq!(expired(&mut wheel, at(100)), [1, 3]);
        wheel.cancel(0);
        assert_eq!(expired(&mut wheel, at(10_000)), [0_usize; 0]);
    }

    #[test]
    fn agrees_with_a_sorted_list() {
        let mut rng = Rng::new(1);
        let mut wheel = TimerWheel::default();
        let mut oracle: Vec<Option<Time>> = vec![None; 64];
        let mut now = 0;
        for _ in 0..20_000 {
            let index = usize::try_from(rng.below(64)).unwrap();
            match rng.below(8) {
                0 => {
                    wheel.cancel(index);
                    oracle[index] = None;
                }
                1..6 => {
                    let deadline = at(now + rng.below(40_000));
                    wheel.set(index, deadline);
                    oracle[index] = Some(deadline);
                }
                _ => {
                    now += rng.below(3_000);
                    if rng.below(50) == 0 {
                        now += 60_000;
                    }
                    let first = oracle.iter().flatten().min().copied();
                    if let Some(first) = first {
                        assert!(wheel.next_deadline().unwrap() <= first + TICK, "would sleep too long");
                    }
                    for index in expired(&mut wheel, at(now)) {
                        let deadline = oracle[index].take().expect("was armed");
                        assert!(deadline <= at(now), "fired early");
                    }
                    let late = Duration::from_millis(now).saturating_sub(2 * TICK);
                    assert!(oracle.iter().flatten().all(|&d| d > Time::ZERO + late), "fired late");
                }
            }
        }
    }
}
