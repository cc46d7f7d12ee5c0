//! The Centrifuge protocol in JSON: a frame holds commands, or replies and pushes, one JSON object a line.
//!
//! What all members of a room get alike (publications, presence events) is a frame of its own, made once.
//! Replies are made for the client that sent the command.

mod check;
pub mod codes;
pub mod command;
mod field;
mod push;
mod reply;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use std::borrow::Cow;

use self::field::{Object, Text};
pub use codes::{Disconnect, ErrorCode, Refusal, Unsubscribe};
pub use command::{Command, Method};
pub use push::{
    bare_push, connected_into, disconnect_into, presence_events, publication, push, unsubscribe_into,
};
pub use reply::{
    Connected, Delivery, Empty, ErrorReply, Expiry, HistoryPage, PresencePage, PresenceStats, Reply,
    RpcResult, ServerSubscription, Subscribed, reply_into,
};

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "centrifuge-json";

/// The subprotocol of the same protocol's other encoding, which is not supported.
pub const OTHER_SUBPROTOCOL: &str = "centrifuge-protobuf";

/// A ping, and the answer to it.
pub const PING: &[u8] = b"{}";

/// `data` without white space between its tokens, as one line holds one object. `data` is valid JSON.
pub fn compact(data: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let (mut quoted, mut escaped) = (false, false);
    for &byte in data.as_bytes() {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            quoted = byte == b'"';
        }
        out.push(byte);
    }
    out
}

/// What a plain member sees of JSON that was published: its member `text` if it has one, the text if it is
/// one, else all of it.
pub fn plain_text(data: &[u8]) -> Cow<'_, str> {
    // It was checked when it came in.
    let data = std::str::from_utf8(data).unwrap_or_default();
    #[derive(Deserialize)]
    struct WithText<'a> {
        #[serde(borrow)]
        text: Text<'a>,
    }
    let text = match data.as_bytes().first() {
        Some(b'{') => serde_json::from_str(data).ok().map(|Object(WithText { text })| text),
        Some(b'"') => serde_json::from_str(data).ok(),
        _ => None,
    };
    text.map_or(Cow::Borrowed(data), |Text(text)| text)
}
