//! Responses of HTTP/1.1 (RFC 9112): their heads, and their content as it arrives.

use std::borrow::Cow;

use super::cause;

/// Maximum size of a response's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Maximum number of a response's fields.
pub const FIELDS_MAX: usize = 64;

/// Maximum content of a response that is read as a whole.
pub const CONTENT_BYTES_MAX: usize = 16 << 20;

/// Maximum length of the line before a chunk.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// How long a response's content is (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// It ends with the connection.
    UntilEnd,
}

/// The head of a response, as far as a client needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead<'b> {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub phrase: &'b str,
    /// Where a redirection leads.
    pub location: Option<&'b str>,
    /// The field `Stentor-Position`: where the room stood.
    pub position: Option<&'b str>,
    /// Its content.
    pub framing: Framing,
    /// The connection ends with it.
    pub closes: bool,
    /// Its length.
    pub len: usize,
}

/// Parses the head at the front of `bytes`; `None`: it is incomplete.
///
/// # Errors
/// One sentence: it is no head, or too long.
pub fn response_head(bytes: &[u8]) -> Result<Option<ResponseHead<'_>>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => {
            return Err("the head of the response exceeds 16 KiB".to_owned());
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(cause::not_http(bytes, error)),
    };
    let phrase = response.reason.unwrap_or_default();
    let mut head = ResponseHead {
        status: response.code.unwrap_or(0),
        phrase,
        location: None,
        position: None,
        framing: Framing::UntilEnd,
        closes: false,
        len,
    };
    let has_none = matches!(head.status, 100..=199 | 204 | 304);
    for field in &*response.headers {
        let Ok(value) = std::str::from_utf8(field.value) else { continue };
        let value = value.trim();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("Location") {
            head.location = Some(value);
        } else if is("Stentor-Position") {
            head.position = Some(value);
        } else if is("Connection") {
            head.closes |= value.eq_ignore_ascii_case("close");
        } else if is("Transfer-Encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(format!("the response has the transfer coding {value}, which is not supported"));
            }
            head.framing = Framing::Chunked;
        } else if is("Content-Length") && head.framing != Framing::Chunked {
            let Ok(len) = value.parse() else {
                return Err(format!("the response has the Content-Length {value:?}"));
            };
            head.framing = Framing::Length(len);
        }
    }
    if has_none {
        head.framing = Framing::Length(0);
    }
    Ok(Some(head))
}

/// Where the content of a response stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The line before a chunk comes.
    Size,
    /// Content comes: so many bytes of it.
    Data(u64),
    /// The line end behind a chunk comes.
    DataEnd,
    /// Trailer fields come, and the empty line behind them.
    Trailer,
    /// Nothing comes any more.
    End,
}

/// The content of a response while it arrives, decoded in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    state: State,
    is_chunked: bool,
}

/// What is at the front of the bytes that are not used yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Not enough to tell.
    NeedMore,
    /// So many bytes of the transfer coding, which are used.
    Coding(usize),
    /// So many bytes of content, which are used when [`Content::take`] says so.
    Data(usize),
    /// The content has ended before them.
    End,
}

impl Content {
    /// The content behind a head.
    pub const fn new(framing: Framing) -> Self {
        let (state, is_chunked) = match framing {
            Framing::Chunked => (State::Size, true),
            Framing::Length(0) => (State::End, false),
            Framing::Length(len) => (State::Data(len), false),
            Framing::UntilEnd => (State::Data(u64::MAX), false),
        };
        Self { state, is_chunked }
    }

    /// What is at the front of `bytes`.
    ///
    /// # Errors
    /// One sentence: it is no chunk (RFC 9112 §7.1).
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, String> {
        match self.state {
            State::End => Ok(Piece::End),
            State::Data(_) if bytes.is_empty() => Ok(Piece::NeedMore),
            State::Data(left) => {
                Ok(Piece::Data(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())))
            }
            State::Size => {
                let Some(line) = line(bytes)? else { return Ok(Piece::NeedMore) };
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailer } else { State::Data(size) };
                Ok(Piece::Coding(line.len() + 2))
            }
            State::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Piece::Coding(2))
                }
                [] | [b'\r'] => Ok(Piece::NeedMore),
                _ => Err("the server sent a chunk that is longer than its size".to_owned()),
            },
            State::Trailer => {
                let Some(line) = line(bytes)? else { return Ok(Piece::NeedMore) };
                if line.is_empty() {
                    self.state = State::End;
                }
                Ok(Piece::Coding(line.len() + 2))
            }
        }
    }

    /// So many bytes of the last [`Piece::Data`] are used.
    pub const fn take(&mut self, len: usize) {
        if let State::Data(left) = self.state {
            let left = left.saturating_sub(len as u64);
            self.state = match (left, self.is_chunked) {
                (0, true) => State::DataEnd,
                (0, false) => State::End,
                (left, _) => State::Data(left),
            };
        }
    }
}

/// The line at the front of `bytes`, without its end; `None`: it is incomplete.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    let wrong = || Err("the server sent a chunk without a size".to_owned());
    match memchr::memchr(b'\n', bytes) {
        Some(end) => bytes[..end].strip_suffix(b"\r").map_or_else(wrong, |line| Ok(Some(line))),
        None if bytes.len() > CHUNK_LINE_BYTES_MAX => wrong(),
        None => Ok(None),
    }
}

/// The size in the line before a chunk. Extensions are ignored.
fn chunk_size(line: &[u8]) -> Result<u64, String> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if !(1..=15).contains(&digits) || !(rest.is_empty() || rest.starts_with(b";")) {
        return Err("the server sent a chunk without a size".to_owned());
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or(0));
    Ok(line[..digits].iter().fold(0, |size, byte| size << 4 | digit(byte)))
}

/// A response with its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<'b> {
    /// Its head.
    pub head: ResponseHead<'b>,
    /// Its content, without the transfer coding.
    pub content: Cow<'b, [u8]>,
    /// Its length with the transfer coding.
    pub len: usize,
}

/// Decodes the response at the front of `bytes`. `Err(Ok(len))`: it is incomplete, and has at least `len`
/// bytes.
///
/// # Errors
/// One sentence: it is not HTTP, or ends with the connection, or has more than 16 MiB.
pub fn answer(bytes: &[u8]) -> Result<Answer<'_>, Result<usize, String>> {
    let Some(head) = response_head(bytes).map_err(Err)? else { return Err(Ok(0)) };
    let start = head.len;
    let too_long = || Err(Err("the server sent a response of more than 16 MiB".to_owned()));
    match head.framing {
        Framing::Length(len) => {
            let Some(len) = usize::try_from(len).ok().filter(|&len| len <= CONTENT_BYTES_MAX) else {
                return too_long();
            };
            let Some(content) = bytes.get(start..start + len) else { return Err(Ok(start + len)) };
            Ok(Answer { head, content: Cow::Borrowed(content), len: start + len })
        }
        Framing::Chunked => {
            let (mut content, mut decoded, mut at) = (Content::new(Framing::Chunked), Vec::new(), start);
            loop {
                match content.next(&bytes[at..]).map_err(Err)? {
                    Piece::NeedMore => return Err(Ok(bytes.len() + 1)),
                    Piece::Coding(len) => at += len,
                    Piece::Data(len) => {
                        decoded.extend_from_slice(&bytes[at..at + len]);
                        content.take(len);
                        at += len;
                    }
                    Piece::End => return Ok(Answer { head, content: Cow::Owned(decoded), len: at }),
                }
                if decoded.len() > CONTENT_BYTES_MAX {
                    return too_long();
                }
            }
        }
        Framing::UntilEnd => Err(Err("the server sent a response without a length".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// The content of `bytes`, decoded in pieces that end at these places.
    fn decoded(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, bool) {
        let (mut content, mut out, mut tail) = (Content::new(Framing::Chunked), Vec::new(), Vec::new());
        let mut from = 0;
        for &to in cuts.iter().chain(&[bytes.len()]) {
            tail.extend_from_slice(&bytes[from..to]);
            from = to;
            let mut at = 0;
            loop {
                match content.next(&tail[at..]).unwrap() {
                    Piece::NeedMore => break,
                    Piece::Coding(len) => at += len,
                    Piece::Data(len) => {
                        out.extend_from_slice(&tail[at..at + len]);
                        content.take(len);
                        at += len;
                    }
                    Piece::End => return (out, true),
                }
            }
            tail.drain(..at);
        }
        (out, false)
    }

    proptest! {
        #[test]
        fn chunks_are_decoded_at_any_split(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nField: 1\r\n\r\n");
            cuts.sort_by_key(|cut| cut.index(bytes.len()));
            let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            prop_assert_eq!(decoded(&bytes, &cuts), (chunks.concat(), true));
            // As an answer: all of it, or nothing.
            let whole = [HEAD.as_bytes(), &bytes, b"HTTP"].concat();
            let found = answer(&whole).unwrap();
            prop_assert_eq!((found.content.as_ref(), found.len), (&chunks.concat()[..], whole.len() - 4));
            for cut in cuts {
                prop_assert!(matches!(answer(&whole[..HEAD.len() + cut]), Err(Ok(_))));
            }
        }
    }

    #[test]
    fn heads() {
        let text =
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nstentor-position: e:7\r\nConnection: close\r\n\r\nabc";
        let found = answer(text.as_bytes()).unwrap();
        assert_eq!((found.content.as_ref(), found.len), (&b"abc"[..], text.len()));
        assert_eq!((found.head.position, found.head.closes, found.head.status), (Some("e:7"), true, 200));
        assert_eq!(answer(&text.as_bytes()[..text.len() - 1]), Err(Ok(text.len())));
        let empty = answer(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1").unwrap();
        assert_eq!((empty.content.len(), empty.len), (0, 27));
        assert_eq!(response_head(b"HTTP/1.1 200 O"), Ok(None));
    }

    #[test]
    fn what_is_no_response_is_rejected() {
        let check = |text: &str, part: &str| {
            let found = answer(text.as_bytes());
            assert!(matches!(&found, Err(Err(why)) if why.contains(part)), "{found:?}");
        };
        check("SSH-2.0\r\n", "is not HTTP");
        check("HTTP/1.1 200 OK\r\n\r\n", "without a length");
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length");
        check("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "16 MiB");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "gzip");
        for wrong in ["x\r\n", "-1\r\n", "1\n", "fffffffffffffffff\r\n", "1\r\nab", "1 2\r\n"] {
            check(&format!("{HEAD}{wrong}"), "the server sent a chunk");
        }
        check(&format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_BYTES_MAX)), "16 KiB");
    }
}
