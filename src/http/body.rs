//! The content of a request: where it ends, and its bytes without the transfer coding (RFC 9112 §6 and §7.1).
//!
//! How long a request is decides where the next one begins. So everything that two recipients could read in
//! two ways is refused: two lengths, a length beside a transfer coding, line feeds without a carriage return.

use super::field::{is_token, trim};
use super::{Head, Reject};

/// How the end of a request's content is found (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length in bytes, which is not 0.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
}

impl Framing {
    /// How a request's content ends, by its head.
    ///
    /// # Errors
    /// [`Reject::Framing`]: it has two lengths, or none that can be read, or both a length and a transfer
    /// coding, or a transfer coding in HTTP/1.0 or one that does not end with `chunked`. [`Reject::Coding`]:
    /// it has a transfer coding that is not `chunked` alone ("SHOULD respond with 501", RFC 9112 §6.1).
    pub(super) fn of(head: &Head<'_>) -> Result<Self, Reject> {
        let mut lengths = head.fields("Content-Length");
        let mut codings = head.fields("Transfer-Encoding");
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(Self::None),
            // "If a message is received without Transfer-Encoding and with an invalid Content-Length header
            // field, then the message framing is invalid" (§6.3). A list of equal lengths may be refused too.
            (Some(length), None) if lengths.next().is_none() => match decimal(length) {
                Some(0) => Ok(Self::None),
                Some(length) => Ok(Self::Length(length)),
                None => Err(Reject::Framing),
            },
            (None, Some(coding)) if head.minor_version >= 1 && codings.next().is_none() => {
                let coding = trim(coding);
                if coding.eq_ignore_ascii_case(b"chunked") {
                    return Ok(Self::Chunked);
                }
                let last = coding.rsplit(|&byte| byte == b',').next().unwrap_or_default();
                let ends_chunked = trim(last).eq_ignore_ascii_case(b"chunked");
                Err(if ends_chunked { Reject::Coding } else { Reject::Framing })
            }
            _ => Err(Reject::Framing),
        }
    }
}

/// `1*DIGIT`; `None`: it is something else, or too large for any content.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes of one content's chunk extensions, of leading zeros in chunk sizes, and of its trailer section: as
/// they are thrown away, this bounds what a client can have read for nothing beside each chunk's own frame.
pub const IGNORED_BYTES_MAX: usize = 8 * 1024;

/// Reads the content of one request. A value: it is fed with pieces of any size, and keeps the content's
/// bytes, at most as many as it was made for.
///
/// ```
/// use stentor::http::{BodyReader, Framing};
///
/// let mut reader = BodyReader::new(Framing::Chunked, 64 * 1024)?;
/// assert_eq!(reader.read(b"3;x=y\r\nabc\r")?, (11, false));
/// assert_eq!(reader.read(b"\n0\r\n\r\nGET /")?, (6, true));
/// assert_eq!(reader.into_bytes(), b"abc");
/// # Ok::<(), stentor::http::Reject>(())
/// ```
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    bytes: Vec<u8>,
    bytes_max: usize,
    /// The unused beginning of a line of the chunked coding, or of the trailer section.
    line: Vec<u8>,
    /// How much was thrown away: at most [`IGNORED_BYTES_MAX`].
    ignored: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many bytes of content follow, and nothing else.
    Length(u64),
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line's end behind a chunk: that many bytes of it are read.
    ChunkEnd(usize),
    /// A line of the trailer section, or the empty one behind it.
    Trailer,
    /// Everything is read.
    Done,
}

impl BodyReader {
    /// A reader of content that is framed so, and has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Reject::BodyTooLong`]: the length alone is above the bound.
    pub fn new(framing: Framing, bytes_max: usize) -> Result<Self, Reject> {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) if length > bytes_max as u64 => return Err(Reject::BodyTooLong),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
        };
        Ok(Self { state, bytes: Vec::new(), bytes_max, line: Vec::new(), ignored: 0 })
    }

    /// Reads on. Returns how many bytes of `input` belong to the content, and whether it is complete: what
    /// follows is the next request.
    ///
    /// # Errors
    /// [`Reject::Framing`]: it is not chunked as RFC 9112 §7.1 has it, or throws too much away.
    /// [`Reject::BodyTooLong`]: it has more bytes than it may.
    pub fn read(&mut self, input: &[u8]) -> Result<(usize, bool), Reject> {
        let mut used = 0;
        while self.state != State::Done && used < input.len() {
            let rest = &input[used..];
            used += match self.state {
                State::Length(left) => {
                    let taken = self.take(rest, left)?;
                    self.state = match left - taken as u64 {
                        0 => State::Done,
                        left => State::Length(left),
                    };
                    taken
                }
                State::Chunk(left) => {
                    let taken = self.take(rest, left)?;
                    self.state = match left - taken as u64 {
                        0 => State::ChunkEnd(0),
                        left => State::Chunk(left),
                    };
                    taken
                }
                State::ChunkEnd(at) => {
                    if rest[0] != b"\r\n"[at] {
                        return Err(Reject::Framing);
                    }
                    self.state = if at == 1 { State::Size } else { State::ChunkEnd(1) };
                    1
                }
                State::Size | State::Trailer => self.read_line(rest)?,
                State::Done => 0,
            };
        }
        Ok((used, self.state == State::Done))
    }

    /// What was read.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes on the heap.
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity() + self.line.capacity()
    }

    /// Takes content, of which at most `left` bytes follow.
    fn take(&mut self, rest: &[u8], left: u64) -> Result<usize, Reject> {
        let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.bytes.len() + taken > self.bytes_max {
            return Err(Reject::BodyTooLong);
        }
        self.bytes.extend_from_slice(&rest[..taken]);
        Ok(taken)
    }

    /// Reads on in a line, and acts on it when it is complete.
    fn read_line(&mut self, rest: &[u8]) -> Result<usize, Reject> {
        let end = memchr::memchr(b'\n', rest);
        let taken = end.map_or(rest.len(), |end| end + 1);
        if self.line.len() + taken > IGNORED_BYTES_MAX {
            return Err(Reject::Framing);
        }
        let kept;
        let line = if end.is_some() && self.line.is_empty() {
            &rest[..taken]
        } else {
            self.line.extend_from_slice(&rest[..taken]);
            if end.is_none() {
                return Ok(taken);
            }
            kept = std::mem::take(&mut self.line);
            &kept[..]
        };
        // A bare LF ends no line here: other recipients may take it for a part of an extension.
        let line = line.strip_suffix(b"\r\n").ok_or(Reject::Framing)?;
        let ignored = match self.state {
            State::Size => {
                let (size, ignored) = chunk_size(line).ok_or(Reject::Framing)?;
                if size > (self.bytes_max - self.bytes.len()) as u64 {
                    return Err(Reject::BodyTooLong);
                }
                self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                ignored
            }
            // A line of the trailer section, or the empty one behind it.
            State::Length(_) | State::Chunk(_) | State::ChunkEnd(_) | State::Trailer | State::Done => {
                match line {
                    [] => self.state = State::Done,
                    line if is_field(line) => {}
                    _ => return Err(Reject::Framing),
                }
                line.len()
            }
        };
        self.ignored += ignored;
        if self.ignored > IGNORED_BYTES_MAX { Err(Reject::Framing) } else { Ok(taken) }
    }
}

/// The size in `chunk-size [ chunk-ext ]`, and how many bytes of the line are ignored.
fn chunk_size(line: &[u8]) -> Option<(u64, usize)> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at(digits);
    let size = std::str::from_utf8(size).ok().filter(|size| !size.is_empty())?;
    let significant = size.trim_start_matches('0');
    // "Recipients MUST anticipate potentially large hexadecimal numerals and prevent parsing errors due to
    // integer conversion overflows" (RFC 9112 §7.1).
    let value = if significant.is_empty() { 0 } else { u64::from_str_radix(significant, 16).ok()? };
    // "A recipient MUST ignore unrecognized chunk extensions" (§7.1.1), which begin with a semicolon, perhaps
    // behind white space, and have no control characters.
    let begins = trim(extensions);
    let valid = (begins.is_empty() && extensions.is_empty() || begins.first() == Some(&b';'))
        && extensions.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F));
    valid.then_some((value, line.len() - significant.len().max(1)))
}

/// Whether it is `field-name ":" field-value`, as in a trailer section (RFC 9112 §5).
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    is_token(name) && value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F))
}

/// Appends `payload` as one chunk of the chunked transfer coding (RFC 9112 §7.1). An empty payload appends
/// nothing, as an empty chunk would be the last one.
pub fn chunk_into(out: &mut Vec<u8>, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    if len == 0 {
        return;
    }
    out.extend_from_slice(format!("{len:x}\r\n").as_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// The end of chunked content.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HeadLimits, parse_head};
    use crate::ws::Step;
    use proptest::prelude::*;

    fn framing(lines: &str, version: u8) -> Result<Framing, Reject> {
        let request = format!("POST / HTTP/1.{version}\r\nHost: h\r\n{lines}\r\n");
        match parse_head(request.as_bytes(), &mut 0, &HeadLimits { head_bytes_max: 8192 })? {
            Step::Done(head) => Ok(head.framing),
            Step::NeedMore => panic!("{lines}"),
        }
    }

    #[test]
    fn framings() {
        for (lines, expected) in [
            ("", Ok(Framing::None)),
            ("Content-Length: 0\r\n", Ok(Framing::None)),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("content-length:   007  \r\n", Ok(Framing::Length(7))),
            ("Transfer-Encoding: chunked\r\n", Ok(Framing::Chunked)),
            ("Transfer-Encoding: ChunKed \r\n", Ok(Framing::Chunked)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Reject::Framing)),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(Reject::Framing)),
            ("Content-Length: 5, 5\r\n", Err(Reject::Framing)),
            ("Content-Length: +5\r\n", Err(Reject::Framing)),
            ("Content-Length: -5\r\n", Err(Reject::Framing)),
            ("Content-Length: 5 5\r\n", Err(Reject::Framing)),
            ("Content-Length: 0x5\r\n", Err(Reject::Framing)),
            ("Content-Length: \r\n", Err(Reject::Framing)),
            ("Content-Length: 18446744073709551616\r\n", Err(Reject::Framing)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: identity\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: xchunked\r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: \r\n", Err(Reject::Framing)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(Reject::Coding)),
            ("Transfer-Encoding:\x0bchunked\r\n", Err(Reject::Malformed)),
            ("Transfer-Encoding : chunked\r\n", Err(Reject::Malformed)),
            ("Content-Length : 5\r\n", Err(Reject::Malformed)),
            ("Content-Length: 5\r\n X: y\r\n", Err(Reject::Malformed)),
        ] {
            assert_eq!(framing(lines, 1), expected, "{lines:?}");
        }
        assert_eq!(framing("Content-Length: 5\r\n", 0), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: chunked\r\n", 0), Err(Reject::Framing));
    }

    /// What is read of `input`: the content and how many bytes it took, `None` while it is incomplete.
    type Outcome = Result<Option<(Vec<u8>, usize)>, Reject>;

    const BYTES_MAX: usize = 64;

    fn read(framing: Framing, input: &[u8], pieces: impl Fn(usize) -> usize) -> Outcome {
        let mut reader = BodyReader::new(framing, BYTES_MAX)?;
        let mut used = 0;
        for piece in 0.. {
            let end = input.len().min(used + pieces(piece).max(1));
            let (taken, done) = reader.read(&input[used..end])?;
            assert!(done || taken == end - used, "an incomplete content takes all of its input");
            used += taken;
            if done {
                return Ok(Some((reader.into_bytes(), used)));
            }
            if used == input.len() {
                return Ok(None);
            }
        }
        unreachable!("every piece has a byte")
    }

    fn check(input: &str, expected: Result<Option<(&str, &str)>, Reject>) {
        let expected = expected
            .map(|read| read.map(|(body, rest)| (body.as_bytes().to_vec(), input.len() - rest.len())));
        assert_eq!(read(Framing::Chunked, input.as_bytes(), |_| usize::MAX >> 1), expected, "{input:?}");
        assert_eq!(read(Framing::Chunked, input.as_bytes(), |_| 1), expected, "{input:?}, byte by byte");
    }

    #[test]
    fn chunked_content() {
        check("0\r\n\r\n", Ok(Some(("", ""))));
        check("3\r\nabc\r\n0\r\n\r\nGET /", Ok(Some(("abc", "GET /"))));
        check("1\r\na\r\nA\r\n0123456789\r\n00\r\n\r\n", Ok(Some(("a0123456789", ""))));
        check("0003;a=b;c=\"d\"\r\na\nb\r\n0 ;x\r\nX-Y: z\r\n\r\n\r\n", Ok(Some(("a\nb", "\r\n"))));
        check("3\r\nab", Ok(None));
        check("0\r\nX: y\r\n", Ok(None));
        for wrong in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "-1\r\n",
            "0x3\r\nabc\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "3 x\r\nabc\r\n",
            "3\nabc\r\n",
            "3\r\nabc\n",
            "3\r\nabcd\r\n",
            "3;x\0\r\nabc\r\n",
            "3;x\ry\r\nabc\r\n",
            "3;\x7f\r\nabc\r\n",
            "0\r\nX y\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "10000000000000000\r\n",
        ] {
            check(wrong, Err(Reject::Framing));
        }
    }

    #[test]
    fn content_is_bounded() {
        let too_long: Result<Option<(&str, &str)>, Reject> = Err(Reject::BodyTooLong);
        check(&format!("40\r\n{}\r\n0\r\n\r\n", "x".repeat(64)), Ok(Some((&"x".repeat(64), ""))));
        check("41\r\n", too_long);
        check(&format!("40\r\n{}\r\n1\r\nx", "x".repeat(64)), too_long);
        check("ffffffffffffffff\r\n", too_long);
        assert_eq!(BodyReader::new(Framing::Length(65), BYTES_MAX).map(drop), Err(Reject::BodyTooLong));
        assert_eq!(read(Framing::Length(3), b"abcd", |_| 2), Ok(Some((b"abc".to_vec(), 3))));
        assert_eq!(read(Framing::None, b"abcd", |_| 2), Ok(Some((Vec::new(), 0))));
    }

    /// Extensions, zeros and trailers are thrown away, and are bounded all together.
    #[test]
    fn what_is_ignored_is_bounded() {
        let fits = IGNORED_BYTES_MAX / 2;
        check(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(fits)), Ok(Some(("a", ""))));
        for wrong in [
            format!("1;{}", "x".repeat(IGNORED_BYTES_MAX)),
            "0".repeat(IGNORED_BYTES_MAX + 1),
            format!("1;{0}\r\na\r\n1;{0}\r\nb\r\n", "x".repeat(fits)),
            format!("0\r\nX: {0}\r\nX: {0}\r\n", "x".repeat(fits)),
        ] {
            check(&wrong, Err(Reject::Framing));
        }
        // A chunk for each byte throws nothing away.
        let mut reader = BodyReader::new(Framing::Chunked, 1 << 20).unwrap();
        for _ in 0..100_000 {
            assert_eq!(reader.read(b"1\r\nx\r\n"), Ok((6, false)));
        }
        assert_eq!(reader.read(b"0\r\n\r\n"), Ok((5, true)));
        assert_eq!(reader.into_bytes().len(), 100_000);
    }

    fn chunks() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            "[0-9a-fA-F]{1,2}(;[a-z]{0,3})?\r\n[a-c\r\n]{0,17}\r\n",
            "0\r\n",
            "\r\n",
            "[A-Z]: [a-z]{0,4}\r\n",
            "[0-9a-f;\r\n :]{0,4}",
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(input in chunks(), sizes in prop::collection::vec(1_usize..7, 1..9)) {
            let whole = read(Framing::Chunked, &input, |_| usize::MAX >> 1);
            prop_assert_eq!(read(Framing::Chunked, &input, |piece| sizes[piece % sizes.len()]), whole);
        }

        #[test]
        fn what_is_written_as_chunks_is_read_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..8), size in 1_usize..9,
        ) {
            let mut out = Vec::new();
            parts.iter().for_each(|part| chunk_into(&mut out, &[&part[..1], &part[1..]]));
            out.extend_from_slice(LAST_CHUNK);
            let content = parts.concat();
            prop_assert_eq!(read(Framing::Chunked, &out, |_| size), Ok(Some((content, out.len()))));
        }
    }
}
