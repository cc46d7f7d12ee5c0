//! The plain text protocol: text in, `name: text` out to everybody in the room, the sender included.
//!
//! A line with an empty name is the server's own word (`: …`): no client can send one, for a name is never
//! empty.

use bytes::Bytes;

use crate::ws::{self, Deflater, Opcode, Window};

const SEPARATOR: &[u8] = b": ";

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "chat";

/// One publication as a text frame.
pub fn frame(author: &str, text: &str) -> Bytes {
    let mut out = Vec::with_capacity(author.len() + SEPARATOR.len() + text.len() + ws::FRAME_HEAD_BYTES_MAX);
    ws::frame_into(&mut out, Opcode::Text, &[author.as_bytes(), SEPARATOR, text.as_bytes()]);
    out.into()
}

/// The same, compressed.
pub fn deflated_frame(deflater: &mut Deflater, window: Window, author: &str, text: &str) -> Bytes {
    let payload = deflater.deflate(window, &[author.as_bytes(), SEPARATOR, text.as_bytes()]);
    let mut out = Vec::with_capacity(payload.len() + ws::FRAME_HEAD_BYTES_MAX);
    ws::deflated_frame_into(&mut out, Opcode::Text, payload);
    out.into()
}

/// Tells a member that it was too slow for `count` messages, which it will not get.
pub fn skipped_into(out: &mut Vec<u8>, count: u64) {
    let notice = format!(": {count} messages were skipped, because this connection reads too slowly");
    ws::frame_into(out, Opcode::Text, &[notice.as_bytes()]);
}
