//! HTTP/1.1 as a client reads it: where an answer's content ends (RFC 9112 §6 and §7.1), and the two
//! formats of streams, events (HTML Standard §9.2.6) and lines. What the standards allow and Stentor never
//! sends (chunk extensions, trailers) is an error here too.

use crate::Response;

/// Reads the content of one answer, from its head on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content(State);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many bytes follow.
    Length(usize),
    /// Everything up to the connection's end.
    ToTheEnd,
    /// A chunk's size: so much of it, in so many digits.
    Size(usize, usize),
    /// The line feed behind a chunk's size.
    SizeEnd(usize),
    /// So many bytes of a chunk.
    Chunk(usize),
    /// The carriage return behind a chunk, and its line feed.
    ChunkReturn,
    ChunkEnd,
    /// The same behind the last one.
    LastReturn,
    LastEnd,
    Done,
}

impl Content {
    /// The content behind `head`, the answer to a request that was not HEAD (RFC 9112 §6.3).
    ///
    /// # Panics
    /// When the head says two different things about it.
    pub fn of(head: &Response<'_>) -> Self {
        let (coding, length) = (head.field("Transfer-Encoding"), head.field("Content-Length"));
        let has_none = head.status < 200 || matches!(head.status, 204 | 304);
        Self(match (coding, length) {
            // "A server MUST NOT send a Transfer-Encoding [or Content-Length] header field in any response
            // with a status code of 1xx (Informational) or 204" (§6.1; RFC 9110 §8.6).
            (coding, length) if has_none => {
                assert!(head.status == 304 || coding.is_none() && length.is_none(), "{}", head.fields);
                State::Done
            }
            (Some("chunked"), None) => State::Size(0, 0),
            (None, Some("0")) => State::Done,
            (None, Some(length)) => State::Length(length.parse().expect("a length")),
            (None, None) => State::ToTheEnd,
            _ => panic!("where its content ends is not clear: {}", head.fields),
        })
    }

    /// Whether it ends with the connection.
    pub fn is_to_the_end(&self) -> bool {
        self.0 == State::ToTheEnd
    }

    /// Whether all of it is read.
    pub fn is_complete(&self) -> bool {
        self.0 == State::Done
    }

    /// Reads on. What is content is appended to `out`; returns how many bytes were used.
    ///
    /// # Panics
    /// When the chunks are not as a server must send them.
    pub fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut used = 0;
        while self.0 != State::Done && used < bytes.len() {
            let rest = &bytes[used..];
            let byte = rest[0];
            let (next, len) = match self.0 {
                State::Length(left) | State::Chunk(left) => {
                    let take = left.min(rest.len());
                    out.extend_from_slice(&rest[..take]);
                    (self.after(left - take), take)
                }
                State::ToTheEnd => {
                    out.extend_from_slice(rest);
                    (State::ToTheEnd, rest.len())
                }
                State::Size(size, digits) if byte == b'\r' && digits > 0 => (State::SizeEnd(size), 1),
                State::Size(size, digits) => {
                    let digit = char::from(byte).to_digit(16).expect("a hexadecimal digit of a chunk's size");
                    assert!(digits == 0 || size > 0, "a chunk's size begins with a zero");
                    (State::Size(size * 16 + digit as usize, digits + 1), 1)
                }
                State::SizeEnd(0) => (expect(byte, b'\n', State::LastReturn), 1),
                State::SizeEnd(size) => (expect(byte, b'\n', State::Chunk(size)), 1),
                State::ChunkReturn => (expect(byte, b'\r', State::ChunkEnd), 1),
                State::ChunkEnd => (expect(byte, b'\n', State::Size(0, 0)), 1),
                State::LastReturn => (expect(byte, b'\r', State::LastEnd), 1),
                State::LastEnd => (expect(byte, b'\n', State::Done), 1),
                State::Done => break,
            };
            self.0 = next;
            used += len;
        }
        used
    }

    /// With so many bytes left of what is being read.
    const fn after(&self, left: usize) -> State {
        match (self.0, left) {
            (State::Length(_), 0) => State::Done,
            (State::Length(_), left) => State::Length(left),
            (_, 0) => State::ChunkReturn,
            (_, left) => State::Chunk(left),
        }
    }
}

fn expect(byte: u8, expected: u8, next: State) -> State {
    assert_eq!(byte.escape_ascii().to_string(), expected.escape_ascii().to_string(), "between chunks");
    next
}

/// What an empty line of an event stream dispatches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamEvent<'a> {
    /// Its type; `message` if it has none.
    pub event: &'a str,
    /// The last event id, of this event or an earlier one.
    pub id: &'a str,
    /// Its data; `None`: there is no event, only perhaps a new last event id.
    pub data: Option<&'a str>,
}

/// An event stream, as an `EventSource` interprets it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventStream {
    /// The incomplete line.
    line: Vec<u8>,
    /// The last line ended with a carriage return, to which a line feed would belong.
    after_return: bool,
    event: String,
    data: String,
    /// The last event id buffer, and what of it was dispatched.
    id: String,
    retry: Option<u64>,
    comments: u64,
}

impl EventStream {
    /// The reconnection time in milliseconds that the server has set.
    pub const fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Comments so far.
    pub const fn comments(&self) -> u64 {
        self.comments
    }

    /// Reads on; `each` gets what every empty line dispatches.
    ///
    /// # Panics
    /// When a line is not UTF-8, which an `EventSource` would replace.
    pub fn read(&mut self, bytes: &[u8], mut each: impl FnMut(StreamEvent<'_>)) {
        for &byte in bytes {
            let after_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.take_line(std::str::from_utf8(&line).expect("an event stream is UTF-8"), &mut each);
                    self.line = line;
                    self.line.clear();
                }
                _ => self.line.push(byte),
            }
        }
    }

    fn take_line(&mut self, line: &str, each: &mut impl FnMut(StreamEvent<'_>)) {
        if line.is_empty() {
            let data = self.data.strip_suffix('\n');
            let event = if self.event.is_empty() { "message" } else { &self.event };
            each(StreamEvent { event, id: &self.id, data });
            self.event.clear();
            self.data.clear();
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            // "The field is ignored" (HTML Standard §9.2.6).
            _ => {}
        }
    }
}

/// Lines of text, each with a line feed behind it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Reads on; `each` gets every complete line without its end.
    ///
    /// # Panics
    /// When a line is not UTF-8.
    pub fn read(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        self.0.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(len) = self.0[begin..].iter().position(|&byte| byte == b'\n') {
            each(std::str::from_utf8(&self.0[begin..begin + len]).expect("a line is UTF-8"));
            begin += len + 1;
        }
        self.0.drain(..begin);
    }
}

/// Content in the chunked transfer coding (RFC 9112 §7.1). `next_len` says how long the next chunk is to
/// be, at most: 1 or more; `extension` stands behind each chunk's size, `trailer` behind the last chunk.
pub fn chunked(
    content: &[u8],
    mut next_len: impl FnMut() -> usize,
    extension: &str,
    trailer: &str,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(next_len().clamp(1, rest.len()));
        out.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(format!("0{extension}\r\n{trailer}\r\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_response;
    use proptest::prelude::*;

    fn content_of(fields: &str) -> Content {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        Content::of(&parse_response(head.as_bytes()).expect("a head"))
    }

    fn events(stream: &str, piece: usize) -> Vec<(String, String, Option<String>)> {
        let (mut reader, mut found) = (EventStream::default(), Vec::new());
        for piece in stream.as_bytes().chunks(piece) {
            reader.read(piece, |it| {
                found.push((it.event.to_owned(), it.id.to_owned(), it.data.map(str::to_owned)));
            });
        }
        found
    }

    proptest! {
        #[test]
        fn chunks_in_any_pieces_are_the_content(content: Vec<u8>, chunk in 1usize..40, piece in 1usize..30) {
            let mut bytes = chunked(&content, || chunk, "", "");
            let len = bytes.len();
            bytes.extend_from_slice(b"HTTP/1.1");
            let (mut reader, mut out, mut used) = (content_of("Transfer-Encoding: chunked\r\n"), Vec::new(), 0);
            for piece in bytes.chunks(piece) {
                used += reader.read(piece, &mut out);
            }
            prop_assert!(reader.is_complete());
            prop_assert_eq!((out, used), (content, len));
        }
    }

    #[test]
    fn wrong_chunks_are_found() {
        for wrong in [
            "3\r\nab\r\n0\r\n\r\n",
            "2\r\nabc\r\n",
            "02\r\nab\r\n",
            "2\nab",
            "2;x\r\nab",
            "\r\n",
            "0\r\nX: y",
        ] {
            let read =
                || content_of("Transfer-Encoding: chunked\r\n").read(wrong.as_bytes(), &mut Vec::new());
            assert!(std::panic::catch_unwind(read).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn content_ends_by_its_length_or_with_the_connection() {
        let mut out = Vec::new();
        let mut reader = content_of("Content-Length: 3\r\n");
        assert_eq!(reader.read(b"abcd", &mut out), 3);
        assert!(reader.is_complete() && content_of("Content-Length: 0\r\n").is_complete());
        let mut reader = content_of("");
        assert_eq!(reader.read(b"abcd", &mut out), 4);
        assert!(reader.is_to_the_end() && !reader.is_complete());
        assert_eq!(out, b"abcabcd");
    }

    /// The examples of the HTML Standard, §9.2.6, and every kind of line end.
    #[test]
    fn event_streams() {
        let event = |id: &str, data: &str| ("message".to_owned(), id.to_owned(), Some(data.to_owned()));
        for piece in [1, 2, 3, 100] {
            assert_eq!(events("data: YHOO\ndata: +2\ndata: 10\n\n", piece), [event("", "YHOO\n+2\n10")]);
            let stream =
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
            let nothing = ("message".to_owned(), String::new(), None);
            let expected = [nothing, event("1", "first event"), event("", "second event")];
            assert_eq!(events(stream, piece), expected);
            assert_eq!(events("data\n\ndata\ndata\n\ndata:", piece), [event("", ""), event("", "\n")]);
            assert_eq!(events("data: a\r\n\r\ndata: b\r\rid: 7\n\n", piece).len(), 3);
        }
        let typed = ("notice".to_owned(), "e:1".to_owned(), Some("{}".to_owned()));
        assert_eq!(events("event: notice\nid: e:1\ndata: {}\n\n", 5), [typed]);
    }

    #[test]
    fn lines_in_pieces() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in [&b"{}"[..], b"\n{\"a\"", b":1}\n{}\n", b"{"] {
            lines.read(piece, |line| found.push(line.to_owned()));
        }
        assert_eq!(found, ["{}", "{\"a\":1}", "{}"]);
    }
}
