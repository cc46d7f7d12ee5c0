//! Where the domain meets the wire: in which forms a publication travels, and that each is made once.

#![forbid(unsafe_code)]

pub mod json;
pub mod text;

use bytes::Bytes;

use crate::base::spsc::Weigh;
use crate::chat::{Forms, PresenceEvent, Publication};
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

/// The encoding in which a member receives publications: its protocol, and its agreement about compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WireFormat {
    /// Plain text frames.
    Text,
    /// Plain text, compressed with a window of 32 KiB.
    TextDeflated,
    /// Plain text, compressed with a window of 512 bytes, for clients that requested a small one.
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

    /// The format for a client of `protocol` that agreed on `window` (RFC 7692), if on any.
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

const _: () = assert!(WireFormat::COUNT <= Forms::BITS as usize, "a bit for each format");

/// The formats of a protocol.
fn formats_of(protocol: Protocol) -> Forms {
    let belonging = WireFormat::ALL.into_iter().filter(|format| format.protocol() == protocol);
    belonging.fold(Forms::default(), |forms, format| forms.with(format as u8))
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

    /// The frames of a publication in `room`, in each of `formats`. `positioned`: the room keeps a history,
    /// so that the position is shown. JSON is made when the first member, page or recovery needs it.
    pub fn publication(
        &mut self,
        room: &str,
        publication: &Publication,
        positioned: bool,
        formats: Forms,
    ) -> Encodings {
        let mut encodings = Encodings::default();
        let text = formats.intersection(formats_of(Protocol::Text));
        if !text.is_empty() {
            self.encode(&mut encodings, text, &text::payload(publication));
        }
        let json = formats.intersection(formats_of(Protocol::Json));
        if !json.is_empty() {
            let object = publication.json.get_or_init(|| json::publication(publication, positioned));
            self.encode(&mut encodings, json, &json::push(room, object));
        }
        encodings
    }

    /// The frames with the presence events of `room`. Plain members receive none.
    pub fn presence_events(
        &mut self,
        room: &str,
        presence_events: &[PresenceEvent],
        formats: Forms,
    ) -> Encodings {
        let mut encodings = Encodings::default();
        let json = formats.intersection(formats_of(Protocol::Json));
        if !json.is_empty() {
            self.encode(&mut encodings, json, &json::presence_events(room, presence_events));
        }
        encodings
    }

    /// One payload as a text frame, in each of `formats`.
    fn encode(&mut self, encodings: &mut Encodings, formats: Forms, payload: &[u8]) {
        let mut plain = Vec::with_capacity(payload.len() + ws::FRAME_HEAD_BYTES_MAX);
        ws::frame_into(&mut plain, Opcode::Text, &[payload]);
        let plain = Bytes::from(plain);
        for format in WireFormat::ALL.into_iter().filter(|&format| formats.contains(format as u8)) {
            let compressed = format
                .window()
                .filter(|_| payload.len() >= self.deflate_bytes_min)
                .map(|window| deflated_frame(&mut self.deflater, window, payload))
                // A message may always travel uncompressed (RFC 7692 §6).
                .filter(|frame| frame.len() < plain.len());
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

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.0.iter().flatten().map(Bytes::len).max().unwrap_or(0)
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

    fn publication_of(text: &str) -> Publication {
        let client = ClientId::new(0, 1);
        let person = Person::new(client, "ann".into(), "ann".into(), None);
        Publication {
            position: Some(Position { epoch: Epoch::from_random(1), offset: 1 }),
            accepted: crate::base::Time::ZERO,
            unix_ms: 0,
            author: Member::new(Arc::new(person), None),
            body: Body::Text(text.to_owned().into()),
            json: std::sync::OnceLock::new(),
        }
    }

    #[test]
    fn only_the_wanted_formats_are_made_and_small_ones_stay_plain() {
        let mut encoder = Encoder::new(100);
        let both = Forms::default().with(WireFormat::Text as u8).with(WireFormat::TextDeflated as u8);
        let short = encoder.publication("r", &publication_of("hi"), true, both);
        assert_eq!(short.get(WireFormat::Text).unwrap(), &b"\x81\x07ann: hi"[..]);
        assert_eq!(short.get(WireFormat::TextDeflated), short.get(WireFormat::Text));
        assert_eq!(short.get(WireFormat::TextDeflatedSmall), None);
        assert_eq!(short.get(WireFormat::Json), None);
        let all = WireFormat::ALL.into_iter().fold(Forms::default(), |all, format| all.with(format as u8));
        let long = encoder.publication("r", &publication_of(&"la".repeat(200)), true, all);
        let len = |format| long.get(format).unwrap().len();
        assert!(len(WireFormat::TextDeflated) < len(WireFormat::Text) / 4);
        assert!(len(WireFormat::JsonDeflatedSmall) < len(WireFormat::Json) / 2);
    }
}
