//! Frames: any split gives the whole's events and the whole's failure; tungstenite's server reads the same.
#![no_main]

use std::io::{self, Cursor, Read, Write};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stentor::ws::{Decoded, Decoder, Event, Fail, Inflater, Limits, ProtocolError};
use stentor_testkit::{frame_into, frame_with_key};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

const LIMITS: Limits = Limits { message_bytes_max: 10_000 };

/// What a client sends: frames, of which everything may be wrong but their length, or anything at all.
#[derive(Arbitrary, Debug)]
enum Piece {
    Frame { b0: u8, key: [u8; 4], payload: Vec<u8> },
    Text { fin: bool, text: String },
    Zeros { b0: u8, len: u16 },
    Raw(Vec<u8>),
}

impl Piece {
    fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Frame { b0, key, payload } => out.extend(frame_with_key(*b0, payload, *key)),
            Self::Text { fin, text } => frame_into(out, if *fin { 0x81 } else { 0x01 }, text.as_bytes()),
            Self::Zeros { b0, len } => out.extend(frame_with_key(*b0, &vec![0; usize::from(*len)], [0; 4])),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

#[derive(Debug, PartialEq)]
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
            Event::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code.into(), reason.to_owned()))),
        }
    }
}

impl From<Message> for Owned {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.to_string()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(close) => {
                Self::Close(close.map(|frame| (frame.code.into(), frame.reason.to_string())))
            }
            Message::Frame(_) => unreachable!("tungstenite reads messages"),
        }
    }
}

/// The events up to a Close, after which nothing counts, or a failure. The lengths of the pieces are those of
/// `cuts`, again and again; 0 ends there and gives the rest at once.
fn decode(bytes: &[u8], deflate: bool, cuts: &[u8]) -> (Vec<Owned>, Option<Fail>) {
    let (mut decoder, mut inflater, mut events) = (Decoder::new(deflate), Inflater::default(), Vec::new());
    let mut bytes = bytes.to_vec();
    let (mut rest, mut cuts) = (&mut bytes[..], cuts.iter().cycle());
    loop {
        let len = match cuts.next() {
            None | Some(0) => rest.len(),
            Some(&len) => usize::from(len).min(rest.len()),
        };
        let (mut piece, after) = rest.split_at_mut(len);
        loop {
            match decoder.decode(piece, &mut inflater, &LIMITS) {
                Ok(Decoded { event: None, consumed, .. }) => {
                    assert_eq!(consumed, piece.len());
                    break;
                }
                Ok(Decoded { event: Some(event), consumed, .. }) => {
                    events.push(Owned::from(event));
                    if matches!(events.last(), Some(Owned::Close(_))) {
                        return (events, None);
                    }
                    piece = &mut piece[consumed..];
                }
                Err(fail) => return (events, Some(fail)),
            }
        }
        // What is kept is a message's worth, and no multiple of what has come.
        assert!(decoder.kept_bytes() < 3 * LIMITS.message_bytes_max);
        if after.is_empty() {
            return (events, None);
        }
        rest = after;
    }
}

struct Pipe(Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn agrees_with_tungstenite(bytes: Vec<u8>, events: Vec<Owned>, fail: Option<Fail>) {
    let max = Some(LIMITS.message_bytes_max);
    let config = WebSocketConfig::default().max_message_size(max).max_frame_size(max);
    let mut server = WebSocket::from_raw_socket(Pipe(Cursor::new(bytes)), Role::Server, Some(config));
    let closed = matches!(events.last(), Some(Owned::Close(_)));
    for event in events {
        assert_eq!(Owned::from(server.read().expect("what we took")), event);
    }
    if closed {
        return;
    }
    let read = server.read();
    let ended = matches!(
        &read,
        Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake))
    );
    match (fail, read) {
        (None, _) => assert!(ended, "we wait for more, and it does not"),
        // It reports a code that must not be sent as the Close that it answers with.
        (Some(Fail::Protocol(ProtocolError::InvalidCloseCode)), Ok(Message::Close(_))) => {}
        // It takes lengths that are not the shortest, and with their highest bit set.
        (Some(Fail::Protocol(ProtocolError::LengthNotMinimal | ProtocolError::LengthOverflow)), _) => {}
        // Where it looks when the frame is there, or the message, we do from the first byte that is wrong.
        (Some(_), Err(_)) => {}
        (Some(fail), Ok(message)) => panic!("it takes what we refuse with {fail:?}: {message:?}"),
    }
}

fuzz_target!(|input: (bool, Vec<u8>, Vec<Piece>)| {
    let (deflate, cuts, pieces) = input;
    let mut bytes = Vec::new();
    for piece in &pieces {
        piece.append_to(&mut bytes);
    }
    let whole = decode(&bytes, deflate, &[]);
    assert_eq!(decode(&bytes, deflate, &cuts), whole);
    assert_eq!(decode(&bytes, deflate, &[1]), whole);
    if !deflate {
        agrees_with_tungstenite(bytes, whole.0, whole.1);
    }
});
