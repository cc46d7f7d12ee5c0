//! What holds in a room, and what one client, user or address may have: each option through the running
//! server.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use serde_json::json;
use std::net::SocketAddr;
use support::json::Client;
use support::{SECRET, Server, Tcp, close_code, file, text, token};
use tungstenite::{Message, WebSocket};

const ROOMS: &str = r#"
    presence = true
    max_message = "64KiB"

    [[room]]
    pattern = "news:*"
    publish = "nobody"
    history = 2

    [[room]]
    pattern = "open:*"
    publish = "anyone"

    [[room]]
    pattern = "known:*"
    subscribe = "users"

    [[room]]
    pattern = "closed:*"
    subscribe = "nobody"

    [[room]]
    pattern = "short:*"
    max_message = "10B"

    [[room]]
    pattern = "slow:*"
    max_messages_per_second = 1

    [[room]]
    pattern = "bare:*"
    history = 0
    presence = false
    join_leave = false
"#;

fn start() -> Server {
    let (_file, path) = file(ROOMS);
    Server::start(&["--shards", "2", "--config", &path])
}

fn send_text(client: &mut WebSocket<Tcp>, text: &str) {
    client.send(Message::text(text)).unwrap();
}

#[test]
fn subscribe_and_publish_rules() {
    let server = start();
    let mut ann = Client::connect(&server, "ann");
    ann.result("subscribe", json!({"channel": "news:a"}));
    assert_eq!(ann.error("publish", json!({"channel": "news:a", "data": 1})), 103);
    ann.publish("open:a", "from outside");
    ann.result("subscribe", json!({"channel": "open:a"}));
    let history = ann.result("history", json!({"channel": "open:a", "limit": 5}));
    assert_eq!(history["publications"][0]["data"], "from outside");
    ann.result("subscribe", json!({"channel": "known:a"}));
    assert_eq!(ann.error("subscribe", json!({"channel": "closed:a"})), 103);
    let mut guest = Client::raw(&server);
    guest.result("connect", json!({}));
    assert_eq!(guest.error("subscribe", json!({"channel": "known:a"})), 103);

    let mut bob = server.client("/ws/bob?room=news:a&history=1");
    let notice = text(&mut bob);
    send_text(&mut bob, "may I?");
    let refusal = text(&mut bob);
    assert!(refusal.contains("publishing is not permitted in this room"), "{notice} {refusal}");
    let refused = server.try_client("/ws/bob?room=closed:a", &[]).unwrap_err();
    assert!(refused.contains("403"), "{refused}");
}

#[test]
fn message_size_and_rate_limits() {
    let server = start();
    let mut ann = Client::connect(&server, "ann");
    for channel in ["short:a", "slow:a"] {
        ann.result("subscribe", json!({"channel": channel}));
    }
    ann.publish("short:a", "12345678");
    assert_eq!(ann.error("publish", json!({"channel": "short:a", "data": "123456789"})), 106);
    // Two at once are a burst; the third within the second is too many.
    let mut published = 0;
    while ann.ask("publish", json!({"channel": "slow:a", "data": 1}))["error"].is_null() {
        published += 1;
        assert!(published < 1000);
    }
    assert!(published >= 2, "{published}");
    assert_eq!(ann.error("publish", json!({"channel": "slow:a", "data": 1})), 111);
    // In another room its messages are not limited. A client that keeps exceeding the limit is disconnected.
    while ann.socket.send(Message::text(r#"{"id":9,"publish":{"channel":"slow:a","data":1}}"#)).is_ok() {
        if let Ok(Message::Close(frame)) = ann.socket.read() {
            assert_eq!(u16::from(frame.unwrap().code), 3013);
            break;
        }
    }

    let mut bob = server.client("/ws/bob?room=short:a");
    send_text(&mut bob, "1234567890");
    assert_eq!(text(&mut bob), "bob: 1234567890");
    send_text(&mut bob, "12345678901");
    assert_eq!(close_code(&mut bob), 1009);
    let mut carl = server.client("/ws/carl?room=slow:a");
    let mut received = Vec::new();
    for number in 0..3 {
        send_text(&mut carl, &number.to_string());
        received.push(text(&mut carl));
    }
    assert_eq!(received[..2], ["carl: 0", "carl: 1"]);
    assert!(received[2].contains("rate limit exceeded"), "{received:?}");
}

#[test]
fn queries_of_disabled_features_are_refused() {
    let server = start();
    let mut ann = Client::connect(&server, "ann");
    let subscribed = ann.result("subscribe", json!({"channel": "bare:a", "join_leave": true}));
    assert_eq!(subscribed, json!({}));
    for method in ["presence", "presence_stats", "history"] {
        assert_eq!(ann.error(method, json!({"channel": "bare:a"})), 108, "{method}");
    }
    ann.publish("bare:a", "now");
    let received = ann.push("pub");
    assert_eq!((&received["data"], received.get("offset")), (&json!("now"), None));

    ann.result("subscribe", json!({"channel": "news:a"}));
    let history = ann.result("history", json!({"channel": "news:a", "limit": 0}));
    assert_eq!((&history["offset"], history.get("publications")), (&json!(0), Some(&json!([]))));
}

/// A reload changes what holds from now on, in rooms that are there too.
#[test]
fn a_reload_changes_the_options() {
    let (config, path) = file("[[room]]\npattern = \"a\"\npublish = \"nobody\"\n");
    let mut server = Server::start(&["--config", &path]);
    let mut ann = Client::connect(&server, "ann");
    ann.result("subscribe", json!({"channel": "a"}));
    assert_eq!(ann.error("publish", json!({"channel": "a", "data": 1})), 103);
    std::fs::write(config.path(), "[[room]]\npattern = \"b\"\npublish = \"nobody\"\n").unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.log_line("configuration reloaded");
    ann.publish("a", "at last");
    assert_eq!(ann.push("pub")["data"], "at last");
}

/// A connection from this address of the loopback.
fn from(server: &Server, source: [u8; 4], path: &str) -> Result<WebSocket<Tcp>, String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let stream: Tcp = socket.into();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let uri = format!("ws://{}{path}", server.address);
    tungstenite::client(uri, stream).map(|(client, _)| client).map_err(|error| error.to_string())
}

#[test]
fn connections_of_one_address_are_counted_on_all_shards() {
    let server = Server::start(&["--shards", "3", "--max-connections-per-address", "5"]);
    let one = [127, 0, 0, 9];
    let mut inside: Vec<_> = (0..5).map(|_| from(&server, one, "/ws/a").unwrap()).collect();
    let refused = from(&server, one, "/ws/a").unwrap_err();
    assert!(refused.contains("429"), "{refused}");
    from(&server, [127, 0, 0, 10], "/ws/b").unwrap();
    // A refused connection counts until it is closed, so it is retried until the count is free.
    let mut leaving = inside.pop().unwrap();
    leaving.close(None).unwrap();
    while leaving.read().is_ok() {}
    drop(leaving);
    let deadline = (0..1000).find_map(|_| from(&server, one, "/ws/a").ok());
    assert!(deadline.is_some(), "the count of a closed connection stays");
}

#[test]
fn connections_of_one_user_are_counted_on_all_shards() {
    let settings = ["--auth", "token", "--token-hmac-secret-files", SECRET];
    let limit = ["--shards", "3", "--max-connections-per-user", "2"];
    let server = Server::start(&[&settings[..], &limit].concat());
    let connect = |user: &str| {
        let mut client = Client::raw(&server);
        client.send_line(&json!({"id": 1, "connect": {"token": token(&["--user", user])}}).to_string());
        client
    };
    let mut inside = [connect("7"), connect("7")];
    for client in &mut inside {
        assert!(client.next()["connect"]["client"].is_string());
    }
    assert_eq!(close_code(&mut connect("7").socket), 4004);
    assert!(connect("8").next()["connect"]["client"].is_string());
}

/// Frames with presence events for `observer`, and how many members they name, until it receives "end".
fn presence_events_for(observer: &mut Client) -> (usize, usize) {
    let (mut frames, mut members) = (0, 0);
    loop {
        let frame = text(&mut observer.socket);
        let named = frame.matches("\"join\":").count();
        (frames, members) = (frames + usize::from(named > 0), members + named);
        if frame.contains("\"end\"") {
            return (frames, members);
        }
    }
}

#[test]
fn presence_events_are_batched_and_bounded() {
    const CLIENTS: usize = 300;
    let server = Server::start(&["--shards", "2", "--join-leave-max", "100"]);
    let join = |room: &str, index: usize| {
        let mut client = Client::connect(&server, &format!("c{index}"));
        client.result("subscribe", json!({"channel": room}));
        client
    };
    let mut observer = join("few", 0);
    #[expect(clippy::disallowed_methods, reason = "how often something comes is what is tested")]
    let begun = std::time::Instant::now();
    let mut clients: Vec<_> = (1..90).map(|index| join("few", index)).collect();
    // The last of them sees itself join, and by then every member has its events.
    while clients[88].push("join")["info"]["user"] != "c89" {}
    clients[0].publish("few", "end");
    let (frames, members) = presence_events_for(&mut observer);
    let tenths = usize::try_from(begun.elapsed().as_millis() / 100).unwrap();
    assert_eq!(members, 90, "itself, and all others");
    assert!(frames <= tenths + 2, "{frames} frames in {tenths} tenths of a second");

    let mut observer = join("many", 0);
    let mut clients: Vec<_> = (1..CLIENTS).map(|index| join("many", index)).collect();
    clients[0].publish("many", "end");
    let (_, members) = presence_events_for(&mut observer);
    assert!(members <= 100, "{members} were announced in a room that is too large");
}
