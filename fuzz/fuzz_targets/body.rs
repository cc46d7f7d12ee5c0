//! The content of requests: in any pieces it is what it is in one, it never grows beyond its bound, and what
//! a plain decoder of RFC 9112 §7.1 reads is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::http::{BodyReader, Framing, Reject};

const BYTES_MAX: usize = 256;

/// The content and how many bytes it took; `None`: it is incomplete.
type Outcome = Result<Option<(Vec<u8>, usize)>, Reject>;

fn read(framing: Framing, input: &[u8], mut piece: impl FnMut() -> usize) -> Outcome {
    let mut reader = BodyReader::new(framing, BYTES_MAX)?;
    let mut used = 0;
    loop {
        let end = input.len().min(used + piece().max(1));
        let (taken, done) = reader.read(&input[used..end])?;
        used += taken;
        assert!(reader.capacity() <= 64 * 1024);
        if done {
            return Ok(Some((reader.into_bytes(), used)));
        }
        assert_eq!(used, end, "an incomplete content takes all of its input");
        if used == input.len() {
            return Ok(None);
        }
    }
}

/// The chunks at the front of `input`, read the plainest way. `None`: incomplete, or not well-formed.
fn plainly(input: &[u8]) -> Option<Vec<u8>> {
    let (mut content, mut rest) = (Vec::new(), input);
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        // An extension may have bytes that are no text.
        let size = rest[..end].split(|byte| b"; \t".contains(byte)).next()?;
        let size = std::str::from_utf8(size).ok()?;
        let size = usize::from_str_radix(size, 16).ok().filter(|_| !size.starts_with('+'))?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(content);
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

fuzz_target!(|input: &[u8]| {
    let [framing, cut, input @ ..] = input else { return };
    let framing = match framing % 3 {
        0 => Framing::Length(u64::from(*cut) * 2),
        1 => Framing::Chunked,
        _ => Framing::None,
    };
    let whole = read(framing, input, || usize::MAX >> 1);
    assert_eq!(read(framing, input, || 1), whole);
    let (mut size, cut) = (0_usize, usize::from(*cut));
    let pieces = || {
        size = (size * 31 + cut) % 17;
        size
    };
    assert_eq!(read(framing, input, pieces), whole);
    if let (Framing::Chunked, Ok(Some((content, used)))) = (framing, whole) {
        assert!(content.len() <= BYTES_MAX && used <= input.len());
        assert_eq!(plainly(&input[..used]), Some(content));
    }
});
