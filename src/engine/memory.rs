//! The engine in memory: it counts, and that is all. The history that a room keeps is its home's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Engine, Event, PublishOutcome, ReplyTo};
use crate::base::{HomeKey, Time};
use crate::chat::{Draft, Epoch, Position, Publication};

/// Idempotency keys that are kept on one shard; above it the oldest are forgotten.
pub const IDEMPOTENCY_KEYS_MAX: usize = 16 * 1024;

/// How long an idempotency key is kept.
pub const IDEMPOTENCY_TIME: Duration = Duration::from_secs(300);

/// Orders within the turn, and forgets a room's order with the room.
#[derive(Debug, Default)]
pub struct Memory {
    /// By [`HomeKey::index`].
    tops: Vec<Position>,
    /// Names of rooms, by the same: what a client may send twice outlives the room's epoch.
    names: Vec<Arc<str>>,
    keys: Keys,
    events: VecDeque<Event>,
}

/// A draft that a client may send again: its room, whether its author is anonymous, its author, and the
/// author's key of it.
type Key = (Arc<str>, bool, Box<str>, Box<str>);

/// Drafts that were ordered under an idempotency key, and their positions.
#[derive(Debug, Default)]
struct Keys {
    ordered: BTreeMap<Arc<Key>, Position>,
    /// The same in the order in which they came.
    by_age: VecDeque<(Time, Arc<Key>)>,
}

impl Keys {
    fn forget(&mut self, now: Time) {
        while let Some((since, key)) = self.by_age.front()
            && (self.by_age.len() > IDEMPOTENCY_KEYS_MAX || now.since(*since) > IDEMPOTENCY_TIME)
        {
            self.ordered.remove(key);
            self.by_age.pop_front();
        }
    }

    fn insert(&mut self, now: Time, key: Key, position: Position) {
        let key = Arc::new(key);
        self.by_age.push_back((now, Arc::clone(&key)));
        self.ordered.insert(key, position);
        self.forget(now);
    }
}

impl Engine for Memory {
    fn open(&mut self, home: HomeKey, room: &Arc<str>, entropy: u64) -> Position {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let fresh = Position { epoch: Epoch::from_random(entropy as u32), offset: 0 };
        if home.index() >= self.tops.len() {
            self.tops.resize(home.index() + 1, fresh);
        }
        self.tops[home.index()] = fresh;
        if home.index() >= self.names.len() {
            self.names.resize(home.index() + 1, Arc::clone(room));
        }
        self.names[home.index()] = Arc::clone(room);
        fresh
    }

    fn close(&mut self, _home: HomeKey) {}

    fn submit(&mut self, home: HomeKey, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64) {
        let Some(top) = self.tops.get_mut(home.index()) else {
            debug_assert!(false, "a draft for a room that is not open");
            return;
        };
        let Draft { author, body, idempotency_key } = draft;
        let key = idempotency_key.map(|key| {
            let person = &author.person;
            // Anonymous clients have one user's id: their names are what distinguishes them.
            let is_anonymous = person.user().is_empty();
            let user = if is_anonymous { &*person.name } else { person.user() };
            (Arc::clone(&self.names[home.index()]), is_anonymous, Box::from(user), Box::from(key.as_str()))
        });
        if let Some(key) = &key {
            self.keys.forget(now);
            if let Some(&before) = self.keys.ordered.get(key) {
                let (outcome, position) = (PublishOutcome::Duplicate, Some(before));
                let completed =
                    reply_to.map(|reply_to| Event::Completed { home, reply_to, outcome, position });
                return self.events.extend(completed);
            }
        }
        top.offset += 1;
        let position = Some(*top);
        if let Some(key) = key {
            self.keys.insert(now, key, *top);
        }
        let publication =
            Publication { position, accepted: now, unix_ms, author, body, json: OnceLock::new() };
        self.events.push_back(Event::Ordered { home, publication: Arc::new(publication) });
        if let Some(reply_to) = reply_to {
            self.events.push_back(Event::Completed {
                home,
                reply_to,
                outcome: PublishOutcome::Ordered,
                position,
            });
        }
    }

    fn page(&mut self, _home: HomeKey, _offset: u64, _limit: usize) {
        debug_assert!(false, "it has no pages");
    }

    fn has_pages(&self) -> bool {
        false
    }

    fn idempotency_keys(&self) -> usize {
        self.keys.by_age.len()
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
    use crate::chat::{Body, ClientId, IdempotencyKey, Member, Person};

    fn draft() -> Draft {
        let person = Person::new(ClientId::new(0, 1), "u".into(), "u".into(), None);
        Draft::new(Member::new(Arc::new(person), None), Body::Text("hi".into()))
    }

    fn keyed(user: &str, name: &str, key: &str) -> Draft {
        let person = Person::new(ClientId::new(0, 1), user.into(), name.into(), None);
        let idempotency_key = IdempotencyKey::parse(key.as_bytes()).map(Box::new);
        Draft { idempotency_key, ..Draft::new(Member::new(Arc::new(person), None), Body::Text("hi".into())) }
    }

    /// Submits a draft; returns how many publications were ordered, and the outcome for the publisher.
    fn submit(
        engine: &mut Memory,
        home: HomeKey,
        draft: Draft,
        at: u64,
    ) -> (usize, PublishOutcome, Option<u64>) {
        let reply_to = ReplyTo { shard: 0, session: SessionKey::new(1, 1), command: 3 };
        let now = Time::ZERO + Duration::from_secs(at);
        engine.submit(home, draft, Some(reply_to), now, 5);
        let (mut ordered, mut completed) = (0, None);
        while let Some(event) = engine.poll(now) {
            match event {
                Event::Ordered { .. } => ordered += 1,
                Event::Completed { outcome, position, .. } => completed = Some((outcome, position)),
                Event::Page { .. } => panic!("it has no pages"),
            }
        }
        let (outcome, position) = completed.expect("every draft is completed");
        (ordered, outcome, position.map(|position| position.offset))
    }

    #[test]
    fn a_draft_that_comes_again_is_ordered_once() {
        use PublishOutcome::{Duplicate, Ordered};
        let mut engine = Memory::default();
        let (home, other) = (HomeKey::new(0, 1), HomeKey::new(1, 2));
        engine.open(home, &"r".into(), 7);
        engine.open(other, &"s".into(), 8);
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k"), 0), (1, Ordered, Some(1)));
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k"), 1), (0, Duplicate, Some(1)));
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k2"), 1), (1, Ordered, Some(2)));
        // Another author, an anonymous one of another name, and another room have keys of their own.
        assert_eq!(submit(&mut engine, home, keyed("v", "n", "k"), 1), (1, Ordered, Some(3)));
        assert_eq!(submit(&mut engine, home, keyed("", "n", "k"), 1), (1, Ordered, Some(4)));
        assert_eq!(submit(&mut engine, home, keyed("", "m", "k"), 1), (1, Ordered, Some(5)));
        assert_eq!(submit(&mut engine, home, keyed("", "u", "k"), 1), (1, Ordered, Some(6)));
        assert_eq!(submit(&mut engine, other, keyed("u", "n", "k"), 1), (1, Ordered, Some(1)));
        // The room is forgotten and exists again: the client's retry is still no second message.
        engine.close(home);
        engine.open(home, &"r".into(), 9);
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k"), 2), (0, Duplicate, Some(1)));
        assert_eq!(submit(&mut engine, home, draft(), 2), (1, Ordered, Some(1)));
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k"), 301), (1, Ordered, Some(2)));
    }

    #[test]
    fn idempotency_keys_are_bounded() {
        let mut engine = Memory::default();
        let home = HomeKey::new(0, 1);
        engine.open(home, &"r".into(), 7);
        for number in 0..2 * IDEMPOTENCY_KEYS_MAX {
            let _ = submit(&mut engine, home, keyed("u", "n", &format!("k{number}")), 0);
        }
        assert_eq!(engine.idempotency_keys(), IDEMPOTENCY_KEYS_MAX);
        assert_eq!(engine.keys.ordered.len(), IDEMPOTENCY_KEYS_MAX);
        let newest = format!("k{}", 2 * IDEMPOTENCY_KEYS_MAX - 1);
        assert_eq!(submit(&mut engine, home, keyed("u", "n", &newest), 1).1, PublishOutcome::Duplicate);
        assert_eq!(submit(&mut engine, home, keyed("u", "n", "k0"), 1).1, PublishOutcome::Ordered);
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
