//! Where the domain meets the wire: in which forms a publication travels, and that each is made once.

#![forbid(unsafe_code)]

pub mod text;

use bytes::Bytes;

use crate::base::spsc::Weigh;
use crate::ws::{Deflater, Window};

/// In which form a member takes what is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WireFormat {
    /// Plain text frames.
    Text,
    /// Plain text, compressed with a window of 32 KiB.
    TextDeflated,
    /// Plain text, compressed with a window of 512 bytes, for clients that asked for a small one.
    TextDeflatedSmall,
}

impl WireFormat {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every format, in the order of its discriminant.
    pub const ALL: [Self; 3] = [Self::Text, Self::TextDeflated, Self::TextDeflatedSmall];

    /// The plain text protocol's format for a client that agreed on `window` (RFC 7692), if on any.
    pub const fn text(window: Option<Window>) -> Self {
        match window {
            None => Self::Text,
            Some(Window::Full) => Self::TextDeflated,
            Some(Window::Small) => Self::TextDeflatedSmall,
        }
    }

    const fn window(self) -> Option<Window> {
        match self {
            Self::Text => None,
            Self::TextDeflated => Some(Window::Full),
            Self::TextDeflatedSmall => Some(Window::Small),
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

    /// The frames of `author: text` in each of `formats`.
    pub fn encode(&mut self, author: &str, text: &str, formats: FormatSet) -> Encodings {
        let mut encodings = Encodings::default();
        let plain = text::frame(author, text);
        for format in WireFormat::ALL {
            if !formats.contains(format) {
                continue;
            }
            let compressed = format
                .window()
                .filter(|_| text.len() >= self.deflate_bytes_min)
                .map(|window| text::deflated_frame(&mut self.deflater, window, author, text))
                .filter(|frame| frame.len() < plain.len()); // a message may always travel uncompressed (RFC 7692 §6)
            encodings.0[format as usize] = Some(compressed.unwrap_or_else(|| plain.clone()));
        }
        encodings
    }
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

    #[test]
    fn formats_stand_at_their_discriminants() {
        for (index, format) in WireFormat::ALL.into_iter().enumerate() {
            assert_eq!(index, format as usize);
            assert_eq!(WireFormat::text(format.window()), format);
        }
    }

    #[test]
    fn only_the_wanted_formats_are_made_and_small_ones_stay_plain() {
        let mut encoder = Encoder::new(100);
        let both = FormatSet::default().with(WireFormat::Text).with(WireFormat::TextDeflated);
        let short = encoder.encode("ann", "hi", both);
        assert_eq!(short.get(WireFormat::TextDeflated), short.get(WireFormat::Text));
        assert_eq!(short.get(WireFormat::TextDeflatedSmall), None);
        let long = encoder.encode("ann", &"la".repeat(200), both);
        let (plain, deflated) =
            (long.get(WireFormat::Text).unwrap(), long.get(WireFormat::TextDeflated).unwrap());
        assert!(deflated.len() < plain.len() / 4);
    }
}
