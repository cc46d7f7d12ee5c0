//! The plain protocol over HTTP on whole shards: streams and polls receive what WebSockets do, in any pieces
//! and through sockets that fill up.

use super::*;
use crate::http::{BodyReader, Framing};

/// A request without content.
fn get(target: &str, version: u8) -> String {
    format!("GET {target} HTTP/1.{version}\r\nHost: h\r\n\r\n")
}

pub(super) fn post(target: &str, lines: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A member with a stream, whose answer has begun.
fn stream(world: &mut World, shard: usize, target: &str, version: u8) -> usize {
    let peer = world.connect(shard);
    world.send(peer, get(target, version).as_bytes());
    world.run_until_idle();
    assert!(world.text(peer).starts_with("HTTP/1.1 200 OK\r\n"), "{}", world.text(peer));
    peer
}

/// The content of the answer that a peer has got so far.
pub(super) fn content(world: &World, peer: usize) -> String {
    let received = &world.peers[peer].received;
    let head = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let is_chunked = String::from_utf8_lossy(&received[..head]).contains("Transfer-Encoding: chunked\r\n");
    if !is_chunked {
        return String::from_utf8(received[head..].to_vec()).unwrap();
    }
    let mut reader = BodyReader::new(Framing::Chunked, usize::MAX).unwrap();
    reader.read(&received[head..]).expect("chunks");
    String::from_utf8(reader.into_bytes()).unwrap()
}

/// `name: text` of every publication in a stream, and their offsets.
fn messages(content: &str) -> (Vec<String>, Vec<u64>) {
    let (mut texts, mut offsets) = (Vec::new(), Vec::new());
    let offset = |position: &str| position.rsplit(':').next().unwrap().parse::<u64>().unwrap();
    let mut id = 0;
    for line in content.lines() {
        if let Some(position) = line.strip_prefix("id: ") {
            id = offset(position);
            continue;
        }
        let line = line.strip_prefix("data: ").unwrap_or(line);
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let Some(text) = value["text"].as_str() {
            texts.push(format!("{}: {text}", value["name"].as_str().unwrap()));
            offsets.push(value["position"].as_str().map_or(id, offset));
        }
    }
    (texts, offsets)
}

/// Checks every shard from inside.
pub(super) fn audit(world: &World) {
    for shard in &world.shards {
        let _ = shard.audit();
    }
}

/// The answers that a peer has got, each with its status, its head and its content.
pub(super) fn answers(received: &[u8]) -> Vec<(u16, String, String)> {
    let (mut answers, mut rest) = (Vec::new(), String::from_utf8(received.to_vec()).unwrap());
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
        let Some(body) = after.get(..length) else { break };
        answers.push((head[9..12].parse().unwrap(), head.to_owned(), body.to_owned()));
        rest = after[length..].to_owned();
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn streams_receive_what_websockets_do(seed: u64, shards in 1usize..4, piece in prop_oneof![1u64..9, 10u64..5000]) {
        let mut world = World::new(shards, seed, piece, options());
        let member = world.join(0, "m", "r", "");
        let targets = [("/sse/s?room=r", 1), ("/stream/s?room=r", 1), ("/sse/s?room=r", 0), ("/stream/s?room=r", 0)];
        let streams: Vec<_> = (0..8)
            .map(|index| stream(&mut world, index % shards, targets[index % 4].0, targets[index % 4].1))
            .collect();
        let publisher = world.connect(shards - 1);
        for number in 0..60 {
            let fill = "lorem\nipsum ".repeat(usize::try_from(world.rng.below(40)).unwrap());
            if number % 2 == 0 {
                world.send_text(member, &format!("{number} {fill}"));
            } else {
                world.send(publisher, post("/send/p?room=r", "", &format!("{number} {fill}")).as_bytes());
            }
            let narrow = streams[usize::try_from(world.rng.below(8)).unwrap()];
            world.peers[narrow].window = usize::try_from(world.rng.below(400)).unwrap();
            for _ in 0..world.rng.below(4) {
                world.turn();
            }
        }
        for &peer in &streams {
            world.peers[peer].window = usize::MAX;
        }
        world.run_until_idle();
        audit(&world);
        // A plain WebSocket's message is one line.
        let expected: Vec<_> = world.received_by(member).0.iter().map(|line| line.replace('␤', "\n")).collect();
        prop_assert_eq!(expected.len(), 60);
        for &peer in &streams {
            let (texts, offsets) = messages(&content(&world, peer));
            prop_assert_eq!(&texts, &expected);
            prop_assert_eq!(offsets, (1..=60).collect::<Vec<_>>());
        }
        let answers = answers(&world.peers[publisher].received);
        prop_assert_eq!(answers.iter().filter(|(status, ..)| *status == 204).count(), 30);
    }

    /// Each poll is another connection on another shard; some are cut before their answers.
    #[test]
    fn polls_receive_everything_once(seed: u64, shards in 1usize..4, piece in prop_oneof![1u64..9, 10u64..5000]) {
        let mut world = World::new(shards, seed, piece, options());
        let member = world.join(0, "m", "r", "");
        world.send_text(member, "0");
        world.run_until_idle();
        let (mut since, mut received) = (String::new(), Vec::new());
        let (mut published, mut polls) = (1, 0);
        while received.len() < 40 {
            polls += 1;
            prop_assert!(polls < 500, "it goes on");
            let shard = usize::try_from(world.rng.below(shards as u64)).unwrap();
            let poller = world.connect(shard);
            let from = if since.is_empty() { "history=99".to_owned() } else { format!("since={since}") };
            world.send(poller, get(&format!("/poll/p?room=r&session=mine&{from}"), 1).as_bytes());
            for _ in 0..world.rng.below(9) {
                world.turn();
            }
            for _ in 0..world.rng.below(4) {
                if published < 40 {
                    world.send_text(member, &published.to_string());
                    published += 1;
                }
                world.turn();
            }
            if world.rng.below(4) == 0 {
                world.peers[poller].shut = true; // the client is gone, and tries again
                world.run_until_idle();
                prop_assert!(world.peers[poller].closed.is_some());
                continue;
            }
            world.run_until_idle();
            if answers(&world.peers[poller].received).is_empty() {
                world.advance(Duration::from_secs(26));
            }
            let answers = answers(&world.peers[poller].received);
            prop_assert_eq!(answers.len(), 1);
            let (status, head, body) = &answers[0];
            let at = head.lines().find_map(|line| line.strip_prefix("Stentor-Position: ")).unwrap();
            if *status == 200 {
                let batch: serde_json::Value = serde_json::from_str(body).unwrap();
                prop_assert_eq!(batch["position"].as_str(), Some(at));
                prop_assert!(batch["gap"].is_null());
                for message in batch["messages"].as_array().unwrap() {
                    received.push(message["text"].as_str().unwrap().parse::<u32>().unwrap());
                }
            } else {
                prop_assert_eq!(*status, 204);
            }
            since = at.to_owned();
            world.peers[poller].shut = true;
        }
        prop_assert_eq!(received, (0..40).collect::<Vec<_>>());
        world.run_until_idle();
        let waiting: u64 = world.shards.iter().map(|shard| shard.metrics.waiting_requests.value()).sum();
        prop_assert_eq!(waiting, 0);
        audit(&world);
    }

    /// Requests of all kinds, whole or cut, in any pieces: each complete one has one answer, in its order.
    #[test]
    fn requests_are_answered_in_their_order(seed: u64, shards in 1usize..4, piece in prop_oneof![1u64..9, 10u64..5000], kinds in prop::collection::vec(0u8..6, 1..60)) {
        let mut world = World::new(shards, seed, piece, options());
        let client = world.connect(0);
        let (mut all, mut expected) = (String::new(), Vec::new());
        for (index, kind) in kinds.iter().enumerate() {
            let room = index % 7;
            let (request, status) = match kind {
                0 => (get("/healthz", 1), 200),
                1 => (post(&format!("/send/a?room=r{room}"), "Content-Type: application/json\r\n", "{"), 400),
                2 => (format!("POST /send/b?room=r{room} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), 204),
                3 => (get("/send/a", 1), 405),
                4 => (get(&format!("/poll/a?room=r{room}&since=x:1"), 1), 200),
                _ => (post(&format!("/send/a?room=r{room}"), "Accept: application/json\r\n", "hi"), 200),
            };
            all += &request;
            expected.push(status);
        }
        world.send(client, all.as_bytes());
        world.run_until_idle();
        let statuses: Vec<_> = answers(&world.peers[client].received).iter().map(|it| it.0).collect();
        prop_assert_eq!(statuses, expected);
        audit(&world);
    }
}

#[test]
fn a_poll_that_nobody_reads_costs_what_it_is() {
    let mut world = World::new(1, 1, 65_536, options());
    let member = world.join(0, "m", "r", "");
    let poller = world.connect(0);
    world.send(poller, get("/poll/p?room=r", 1).as_bytes());
    world.run_until_idle();
    world.peers[poller].window = 0;
    for number in 0..1000 {
        world.send_text(member, &format!("{number:>1000}"));
    }
    world.run_until_idle();
    let audit = world.shards[0].audit();
    assert!(audit.outbox_bytes < 64 * 1024, "{audit:?}");
    assert_eq!(world.shards[0].metrics.members.value(), 1, "it is answered, and waits for nothing more");
}

#[test]
fn a_stream_that_is_not_read_is_ended_by_its_rooms_policy() {
    let mut world = World::new(1, 3, 65_536, Options { room_log_bytes_max: 128 * 1024, ..options() });
    let member = world.join(0, "m", "r", "");
    let slow = stream(&mut world, 0, "/sse/slow?room=r", 1);
    world.peers[slow].window = 1500;
    for number in 0..400 {
        world.send_text(member, &format!("{number:>1000}"));
        world.run_until_idle();
    }
    world.peers[slow].window = usize::MAX;
    world.run_until_idle();
    let content = content(&world, slow);
    assert_eq!(messages(&content).0.len(), 2, "the chunk that had begun is finished");
    assert!(content.ends_with(
        "event: end\ndata: {\"end\":1013,\"reason\":\"this connection reads too slowly for the room\"}\n\n"
    ));
    assert!(world.text(slow).ends_with("0\r\n\r\n"));
    world.advance(Duration::from_secs(10));
    assert_eq!(world.peers[slow].closed, Some(CloseReason::SlowConsumer));
}

#[test]
fn a_stream_whose_client_takes_nothing_ends() {
    let ping_interval = Duration::from_secs(25);
    let mut world = World::new(1, 3, 65_536, Options { ping_interval, ..options() });
    let gone = stream(&mut world, 0, "/stream/gone?room=r", 1);
    let reads = stream(&mut world, 0, "/stream/reads?room=r", 1);
    world.peers[gone].window = 0;
    for _ in 0..200 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.peers[gone].closed, Some(CloseReason::PingTimeout));
    assert_eq!(world.peers[reads].closed, None);
    let beats = content(&world, reads).lines().filter(|line| *line == "{}").count();
    assert!((7..=16).contains(&beats), "{beats} signs of life in 200 s");
}

#[test]
fn drains_answer_what_is_in_flight() {
    let mut world = World::new(2, 3, 65_536, options());
    let peers = [world.connect(0), world.connect(1)];
    world.send(peers[0], get("/poll/p?room=r", 1).as_bytes());
    world.run_until_idle();
    // The message has been sent to the room's home, and the answer has not come yet.
    world.send(peers[1], post("/send/p?room=s", "", "hi").as_bytes());
    world.turn_of(1);
    world.shards.iter_mut().for_each(Shard::drain);
    world.run_until_idle();
    assert_eq!(answers(&world.peers[peers[0]].received)[0].0, 503);
    assert_eq!(answers(&world.peers[peers[1]].received)[0].0, 204);
    assert!(world.shards.iter().all(Shard::is_drained));
}
