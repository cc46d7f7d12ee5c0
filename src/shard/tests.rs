//! Shards, their mesh and their clients in one thread: every input in pieces, every socket with a size of its
//! own, a clock that only the test moves. A seed replays everything.

mod admission;
mod empty_rooms;
mod emulation;
mod faults;
mod late_decision;
mod plain;
mod sockjs;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use stentor_testkit::{frame as client_frame, frames, upgrade_request as request};

use super::*;
use crate::base::hash::Seed;
use crate::base::rng::Rng;
use crate::chat::{RoomOptions, RoomRules, SlowMember};
use crate::metrics::CloseReason;
use crate::ws::{self, Inflater};

/// A client's end: what it has still to send, what it has got, and how much its socket takes.
struct Peer {
    shard: usize,
    key: ConnKey,
    sending: VecDeque<u8>,
    received: Vec<u8>,
    /// Bytes that the server may write before the socket is full.
    window: usize,
    blocked: bool,
    paused: bool,
    shut: bool,
    closed: Option<CloseReason>,
}

struct World {
    shards: Vec<Shard>,
    peers: Vec<Peer>,
    now: Time,
    rng: Rng,
    /// Sessions whose auth requests were cancelled.
    cancelled: Vec<SessionKey>,
    /// Connections on their way to another shard: to which, whose, and what goes with them.
    moving: Vec<(usize, usize, Moved)>,
    /// Longest read and longest write; small ones tear everything apart.
    piece: u64,
}

fn options() -> Options {
    Options {
        ping_interval: Duration::ZERO,
        connections_max: 10_000,
        room_log_bytes_max: 256 * 1024,
        deflate_bytes_min: 64,
        echo: true,
        session_messages_per_second_max: 0,
        session_commands_per_second_max: 0,
        ..Options::default()
    }
}

/// One rule for all rooms.
fn rooms(options: RoomOptions) -> Arc<RoomRules> {
    Arc::new(RoomRules { patterns: Vec::new(), otherwise: Arc::new(options) })
}

/// Reports the outcomes of its writes to the shard.
fn answer(shard: &mut Shard, in_flight: &mut Vec<(WriteId, usize, usize)>) {
    for (write_id, len, offered) in in_flight.drain(..) {
        if len == 0 { shard.refused(write_id) } else { shard.wrote(write_id, len, offered) }
    }
}

impl World {
    fn new(shards: usize, seed: u64, piece: u64, options: Options) -> Self {
        let registry = Arc::new(Registry::new(shards));
        registry.set_ready(true);
        let options = Arc::new(options);
        let shards = Shard::fleet(
            Mesh::build(shards, &Seed::new(seed)),
            &ConnectionLimits::new(&Seed::new(seed)),
            &options,
            &registry,
            || seed,
        );
        Self {
            shards,
            peers: Vec::new(),
            cancelled: Vec::new(),
            moving: Vec::new(),
            now: Time::ZERO,
            rng: Rng::new(seed),
            piece,
        }
    }

    fn connect(&mut self, shard: usize) -> usize {
        self.shards[shard].begin_turn(self.now);
        let admission = self.shards[shard].admission();
        let key = self.shards[shard].opened(admission, None);
        self.peers.push(Peer {
            shard,
            key,
            sending: VecDeque::new(),
            received: Vec::new(),
            window: usize::MAX,
            blocked: false,
            paused: false,
            shut: false,
            closed: None,
        });
        self.peers.len() - 1
    }

    /// A member of the room, handshake done.
    fn join(&mut self, shard: usize, name: &str, room: &str, more: &str) -> usize {
        let peer = self.connect(shard);
        self.send(peer, request(&format!("/ws/{name}?room={room}"), more).as_bytes());
        self.run_until_idle();
        assert!(self.text(peer).starts_with("HTTP/1.1 101"), "{}", self.text(peer));
        self.peers[peer].received.clear();
        peer
    }

    fn send(&mut self, peer: usize, bytes: &[u8]) {
        self.peers[peer].sending.extend(bytes);
    }

    fn send_text(&mut self, peer: usize, text: &str) {
        self.send(peer, &client_frame(0x81, text.as_bytes()));
    }

    fn text(&self, peer: usize) -> String {
        String::from_utf8_lossy(&self.peers[peer].received).into_owned()
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        self.run_until_idle();
    }

    /// Turns until nothing moves any more.
    fn run_until_idle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("it never becomes idle");
    }

    /// One turn of every shard. Whether anything happened.
    fn turn(&mut self) -> bool {
        let moved = (0..self.shards.len()).fold(false, |moved, id| self.turn_of(id) | moved);
        // A shard may have sent something to one whose turn was before.
        let rung = |shard: &Shard| {
            let rung = !shard.may_sleep();
            shard.awake();
            rung
        };
        moved | self.shards.iter().any(rung)
    }

    fn turn_of(&mut self, id: usize) -> bool {
        let mut moved = false;
        self.shards[id].begin_turn(self.now);
        for (_, peer, arriving) in self.moving.extract_if(.., |(to, ..)| *to == id) {
            (self.peers[peer].shard, self.peers[peer].key) = (id, self.shards[id].arrived(arriving));
            (self.peers[peer].blocked, self.peers[peer].paused) = (false, false);
            moved = true;
        }
        for peer in 0..self.peers.len() {
            moved |= self.peers[peer].shard == id && self.input(peer);
        }
        self.shards[id].run();
        moved |= self.outputs(id);
        moved |=
            self.shards[id].has_work() || !self.shards[id].may_sleep() || !self.shards[id].mesh.is_clear();
        self.shards[id].awake();
        moved
    }

    fn input(&mut self, index: usize) -> bool {
        let peer = &mut self.peers[index];
        let shard = &mut self.shards[peer.shard];
        if peer.closed.is_some() {
            return false;
        }
        if peer.blocked && peer.window > 0 {
            peer.blocked = false;
            shard.writable(peer.key);
        }
        // epoll's sockets are read to their ends, a ring may report an end while nothing is to be read.
        let is_epoll = index.is_multiple_of(2);
        if peer.shut && is_epoll && (peer.paused || !shard.may_read(peer.key)) {
            return !std::mem::replace(&mut peer.paused, true);
        }
        if peer.shut {
            shard.ended(peer.key);
            return true;
        }
        if peer.sending.is_empty() || peer.paused {
            return false;
        }
        if !shard.may_read(peer.key) {
            peer.paused = true;
            return true;
        }
        let len = usize::try_from(1 + self.rng.below(self.piece)).unwrap().min(peer.sending.len());
        let mut piece: Vec<u8> = peer.sending.drain(..len).collect();
        shard.received(peer.key, &mut piece);
        true
    }

    fn outputs(&mut self, id: usize) -> bool {
        let mut moved = false;
        let shard = &mut self.shards[id];
        let mut in_flight = Vec::new();
        while let Some(write) = shard.poll_write() {
            moved = true;
            let peer = self
                .peers
                .iter_mut()
                .rfind(|peer| peer.shard == id && peer.key.index() == write.conn && peer.closed.is_none());
            let peer = peer.expect("a connection that is open");
            let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
            let count = write.gather(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!(!bytes.is_empty(), "an empty write");
            if let Some(contiguous) = write.contiguous() {
                assert_eq!(contiguous, bytes);
            }
            let len = bytes.len().min(peer.window);
            peer.received.extend_from_slice(&bytes[..len]);
            peer.window -= if peer.window == usize::MAX { 0 } else { len };
            peer.blocked |= len < bytes.len();
            in_flight.push((write.write_id, len, bytes.len()));
            // One, or several at a time, as a ring has them.
            if self.rng.below(4) > 0 {
                answer(shard, &mut in_flight);
            }
        }
        answer(shard, &mut in_flight);
        while let Some(Close { key, how, reason, .. }) = shard.poll_close() {
            moved = true;
            let peer = self.peers.iter_mut().rfind(|peer| peer.shard == id && peer.key == key);
            let peer = peer.expect("a connection of ours");
            if how == CloseMethod::Shutdown {
                peer.shut = true; // a polite client ends its side too
            } else {
                peer.closed = Some(reason);
                shard.closed(key);
            }
        }
        while let Some((key, to)) = shard.poll_move() {
            moved = true;
            let peer = self.peers.iter().rposition(|peer| peer.shard == id && peer.key == key);
            let peer = peer.filter(|_| shard.is_moving(key));
            self.moving.extend(peer.map(|peer| (to, peer, shard.departed(key).expect("it goes"))));
            if let Some(peer) = peer {
                self.peers[peer].shard = usize::MAX; // on no shard
            }
        }
        while let Some(key) = shard.poll_resume() {
            moved = true;
            for peer in self.peers.iter_mut().filter(|peer| peer.shard == id && peer.key == key) {
                peer.paused = false;
            }
        }
        self.cancelled.extend(std::iter::from_fn(|| shard.poll_auth_cancellation()));
        while shard.poll_wake().is_some() {
            moved = true;
        }
        moved
    }

    /// The texts that a member has got, then its close code if it has one.
    fn received_by(&self, peer: usize) -> (Vec<String>, Option<u16>) {
        let (mut texts, mut inflater) = (Vec::new(), Inflater::default());
        // The last one may be cut by the end of its window.
        for frame in frames(&self.peers[peer].received) {
            match (frame.opcode, frame.compressed) {
                (1, false) => texts.push(String::from_utf8(frame.payload.to_vec()).unwrap()),
                (1, true) => {
                    let text = inflater.inflate(frame.payload, 1 << 20).unwrap();
                    texts.push(String::from_utf8(text.to_vec()).unwrap());
                }
                (8, _) => return (texts, frame.close_code()),
                (9 | 10, _) => {}
                other => panic!("an unexpected frame: {other:?}"),
            }
        }
        (texts, None)
    }
}

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
const DEFLATE_SMALL: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The promise of the whole server, on any number of shards, in any pieces, through sockets that fill up.
    #[test]
    fn every_member_receives_everything_once_and_in_one_order(seed: u64, shards in 1usize..5, piece in prop_oneof![1u64..9, 10u64..5000]) {
        let mut world = World::new(shards, seed, piece, options());
        let members: Vec<_> = (0..12)
            .map(|index| {
                let more = ["", DEFLATE, DEFLATE_SMALL][index % 3];
                world.join(index % shards, &format!("m{index}"), "r", more)
            })
            .collect();
        let unsubscribed = world.join(0, "stranger", "elsewhere", "");
        let mut published = vec![0; members.len()];
        for _ in 0..120 {
            let who = usize::try_from(world.rng.below(12)).unwrap();
            let fill = "lorem ipsum ".repeat(usize::try_from(world.rng.below(40)).unwrap());
            world.send_text(members[who], &format!("{} {fill}", published[who]));
            published[who] += 1;
            // Some sockets are full for a while.
            let narrow = usize::try_from(world.rng.below(12)).unwrap();
            let window = usize::try_from(world.rng.below(300)).unwrap();
            world.peers[members[narrow]].window = window;
            for _ in 0..world.rng.below(4) {
                world.turn();
            }
        }
        for &member in &members {
            world.peers[member].window = usize::MAX;
        }
        world.run_until_idle();
        let (first, _) = world.received_by(members[0]);
        prop_assert_eq!(first.len(), 120);
        let mut next = vec![0; members.len()];
        for line in &first {
            let (name, text) = line.split_once(": ").unwrap();
            let who: usize = name[1..].parse().unwrap();
            prop_assert_eq!(text.split(' ').next().unwrap().parse::<i32>().unwrap(), next[who], "a publisher's own order");
            next[who] += 1;
        }
        for &member in &members {
            prop_assert_eq!(&world.received_by(member).0, &first);
        }
        prop_assert_eq!(world.received_by(unsubscribed).0.len(), 0);
    }

    /// Any input, in any pieces: nothing panics, every connection ends, and the others go on.
    #[test]
    fn garbage_ends_in_an_answer(seed: u64, garbage in prop::collection::vec(any::<u8>(), 0..300), upgraded: bool, piece in 1u64..50) {
        let mut world = World::new(2, seed, piece, options());
        let good = [world.join(0, "a", "r", ""), world.join(1, "b", "r", "")];
        let bad = if upgraded { world.join(0, "bad", "r", DEFLATE) } else { world.connect(0) };
        world.send(bad, &garbage);
        world.send_text(good[0], "still here");
        world.run_until_idle();
        for peer in good {
            let (texts, close) = world.received_by(peer);
            prop_assert!(texts.contains(&"a: still here".to_owned()));
            prop_assert_eq!(close, None);
        }
        world.peers[bad].shut = true;
        world.run_until_idle();
        prop_assert!(world.peers[bad].closed.is_some());
    }
}

#[test]
fn a_flood_is_slowed_down_and_nothing_is_lost() {
    let mut world = World::new(2, 5, 65_536, Options { room_log_bytes_max: 64 * 1024, ..options() });
    let listeners: Vec<_> =
        (0..80).map(|index| world.join(index % 2, &format!("l{index}"), "r", "")).collect();
    let publishers: Vec<_> = (0..4).map(|index| world.join(index % 2, &"s".repeat(64), "r", "")).collect();
    for &publisher in &publishers {
        for _ in 0..6_000 {
            world.send_text(publisher, "x");
        }
    }
    world.run_until_idle();
    let one = 2 + 64 + 2 + 1;
    for &listener in &listeners {
        assert_eq!(world.peers[listener].closed, None);
        assert_eq!(world.peers[listener].received.len(), 4 * 6_000 * one);
    }
    let pauses: u64 = world.shards.iter().map(|shard| shard.metrics.pauses.value()).sum();
    assert!(pauses > 0, "the flood was never held back");
}

/// One member whose socket takes `window` bytes and then nothing, while a room publishes `count` messages of
/// 1 KiB.
fn with_a_stuck_member(policy: SlowMember, window: usize, count: usize) -> (World, usize, usize) {
    let mut world = World::new(
        1,
        3,
        65_536,
        Options {
            rooms: rooms(RoomOptions { slow_member: policy, ..RoomOptions::default() }),
            message: ws::Limits { message_bytes_max: 4096 },
            ..options()
        },
    );
    let publisher = world.join(0, "s", "r", "");
    let stuck = world.join(0, "slow", "r", "");
    world.peers[stuck].window = window;
    for index in 0..count {
        world.send_text(publisher, &format!("{index:>1019}"));
        world.run_until_idle();
    }
    (world, publisher, stuck)
}

#[test]
fn a_member_that_never_reads_is_closed_and_costs_no_more_than_the_bound() {
    let (mut world, publisher, stuck) = with_a_stuck_member(SlowMember::Disconnect, 1500, 400);
    assert_eq!(world.received_by(publisher).0.len(), 400);
    assert!(
        world.shards[0].metrics.closes[CloseReason::SlowConsumer as usize].value() == 0,
        "its last messages wait"
    );
    world.peers[stuck].window = usize::MAX;
    world.run_until_idle();
    let (texts, close) = world.received_by(stuck);
    assert_eq!(texts.len(), 2, "the frame that had begun is finished");
    assert_eq!(close, Some(1013));
    world.advance(Duration::from_secs(10));
    assert_eq!(world.peers[stuck].closed, Some(CloseReason::SlowConsumer));
}

#[test]
fn skip_announces_the_gap() {
    let (mut world, publisher, stuck) = with_a_stuck_member(SlowMember::Skip, 1500, 700);
    world.peers[stuck].window = usize::MAX;
    world.run_until_idle();
    world.send_text(publisher, "fresh");
    world.run_until_idle();
    let (texts, close) = world.received_by(stuck);
    assert_eq!(close, None);
    let notice = texts.iter().find_map(|text| text.strip_prefix(": ")).expect("a notice");
    let missed: usize = notice.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(texts.len() - 1 + missed, 701, "{notice}");
    assert_eq!(texts.last().unwrap(), "s: fresh");
}

#[test]
fn conflate_goes_on_with_the_newest() {
    let (mut world, _, stuck) = with_a_stuck_member(SlowMember::Conflate, 1500, 700);
    world.peers[stuck].window = usize::MAX;
    world.run_until_idle();
    let (texts, close) = world.received_by(stuck);
    let numbers: Vec<usize> = texts.iter().map(|text| text[6..].trim().parse().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 699]);
    assert_eq!(close, None);
}

#[test]
fn the_silent_are_pinged_and_then_closed() {
    let interval = Duration::from_secs(25);
    let mut world = World::new(1, 9, 1000, Options { ping_interval: interval, ..options() });
    let (quiet, dead) = (world.join(0, "quiet", "r", ""), world.join(0, "dead", "r", ""));
    let mut ping_times = Vec::new();
    for _ in 0..300 {
        world.advance(Duration::from_millis(250));
        if world.peers[quiet].received.ends_with(&[0x89, 0]) {
            ping_times.push(world.now);
            world.peers[quiet].received.clear();
            world.send(quiet, &client_frame(0x8A, b""));
        }
    }
    assert!((3..=6).contains(&ping_times.len()), "{ping_times:?}");
    assert_eq!(world.peers[quiet].closed, None);
    assert_eq!(world.received_by(dead).1, Some(1001));
    assert_eq!(world.peers[dead].closed, Some(CloseReason::PingTimeout));
}

#[test]
fn a_head_that_drips_has_an_absolute_deadline() {
    let mut world = World::new(1, 1, 1, options());
    let slow = world.connect(0);
    for byte in request("/ws/a", "").bytes().take(40) {
        world.send(slow, &[byte]);
        world.advance(Duration::from_millis(400));
    }
    assert!(world.text(slow).starts_with("HTTP/1.1 408 "), "{}", world.text(slow));
    assert_eq!(world.peers[slow].closed, Some(CloseReason::RequestTimeout));
}

#[test]
fn above_the_bound_the_answer_is_503() {
    let mut world = World::new(1, 1, 100, Options { connections_max: 2, ..options() });
    let inside = [world.join(0, "a", "r", ""), world.join(0, "b", "r", "")];
    let outside = world.connect(0);
    world.send(outside, request("/ws/c", "").as_bytes());
    world.run_until_idle();
    assert!(world.text(outside).starts_with("HTTP/1.1 503 "));
    assert!(world.text(outside).contains("Retry-After: "));
    world.send(inside[0], &client_frame(0x88, &1000_u16.to_be_bytes()));
    world.run_until_idle();
    assert_eq!(world.peers[inside[0]].closed, Some(CloseReason::ClosedByPeer));
    world.join(0, "d", "r", "");
}

#[test]
fn a_drain_closes_every_connection() {
    let mut world = World::new(2, 1, 1000, options());
    let members: Vec<_> = (0..700).map(|index| world.join(index % 2, "m", "r", "")).collect();
    let idle = world.connect(0);
    for shard in &mut world.shards {
        shard.drain();
    }
    world.run_until_idle();
    assert_eq!(world.peers[idle].closed, Some(CloseReason::Shutdown));
    for &member in &members {
        assert_eq!(world.received_by(member), (Vec::new(), Some(1001)));
        world.send(member, &client_frame(0x88, &1001_u16.to_be_bytes()));
    }
    world.run_until_idle();
    assert!(world.shards.iter().all(Shard::is_drained));
    assert!(world.peers.iter().all(|peer| peer.closed == Some(CloseReason::Shutdown)));
}

#[test]
fn every_request_gets_its_answer() {
    let long = format!("/ws/{}", "n".repeat(65));
    for (request, status) in [
        (request("/ws/a", ""), "101"),
        (request("/ws/a%20b?room=x%2Fy", ""), "101"),
        (request("/ws/", ""), "400"),
        (request(&long, ""), "400"),
        (request("/ws/a%0Ab", ""), "400"),
        (request("/ws/a%ff", ""), "400"),
        (request("/ws/a/b", ""), "404"),
        (request("/nowhere", ""), "404"),
        (request("/ws/a", "Origin: http://evil.example\r\n"), "403"),
        (request("/ws/a", "Origin: http://h\r\n"), "101"),
        (request("/ws/a", "").replace(": 13", ": 7"), "426"),
        (request("/ws/a", "").replace("GET", "POST"), "405"),
        (request("/ws/a", "").replace("Upgrade: websocket\r\n", ""), "426"),
        (request("/ws/a", "Content-Length: 3\r\n"), "400"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".into(), "200"),
        ("HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n".into(), "200"),
        ("DELETE /healthz HTTP/1.1\r\nHost: h\r\n\r\n".into(), "405"),
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(9000)), "414"),
        (request("/", &format!("X: {}\r\n", "a".repeat(9000))), "431"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".into(), "400"),
    ] {
        let mut world = World::new(1, 1, 700, options());
        let peer = world.connect(0);
        world.send(peer, request.as_bytes());
        world.run_until_idle();
        let answer = world.text(peer);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}\n{answer}");
        let refused = !matches!(status, "101" | "200");
        assert_eq!(answer.contains("Connection: close"), refused, "{answer}");
        assert_eq!(world.peers[peer].closed.is_some(), refused, "{request}");
    }
}

#[test]
fn a_joined_member_receives_everything_published_afterwards() {
    // Some of these rooms are at home on the one shard, some on the other.
    for room in ["a", "b", "c", "d", "e", "f"] {
        let mut world = World::new(2, 1, 65_536, options());
        let publishers = [world.join(0, "s", room, ""), world.join(1, "s", room, "")];
        let joiners = [world.connect(0), world.connect(1)];
        for (shard, &joiner) in joiners.iter().enumerate() {
            world.send(joiner, request(&format!("/ws/new?room={room}"), "").as_bytes());
            for _ in 0..3 {
                world.turn_of(shard);
            }
        }
        let answered = joiners.map(|joiner| !world.text(joiner).is_empty());
        for publisher in publishers {
            world.send_text(publisher, "hello");
        }
        world.run_until_idle();
        for (&joiner, answered) in joiners.iter().zip(answered) {
            let received_by = world.text(joiner);
            assert!(received_by.starts_with("HTTP/1.1 101 "), "{received_by}");
            assert!(!answered || received_by.matches("s: hello").count() == 2, "{room}: {received_by}");
        }
    }
}

#[test]
fn frames_behind_the_handshake_are_not_lost() {
    let mut world = World::new(1, 1, 65_536, options());
    let eager = world.connect(0);
    let mut bytes = request("/ws/eager", "Sec-WebSocket-Protocol: soap, chat\r\n").into_bytes();
    bytes.extend(client_frame(0x81, b"first words"));
    world.send(eager, &bytes);
    world.run_until_idle();
    let text = world.text(eager);
    assert!(text.contains("Sec-WebSocket-Protocol: chat\r\n"), "{text}");
    assert!(text.ends_with("eager: first words"), "{text}");
}

#[test]
fn pings_of_a_client_that_does_not_read_cost_one_pong() {
    let mut world = World::new(1, 1, 65_536, options());
    let peer = world.join(0, "a", "r", "");
    world.peers[peer].window = 0;
    for _ in 0..100_000 {
        world.send(peer, &client_frame(0x89, b"0123456789"));
    }
    world.run_until_idle();
    let slot = world.shards[0].conns.get(world.peers[peer].key).unwrap();
    assert!(slot.conn.outbox.len() < 8192, "{} bytes wait", slot.conn.outbox.len());
}
