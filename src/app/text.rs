//! The plain text protocol: text in, `name: text` out to everybody in the room, the sender included.
//!
//! A line with an empty name is the server's own word (`: …`): no client can send one, for a name is never
//! empty.

use std::borrow::Cow;

use super::json;
use crate::chat::{Body, Epoch, Position, Publication, Since, Wanted};
use crate::ws::{self, Opcode};

const SEPARATOR: &[u8] = b": ";

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "chat";

/// What `history=N` and `since=EPOCH:OFFSET` in the query ask for; the latter is stronger. `None`: they cannot be read.
pub fn wanted(history: Option<&str>, since: Option<&str>) -> Option<Wanted> {
    match (history, since) {
        (_, Some(since)) => {
            let (epoch, offset) = since.split_once(':')?;
            let offset = offset.parse().ok()?;
            Some(
                Epoch::parse(epoch)
                    .map_or(Wanted::Lost, |epoch| Wanted::Since(Since { epoch: Some(epoch), offset })),
            )
        }
        (Some(history), None) => Some(Wanted::Last(history.parse().ok()?)),
        (None, None) => Some(Wanted::Nothing),
    }
}

/// One publication, as a plain member reads it: `name: text`.
pub fn payload(publication: &Publication) -> Vec<u8> {
    let name = publication.author.person.name.as_bytes();
    let text = match &publication.body {
        Body::Text(text) => Cow::Borrowed(&text[..]),
        Body::Data(data) => match json::plain_text(data) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
    };
    [name, SEPARATOR, &text].concat()
}

/// Appends one publication as a frame.
pub fn frame_into(out: &mut Vec<u8>, publication: &Publication) {
    ws::frame_into(out, Opcode::Text, &[&payload(publication)]);
}

/// Appends a frame with the server's own word.
pub fn notice_into(out: &mut Vec<u8>, word: &str) {
    ws::frame_into(out, Opcode::Text, &[SEPARATOR, word.as_bytes()]);
}

/// Tells a member where the room stands, so that it can come back to there with `since=EPOCH:OFFSET`.
pub fn position_into(out: &mut Vec<u8>, Position { epoch, offset }: Position) {
    notice_into(out, &format!("since={epoch}:{offset}"));
}

/// Tells a member that it was too slow for `count` publications, and from where it can get them all the same, if it can.
pub fn skipped_into(out: &mut Vec<u8>, count: u64, after: Option<Position>) {
    let back = after.map(|Position { epoch, offset }| format!("; since={epoch}:{offset} brings them back"));
    let back = back.unwrap_or_default();
    notice_into(
        out,
        &format!("{count} messages were skipped, because this connection reads too slowly{back}"),
    );
}
