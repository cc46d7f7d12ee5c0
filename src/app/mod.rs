//! Where the domain meets the wire: in which forms a publication travels, and that each is made once.

#![forbid(unsafe_code)]

pub mod json;
pub mod text;

use bytes::Bytes;

use crate::base::spsc::Weigh;
use crate::chat::{Move, Publication};
use crate::ws::{self, Deflater, Opcode, Window};

/// An application protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// [`text`].
    Text,
    /// [`json`].
    Json,
}

/// In which form a member takes what is published: the protocol that it speaks, and what it agreed on about compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WireFormat {
    /// Plain text frames.
    Text,
    /// Plain text, compressed with a window of 32 KiB.
    TextDeflated,
    /// Plain text, compressed with a window of 512 bytes, for clients that asked for a small one.
    TextDeflatedSmall,
    /// JSON.
    Json,
    /// JSON, compressed with a window of 32 KiB.
    JsonDeflated,
    /// JSON, compressed with a window of 512 bytes.
    JsonDeflatedSmall,
}

impl WireFormat {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every format, in the order of its discriminant.
    pub const ALL: [Self; 6] = [
        Self::Text,
        Self::TextDeflated,
        Self::TextDeflatedSmall,
        Self::Json,
        Self::JsonDeflated,
        Self::JsonDeflatedSmall,
    ];

    /// The format for a client that speaks `protocol` and agreed on `window` (RFC 7692), if on any.
    pub const fn new(protocol: Protocol, window: Option<Window>) -> Self {
        match (protocol, window) {
            (Protocol::Text, None) => Self::Text,
            (Protocol::Text, Some(Window::Full)) => Self::TextDeflated,
            (Protocol::Text, Some(Window::Small)) => Self::TextDeflatedSmall,
            (Protocol::Json, None) => Self::Json,
            (Protocol::Json, Some(Window::Full)) => Self::JsonDeflated,
            (Protocol::Json, Some(Window::Small)) => Self::JsonDeflatedSmall,
        }
    }

    /// The protocol.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Text | Self::TextDeflated | Self::TextDeflatedSmall => Protocol::Text,
            Self::Json | Self::JsonDeflated | Self::JsonDeflatedSmall => Protocol::Json,
        }
    }

    const fn window(self) -> Option<Window> {
        match self {
            Self::Text | Self::Json => None,
            Self::TextDeflated | Self::JsonDeflated => Some(Window::Full),
            Self::TextDeflatedSmall | Self::JsonDeflatedSmall => Some(Window::Small),
        }
    }
}

/// Some of the wire formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FormatSet(u8);

const _: () = assert!(WireFormat::COUNT <= 8, "FormatSet has a bit for each format");

impl FormatSet {
    /// With `format` too.
    #[must_use]
    pub const fn with(self, format: WireFormat) -> Self {
        Self(self.0 | 1 << format as u8)
    }

    /// All that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that belong to `protocol`.
    #[must_use]
    pub fn of(self, protocol: Protocol) -> Self {
        let belonging = WireFormat::ALL.into_iter().filter(|format| format.protocol() == protocol);
        belonging.filter(|&format| self.contains(format)).fold(Self::default(), Self::with)
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `format` is among them.
    pub const fn contains(self, format: WireFormat) -> bool {
        self.0 & (1 << format as u8) != 0
    }
}

/// The frames of one publication: at most one encoding for each format, whatever the room's size.
#[derive(Clone, Debug, Default)]
pub struct Encodings([Option<Bytes>; WireFormat::COUNT]);

/// What encoding needs beside the text.
#[derive(Debug)]
pub struct Encoder {
    /// Publications shorter than this are not compressed.
    pub deflate_bytes_min: usize,
    deflater: Deflater,
}

impl Encoder {
    /// An encoder that compresses payloads of `deflate_bytes_min` bytes or more.
    pub fn new(deflate_bytes_min: usize) -> Self {
        Self { deflate_bytes_min, deflater: Deflater::default() }
    }

    /// One payload, compressed for one connection only.
    pub fn deflate(&mut self, window: Window, payload: &[u8]) -> &[u8] {
        self.deflater.deflate(window, &[payload])
    }

    /// The frames of a publication in `room`, in each of `formats`.
    pub fn publication(&mut self, room: &str, publication: &Publication, formats: FormatSet) -> Encodings {
        let mut encodings = Encodings::default();
        let text = formats.of(Protocol::Text);
        if !text.is_empty() {
            self.encode(&mut encodings, text, &text::payload(publication));
        }
        let json = formats.of(Protocol::Json);
        if !json.is_empty() {
            self.encode(&mut encodings, json, &json::push(room, &publication.json));
        }
        encodings
    }

    /// The frames that tell who has come into `room` and who has left it. Plain members are not told.
    pub fn moves(&mut self, room: &str, moves: &[Move], formats: FormatSet) -> Encodings {
        let mut encodings = Encodings::default();
        let json = formats.of(Protocol::Json);
        if !json.is_empty() {
            self.encode(&mut encodings, json, &json::moves(room, moves));
        }
        encodings
    }

    /// One payload as a text frame, in each of `formats`.
    fn encode(&mut self, encodings: &mut Encodings, formats: FormatSet, payload: &[u8]) {
        let mut plain = Vec::with_capacity(payload.len() + ws::FRAME_HEAD_BYTES_MAX);
        ws::frame_into(&mut plain, Opcode::Text, &[payload]);
        let plain = Bytes::from(plain);
        for format in WireFormat::ALL.into_iter().filter(|&format| formats.contains(format)) {
            let compressed = format
                .window()
                .filter(|_| payload.len() >= self.deflate_bytes_min)
                .map(|window| deflated_frame(&mut self.deflater, window, payload))
                .filter(|frame| frame.len() < plain.len()); // a message may always travel uncompressed (RFC 7692 §6)
            encodings.0[format as usize] = Some(compressed.unwrap_or_else(|| plain.clone()));
        }
    }
}

fn deflated_frame(deflater: &mut Deflater, window: Window, payload: &[u8]) -> Bytes {
    let compressed = deflater.deflate(window, &[payload]);
    let mut out = Vec::with_capacity(compressed.len() + ws::FRAME_HEAD_BYTES_MAX);
    ws::deflated_frame_into(&mut out, Opcode::Text, compressed);
    out.into()
}

impl Encodings {
    /// The frame in `format`, if it was made.
    pub const fn get(&self, format: WireFormat) -> Option<&Bytes> {
        self.0[format as usize].as_ref()
    }
}

impl Weigh for Encodings {
    fn weight(&self) -> usize {
        self.0.iter().flatten().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Body, ClientId, Epoch, Member, Person, Position};
    use std::sync::Arc;

    #[test]
    fn formats_stand_at_their_discriminants() {
        for (index, format) in WireFormat::ALL.into_iter().enumerate() {
            assert_eq!(index, format as usize);
            assert_eq!(WireFormat::new(format.protocol(), format.window()), format);
        }
    }

    fn said(text: &str) -> Publication {
        let client = ClientId::from_random(1);
        let person = Person { client, user: "ann".into(), name: "ann".into(), info: None };
        let mut publication = Publication {
            position: Position { epoch: Epoch(1), offset: 1 },
            said: crate::base::Time::ZERO,
            unix_ms: 0,
            author: Member { person: Arc::new(person), info: None },
            body: Body::Text(text.to_owned().into()),
            json: Bytes::new(),
        };
        publication.json = json::publication(&publication, true);
        publication
    }

    #[test]
    fn only_the_wanted_formats_are_made_and_small_ones_stay_plain() {
        let mut encoder = Encoder::new(100);
        let both = FormatSet::default().with(WireFormat::Text).with(WireFormat::TextDeflated);
        let short = encoder.publication("r", &said("hi"), both);
        assert_eq!(short.get(WireFormat::Text).unwrap(), &b"\x81\x07ann: hi"[..]);
        assert_eq!(short.get(WireFormat::TextDeflated), short.get(WireFormat::Text));
        assert_eq!(short.get(WireFormat::TextDeflatedSmall), None);
        assert_eq!(short.get(WireFormat::Json), None);
        let all = WireFormat::ALL.into_iter().fold(FormatSet::default(), FormatSet::with);
        let long = encoder.publication("r", &said(&"la".repeat(200)), all);
        let len = |format| long.get(format).unwrap().len();
        assert!(len(WireFormat::TextDeflated) < len(WireFormat::Text) / 4);
        assert!(len(WireFormat::JsonDeflatedSmall) < len(WireFormat::Json) / 2);
    }
}
