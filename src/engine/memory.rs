//! The engine in memory: it counts, and that is all. The history that a room keeps is its home's.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::{Engine, Event, PublishOutcome, ReplyTo};
use crate::base::{HomeKey, Time};
use crate::chat::{Draft, Epoch, Position, Publication};

/// Orders within the turn, and forgets a room's order with the room.
#[derive(Debug, Default)]
pub struct Memory {
    /// By [`HomeKey::index`].
    tops: Vec<Position>,
    events: VecDeque<Event>,
}

impl Engine for Memory {
    fn open(&mut self, home: HomeKey, _room: &Arc<str>, entropy: u64) -> Position {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let fresh = Position { epoch: Epoch::from_random(entropy as u32), offset: 0 };
        if home.index() >= self.tops.len() {
            self.tops.resize(home.index() + 1, fresh);
        }
        self.tops[home.index()] = fresh;
        fresh
    }

    fn close(&mut self, _home: HomeKey) {}

    fn submit(&mut self, home: HomeKey, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64) {
        let Some(top) = self.tops.get_mut(home.index()) else {
            debug_assert!(false, "a draft for a room that is not open");
            return;
        };
        top.offset += 1;
        let Draft { author, body } = draft;
        let publication =
            Publication { position: Some(*top), accepted: now, unix_ms, author, body, json: OnceLock::new() };
        self.events.push_back(Event::Ordered { home, publication: Arc::new(publication) });
        if let Some(reply_to) = reply_to {
            self.events.push_back(Event::Completed { home, reply_to, outcome: PublishOutcome::Ordered });
        }
    }

    fn page(&mut self, _home: HomeKey, _offset: u64, _limit: usize) {
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
        let mut engine = Memory::default();
        let (home, room): (_, Arc<str>) = (HomeKey::new(3, 1), "r".into());
        let opened = engine.open(home, &room, 7);
        let reply_to = ReplyTo { shard: 0, session: SessionKey::new(1, 1), command: 3 };
        engine.submit(home, draft(), Some(reply_to), Time::ZERO, 5);
        engine.submit(home, draft(), None, Time::ZERO, 6);
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
        engine.close(home);
        assert_ne!(engine.open(HomeKey::new(3, 2), &room, 8).epoch, opened.epoch, "another epoch");
    }
}
