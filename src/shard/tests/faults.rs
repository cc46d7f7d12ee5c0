//! Regressions: what one client did to others, or to the server, once.

use super::*;
use crate::chat::{Access, AuthDecision, AuthMode, Grant, Identity, ServerRoom};
use crate::conn::LINGER_BYTES_MAX;
use crate::ws::{Deflater, Window};

fn with_hook() -> Options {
    Options { auth_mode: AuthMode::Hook, ..options() }
}

fn welcome(name: &str, rooms: &[&str]) -> AuthDecision {
    let room = |name: &&str| ServerRoom { name: Arc::from(*name), grant: Grant::default() };
    let identity = Identity {
        user: name.into(),
        name: name.into(),
        info: None,
        expires_in: None,
        rooms: rooms.iter().map(room).collect(),
    };
    AuthDecision::Accept { identity, data: None }
}

impl World {
    /// The auth backend decides about the next client of a shard.
    fn decide(&mut self, shard: usize, decision: AuthDecision) {
        let auth_request = self.shards[shard].poll_auth_request().expect("an auth request");
        self.shards[shard].begin_turn(self.now);
        self.shards[shard].decided(auth_request.session, decision);
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// What is behind the answer to its handshake.
    fn behind_head(&mut self, peer: usize) {
        let received = &mut self.peers[peer].received;
        let head = stentor_testkit::parse_response(received).expect("an answer").len;
        received.drain(..head);
    }

    /// A client of the JSON protocol that has sent `connect`.
    fn connect_json(&mut self, shard: usize, name: &str) -> usize {
        let peer = self.connect(shard);
        self.send(peer, request("/connection/websocket", "").as_bytes());
        self.send_text(peer, &format!("{{\"id\":1,\"connect\":{{\"data\":{{\"name\":\"{name}\"}}}}}}"));
        self.turns(30);
        peer
    }

    /// A room whose home is that shard.
    fn room_of(&self, shard: usize, prefix: &str) -> String {
        let mut rooms = (0..).map(|number| format!("{prefix}{number}"));
        rooms.find(|room| self.shards[0].mesh.home(room) == shard).expect("one of many")
    }

    fn writes(&self, shard: usize) -> u64 {
        self.shards[shard].metrics.writes.value()
    }
}

/// The server puts a client into two rooms; one answers at once, the other's home takes its time.
#[test]
fn nothing_is_pushed_before_connect_is_answered() {
    let mut world = World::new(2, 3, 65_536, with_hook());
    let (near, far) = (world.room_of(0, "near"), world.room_of(1, "far"));
    let publisher = world.connect(0);
    world.send(publisher, request(&format!("/ws/s?room={near}"), "").as_bytes());
    world.turns(30);
    world.decide(0, welcome("s", &[]));
    let client = world.connect(0);
    // The answer to its handshake is still in flight.
    world.peers[client].window = 0;
    world.send(client, request("/connection/websocket", "").as_bytes());
    world.send_text(client, "{\"id\":1,\"connect\":{}}");
    world.turns(30);
    world.decide(0, welcome("c", &[&near, &far]));
    for text in ["one", "two"] {
        world.send_text(publisher, text);
        for _ in 0..3 {
            world.turn_of(0);
        }
    }
    world.peers[client].window = usize::MAX;
    for _ in 0..3 {
        world.turn_of(0);
    }
    let early = world.text(client);
    assert!(early.contains("101 Switching"), "{early:?}");
    assert!(!early.contains("push"), "{early:?}");
    world.run_until_idle();
    let all = world.text(client);
    let (connect, push) = (all.find("\"connect\"").unwrap(), all.find("\"push\"").unwrap());
    assert!(connect < push, "{all}");
    assert_eq!(all.matches("\"pub\"").count(), 2, "{all}");
}

/// What waits is kept as it came, and nothing looks at it until its time has come.
#[test]
fn a_deflate_bomb_that_must_wait_is_kept_as_it_came_and_inflated_once() {
    let mut world = World::new(1, 3, 65_536, with_hook());
    let client = world.connect(0);
    let mut deflater = Deflater::default();
    let bomb = client_frame(0xC1, deflater.deflate(Window::Full, &[&[b'x'; 60_000]]));
    world.send(client, request("/ws/bomber?room=r", DEFLATE).as_bytes());
    for _ in 0..300 {
        world.send(client, &bomb);
    }
    world.turns(30);
    let auth_request = world.shards[0].poll_auth_request().expect("an auth request");
    let kept = world.shards[0].audit().input_bytes;
    assert!(kept <= 2 * 65_536, "{kept} bytes are kept of 64 KiB at a time");
    for _ in 0..10 {
        world.advance(Duration::from_millis(100));
        assert!(!world.shards[0].has_work(), "nothing is tried again");
    }
    world.shards[0].begin_turn(world.now);
    world.shards[0].decided(auth_request.session, welcome("bomber", &[]));
    world.run_until_idle();
    world.behind_head(client);
    let received_by = world.received_by(client).0;
    assert_eq!((received_by.len(), received_by[299].len()), (300, 60_008));
}

/// After the server's Close, input is inflated within the budget of a turn, too.
#[test]
fn what_comes_after_our_close_is_inflated_within_the_turns_budget() {
    let mut world = World::new(1, 3, 65_536, options());
    let client = world.connect(0);
    world.send(client, request("/ws/bomber?room=r", DEFLATE).as_bytes());
    world.run_until_idle();
    world.shards[0].drain();
    let mut deflater = Deflater::default();
    let bomb = client_frame(0xC1, deflater.deflate(Window::Full, &[&[b'x'; 60_000]]));
    for _ in 0..100 {
        world.send(client, &bomb);
    }
    world.send(client, &client_frame(0x88, &1001_u16.to_be_bytes()));
    let (mut turns, begun) = (0, world.now);
    while world.peers[client].closed.is_none() {
        turns += 1;
        assert!(turns < 100, "it ends when the peer's Close is found");
        world.turns(1);
    }
    assert_eq!(world.now, begun, "not by its time-out");
    assert!(turns >= 6, "6 MB were inflated in {turns} turns");
}

/// A client that does not read costs its shard nothing.
#[test]
fn a_paused_client_gives_its_shard_nothing_to_do() {
    let mut world = World::new(2, 3, 65_536, options());
    let client = world.connect(0);
    world.send(client, request("/echo", "").as_bytes());
    world.run_until_idle();
    world.peers[client].window = 10_000;
    for _ in 0..40 {
        world.send(client, &client_frame(0x82, &[b'x'; 8000]));
    }
    world.run_until_idle();
    assert!(world.peers[client].paused, "it is no longer read from");
    assert!(!world.shards[0].has_work());
    assert_eq!(world.shards[0].next_deadline(), None);
    world.peers[client].window = usize::MAX;
    world.run_until_idle();
    world.behind_head(client);
    assert_eq!(frames(&world.peers[client].received).count(), 40);
}

/// All are pinged in one moment: the sweep has its turn all the same.
#[test]
fn writes_of_connections_own_have_a_budget() {
    let interval = Duration::from_secs(20);
    let mut world = World::new(1, 3, 65_536, Options { ping_interval: interval, ..options() });
    for _ in 0..5000 {
        let member = world.connect(0);
        world.send(member, request("/ws/m?room=large", "").as_bytes());
    }
    world.run_until_idle();
    world.advance(interval / 2 - Duration::from_millis(1));
    // These two are pinged later than nearly all others.
    let publisher = world.join(0, "publisher", "talk", "");
    let listener = world.join(0, "listener", "talk", "");
    world.now = world.now + (interval / 2 - Duration::from_millis(100));
    world.send_text(publisher, "in between");
    let (mut turns, mut received_in) = (0, None);
    loop {
        let before = world.writes(0);
        let moved = world.turn_of(0);
        turns += 1;
        let writes = world.writes(0) - before;
        assert!(writes <= (output::FLUSHES_PER_TURN + fanout::SLICE_WRITES) as u64, "{writes} in one turn");
        if received_in.is_none() && world.text(listener).contains("in between") {
            received_in = Some(turns);
        }
        if !moved {
            break;
        }
    }
    assert!(turns > 4, "{turns}");
    assert!(received_in.is_some_and(|turn| turn <= 2), "received in turn {received_in:?} of {turns}");
}

/// The shard of a room's members has no time. Publishers of that room are paused, members or not, and no
/// other client is.
#[test]
fn a_congested_room_pauses_its_publishers_only() {
    let anyone = RoomOptions { publish: Access::Anyone, ..RoomOptions::default() };
    let mut world = World::new(2, 3, 65_536, Options { rooms: rooms(anyone), ..options() });
    let (slow, other) = (world.room_of(0, "slow"), world.room_of(0, "other"));
    let member = world.join(1, "member", &slow, "");
    let listener = world.join(0, "listener", &other, "");
    let publisher = world.join(0, "publisher", &other, "");
    let inside = world.join(0, "inside", &slow, "");
    let outside = world.connect_json(0, "outside");
    let text = "x".repeat(1000);
    for _ in 0..3000 {
        world.send_text(inside, &text);
        world.send_text(
            outside,
            &format!("{{\"id\":9,\"publish\":{{\"channel\":\"{slow}\",\"data\":\"{text}\"}}}}"),
        );
    }
    for round in 0..300 {
        world.send_text(publisher, &format!("round {round}"));
        for _ in 0..3 {
            world.turn_of(0); // and never the other's turn
        }
        assert_eq!(world.received_by(listener).0.len(), round + 1, "no other room is delayed");
        let shard = &world.shards[0];
        assert!(shard.mesh.is_clear(), "the ring has room");
        let parked = shard.rooms.parked().1;
        assert!(parked < 2 * 65_536 + 65_536, "{parked} bytes wait");
        assert!(shard.audit().input_bytes <= 3 * 65_536);
    }
    for peer in [inside, outside] {
        assert!(world.peers[peer].sending.len() > 1_000_000, "its bytes stay in the kernel");
    }
    assert!(world.shards[0].metrics.delayed.value() > 0);
    world.run_until_idle();
    assert_eq!(world.received_by(member).0.len(), 6000, "and nothing is lost");
}

/// A session in many rooms that publishes much in one message: what waits of it is one message's.
#[test]
fn parked_drafts_of_a_session_are_those_of_one_message() {
    let anyone = RoomOptions { publish: Access::Anyone, ..RoomOptions::default() };
    let mut world = World::new(2, 3, 65_536, Options { rooms: rooms(anyone), ..options() });
    let slow = world.room_of(0, "slow");
    let _member = world.join(1, "member", &slow, "");
    let client = world.connect_json(0, "outside");
    let command = |id: usize, len: usize| {
        format!("{{\"id\":{id},\"publish\":{{\"channel\":\"{slow}\",\"data\":\"{}\"}}}}", "x".repeat(len))
    };
    for id in 0..40 {
        let small: Vec<_> = (1..10).map(|more| command(id * 100 + more, 5000)).collect();
        world.send_text(client, &small.join("\n"));
        world.send_text(client, &command(id * 100 + 50, 60_000));
    }
    for _ in 0..300 {
        world.turn_of(0);
        let parked = world.shards[0].rooms.parked().1;
        assert!(parked < 64 * 1024, "{parked} bytes wait");
    }
    world.run_until_idle();
    let replies = world.text(client).matches("\"publish\":{}").count();
    assert_eq!(replies, 400);
}

/// A command about a room that is being entered waits for that room's home, and not by trying again and
/// again.
#[test]
fn a_command_that_waits_for_a_room_gives_its_shard_nothing_to_do() {
    let options = Options { session_commands_per_second_max: 5, ..options() };
    let mut world = World::new(2, 3, 65_536, options);
    let far = world.room_of(1, "far");
    let client = world.connect_json(0, "c");
    let lines = format!(
        "{{\"id\":2,\"subscribe\":{{\"channel\":\"{far}\"}}}}\n{{\"id\":3,\"unsubscribe\":{{\"channel\":\"{far}\"}}}}\n\
         {{\"id\":4,\"subscribe\":{{\"channel\":\"{far}\"}}}}"
    );
    world.send_text(client, &lines);
    for _ in 0..100 {
        world.turn_of(0);
    }
    assert!(!world.shards[0].has_work());
    world.run_until_idle();
    let text = world.text(client);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
    assert!(at("\"id\":2,\"subscribe\"") < at("\"id\":3,\"unsubscribe\""));
    assert!(at("\"id\":3,\"unsubscribe\"") < at("\"id\":4,\"subscribe\""));
}

/// What is discarded after the Close frame is bounded.
#[test]
fn a_lingering_connection_is_reset_after_a_number_of_bytes() {
    let mut world = World::new(1, 3, 65_536, options());
    let peer = world.connect(0);
    world.peers[peer].window = 0; // so that it never gets to end politely
    world.send(peer, &vec![b'a'; 64 << 20]);
    world.run_until_idle();
    assert_eq!(world.peers[peer].closed, Some(CloseReason::RequestRejected));
    let taken = (64 << 20) - world.peers[peer].sending.len();
    assert!(taken <= LINGER_BYTES_MAX as usize + 3 * 65_536, "{taken} bytes were read");
}

/// The messages of a connection to `/echo`, with requests before them, as bytes.
fn conversation(messages: &[(u8, usize)]) -> Vec<u8> {
    let mut deflater = Deflater::default();
    let health = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut bytes = [health, health, &request("/echo", DEFLATE)].concat().into_bytes();
    for (index, &(kind, len)) in messages.iter().enumerate() {
        let text = format!("{index} ").repeat(len);
        let half = text.len() / 2;
        match kind {
            0 => bytes.extend(client_frame(0x81, text.as_bytes())),
            1 => bytes.extend(client_frame(0x82, text.as_bytes())),
            2 => bytes.extend(client_frame(0xC1, deflater.deflate(Window::Full, &[text.as_bytes()]))),
            3 => {
                bytes.extend(client_frame(0x01, &text.as_bytes()[..half]));
                bytes.extend(client_frame(0x89, b"between"));
                bytes.extend(client_frame(0x80, &text.as_bytes()[half..]));
            }
            _ => {
                let packed = deflater.deflate(Window::Full, &[text.as_bytes()]).to_vec();
                let half = packed.len() / 2;
                bytes.extend(client_frame(0x41, &packed[..half]));
                bytes.extend(client_frame(0x80, &packed[half..]));
            }
        }
    }
    bytes
}

/// The answers to the requests, and the messages behind them.
fn echoes(received: &[u8]) -> (String, Vec<Vec<u8>>) {
    let end = received.windows(4).rposition(|window| window == b"\r\n\r\n");
    let upgraded = received.windows(12).position(|window| window == b"HTTP/1.1 101").unwrap();
    let end = received[upgraded..].windows(4).position(|window| window == b"\r\n\r\n").or(end).unwrap()
        + upgraded
        + 4;
    let mut inflater = Inflater::default();
    let data = frames(&received[end..]).filter(|frame| matches!(frame.opcode, 1 | 2));
    let payload = |frame: stentor_testkit::Frame<'_>| {
        if frame.compressed {
            inflater.inflate(frame.payload, 1 << 20).unwrap().to_vec()
        } else {
            frame.payload.to_vec()
        }
    };
    let echoes = data.map(payload).collect();
    (String::from_utf8_lossy(&received[..end]).into_owned(), echoes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However the input is split, and however often it has to wait, the same requests and messages come of
    /// it.
    #[test]
    fn any_split_and_any_wait_gives_the_same_messages(
        seed: u64, messages in prop::collection::vec((0..5_u8, 0..6000_usize), 1..40), piece in prop_oneof![1u64..30, 100u64..40_000],
    ) {
        let bytes = conversation(&messages);
        let mut plain = World::new(1, seed, 1 << 20, options());
        let whole = plain.connect(0);
        plain.send(whole, &bytes);
        plain.run_until_idle();
        let mut world = World::new(1, seed, piece, options());
        let partial = world.connect(0);
        world.send(partial, &bytes);
        for _ in 0..200 {
            let window = world.rng.below(20_000);
            world.peers[partial].window = usize::try_from(window).unwrap();
            for _ in 0..world.rng.below(20) {
                world.turn();
            }
            let audit = world.shards[0].audit();
            prop_assert!(audit.outbox_bytes < 2 * 65_536 + 65_536, "{audit:?}");
        }
        world.peers[partial].window = usize::MAX;
        world.run_until_idle();
        let (answers, echoed) = echoes(&world.peers[partial].received);
        let (answers_whole, echoed_whole) = echoes(&plain.peers[whole].received);
        prop_assert_eq!(answers.lines().filter(|it| !it.starts_with("Date")).count(), answers_whole.lines().count());
        prop_assert_eq!(echoed.len(), messages.len());
        prop_assert_eq!(echoed, echoed_whole);
    }

    /// A plain client that sends before it is authenticated.
    #[test]
    fn queued_input_is_processed_in_order_and_once(seed: u64, piece in 1u64..3000, turns in 0..300_usize) {
        let mut world = World::new(2, seed, piece, with_hook());
        let client = world.connect(0);
        world.send(client, request("/ws/c?room=r", DEFLATE).as_bytes());
        let mut deflater = Deflater::default();
        let texts: Vec<_> = (0..30).map(|index| format!("{index} ").repeat(index * 20)).collect();
        for (index, text) in texts.iter().enumerate() {
            match index % 3 {
                0 => world.send_text(client, text),
                1 => world.send(client, &client_frame(0xC1, deflater.deflate(Window::Full, &[text.as_bytes()]))),
                _ => {
                    world.send(client, &client_frame(0x01, b""));
                    world.send(client, &client_frame(0x80, text.as_bytes()));
                }
            }
        }
        world.turn();
        for _ in 0..turns {
            world.turn();
        }
        while world.shards[0].auth_requests.is_empty() {
            world.turn();
        }
        world.decide(0, welcome("c", &[]));
        world.run_until_idle();
        world.behind_head(client);
        let received_by = world.received_by(client).0;
        let expected: Vec<_> = texts.iter().map(|text| format!("c: {text}")).collect();
        prop_assert_eq!(received_by, expected);
    }
}

/// A stalled backend does no work for clients that are gone.
#[test]
fn an_auth_request_of_a_closed_connection_is_cancelled() {
    let mut world = World::new(1, 3, 65_536, with_hook());
    let clients = [world.connect(0), world.connect(0)];
    world.send(clients[0], request("/ws/a?room=r", "").as_bytes());
    world.send(clients[1], request("/connection/websocket", "").as_bytes());
    world.send_text(clients[1], "{\"id\":1,\"connect\":{}}");
    world.turns(30);
    let keys: Vec<_> = world.shards[0].sessions.keys().collect();
    let with_hook = world.shards[0].poll_auth_request().expect("one of two").session;
    for client in clients {
        world.peers[client].shut = true;
    }
    world.turns(30);
    world.advance(Duration::from_secs(30));
    assert!(world.peers.iter().all(|peer| peer.closed.is_some()) && keys.contains(&with_hook));
    assert_eq!(world.cancelled, [with_hook], "the driver has this one's auth request");
    assert!(world.shards[0].poll_auth_request().is_none(), "and is not given the other's");
}
