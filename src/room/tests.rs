//! Tests of the homes by themselves: requests of shards, in any order, with an engine that answers at once
//! and with one that takes its time.

use proptest::prelude::*;
use std::collections::BTreeMap;

use super::*;
use crate::base::SessionKey;
use crate::base::table::Key;
use crate::chat::{Body, Epoch, Person, RoomOptions, Since};
use crate::engine::{EnginePage, Event, Memory};

const SHARDS: usize = 3;
const CONGESTION_BYTES: u64 = 2000;

fn client(number: u32) -> ClientId {
    ClientId::new(number as usize % SHARDS, u128::from(number) << 80)
}

fn member(number: u32) -> Member {
    let name: Arc<str> = format!("m{number}").into();
    let person = Person::new(client(number), Arc::clone(&name), name, None);
    Member::new(Arc::new(person), None)
}

fn draft(number: u32, bytes: usize) -> Draft {
    Draft::new(member(number), Body::Text(vec![b'x'; bytes].into()))
}

fn limits(options: RoomOptions, history_bytes_max: u64) -> Limits {
    let rules = Arc::new(RoomRules { patterns: Vec::new(), otherwise: Arc::new(options) });
    Limits { rules, congestion_bytes: CONGESTION_BYTES, history_bytes_max }
}

/// An engine that keeps everything and answers on demand.
#[derive(Debug, Default)]
struct Late {
    /// Where each room stands, and all its publications.
    rooms: BTreeMap<Arc<str>, (Position, Vec<Arc<Publication>>)>,
    names: BTreeMap<HomeKey, Arc<str>>,
    /// Its planned events; they are due when `now` has come to a whole second.
    events: VecDeque<Event>,
}

impl Engine for Late {
    fn open(&mut self, home: HomeKey, room: &Arc<str>, _entropy: u64) -> Position {
        self.names.insert(home, Arc::clone(room));
        let fresh = || (Position { epoch: Epoch::from_random(7), offset: 0 }, Vec::new());
        self.rooms.entry(Arc::clone(room)).or_insert_with(fresh).0
    }

    fn close(&mut self, home: HomeKey) {
        self.names.remove(&home);
    }

    fn submit(&mut self, home: HomeKey, draft: Draft, reply_to: Option<ReplyTo>, now: Time, unix_ms: u64) {
        let (top, kept) = self.rooms.get_mut(&self.names[&home]).expect("an open room");
        top.offset += 1;
        let make = |Draft { author, body, .. }| {
            let (position, json) = (Some(*top), std::sync::OnceLock::new());
            Arc::new(Publication { position, accepted: now, unix_ms, author, body, json })
        };
        kept.push(make(draft.clone()));
        self.events.push_back(Event::Ordered { home, publication: make(draft) });
        let completed =
            |reply_to| Event::Completed { home, reply_to, outcome: PublishOutcome::Ordered, position: None };
        self.events.extend(reply_to.map(completed));
    }

    fn page(&mut self, home: HomeKey, offset: u64, limit: usize) {
        let kept = self.rooms[&self.names[&home]].1.clone();
        let publications = kept.into_iter().filter(|it| it.offset() > offset).take(limit).collect();
        let page = Some(EnginePage { publications, is_complete: true });
        self.events.push_back(Event::Page { home, page });
    }

    fn has_pages(&self) -> bool {
        true
    }

    fn poll(&mut self, now: Time) -> Option<Event> {
        if !now.as_nanos().is_multiple_of(1_000_000_000) {
            return None;
        }
        self.events.pop_front()
    }

    fn next_deadline(&self) -> Option<Time> {
        None
    }
}

/// Homes, and what the shards that use them know.
struct World {
    homes: Homes,
    now: Time,
    commands: u32,
    /// Requests without a reply; of a join, the client and its room.
    pending: BTreeMap<u32, Option<(u32, Arc<str>)>>,
    /// What came with the replies to joins.
    joined: Vec<Recovered>,
    /// Offsets of each room, as they came, and bytes that each shard has not swept.
    offsets: BTreeMap<Arc<str>, Vec<u64>>,
    last: BTreeMap<Arc<str>, Position>,
    unswept: BTreeMap<(Arc<str>, usize), u64>,
    presence_events: Vec<PresenceEvent>,
}

impl World {
    fn new(engine: Box<dyn Engine>, limits: Limits) -> Self {
        Self {
            homes: Homes::new(engine, limits, &Seed::new(1), 1),
            now: Time::ZERO + Duration::from_secs(1),
            commands: 0,
            pending: BTreeMap::new(),
            joined: Vec::new(),
            offsets: BTreeMap::new(),
            last: BTreeMap::new(),
            unswept: BTreeMap::new(),
            presence_events: Vec::new(),
        }
    }

    fn reply_to(&mut self, from: usize) -> ReplyTo {
        self.commands += 1;
        self.pending.insert(self.commands, None);
        let shard = u16::try_from(from).unwrap();
        ReplyTo { shard, session: SessionKey::new(1, 1), command: self.commands }
    }

    fn handle(&mut self, from: usize, room: &str, request: Request) {
        self.homes.handle(self.now, 0, from, &Arc::from(room), request);
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(output) = self.homes.poll(self.now, 0) {
            match output {
                Output::Publication { home, room, publication, positioned: _, listeners, forms } => {
                    assert!(!forms.is_empty());
                    let bytes = publication.body.bytes().len() as u64;
                    self.homes.sent(home, bytes);
                    self.offsets.entry(Arc::clone(&room)).or_default().push(publication.offset());
                    let position = publication.position.unwrap();
                    let last = self.last.insert(Arc::clone(&room), position).unwrap_or(position);
                    assert!(
                        last == position || last.epoch != position.epoch || last.offset < position.offset
                    );
                    for shard in (0..SHARDS).filter(|&shard| listeners.contains(shard)) {
                        *self.unswept.entry((Arc::clone(&room), shard)).or_default() += bytes;
                    }
                }
                Output::Presence { events, .. } => self.presence_events.extend(events),
                Output::Reply(shard, reply) => {
                    let (Reply::Joined { reply_to, .. }
                    | Reply::Completed { reply_to, .. }
                    | Reply::Answer { reply_to, .. }) = reply;
                    assert_eq!(shard, usize::from(reply_to.shard));
                    assert!(
                        self.pending.remove(&reply_to.command).is_some(),
                        "a second reply, or one without a request"
                    );
                    if let Reply::Joined { recovery, .. } = reply {
                        let offsets: Vec<_> = recovery.publications.iter().map(|it| it.offset()).collect();
                        let first = recovery.top.offset + 1 - offsets.len() as u64;
                        assert_eq!(
                            offsets,
                            (first..=recovery.top.offset).collect::<Vec<_>>(),
                            "up to the top, without a hole"
                        );
                        self.joined.push(recovery);
                    }
                }
            }
        }
        self.homes.assert_invariants();
    }

    fn listen(&mut self, from: usize, room: &str, on: bool) {
        let forms = if on { Forms::default().with(0) } else { Forms::default() };
        if !on {
            self.unswept.remove(&(Arc::from(room), from));
        }
        self.handle(from, room, Request::Listen { forms });
    }

    fn join(&mut self, number: u32, room: &str, recovery_request: RecoveryRequest) {
        let from = number as usize % SHARDS;
        let reply_to = self.reply_to(from);
        self.pending.insert(reply_to.command, Some((number, Arc::from(room))));
        let request = Request::Join {
            member: member(number),
            recovery_request,
            presence: None,
            join_leave: None,
            lease: None,
            reply_to,
        };
        self.handle(from, room, request);
    }

    /// A client joins that polls, by any shard.
    fn poll_room(&mut self, from: usize, number: u32, room: &str, lease: Duration) {
        let reply_to = self.reply_to(from);
        let request = Request::Join {
            member: member(number),
            recovery_request: RecoveryRequest::None,
            presence: None,
            join_leave: None,
            lease: Some(lease),
            reply_to,
        };
        self.handle(from, room, request);
    }

    fn epoch(&self, room: &str) -> Option<Epoch> {
        let home = self.homes.homes.get(*self.homes.by_name.get(room)?)?;
        Some(home.history.top().epoch)
    }

    /// A client goes, and no longer waits for anything.
    fn leave(&mut self, number: u32, room: &str) {
        let gone = Some((number, Arc::from(room)));
        self.pending.retain(|_, join| join.is_none() || *join != gone);
        self.handle(number as usize % SHARDS, room, Request::Leave { client: client(number) });
    }

    fn publish(&mut self, number: u32, room: &str, bytes: usize) {
        let from = number as usize % SHARDS;
        let reply_to = self.reply_to(from);
        self.handle(from, room, Request::Publish { draft: draft(number, bytes), reply_to });
    }

    fn query(&mut self, from: usize, room: &str, query: Query) {
        let reply_to = self.reply_to(from);
        self.handle(from, room, Request::Query { query, reply_to });
    }

    fn swept(&mut self, from: usize, room: &str, bytes: u64) {
        if let Some(unswept) = self.unswept.get_mut(&(Arc::from(room), from)) {
            let bytes = bytes.min(*unswept);
            *unswept -= bytes;
            self.handle(from, room, Request::Swept { bytes });
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        self.homes.tick(self.now);
        self.poll();
    }
}

#[test]
fn a_client_that_polls_is_a_member_until_its_lease_ends() {
    let mut world = World::new(Box::new(Memory::default()), limits(RoomOptions::default(), 1 << 20));
    world.listen(0, "r", true);
    world.join(1, "r", RecoveryRequest::None);
    let present = |world: &World| world.homes.usage().present;
    for poll in 0..5 {
        world.poll_room(poll % SHARDS, 9, "r", Duration::from_secs(30));
        assert_eq!(present(&world), 2);
        world.leave(9, "r");
        world.advance(Duration::from_secs(29));
        assert_eq!(present(&world), 2, "between two polls");
    }
    world.advance(Duration::from_secs(2));
    assert_eq!((present(&world), world.homes.leases()), (1, 0));
    world.advance(Duration::from_secs(1));
    let events: Vec<_> =
        world.presence_events.iter().map(|it| matches!(it, PresenceEvent::Join(_))).collect();
    assert_eq!(events, [true, true, false], "two have joined, one has left");
}

#[test]
fn a_room_is_the_same_between_two_polls_with_a_history_and_without_one() {
    for history_count_max in [0, 100] {
        let options = RoomOptions {
            history_count_max,
            history_age_max: Duration::from_secs(1),
            ..RoomOptions::default()
        };
        let mut world = World::new(Box::new(Memory::default()), limits(options, 1 << 20));
        for poll in 0..5 {
            world.listen(0, "r", true);
            world.poll_room(0, 9, "r", Duration::from_secs(30));
            world.leave(9, "r");
            world.listen(0, "r", false);
            world.advance(Duration::from_secs(29));
            assert!(!world.homes.is_empty(), "after poll {poll}, with a history of {history_count_max}");
        }
        for _ in 0..4 {
            world.advance(Duration::from_secs(1));
        }
        assert!(world.homes.is_empty(), "with a history of {history_count_max}");
    }
}

#[test]
fn leases_are_bounded() {
    let mut world = World::new(Box::new(Memory::default()), limits(RoomOptions::default(), 1 << 20));
    world.listen(0, "r", true);
    for number in 0..20 {
        world.poll_room(0, number, "r", Duration::from_secs(u64::from(30 + number)));
    }
    world.homes.leases_max = 5;
    world.advance(Duration::from_secs(1));
    assert_eq!((world.homes.usage().present, world.homes.leases()), (5, 5));
}

#[derive(Clone, Debug)]
enum Step {
    Listen(usize, bool),
    Join(u32, Option<u64>),
    Leave(u32),
    Publish(u32, usize),
    Swept(usize, u64),
    Query(usize, u8),
    Advance(u64),
}

fn step() -> impl Strategy<Value = (Step, &'static str)> {
    let shard = 0..SHARDS;
    let step = prop_oneof![
        2 => (shard.clone(), any::<bool>()).prop_map(|(shard, on)| Step::Listen(shard, on)),
        3 => (0..9_u32, prop::option::of(0..30_u64)).prop_map(|(who, since)| Step::Join(who, since)),
        2 => (0..9_u32).prop_map(Step::Leave),
        8 => (0..9_u32, 0..900_usize).prop_map(|(who, bytes)| Step::Publish(who, bytes)),
        3 => (shard.clone(), 0..5000_u64).prop_map(|(shard, bytes)| Step::Swept(shard, bytes)),
        2 => (shard, 0..3_u8).prop_map(|(shard, kind)| Step::Query(shard, kind)),
        3 => (0..2000_u64).prop_map(Step::Advance),
    ];
    (step, prop_oneof![Just("a"), Just("b")])
}

proptest! {
    /// Requests in any order: each has one reply, each room's offsets have no gap, and nothing stays behind.
    #[test]
    fn every_request_has_one_reply_and_offsets_have_no_gap(
        steps in prop::collection::vec(step(), 1..150), late: bool, kept in 0..6_usize, bytes in 200..3000_u64,
    ) {
        let options = RoomOptions { history_count_max: kept, ..RoomOptions::default() };
        let memory = Memory::default();
        let engine: Box<dyn Engine> = if late { Box::new(Late::default()) } else { Box::new(memory) };
        let mut world = World::new(engine, limits(options, bytes));
        let mut inside: Vec<(u32, &str)> = Vec::new();
        for (step, room) in steps {
            match step {
                Step::Listen(shard, on) => world.listen(shard, room, on),
                Step::Join(who, since) if !inside.contains(&(who, room)) => {
                    let since = since.map(|offset| RecoveryRequest::Since(Since { epoch: None, offset }));
                    world.listen(who as usize % SHARDS, room, true);
                    world.join(who, room, since.unwrap_or(RecoveryRequest::None));
                    inside.push((who, room));
                }
                Step::Join(..) => {}
                Step::Leave(who) => {
                    world.leave(who, room);
                    inside.retain(|it| *it != (who, room));
                }
                Step::Publish(who, bytes) => world.publish(who, room, bytes),
                Step::Swept(shard, bytes) => world.swept(shard, room, bytes),
                Step::Query(shard, kind) => {
                    let page = Page { since: None, limit: 10, reverse: false };
                    let queries = [Query::Presence, Query::PresenceStats, Query::History(page)];
                    world.query(shard, room, queries[usize::from(kind)]);
                }
                Step::Advance(ms) => world.advance(Duration::from_millis(ms)),
            }
            prop_assert!(world.homes.history_bytes() <= bytes, "all histories have one bound");
        }
        for room in ["a", "b"] {
            for shard in 0..SHARDS {
                world.listen(shard, room, false);
            }
        }
        world.now = Time::ZERO + Duration::from_secs(10_000);
        world.advance(Duration::ZERO);
        prop_assert_eq!(&world.pending, &BTreeMap::new(), "requests without a reply");
        for room in ["a", "b"] {
            let present = world.homes.by_name.get(room).map_or(0, |&key| world.homes.homes.get(key).unwrap().presence.len());
            let expected = inside.iter().filter(|(_, of)| *of == room).count();
            prop_assert!(present == expected || present == 0, "{present} of {expected} are there");
        }
        world.advance(Duration::from_secs(3600));
        prop_assert!(world.homes.is_empty() && world.homes.next_deadline().is_none());
    }
}

#[test]
fn a_client_that_has_gone_before_the_engine_has_answered_is_not_there() {
    let mut world = World::new(
        Box::new(Late::default()),
        limits(RoomOptions { history_count_max: 1, ..RoomOptions::default() }, 1 << 20),
    );
    world.listen(0, "r", true);
    for _ in 0..3 {
        world.publish(0, "r", 1);
    }
    world.now = world.now + Duration::from_millis(1);
    let since = |offset| RecoveryRequest::Since(Since { epoch: None, offset });
    world.join(3, "r", since(0));
    world.join(6, "r", since(1));
    assert_eq!(world.joined.len(), 0, "the engine is read");
    world.leave(3, "r");
    world.advance(Duration::from_millis(999));
    assert_eq!(world.joined.len(), 1);
    let recovery = &world.joined[0];
    assert_eq!((recovery.recovered, recovery.publications.len()), (Some(true), 2));
    let key = world.homes.by_name["r"];
    let there: Vec<_> =
        world.homes.homes.get(key).unwrap().presence.members().map(|it| it.person.client).collect();
    assert_eq!(there, [client(6)]);
}

/// Least recently used first, and those that lose theirs keep their order.
#[test]
fn all_histories_together_have_one_bound() {
    let options =
        RoomOptions { history_count_max: 1000, history_bytes_max: 1 << 20, ..RoomOptions::default() };
    let mut world = World::new(Box::new(Memory::default()), limits(options, 40_000));
    for room in ["old", "middle", "new"] {
        world.advance(Duration::from_secs(2));
        world.listen(0, room, true);
        for _ in 0..5 {
            world.publish(0, room, 1000);
            world.swept(0, room, 1000);
        }
    }
    assert_eq!(world.homes.take_counts().evicted, 0);
    world.advance(Duration::from_secs(2));
    world.query(0, "old", Query::History(Page { since: None, limit: 10, reverse: false }));
    world.join(3, "old", RecoveryRequest::Since(Since { epoch: None, offset: 0 }));
    assert_eq!(world.joined.pop().unwrap().recovered, Some(true));
    for _ in 0..5 {
        world.publish(0, "new", 1000);
        world.swept(0, "new", 1000);
    }
    assert_eq!(world.homes.take_counts().evicted, 5, "the one that was used least recently");
    for (room, recovered) in [("old", true), ("middle", false), ("new", true)] {
        let since = world.epoch(room);
        world.join(6, room, RecoveryRequest::Since(Since { epoch: since, offset: 0 }));
        let recovery = world.joined.pop().unwrap();
        assert_eq!(recovery.recovered, Some(recovered), "{room}");
        assert_eq!(
            (Some(recovery.top.epoch), recovery.top.offset),
            (since, if room == "new" { 10 } else { 5 }),
            "{room}"
        );
    }
}

/// Pending events of a room that was small enough are announced, though it is too large when they are due.
#[test]
fn members_that_joined_before_the_limit_are_announced() {
    let options = RoomOptions { join_leave_members_max: 3, ..RoomOptions::default() };
    let mut world = World::new(Box::new(Memory::default()), limits(options, 1 << 20));
    world.listen(0, "r", true);
    for number in 0..6 {
        world.join(number, "r", RecoveryRequest::None);
    }
    world.advance(EVENTS_INTERVAL);
    let came = |number| PresenceEvent::Join(member(number));
    assert_eq!(world.presence_events, [came(0), came(1), came(2)]);
    world.presence_events.clear();
    for number in 0..4 {
        world.leave(number, "r");
    }
    world.advance(EVENTS_INTERVAL);
    assert_eq!(
        world.presence_events,
        [PresenceEvent::Leave(member(3))],
        "from three on, leaves are announced again"
    );
}

/// Drafts wait while a shard is behind, in their order, and others' rooms do not wait with them.
#[test]
fn a_congested_room_holds_up_itself_only() {
    let mut world = World::new(Box::new(Memory::default()), limits(RoomOptions::default(), 1 << 20));
    for room in ["slow", "other"] {
        world.listen(0, room, true);
    }
    for _ in 0..10 {
        world.publish(1, "slow", 900);
    }
    assert_eq!(
        world.offsets[&Arc::from("slow")].len(),
        3,
        "until more than {CONGESTION_BYTES} are in flight"
    );
    assert_eq!(world.homes.take_counts().delayed, 7);
    world.publish(1, "other", 900);
    assert_eq!(world.offsets[&Arc::from("other")].len(), 1);
    for _ in 0..10 {
        world.swept(0, "slow", 900);
    }
    assert_eq!(world.offsets[&Arc::from("slow")], (1..=10).collect::<Vec<u64>>());
    assert!(world.pending.is_empty());
}

/// A shard that no longer has members delays no other.
#[test]
fn a_shard_that_leaves_a_congested_room_lets_it_go_on() {
    let mut world = World::new(Box::new(Memory::default()), limits(RoomOptions::default(), 1 << 20));
    for shard in 0..SHARDS {
        world.listen(shard, "r", true);
    }
    for _ in 0..4 {
        world.publish(1, "r", 900);
    }
    world.swept(0, "r", 2700);
    world.swept(1, "r", 2700);
    assert_eq!(world.pending.len(), 1);
    world.homes.shard_lost(world.now, 0, 2, |_| false);
    world.poll();
    assert!(world.pending.is_empty());
}
