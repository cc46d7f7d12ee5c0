//! The plain protocol over HTTP: what its streams and its long polling send, as payloads.
//!
//! A publication is one JSON object with name and text. In an event stream its position is the event's id,
//! so that `EventSource` resumes by itself; in lines and in batches it is a member of the object.

use serde::Serialize;

use super::encode::{Shown, write};
use super::{Framing, json, text};
use crate::chat::{Body, ClientId, Position, Publication};
use crate::http::{ServerEvent, StreamKind};

/// How long an `EventSource` waits before it reconnects: what a stream begins with.
pub const RETRY: &[u8] = b"retry: 2000\n\n";

/// The media type of lines of JSON.
pub const NDJSON: &str = "application/x-ndjson; charset=utf-8";

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Shown<Position>>,
    name: &'a str,
    text: &'a str,
}

/// An entry of a batch has more than a line: what a client of many rooms and transports knows its authors by,
/// and when an old message was published.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    /// Milliseconds since 1970.
    time: u64,
    client: Shown<ClientId>,
}

#[derive(Serialize)]
struct At {
    position: Shown<Position>,
}

#[derive(Serialize)]
struct Notice<'a> {
    notice: &'a str,
}

#[derive(Serialize)]
struct End<'a> {
    end: u16,
    reason: &'a str,
}

/// `publication` as a JSON object as `framing` has it.
fn object_into(out: &mut Vec<u8>, framing: Framing, publication: &Publication, position: Option<Position>) {
    let data;
    let text: &str = match &publication.body {
        // It was checked when it came in.
        Body::Text(text) => std::str::from_utf8(text).unwrap_or_default(),
        Body::Data(json) => {
            data = json::plain_text(json);
            &data
        }
    };
    let person = &publication.author.person;
    let line = Line { position: position.map(Shown), name: &person.name, text };
    if framing == Framing::Entries {
        write(out, &Entry { line, time: publication.unix_ms, client: Shown(person.client) });
    } else {
        write(out, &line);
    }
}

/// Appends a publication as `framing` has it: an event, a line, or an entry of a batch with a comma behind
/// it.
pub fn publication_into(out: &mut Vec<u8>, framing: Framing, publication: &Publication) {
    let position = publication.position;
    match framing {
        Framing::Stream(StreamKind::Events, _) => {
            let mut data = Vec::with_capacity(publication.body.bytes().len() + 64);
            object_into(&mut data, framing, publication, None);
            let id = position.map(|position| position.to_string());
            ServerEvent { event: None, id: id.as_deref(), data: Some(&data) }.write_into(out);
        }
        Framing::Stream(StreamKind::Lines, _) => {
            object_into(out, framing, publication, position);
            out.push(b'\n');
        }
        Framing::Entries => {
            object_into(out, framing, publication, position);
            out.push(b',');
        }
        Framing::Frames(_) => out.extend_from_slice(&text::payload(publication)),
    }
}

/// Appends where the room stands when a client joins: it resumes from there even if nothing comes.
pub fn position_into(out: &mut Vec<u8>, framing: Framing, position: Position) {
    match framing {
        Framing::Stream(StreamKind::Events, _) => {
            let id = position.to_string();
            ServerEvent { id: Some(&id), ..ServerEvent::default() }.write_into(out);
        }
        Framing::Stream(StreamKind::Lines, _) => {
            write(out, &At { position: Shown(position) });
            out.push(b'\n');
        }
        Framing::Frames(_) => text::position_into(out, position),
        Framing::Entries => {}
    }
}

/// Appends a server notice.
pub fn notice_into(out: &mut Vec<u8>, framing: Framing, notice: &str) {
    match framing {
        Framing::Frames(_) => text::notice_into(out, notice),
        Framing::Stream(..) => named_into(out, framing, "notice", &Notice { notice }),
        Framing::Entries => {}
    }
}

/// Appends the reason why the server ends a stream: the code that a WebSocket would be closed with, and a
/// sentence.
pub fn end_into(out: &mut Vec<u8>, framing: Framing, code: u16, reason: &str) {
    named_into(out, framing, "end", &End { end: code, reason });
}

fn named_into(out: &mut Vec<u8>, framing: Framing, event: &str, value: &impl Serialize) {
    if matches!(framing, Framing::Stream(StreamKind::Events, _)) {
        let mut data = Vec::new();
        write(&mut data, value);
        ServerEvent { event: Some(event), id: None, data: Some(&data) }.write_into(out);
    } else {
        write(out, value);
        out.push(b'\n');
    }
}

/// The answer to a poll: the entries of a batch, each with a comma behind it, and where to go on. `gap`:
/// publications before the first one are missing.
pub fn batch(entries: &[u8], position: Position, gap: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() + 80);
    out.extend_from_slice(b"{\"position\":");
    write(&mut out, &Shown(position));
    if gap {
        out.extend_from_slice(b",\"gap\":true");
    }
    out.extend_from_slice(b",\"messages\":[");
    out.extend_from_slice(entries.strip_suffix(b",").unwrap_or(entries));
    out.extend_from_slice(b"]}\n");
    out
}

/// The answer to a publisher that wants to know its message's position.
pub fn position_body(position: Option<Position>) -> Vec<u8> {
    let mut out = Vec::new();
    match position {
        Some(position) => write(&mut out, &At { position: Shown(position) }),
        None => out.extend_from_slice(b"{}"),
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::publication_of;
    use super::*;
    use crate::chat::Epoch;

    const EVENTS: Framing = Framing::Stream(StreamKind::Events, true);
    const LINES: Framing = Framing::Stream(StreamKind::Lines, true);

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn publications() {
        let publication = publication_of("a \"b\"\nc");
        let unpositioned = Publication { position: None, ..publication_of("a \"b\"\nc") };
        let check = |framing, publication: &Publication, expected: &str| {
            assert_eq!(written(|out| publication_into(out, framing, publication)), expected);
        };
        let object = r#""name":"ann","text":"a \"b\"\nc"}"#;
        check(EVENTS, &publication, &format!("id: 00000001:1\ndata: {{{object}\n\n"));
        check(EVENTS, &unpositioned, &format!("data: {{{object}\n\n"));
        check(LINES, &publication, &format!("{{\"position\":\"00000001:1\",{object}\n"));
        check(LINES, &unpositioned, &format!("{{{object}\n"));
        let more = format!(r#","time":0,"client":"{}"}}"#, publication.author.person.client);
        let entry = format!("{{\"position\":\"00000001:1\",{}{more},", object.trim_end_matches('}'));
        check(Framing::Entries, &publication, &entry);
        let body = Body::Data(r#"{"text":"hi","x":1}"#.into());
        let data = Publication { body, position: None, ..publication_of("") };
        let out = written(|out| publication_into(out, LINES, &data));
        assert_eq!(out, "{\"name\":\"ann\",\"text\":\"hi\"}\n");
    }

    #[test]
    fn notices_and_positions() {
        let position = Position { epoch: Epoch::from_random(1), offset: 7 };
        let at = |framing| written(|out| position_into(out, framing, position));
        assert_eq!(at(EVENTS), "id: 00000001:7\n\n");
        assert_eq!(at(LINES), "{\"position\":\"00000001:7\"}\n");
        assert_eq!(at(Framing::Frames(None)), ": since=00000001:7");
        let notice = |framing| written(|out| notice_into(out, framing, "n"));
        assert_eq!(notice(EVENTS), "event: notice\ndata: {\"notice\":\"n\"}\n\n");
        assert_eq!(notice(LINES), "{\"notice\":\"n\"}\n");
        assert_eq!(notice(Framing::Frames(None)), ": n");
        let end = |framing| written(|out| end_into(out, framing, 1013, "r"));
        assert_eq!(end(EVENTS), "event: end\ndata: {\"end\":1013,\"reason\":\"r\"}\n\n");
        assert_eq!(end(LINES), "{\"end\":1013,\"reason\":\"r\"}\n");
    }

    #[test]
    fn batches() {
        let position = Position { epoch: Epoch::from_random(1), offset: 7 };
        assert_eq!(batch(b"1,2,", position, false), b"{\"position\":\"00000001:7\",\"messages\":[1,2]}\n");
        let gap = b"{\"position\":\"00000001:7\",\"gap\":true,\"messages\":[]}\n";
        assert_eq!(batch(b"", position, true), gap);
        assert_eq!(position_body(Some(position)), b"{\"position\":\"00000001:7\"}\n");
        assert_eq!(position_body(None), b"{}\n");
    }
}
