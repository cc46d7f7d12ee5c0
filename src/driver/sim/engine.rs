//! An engine that takes its time: as a store or a server on the network would, it completes and orders later,
//! each in its own time but the drafts of one room in order; it declines some drafts, orders what another
//! node has published, and keeps more than the homes do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::network::{index_below, one_in};
use crate::base::hash::{Map, Seed};
use crate::base::rng::Rng;
use crate::base::{HomeKey, Time};
use crate::chat::{Body, ClientId, Draft, Epoch, Member, Person, Position, Publication};
use crate::engine::{Engine, EnginePage, Event, PublishOutcome, ReplyTo};

/// How an engine behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Late {
    /// The longest time until a draft is completed.
    pub completion_delay_max: Duration,
    /// The longest time until a publication is passed to the members.
    pub order_max: Duration,
    /// The longest time until a page is read.
    pub page_max: Duration,
    /// Once in so many drafts it cannot take one at the moment; 0: never.
    pub temporary_one_in: u64,
    /// Once in so many drafts it has had the same, or a newer one, before; 0: never.
    pub known_one_in: u64,
    /// How many publications of each room it keeps; 0: none but what the homes keep.
    pub kept_max: usize,
    /// Once in so many pages it cannot read one; 0: never.
    pub unreadable_one_in: u64,
}

/// A draft's room, its author's name, and its idempotency key.
type DraftKey = (Arc<str>, Arc<str>, Box<str>);

/// The outcome of a draft that an engine knows again.
type Known = (PublishOutcome, Option<Position>);

/// What another node is called that publishes.
pub(super) const ELSEWHERE: &str = "elsewhere";

/// The engine of one shard, which the simulation looks into.
#[derive(Clone, Debug)]
pub(super) struct LateEngine(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    late: Late,
    rng: Rng,
    /// When it was last polled.
    now: Time,
    rooms: Map<Arc<str>, Room>,
    /// The rooms that are open.
    names: BTreeMap<HomeKey, Arc<str>>,
    /// Its planned events, and their times.
    agenda: BTreeMap<(Time, u64), Planned>,
    noted: u64,
    /// Whether it has published an event since the last check.
    has_published: bool,
    /// What it has declined, and how.
    declined: Vec<(Body, PublishOutcome)>,
    /// The outcome of drafts with idempotency keys, by room, author's name and key. One that was declined is
    /// declined again: its author has gone on, and it would come out of order.
    keys: BTreeMap<DraftKey, Known>,
}

#[derive(Debug)]
enum Planned {
    /// An event that is passed on unchanged.
    Event(Event),
    /// A page that is read when it is due, from this offset on.
    Page(HomeKey, u64),
}

#[derive(Debug)]
struct Room {
    top: Position,
    /// What it is called while it is open.
    home: Option<HomeKey>,
    kept: VecDeque<Arc<Publication>>,
    /// No earlier than this the next draft is completed, and the next publication passed on.
    completes_at: Time,
    orders_at: Time,
}

impl LateEngine {
    pub(super) fn new(late: Late, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inside {
            late,
            rng: Rng::new(seed),
            now: Time::ZERO,
            rooms: Seed::new(seed).map(),
            names: BTreeMap::new(),
            agenda: BTreeMap::new(),
            noted: 0,
            has_published: false,
            declined: Vec::new(),
            keys: BTreeMap::new(),
        })))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has an event planned.
    pub(super) fn is_waiting(&self) -> bool {
        !self.inside().agenda.is_empty()
    }

    /// Whether it has published an event since the last call.
    pub(super) fn has_published(&self) -> bool {
        std::mem::take(&mut self.inside().has_published)
    }

    /// What it has declined since the last call, and how.
    pub(super) fn take_declined(&self) -> Vec<(Body, PublishOutcome)> {
        std::mem::take(&mut self.inside().declined)
    }

    /// Another node publishes. False: the room has never been open here.
    pub(super) fn publish_elsewhere(&self, room: &str, text: String, now: Time, unix_ms: u64) -> bool {
        let name: Arc<str> = ELSEWHERE.into();
        let client = ClientId::new(usize::from(u8::MAX), 1);
        let person = Person::new(client, Arc::clone(&name), name, None);
        let author = Member::new(Arc::new(person), None);
        let draft = Draft::new(author, Body::Text(text.into()));
        self.inside().order(room, draft, now, unix_ms)
    }
}

impl Inside {
    fn plan(&mut self, at: Time, planned: Planned) {
        self.noted += 1;
        self.agenda.insert((at, self.noted), planned);
    }

    fn delay(&mut self, max: Duration) -> Duration {
        let max = usize::try_from(max.as_nanos()).unwrap_or(usize::MAX);
        Duration::from_nanos(index_below(&mut self.rng, max + 1) as u64)
    }

    fn order(&mut self, name: &str, draft: Draft, now: Time, unix_ms: u64) -> bool {
        let (after, kept_max) = (self.delay(self.late.order_max), self.late.kept_max);
        let Some(room) = self.rooms.get_mut(name) else { return false };
        room.top.offset += 1;
        let position = Some(room.top);
        let make = |Draft { author, body, .. }| Publication {
            position,
            accepted: now,
            unix_ms,
            author,
            body,
            json: OnceLock::new(),
        };
        room.kept.push_back(Arc::new(make(draft.clone())));
        if room.kept.len() > kept_max {
            room.kept.pop_front();
        }
        room.orders_at = room.orders_at.max(now + after);
        if let Some(home) = room.home {
            let (at, publication) = (room.orders_at, Arc::new(make(draft)));
            self.plan(at, Planned::Event(Event::Ordered { home, publication }));
        }
        true
    }

    fn read(&self, home: HomeKey, offset: u64) -> Option<EnginePage> {
        let room = self.rooms.get(self.names.get(&home)?)?;
        let first = room.kept.partition_point(|publication| publication.offset() <= offset);
        let publications: Vec<_> = room.kept.range(first..).cloned().collect();
        let next = publications.first().map_or(room.top.offset + 1, |first| first.offset());
        Some(EnginePage { publications, is_complete: next <= offset + 1 })
    }
}

impl Engine for LateEngine {
    fn open(&mut self, home: HomeKey, room: &Arc<str>, entropy: u64) -> Position {
        let mut inside = self.inside();
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let top = Position { epoch: Epoch::from_random(entropy as u32), offset: 0 };
        let (completes_at, orders_at) = (Time::ZERO, Time::ZERO);
        let fresh = Room { top, home: None, kept: VecDeque::new(), completes_at, orders_at };
        inside.names.insert(home, Arc::clone(room));
        let room = inside.rooms.entry(Arc::clone(room)).or_insert(fresh);
        room.home = Some(home);
        room.top
    }

    fn close(&mut self, home: HomeKey) {
        let mut inside = self.inside();
        let name = inside.names.remove(&home);
        if let Some(room) = name.and_then(|name| inside.rooms.get_mut(&name)) {
            room.home = None;
        }
        // The room has no members left to receive events, and every draft was completed.
        inside.agenda.retain(|_, planned| match planned {
            Planned::Event(Event::Ordered { home: of, .. } | Event::Page { home: of, .. })
            | Planned::Page(of, _) => *of != home,
            Planned::Event(Event::Completed { home: of, .. }) => {
                assert_ne!(*of, home, "a room is closed with a draft that is not completed");
                true
            }
        });
    }

    fn submit(&mut self, home: HomeKey, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64) {
        let mut inside = self.inside();
        let Late { temporary_one_in, known_one_in, completion_delay_max, .. } = inside.late;
        let outcome = if one_in(&mut inside.rng, temporary_one_in) {
            PublishOutcome::Temporary
        } else if one_in(&mut inside.rng, known_one_in) {
            if one_in(&mut inside.rng, 2) { PublishOutcome::Duplicate } else { PublishOutcome::Superseded }
        } else {
            PublishOutcome::Ordered
        };
        let name = inside.names.get(&home).cloned().expect("a draft for a room that is open");
        let author = Arc::clone(&draft.author.person.name);
        let key = draft.idempotency_key.as_ref().map(|key| (Arc::clone(&name), author, key.as_str().into()));
        let before = key.as_ref().and_then(|key| inside.keys.get(key)).copied();
        let (outcome, position) = if let Some((before, position)) = before {
            let again = before == PublishOutcome::Ordered;
            (if again { PublishOutcome::Duplicate } else { before }, position)
        } else if outcome == PublishOutcome::Ordered {
            inside.order(&name, draft, now, unix_ms);
            (outcome, inside.rooms.get(&name).map(|room| room.top))
        } else {
            inside.declined.push((draft.body, outcome));
            (outcome, None)
        };
        if before.is_none()
            && let Some(key) = key
        {
            inside.keys.insert(key, (outcome, position));
        }
        let after = inside.delay(completion_delay_max);
        let (Some(it), Some(reply_to)) = (inside.rooms.get_mut(&name), reply_to) else { return };
        it.completes_at = it.completes_at.max(now + after);
        let at = it.completes_at;
        inside.plan(at, Planned::Event(Event::Completed { home, reply_to, outcome, position }));
    }

    fn page(&mut self, home: HomeKey, offset: u64, _limit: usize) {
        let mut inside = self.inside();
        let (unreadable, page_max) = (inside.late.unreadable_one_in, inside.late.page_max);
        let after = inside.delay(page_max);
        let at = inside.now + after;
        let planned = if one_in(&mut inside.rng, unreadable) {
            Planned::Event(Event::Page { home, page: None })
        } else if one_in(&mut inside.rng, 2) {
            // Read now, and passed on later: what comes in between is not in it.
            let page = inside.read(home, offset);
            Planned::Event(Event::Page { home, page })
        } else {
            Planned::Page(home, offset)
        };
        inside.plan(at, planned);
    }

    fn has_pages(&self) -> bool {
        self.inside().late.kept_max > 0
    }

    fn poll(&mut self, now: Time) -> Option<Event> {
        let mut inside = self.inside();
        inside.now = now;
        let entry = inside.agenda.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let planned = entry.remove();
        inside.has_published = true;
        Some(match planned {
            Planned::Event(event) => event,
            Planned::Page(home, offset) => {
                let page = inside.read(home, offset);
                Event::Page { home, page }
            }
        })
    }

    fn next_deadline(&self) -> Option<Time> {
        self.inside().agenda.keys().next().map(|&(at, _)| at)
    }
}
