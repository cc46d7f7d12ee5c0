//! SockJS over WebSocket, framed and raw.

use tungstenite::{Error, Message};

use super::support::http::Http;
use super::support::{Server, close_code, text};
use super::{CLOSE, COOKIE, ECHO, GO_AWAY, NO_WEBSOCKET, ask, echo_server};

#[test]
fn messages_travel_in_frames() {
    let server = echo_server();
    let mut client = server.client("/sockjs-test/echo/000/s/websocket");
    assert_eq!(text(&mut client), "o");
    // What has no messages in it is ignored.
    for sent in ["", "[]", "[\"a\"]"] {
        client.send(Message::text(sent)).unwrap();
    }
    assert_eq!(text(&mut client), "a[\"a\"]");
    client.send(Message::text("[\"b\",\"\\u0000\u{2028}%\"]")).unwrap();
    let mut received = Vec::new();
    while received.len() < 2 {
        let frame = text(&mut client);
        let messages: Vec<String> = serde_json::from_str(frame.trim_start_matches('a')).expect("JSON");
        received.extend(messages);
    }
    assert_eq!(received, ["b", "\0\u{2028}%"]);
    client.send(Message::text("\"alone\"")).unwrap();
    assert_eq!(text(&mut client), "a[\"alone\"]");
}

#[test]
fn a_session_lasts_as_long_as_its_socket() {
    let server = echo_server();
    let open = || {
        let mut client = server.client("/sockjs-test/echo/000/same/websocket");
        assert_eq!(text(&mut client), "o");
        client
    };
    let mut clients = [open(), open()];
    for (client, message) in clients.iter_mut().zip(["a", "b"]) {
        client.send(Message::text(format!("[\"{message}\"]"))).unwrap();
    }
    for (client, message) in clients.iter_mut().zip(["a", "b"]) {
        assert_eq!(text(client), format!("a[\"{message}\"]"));
    }
    // That name is free for the other transports, too.
    assert_eq!(ask(&server, &format!("POST {ECHO}/000/same/xhr"), "", "").body, "o\n");
    clients[0].close(None).unwrap();
    assert!([1000, 1005].contains(&close_code(&mut clients[0])));
    let mut again = open();
    again.send(Message::text("[\"c\"]")).unwrap();
    assert_eq!(text(&mut again), "a[\"c\"]");
}

#[test]
fn a_close_is_sent_in_a_frame_of_its_own() {
    let server = echo_server();
    let mut client = server.client("/sockjs-test/close/000/s/websocket");
    assert_eq!((text(&mut client), text(&mut client)), ("o".to_owned(), GO_AWAY.to_owned()));
    assert!(matches!(client.read(), Ok(Message::Close(_)) | Err(_)), "and then the socket is closed");
}

#[test]
fn what_is_no_json_ends_the_connection() {
    let server = echo_server();
    for sent in ["[\"a", "[\"a\"", "a", "[1]", "{}", "[\"a\"][\"b\"]"] {
        let mut client = server.client("/sockjs-test/echo/000/s/websocket");
        assert_eq!(text(&mut client), "o");
        client.send(Message::text(sent)).unwrap();
        assert!(matches!(client.read(), Ok(Message::Close(_)) | Err(_)), "{sent}");
    }
}

#[test]
fn raw_messages_have_no_frames() {
    let server = echo_server();
    let mut client = server.client("/sockjs-test/echo/websocket");
    for sent in ["Hello world!\u{ffff}", "[\"a\"]", "\"", ""] {
        client.send(Message::text(sent)).unwrap();
        assert_eq!(text(&mut client), sent);
    }
    let mut client = server.client("/sockjs-test/close/websocket");
    match client.read() {
        Ok(Message::Close(Some(frame))) => {
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (3000, "Go away!"));
        }
        other => panic!("not a Close frame: {other:?}"),
    }
}

const KEY: &str = "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n";

#[test]
fn the_handshake() {
    let server = echo_server();
    let path = format!("GET {ECHO}/000/s/websocket");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    // A client of a draft names its origin in another field, which says nothing here.
    for more in ["Sec-WebSocket-Origin: http://asd\r\n", "Origin: http://asd\r\n", ""] {
        let mut http = Http::connect(&server);
        http.send(&format!("{path} HTTP/1.1\r\nHost: h\r\n{upgrade}{KEY}{more}\r\n"));
        let head = http.head();
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.field("Sec-WebSocket-Accept"), Some("HSmrc0sMlYUkAGmm5OPpG2HaGWk="));
        assert_eq!(head.field("Connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(head.field("Upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
        assert_eq!(head.field("Content-Length"), None);
    }
}

#[test]
fn requests_that_are_no_handshake() {
    let server = echo_server();
    for service in [ECHO, CLOSE, COOKIE] {
        for path in ["/0/0/websocket", "/websocket"] {
            for lines in ["", "Upgrade: WebSocket\r\nConnection: close\r\n", "Connection: Upgrade\r\n"] {
                let answer = ask(&server, &format!("GET {service}{path}"), lines, "");
                assert!(matches!(answer.status, 400 | 426), "{service}{path} {lines}: {answer:?}");
                if path == "/0/0/websocket" {
                    assert_eq!(answer.status, 400, "{service} {lines}: {answer:?}");
                }
            }
        }
    }
    // The handshake of a draft (hixie-76), whose key is the request's content: RFC 6455 §4.2.1 requires
    // version 13.
    let draft = "Upgrade: WebSocket\r\nConnection: Upgrade\r\nOrigin: http://h\r\n\
        Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\nSec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n";
    let answer = ask(&server, &format!("GET {ECHO}/000/s/websocket"), draft, "");
    assert!(matches!(answer.status, 400 | 426), "{answer:?}");
}

#[test]
fn a_service_without_websocket() {
    let server = echo_server();
    for path in ["/000/s/websocket", "/websocket"] {
        let error = server.try_client(&format!("{NO_WEBSOCKET}{path}"), &[]).expect_err("a refusal");
        assert!(error.contains("404") || error.contains("403"), "{path}: {error}");
    }
    assert_eq!(ask(&server, &format!("POST {NO_WEBSOCKET}/000/s/xhr"), "", "").body, "o\n");
}

#[test]
fn a_websocket_of_a_busy_shard_delivers_in_order() {
    let server = Server::start(&["--shards", "2", "--echo"]);
    let mut client = server.client("/sockjs-test/echo/000/s/websocket");
    assert_eq!(text(&mut client), "o");
    for number in 0..500 {
        client.send(Message::text(format!("[\"{number}\",\"{number}.5\"]"))).unwrap();
    }
    let mut received = Vec::new();
    while received.len() < 1000 {
        let messages: Vec<String> = match client.read() {
            Ok(Message::Text(frame)) => serde_json::from_str(frame.trim_start_matches('a')).expect("JSON"),
            Ok(_) => continue,
            Err(Error::ConnectionClosed) => panic!("closed after {received:?}"),
            Err(error) => panic!("{error}"),
        };
        received.extend(messages);
    }
    let expected: Vec<_> = (0..500).flat_map(|number| [format!("{number}"), format!("{number}.5")]).collect();
    assert_eq!(received, expected);
}
