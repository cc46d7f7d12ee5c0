//! Where the domain meets the wire: in which forms a publication travels, and that each is made once.

#![forbid(unsafe_code)]

mod encode;
pub mod json;
pub mod plain;
pub mod sockjs;
pub mod text;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::spsc::Weigh;
use crate::chat::{Forms, PresenceEvent, Publication};
pub use crate::http::StreamKind;
use crate::http::chunk_into;
use crate::ws::{self, Deflater, Opcode, Window};

/// An application protocol: what a publication looks like to its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// [`text`].
    Text,
    /// [`plain`]: the same, over HTTP.
    Plain,
    /// [`json`].
    Json,
    /// [`json`], for clients that only listen: pushes without their envelope.
    Push,
    /// [`text`], as SockJS quotes it.
    Quoted,
}

/// How payloads are separated on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Frames of WebSocket, compressed with a window (RFC 7692), if one was agreed on.
    Frames(Option<Window>),
    /// A stream of HTTP; `true`: in chunks, which HTTP/1.0 does not have.
    Stream(StreamKind, bool),
    /// Entries of a batch, each with a comma behind it. No log is sent in this form: an answer is made of
    /// what it holds.
    Entries,
}

/// The encoding in which a member receives publications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "`parts` says what each one is")]
pub enum WireFormat {
    Text,
    TextDeflated,
    TextDeflatedSmall,
    PlainEvents,
    PlainEventsUnchunked,
    PlainLines,
    PlainLinesUnchunked,
    PlainEntries,
    Json,
    JsonDeflated,
    JsonDeflatedSmall,
    JsonEvents,
    JsonEventsUnchunked,
    JsonLines,
    JsonLinesUnchunked,
    Push,
    PushDeflated,
    PushDeflatedSmall,
    PushEvents,
    PushEventsUnchunked,
    PushLines,
    PushLinesUnchunked,
    Quoted,
    QuotedEntries,
}

impl WireFormat {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every format, in the order of its discriminant.
    pub const ALL: [Self; 24] = [
        Self::Text,
        Self::TextDeflated,
        Self::TextDeflatedSmall,
        Self::PlainEvents,
        Self::PlainEventsUnchunked,
        Self::PlainLines,
        Self::PlainLinesUnchunked,
        Self::PlainEntries,
        Self::Json,
        Self::JsonDeflated,
        Self::JsonDeflatedSmall,
        Self::JsonEvents,
        Self::JsonEventsUnchunked,
        Self::JsonLines,
        Self::JsonLinesUnchunked,
        Self::Push,
        Self::PushDeflated,
        Self::PushDeflatedSmall,
        Self::PushEvents,
        Self::PushEventsUnchunked,
        Self::PushLines,
        Self::PushLinesUnchunked,
        Self::Quoted,
        Self::QuotedEntries,
    ];

    /// The format of a protocol with a framing.
    ///
    /// # Panics
    /// The protocol is never framed so.
    pub fn new(protocol: Protocol, framing: Framing) -> Self {
        let is_meant = |format: &Self| format.parts() == (protocol, framing);
        Self::ALL.into_iter().find(is_meant).expect("a protocol on a transport that has it")
    }

    /// Its protocol and its framing.
    pub const fn parts(self) -> (Protocol, Framing) {
        use Framing::{Entries, Frames, Stream};
        use Protocol::{Json, Plain, Push, Quoted, Text};
        use StreamKind::{Events, Lines};
        let (full, small) = (Frames(Some(Window::Full)), Frames(Some(Window::Small)));
        match self {
            Self::Text => (Text, Frames(None)),
            Self::TextDeflated => (Text, full),
            Self::TextDeflatedSmall => (Text, small),
            Self::PlainEvents => (Plain, Stream(Events, true)),
            Self::PlainEventsUnchunked => (Plain, Stream(Events, false)),
            Self::PlainLines => (Plain, Stream(Lines, true)),
            Self::PlainLinesUnchunked => (Plain, Stream(Lines, false)),
            Self::PlainEntries => (Plain, Entries),
            Self::Json => (Json, Frames(None)),
            Self::JsonDeflated => (Json, full),
            Self::JsonDeflatedSmall => (Json, small),
            Self::JsonEvents => (Json, Stream(Events, true)),
            Self::JsonEventsUnchunked => (Json, Stream(Events, false)),
            Self::JsonLines => (Json, Stream(Lines, true)),
            Self::JsonLinesUnchunked => (Json, Stream(Lines, false)),
            Self::Push => (Push, Frames(None)),
            Self::PushDeflated => (Push, full),
            Self::PushDeflatedSmall => (Push, small),
            Self::PushEvents => (Push, Stream(Events, true)),
            Self::PushEventsUnchunked => (Push, Stream(Events, false)),
            Self::PushLines => (Push, Stream(Lines, true)),
            Self::PushLinesUnchunked => (Push, Stream(Lines, false)),
            Self::Quoted => (Quoted, Frames(None)),
            Self::QuotedEntries => (Quoted, Entries),
        }
    }

    /// Its protocol.
    pub const fn protocol(self) -> Protocol {
        self.parts().0
    }

    /// Its framing.
    pub const fn framing(self) -> Framing {
        self.parts().1
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
        for (protocol, push) in JSON_PUSHES {
            let formats = formats.intersection(formats_of(protocol));
            if !formats.is_empty() {
                let object = publication.json.get_or_init(|| json::publication(publication, positioned));
                self.encode(&mut encodings, formats, &push(room, object));
            }
        }
        let quoted = formats.intersection(formats_of(Protocol::Quoted));
        if !quoted.is_empty() {
            let text = String::from_utf8(text::payload(publication)).unwrap_or_default();
            self.encode_quoted(&mut encodings, quoted, &text);
        }
        let plain = formats.intersection(formats_of(Protocol::Plain));
        for format in of(plain) {
            encodings.add(format, |out| plain::publication_into(out, format.framing(), publication));
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
        for (protocol, is_bare) in [(Protocol::Json, false), (Protocol::Push, true)] {
            let formats = formats.intersection(formats_of(protocol));
            if !formats.is_empty() {
                let payload = json::presence_events(room, presence_events, is_bare);
                self.encode(&mut encodings, formats, &payload);
            }
        }
        encodings
    }

    /// A text as SockJS quotes it: a frame of its own, or an entry of one.
    fn encode_quoted(&mut self, encodings: &mut Encodings, formats: Forms, text: &str) {
        if formats.contains(WireFormat::Quoted as u8) {
            let mut frame = Vec::with_capacity(text.len() + 16);
            sockjs::message_into(&mut frame, text);
            self.encode(encodings, Forms::default().with(WireFormat::Quoted as u8), &frame);
        }
        if formats.contains(WireFormat::QuotedEntries as u8) {
            encodings.add(WireFormat::QuotedEntries, |out| {
                sockjs::quote_into(out, text);
                out.push(b',');
            });
        }
    }

    /// One payload, in each of `formats`.
    fn encode(&mut self, encodings: &mut Encodings, formats: Forms, payload: &[u8]) {
        let mut plain = None;
        for format in of(formats) {
            let window = match format.framing() {
                Framing::Frames(window) => window,
                Framing::Stream(kind, _) => {
                    encodings.add(format, |out| kind.message_into(out, payload));
                    continue;
                }
                Framing::Entries => continue, // they are made by themselves
            };
            let plain = plain.get_or_insert_with(|| {
                let mut frame = Vec::with_capacity(payload.len() + ws::FRAME_HEAD_BYTES_MAX);
                ws::frame_into(&mut frame, Opcode::Text, &[payload]);
                Bytes::from(frame)
            });
            let compressed = window
                .filter(|_| payload.len() >= self.deflate_bytes_min)
                .map(|window| deflated_frame(&mut self.deflater, window, payload))
                // A message may always travel uncompressed (RFC 7692 §6).
                .filter(|frame| frame.len() < plain.len());
            encodings.0.push((format, compressed.unwrap_or_else(|| plain.clone())));
        }
    }
}

/// The two forms of a push.
const JSON_PUSHES: [(Protocol, PushPayload); 2] =
    [(Protocol::Json, json::push), (Protocol::Push, json::bare_push)];

/// Makes the payload of a push to a room, of a publication.
type PushPayload = fn(&str, &[u8]) -> Vec<u8>;

/// The formats among `forms`.
fn of(forms: Forms) -> impl Iterator<Item = WireFormat> {
    WireFormat::ALL.into_iter().filter(move |&format| forms.contains(format as u8))
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

    /// Adds what `write` appends, as streams of HTTP have it: the chunk's own header is a part of the frame,
    /// so that it leaves as it is.
    fn add(&mut self, format: WireFormat, write: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::new();
        write(&mut payload);
        let frame = match format.framing() {
            Framing::Stream(_, true) => {
                let mut chunk = Vec::with_capacity(payload.len() + 12);
                chunk_into(&mut chunk, &[&payload]);
                chunk
            }
            Framing::Frames(_) | Framing::Stream(_, false) | Framing::Entries => payload,
        };
        self.0.push((format, frame.into()));
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
            let (protocol, framing) = format.parts();
            assert_eq!(WireFormat::new(protocol, framing), format);
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
        assert_eq!(frame(WireFormat::PlainEventsUnchunked), event);
        assert_eq!(frame(WireFormat::PlainEvents), format!("{:x}\r\n{event}\r\n", event.len()));
        let line = "{\"position\":\"00000001:1\",\"name\":\"ann\",\"text\":\"hi\"}";
        assert_eq!(frame(WireFormat::PlainLinesUnchunked), format!("{line}\n"));
        assert_eq!(frame(WireFormat::PlainLines), format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
        let entry = frame(WireFormat::PlainEntries);
        assert!(entry.starts_with(line.trim_end_matches('}')) && entry.ends_with("},"), "{entry}");
    }
}
