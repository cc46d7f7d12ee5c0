//! What a server sends, and what it must not send.

use std::fmt;

/// A frame of a server: a whole message, as Stentor does not fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it is (RFC 6455 §5.2).
    pub opcode: u8,
    /// RSV1: its payload is compressed (RFC 7692 §6).
    pub compressed: bool,
    /// What it carries.
    pub payload: &'a [u8],
    /// Bytes of the whole frame, header and payload.
    pub len: usize,
}

impl Frame<'_> {
    /// The status code of a Close, 1005 when it has none (§7.1.5); `None` for other frames.
    ///
    /// # Panics
    /// When the payload is one byte long, which is no status code (§5.5.1).
    pub fn close_code(&self) -> Option<u16> {
        match (self.opcode, self.payload) {
            (8, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
            (8, []) => Some(1005),
            (8, _) => panic!("half a status code"),
            _ => None,
        }
    }
}

/// Why bytes are no frame that a server may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// "A server MUST NOT mask any frames that it sends to the client" (§5.1).
    Masked,
    /// A fragment, or RSV2 or RSV3: this first byte.
    FirstByte(u8),
    /// An opcode that means nothing, or a continuation (§5.2).
    Opcode(u8),
    /// "The minimal number of bytes MUST be used to encode the length" (§5.2).
    LengthNotMinimal(u64),
    /// The payload of a control frame is at most 125 bytes long (§5.5).
    ControlTooLong,
    /// Control frames are not compressed (RFC 7692 §6.1).
    ControlCompressed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masked => f.write_str("a masked frame from a server"),
            Self::FirstByte(byte) => write!(f, "a fragment or reserved bits: {byte:#04x}"),
            Self::Opcode(opcode) => write!(f, "an opcode that a server does not send: {opcode}"),
            Self::LengthNotMinimal(len) => write!(f, "a length that is not in its shortest form: {len}"),
            Self::ControlTooLong => f.write_str("a control frame of more than 125 bytes"),
            Self::ControlCompressed => f.write_str("a compressed control frame"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The frame at the front of `bytes`; `None` if it is not complete yet. Allocates nothing.
///
/// # Errors
/// When a server must not send it, as soon as its header shows that.
#[inline]
pub fn try_parse(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((&[b0, b1], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (opcode, compressed) = (b0 & 0x0F, b0 & 0x40 != 0);
    if b1 & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    if b0 & 0xB0 != 0x80 {
        return Err(FrameError::FirstByte(b0));
    }
    if !matches!(opcode, 1 | 2 | 8..=10) {
        return Err(FrameError::Opcode(opcode));
    }
    if opcode >= 8 && b1 > 125 {
        return Err(FrameError::ControlTooLong);
    }
    if opcode >= 8 && compressed {
        return Err(FrameError::ControlCompressed);
    }
    let (payload_len, rest) = match (b1, rest) {
        (short @ 0..=125, rest) => (u64::from(short), rest),
        (126, [a, b, rest @ ..]) => (minimal(u64::from(u16::from_be_bytes([*a, *b])), 126)?, rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            (minimal(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 1 << 16)?, rest)
        }
        _ => return Ok(None),
    };
    let payload = usize::try_from(payload_len).ok().and_then(|len| rest.get(..len));
    let header_len = bytes.len() - rest.len();
    Ok(payload.map(|payload| Frame { opcode, compressed, payload, len: header_len + payload.len() }))
}

const fn minimal(len: u64, least: u64) -> Result<u64, FrameError> {
    if len < least { Err(FrameError::LengthNotMinimal(len)) } else { Ok(len) }
}

/// The same as [`try_parse`], for tests.
///
/// # Panics
/// When a server must not send it.
#[track_caller]
#[inline]
pub fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    match try_parse(bytes) {
        Ok(frame) => frame,
        Err(error) => panic!("{error}"),
    }
}

/// The complete frames at the front of `bytes`.
///
/// # Panics
/// While iterating, when a server must not send one of them.
pub const fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames(bytes)
}

/// See [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// What is behind the frames that were taken.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let frame = parse(self.0)?;
        self.0 = &self.0[frame.len..];
        Some(frame)
    }
}

/// Takes frames out of a stream that arrives in any pieces. Copies only what is incomplete at the end of a
/// piece.
#[derive(Clone, Debug, Default)]
pub struct FrameReader(Vec<u8>);

impl FrameReader {
    /// Calls `each` with every frame that `bytes` completes.
    ///
    /// # Panics
    /// When a server must not send one of them.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        if self.0.is_empty() {
            let mut frames = frames(bytes);
            frames.by_ref().for_each(each);
            self.0.extend_from_slice(frames.rest());
            return;
        }
        self.0.extend_from_slice(bytes);
        let mut frames = frames(&self.0);
        frames.by_ref().for_each(&mut each);
        let rest_len = frames.rest().len();
        self.0.drain(..self.0.len() - rest_len);
    }

    /// Bytes of the incomplete frame.
    pub const fn pending(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// The head of an HTTP/1.1 response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// Its status code.
    pub status: u16,
    /// The header fields: lines with their ends, without the status line and the empty line.
    pub fields: &'a str,
    /// Bytes of the whole head. What is behind is the body, or frames.
    pub len: usize,
}

impl<'a> Response<'a> {
    /// The value of the first field of that name (RFC 9110 §5.1: in any case).
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.fields.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Bytes that are no head of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseError;

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the head of an HTTP/1.1 response")
    }
}

impl std::error::Error for ResponseError {}

/// The head at the front of `bytes`; `None` if it is not complete yet.
///
/// # Errors
/// When it is none.
pub fn try_parse_response(bytes: &[u8]) -> Result<Option<Response<'_>>, ResponseError> {
    const LINE: &[u8] = b"HTTP/1.1 ";
    let front = LINE.len().min(bytes.len());
    if bytes[..front] != LINE[..front] {
        return Err(ResponseError);
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end + 2]).map_err(|_| ResponseError)?;
    let (line, fields) = head.split_once("\r\n").ok_or(ResponseError)?;
    // "A server MUST send the space that separates the status-code from the reason-phrase even when [it] is
    // absent" (RFC 9112 §4).
    let (status, _reason) = line[LINE.len()..].split_once(' ').ok_or(ResponseError)?;
    if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ResponseError);
    }
    let status = status.parse().map_err(|_| ResponseError)?;
    Ok(Some(Response { status, fields, len: end + 4 }))
}

/// The same as [`try_parse_response`], for tests.
///
/// # Panics
/// When it is no head of a response.
#[track_caller]
pub fn parse_response(bytes: &[u8]) -> Option<Response<'_>> {
    match try_parse_response(bytes) {
        Ok(response) => response,
        Err(error) => panic!("{error}: {}", bytes[..bytes.len().min(200)].escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::header_into;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::Frame as Theirs;
    use tungstenite::protocol::frame::coding::{Data, OpCode};

    fn written(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = Theirs::message(payload.to_vec(), OpCode::Data(Data::Binary), true);
        frame.format(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn frames_of_tungstenite_are_read(payload in prop::collection::vec(any::<u8>(), 0..70_000), cut: prop::sample::Index) {
            let mut bytes = written(&payload);
            prop_assert_eq!(try_parse(&bytes[..cut.index(bytes.len())]), Ok(None));
            let len = bytes.len();
            bytes.push(7);
            let frame = Frame { opcode: 2, compressed: false, payload: &payload, len };
            prop_assert_eq!(parse(&bytes), Some(frame));
        }

        #[test]
        fn any_pieces_give_the_same_frames(lens in prop::collection::vec(0usize..300, 0..9), piece in 1usize..400) {
            let bytes: Vec<u8> = lens.iter().flat_map(|&len| written(&vec![b'x'; len])).collect();
            let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                reader.take(piece, |frame| seen.push(frame.payload.len()));
            }
            prop_assert!(reader.pending().is_empty());
            prop_assert_eq!(seen, lens);
        }

        #[test]
        fn no_input_is_read_beyond_its_end(bytes: Vec<u8>) {
            if let Ok(Some(frame)) = try_parse(&bytes) {
                prop_assert!(frame.len <= bytes.len() && frame.payload.len() < frame.len);
            }
            if let Ok(Some(response)) = try_parse_response(&bytes) {
                prop_assert!(response.len <= bytes.len());
            }
        }
    }

    #[test]
    fn invalid_server_frames_are_refused() {
        for (bytes, error) in [
            (&[0x81, 0x80][..], FrameError::Masked),
            (&[0x01, 0], FrameError::FirstByte(0x01)),
            (&[0xA1, 0], FrameError::FirstByte(0xA1)),
            (&[0x91, 0], FrameError::FirstByte(0x91)),
            (&[0x80, 0], FrameError::Opcode(0)),
            (&[0x83, 0], FrameError::Opcode(3)),
            (&[0x8B, 0], FrameError::Opcode(11)),
            (&[0x81, 126, 0, 125], FrameError::LengthNotMinimal(125)),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], FrameError::LengthNotMinimal(0xFFFF)),
            (&[0x89, 126], FrameError::ControlTooLong),
            (&[0xC9, 0], FrameError::ControlCompressed),
        ] {
            assert_eq!(try_parse(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_length_of_the_next_form_is_minimal() {
        for len in [126, 0xFFFF, 0x1_0000, u64::MAX] {
            let mut bytes = Vec::new();
            header_into(&mut bytes, 0x82, len, None);
            assert_eq!(try_parse(&bytes), Ok(None), "{len}");
        }
    }

    #[test]
    fn codes_of_a_close() {
        let code = |bytes| parse(bytes).unwrap().close_code();
        assert_eq!(code(&[0x88, 2, 0x03, 0xE9]), Some(1001));
        assert_eq!(code(&[0x88, 0]), Some(1005));
        assert_eq!(code(&[0x89, 0]), None);
    }

    #[test]
    fn heads_of_responses() {
        let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-Empty:\r\n\r\n\x01";
        let head = parse_response(text.as_bytes()).unwrap();
        assert_eq!((head.status, head.len), (101, text.len() - 1));
        assert_eq!(
            (head.field("upgrade"), head.field("x-empty"), head.field("x")),
            (Some("websocket"), Some(""), None)
        );
        assert_eq!(parse_response(b"HTTP/1.1 200 \r\n\r\n").map(|head| head.fields), Some(""));
        for partial in ["", "HTT", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n"] {
            assert_eq!(parse_response(partial.as_bytes()), None);
        }
        for wrong in [
            "\x16\x03",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
        ] {
            assert_eq!(try_parse_response(wrong.as_bytes()), Err(ResponseError), "{wrong:?}");
        }
    }
}
