//! The protocol against its own text and against a second opinion: RFC 6455's examples, a decoder written the
//! plainest way, and tungstenite in both directions. (The Autobahn test-suite is a step of `test.sh`.)

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use proptest::prelude::*;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use stentor::ws::{
    CloseCode, Decoded, Decoder, Event, Fail, Inflater, Limits, Opcode, ProtocolError, close_into, frame_into,
};
use stentor_testkit::{frame, frame_with_key};
use support::{SECRET, Server, token};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

const LIMITS: Limits = Limits { message_bytes_max: 100_000 };

/// An event that owns its bytes.
#[derive(Clone, PartialEq, Debug)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code.into(), reason.to_owned()))),
        }
    }
}

/// The decoder's events of `bytes` when they come in pieces that end at `cuts`.
fn decode(bytes: &[u8], deflate: bool, cuts: &[usize]) -> (Vec<Owned>, Option<Fail>) {
    let (mut decoder, mut inflater, mut events) = (Decoder::new(deflate), Inflater::default(), Vec::new());
    let mut bounds: Vec<usize> =
        cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    bounds.sort_unstable();
    for piece in bounds.windows(2) {
        let mut piece = bytes[piece[0]..piece[1]].to_vec();
        let mut rest = &mut piece[..];
        loop {
            match decoder.decode(rest, &mut inflater, &LIMITS) {
                Ok(Decoded { event: None, consumed, .. }) => {
                    assert!(consumed <= rest.len());
                    break;
                }
                Ok(Decoded { event: Some(event), consumed, .. }) => {
                    let event = Owned::from(event);
                    rest = &mut rest[consumed..];
                    let last = matches!(event, Owned::Close(_));
                    events.push(event);
                    if last {
                        return (events, None);
                    }
                }
                Err(fail) => return (events, Some(fail)),
            }
        }
    }
    assert!(bytes.is_empty() || decoder.kept_bytes() < 2 * LIMITS.message_bytes_max + 1024);
    (events, None)
}

/// The examples of RFC 6455 §5.7.
#[test]
fn the_rfcs_examples() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&hello, false, &[]), (vec![Owned::Text("Hello".into())], None));
    let mut out = Vec::new();
    frame_into(&mut out, Opcode::Text, &[b"Hello"]);
    assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    let fragments =
        [frame_with_key(0x01, b"Hel", [1, 2, 3, 4]), frame_with_key(0x80, b"lo", [5, 6, 7, 8])].concat();
    assert_eq!(decode(&fragments, false, &[]), (vec![Owned::Text("Hello".into())], None));
    let ping = frame_with_key(0x89, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
    assert_eq!(decode(&ping, false, &[]), (vec![Owned::Ping(b"Hello".to_vec())], None));
    for len in [256, 65_536] {
        let mut out = Vec::new();
        frame_into(&mut out, Opcode::Binary, &[&vec![0; len]]);
        let header: &[u8] =
            if len == 256 { &[0x82, 0x7E, 1, 0] } else { &[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0] };
        assert_eq!(&out[..header.len()], header);
    }
}

#[test]
fn faults_and_their_codes() {
    for (bytes, code) in [
        (vec![0x81, 0x05], 1002),                                // not masked
        (frame(0x80, b"x"), 1002),                               // continues nothing
        ([frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002), // two at once
        (frame_with_key(0x81, b"\xff", [9; 4]), 1007),
        ([frame(0x01, b"\xe2\x82"), frame(0x80, b"")].concat(), 1007), // ends inside a character
        (frame(0x88, &[3]), 1002),
        (frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (frame(0x88, &999_u16.to_be_bytes()), 1002),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
        (vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0], 1009), // 1 MiB announced: refused at once
        (vec![0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0], 1009),
    ] {
        let (_, fail) = decode(&bytes, false, &[]);
        // The length alone is not a header yet: one more byte of mask decides.
        let fail = fail.or_else(|| decode(&[&bytes[..], &[0; 4]].concat(), false, &[]).1);
        assert_eq!(fail.map(|fail| u16::from(fail.close_code())), Some(code), "{bytes:02x?}");
    }
}

#[test]
fn a_fault_in_text_is_found_before_the_frame_ends() {
    let mut frame = frame_with_key(0x81, &[b"fine, then ".as_slice(), b"\xed\xa0"].concat(), [1, 2, 3, 4]);
    frame[1] = 0x80 | 100; // as if much more were to come
    let (_, fail) = decode(&frame, false, &[]);
    assert_eq!(fail, Some(Fail::Protocol(ProtocolError::InvalidUtf8)));
}

#[test]
fn tiny_fragments_cost_no_memory_of_their_own() {
    let mut bytes = frame(0x02, b"x");
    for _ in 0..65_534 {
        bytes.extend(frame(0x00, b"x"));
    }
    bytes.extend(frame(0x80, b"x"));
    assert_eq!(decode(&bytes, false, &[7, 1000]).0, [Owned::Binary(vec![b'x'; 65_536])]);
}

/// A stream with one end for reading and one for writing.
struct Pipe {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenite(role: Role, input: Vec<u8>) -> WebSocket<Pipe> {
    let pipe = Pipe { input: Cursor::new(input), output: Vec::new() };
    WebSocket::from_raw_socket(pipe, role, Some(WebSocketConfig::default()))
}

fn owned(message: Message) -> Owned {
    match message {
        Message::Text(text) => Owned::Text(text.to_string()),
        Message::Binary(bytes) => Owned::Binary(bytes.to_vec()),
        Message::Ping(bytes) => Owned::Ping(bytes.to_vec()),
        Message::Pong(bytes) => Owned::Pong(bytes.to_vec()),
        Message::Close(frame) => {
            Owned::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string())))
        }
        Message::Frame(_) => unreachable!("tungstenite reads messages"),
    }
}

fn message() -> impl Strategy<Value = Owned> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        any::<String>().prop_map(Owned::Text),
        bytes(300).prop_map(Owned::Binary),
        Just(Owned::Binary(vec![7; 70_000])),
        bytes(126).prop_map(Owned::Ping),
        bytes(126).prop_map(Owned::Pong),
    ]
}

/// Frames of every kind, some of them wrong.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (
        prop_oneof![
            8 => prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0xC1, 0x41]),
            1 => any::<u8>(),
        ],
        prop_oneof![any::<String>().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..140),],
        any::<[u8; 4]>(),
    );
    prop::collection::vec(frame, 0..8).prop_map(|frames| {
        frames.into_iter().flat_map(|(b0, payload, key)| frame_with_key(b0, &payload, key)).collect()
    })
}

/// The last column of the tables in `docs/rfc.md` names tests: each of them exists.
#[test]
fn the_tests_of_the_rfcs_table_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests"].into_iter().flat_map(support::sources::sources);
    let sources: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let table = fs::read_to_string(root.join("docs/rfc.md")).unwrap();
    let mut found = 0;
    for row in table.lines().filter(|line| line.matches('|').count() == 5) {
        let tests = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
        for test in tests.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')) {
            assert!(sources.contains(&format!("fn {test}(")), "{test} is no test: {row}");
            found += 1;
        }
    }
    assert!(found > 80, "only {found} tests are named");
}

/// A request for one answer.
fn request(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: h\r\n{more}Connection: close\r\n\r\n")
}

/// An opening handshake, without its last line.
const UPGRADE: &str = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";

/// RFC 9110 and 9112 where they bind an origin server, as its clients see it.
#[test]
fn responses_are_valid_http() {
    let server = Server::start(&["--shards", "1"]);
    let page = server.ask(&request("GET /", ""));
    let etag = page.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    for (line, more, status) in [
        ("GET /", "", "200 OK"),
        ("HEAD /", "", "200 OK"),
        ("GET HTTP://h/healthz", "", "200 OK"),
        ("GET http://h?q", "", "200 OK"),
        ("GET wss://h:443/healthz?q", "", "200 OK"),
        ("GET http://u@h/healthz", "", "400 Bad Request"),
        ("GET http:///healthz", "", "400 Bad Request"),
        ("GET /healthz#f", "", "400 Bad Request"),
        ("GET /", &format!("If-None-Match: \"x\", W/{etag}\r\n"), "304 Not Modified"),
        ("HEAD /", "If-None-Match: *\r\n", "304 Not Modified"),
        ("GET /", "If-Match: \"x\"\r\n", "412 Precondition Failed"),
        ("HEAD /nowhere", "", "404 Not Found"),
        ("DELETE /", "", "405 Method Not Allowed"),
        ("get /", "", "405 Method Not Allowed"),
        ("OPTIONS *", "", "400 Bad Request"),
        ("CONNECT h:80", "", "400 Bad Request"),
        ("GET /", "Content-Length: 1\r\nExpect: 100-continue\r\n", "400 Bad Request"),
        ("HEAD /", "X : y\r\n", "400 Bad Request"),
    ] {
        // What follows a request that closes the connection is not looked at.
        let answer = server.ask(&(request(line, more) + "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {answer}");
        assert_eq!(answer.matches("\r\nServer: ").count(), 1, "{line}: {answer}");
        let (head, content) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.matches("\r\nDate: ").count(), 1, "{line}: {answer}");
        assert!(head.contains("\r\nConnection: close"), "{line}: {answer}");
        let none = line.starts_with("HEAD") || status.starts_with("304");
        assert_eq!(content.is_empty(), none, "{line}: {answer}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        assert_eq!(length.is_none(), status.starts_with("304"), "{line}: {answer}");
        assert!(none || length == Some(&content.len().to_string()), "{line}: {answer}");
    }
}

/// The opening handshake of RFC 6455 §4.2, with a token as RFC 9110 §11 lets it be written.
#[test]
fn handshakes_follow_the_rfc() {
    let settings = ["--shards", "1", "--auth", "token", "--token-hmac-secret-files", SECRET];
    let server = Server::start(&settings);
    let token = token(&["--user", "ann", "--name", "Ann"]);
    let ask = |more: &str| {
        let mut stream = server.raw();
        let key = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n";
        stream.write_all(format!("GET /ws/Ann HTTP/1.1\r\n{UPGRADE}{key}{more}\r\n").as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    for scheme in ["Bearer", "bearer", "BEARER  "] {
        let answer = ask(&format!("Authorization: {scheme} {token}\r\nSec-WebSocket-Protocol: CHAT\r\n"));
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Accept: OfS0wDaT5NoxF2gqm7Zj2YtetzM=\r\n"), "{answer}");
        assert!(!answer.contains("Sec-WebSocket-Protocol") && !answer.contains("Content-Length"), "{answer}");
    }
    let bearer = format!("Authorization: bearer {token}\r\n");
    for (more, status) in [
        (String::new(), "401 Unauthorized"),
        (bearer.repeat(2), "401 Unauthorized"),
        (format!("Authorization: Basic {token}\r\n"), "401 Unauthorized"),
        (format!("{bearer}Sec-WebSocket-Extensions: x; y=\"a, permessage-deflate\r\n"), "400 Bad Request"),
    ] {
        let answer = ask(&more);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{more}: {answer}");
    }
}

/// §5.5.1: a Close is answered with its code, then the server closes the connection, and nothing that follows
/// is taken. §5.5.2: a ping is answered with its payload. §5.1: nothing is masked, and what is not masked
/// fails the connection.
#[test]
fn control_frames_are_answered_and_the_server_closes() {
    let server = Server::start(&["--shards", "1", "--echo"]);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = format!("GET /echo HTTP/1.1\r\n{UPGRADE}{key}\r\n").into_bytes();
    let after_close =
        [frame_with_key(0x88, b"\x0f\xa0bye", [7; 4]), frame_with_key(0x81, b"late", [7; 4])].concat();
    let fragments = [
        frame_with_key(0x01, b"Hel", [1, 2, 3, 4]),
        frame_with_key(0x89, b"in between", [9, 8, 7, 6]),
        frame_with_key(0x80, b"lo", [5, 6, 7, 8]),
        frame_with_key(0x88, b"", [7; 4]),
    ];
    for (frames, answer) in [
        (frame_with_key(0x88, b"", [7; 4]), &b"\x88\x00"[..]),
        (after_close, b"\x88\x02\x0f\xa0"),
        (fragments.concat(), b"\x8a\x0ain between\x81\x05Hello\x88\x00"),
        (b"\x81\x02hi".to_vec(), b"\x88\x26\x03\xeaa frame from a client must be masked"),
        (
            [frame_with_key(0x83, b"", [7; 4]), frame_with_key(0x88, b"", [7; 4])].concat(),
            b"\x88\x18\x03\xeathe opcode is reserved",
        ),
    ] {
        let mut stream = server.raw();
        stream.write_all(&[&head[..], &frames].concat()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(all[at..].escape_ascii().to_string(), answer.escape_ascii().to_string());
    }
}

proptest! {
    #[test]
    fn any_split_equals_the_whole(bytes in frames(), deflate: bool, cuts in prop::collection::vec(any::<usize>(), 0..20)) {
        prop_assert_eq!(decode(&bytes, deflate, &cuts), decode(&bytes, deflate, &[]));
        let every_byte: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(decode(&bytes, deflate, &every_byte), decode(&bytes, deflate, &[]));
    }

    #[test]
    fn tungstenites_client_is_understood(messages in prop::collection::vec(message(), 0..8)) {
        let mut client = tungstenite(Role::Client, Vec::new());
        for message in &messages {
            client.send(match message.clone() {
                Owned::Text(text) => Message::text(text),
                Owned::Binary(bytes) => Message::binary(bytes),
                Owned::Ping(bytes) => Message::Ping(bytes.into()),
                Owned::Pong(bytes) => Message::Pong(bytes.into()),
                Owned::Close(_) => Message::Close(None),
            }).unwrap();
        }
        prop_assert_eq!(decode(&client.get_ref().output, false, &[]), (messages, None));
    }

    #[test]
    fn tungstenites_client_understands_our_frames(
        messages in prop::collection::vec(message(), 0..8), code in 3000u16..5000, reason: String,
    ) {
        let mut out = Vec::new();
        for message in &messages {
            match message {
                Owned::Text(text) => frame_into(&mut out, Opcode::Text, &[text.as_bytes()]),
                Owned::Binary(bytes) => frame_into(&mut out, Opcode::Binary, &[bytes]),
                Owned::Ping(bytes) => frame_into(&mut out, Opcode::Ping, &[bytes]),
                Owned::Pong(bytes) => frame_into(&mut out, Opcode::Pong, &[bytes]),
                Owned::Close(_) => {}
            }
        }
        close_into(&mut out, CloseCode::from(code), &reason);
        let mut client = tungstenite(Role::Client, out);
        for message in messages {
            prop_assert_eq!(owned(client.read().unwrap()), message);
        }
        let Owned::Close(Some((seen, cut))) = owned(client.read().unwrap()) else { panic!("no Close") };
        prop_assert_eq!(seen, code);
        prop_assert!(reason.starts_with(&cut) && (cut.len() > 119 || cut == reason));
    }

    /// tungstenite's server reads the same frames: both take the same messages, and stop at the same one.
    #[test]
    fn tungstenite_agrees_on_violations(bytes in frames()) {
        let (events, fail) = decode(&bytes, false, &[]);
        let mut server = tungstenite(Role::Server, bytes);
        for event in events {
            prop_assert_eq!(owned(server.read().unwrap()), event);
        }
        let end = match server.read() {
            Err(end) => end,
            // It reports a code that must not be sent as the Close that it answers with.
            Ok(Message::Close(_)) if fail == Some(Fail::Protocol(ProtocolError::InvalidCloseCode)) => return Ok(()),
            Ok(message) => panic!("tungstenite takes what we refuse with {fail:?}: {message:?}"),
        };
        let ended = matches!(&end, tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake));
        // It notices a fault only when the frame is complete, so the end of the input may come first.
        prop_assert!(fail.is_some() || ended, "we took what tungstenite refuses: {end}");
        prop_assert!(fail.is_none() || !ended || matches!(fail, Some(Fail::Protocol(ProtocolError::InvalidUtf8))), "{fail:?}");
    }
}
