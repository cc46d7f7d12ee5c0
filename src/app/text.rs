//! The plain text protocol: text in, `name: text` out to every member of the room, the sender included.
//!
//! A line with an empty name is a server notice (`: …`): no client can send one, for a name is never
//! empty.
//!
//! One message is one line, for clients that print what they receive ([`one_line`]). JSON members of the same
//! room receive every text unchanged.

use std::borrow::Cow;

use super::json;
use crate::chat::{Body, Epoch, Position, Publication, RecoveryRequest, Since};

const SEPARATOR: &[u8] = b": ";

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "chat";

/// The recovery request of `history=N` and `since=EPOCH:OFFSET` in the query; the latter wins. `None`: they
/// cannot be read.
pub fn recovery_request(history: Option<&str>, since: Option<&str>) -> Option<RecoveryRequest> {
    match (history, since) {
        (_, Some(since)) => {
            let (epoch, offset) = since.split_once(':')?;
            let offset = offset.parse().ok()?;
            Some(Epoch::parse(epoch).map_or(RecoveryRequest::Unrecoverable, |epoch| {
                RecoveryRequest::Since(Since { epoch: Some(epoch), offset })
            }))
        }
        (Some(history), None) => Some(RecoveryRequest::Last(history.parse().ok()?)),
        (None, None) => Some(RecoveryRequest::None),
    }
}

/// One publication, as a plain member reads it: `name: text`, in one line.
pub fn payload(publication: &Publication) -> Vec<u8> {
    let name = one_line(publication.author.person.name.as_bytes());
    let text = match &publication.body {
        Body::Text(text) => one_line(text),
        Body::Data(data) => match json::plain_text(data) {
            Cow::Borrowed(text) => one_line(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(one_line(text.as_bytes()).into_owned()),
        },
    };
    [&name, SEPARATOR, &text].concat()
}

/// A line break, where one was: SYMBOL FOR NEWLINE.
const BREAK: char = '\u{2424}';

/// `text` (UTF-8) as one line that does nothing to a terminal but show itself. What ends a line (LF, CR, CR
/// LF, VT, FF, NEL, U+2028, U+2029) becomes `␤`, a tab a space, any other C0 control and DEL its picture (ESC
/// is `␛`), and a C1 control U+FFFD. Borrowed: there was none of these, which costs one pass over the bytes.
pub fn one_line(text: &[u8]) -> Cow<'_, [u8]> {
    // Two lead bytes are suspicious as well: of NEL and the C1 controls, and of the separators.
    let suspicious =
        text.iter().fold(false, |any, &byte| any | (byte < b' ') | matches!(byte, 0x7F | 0xC2 | 0xE2));
    if !suspicious {
        return Cow::Borrowed(text);
    }
    // It was checked when it came in.
    let text = std::str::from_utf8(text).unwrap_or_default();
    if text.chars().all(|character| shown(character) == character) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut line = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if character == '\r' && rest.peek() == Some(&'\n') {
            continue;
        }
        line.push(shown(character));
    }
    Cow::Owned(line.into_bytes())
}

/// What stands for a character in a line.
fn shown(character: char) -> char {
    /// The control pictures are in the order of the controls.
    const PICTURES: u32 = 0x2400;
    match character {
        '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{85}' | '\u{2028}' | '\u{2029}' => BREAK,
        '\t' => ' ',
        '\u{7F}' => '\u{2421}',
        '\0'..='\u{1F}' => {
            char::from_u32(PICTURES + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        '\u{80}'..='\u{9F}' => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

/// Appends a server notice: the payload of a message.
pub fn notice_into(out: &mut Vec<u8>, notice: &str) {
    out.extend_from_slice(SEPARATOR);
    out.extend_from_slice(notice.as_bytes());
}

/// Appends the notice with the room's position, from which a member can recover with `since=EPOCH:OFFSET`.
pub fn position_into(out: &mut Vec<u8>, position: Position) {
    notice_into(out, &format!("since={position}"));
}

/// The notice about `count` skipped publications, and the position from which they can be recovered, if any.
pub fn skipped(count: u64, after: Option<Position>) -> String {
    let back = after.map(|position| format!("; since={position} brings them back")).unwrap_or_default();
    format!("{count} messages were skipped, because this connection reads too slowly{back}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &str) {
        let line = one_line(text.as_bytes());
        assert_eq!(std::str::from_utf8(&line), Ok(expected), "{text:?}");
    }

    #[test]
    fn one_message_is_one_line() {
        check("a\nb", "a␤b");
        check("a\r\nb\rc\n", "a␤b␤c␤");
        check("a\n\nb", "a␤␤b");
        check("\u{B}\u{C}\u{85}\u{2028}\u{2029}", "␤␤␤␤␤");
        check("a\tb", "a b");
        check("\u{1B}[2J\u{7}", "␛[2J␇");
        check("\0\u{7F}", "␀␡");
        check("\u{9B}2J", "\u{FFFD}2J");
        check("Grüße “🙂” Â£ â", "Grüße “🙂” Â£ â");
    }

    proptest! {
        #[test]
        fn no_line_breaks_or_controls_a_terminal(text in "(.|[\\x00-\\x1F\\x7F-\\u{9F}\u{2028}\u{2029}£–]){0,40}") {
            let line = String::from_utf8(one_line(text.as_bytes()).into_owned()).unwrap();
            prop_assert!(!line.contains(|it: char| it.is_control() || matches!(it, '\u{2028}' | '\u{2029}')), "{}", line);
            prop_assert!(matches!(one_line(line.as_bytes()), Cow::Borrowed(_)));
        }

        #[test]
        fn clean_text_is_borrowed(text in "[^\\p{Cc}\u{2028}\u{2029}]{0,40}") {
            prop_assert!(matches!(one_line(text.as_bytes()), Cow::Borrowed(same) if same == text.as_bytes()));
        }
    }
}
