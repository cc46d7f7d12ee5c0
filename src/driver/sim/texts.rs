//! What clients publish: a number and a text of any length that shows every change.

use std::fmt::Write as _;

use super::checker::PublicationId;

/// What texts are filled with.
const FILL: &str =
    "the herald whose voice was as loud as the voice of fifty men spoke to all of them at once, ";

/// The text of a publication.
pub(super) fn published_text(id: PublicationId, fill_bytes: usize) -> String {
    let mut text = String::with_capacity(fill_bytes + 12);
    let _ = write!(text, "{id} ");
    fill_into(&mut text, fill_bytes);
    text
}

fn fill_into(text: &mut String, mut bytes: usize) {
    while bytes > 0 {
        let take = bytes.min(FILL.len());
        text.push_str(&FILL[..take]);
        bytes -= take;
    }
}

/// Whether a text is so long, and is what texts are filled with.
pub(super) fn is_fill(text: &str, bytes: usize) -> bool {
    text.len() == bytes && text.as_bytes().chunks(FILL.len()).all(|chunk| FILL.as_bytes().starts_with(chunk))
}
