//! From a seed to a scenario.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Late;
use super::network::{index_below, one_in};
use super::scenario::{
    Act, Brings, Deflate, Ending, Endpoint, Event, Faults, Fresh, Leave, Look, Plan, Reading, Reload,
    Scenario, Way, What, Wrong,
};
use crate::base::rng::Rng;
use crate::base::spsc::RingLimits;
use crate::chat::{Access, AuthMode, RoomOptions, RoomRules, SlowMember};
use crate::shard::Options;
use crate::ws;

impl Scenario {
    /// The scenario of a seed: small, and full of faults.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let shards = 1 + index_below(rng, 4);
        let rooms = pick(rng, &[1, 1, 2, 3]);
        let clients_max = pick(rng, &[4, 12, 40]);
        let clients = 2 + index_below(rng, clients_max);
        let options = options(rng, clients);
        let mut plans: Vec<_> = (0..clients).map(|_| plan(rng, shards, rooms, &options)).collect();
        let longest = pick(rng, &[1_000, 10_000, 60_000]);
        let length = Duration::from_millis(200) + millis(rng, longest);
        let faults = faults(rng);
        let tokens = options.auth_mode == AuthMode::Open && one_in(rng, 3);
        let engine = one_in(rng, 3).then(|| engine(rng));
        let mut events = Vec::new();
        for (client, plan) in plans.iter().enumerate() {
            let is_json = matches!(plan.endpoint, Endpoint::Centrifuge(_));
            lifetime(rng, (client, is_json), length, (&options, rooms), &mut events);
        }
        for _ in 0..rng.below(6) {
            let what = fault(rng, shards);
            events.push(Event { at: moment(rng, length), what });
        }
        if engine.is_some() {
            for _ in 0..rng.below(20) {
                let room = index_below(rng, usize::try_from(rooms).unwrap_or(1));
                let what = What::Elsewhere(room, index_below(rng, 500));
                events.push(Event { at: moment(rng, length), what });
            }
        }
        if one_in(rng, 3) {
            leave_in_a_pause(rng, &plans, length, &mut events);
        }
        transports(seed, &mut plans, length, &mut events);
        events.sort_by_key(|event| event.at);
        let ending = if one_in(rng, 3) { Ending::Drain } else { Ending::Leave };
        Self {
            seed,
            shards,
            options,
            faults,
            tokens,
            engine,
            rooms: usize::try_from(rooms).unwrap_or(1),
            clients: plans,
            events,
            ending,
        }
    }

    /// A quiet afternoon: `clients` in one room on two shards, each of which publishes every ten seconds, for
    /// `length`. What the simulator's speed is measured with.
    pub fn calm(seed: u64, clients: usize, length: Duration) -> Self {
        let mut rng = Rng::new(seed);
        let plan = |client| Plan {
            shard: client % 2,
            endpoint: Endpoint::Room(0),
            deflate: Deflate::No,
            reading: Reading::AtOnce,
            capacity: 64 * 1024,
            answers: true,
            fragments: false,
            unwanted: false,
            unanswered: false,
            lifetime: None,
            room_lifetime: None,
            server_rooms: 0,
            quiet: false,
            brings: Brings::Good,
        };
        let mut events: Vec<_> = (0..clients)
            .map(|client| Event { at: Duration::ZERO, what: What::Client(client, Act::Join) })
            .collect();
        for _ in 0..length.as_secs() * clients as u64 / 10 {
            let client = index_below(&mut rng, clients);
            let at = Duration::from_secs(1) + moment(&mut rng, length);
            events.push(Event { at, what: What::Client(client, Act::Publish(64)) });
        }
        events.sort_by_key(|event| event.at);
        let room = RoomOptions { history_age_max: Duration::from_secs(60), ..RoomOptions::default() };
        Self {
            seed,
            shards: 2,
            options: Options { rooms: all_rooms(room), ..Options::default() },
            faults: Faults::default(),
            tokens: false,
            engine: None,
            rooms: 1,
            clients: (0..clients).map(plan).collect(),
            events,
            ending: Ending::Leave,
        }
    }
}

/// In half of the scenarios, half of the plain clients use HTTP too, and change their transports. With
/// numbers of their own, so that the other scenarios stay as they are.
fn transports(seed: u64, plans: &mut [Plan], length: Duration, events: &mut Vec<Event>) {
    let mut rng = Rng::new(seed ^ 0x7472_616e_7370_6f72);
    let rng = &mut rng;
    if one_in(rng, 2) {
        return;
    }
    for (client, plan) in plans.iter_mut().enumerate() {
        let Endpoint::Room(room) = plan.endpoint else { continue };
        if one_in(rng, 2) {
            continue;
        }
        plan.endpoint = Endpoint::Plain(room, pick(rng, &Way::ALL));
        let mut add = |at: Duration, act| events.push(Event { at, what: What::Client(client, act) });
        let changes_max = pick(rng, &[1, 4, 12]);
        for _ in 0..rng.below(changes_max) {
            add(moment(rng, length), Act::Switch(pick(rng, &Way::ALL)));
        }
        for _ in 0..rng.below(5) {
            let act = match rng.below(5) {
                0 | 1 => Act::Twin,
                2 => Act::Cut(index_below(rng, 20)),
                3 => Act::Burst(1 + index_below(rng, 24), index_below(rng, 300)),
                _ => Act::Join,
            };
            add(moment(rng, length), act);
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[index_below(rng, among.len())]
}

fn moment(rng: &mut Rng, length: Duration) -> Duration {
    Duration::from_micros(rng.below(u64::try_from(length.as_micros()).unwrap_or(u64::MAX)))
}

fn millis(rng: &mut Rng, max: u64) -> Duration {
    Duration::from_millis(1 + rng.below(max))
}

fn options(rng: &mut Rng, clients: usize) -> Options {
    let message_bytes_max = pick(rng, &[2_000, 8_000, 64 * 1024]);
    let room = RoomOptions {
        slow_member: pick(rng, &[SlowMember::Disconnect, SlowMember::Skip, SlowMember::Conflate]),
        coalesce: pick(
            rng,
            &[Duration::ZERO, Duration::ZERO, Duration::from_micros(200), Duration::from_millis(5)],
        ),
        history_count_max: pick(rng, &[0, 5, 100, 100]),
        history_bytes_max: pick(rng, &[1_000, 64 * 1024, 64 * 1024]),
        history_age_max: Duration::from_secs(pick(rng, &[1, 60, 60])),
        messages_per_second_max: pick(rng, &[0, 0, 0, 0, 3]),
        // A client that is not in a room for a moment, because it must rejoin, may publish all the same.
        publish: Access::Anyone,
        ..RoomOptions::default()
    };
    Options {
        message: ws::Limits { message_bytes_max },
        ping_interval: Duration::from_secs(pick(rng, &[0, 2, 2, 25])),
        pong_timeout: Duration::from_secs(1 + rng.below(8)),
        connections_max: if one_in(rng, 4) { clients as u64 / 2 + 1 } else { u64::MAX },
        room_log_bytes_max: pick(rng, &[4_000, 16 * 1024, 100_000, 1024 * 1024]),
        rooms: all_rooms(room),
        deflate: !one_in(rng, 4),
        deflate_bytes_min: pick(rng, &[1, 64, 128, 1000]),
        echo: true,
        session_messages_per_second_max: pick(rng, &[0, 0, 0, 0, 4]),
        session_commands_per_second_max: pick(rng, &[0, 0, 0, 0, 10]),
        command_timeout: Duration::from_millis(pick(rng, &[300, 10_000, 3_600_000, 3_600_000])),
        history_total_bytes_max: pick(rng, &[256 << 20, 256 << 20, 256 << 20, 20_000]),
        auth_mode: if one_in(rng, 4) { AuthMode::Hook } else { AuthMode::Open },
        ..Options::default()
    }
}

fn all_rooms(options: RoomOptions) -> Arc<RoomRules> {
    Arc::new(RoomRules { otherwise: Arc::new(options), ..RoomRules::default() })
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        read_bytes_max: pick(rng, &[1, 7, 200, 4_000, 64 * 1024, 64 * 1024]),
        write_bytes_max: pick(rng, &[3, 100, 5_000, usize::MAX, usize::MAX]),
        refused_one_in: pick(rng, &[0, 0, 3, 20]),
        short_one_in: pick(rng, &[0, 0, 3, 20]),
        spurious_one_in: pick(rng, &[0, 5]),
        reorder: one_in(rng, 2),
        writes_at_once: pick(rng, &[1, 1, 4, 64]),
        reads_per_turn: pick(rng, &[1, 16, 256]),
        accepts_per_turn: pick(rng, &[1, 128]),
        rings: RingLimits {
            messages_max: pick(rng, &[1, 4, 64, 4096]),
            bytes_max: pick(rng, &[500, 1 << 20]),
        },
        delay_max: pick(
            rng,
            &[Duration::from_micros(20), Duration::from_micros(500), Duration::from_millis(4)],
        ),
        completes: one_in(rng, 3),
    }
}

fn engine(rng: &mut Rng) -> Late {
    let mut delay = |all: &[u64]| Duration::from_millis(pick(rng, all));
    let (completion_delay_max, order_max) = (delay(&[0, 1, 20, 400]), delay(&[0, 1, 20, 400]));
    let page_max = delay(&[1, 100, 1500]);
    Late {
        completion_delay_max,
        order_max,
        page_max,
        temporary_one_in: pick(rng, &[0, 0, 4, 20]),
        known_one_in: pick(rng, &[0, 0, 4, 20]),
        kept_max: pick(rng, &[0, 20, 10_000, 10_000]),
        unreadable_one_in: pick(rng, &[0, 0, 3]),
    }
}

fn plan(rng: &mut Rng, shards: usize, rooms: u64, options: &Options) -> Plan {
    let reading = match rng.below(12) {
        0 => Reading::Never,
        1 | 2 => Reading::Slowly(
            pick(rng, &[1, 100, 3_000, 20_000]),
            Duration::from_millis(pick(rng, &[60, 200, 1_000])),
        ),
        _ => Reading::AtOnce,
    };
    let endpoint = match rng.below(10) {
        0 => Endpoint::Echo,
        1..=3 => Endpoint::Centrifuge(u8::try_from(1 + rng.below((1 << rooms) - 1)).unwrap_or(1)),
        _ => Endpoint::Room(u16::try_from(rng.below(rooms)).unwrap_or(0)),
    };
    let lifetime = pick(rng, &[None, None, Some(500), Some(5_000), Some(40_000)]);
    let room_lifetime = pick(rng, &[None, None, None, Some(1_000), Some(30_000)]);
    let server_rooms = match endpoint {
        Endpoint::Centrifuge(of) if one_in(rng, 2) => of & u8::try_from(rng.below(8)).unwrap_or(7),
        Endpoint::Centrifuge(_) | Endpoint::Room(_) | Endpoint::Echo | Endpoint::Plain(..) => 0,
    };
    Plan {
        shard: index_below(rng, shards),
        endpoint,
        deflate: pick(rng, &[Deflate::No, Deflate::No, Deflate::Full, Deflate::Small]),
        reading,
        capacity: pick(rng, &[50, 1_000, 16 * 1024, 256 * 1024, 256 * 1024]),
        answers: !one_in(rng, 10),
        fragments: one_in(rng, 4),
        unwanted: one_in(rng, 6),
        unanswered: one_in(rng, 12) && options.command_timeout <= Duration::from_secs(10),
        lifetime: lifetime.map(Duration::from_millis),
        room_lifetime: room_lifetime.map(Duration::from_millis),
        server_rooms,
        quiet: one_in(rng, 4),
        brings: if one_in(rng, 8) {
            pick(rng, &[Brings::Expired, Brings::Garbage, Brings::Nothing])
        } else {
            Brings::Good
        },
    }
}

/// What one client does over the whole time.
fn lifetime(
    rng: &mut Rng,
    (client, is_json): (usize, bool),
    length: Duration,
    (options, rooms): (&Options, u64),
    events: &mut Vec<Event>,
) {
    let mut add = |at: Duration, act| events.push(Event { at, what: What::Client(client, act) });
    let join_by = if one_in(rng, 2) { length / 20 } else { length / 2 };
    add(moment(rng, join_by), Act::Join);
    let talkative = pick(rng, &[0, 2, 20, 100]);
    let size = pick(rng, &[1, 40, 500, options.message.message_bytes_max as u64 / 2]);
    for _ in 0..rng.below(talkative + 1) {
        let bytes = index_below(rng, usize::try_from(size).unwrap_or(1) + 1);
        let at = moment(rng, length);
        // Some publish several messages at once.
        for _ in 0..=rng.below(4) * rng.below(2) {
            add(at, Act::Publish(bytes));
        }
    }
    for _ in 0..rng.below(4) {
        let act = common_action(rng, rooms);
        add(moment(rng, length), act);
    }
    if options.session_commands_per_second_max > 0 && one_in(rng, 2) {
        // Many commands at once, and yet within the limit, at first.
        add(moment(rng, length / 2), Act::Batch(8 + index_below(rng, 12)));
    }
    if one_in(rng, 5) {
        final_messages(rng, length, options, &mut add);
    }
    if one_in(rng, 2) {
        add(moment(rng, length), Act::Join); // reconnects, should it have gone
    }
    if one_in(rng, if is_json { 2 } else { 6 }) {
        bad_line(rng, length, &mut add);
    }
}

/// Something that a client does now and then.
fn common_action(rng: &mut Rng, rooms: u64) -> Act {
    match rng.below(22) {
        20 | 21 => {
            let all = [Fresh::Good, Fresh::Good, Fresh::Good, Fresh::Expired, Fresh::Foreign, Fresh::Empty];
            Act::Refresh(one_in(rng, 2), pick(rng, &all))
        }
        14 | 15 => Act::Batch(1 + index_below(rng, 60)),
        16 => Act::Burst(1 + index_below(rng, 60), index_below(rng, 300)),
        17 | 18 => {
            Act::PublishIn(index_below(rng, usize::try_from(rooms).unwrap_or(1)), index_below(rng, 300))
        }
        19 => Act::Query(pick(rng, &[Look::Stats, Look::Delivery])),
        12 => Act::Query(Look::Presence),
        13 => Act::Query(Look::History(index_below(rng, 20))),
        0..=2 => Act::Leave(leave(rng)),
        3..=5 => Act::Stall(millis(rng, 3_000)),
        6..=8 => Act::Ping,
        _ if one_in(rng, 3) => Act::Break(pick(rng, &Wrong::ALL)),
        _ => Act::Join,
    }
}

/// A client leaves in the same instant in which it publishes.
fn final_messages(rng: &mut Rng, length: Duration, options: &Options, add: &mut impl FnMut(Duration, Act)) {
    let at = moment(rng, length);
    let most = pick(rng, &[200, options.message.message_bytes_max / 2]);
    for _ in 0..1 + rng.below(6) {
        add(at, Act::Publish(index_below(rng, most)));
    }
    if one_in(rng, 3) {
        add(at, Act::Batch(1 + index_below(rng, 60)));
    }
    add(at, Act::Leave(pick(rng, &[Leave::HalfClose, Leave::HalfClose, Leave::Reset, Leave::Close(1000)])));
}

/// A client's shard stops for a moment, in which the client publishes, often more than may be in flight at
/// once, and leaves: the shard finds all of it in one turn, together with what has become due. A client with
/// commands, if there is one: its session has a clock of its own.
fn leave_in_a_pause(rng: &mut Rng, plans: &[Plan], length: Duration, events: &mut Vec<Event>) {
    let with_commands: Vec<_> = (0..plans.len())
        .filter(|&client| {
            matches!(plans[client].endpoint, Endpoint::Centrifuge(_))
                && plans[client].reading == Reading::AtOnce
        })
        .collect();
    let client =
        if with_commands.is_empty() { index_below(rng, plans.len()) } else { pick(rng, &with_commands) };
    let (begin, pause) = (moment(rng, length), millis(rng, 1_900));
    events.push(Event { at: begin, what: What::Pause(plans[client].shard, pause) });
    let at = begin + moment(rng, pause);
    let bytes = pick(rng, &[0, 0, 100]);
    for _ in 0..10 + rng.below(40) {
        events.push(Event { at, what: What::Client(client, Act::Publish(bytes)) });
    }
    events.push(Event { at, what: What::Client(client, Act::Leave(Leave::HalfClose)) });
}

/// A client is cut off again and again, and reconnects soon.
fn bad_line(rng: &mut Rng, length: Duration, add: &mut impl FnMut(Duration, Act)) {
    for _ in 0..1 + rng.below(3) {
        let cut = moment(rng, length);
        add(cut, Act::Leave(Leave::Reset));
        let back = cut + millis(rng, 2_000);
        add(back, Act::Join);
        if one_in(rng, 2) {
            add(back + millis(rng, 20), Act::Batch(1 + index_below(rng, 15)));
        }
    }
}

fn leave(rng: &mut Rng) -> Leave {
    match rng.below(4) {
        0 => Leave::Close(pick(rng, &[1000, 1001, 3000, 4999])),
        1 => Leave::HalfClose,
        _ => Leave::Reset,
    }
}

fn fault(rng: &mut Rng, shards: usize) -> What {
    let length_ms_max = pick(rng, &[5, 50, 2_000]);
    let jump_ms_max = pick(rng, &[100, 5_000, 100_000]);
    match rng.below(6) {
        0..=2 => What::Pause(index_below(rng, shards), millis(rng, length_ms_max)),
        3 => What::Jump(millis(rng, jump_ms_max)),
        _ => What::Reload(match rng.below(4) {
            0 => Reload::PingInterval(pick(
                rng,
                &[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(25)],
            )),
            1 => Reload::Coalesce(pick(rng, &[Duration::ZERO, Duration::from_millis(3)])),
            2 => Reload::DeflateMin(pick(rng, &[1, 500])),
            _ => Reload::RoomLog(pick(rng, &[8_000, 1024 * 1024])),
        }),
    }
}
