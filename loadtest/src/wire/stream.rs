//! Streams of messages in one response: server-sent events, and lines of JSON. What a chunk has of whole
//! messages is decoded in place.

use std::borrow::Cow;

use super::channel::{Ending, Item, Message, Step};
use super::http::{CONTENT_BYTES_MAX, Content, Piece, response_head};
use super::{cause, json_member};

/// What a stream consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamFormat {
    /// Server-sent events (HTML Standard §9.2.6), with positions as their ids.
    Events,
    /// Lines of JSON, with positions in them.
    Lines,
}

/// A stream, from its response's head to its end.
#[derive(Debug)]
pub struct Stream {
    format: StreamFormat,
    /// Its content; `None` before the head.
    content: Option<Content>,
    /// A message of which a part has arrived.
    partial: Vec<u8>,
}

/// The bytes of a whole unit.
type Complete<'b> = Cow<'b, [u8]>;

/// What one unit of a stream is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Unit {
    /// Nothing that concerns a client.
    Nothing,
    /// A publication, a notice or a position.
    Message { position: Option<(usize, usize)>, is_current: bool },
    /// The server ends the stream, for this reason.
    End(String),
}

impl Stream {
    /// A stream of which nothing has arrived.
    pub const fn new(format: StreamFormat) -> Self {
        Self { format, content: None, partial: Vec::new() }
    }

    /// Decodes the next item at the front of `bytes`.
    ///
    /// # Errors
    /// The stream has ended or is not valid.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Step<'b>, Ending> {
        let Some(mut content) = self.content else { return self.open(bytes) };
        let step = self.next_unit(&mut content, bytes);
        self.content = Some(content);
        step
    }

    fn open<'b>(&mut self, bytes: &'b [u8]) -> Result<Step<'b>, Ending> {
        let Some(head) = response_head(bytes).map_err(Ending::Failed)? else {
            return Ok(Step { used: 0, item: Item::NeedMore(0) });
        };
        if head.status != 200 {
            return Err(Ending::Failed(cause::refused(&head, &bytes[head.len..])));
        }
        self.content = Some(Content::new(head.framing));
        Ok(Step { used: head.len, item: Item::Accepted })
    }

    fn next_unit<'b>(&mut self, content: &mut Content, bytes: &'b [u8]) -> Result<Step<'b>, Ending> {
        let mut at = 0;
        loop {
            let data = match content.next(&bytes[at..]).map_err(Ending::Failed)? {
                Piece::NeedMore => return Ok(Step { used: at, item: Item::NeedMore(0) }),
                Piece::Coding(len) => {
                    at += len;
                    continue;
                }
                Piece::End => return Err(Ending::Closed("the server ended the stream".to_owned())),
                Piece::Data(len) => &bytes[at..at + len],
            };
            let (len, unit) = self.partial_or_unit(data)?;
            content.take(len);
            at += len;
            let Some(payload) = unit else { continue };
            match self.format.unit(&payload) {
                Unit::Nothing => {}
                Unit::End(reason) => return Err(Ending::Closed(reason)),
                Unit::Message { position, is_current } => {
                    return Ok(Step {
                        used: at,
                        item: Item::Message(Message { payload, position, is_current }),
                    });
                }
            }
        }
    }

    /// How much of `data` belongs to the next unit, and that unit, if it is complete with it. Otherwise what
    /// has arrived of it is kept.
    fn partial_or_unit<'b>(&mut self, data: &'b [u8]) -> Result<(usize, Option<Complete<'b>>), Ending> {
        let before = self.partial.len();
        if before == 0
            && let Some(end) = self.format.end(data)
        {
            return Ok((end, Some(Cow::Borrowed(&data[..end]))));
        }
        self.partial.extend_from_slice(data);
        if before > 0
            && let Some(end) = self.format.end(&self.partial)
        {
            self.partial.truncate(end);
            return Ok((end - before, Some(Cow::Owned(std::mem::take(&mut self.partial)))));
        }
        if self.partial.len() > CONTENT_BYTES_MAX {
            return Err(Ending::Failed("the server sent a message of more than 16 MiB".to_owned()));
        }
        Ok((data.len(), None))
    }
}

impl StreamFormat {
    /// The length of the unit at the front of `data`; `None`: it is incomplete.
    fn end(self, data: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', &data[at..]) {
            let line = &data[at..at + len];
            at += len + 1;
            if self == Self::Lines || line.is_empty() || line == b"\r" {
                return Some(at);
            }
        }
        None
    }

    fn unit(self, text: &[u8]) -> Unit {
        match self {
            Self::Events => event(text),
            Self::Lines => line(text),
        }
    }
}

/// The unit that an event with its empty line is.
fn event(text: &[u8]) -> Unit {
    let (mut position, mut has_data, mut at, mut is_end) = (None, false, 0, false);
    while let Some(len) = memchr::memchr(b'\n', &text[at..]) {
        let line = &text[at..at + len];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"data:") {
            has_data = true;
            if is_end {
                return Unit::End(end_reason(&line[b"data:".len()..]));
            }
        } else if line.starts_with(b"id:") {
            let from = if line.get(3) == Some(&b' ') { 4 } else { 3 };
            position = Some((at + from, at + line.len()));
        } else if line.starts_with(b"event:") {
            is_end = line[b"event:".len()..].trim_ascii() == b"end";
        }
        at += len + 1;
    }
    if !has_data && position.is_none() {
        return Unit::Nothing;
    }
    Unit::Message { position, is_current: !has_data }
}

/// What a line with a position begins with.
const LINE_POSITION: &[u8] = br#"{"position":""#;

/// The unit that a line with its end is.
fn line(text: &[u8]) -> Unit {
    let text = text.trim_ascii_end();
    if text.is_empty() || text == b"{}" {
        return Unit::Nothing;
    }
    if text.starts_with(br#"{"end":"#) {
        return Unit::End(end_reason(text));
    }
    let from = LINE_POSITION.len();
    let len = text.strip_prefix(LINE_POSITION).and_then(|rest| memchr::memchr(b'"', rest));
    let position = len.map(|len| (from, from + len));
    let is_current = len.is_some_and(|len| &text[from + len..] == br#""}"#);
    Unit::Message { position, is_current }
}

/// What a server says at the end of a stream.
fn end_reason(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let member = |name: &str| json_member(&text, name).unwrap_or_default();
    format!("the server ended the stream with {} {}", member("end"), member("reason")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is checked of a message.
    type Seen = (String, Option<String>, bool);

    /// Decodes `bytes`, which arrive in pieces that end at these places.
    fn decoded(format: StreamFormat, bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<Ending>) {
        let (mut stream, mut seen, mut tail, mut from) = (Stream::new(format), Vec::new(), Vec::new(), 0);
        for &to in cuts.iter().chain(&[bytes.len()]) {
            tail.extend_from_slice(&bytes[from..to]);
            from = to;
            let mut at = 0;
            loop {
                match stream.next(&tail[at..]) {
                    Err(ending) => return (seen, Some(ending)),
                    Ok(Step { used, item }) => {
                        at += used;
                        match item {
                            Item::NeedMore(_) => break,
                            Item::Message(message) => seen.push((
                                String::from_utf8(message.payload.to_vec()).unwrap(),
                                message.position().map(str::to_owned),
                                message.is_current,
                            )),
                            Item::Accepted | Item::Nothing => {}
                        }
                    }
                }
            }
            tail.drain(..at);
        }
        (seen, None)
    }

    fn response(content: &[u8], chunks: &[usize]) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut from = 0;
        for &to in chunks.iter().chain(&[content.len()]) {
            if to > from {
                bytes.extend_from_slice(format!("{:x}\r\n", to - from).as_bytes());
                bytes.extend_from_slice(&content[from..to]);
                bytes.extend_from_slice(b"\r\n");
                from = to;
            }
        }
        bytes
    }

    fn sorted(indexes: &[prop::sample::Index], len: usize) -> Vec<usize> {
        let mut found: Vec<_> = indexes.iter().map(|index| index.index(len)).collect();
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn any_split_of_chunks_and_of_reads_equals_the_whole(
            texts in prop::collection::vec("[a-z]{0,30}", 0..8),
            chunks in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            crlf: bool,
        ) {
            for format in [StreamFormat::Events, StreamFormat::Lines] {
                let mut content = String::new();
                let mut expected = Vec::new();
                for (offset, text) in texts.iter().enumerate() {
                    let object = format!(r#""name":"n","text":"{text}"}}"#);
                    let unit = match format {
                        StreamFormat::Events => format!(":\n\nid: e:{offset}\ndata: {{{object}\n\n"),
                        StreamFormat::Lines => format!("{{}}\n{{\"position\":\"e:{offset}\",{object}\n"),
                    };
                    let unit = if crlf { unit.replace('\n', "\r\n") } else { unit };
                    content.push_str(&unit);
                    let at = unit.find(if format == StreamFormat::Events { "id" } else { "{\"pos" }).unwrap();
                    expected.push((unit[at..].to_owned(), Some(format!("e:{offset}")), false));
                }
                let chunks = sorted(&chunks, content.len().max(1));
                let bytes = response(content.as_bytes(), &chunks);
                let cuts = sorted(&cuts, bytes.len());
                prop_assert_eq!(decoded(format, &bytes, &cuts), (expected.clone(), None));
                // Without chunks the stream ends with the connection.
                let bytes = [b"HTTP/1.0 200 OK\r\n\r\n", content.as_bytes()].concat();
                let cuts = sorted(&[], bytes.len());
                prop_assert_eq!(decoded(format, &bytes, &cuts), (expected, None));
            }
        }
    }

    fn check(format: StreamFormat, content: &str, expected: &[(Option<&str>, bool)], reason: Option<&str>) {
        let (seen, ending) = decoded(format, &response(content.as_bytes(), &[]), &[]);
        let found: Vec<_> =
            seen.iter().map(|(_, position, current)| (position.as_deref(), *current)).collect();
        assert_eq!(found, expected, "{seen:?}");
        assert_eq!(ending, reason.map(|reason| Ending::Closed(reason.to_owned())));
    }

    #[test]
    fn positions_notices_and_ends() {
        let (events, lines) = (StreamFormat::Events, StreamFormat::Lines);
        check(events, "retry: 2000\n\n:\n\nid: 0a:7\n\n", &[(Some("0a:7"), true)], None);
        check(events, "event: notice\ndata: {\"notice\":\"x\"}\n\n", &[(None, false)], None);
        check(events, "id:0a:7\ndata:x\n\n", &[(Some("0a:7"), false)], None);
        let end = "the server ended the stream with 1001 shutting down";
        check(events, "event: end\ndata: {\"end\":1001,\"reason\":\"shutting down\"}\n\n", &[], Some(end));
        check(lines, "{}\n{\"position\":\"0a:7\"}\n", &[(Some("0a:7"), true)], None);
        check(lines, "{\"notice\":\"x\"}\n", &[(None, false)], None);
        check(lines, "{\"end\":1001,\"reason\":\"shutting down\"}\n", &[], Some(end));
    }

    #[test]
    fn the_end_of_the_content_and_a_refusal_end_the_stream() {
        let mut bytes = response(b"{}\n", &[]);
        bytes.extend_from_slice(b"0\r\n\r\n");
        let (seen, ending) = decoded(StreamFormat::Lines, &bytes, &[]);
        assert_eq!((seen, ending), (vec![], Some(Ending::Closed("the server ended the stream".to_owned()))));
        let refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nNo path.";
        let (_, ending) = decoded(StreamFormat::Events, refusal, &[]);
        let why = "the request was refused with 404 Not Found: No path. (there is no such endpoint: try another path or --preset)";
        assert_eq!(ending, Some(Ending::Failed(why.to_owned())));
    }
}
