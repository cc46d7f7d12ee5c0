//! SockJS: what its transports carry. A server's frame is one letter and what belongs to it; a message is a
//! text, written as a string of JSON. A client sends arrays of such strings.

use serde::Deserialize;
use std::borrow::Cow;

use super::encode::write;

/// The first frame of a session.
pub const OPEN: &[u8] = b"o";

/// Shows that the connection is alive.
pub const HEARTBEAT: &[u8] = b"h";

/// Appends a text as a string of JSON. Beside what JSON asks for, the characters are escaped that browsers
/// change or refuse in some transports.
pub fn quote_into(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    write(out, &text);
    // All of them are longer than two bytes, and begin with one of two lead bytes.
    if !out[start..].iter().any(|&byte| byte == 0xE2 || byte == 0xEF) {
        return;
    }
    let quoted = String::from_utf8(out.split_off(start)).unwrap_or_default();
    for character in quoted.chars() {
        if is_fragile(character) {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

const fn is_fragile(character: char) -> bool {
    matches!(character,
        '\u{200C}'..='\u{200F}' | '\u{2028}'..='\u{202F}' | '\u{2060}'..='\u{206F}' | '\u{FFF0}'..='\u{FFFF}')
}

/// Appends a frame with the messages in `entries`, each a string with a comma behind it.
pub fn messages_into(out: &mut Vec<u8>, entries: &[u8]) {
    out.extend_from_slice(b"a[");
    out.extend_from_slice(entries.strip_suffix(b",").unwrap_or(entries));
    out.push(b']');
}

/// Appends a frame with one message.
pub fn message_into(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"a[");
    quote_into(out, text);
    out.push(b']');
}

/// Appends the frame that ends a session.
pub fn close_into(out: &mut Vec<u8>, code: u16, reason: &str) {
    out.extend_from_slice(format!("c[{code},").as_bytes());
    quote_into(out, reason);
    out.push(b']');
}

/// The code in a frame that ends a session, for what a WebSocket would be closed with: clients take those
/// below 3000, but 1000, for a fault of the transport, and try the next one.
pub const fn close_code(code: u16) -> u16 {
    match code {
        1000 | 3000..=4999 => code,
        1001..=1999 => code + 2000,
        _ => 3000,
    }
}

/// The content of a client's message is no array of strings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidMessages;

/// The messages that a client has sent: an array of strings, or a single one. No message at all is fine.
/// Half a surrogate pair, which scripts can have in their strings, is read as U+FFFD, as browsers send it.
///
/// # Errors
/// It is something else.
pub fn parse(content: &str) -> Result<Vec<Cow<'_, str>>, InvalidMessages> {
    match parse_json(content) {
        Err(InvalidMessages) if content.contains("\\u") => {
            let whole = without_half_pairs(content);
            let messages = parse_json(&whole)?;
            Ok(messages.into_iter().map(|text| Cow::Owned(text.into_owned())).collect())
        }
        outcome => outcome,
    }
}

fn parse_json(content: &str) -> Result<Vec<Cow<'_, str>>, InvalidMessages> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let content = content.trim_matches([' ', '\t', '\r', '\n']);
    if content.is_empty() {
        return Ok(Vec::new());
    }
    if content.starts_with('"') {
        let text: String = serde_json::from_str(content).map_err(|_| InvalidMessages)?;
        return Ok(vec![text.into()]);
    }
    let messages: Vec<Text<'_>> = serde_json::from_str(content).map_err(|_| InvalidMessages)?;
    Ok(messages.into_iter().map(|Text(text)| text).collect())
}

/// `json` with U+FFFD in place of every escaped surrogate that has no other half.
fn without_half_pairs(json: &str) -> String {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut out, mut at) = (String::with_capacity(json.len()), 0);
    while let Some(found) = json[at..].find('\\') {
        out.push_str(&json[at..at + found]);
        at += found;
        let is_pair = matches!((unit(at), unit(at + 6)), (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)));
        let (len, half) = match unit(at) {
            _ if is_pair => (12, false),
            Some(0xD800..=0xDFFF) => (6, true),
            // Any other escape: what it escapes begins no other one.
            _ => (1 + json[at + 1..].chars().next().map_or(0, char::len_utf8), false),
        };
        out.push_str(if half { "\\ufffd" } else { &json[at..at + len] });
        at += len;
    }
    out.push_str(&json[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn frames() {
        assert_eq!(written(|out| messages_into(out, b"\"a\",\"b\",")), r#"a["a","b"]"#);
        assert_eq!(written(|out| message_into(out, "\" \u{0}\n\u{1F}é😀%")), r#"a["\" \u0000\n\u001fé😀%"]"#);
        assert_eq!(written(|out| close_into(out, 3000, "Go away!")), r#"c[3000,"Go away!"]"#);
        assert_eq!(
            [1000, 1001, 1008, 1013, 3001, 4000, 5000, 0].map(close_code),
            [1000, 3001, 3008, 3013, 3001, 4000, 3000, 3000]
        );
    }

    #[test]
    fn fragile_characters_are_escaped_and_no_others() {
        for code in (0..=0xD7FF).chain(0xE000..=0x1_0100).filter_map(char::from_u32) {
            let quoted = written(|out| quote_into(out, &code.to_string()));
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), code.to_string());
            let is_escaped = quoted.len() == 8 && quoted.starts_with("\"\\u");
            let expected = is_fragile(code) || code < ' ' && !"\u{8}\t\n\u{C}\r".contains(code);
            assert_eq!(is_escaped, expected, "{code:?} {quoted}");
        }
    }

    #[test]
    fn what_clients_send() {
        let parsed = |content| parse(content).map(|messages| messages.join("|"));
        assert_eq!(parsed(r#"["x","y\n\u0041"]"#), Ok("x|y\nA".to_owned()));
        assert_eq!(parsed(r#""x""#), Ok("x".to_owned()));
        assert_eq!(
            parsed(r#"["\ud83d","\ude00a","\ud83d\ude00","\\ud83d","\ud83dx"]"#),
            Ok("\u{FFFD}|\u{FFFD}a|😀|\\ud83d|\u{FFFD}x".to_owned())
        );
        for nothing in ["", " \n", "[]"] {
            assert_eq!(parse(nothing), Ok(Vec::new()), "{nothing}");
        }
        for bad in ["[\"x\"", "x", "{}", "[1]", "[null]", "null", "[\"a\"]x", "\"", "[[]]", "\"a\"\"b\""] {
            assert_eq!(parse(bad), Err(InvalidMessages), "{bad}");
        }
    }
}
