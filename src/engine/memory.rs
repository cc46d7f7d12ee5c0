//! The engine in memory: it counts, and that is all. The history that a room keeps is its home's.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::{Engine, Event, PublishOutcome, ReplyTo};
use crate::base::Time;
use crate::base::hash::{Map, Seed};
use crate::chat::{Draft, Epoch, Position, Publication};

/// Orders within the turn, and forgets a room's order with the room.
#[derive(Debug)]
pub struct Memory {
    tops: Map<Arc<str>, Position>,
    events: VecDeque<Event>,
}

impl Memory {
    /// No room.
    pub fn new(seed: &Seed) -> Self {
        Self { tops: seed.map(), events: VecDeque::new() }
    }
}

impl Engine for Memory {
    fn open(&mut self, room: &Arc<str>, entropy: u64) -> Position {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let fresh = Position { epoch: Epoch::from_random(entropy as u32), offset: 0 };
        *self.tops.entry(Arc::clone(room)).or_insert(fresh)
    }

    fn close(&mut self, room: &str) {
        self.tops.remove(room);
    }

    fn submit(&mut self, room: &Arc<str>, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64) {
        let Some(top) = self.tops.get_mut(room) else {
            debug_assert!(false, "a draft for a room that is not open");
            return;
        };
        top.offset += 1;
        let Draft { author, body } = draft;
        let publication =
            Publication { position: Some(*top), accepted: now, unix_ms, author, body, json: OnceLock::new() };
        self.events.push_back(Event::Ordered { room: Arc::clone(room), publication });
        let draft_completed = |reply_to| Event::Completed {
            room: Arc::clone(room),
            reply_to,
            outcome: PublishOutcome::Ordered,
        };
        self.events.extend(reply_to.map(draft_completed));
    }

    fn page(&mut self, _room: &Arc<str>, _offset: u64, _limit: usize) {
        debug_assert!(false, "it has no pages");
    }

    fn has_pages(&self) -> bool {
        false
    }

    fn poll(&mut self, _now: Time) -> Option<Event> {
        self.events.pop_front()
    }

    fn next_deadline(&self) -> Option<Time> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SessionKey;
    use crate::base::table::Key;
    use crate::chat::{Body, ClientId, Member, Person};

    fn draft() -> Draft {
        let person = Person::new(ClientId::new(0, 1), "u".into(), "u".into(), None);
        Draft { author: Member::new(Arc::new(person), None), body: Body::Text("hi".into()) }
    }

    #[test]
    fn it_counts_and_answers_at_once() {
        let mut engine = Memory::new(&Seed::new(1));
        let room: Arc<str> = "r".into();
        let opened = engine.open(&room, 7);
        let reply_to = ReplyTo { shard: 0, session: SessionKey::new(1, 1), command: 3 };
        engine.submit(&room, draft(), Some(reply_to), Time::ZERO, 5);
        engine.submit(&room, draft(), None, Time::ZERO, 6);
        let events: Vec<_> = std::iter::from_fn(|| engine.poll(Time::ZERO)).collect();
        let offsets: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Ordered { publication, .. } => publication.position,
                Event::Completed { .. } | Event::Page { .. } => None,
            })
            .collect();
        assert_eq!(offsets, [1, 2].map(|offset| Position { offset, ..opened }));
        assert_eq!(events.len(), 3);
        engine.close("r");
        assert_ne!(engine.open(&room, 8).epoch, opened.epoch, "another epoch");
    }
}
