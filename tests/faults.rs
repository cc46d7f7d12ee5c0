//! What one client did to others, or to the whole server, in earlier versions: each row is a test that failed
//! there.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]
#![allow(clippy::disallowed_methods, reason = "how long a real server takes is what is tested")]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stentor::ws::{Deflater, Window};
use stentor_testkit::{frame, upgrade_request};
use support::json::Client;
use support::{SECRET, Server, Tcp, close_code, file, text};
use tungstenite::{Message, WebSocket};

/// A token with these claims.
fn sign(claims: &Value) -> String {
    let secret = std::fs::read(SECRET).unwrap();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.trim_ascii_end());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn unix_time() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn with_tokens(more: &[&str]) -> Server {
    Server::start(&[&["--auth", "token", "--token-hmac-secret-files", SECRET], more].concat())
}

fn connect_with(server: &Server, claims: &Value) -> Client {
    let mut client = Client::raw(server);
    client.result("connect", json!({"token": sign(claims)}));
    client
}

/// A backend that never answers, and its address.
fn silent_backend() -> (impl Sized, String) {
    #[expect(clippy::disallowed_types, reason = "a back end for tests")]
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

/// An auth backend that accepts every client, after a while.
fn late_backend(delay: Duration) -> String {
    let (listener, url) = {
        #[expect(clippy::disallowed_types, reason = "a back end for tests")]
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        (listener, url)
    };
    let serve = move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = move || {
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                // The body is one JSON object, and the last thing to come.
                while !request.ends_with(b"}") {
                    let len = stream.read(&mut piece).unwrap_or(0);
                    if len == 0 {
                        return;
                    }
                    request.extend_from_slice(&piece[..len]);
                }
                std::thread::sleep(delay);
                let body = r#"{"result":{"user":"7"}}"#;
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
            };
            std::thread::Builder::new().spawn(answer).unwrap();
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    url
}

/// A list that names a room twice, or two lists that name it: the room is entered once.
#[test]
fn a_room_that_a_token_names_twice_is_entered_once() {
    for claims in [
        json!({"sub": "7", "channels": ["a", "a"]}),
        json!({"sub": "7", "channels": ["a"], "subs": {"a": {}}}),
        json!({"sub": "7", "channels": ["b", "a", "b", "a"], "subs": {"b": {}, "a": {}}}),
    ] {
        let server = with_tokens(&["--shards", "2"]);
        let mut other = connect_with(&server, &json!({"sub": "8", "channels": ["a"]}));
        let mut client = connect_with(&server, &claims);
        let stats = client.result("presence_stats", json!({"channel": "a"}));
        assert_eq!(stats["num_clients"], 2, "{claims}: {stats}");
        other.socket.close(None).unwrap();
        while other.socket.read().is_ok() {}
        let gone = Instant::now();
        while client.result("presence_stats", json!({"channel": "a"}))["num_clients"] != 1 {
            assert!(gone.elapsed() < Duration::from_secs(5), "{claims}: the other one is still there");
        }
        for data in 1..=3 {
            client.publish("a", data);
        }
        client.publish("a", "last");
        let mut received = Vec::new();
        while received.last() != Some(&json!("last")) {
            received.push(client.push("pub")["data"].clone());
        }
        assert_eq!(received, [json!(1), json!(2), json!(3), json!("last")], "{claims}");
        client.result("presence", json!({"channel": "a"}));
    }
}

/// Commands about one room in one message, for rooms of all shards: as many replies as commands.
fn each_is_answered_once(client: &mut Client, first_id: u64, room: &str) {
    let commands = [
        json!({"subscribe": {"channel": room}}),
        json!({"unsubscribe": {"channel": room}}),
        json!({"subscribe": {"channel": room}}),
        json!({"publish": {"channel": room, "data": 1}}),
        json!({"presence": {"channel": room}}),
        json!({"unsubscribe": {"channel": room}}),
        json!({"unsubscribe": {"channel": room}}),
        json!({"history": {"channel": room, "limit": 1}}),
        json!({"subscribe": {"channel": room}}),
        json!({"presence_stats": {"channel": room}}),
        json!({"unsubscribe": {"channel": room}}),
    ];
    let count = commands.len() as u64;
    let lines = commands.into_iter().zip(first_id..).map(|(mut command, id)| {
        command["id"] = id.into();
        command.to_string()
    });
    client.send_line(&lines.collect::<Vec<_>>().join("\n"));
    let mut replies = BTreeMap::<u64, u32>::new();
    while replies.len() < usize::try_from(count).unwrap() {
        let line = client.next();
        if let Some(id) = line["id"].as_u64() {
            *replies.entry(id).or_default() += 1;
        }
    }
    // All duplicates would come before this.
    let last = client.ask("presence_stats", json!({"channel": "nowhere"}));
    assert_eq!(last["error"]["code"], 103);
    assert!(replies.values().all(|&count| count == 1), "{room}: {replies:?}");
}

#[test]
fn subscribe_and_unsubscribe_in_one_message_are_each_answered() {
    let server = Server::start(&["--shards", "4"]);
    let mut clients: Vec<_> = (0..4).map(|index| Client::connect(&server, &format!("c{index}"))).collect();
    for room in 0..20 {
        for client in &mut clients {
            each_is_answered_once(client, 1000 + room * 100, &format!("room{room}"));
        }
    }
}

#[test]
fn commands_sent_before_authentication_are_answered() {
    let url = late_backend(Duration::from_millis(300));
    let server = Server::start(&["--shards", "4", "--auth", "hook", "--hook-url", &url]);
    let mut clients: Vec<_> = (0..8).map(|_| Client::raw(&server)).collect();
    for (client, room) in clients.iter_mut().zip(0..) {
        client.send_line(r#"{"id":1,"connect":{}}"#);
        for id in 2..40 {
            let command = if id % 2 == 0 { "subscribe" } else { "unsubscribe" };
            client.send_line(&json!({"id": id, command: {"channel": format!("room{room}")}}).to_string());
        }
    }
    for client in &mut clients {
        let mut ids = Vec::new();
        while ids.len() < 39 {
            ids.extend(client.next()["id"].as_u64());
        }
        assert_eq!(ids, (1..40).collect::<Vec<_>>());
    }
}

/// One request head of 64 MiB: after the answer no more than so much of it is taken in.
#[test]
fn a_header_of_64_mib_is_not_read_to_its_end() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = server.raw();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: ").unwrap();
    let (piece, mut sent) = ([b'x'; 64 * 1024], 0);
    let failed = loop {
        match client.write(&piece) {
            Ok(len) => sent += len,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "all of it was taken");
    };
    assert!(matches!(failed.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{failed}");
    let taken = server.metric("stentor_received_bytes_total");
    // A ring has several reads in flight when it is to stop.
    assert!(taken < 4 << 20, "{taken} bytes were taken in");
}

/// One client joins 128 rooms and fills their histories; all histories together have a bound.
#[test]
fn the_histories_of_all_rooms_together_are_bounded() {
    let server = Server::start(&["--shards", "2", "--history-memory", "1MiB"]);
    let mut client = Client::connect(&server, "filler");
    let mut positions = BTreeMap::new();
    for room in 0..128 {
        let room = format!("room{room}");
        let entered = client.result("subscribe", json!({"channel": room}));
        positions.insert(room, entered["epoch"].clone());
    }
    let data = "x".repeat(9_000);
    for room in positions.keys() {
        for _ in 0..3 {
            client.publish(room, data.as_str());
        }
    }
    let kept = server.metric("stentor_history_bytes");
    assert!((512 * 1024..=1 << 20).contains(&kept), "{kept} bytes are kept");
    let evicted = server.metric("stentor_history_evictions_total");
    assert!((250..384).contains(&evicted), "{evicted} were given up");
    let mut other = Client::connect(&server, "other");
    let mut recovered = 0;
    for (room, epoch) in &positions {
        let wanted = json!({"channel": room, "recover": true, "offset": 1, "epoch": epoch});
        let entered = other.result("subscribe", wanted);
        assert_eq!(&entered["epoch"], epoch, "the room goes on");
        match entered["recovered"].as_bool().unwrap_or(false) {
            true => {
                recovered += 1;
                assert_eq!(entered["publications"].as_array().unwrap().len(), 2);
                assert_eq!(entered["offset"], 1);
            }
            false => {
                assert!(entered["publications"].as_array().is_none_or(Vec::is_empty), "{entered}");
                assert_eq!(entered["offset"], 3, "{entered}");
            }
        }
    }
    assert!((8..=20).contains(&recovered), "{recovered} of 128 rooms have kept theirs");
}

/// How many of `count` texts that a plain client sends at once are published, and the code that closes it, if
/// one does.
fn flood(server: &Server, room: &str, count: usize) -> (usize, Option<u16>) {
    let mut member = server.client(&format!("/ws/flooder?room={room}"));
    for _ in 0..count {
        if member.send(Message::text("flooood")).is_err() {
            break;
        }
    }
    let _ = member.send(Message::Ping(b"end"[..].into()));
    let mut received = 0;
    loop {
        match member.read() {
            Ok(Message::Text(text)) => received += usize::from(text.as_str() == "flooder: flooood"),
            Ok(Message::Close(frame)) => return (received, frame.map(|frame| frame.code.into())),
            Ok(Message::Pong(_)) => {
                // What its home has still to order comes after the pong.
                member.get_ref().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            }
            Ok(_) => {}
            Err(_) => return (received, None),
        }
    }
}

#[test]
fn the_default_rate_limit_of_a_session() {
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_stentor")).arg("config").output();
    let printed = String::from_utf8(command.unwrap().stdout).unwrap();
    assert!(printed.contains("max_session_messages_per_second = 20 "), "{printed}");
    assert!(printed.contains("max_session_commands_per_second = 100 "), "{printed}");

    let server = Server::start(&["--shards", "2", "--max-session-messages-per-second", "20"]);
    let (received, closed) = flood(&server, "r", 60);
    assert!((40..=45).contains(&received), "{received}");
    assert_eq!(closed, None);
    let before = server.metric("stentor_publications_total");
    let (_, closed) = flood(&server, "r", 2000);
    assert_eq!(closed, Some(1008));
    let taken = || server.metric("stentor_publications_total") - before;
    let closed = Instant::now();
    while taken() < 40 {
        assert!(closed.elapsed() < Duration::from_secs(5), "{} were taken", taken());
    }
    assert!(taken() <= 60, "{} were taken", taken());

    let server = Server::start(&["--shards", "2", "--max-session-messages-per-second", "0"]);
    assert_eq!(flood(&server, "r", 2000), (2000, None));
}

#[test]
fn a_room_that_sets_a_limit_has_a_budget_of_its_own() {
    let (_file, path) = file(
        "max_session_messages_per_second = 20\n\n[[room]]\npattern = \"slow\"\nmax_messages_per_second = 1\n\n\
         [[room]]\npattern = \"fast\"\nmax_messages_per_second = 100\n",
    );
    let server = Server::start(&["--config", &path, "--max-session-messages-per-second", "20"]);
    let mut client = Client::connect(&server, "c");
    let mut taken = BTreeMap::new();
    for room in ["slow", "fast", "r1", "r2"] {
        client.result("subscribe", json!({"channel": room}));
    }
    for (room, count) in [("slow", 10), ("fast", 150), ("r1", 25), ("r2", 25)] {
        for _ in 0..count {
            let reply = client.ask("publish", json!({"channel": room, "data": 1}));
            let code = reply["error"]["code"].as_u64();
            assert!(code.is_none_or(|code| code == 111), "{reply}");
            *taken.entry(room).or_insert(0) += u32::from(code.is_none());
        }
    }
    assert!((2..=4).contains(&taken["slow"]), "{taken:?}");
    assert_eq!(taken["fast"], 150, "the slow room's limit is not this one's");
    assert!((40..=48).contains(&(taken["r1"] + taken["r2"])), "{taken:?}");
}

/// Clients that send what they can of a deflate bomb, before they are authenticated.
#[test]
fn input_queued_during_authentication_is_kept_as_received() {
    let (_backend, url) = silent_backend();
    let server = Server::start(&[
        "--shards",
        "1",
        "--auth",
        "hook",
        "--hook-url",
        &url,
        "--hook-timeout",
        "30s",
        "--hook-concurrency",
        "100",
    ]);
    let mut deflater = Deflater::default();
    let bomb = frame(0xC1, deflater.deflate(Window::Full, &[&[b'x'; 60_000]]));
    let count = (64 * 1024) / bomb.len();
    let before = (server.memory(), server.cpu_time());
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = server.raw();
        let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        client.write_all(upgrade_request("/ws/bomber?room=r", offer).as_bytes()).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        client.write_all(&bomb.repeat(count)).unwrap();
        clients.push(client);
    }
    std::thread::sleep(Duration::from_secs(1));
    let (grown, spent) = (server.memory().saturating_sub(before.0), server.cpu_time() - before.1);
    assert!(grown < 40 * 2 * 64 * 1024 + (4 << 20), "{grown} bytes for 40 times 64 KiB");
    assert!(spent < Duration::from_secs(1), "{spent:?}");
    assert_eq!(server.metric("stentor_websocket_connections"), 40);
}

/// A flood into one room, by clients that are not in it, while its members take nothing: publishers of
/// another room wait no longer for it.
#[test]
fn a_congested_room_does_not_hold_up_another() {
    let server = Server::start(&["--shards", "2", "--publish", "anyone", "--slow-member", "skip"]);
    let _deaf: Vec<_> = (0..60).map(|_| server.client("/ws/deaf?room=flooded")).collect();
    let before = server.memory();
    let data = "x".repeat(30_000);
    let command = json!({"id": 9, "publish": {"channel": "flooded", "data": data}}).to_string();
    let bytes = frame(0x81, command.as_bytes());
    let mut flooders: Vec<Tcp> = (0..6)
        .map(|_| {
            let client = Client::connect(&server, "flooder");
            let stream = client.socket.get_ref().try_clone().unwrap();
            std::mem::forget(client);
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let mut pending = vec![0; flooders.len()];
    let mut publishers = [server.client("/ws/a?room=calm"), server.client("/ws/b?room=calm")];
    let (mut slowest, begun) = (Duration::ZERO, Instant::now());
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        for (flooder, from) in flooders.iter_mut().zip(&mut pending) {
            while let Ok(len) = flooder.write(&bytes[*from..]) {
                *from = (*from + len) % bytes.len();
            }
        }
        let asked = Instant::now();
        publishers[round % 2].send(Message::text(format!("{round}"))).unwrap();
        while !text(&mut publishers[0]).ends_with(&format!(": {round}")) {}
        slowest = slowest.max(asked.elapsed());
        round += 1;
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}, of {round} rounds");
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn plain_clients_end_with_their_token() {
    for ping_interval in ["0s", "25s"] {
        let server = with_tokens(&["--shards", "2", "--ping-interval", ping_interval]);
        let expires = unix_time() + 3;
        let token = sign(&json!({"sub": "ann", "exp": expires}));
        let mut client = server.client(&format!("/ws/ann?room=r&token={token}"));
        let code = close_code(&mut client);
        let late = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - expires as f64;
        assert_eq!(code, 1008, "{ping_interval}");
        assert!((-0.1..1.5).contains(&late), "{ping_interval}: {late} s after its token's end");
    }
}

/// Rooms that the server joins, on all shards and in the middle of their talk.
#[test]
fn nothing_is_pushed_before_the_reply_to_connect() {
    let server = with_tokens(&["--shards", "4", "--anonymous"]);
    let rooms: Vec<_> = (0..8).map(|room| format!("room{room}")).collect();
    let claims = json!({"sub": "7", "channels": rooms});
    let mut publisher = connect_with(&server, &claims);
    let token = sign(&claims);
    for round in 0..150 {
        let mut client = Client::raw(&server);
        client.send_line(&json!({"id": 1, "connect": {"token": token}}).to_string());
        client.socket.send(Message::Ping(b"p"[..].into())).unwrap();
        let publish =
            |room: &String| json!({"id": 9, "publish": {"channel": room, "data": round}}).to_string();
        for _ in 0..3 {
            publisher.send_line(&rooms.iter().map(publish).collect::<Vec<_>>().join("\n"));
        }
        let first = client.next();
        assert_eq!(first["id"], 1, "round {round}: {first}");
        publisher.result("presence_stats", json!({"channel": "room0"}));
    }
}

/// Not publishing alone: each command costs its share.
#[test]
fn commands_are_limited_and_a_flood_of_them_ends() {
    let server = Server::start(&["--shards", "2", "--max-session-commands-per-second", "50"]);
    for (method, parameters) in [
        ("presence", json!({"channel": "r"})),
        ("rpc", json!({"method": "delivery", "data": {"channel": "r", "offset": 1}})),
        ("subscribe", json!({"channel": "r"})),
        ("history", json!({"channel": "r", "limit": 10})),
    ] {
        let mut client = Client::connect(&server, "c");
        client.result("subscribe", json!({"channel": "r"}));
        let command = json!({"id": 7, method: parameters}).to_string();
        for _ in 0..3000 {
            if client.socket.send(Message::text(command.as_str())).is_err() {
                break;
            }
        }
        let (mut allowed, mut refused) = (0, 0);
        let code = loop {
            match client.socket.read().unwrap() {
                Message::Text(lines) => {
                    for line in lines.lines().filter(|line| line.contains("\"id\":7")) {
                        if line.contains("\"code\":111") { refused += 1 } else { allowed += 1 }
                    }
                }
                Message::Close(frame) => break frame.map_or(1005, |frame| frame.code.into()),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        };
        // A hundred at once, and fifty in each second that this takes; of those the last sixteen may have no
        // answer any more.
        assert!((80..=400).contains(&allowed), "{method}: {allowed} were executed");
        assert!(refused >= 100, "{method}: {refused} were refused");
        assert_eq!(code, 3013, "{method}");
    }
}

/// Clients that came while the room was small are announced, though it is large by then.
#[test]
fn members_that_joined_before_the_limit_are_announced() {
    let server = Server::start(&["--shards", "2", "--join-leave-max", "3"]);
    let mut clients: Vec<_> = (0..6).map(|index| Client::connect(&server, &format!("c{index}"))).collect();
    for client in &mut clients {
        client.result("subscribe", json!({"channel": "r"}));
    }
    for expected in ["c0", "c1", "c2"] {
        let join = clients[0].push("join");
        assert_eq!(join["info"]["user"], expected, "{join}");
    }
}

/// Some clients send bytes only.
#[test]
fn a_json_command_in_a_binary_frame_is_executed() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = Client::raw(&server);
    let command = json!({"id": 1, "connect": {"data": {"name": "c"}}}).to_string();
    client.socket.send(Message::binary(command.into_bytes())).unwrap();
    assert_eq!(client.next()["id"], 1);
    client.socket.send(Message::binary(vec![0xFF])).unwrap();
    assert_eq!(close_code(&mut client.socket), 1007);
    let mut plain: WebSocket<Tcp> = server.client("/ws/a?room=r");
    plain.send(Message::binary(vec![1])).unwrap();
    assert_eq!(close_code(&mut plain), 1003);
}

/// Subscriptions with an end that come and go: nothing of them stays.
#[test]
fn expiring_subscriptions_that_come_and_go_take_no_memory() {
    let server = with_tokens(&["--shards", "2"]);
    let mut client = connect_with(&server, &json!({"sub": "7"}));
    let token = sign(&json!({"sub": "7", "channel": "r", "exp": unix_time() + 3600}));
    let mut lines = String::new();
    for id in 1..=10 {
        lines += &json!({"id": 2 * id, "subscribe": {"channel": "r", "token": token}}).to_string();
        lines += "\n";
        lines += &json!({"id": 2 * id + 1, "unsubscribe": {"channel": "r"}}).to_string();
        lines += "\n";
    }
    let mut before = 0;
    for round in 0..400 {
        client.send_line(lines.trim_end());
        let mut replies = 0;
        while replies < 20 {
            let line = client.next();
            assert!(line.get("error").is_none(), "{line}");
            replies += u32::from(line.get("id").is_some());
        }
        if round == 50 {
            before = server.memory();
        }
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes");
}
