//! Rooms at their home: order, history, presence and membership events of the rooms whose home is this shard.
//!
//! A value that takes the shards' requests ([`Homes::handle`]) and returns outputs for them
//! ([`Homes::poll`]), in domain values and never in a wire format. It knows no sessions, connections or
//! encodings.
//!
//! | file | purpose |
//! |---|---|
//! | `mod` | requests, replies, and their dispatch |
//! | `home` | one room: listeners, drafts that wait for a slow shard, presence events |
//! | `join` | the history of joining clients, from here and from the engine |
//! | `query` | presence and history |
//! | `lease` | members that poll, and are there between two polls |
//! | `keep` | how long rooms and their histories are kept, and how much of them |

#![forbid(unsafe_code)]

mod home;
mod join;
mod keep;
mod lease;
mod query;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::hash::{Map, Seed};
use crate::base::rng::Rng;
use crate::base::{HomeKey, ShardSet, Table, Time};
use crate::chat::{
    ClientId, Draft, Forms, Member, Page, PageError, Position, PresenceEvent, Publication, Recovered,
    RecoveryRequest, RoomRules,
};
use crate::engine::{self, Engine, PublishOutcome, ReplyTo};
use home::Home;
use keep::Keeper;
pub use keep::{Counts, RoomUsage};
pub use lease::LEASES_MAX;

/// A request to a room's home.
#[derive(Debug)]
pub enum Request {
    /// A client publishes.
    Publish {
        /// The message.
        draft: Draft,
        /// The command that is completed by it.
        reply_to: ReplyTo,
    },
    /// The wire forms that the asking shard has members for, from now on; none: it has no members.
    Listen {
        /// The forms.
        forms: Forms,
    },
    /// A client comes into the room: [`Reply::Joined`] is the answer. A `Listen` has gone before, so that
    /// every publication after the answer reaches the asking shard after it.
    Join {
        /// The client, as the room's members see it.
        member: Member,
        /// What it requests of the history.
        recovery_request: RecoveryRequest,
        /// Whether it stands in the room's presence; `None`: as the room has it.
        presence: Option<bool>,
        /// Whether it is announced; `None`: as the room has it.
        join_leave: Option<bool>,
        /// It polls: it is a member for that long even if it leaves, and may join again meanwhile.
        lease: Option<Duration>,
        /// The command that waits.
        reply_to: ReplyTo,
    },
    /// A client goes out of the room.
    Leave {
        /// The client.
        client: ClientId,
    },
    /// A client's query of the room: [`Reply::Answer`].
    Query {
        /// What.
        query: Query,
        /// The command that waits.
        reply_to: ReplyTo,
    },
    /// The asking shard has offered so many bytes of the room's publications to all its members.
    Swept {
        /// Bytes, as [`Homes::sent`] counts them.
        bytes: u64,
    },
}

/// A query of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// Its members.
    Presence,
    /// How many are.
    PresenceStats,
    /// A page of the history.
    History(Page),
}

/// What there is to know of a room.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Some of its members, and how many there are.
    Presence(Vec<Member>, usize),
    /// How many clients and users there are.
    PresenceStats {
        /// Clients.
        clients: usize,
        /// Users.
        users: usize,
    },
    /// A page of the history, and where the room stands.
    History(Vec<Arc<Publication>>, Position),
}

/// Why a query has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueryError {
    /// The room does not keep it.
    NotAvailable,
    /// There is no such page.
    PageError(PageError),
    /// The query was lost with its shard.
    Lost,
}

/// A reply to a shard, for one of its sessions.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A client is in: the publications that follow are for it.
    Joined {
        /// The command that waits.
        reply_to: ReplyTo,
        /// What it gets of the history.
        recovery: Recovered,
    },
    /// A draft is completed.
    Completed {
        /// The command that waits.
        reply_to: ReplyTo,
        /// The room.
        room: Arc<str>,
        /// Its outcome.
        outcome: PublishOutcome,
        /// Its position, if it has one.
        position: Option<Position>,
        /// The draft's weight in bytes.
        weight: u64,
    },
    /// A query is answered.
    Answer {
        /// The command that waits.
        reply_to: ReplyTo,
        /// The answer.
        answer: Result<Answer, QueryError>,
    },
}

/// An output of the homes.
#[derive(Debug)]
pub enum Output {
    /// A publication, to be encoded once for each of `forms`, for the members on every shard in `listeners`.
    /// Answer with [`Homes::sent`].
    Publication {
        /// The room at its home.
        home: HomeKey,
        /// The room.
        room: Arc<str>,
        /// The publication.
        publication: Arc<Publication>,
        /// The room keeps a history.
        positioned: bool,
        /// The shards.
        listeners: ShardSet,
        /// The forms.
        forms: Forms,
    },
    /// Clients have come and gone.
    Presence {
        /// The room.
        room: Arc<str>,
        /// Which.
        events: Vec<PresenceEvent>,
        /// The shards.
        listeners: ShardSet,
        /// The forms.
        forms: Forms,
    },
    /// To one shard.
    Reply(usize, Reply),
}

/// Limits of a shard's homes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What holds in which room.
    pub rules: Arc<RoomRules>,
    /// Bytes of a room's publications that a shard may be behind before the home orders no more.
    pub congestion_bytes: u64,
    /// Bytes of all histories together.
    pub history_bytes_max: u64,
}

/// The rooms whose home is this shard.
#[derive(Debug)]
pub struct Homes {
    homes: Table<HomeKey, Home>,
    by_name: Map<Arc<str>, HomeKey>,
    engine: Box<dyn Engine>,
    limits: Limits,
    seed: Seed,
    rng: Rng,
    outputs: VecDeque<Output>,
    /// Rooms with pending presence events, in the order in which they are due.
    events_due: VecDeque<(Time, HomeKey)>,
    /// When clients that poll cease to be members, unless they join again.
    leases: BTreeSet<(Time, HomeKey, ClientId)>,
    /// [`LEASES_MAX`], but for tests.
    leases_max: usize,
    keeper: Keeper,
    counts: Counts,
}

/// Between two announcements of presence events: at most ten a second.
const EVENTS_INTERVAL: Duration = Duration::from_millis(100);

impl Homes {
    /// No room.
    pub fn new(engine: Box<dyn Engine>, limits: Limits, seed: &Seed, entropy: u64) -> Self {
        Self {
            homes: Table::default(),
            by_name: seed.map(),
            engine,
            limits,
            seed: seed.clone(),
            rng: Rng::new(entropy),
            outputs: VecDeque::new(),
            events_due: VecDeque::new(),
            leases: BTreeSet::new(),
            leases_max: LEASES_MAX,
            keeper: Keeper::default(),
            counts: Counts::default(),
        }
    }

    /// Other limits hold from now on.
    pub fn reconfigure(&mut self, limits: Limits) {
        self.limits = limits;
        for home in self.homes.values_mut() {
            home.options = Arc::clone(self.limits.rules.of(&home.name));
        }
    }

    /// Handles a shard's request to a room.
    pub fn handle(&mut self, now: Time, unix_ms: u64, from: usize, room: &Arc<str>, request: Request) {
        let needed = match request {
            Request::Publish { .. }
            | Request::Listen { .. }
            | Request::Join { .. }
            | Request::Query { .. } => true,
            Request::Leave { .. } | Request::Swept { .. } => false,
        };
        let Some(key) = self.find(room, needed) else { return };
        match request {
            Request::Publish { draft, reply_to } => self.publish(key, now, unix_ms, draft, reply_to),
            Request::Listen { forms } => {
                if let Some(home) = self.homes.get_mut(key) {
                    home.listen(from, forms);
                }
                self.submit_waiting(key, now, unix_ms);
            }
            Request::Join { member, recovery_request, presence, join_leave, lease, reply_to } => {
                let joining =
                    join::Joining { member, recovery_request, presence, join_leave, lease, reply_to };
                self.join(key, now, from, joining);
            }
            Request::Leave { client } => {
                if let Some(home) = self.homes.get_mut(key) {
                    home.give_up_joins(|_, member| member.person.client == client);
                    if !home.has_lease(client) {
                        home.leave(client);
                    }
                }
                self.announce_soon(key, now);
            }
            Request::Query { query, reply_to } => {
                let answer = self.answer(key, now, query);
                self.outputs.push_back(Output::Reply(from, Reply::Answer { reply_to, answer }));
            }
            Request::Swept { bytes } => {
                if let Some(home) = self.homes.get_mut(key) {
                    home.swept(from, bytes);
                }
                self.submit_waiting(key, now, unix_ms);
            }
        }
        self.keep_or_forget(key, now);
    }

    /// A shard is gone, with all its members: nothing is sent to it any more.
    pub fn shard_lost(&mut self, now: Time, unix_ms: u64, shard: usize, clients: impl Fn(&Member) -> bool) {
        let keys: Vec<_> = self.homes.keys().collect();
        for key in keys {
            let Some(home) = self.homes.get_mut(key) else { continue };
            home.listen(shard, Forms::default());
            home.give_up_joins(|from, member| from == shard || clients(member));
            home.leave_all(&clients);
            self.announce_soon(key, now);
            self.submit_waiting(key, now, unix_ms);
            self.keep_or_forget(key, now);
        }
    }

    /// Outputs for the shards; call until `None`.
    pub fn poll(&mut self, now: Time, unix_ms: u64) -> Option<Output> {
        while self.outputs.is_empty()
            && let Some(event) = self.engine.poll(now)
        {
            self.engine_event(now, unix_ms, event);
        }
        self.outputs.pop_front()
    }

    /// The largest encoding of the publication that went to all listeners of `home` has so many bytes.
    pub fn sent(&mut self, home: HomeKey, bytes: u64) {
        if let Some(home) = self.homes.get_mut(home) {
            home.sent(bytes);
        }
    }

    /// Handles what is due: announces presence events, and forgets what is too old.
    pub fn tick(&mut self, now: Time) {
        while let Some(&(due, key)) = self.events_due.front()
            && due <= now
        {
            self.events_due.pop_front();
            let Some(home) = self.homes.get_mut(key) else { continue };
            let events = home.take_events();
            if !events.is_empty() && !home.listeners().is_empty() {
                let (room, listeners, forms) = (Arc::clone(&home.name), home.listeners(), home.forms());
                self.outputs.push_back(Output::Presence { room, events, listeners, forms });
            }
        }
        self.end_leases(now);
        self.age(now);
    }

    /// When [`Homes::tick`] is due; `None`: never.
    pub fn next_deadline(&self) -> Option<Time> {
        let events = self.events_due.front().map(|&(due, _)| due);
        let leases = self.leases.first().map(|&(until, ..)| until);
        [events, leases, self.next_aging(), self.engine.next_deadline()].into_iter().flatten().min()
    }

    /// Whether there is something to be polled.
    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// Takes what has happened since the last call.
    pub const fn take_counts(&mut self) -> Counts {
        std::mem::replace(
            &mut self.counts,
            Counts { recovered: 0, unrecovered: 0, ordered: 0, evicted: 0, delayed: 0 },
        )
    }

    /// How many rooms are kept here.
    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// Idempotency keys that the engine keeps.
    pub fn idempotency_keys(&self) -> usize {
        self.engine.idempotency_keys()
    }

    /// Bytes of all histories.
    pub const fn history_bytes(&self) -> u64 {
        self.keeper.history_bytes()
    }

    /// Whether the room of that name is kept here.
    pub fn contains(&self, room: &str) -> bool {
        self.by_name.contains_key(room)
    }

    fn find(&mut self, room: &Arc<str>, or_open: bool) -> Option<HomeKey> {
        if let Some(&key) = self.by_name.get(room) {
            return Some(key);
        }
        if !or_open {
            return None;
        }
        let options = Arc::clone(self.limits.rules.of(room));
        let key = self.homes.insert_with(|key| {
            let top = self.engine.open(key, room, self.rng.next_u64());
            Home::new(Arc::clone(room), options, top, &self.seed)
        });
        self.by_name.insert(Arc::clone(room), key);
        Some(key)
    }

    /// Has a draft ordered, or lets it wait while a shard is behind.
    fn publish(&mut self, key: HomeKey, now: Time, unix_ms: u64, draft: Draft, reply_to: ReplyTo) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if home.is_congested(self.limits.congestion_bytes) || home.has_waiting() {
            self.counts.delayed += 1;
            home.wait(draft, reply_to);
        } else {
            home.submitted(&draft);
            self.engine.submit(key, draft, Some(reply_to), now, unix_ms);
        }
    }

    fn submit_waiting(&mut self, key: HomeKey, now: Time, unix_ms: u64) {
        let Some(home) = self.homes.get_mut(key) else { return };
        while home.has_waiting()
            && !home.is_congested(self.limits.congestion_bytes)
            && let Some((draft, reply_to)) = home.next_waiting()
        {
            home.submitted(&draft);
            self.engine.submit(key, draft, Some(reply_to), now, unix_ms);
        }
    }

    fn engine_event(&mut self, now: Time, unix_ms: u64, event: engine::Event) {
        let key = match event {
            engine::Event::Completed { home, reply_to, outcome, position } => {
                self.completed(home, reply_to, outcome, position);
                home
            }
            engine::Event::Ordered { home, publication } => {
                self.ordered(home, now, publication);
                home
            }
            engine::Event::Page { home, page } => {
                self.paged(home, now, page);
                home
            }
        };
        self.submit_waiting(key, now, unix_ms);
        self.keep_or_forget(key, now);
    }

    fn completed(
        &mut self,
        key: HomeKey,
        reply_to: ReplyTo,
        outcome: PublishOutcome,
        position: Option<Position>,
    ) {
        let Some(home) = self.homes.get_mut(key) else {
            debug_assert!(false, "a room with a draft that is not completed is kept");
            return;
        };
        let (room, weight) = (Arc::clone(&home.name), home.draft_completed());
        let reply = Reply::Completed { reply_to, room, outcome, position, weight };
        self.outputs.push_back(Output::Reply(usize::from(reply_to.shard), reply));
    }

    fn ordered(&mut self, key: HomeKey, now: Time, publication: Arc<Publication>) {
        let Some(home) = self.homes.get_mut(key) else { return };
        self.counts.ordered += 1;
        let positioned = home.options.history_count_max > 0;
        let (listeners, forms) = (home.listeners(), home.forms());
        let before = home.history.kept().1;
        home.history.push(&publication, &home.options);
        let (after, room) = (home.history.kept().1, Arc::clone(&home.name));
        self.keeper.replace(before, after);
        self.touch(key, now);
        if !listeners.is_empty() {
            let output = Output::Publication { home: key, room, publication, positioned, listeners, forms };
            self.outputs.push_back(output);
        }
    }

    /// Schedules a room's presence events, after a delay that collects more of them.
    fn announce_soon(&mut self, key: HomeKey, now: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if home.begin_events() {
            self.events_due.push_back((now + EVENTS_INTERVAL, key));
        }
    }
}
