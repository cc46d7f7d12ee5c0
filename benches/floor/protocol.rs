//! What clients send and receive, by protocol.

use stentor_testkit::{header_into, text as text_frame};

/// A client's protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The bare loop's: a publisher sends the frame that all receive, byte for byte.
    Bare,
    /// Plain text at `/ws/{name}`.
    Plain,
    /// The Centrifuge protocol in JSON.
    Json,
    /// Server-sent events at `/sse/{name}`.
    Events,
    /// Lines of JSON at `/stream/{name}`.
    Lines,
}

/// What stands around the text of an event, or of a line, with the chunk's header; an offset has about five
/// digits.
const EVENT_BYTES: usize =
    "a0\r\nid: 00000001:12345\ndata: {\"name\":\"member-0000\",\"text\":\"\"}\n\n\r\n".len();
const LINE_BYTES: usize =
    "a0\r\n{\"position\":\"00000001:12345\",\"name\":\"member-0000\",\"text\":\"\"}\n\r\n".len();

/// What stands before the text in both.
const BEFORE_TEXT: &[u8] = b"\"text\":\"";

/// The name of a publisher has this length, so that what follows has a fixed offset.
const NAME_BYTES: usize = 11;

/// What stands between a room's name and the message's data.
const BEFORE_DATA: &str = "\",\"pub\":{\"data\":\"";

/// The intended time of a message, and its publisher: so many hexadecimal digits, and so many decimal ones.
const STAMP_DIGITS: (usize, usize) = (16, 5);
const STAMP_BYTES: usize = STAMP_DIGITS.0 + STAMP_DIGITS.1;

/// What member number `index` is called.
pub fn name_of(index: usize) -> String {
    format!("member-{:04}", index % 10_000)
}

/// What room number `index` is called.
pub fn room_of(index: usize) -> String {
    format!("room-{index:05}")
}

impl Protocol {
    /// Whether its members receive a chunked stream.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Events | Self::Lines)
    }

    /// What `publisher` sends to publish a stamped text in `room`, so that a frame of about `frame_bytes` is
    /// received.
    pub fn publish(self, frame_bytes: usize, intended: u64, publisher: usize, room: usize) -> Vec<u8> {
        let stamp = format!("{intended:016x}{publisher:05}");
        let fill = |around: usize| "x".repeat(frame_bytes.saturating_sub(around + stamp.len()));
        let header = if frame_bytes > 127 { 4 } else { 2 };
        let name = name_of(publisher);
        let around = header + NAME_BYTES + 2;
        match self {
            Self::Bare => server_frame(&format!("{name}: {stamp}{}", fill(around))),
            Self::Plain => self.publish_text(&format!("{stamp}{}", fill(around)), room),
            Self::Events => self.publish_text(&format!("{stamp}{}", fill(EVENT_BYTES)), room),
            Self::Lines => self.publish_text(&format!("{stamp}{}", fill(LINE_BYTES)), room),
            // 140 bytes of position, author and time follow.
            Self::Json => {
                self.publish_text(&format!("{stamp}{}", fill(header + self.stamp_at() + 140)), room)
            }
        }
    }

    /// What is sent to publish `text` in `room`.
    pub fn publish_text(self, text: &str, room: usize) -> Vec<u8> {
        if self != Self::Json {
            return text_frame(text);
        }
        let room = room_of(room);
        let line = format!("{{\"id\":1000,\"publish\":{{\"channel\":\"{room}\",\"data\":\"{text}\"}}}}");
        text_frame(&line)
    }

    /// The path of member number `index`'s WebSocket.
    pub fn path(self, index: usize, room: usize) -> String {
        match self {
            Self::Json => "/connection/websocket".to_owned(),
            Self::Bare | Self::Plain | Self::Events | Self::Lines => {
                format!("/ws/{}?room={}", name_of(index), room_of(room))
            }
        }
    }

    /// A member's first frame, and how many frames that is answered with.
    pub fn first_frame(self, index: usize, rooms: &[usize]) -> (Vec<u8>, usize) {
        if self != Self::Json {
            return (Vec::new(), 0);
        }
        let mut lines =
            vec![format!("{{\"id\":1,\"connect\":{{\"data\":{{\"name\":\"{}\"}}}}}}", name_of(index))];
        lines.extend(rooms.iter().zip(2..).map(|(&room, id)| {
            format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"{}\"}}}}", room_of(room))
        }));
        (text_frame(&lines.join("\n")), lines.len())
    }

    /// The intended time of a received message, in nanoseconds, and its publisher. `None`: this is no stamped
    /// message.
    pub fn received(self, payload: &[u8]) -> Option<(u64, usize)> {
        let at = if self.is_stream() {
            memchr::memmem::find(payload, BEFORE_TEXT)? + BEFORE_TEXT.len()
        } else {
            self.stamp_at()
        };
        if self == Self::Json && !payload.get(..at)?.ends_with(BEFORE_DATA.as_bytes()) {
            return None;
        }
        let (intended, publisher) = payload.get(at..at + STAMP_BYTES)?.split_at(STAMP_DIGITS.0);
        Some((number(intended, 16), usize::try_from(number(publisher, 10)).ok()?))
    }

    fn stamp_at(self) -> usize {
        match self {
            Self::Bare | Self::Plain | Self::Events | Self::Lines => NAME_BYTES + 2,
            Self::Json => "{\"push\":{\"channel\":\"room-00000".len() + BEFORE_DATA.len(),
        }
    }
}

fn number(digits: &[u8], radix: u32) -> u64 {
    digits.iter().fold(0, |value, &digit| {
        value * u64::from(radix) + u64::from(char::from(digit).to_digit(radix).unwrap_or(0))
    })
}

/// A text frame as a server sends it: the bare loop hands it on as it is.
fn server_frame(text: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    header_into(&mut frame, 0x81, text.len() as u64, None);
    frame.extend_from_slice(text.as_bytes());
    frame
}
