//! The JSON protocol over real sockets: every command, every error, and what clients rely on when they
//! reconnect.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use serde_json::{Value, json};
use support::json::Client;
use support::{Server, close_code, text};
use tungstenite::Message;

fn publications(result: &Value) -> Vec<u64> {
    let all = result["publications"].as_array();
    all.into_iter().flatten().map(|publication| publication["offset"].as_u64().unwrap()).collect()
}

#[test]
fn publications_of_either_protocol_reach_both() {
    let server = Server::start(&["--shards", "3"]);
    let mut plain = server.client("/ws/bob?room=r");
    let mut client = Client::connect(&server, "ann");
    client.result("subscribe", json!({"channel": "r"}));
    client.publish("r", json!({"text": "hi\n\"there\"", "n": [1, 2.50]}));
    assert_eq!(text(&mut plain), "ann: hi␤\"there\"", "one message is one line");
    let received = client.push("pub");
    assert_eq!(received["data"], json!({"text": "hi\n\"there\"", "n": [1, 2.50]}));
    assert_eq!((&received["offset"], &received["info"]["user"]), (&json!(1), &json!("ann")));
    plain.send(Message::text("\u{1B}[2J\r\nann:\tno\u{2028}")).unwrap();
    assert_eq!(text(&mut plain), "bob: ␛[2J␤ann: no␤");
    let received = client.push("pub");
    let unchanged = json!({"name": "bob", "text": "\u{1B}[2J\r\nann:\tno\u{2028}"});
    assert_eq!(received["data"], unchanged, "the text unchanged");
    assert_eq!((&received["offset"], &received["info"]["user"]), (&json!(2), &json!("bob")));
    assert!(received["time"].as_u64().unwrap() > 1_700_000_000_000);
}

#[test]
fn commands_that_cannot_be_executed_get_their_error_and_nothing_happens() {
    let server = Server::start(&["--shards", "2"]);
    let mut client = Client::connect(&server, "ann");
    client.result("subscribe", json!({"channel": "r"}));
    let long = "c".repeat(256);
    let nested = |depth| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    for (method, parameters, code) in [
        ("subscribe", json!({"channel": "r"}), 105),
        ("subscribe", json!({"channel": "a\nb"}), 107),
        ("subscribe", json!({"channel": long}), 107),
        ("subscribe", json!({"channel": "lobby "}), 107),
        ("subscribe", json!({"channel": "lob\u{200B}by"}), 107),
        ("subscribe", json!({"channel": "cafe\u{301}"}), 107),
        ("subscribe", json!({"channel": "x", "tf": {"key": "a"}}), 107),
        ("subscribe", json!({"channel": "x", "type": 1}), 108),
        ("subscribe", json!({"channel": "x", "flag": 2, "recover": true, "offset": 9, "epoch": "none"}), 112),
        ("publish", json!({"channel": "x", "data": 1}), 103),
        ("publish", json!({"channel": "r"}), 107),
        ("publish", json!({"channel": "r", "data": nested(129)}), 107),
        ("publish", json!({"channel": "r", "data": 1, "type": 1}), 108),
        ("publish", json!({"channel": "r", "data": 1, "key": "k"}), 108),
        ("publish", json!({"channel": long, "data": 1}), 107),
        ("presence", json!({"channel": "x"}), 103),
        ("presence_stats", json!({"channel": "x"}), 103),
        ("history", json!({"channel": "x"}), 103),
        ("history", json!({"channel": "r", "limit": 1, "since": {"offset": 1, "epoch": "other"}}), 112),
        ("history", json!({"channel": "r", "limit": 1, "since": {"offset": 0}, "reverse": true}), 107),
        ("rpc", json!({"method": "sum", "data": [1]}), 104),
        ("rpc", json!({"method": "delivery"}), 107),
        ("rpc", json!({"method": "delivery", "data": {"channel": "x", "offset": 1}}), 103),
        ("rpc", json!({"method": "delivery", "data": ["r", 1]}), 107),
        ("refresh", json!({}), 107),
        ("refresh", json!({"token": null}), 107),
        ("sub_refresh", json!({"channel": "r"}), 107),
        ("refresh", json!({"token": "t"}), 108),
        ("sub_refresh", json!({"channel": "r", "token": "t"}), 108),
        ("sub_refresh", json!({"channel": "x", "token": "t"}), 103),
        ("ping", json!({}), 108),
    ] {
        assert_eq!(client.error(method, parameters.clone()), code, "{method} {parameters}");
    }
    let history = client.result("history", json!({"channel": "r", "limit": -1}));
    assert_eq!((publications(&history), &history["offset"]), (vec![], &json!(0)));
    let members = client.result("presence", json!({"channel": "r"}));
    assert_eq!(members["presence"].as_object().unwrap().len(), 1);
}

#[test]
fn protocol_violations_disconnect() {
    let server = Server::start(&["--shards", "1"]);
    let connect = r#"{"id":1,"connect":{}}"#;
    for (lines, code) in [
        (&["hello"][..], 3501),
        (&[""], 3501),
        (&["{}"], 3501),
        (&[r#"{"id":1,"subscribe":{"channel":"r"}}"#], 3501),
        (&[connect, connect], 3501),
        (&[connect, "{}"], 3501),
        (&[connect, "[]"], 3501),
        (&[connect, r#"{"subscribe":{"channel":"r"}}"#], 3501),
        (&[connect, r#"{"id":2,"subscribe":{}}"#], 3501),
        (&[connect, r#"{"id":2,"publish":{"data":1}}"#], 3501),
        (&[connect, r#"{"id":2,"teleport":{}}"#], 3501),
        (&[connect, r#"{"id":2,"unsubscribe":["r"]}"#], 3501),
        (&[connect, r#"{"id":2,"subscribe":["r"]}"#], 3501),
        (&[connect, r#"[2,null,{"channel":"r"}]"#], 3501),
        (&[connect, r#"{"id":2,"subscribe":{"channel":"r"},"subscribe":{"channel":"r"}}"#], 3501),
        (&[connect, r#"{"id":2,"subscribe":{"channel":"r","delta":"xdelta"}}"#], 3501),
        (&[connect, r#"{"send":{"data":1}}"#], 3508),
        (
            &[r#"{"id":1,"connect":{"data":{"name":"a\u0000"}}}"#, r#"{"id":2,"subscribe":{"channel":"r"}}"#],
            3501,
        ),
    ] {
        let mut client = Client::raw(&server);
        // In one frame, and one frame each.
        let mut other = Client::raw(&server);
        client.send_line(&lines.join("\n"));
        for line in lines {
            let _ = other.socket.send(Message::text(*line));
        }
        for client in [&mut client, &mut other] {
            let code_seen = loop {
                match client.socket.read().unwrap() {
                    Message::Close(frame) => break frame.map(|frame| u16::from(frame.code)),
                    Message::Text(_) | Message::Ping(_) => {}
                    Message::Binary(_) | Message::Pong(_) | Message::Frame(_) => panic!("no SDK sends it"),
                }
            };
            assert_eq!(code_seen, Some(code), "{lines:?}");
        }
    }
}

#[test]
fn null_is_absent_and_arrays_are_no_objects() {
    let server = Server::start(&["--shards", "2"]);
    let mut client = Client::raw(&server);
    client.send_line(
        r#"{"id":1,"connect":{"token":null,"data":null,"subs":null,"name":null},"subscribe":null}"#,
    );
    assert!(client.next()["connect"]["client"].is_string());
    client.send_line(
        r#"{"id":2,"subscribe":{"channel":"r","token":null,"offset":null,"epoch":null,"delta":null,"flag":null,"tf":null}}"#,
    );
    assert_eq!(client.next()["subscribe"]["offset"], 0);
    client.send_line(r#"{"id":3,"publish":{"channel":"r","data":null,"key":null}}"#);
    assert_eq!(client.push("pub")["data"], Value::Null, "null can be published");
    client.send_line(r#"{"id":4,"history":{"channel":"r","limit":null,"since":null,"reverse":null}}"#);
    while client.next()["id"] != 4 {}
}

#[test]
fn deltas_are_declined() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = Client::connect(&server, "ann");
    let result = client.result("subscribe", json!({"channel": "r", "delta": "fossil"}));
    assert_eq!(result.get("delta"), None, "{result}");
}

#[test]
fn commands_in_binary_frames_are_taken_and_answered_in_text() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = Client::raw(&server);
    for line in [r#"{"id":1,"connect":{}}"#, "{\"id\":2,\"subscribe\":{\"channel\":\"grüße\"}}\n"] {
        client.socket.send(Message::binary(line.as_bytes().to_vec())).unwrap();
    }
    assert!(client.next()["connect"]["client"].is_string());
    assert_eq!(client.next()["id"], 2);
    client.socket.send(Message::binary(vec![b'{', 0xFC])).unwrap();
    assert_eq!(close_code(&mut client.socket), 1007);
    let mut none = Client::raw(&server);
    none.socket.send(Message::binary(vec![1])).unwrap();
    assert_eq!(close_code(&mut none.socket), 3501);
    let mut plain = server.client("/ws/ann");
    plain.send(Message::binary(b"hello".to_vec())).unwrap();
    assert_eq!(close_code(&mut plain), 1003);
}

#[test]
fn names_are_in_the_form_of_nicknames_or_refused() {
    let server = Server::start(&["--shards", "1"]);
    let connect = |name: &str| Client::raw(&server).ask("connect", json!({"data": {"name": name}}));
    for bad in ["\u{200B}", "ann\u{200B}", "\u{202E}nna", "\u{3164}", " ", "a\nb", "\u{2800}", ""] {
        assert_eq!(connect(bad)["error"]["code"], 107, "{bad:?}");
    }
    let mut client = Client::connect(&server, "  Ａｎｎ \u{A0} Lee ");
    client.result("subscribe", json!({"channel": "r"}));
    assert_eq!(client.push("join")["info"]["user"], "Ann Lee");
    let mut plain = server.client("/ws/%20bob%20?room=r");
    plain.send(Message::text("hi")).unwrap();
    assert_eq!(text(&mut plain), "bob: hi");
    for (path, sentence) in [
        ("/ws/%E2%80%8B", "A name must not contain invisible characters."),
        (
            "/ws/%20",
            "The name is empty: it ends the path, as in /ws/{name}; with SockJS it is `name` in the query.",
        ),
        (
            "/ws/%E2%A0%80",
            "The name is empty: it ends the path, as in /ws/{name}; with SockJS it is `name` in the query.",
        ),
        (
            "/ws/ann?room=lobby%20",
            "A room's name must not begin or end with a space, and has no other white space.",
        ),
        ("/ws/ann?room=cafe%CC%81", "A room's name must be in Unicode normalization form C."),
        ("/ws/ann?room=a%EF%BB%BF", "A name must not contain invisible characters."),
    ] {
        let answer = server.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.trim_end().ends_with(sentence), "{answer}");
    }
}

#[test]
fn subprotocols_of_the_handshake() {
    let server = Server::start(&["--shards", "1"]);
    let offer = |protocols: &str| {
        server.try_client("/connection/websocket", &[("Sec-WebSocket-Protocol", protocols)])
    };
    let (_, response) = offer("centrifuge-json").unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "centrifuge-json");
    let (_, response) = offer("centrifuge-protobuf, centrifuge-json").unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "centrifuge-json");
    assert!(offer("centrifuge-protobuf").err().unwrap().contains("400"));
}

#[test]
fn many_commands_in_one_frame_are_answered_in_order() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = Client::raw(&server);
    let mut lines = vec![r#"{"id":1,"connect":{}}"#.to_owned()];
    lines.extend((2..100).map(|id| format!(r#"{{"id":{id},"subscribe":{{"channel":"room-{id}"}}}}"#)));
    client.send_line(&(lines.join("\n") + "\n"));
    for id in 1..100 {
        assert_eq!(client.next()["id"], id);
    }
    assert_eq!(server.metric("stentor_members"), 98);
}

#[test]
fn the_number_of_rooms_of_a_client_is_limited() {
    let server = Server::start(&["--shards", "2"]);
    let mut client = Client::connect(&server, "ann");
    for room in 0..128 {
        client.result("subscribe", json!({"channel": format!("room-{room}")}));
    }
    assert_eq!(client.error("subscribe", json!({"channel": "one more"})), 106);
    client.result("unsubscribe", json!({"channel": "room-5"}));
    client.result("unsubscribe", json!({"channel": "room-5"}));
    client.result("subscribe", json!({"channel": "one more"}));
}

#[test]
fn a_reconnecting_client_recovers_or_learns_that_it_cannot() {
    let server = Server::start(&["--shards", "3"]);
    let mut publisher = Client::connect(&server, "ann");
    let start = publisher.result("subscribe", json!({"channel": "r"}));
    assert_eq!((&start["recoverable"], &start["offset"]), (&json!(true), &json!(0)));
    let epoch = start["epoch"].clone();
    for number in 1..=150 {
        publisher.publish("r", number);
    }
    let mut back = Client::connect(&server, "bob");
    let mut resume = |offset: u64, epoch: &Value| {
        back.result("unsubscribe", json!({"channel": "r"}));
        back.result("subscribe", json!({"channel": "r", "recover": true, "offset": offset, "epoch": epoch}))
    };
    let result = resume(140, &epoch);
    assert_eq!(publications(&result), (141..=150).collect::<Vec<_>>());
    assert_eq!((&result["recovered"], &result["was_recovering"]), (&json!(true), &json!(true)));
    assert_eq!(result["offset"], 140, "the client's own, from which each publication moves it on");
    assert_eq!(resume(50, &epoch)["recovered"], true);
    assert_eq!(resume(150, &json!(""))["recovered"], true);
    for (offset, epoch) in [
        (49, epoch.clone()),
        (0, epoch.clone()),
        (151, epoch.clone()),
        (140, json!("00000000")),
        (140, json!("x")),
    ] {
        let result = resume(offset, &epoch);
        assert_eq!(result.get("recovered"), None, "{offset} {epoch}");
        assert_eq!((&result["was_recovering"], &result["offset"]), (&json!(true), &json!(150)));
        assert!(publications(&result).is_empty());
    }
}

#[test]
fn an_empty_room_is_kept_for_its_last_member() {
    let server = Server::start(&["--shards", "2"]);
    for count in [0, 1] {
        let room = format!("r{count}");
        let mut alone = Client::connect(&server, "ann");
        let epoch = alone.result("subscribe", json!({"channel": room}))["epoch"].clone();
        (0..count).for_each(|_| alone.publish(&room, 1));
        drop(alone);
        // Its slot is free when the room is empty.
        while server.metric("stentor_connections") > 1 {}
        let mut back = Client::connect(&server, "ann");
        let position = json!({"channel": room, "recover": true, "offset": 0, "epoch": epoch});
        let result = back.result("subscribe", position);
        assert_eq!(result["recovered"], true, "{result}");
        assert_eq!(publications(&result).len(), count);
    }
}

#[test]
fn pages_of_the_history_go_both_ways() {
    let server = Server::start(&["--shards", "2"]);
    let mut client = Client::connect(&server, "ann");
    client.result("subscribe", json!({"channel": "r"}));
    for number in 1..=10 {
        client.publish("r", number);
    }
    for (parameters, expected) in [
        (json!({}), vec![]),
        (json!({"limit": 3}), vec![1, 2, 3]),
        (json!({"limit": -1}), (1..=10).collect()),
        (json!({"limit": 2, "reverse": true}), vec![10, 9]),
        (json!({"limit": 2, "since": {"offset": 4}}), vec![5, 6]),
        (json!({"limit": 2, "since": {"offset": 4}, "reverse": true}), vec![3, 2]),
    ] {
        let mut parameters = parameters;
        parameters["channel"] = json!("r");
        let result = client.result("history", parameters.clone());
        assert_eq!((publications(&result), &result["offset"]), (expected, &json!(10)), "{parameters}");
    }
}

#[test]
fn presence_of_a_room() {
    let server = Server::start(&["--shards", "3"]);
    let mut ann = Client::connect(&server, "ann");
    ann.result("subscribe", json!({"channel": "r"}));
    assert_eq!(ann.push("join")["info"]["user"], "ann");
    let mut others: Vec<_> = (0..5).map(|_| server.client("/ws/bob?room=r")).collect();
    let ids: Vec<_> = (0..5).map(|_| ann.push("join")["info"]["client"].clone()).collect();
    let members = ann.result("presence", json!({"channel": "r"}))["presence"].clone();
    assert_eq!(members.as_object().unwrap().len(), 6);
    assert!(ids.iter().all(|id| members[id.as_str().unwrap()]["user"] == "bob"));
    let stats = ann.result("presence_stats", json!({"channel": "r"}));
    assert_eq!(stats, json!({"num_clients": 6, "num_users": 2}));
    others.pop().unwrap().close(None).unwrap();
    assert_eq!(ann.push("leave")["info"]["user"], "bob");
    assert_eq!(ann.result("presence_stats", json!({"channel": "r"}))["num_clients"], 5);
}

#[test]
fn pings_are_answered_or_the_client_is_gone() {
    let server = Server::start(&["--shards", "1", "--ping-interval", "400ms", "--pong-timeout", "300ms"]);
    let mut client = Client::raw(&server);
    client.send_line(r#"{"id":1,"connect":{}}"#);
    assert_eq!(client.next()["connect"]["ping"], 1, "whole seconds, rounded up");
    for _ in 0..3 {
        assert_eq!(text(&mut client.socket), "{}");
        client.send_line("{}");
    }
    assert_eq!(text(&mut client.socket), "{}");
    assert_eq!(close_code(&mut client.socket), 3012);
}

#[test]
fn a_drain_makes_clients_reconnect() {
    let mut server = Server::start(&["--shards", "2"]);
    let mut client = Client::connect(&server, "ann");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(close_code(&mut client.socket), 3001);
    assert!(server.wait().success());
}

#[test]
fn how_far_a_publication_has_come_can_be_asked() {
    let server = Server::start(&["--shards", "3"]);
    let mut ann = Client::connect(&server, "ann");
    ann.result("subscribe", json!({"channel": "r"}));
    let mut others: Vec<_> = (0..7).map(|_| server.client("/ws/bob?room=r")).collect();
    ann.publish("r", "hello");
    for other in &mut others {
        assert_eq!(text(other), "ann: hello");
    }
    let result = ann.result("rpc", json!({"method": "delivery", "data": {"channel": "r", "offset": 1}}));
    assert_eq!(result["data"], json!({"members": 8, "sent": 8, "lagging": 0}));
}

#[test]
fn plain_clients_recover_too() {
    let server = Server::start(&["--shards", "2"]);
    let mut publisher = server.client("/ws/ann?room=r");
    for number in 1..=5 {
        publisher.send(Message::text(number.to_string())).unwrap();
        assert_eq!(text(&mut publisher), format!("ann: {number}"));
    }
    let mut late = server.client("/ws/bob?room=r&history=2");
    assert_eq!([text(&mut late), text(&mut late)], ["ann: 4", "ann: 5"]);
    let position = text(&mut late);
    let position = position.strip_prefix(": since=").unwrap();
    let epoch = position.strip_suffix(":5").unwrap();
    let mut back = server.client(&format!("/ws/bob?room=r&since={epoch}:3"));
    assert_eq!([text(&mut back), text(&mut back)], ["ann: 4", "ann: 5"]);
    assert_eq!(text(&mut back), format!(": since={position}"));
    publisher.send(Message::text("6")).unwrap();
    assert_eq!(text(&mut back), "ann: 6");
    let mut lost = server.client("/ws/bob?room=r&since=00000000:3");
    assert_eq!(text(&mut lost), ": messages may be missing here");
    for wrong in ["history=x", "history=-1", "since=3", "since=:x"] {
        let error = server.try_client(&format!("/ws/bob?room=r&{wrong}"), &[]).err().unwrap();
        assert!(error.contains("400"), "{wrong}: {error}");
    }
}
