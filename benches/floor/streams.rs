//! Members of streams of HTTP: server-sent events and lines of JSON. They receive only; what they receive is
//! published by members with a WebSocket in the same room.

use std::io::{Read, Write};

use stentor_testkit::FrameReader;

use super::client::Topology;
use super::protocol::{Protocol, name_of, room_of};

/// What a member has received and not used.
pub enum Reader {
    /// Of a WebSocket.
    Frames(FrameReader),
    /// Of a chunked stream: what is not whole.
    Chunks(Vec<u8>),
}

impl Reader {
    /// The reader of a member that has received nothing.
    pub fn new(protocol: Protocol) -> Self {
        if protocol.is_stream() { Self::Chunks(Vec::new()) } else { Self::Frames(FrameReader::default()) }
    }

    /// Calls `each` with the payload of every frame, or the content of every chunk, that `bytes` completes.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        match self {
            Self::Frames(frames) => frames.take(bytes, |frame| each(frame.payload)),
            Self::Chunks(tail) if tail.is_empty() => {
                let used = chunks(bytes, &mut each);
                tail.extend_from_slice(&bytes[used..]);
            }
            Self::Chunks(tail) => {
                tail.extend_from_slice(bytes);
                let used = chunks(tail, &mut each);
                tail.drain(..used);
            }
        }
    }
}

/// Calls `each` with every whole chunk at the front of `bytes`; returns their length.
fn chunks(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
    let mut used = 0;
    while let Some(digits) = memchr::memchr(b'\r', &bytes[used..]) {
        let size = &bytes[used..used + digits];
        let size = size.iter().fold(0, |size, &digit| {
            size * 16 + char::from(digit).to_digit(16).expect("a chunk begins with its size") as usize
        });
        let start = used + digits + 2;
        let Some(content) = bytes.get(start..start + size) else { break };
        if bytes.len() < start + size + 2 {
            break;
        }
        each(content);
        used = start + size + 2;
    }
    used
}

/// The request of a member.
fn request(topology: &Topology, member: usize, room: usize) -> String {
    let path = match topology.protocol {
        Protocol::Events => "sse",
        Protocol::Lines => "stream",
        Protocol::Bare | Protocol::Plain | Protocol::Json => unreachable!("they are no streams"),
    };
    format!("GET /{path}/{}?room={} HTTP/1.1\r\nHost: localhost\r\n\r\n", name_of(member), room_of(room))
}

/// Reads an answer up to the room's position, with which the member has joined. Nothing is published yet, so
/// nothing follows.
pub fn answered(socket: &mut socket2::Socket) {
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    let has_joined = |answer: &[u8]| {
        let behind = memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        let has = |mark: &[u8]| memchr::memmem::find(&answer[behind..], mark).is_some();
        (has(b"id: ") || has(b"\"position\"")) && answer.ends_with(b"\n\r\n")
    };
    while !has_joined(&answer) {
        let len = socket.read(&mut buffer).expect("the server answers");
        assert!(len > 0, "the server closed a connection: {}", answer.escape_ascii());
        answer.extend_from_slice(&buffer[..len]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
}

/// Asks for a member's stream.
pub fn ask(socket: &mut socket2::Socket, topology: &Topology, member: usize, room: usize) {
    socket.write_all(request(topology, member, room).as_bytes()).expect("the server reads");
}
