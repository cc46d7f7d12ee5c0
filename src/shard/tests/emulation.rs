//! The Centrifuge protocol over streams on whole shards: commands come by requests on any connection and any
//! shard, in any pieces, and do what they do on a WebSocket.

use serde_json::{Value, json};

use super::plain::{answers, audit, content, post};
use super::*;
use crate::chat::{AuthDecision, AuthMode, Identity};

/// A client whose replies come on one connection, and whose commands go out on others.
struct Client {
    stream: usize,
    session: String,
    node: String,
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What a stream has brought so far: a JSON value for each line, or each event.
fn received(world: &World, stream: usize) -> Vec<Value> {
    let content = content(world, stream);
    let lines = content.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).expect(line)).collect()
}

impl Client {
    /// Opens a stream, of events or of lines.
    fn connect(world: &mut World, shard: usize, is_events: bool, version: u8) -> Self {
        let command = r#"{"id":1,"connect":{"data":{"name":"ann"}}}"#;
        let stream = world.connect(shard);
        let request = if is_events {
            let query = percent_encoded(command);
            format!("GET /connection/sse?cf_connect={query} HTTP/1.{version}\r\nHost: h\r\n\r\n")
        } else {
            let request = post("/connection/http_stream", "", command);
            request.replace("HTTP/1.1", &format!("HTTP/1.{version}"))
        };
        world.send(stream, request.as_bytes());
        world.run_until_idle();
        let replies = received(world, stream);
        let [reply] = &replies[..] else { panic!("{replies:?}") };
        let text =
            |name: &str| reply["connect"][name].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned();
        Self { stream, session: text("session"), node: text("node") }
    }

    /// Has a connection bring commands.
    fn send(&self, world: &mut World, peer: usize, data: &str) {
        let content = json!({"session": self.session, "node": self.node, "data": data}).to_string();
        world.send(peer, post("/emulation", "", &content).as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Publications come in the order in which their requests were sent on one connection, and each command
    /// has one reply.
    #[test]
    fn commands_by_request_do_what_they_do_on_a_websocket(seed: u64, shards in 1usize..4, piece in prop_oneof![1u64..9, 10u64..5000]) {
        let mut world = World::new(shards, seed, piece, options());
        let member = world.join(shards - 1, "m", "r", "");
        let clients: Vec<_> = (0..4)
            .map(|index| Client::connect(&mut world, index % shards, index % 2 == 0, u8::from(index < 2)))
            .collect();
        // Each client has a connection for its commands, on another shard than its stream.
        let sending: Vec<_> = (0..4).map(|index| world.connect((index + 1) % shards)).collect();
        for (client, &peer) in clients.iter().zip(&sending) {
            client.send(&mut world, peer, r#"{"id":2,"subscribe":{"channel":"r"}}"#);
        }
        world.run_until_idle();
        for number in 0..40_u64 {
            let index = usize::try_from(world.rng.below(4)).unwrap();
            let fill = "lorem ".repeat(usize::try_from(world.rng.below(60)).unwrap());
            let data = json!({"id": number + 3, "publish": {"channel": "r", "data": {"text": format!("{number} {fill}")}}});
            clients[index].send(&mut world, sending[index], &data.to_string());
            for _ in 0..world.rng.below(3) {
                world.turn();
            }
        }
        world.run_until_idle();
        audit(&world);
        let expected = world.received_by(member).0;
        prop_assert_eq!(expected.len(), 40);
        let mut replies = 0;
        for (client, &peer) in clients.iter().zip(&sending) {
            let received = received(&world, client.stream);
            let texts: Vec<_> = received.iter().filter_map(|it| it["push"]["pub"]["data"]["text"].as_str()).collect();
            let expected: Vec<_> = expected.iter().map(|line| line.strip_prefix("ann: ").unwrap()).collect();
            prop_assert_eq!(texts.iter().map(|it| it.trim_end()).collect::<Vec<_>>(), expected.iter().map(|it| it.trim_end()).collect::<Vec<_>>());
            replies += received.iter().filter(|it| it.get("publish").is_some()).count();
            prop_assert!(answers(&world.peers[peer].received).iter().all(|(status, ..)| *status == 204));
        }
        prop_assert_eq!(replies, 40);
    }
}

/// A session that waits for the reply to one command takes no more of them: what is relayed meanwhile waits
/// with it, up to a bound, and its requests wait for their answers.
#[test]
fn what_is_relayed_beyond_the_bound_is_refused() {
    let mut world = World::new(1, 1, 5000, Options { auth_mode: AuthMode::Hook, ..options() });
    let stream = world.connect(0);
    let command = r#"{"id":1,"connect":{}}"#;
    world.send(stream, post("/connection/http_stream", "", command).as_bytes());
    while !world.peers[stream].sending.is_empty() {
        world.turn();
    }
    let request = world.shards[0].poll_auth_request().expect("the auth backend decides").session;
    let session_key = world.shards[0].sessions.keys().next().expect("a session");
    let seed = world.shards[0].mesh.seed().clone();
    let session = crate::session::SessionId { shard: 0, key: session_key }.to_text(&seed);
    let client = Client { stream, session, node: crate::session::node(&seed) };
    let peers: Vec<_> = (0..260).map(|_| world.connect(0)).collect();
    for (index, &peer) in peers.iter().enumerate() {
        let id = index + 2;
        client.send(
            &mut world,
            peer,
            &format!(r#"{{"id":{id},"publish":{{"channel":"r","data":{index}}}}}"#),
        );
    }
    world.run_until_idle();
    let statuses = |world: &World| -> Vec<Option<u16>> {
        peers.iter().map(|&peer| answers(&world.peers[peer].received).first().map(|it| it.0)).collect()
    };
    let waiting = statuses(&world);
    let count = |statuses: &[Option<u16>], status| statuses.iter().filter(|it| **it == status).count();
    assert_eq!((count(&waiting, None), count(&waiting, Some(503))), (256, 4), "{waiting:?}");
    assert!(world.shards[0].audit().inbox_bytes > 256 * 30);
    let identity =
        Identity { user: "u".into(), name: "u".into(), info: None, expires_in: None, rooms: Vec::new() };
    world.shards[0].begin_turn(world.now);
    world.shards[0].decided(request, AuthDecision::Accept { identity, data: None });
    world.run_until_idle();
    let answered = statuses(&world);
    assert_eq!((count(&answered, Some(204)), count(&answered, Some(503))), (256, 4), "{answered:?}");
    let replies = received(&world, stream);
    // It is no member of the room: each of its commands gets this error.
    let refused = replies.iter().filter(|it| it["error"]["code"] == 103).map(|it| it["id"].as_u64().unwrap());
    let mut ids: Vec<_> = refused.map(|id| usize::try_from(id).unwrap() - 2).collect();
    ids.sort_unstable();
    let taken = waiting.iter().enumerate().filter(|(_, it)| it.is_none()).map(|(index, _)| index);
    assert_eq!(ids, taken.collect::<Vec<_>>());
    assert!(world.shards[0].audit().inbox_bytes == 0);
}

/// Refusals that a client can tell apart: what it has sent, and which session it has named.
#[test]
fn requests_without_a_session_are_refused() {
    let mut world = World::new(2, 1, 5000, options());
    let client = Client::connect(&mut world, 1, true, 1);
    let other = World::new(2, 2, 5000, options()).shards[0].mesh.seed().clone();
    let (session, node) = (client.session.clone(), client.node.clone());
    let ping = "{}";
    for (content, expected) in [
        (json!({"session": session, "node": node, "data": "{}"}).to_string(), 204),
        (json!({"session": session, "node": crate::session::node(&other), "data": ping}).to_string(), 404),
        (json!({"session": "0".repeat(50), "node": node, "data": ping}).to_string(), 404),
        (json!({"session": "", "node": node, "data": ping}).to_string(), 404),
        (json!({"session": session, "node": node}).to_string(), 400),
        (json!({"session": session, "node": node, "data": 5}).to_string(), 400),
        (json!({"session": session, "node": node, "data": null}).to_string(), 400),
        (json!({"session": null, "node": node, "data": ping}).to_string(), 400),
        ("[]".to_owned(), 400),
        (String::new(), 400),
        (format!("\"{}\"", "x".repeat(70_000)), 413),
        ("\u{0}".to_owned(), 400),
    ] {
        let peer = world.connect(0);
        world.send(peer, post("/emulation", "", &content).as_bytes());
        world.run_until_idle();
        let answers = answers(&world.peers[peer].received);
        assert_eq!(answers[0].0, expected, "{content}: {}", answers[0].2);
    }
    // The pong was one that nobody had asked for.
    let end = received(&world, client.stream).pop().unwrap();
    assert_eq!(end["push"]["disconnect"]["code"], 3501, "{end}");
    // Its session has ended with it.
    let peer = world.connect(0);
    client.send(&mut world, peer, ping);
    world.run_until_idle();
    assert_eq!(answers(&world.peers[peer].received)[0].0, 404);
}

/// What a client that only listens gets, on each of its three transports.
#[test]
fn listeners_get_bare_pushes() {
    let connect = r#"{"subs":{"r":{},"s":{}}}"#;
    for (transport, shard) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
        let mut world = World::new(2, 1, 5000, options());
        let peer = world.connect(shard);
        let query = percent_encoded(connect);
        match transport {
            0 => world.send(
                peer,
                format!("GET /connection/uni_sse?cf_connect={query} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(),
            ),
            1 => world.send(peer, post("/connection/uni_sse", "", connect).as_bytes()),
            2 => world.send(peer, post("/connection/uni_http_stream", "", connect).as_bytes()),
            _ => {
                world.send(peer, request("/connection/uni_websocket", "").as_bytes());
                world.send_text(peer, connect);
            }
        }
        world.run_until_idle();
        let member = world.join(0, "m", "r", "");
        world.send_text(member, "hi");
        world.run_until_idle();
        for shard in &mut world.shards {
            shard.drain();
        }
        world.run_until_idle();
        let received = if transport == 3 {
            let head = world.peers[peer].received.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
            world.peers[peer].received.drain(..head);
            let lines = world.received_by(peer).0;
            lines.iter().flat_map(|it| it.lines()).map(|it| serde_json::from_str(it).unwrap()).collect()
        } else {
            received(&world, peer)
        };
        let of =
            |name: &str| -> Vec<&Value> { received.iter().filter_map(|it: &Value| it.get(name)).collect() };
        let connected = of("connect");
        assert_eq!(connected.len(), 1, "{received:?}");
        let subs = connected[0]["subs"].as_object().unwrap();
        assert_eq!(subs.keys().collect::<Vec<_>>(), ["r", "s"]);
        assert!(connected[0].get("pong").is_none() && subs["r"]["epoch"].is_string());
        let publications = of("pub");
        assert_eq!(publications.len(), 1, "{received:?}");
        assert_eq!(publications[0]["data"], json!({"name": "m", "text": "hi"}));
        assert_eq!(of("disconnect"), [&json!({"code": 3001, "reason": "shutdown"})]);
        assert!(received.iter().all(|it| it.get("push").is_none() && it.get("id").is_none()));
    }
}
