//! Tests of a session by itself: its requests, the order of the replies, and what its client receives.

use crate::app::json::ErrorCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::base::connection_counter::ConnectionCounter;
use crate::base::hash::Seed;
use crate::base::rng::Rng;
use crate::chat::{AuthDecision, Epoch, Identity, RoomRules, ServerRoom};
use crate::engine::PublishOutcome;
use crate::options::Options;
use crate::room::QueryError;

/// A session with what is around it: its requests and what its client has received.
struct World {
    session: Session,
    options: Options,
    now: Time,
    rng: Rng,
    budget: Budget,
    users: Arc<ConnectionCounter<Arc<str>>>,
    /// Its requests without an answer.
    pending: Vec<Effect>,
    /// What its client has received: lines of JSON, or texts.
    sent: Vec<String>,
    closed: Option<u16>,
    /// Messages that wait, the first one perhaps taken in part.
    waiting: std::collections::VecDeque<String>,
    subs: u32,
}

const ID: u128 = 0x1234;

fn options() -> Options {
    Options {
        session_messages_per_second_max: 0,
        session_commands_per_second_max: 0,
        ping_interval: Duration::ZERO,
        ..Options::default()
    }
}

fn rules(patterns: &[(&str, RoomOptions)], otherwise: RoomOptions) -> Arc<RoomRules> {
    let patterns = patterns.iter().map(|(name, options)| (name_pattern(name), Arc::new(options.clone())));
    Arc::new(RoomRules { patterns: patterns.collect(), otherwise: Arc::new(otherwise) })
}

fn name_pattern(name: &str) -> wildmatch::WildMatch {
    wildmatch::WildMatch::new(name)
}

impl World {
    fn new(session: Session, options: Options) -> Self {
        Self {
            session,
            options,
            now: Time::ZERO + Duration::from_secs(1000),
            rng: Rng::new(1),
            budget: Budget::TURN,
            users: Arc::new(ConnectionCounter::new(&Seed::new(1))),
            pending: Vec::new(),
            sent: Vec::new(),
            closed: None,
            waiting: std::collections::VecDeque::new(),
            subs: 0,
        }
    }

    fn json(options: Options) -> Self {
        let deadline = Time::ZERO + Duration::from_secs(1015);
        let format = WireFormat::Json;
        Self::new(Session::json(ClientId::new(0, ID), format, deadline, false), options)
    }

    /// One that is in.
    fn open(options: Options) -> Self {
        let mut world = Self::json(options);
        world.send_text(r#"{"id":4000000000,"connect":{"data":{"name":"ann"}}}"#);
        assert!(world.sent.pop().unwrap().contains("\"connect\""));
        world
    }

    fn call<R>(&mut self, call: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let mut effects = Effects::default();
        let result = call(
            &mut self.session,
            &mut Context {
                now: self.now,
                shard: 0,
                options: &self.options,
                users: &self.users,
                seed: &Seed::new(1),
                rng: &mut self.rng,
                budget: &mut self.budget,
                effects: &mut effects,
            },
        );
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Send(range) => {
                    self.sent.push(String::from_utf8(effects.payload(range).to_vec()).unwrap());
                }
                Effect::Close { code, .. } => self.closed = self.closed.or(Some(code)),
                Effect::Join(JoinRequest { number, ref room, .. }) => {
                    self.session.attends(number, RoomId(number), Arc::clone(room));
                    self.pending.push(effect);
                }
                Effect::JoinAgain(_)
                | Effect::Publish { .. }
                | Effect::Query { .. }
                | Effect::CountDelivery { .. }
                | Effect::Authenticate(_) => self.pending.push(effect),
                Effect::Leave { .. }
                | Effect::Notice
                | Effect::Confirmed
                | Effect::Ping
                | Effect::Begin
                | Effect::Batch { .. }
                | Effect::Published { .. } => {}
            }
        }
        result
    }

    /// A message comes; it waits if it must.
    fn send_text(&mut self, message: &str) {
        self.waiting.push_back(message.to_owned());
        self.go_on();
    }

    /// Offers what waits, as its connection does.
    fn go_on(&mut self) {
        while self.closed.is_none() && self.session.can_take() {
            let Some(message) = self.waiting.pop_front() else { return };
            self.budget = Budget::TURN;
            if self.call(|session, ctx| session.message(ctx, &message)) == Taken::Later {
                self.waiting.push_front(message);
            }
        }
    }

    /// One of its requests is answered.
    fn answer(&mut self, index: usize) {
        let pending = self.pending.swap_remove(index);
        match &pending {
            &(Effect::Join(JoinRequest { number, .. }) | Effect::JoinAgain(JoinRequest { number, .. })) => {
                self.joined(number, None)
            }
            &Effect::Publish { command, .. } => {
                self.call(|session, ctx| {
                    session.draft_completed(ctx, command, PublishOutcome::Ordered, None)
                });
            }
            &Effect::Query { command, .. } => {
                let answer = Err(QueryError::NotAvailable);
                self.call(|session, ctx| session.query_answered(ctx.effects, command, &answer));
            }
            &Effect::CountDelivery { command, .. } => {
                let counts = Delivery::default();
                self.call(|session, ctx| session.delivery_counted(ctx.effects, command, counts));
            }
            Effect::Send(_)
            | Effect::Notice
            | Effect::Close { .. }
            | Effect::Leave { .. }
            | Effect::Authenticate(_)
            | Effect::Confirmed
            | Effect::Ping
            | Effect::Begin
            | Effect::Batch { .. }
            | Effect::Published { .. } => panic!("not a request: {pending:?}"),
        }
        self.go_on();
    }

    fn joined(&mut self, number: u32, recovered: Option<bool>) {
        if self.session.wants(number).is_none() {
            return;
        }
        self.subs += 1;
        let sub = SubId::new(self.subs);
        let top = Position { epoch: Epoch::from_random(7), offset: 5 };
        let recovery = Recovered { top, publications: Vec::new(), recovered };
        self.call(|session, ctx| session.joined(ctx, number, sub, &recovery));
    }

    fn answer_all(&mut self) {
        while !self.pending.is_empty() {
            self.answer(0);
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        let now = self.now;
        self.call(|session, ctx| session.tick(ctx, now));
        self.go_on();
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.sent.iter().flat_map(|sent| sent.lines());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The error codes of the replies, by id; 0: a result.
    fn codes(&self) -> Vec<(u64, u64)> {
        let replies = self.lines().into_iter().filter(|line| line.get("id").is_some());
        replies.map(|it| (it["id"].as_u64().unwrap(), it["error"]["code"].as_u64().unwrap_or(0))).collect()
    }
}

fn command() -> impl Strategy<Value = Value> {
    let room = prop_oneof![Just("a"), Just("b"), Just("c")];
    (0..10_u32, room).prop_map(|(kind, room)| match kind {
        0 | 1 => json!({"subscribe": {"channel": room}}),
        2 => json!({"unsubscribe": {"channel": room}}),
        3 => json!({"publish": {"channel": room, "data": 1}}),
        4 => json!({"presence": {"channel": room}}),
        5 => json!({"presence_stats": {"channel": room}}),
        6 => json!({"history": {"channel": room, "limit": 2}}),
        7 => json!({"rpc": {"method": "delivery", "data": {"channel": room, "offset": 1}}}),
        8 => json!({"refresh": {"token": "t"}}),
        _ => json!({"sub_refresh": {"channel": room, "token": "t"}}),
    })
}

#[derive(Clone, Debug)]
enum Step {
    /// A message of so many commands.
    SendText(Vec<Value>),
    /// One of the answers comes.
    Answer(prop::sample::Index),
    /// An answer is lost.
    Lose(prop::sample::Index),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(command(), 1..8).prop_map(Step::SendText),
        6 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        1 => (0..6_u64).prop_map(Step::Advance),
    ]
}

proptest! {
    /// Any commands, and answers in any order, or none.
    #[test]
    fn each_command_with_an_id_gets_exactly_one_reply(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::open(options());
        let mut ids = 0;
        for step in steps {
            match step {
                Step::SendText(commands) => {
                    let lines = commands.into_iter().map(|mut command| {
                        ids += 1;
                        command["id"] = ids.into();
                        command.to_string()
                    });
                    let message = lines.collect::<Vec<_>>().join("\n");
                    world.send_text(&message);
                }
                Step::Answer(index) if !world.pending.is_empty() => {
                    let index = index.index(world.pending.len());
                    world.answer(index);
                }
                Step::Lose(index) if !world.pending.is_empty() => {
                    let index = index.index(world.pending.len());
                    world.pending.swap_remove(index);
                }
                Step::Answer(_) | Step::Lose(_) => {}
                Step::Advance(seconds) => world.advance(Duration::from_secs(seconds)),
            }
            let waiting = world.session.json_state().unwrap().pending.len() + world.session.joining();
            prop_assert!(waiting <= json::PENDING_MAX, "{waiting} wait");
        }
        // What was lost is answered by the clock; a late answer to that is nothing.
        for _ in 0..=ids {
            world.advance(Duration::from_secs(11));
            if world.waiting.is_empty() {
                break;
            }
        }
        world.answer_all();
        world.advance(Duration::from_secs(11));
        prop_assert_eq!(world.closed, None);
        let mut replies: Vec<_> = world.codes().into_iter().map(|(id, _)| id).collect();
        replies.sort_unstable();
        prop_assert_eq!(replies, (1..=ids).collect::<Vec<u64>>());
    }
}

#[test]
fn subscribe_and_unsubscribe_in_one_message_are_answered_in_that_order() {
    let mut world = World::open(Options { session_commands_per_second_max: 2, ..options() });
    world.send_text(
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":2,\"unsubscribe\":{\"channel\":\"a\"}}",
    );
    assert!(!world.session.can_take(), "it waits for the room, and not for the next turn");
    assert_eq!(world.codes(), []);
    world.answer_all();
    assert_eq!(world.codes(), [(1, 0), (2, 0)]);
    world.send_text("{\"id\":3,\"presence\":{\"channel\":\"a\"}}");
    assert_eq!(world.codes()[2], (3, 103), "a command that waited is counted once");
}

#[test]
fn commands_of_an_unresponsive_room_time_out() {
    let mut world = World::open(options());
    world.send_text(
        "{\"id\":1,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":2,\"unsubscribe\":{\"channel\":\"a\"}}",
    );
    world.advance(Duration::from_secs(9));
    assert_eq!(world.codes(), []);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.codes(), [(1, 100), (2, 0)]);
    assert!(world.sent[0].contains("\"temporary\":true"), "{:?}", world.sent);
    world.answer_all();
    assert_eq!(world.codes().len(), 2, "the late answer is nothing");
}

#[test]
fn a_command_waits_at_most_the_time_out() {
    let mut world = World::open(Options { command_timeout: Duration::from_secs(3), ..options() });
    world.send_text("{\"id\":1,\"subscribe\":{\"channel\":\"a\"}}");
    world.answer_all();
    for (id, command) in [
        (2, r#""publish":{"channel":"a","data":1}"#),
        (3, r#""presence":{"channel":"a"}"#),
        (4, r#""history":{"channel":"a"}"#),
        (5, r#""rpc":{"method":"delivery","data":{"channel":"a","offset":1}}"#),
        (6, r#""subscribe":{"channel":"b"}"#),
    ] {
        world.send_text(&format!("{{\"id\":{id},{command}}}"));
    }
    world.advance(Duration::from_millis(2999));
    assert_eq!(world.codes(), [(1, 0)]);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.codes(), [(1, 0), (2, 100), (3, 100), (4, 100), (5, 100), (6, 100)]);
    assert!(world.sent[1..].iter().all(|sent| sent.contains("\"temporary\":true")), "{:?}", world.sent);
}

/// What one message may bring about at once is bounded, the pasts of rooms as well.
#[test]
fn rooms_that_are_being_entered_are_among_the_commands_that_wait() {
    let mut world = World::open(options());
    let lines = (1..=100).map(|id| format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"r{id}\"}}}}"));
    world.send_text(&lines.collect::<Vec<_>>().join("\n"));
    assert_eq!(world.pending.len(), json::PENDING_MAX);
    world.answer_all();
    assert_eq!(world.codes().len(), 100);
}

#[test]
fn a_session_whose_drafts_wait_takes_nothing_until_all_have_gone() {
    let mut world = World::open(options());
    world.session.parked();
    world.session.parked();
    world.session.unparked();
    assert!(!world.session.can_take());
    world.session.unparked();
    assert!(world.session.can_take());
}

#[test]
fn every_kind_of_command_is_limited() {
    for command in [
        r#""presence":{"channel":"a"}"#,
        r#""presence_stats":{"channel":"a"}"#,
        r#""history":{"channel":"a"}"#,
        r#""rpc":{"method":"delivery","data":{"channel":"a","offset":1}}"#,
        r#""subscribe":{"channel":"a"}"#,
        r#""unsubscribe":{"channel":"a"}"#,
        r#""refresh":{"token":"t"}"#,
        r#""sub_refresh":{"channel":"a","token":"t"}"#,
    ] {
        let mut world = World::open(Options { session_commands_per_second_max: 10, ..options() });
        // `connect` was the first of twenty.
        for id in 1..=19 {
            world.send_text(&format!("{{\"id\":{id},{command}}}"));
            world.answer_all();
        }
        assert!(world.codes().iter().all(|&(_, code)| code != 111), "{command}: {:?}", world.codes());
        world.send_text(&format!("{{\"id\":20,{command}}}"));
        assert_eq!(world.codes().last(), Some(&(20, 111)), "{command}");
        for id in 21..=40 {
            assert_eq!(world.closed, None, "{command}");
            world.send_text(&format!("{{\"id\":{id},{command}}}"));
        }
        assert_eq!(world.closed, Some(3013), "{command}");
    }
}

/// A client asks so whether it may publish: nothing is published.
#[test]
fn a_publish_without_data_is_refused_for_the_permission_first() {
    let options_of = |publish| RoomOptions { publish, ..RoomOptions::default() };
    let rooms =
        rules(&[("news", options_of(crate::chat::Access::Nobody))], options_of(crate::chat::Access::Anyone));
    let mut world = World::open(Options { rooms, ..options() });
    world.send_text(
        "{\"id\":1,\"publish\":{\"channel\":\"news\"}}\n{\"id\":2,\"publish\":{\"channel\":\"a\"}}",
    );
    assert_eq!(world.codes(), [(1, 103), (2, 107)]);
    assert!(world.pending.is_empty(), "{:?}", world.pending);
}

fn limited(rate: u32) -> RoomOptions {
    RoomOptions {
        messages_per_second_max: rate,
        publish: crate::chat::Access::Anyone,
        ..RoomOptions::default()
    }
}

/// Publishes so many times in a room, at once; how many were taken.
fn published(world: &mut World, room: &str, count: usize) -> usize {
    world.sent.clear();
    for _ in 0..count {
        world.send_text(&format!("{{\"id\":1,\"publish\":{{\"channel\":\"{room}\",\"data\":1}}}}"));
        world.answer_all();
    }
    assert!(world.codes().iter().all(|&(_, code)| code == 0 || code == 111), "{:?}", world.codes());
    world.codes().iter().filter(|&&(_, code)| code == 0).count()
}

#[test]
fn a_room_with_a_limit_has_a_budget_of_its_own_and_others_share_the_sessions() {
    let any = RoomOptions { publish: crate::chat::Access::Anyone, ..RoomOptions::default() };
    let rooms = rules(&[("slow", limited(1)), ("fast:*", limited(5))], any);
    let mut world = World::open(Options { session_messages_per_second_max: 20, rooms, ..options() });
    assert_eq!(published(&mut world, "slow", 5), 2);
    assert_eq!(published(&mut world, "fast:1", 15), 10, "the slow room's limit is not this one's");
    assert_eq!(published(&mut world, "fast:2", 15), 10, "nor the other fast one's");
    assert_eq!(published(&mut world, "a", 30), 30);
    assert_eq!(published(&mut world, "b", 30), 10, "rooms without one share the session's");
    world.now = world.now + Duration::from_secs(1);
    assert_eq!(published(&mut world, "slow", 5), 1);
    assert_eq!(published(&mut world, "fast:1", 15), 5);
    assert_eq!(published(&mut world, "a", 30), 20);
}

#[test]
fn room_limits_hold_across_many_rooms() {
    let rooms = rules(&[], limited(10));
    let mut world = World::open(Options { rooms, ..options() });
    let taken = (0..1000).map(|room| published(&mut world, &format!("r{room}"), 1)).sum::<usize>();
    assert_eq!(taken, 128);
    world.now = world.now + Duration::from_millis(100);
    assert_eq!(published(&mut world, "another", 1), 1, "the others' budgets are full again");
    assert_eq!(world.session.rare().room_limiters.len(), 128);
}

#[test]
fn positions_in_a_connect_are_bounded() {
    for (count, code) in [(128, 0), (129, 106)] {
        let mut world = World::json(options());
        let subs: Vec<_> = (0..count).map(|room| format!("\"r{room}\":{{}}")).collect();
        world.send_text(&format!("{{\"id\":1,\"connect\":{{\"subs\":{{{}}}}}}}", subs.join(",")));
        assert_eq!(world.codes(), [(1, code)]);
    }
}

#[test]
fn expiring_subscriptions_that_come_and_go_leave_nothing_behind() {
    let mut world = World::open(options());
    for round in 0..10_000 {
        world.send_text(&format!("{{\"id\":1,\"subscribe\":{{\"channel\":\"r{}\"}}}}", round % 7));
        world.answer_all();
        let now = world.now;
        world.session.expire_subscription(now, 0, Some(Duration::from_secs(3600)));
        world.send_text(&format!("{{\"id\":2,\"unsubscribe\":{{\"channel\":\"r{}\"}}}}", round % 7));
        world.sent.clear();
    }
    assert_eq!(world.session.subscriptions.len(), 0);
    assert!(world.session.subscriptions.capacity() <= 4);
    world.advance(Duration::from_secs(7200));
    assert_eq!((world.session.due(), world.closed), (Time::NEVER, None));
}

#[test]
fn a_plain_client_ends_with_its_token() {
    for ping_interval in [Duration::ZERO, Duration::from_secs(25)] {
        let session = Session::text(ClientId::new(0, ID), WireFormat::Text);
        let mut world = World::new(session, Options { ping_interval, ..options() });
        let identity = Identity {
            user: "ann".into(),
            name: "ann".into(),
            info: None,
            expires_in: Some(Duration::from_secs(30)),
            rooms: Vec::new(),
        };
        let pending_join = PendingJoin { room: "r".into(), recovery_request: RecoveryRequest::None };
        world.call(|session, ctx| session.authenticated(ctx, identity, None, &pending_join));
        world.answer_all();
        assert_eq!(world.session.due(), world.now + Duration::from_secs(10), "the room must have answered");
        world.advance(Duration::from_millis(29_999));
        assert_eq!(world.closed, None);
        assert_eq!(world.session.due(), world.now + Duration::from_millis(1));
        world.advance(Duration::from_millis(1));
        assert_eq!(world.closed, Some(1008));
    }
}

#[test]
fn connect_is_answered_once_all_rooms_of_the_server_are_entered() {
    let mut world = World::json(Options { auth_mode: crate::chat::AuthMode::Hook, ..options() });
    world.send_text("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"presence\":{\"channel\":\"b\"}}");
    assert!(matches!(world.pending.remove(0), Effect::Authenticate(_)));
    assert!(!world.session.can_take());
    let room = |name: &str| ServerRoom { name: name.into(), grant: Grant::default() };
    let identity = Identity {
        user: "ann".into(),
        name: "ann".into(),
        info: None,
        expires_in: None,
        rooms: vec![room("a"), room("b")],
    };
    world.call(|session, ctx| session.decided(ctx, AuthDecision::Accept { identity, data: None }));
    world.answer(1);
    assert!(world.sent.is_empty() && !world.session.is_confirmed() && !world.session.can_take());
    world.answer(0);
    assert!(world.session.is_confirmed());
    assert_eq!(world.pending.len(), 1, "and then the commands behind it");
    world.answer_all();
    assert_eq!(world.codes(), [(1, 0), (2, 108)]);
}

#[test]
fn every_error_is_counted_by_its_number() {
    let metrics = crate::metrics::ShardMetrics::default();
    for code in ErrorCode::ALL {
        metrics.count_error(code.parts().0);
    }
    metrics.count_error(1999);
    let others = metrics.errors.last().unwrap().value();
    assert_eq!(others, 1, "only what an auth backend has chosen is among the others");
}
