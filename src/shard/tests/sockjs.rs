//! SockJS on whole shards: the requests of one session on any connection, which goes to its shard.

use super::plain::{answers, audit, content, post};
use super::*;

/// A request without content for a session in room `r`.
fn receive(session: &str, transport: &str, name: &str) -> String {
    let query = format!("?name={name}&room=r&c=cb");
    match transport {
        "xhr" | "xhr_streaming" => post(&format!("/sockjs/000/{session}/{transport}{query}"), "", ""),
        _ => format!("GET /sockjs/000/{session}/{transport}{query} HTTP/1.1\r\nHost: h\r\n\r\n"),
    }
}

/// Sends a request on a new connection of any shard; returns the connection.
fn request_on(world: &mut World, shard: usize, request: &str) -> usize {
    let peer = world.connect(shard);
    world.send(peer, request.as_bytes());
    world.run_until_idle();
    peer
}

/// The messages in a poll's answer; a frame that has none is itself the message.
fn messages_of(frame: &str) -> Vec<String> {
    let frame = frame.trim_end();
    match frame.strip_prefix('a') {
        Some(array) => serde_json::from_str(array).expect(frame),
        None => vec![frame.to_owned()],
    }
}

fn poll(world: &mut World, shard: usize, session: &str) -> Vec<String> {
    let peer = request_on(world, shard, &receive(session, "xhr", "ann"));
    let answers = answers(&world.peers[peer].received);
    let (status, _, body) = &answers[0];
    assert_eq!(*status, 200);
    messages_of(body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Nothing is lost between two answers, whatever the transport, and on whichever shard a request arrives.
    #[test]
    fn sessions_receive_what_websockets_do(seed: u64, shards in 1usize..4, piece in prop_oneof![1u64..9, 10u64..5000]) {
        let mut world = World::new(shards, seed, piece, options());
        let member = world.join(0, "m", "r", "");
        let transports = ["xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp"];
        let mut open: Vec<usize> = Vec::new();
        for (index, transport) in transports.iter().enumerate() {
            open.push(request_on(&mut world, index % shards, &receive(&format!("s{index}"), transport, "ann")));
        }
        let sender = world.connect(shards - 1);
        let mut got: Vec<Vec<String>> = vec![Vec::new(); 5];
        for number in 0..40 {
            let fill = "lorem %41</script> ".repeat(usize::try_from(world.rng.below(20)).unwrap());
            if number % 2 == 0 {
                world.send_text(member, &format!("{number} {fill}"));
            } else {
                let array = serde_json::json!([format!("{number} {fill}")]).to_string();
                world.send(sender, post("/sockjs/1/s0/xhr_send", "", &array).as_bytes());
                world.run_until_idle();
            }
            for _ in 0..world.rng.below(4) {
                world.turn();
            }
            // A poll that is answered is followed by the next one, mostly.
            for (index, transport) in transports.iter().enumerate().filter(|(_, it)| matches!(**it, "xhr" | "jsonp")) {
                if let Some((.., body)) = answers(&world.peers[open[index]].received).first().cloned()
                    && world.rng.below(2) == 0
                {
                    got[index].push(body);
                    let shard = usize::try_from(world.rng.below(shards as u64)).unwrap();
                    open[index] = request_on(&mut world, shard, &receive(&format!("s{index}"), transport, "ann"));
                }
            }
        }
        world.run_until_idle();
        let expected = world.received_by(member).0;
        prop_assert_eq!(expected.len(), 40);
        for (index, transport) in transports.iter().enumerate() {
            let mut frames: Vec<String> = std::mem::take(&mut got[index]);
            if matches!(*transport, "xhr" | "jsonp") {
                while let Some((.., body)) = answers(&world.peers[open[index]].received).first().cloned() {
                    frames.push(body);
                    open[index] = request_on(&mut world, 0, &receive(&format!("s{index}"), transport, "ann"));
                }
            } else {
                frames.push(content(&world, open[index]));
            }
            let unquoted = |text: &str| serde_json::from_str::<String>(text).expect(text);
            let frames: Vec<String> = frames.iter().flat_map(|body| -> Vec<String> {
                match *transport {
                    "xhr" => vec![body.trim_end().to_owned()],
                    "jsonp" => vec![unquoted(body.strip_prefix("/**/cb(").unwrap().strip_suffix(");\r\n").unwrap())],
                    "xhr_streaming" => body.lines().skip(1).map(str::to_owned).collect(),
                    "eventsource" => body.lines().filter_map(|line| line.strip_prefix("data: ")).map(|it| it.replace("%25", "%")).collect(),
                    _ => body.lines().filter_map(|line| line.strip_prefix("p(")?.strip_suffix(");")).map(unquoted).collect(),
                }
            }).collect();
            prop_assert_eq!(frames.first().map(String::as_str), Some("o"), "{}", transport);
            let texts: Vec<String> = frames[1..].iter().flat_map(|frame| messages_of(frame)).collect();
            prop_assert_eq!(&texts, &expected, "{}", transport);
        }
        audit(&world);
        prop_assert!(answers(&world.peers[sender].received).iter().all(|(status, ..)| *status == 204));
    }
}

#[test]
fn a_session_lives_five_seconds_without_a_request() {
    let mut world = World::new(2, 1, 5000, options());
    assert_eq!(poll(&mut world, 0, "s"), ["o"]);
    let member = world.join(1, "m", "r", "");
    world.advance(Duration::from_millis(4900));
    world.send_text(member, "kept");
    world.run_until_idle();
    assert_eq!(poll(&mut world, 1, "s"), ["m: kept"]);
    world.send_text(member, "lost");
    world.advance(Duration::from_millis(5100));
    assert_eq!(poll(&mut world, 0, "s"), ["o"], "another session");
    let held: usize = world.shards.iter().map(|shard| shard.audit().outlets).sum();
    assert_eq!(held, 1);
    world.advance(Duration::from_millis(5100));
    let (held, members): (usize, u64) = world.shards.iter().fold((0, 0), |(held, members), it| {
        (held + it.audit().outlets, members + it.metrics.members.value())
    });
    assert_eq!((held, members), (0, 1));
}

#[test]
fn one_request_receives_at_a_time() {
    let mut world = World::new(2, 1, 5000, options());
    let first = request_on(&mut world, 0, &receive("s", "xhr_streaming", "ann"));
    let second = request_on(&mut world, 1, &receive("s", "xhr", "ann"));
    world.advance(Duration::from_millis(50));
    let busy = "c[2010,\"Another connection still open\"]\n";
    assert_eq!(answers(&world.peers[second].received)[0].2, busy);
    // The first one is aborted: the next one gets that, even if it was there before.
    let third = request_on(&mut world, 1, &receive("s", "xhr", "ann"));
    world.peers[first].shut = true;
    world.run_until_idle();
    let interrupted = "c[1002,\"Connection interrupted\"]\n";
    assert_eq!(answers(&world.peers[third].received)[0].2, interrupted);
    assert_eq!(poll(&mut world, 0, "s"), [interrupted.trim_end()]);
    let lost = world.shards.iter().map(|shard| shard.metrics.members.value()).sum::<u64>();
    assert_eq!(lost, 0, "its session has ended");
}

#[test]
fn a_silent_session_is_shown_to_be_alive() {
    let mut world = World::new(1, 1, 5000, Options { ping_interval: Duration::from_secs(10), ..options() });
    assert_eq!(poll(&mut world, 0, "s"), ["o"]);
    let waiting = request_on(&mut world, 0, &receive("s", "xhr", "ann"));
    let stream = request_on(&mut world, 0, &receive("t", "xhr_streaming", "ann"));
    world.advance(Duration::from_millis(10_100));
    assert_eq!(answers(&world.peers[waiting].received)[0].2, "h\n");
    assert!(content(&world, stream).ends_with("\no\nh\n"));
}

/// What a client may not do is announced on its session, where it can read it.
#[test]
fn refusals_end_the_session() {
    let mut world = World::new(2, 1, 5000, options());
    let bad_name = post("/sockjs/0/x/xhr?name=%00&room=r", "", "");
    for expected in ["o\n", "c[4400,\""] {
        let peer = request_on(&mut world, 0, &bad_name);
        let body = &answers(&world.peers[peer].received)[0].2;
        assert!(body.starts_with(expected), "{body}");
    }
    let send = post("/sockjs/0/x/xhr_send", "", "[\"hi\"]");
    let peer = request_on(&mut world, 1, &send);
    assert_eq!(answers(&world.peers[peer].received)[0].0, 404);
}

/// A member for which nobody receives, or whose client does not read, costs no more than the room's log.
#[test]
fn a_session_that_receives_nothing_meets_the_rooms_policy() {
    for policy in [SlowMember::Disconnect, SlowMember::Skip, SlowMember::Conflate] {
        let rules = rooms(RoomOptions { slow_member: policy, ..RoomOptions::default() });
        let options = Options { rooms: rules, room_log_bytes_max: 64 * 1024, ..options() };
        let mut world = World::new(1, 1, 1 << 20, options);
        let stuck = world.connect(0);
        world.send(stuck, receive("s", "xhr_streaming", "ann").as_bytes());
        world.run_until_idle();
        world.peers[stuck].window = 0;
        let member = world.join(0, "m", "r", "");
        for number in 0..200 {
            world.send_text(member, &format!("{number} {}", "x".repeat(4000)));
            world.run_until_idle();
        }
        assert!(world.shards[0].audit().log_bytes < 300 * 1024, "{policy:?}");
        world.peers[stuck].window = usize::MAX;
        world.run_until_idle();
        let content = content(&world, stuck);
        match policy {
            SlowMember::Disconnect => {
                assert!(content.ends_with("c[3013,\"this connection reads too slowly for the room\"]\n"))
            }
            SlowMember::Skip => assert!(content.contains("messages were skipped")),
            SlowMember::Conflate => {
                // The answer was long enough: the newest message is in the next one.
                assert!(content.len() > 128 * 1024);
                let rest = poll(&mut world, 0, "s");
                assert!(rest.last().unwrap().starts_with("m: 199 "), "{rest:?}");
            }
        }
        audit(&world);
    }
}

#[test]
fn a_drain_ends_every_session() {
    let mut world = World::new(2, 1, 5000, options());
    let stream = request_on(&mut world, 0, &receive("s", "eventsource", "ann"));
    let waiting = request_on(&mut world, 1, &receive("t", "xhr", "ann"));
    let waiting_again = request_on(&mut world, 1, &receive("t", "xhr", "ann"));
    assert_eq!(answers(&world.peers[waiting].received)[0].2, "o\n");
    for shard in &mut world.shards {
        shard.drain();
    }
    world.run_until_idle();
    let end = "c[3001,\"server is going away\"]";
    assert!(content(&world, stream).ends_with(&format!("data: {end}\r\n\r\n")));
    assert_eq!(answers(&world.peers[waiting_again].received)[0].2, format!("{end}\n"));
    world.advance(Duration::from_secs(6));
    assert!(world.shards.iter().all(|shard| shard.is_drained() && shard.audit().outlets == 0));
}
