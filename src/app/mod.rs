//! Where the domain meets the wire: in which forms a publication travels, and that each is made once.

#![forbid(unsafe_code)]

mod encode;
pub mod json;
pub mod plain;
pub mod text;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::spsc::Weigh;
use crate::chat::{Forms, PresenceEvent, Publication};
use crate::http::chunk_into;
use crate::ws::{self, Deflater, Opcode, Window};

/// An application protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// [`text`].
    Text,
    /// [`json`].
    Json,
    /// [`plain`], as an event stream.
    Events,
    /// [`plain`], as lines of JSON.
    Lines,
    /// [`plain`], as the answers to long polling.
    Batches,
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
    /// Events, each in a chunk of HTTP/1.1.
    Events,
    /// Events for HTTP/1.0.
    EventsUnchunked,
    /// Lines of JSON, each in a chunk of HTTP/1.1.
    Lines,
    /// Lines of JSON for HTTP/1.0.
    LinesUnchunked,
    /// Entries of a batch, each with a comma behind it. No log is sent in this form: an answer is made of
    /// what it holds.
    Batches,
}

impl WireFormat {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every format, in the order of its discriminant.
    pub const ALL: [Self; 11] = [
        Self::Text,
        Self::TextDeflated,
        Self::TextDeflatedSmall,
        Self::Json,
        Self::JsonDeflated,
        Self::JsonDeflatedSmall,
        Self::Events,
        Self::EventsUnchunked,
        Self::Lines,
        Self::LinesUnchunked,
        Self::Batches,
    ];

    /// The format for a client of `protocol` that agreed on `window` (RFC 7692), if on any. Streams are those
    /// of HTTP/1.1.
    pub const fn new(protocol: Protocol, window: Option<Window>) -> Self {
        match (protocol, window) {
            (Protocol::Text, None) => Self::Text,
            (Protocol::Text, Some(Window::Full)) => Self::TextDeflated,
            (Protocol::Text, Some(Window::Small)) => Self::TextDeflatedSmall,
            (Protocol::Json, None) => Self::Json,
            (Protocol::Json, Some(Window::Full)) => Self::JsonDeflated,
            (Protocol::Json, Some(Window::Small)) => Self::JsonDeflatedSmall,
            (Protocol::Events, _) => Self::Events,
            (Protocol::Lines, _) => Self::Lines,
            (Protocol::Batches, _) => Self::Batches,
        }
    }

    /// The same for HTTP/1.0, which has no chunks.
    #[must_use]
    pub const fn unchunked(self) -> Self {
        match self {
            Self::Events => Self::EventsUnchunked,
            Self::Lines => Self::LinesUnchunked,
            Self::Text
            | Self::TextDeflated
            | Self::TextDeflatedSmall
            | Self::Json
            | Self::JsonDeflated
            | Self::JsonDeflatedSmall
            | Self::EventsUnchunked
            | Self::LinesUnchunked
            | Self::Batches => self,
        }
    }

    /// Whether its frames are chunks.
    pub const fn is_chunked(self) -> bool {
        matches!(self, Self::Events | Self::Lines)
    }

    /// The protocol.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Text | Self::TextDeflated | Self::TextDeflatedSmall => Protocol::Text,
            Self::Json | Self::JsonDeflated | Self::JsonDeflatedSmall => Protocol::Json,
            Self::Events | Self::EventsUnchunked => Protocol::Events,
            Self::Lines | Self::LinesUnchunked => Protocol::Lines,
            Self::Batches => Protocol::Batches,
        }
    }

    const fn window(self) -> Option<Window> {
        match self {
            Self::Text
            | Self::Json
            | Self::Events
            | Self::EventsUnchunked
            | Self::Lines
            | Self::LinesUnchunked
            | Self::Batches => None,
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

/// The frames of one publication: at most one encoding for each format in use, whatever the room's size.
#[derive(Clone, Debug, Default)]
pub struct Encodings(SmallVec<[(WireFormat, Bytes); 2]>);

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
        for protocol in [Protocol::Events, Protocol::Lines, Protocol::Batches] {
            let formats = formats.intersection(formats_of(protocol));
            if !formats.is_empty() {
                encodings.plain(formats, protocol, publication);
            }
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
            encodings.0.push((format, compressed.unwrap_or_else(|| plain.clone())));
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
    pub fn get(&self, format: WireFormat) -> Option<&Bytes> {
        self.0.iter().find(|(of, _)| *of == format).map(|(_, frame)| frame)
    }

    /// A publication as streams of HTTP have it, in each of `formats`, all of `protocol`: the chunk's own
    /// header is a part of the frame, so that it leaves as it is.
    fn plain(&mut self, formats: Forms, protocol: Protocol, publication: &Publication) {
        let mut payload = Vec::with_capacity(publication.body.bytes().len() + 96);
        plain::publication_into(&mut payload, protocol, publication);
        let payload = Bytes::from(payload);
        for format in WireFormat::ALL.into_iter().filter(|&format| formats.contains(format as u8)) {
            let frame = if format.is_chunked() {
                let mut chunk = Vec::with_capacity(payload.len() + 12);
                chunk_into(&mut chunk, &[&payload]);
                chunk.into()
            } else {
                payload.clone()
            };
            self.0.push((format, frame));
        }
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.0.iter().map(|(_, frame)| frame.len()).max().unwrap_or(0)
    }
}

impl Weigh for Encodings {
    fn weight(&self) -> usize {
        self.0.iter().map(|(_, frame)| frame.len()).sum()
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
            let made = WireFormat::new(format.protocol(), format.window());
            assert!(made == format || made.unchunked() == format);
        }
    }

    pub(super) fn publication_of(text: &str) -> Publication {
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

    /// A stream's frame is the chunk that leaves: what a log holds is sent as it is.
    #[test]
    fn frames_of_streams_are_chunks() {
        let all = WireFormat::ALL.into_iter().fold(Forms::default(), |all, format| all.with(format as u8));
        let encodings = Encoder::new(100).publication("r", &publication_of("hi"), true, all);
        let frame = |format| std::str::from_utf8(encodings.get(format).unwrap()).unwrap().to_owned();
        let event = "id: 00000001:1\ndata: {\"name\":\"ann\",\"text\":\"hi\"}\n\n";
        assert_eq!(frame(WireFormat::EventsUnchunked), event);
        assert_eq!(frame(WireFormat::Events), format!("{:x}\r\n{event}\r\n", event.len()));
        let line = "{\"position\":\"00000001:1\",\"name\":\"ann\",\"text\":\"hi\"}";
        assert_eq!(frame(WireFormat::LinesUnchunked), format!("{line}\n"));
        assert_eq!(frame(WireFormat::Lines), format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
        let entry = frame(WireFormat::Batches);
        assert!(entry.starts_with(line.trim_end_matches('}')) && entry.ends_with("},"), "{entry}");
    }
}
