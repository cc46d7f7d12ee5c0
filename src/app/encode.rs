//! How values are written: `serde_json`'s compact form, in which JSON that exists already is copied.

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use std::fmt::Display;
use std::io;

/// Appends `value` as JSON without white space.
pub(super) fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(out, Compact));
    debug_assert!(written.is_ok(), "memory takes it, and every key is a text");
}

/// `serde_json`'s compact form, but that bytes are [`Raw`] and written unchanged.
struct Compact;

impl Formatter for Compact {
    fn write_byte_array<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
        writer.write_all(value)
    }
}

/// JSON that is written unchanged by [`write`]. Not `serde_json`'s `RawValue`, which parses the bytes of
/// every publication again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A value that is written as the text it displays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<T>(pub(super) T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Whether a member can be left out: the protocol's default for an absent member is the type's own.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
