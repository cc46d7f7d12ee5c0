//! What clients say and hear, by protocol.

/// How a client comes in, speaks, and is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// The bare loop's: whoever speaks sends what everybody is to hear, byte for byte.
    Bare,
    /// Plain text at `/ws/{name}`.
    Plain,
    /// The Centrifuge protocol in JSON.
    Json,
}

/// The name of a speaker has this length, so that what follows stands in one place.
const NAME_BYTES: usize = 11;

/// What stands between a room's name and what was said in it.
const BEFORE_DATA: &str = "\",\"pub\":{\"data\":\"";

/// When something was meant to be said, and by whom: so many hexadecimal digits, and so many decimal ones.
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

impl Dialect {
    /// What `speaker` sends to say a stamped text in `room`, so that a frame of about `frame_bytes` is heard.
    pub fn say(self, frame_bytes: usize, intended: u64, speaker: usize, room: usize) -> Vec<u8> {
        let stamp = format!("{intended:016x}{speaker:05}");
        let fill = |around: usize| "x".repeat(frame_bytes.saturating_sub(around + stamp.len()));
        let header = if frame_bytes > 127 { 4 } else { 2 };
        let name = name_of(speaker);
        let around = header + NAME_BYTES + 2;
        match self {
            Self::Bare => frame(format!("{name}: {stamp}{}", fill(around)).as_bytes(), None),
            Self::Plain => self.utter(&format!("{stamp}{}", fill(around)), room),
            // 140 bytes of position, author and time follow.
            Self::Json => self.utter(&format!("{stamp}{}", fill(header + self.stamp_at() + 140)), room),
        }
    }

    /// What is sent to have `text` heard in `room`.
    pub fn utter(self, text: &str, room: usize) -> Vec<u8> {
        if self != Self::Json {
            return frame(text.as_bytes(), Some(KEY));
        }
        let room = room_of(room);
        let line = format!("{{\"id\":1000,\"publish\":{{\"channel\":\"{room}\",\"data\":\"{text}\"}}}}");
        frame(line.as_bytes(), Some(KEY))
    }

    /// The path of member number `index`'s WebSocket.
    pub fn path(self, index: usize, room: usize) -> String {
        match self {
            Self::Json => "/connection/websocket".to_owned(),
            Self::Bare | Self::Plain => format!("/ws/{}?room={}", name_of(index), room_of(room)),
        }
    }

    /// What a member says first, in one frame, and how many frames that is answered with.
    pub fn greeting(self, index: usize, rooms: &[usize]) -> (Vec<u8>, usize) {
        if self != Self::Json {
            return (Vec::new(), 0);
        }
        let mut lines =
            vec![format!("{{\"id\":1,\"connect\":{{\"data\":{{\"name\":\"{}\"}}}}}}", name_of(index))];
        lines.extend(rooms.iter().zip(2..).map(|(&room, id)| {
            format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"{}\"}}}}", room_of(room))
        }));
        (frame(lines.join("\n").as_bytes(), Some(KEY)), lines.len())
    }

    /// When what was heard was meant to be said, in nanoseconds, and by whom. `None`: this is not something that was said.
    pub fn heard(self, payload: &[u8]) -> Option<(u64, usize)> {
        let at = self.stamp_at();
        if self == Self::Json && !payload.get(..at)?.ends_with(BEFORE_DATA.as_bytes()) {
            return None;
        }
        let (intended, speaker) = payload.get(at..at + STAMP_BYTES)?.split_at(STAMP_DIGITS.0);
        Some((number(intended, 16), usize::try_from(number(speaker, 10)).ok()?))
    }

    fn stamp_at(self) -> usize {
        match self {
            Self::Bare | Self::Plain => NAME_BYTES + 2,
            Self::Json => "{\"push\":{\"channel\":\"room-00000".len() + BEFORE_DATA.len(),
        }
    }
}

fn number(digits: &[u8], radix: u32) -> u64 {
    digits.iter().fold(0, |value, &digit| {
        value * u64::from(radix) + u64::from(char::from(digit).to_digit(radix).unwrap_or(0))
    })
}

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A text frame of up to 64 KiB, masked with `key` if there is one.
fn frame(payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![0x81];
    let masked = if key.is_some() { 0x80 } else { 0 };
    match u8::try_from(payload.len()) {
        Ok(len @ 0..=125) => frame.push(masked | len),
        Ok(_) | Err(_) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]));
    frame
}

/// Takes a server's frames, each of less than 64 KiB, out of a stream in whatever pieces.
#[derive(Clone, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// Calls `each` with the payload of every frame that `bytes` completes.
    pub fn take(&mut self, bytes: &[u8], each: impl FnMut(&[u8])) {
        if self.0.is_empty() {
            let rest = whole_frames(bytes, each);
            self.0.extend_from_slice(&bytes[bytes.len() - rest..]);
            return;
        }
        self.0.extend_from_slice(bytes);
        let rest = whole_frames(&self.0, each);
        self.0.drain(..self.0.len() - rest);
    }
}

/// How many bytes are left behind the last whole frame.
fn whole_frames(mut bytes: &[u8], mut each: impl FnMut(&[u8])) -> usize {
    loop {
        let (header, len) = match *bytes {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, len @ 0..=125, ..] => (2, usize::from(len)),
            _ => return bytes.len(),
        };
        let Some(payload) = bytes.get(header..header + len) else { return bytes.len() };
        each(payload);
        bytes = &bytes[header + len..];
    }
}
