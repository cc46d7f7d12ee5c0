//! Frames (RFC 6455 §5.2). A server's frames are decoded in place, a client's are masked.

use stentor::ws::unmask;

/// Maximum payload of a control frame (§5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// The opcode of a frame (§5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message.
    Text = 0x1,
    /// A binary message.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// A ping.
    Ping = 0x9,
    /// The reply to a ping.
    Pong = 0xA,
}

/// A frame from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'b> {
    /// The last fragment of its message.
    pub fin: bool,
    /// RSV1: the message is compressed (RFC 7692 §6).
    pub compressed: bool,
    /// The opcode.
    pub opcode: Opcode,
    /// The payload.
    pub payload: &'b [u8],
}

/// A violation of the protocol by the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// "A server MUST NOT mask any frames" (§5.1).
    Masked,
    /// RSV2, RSV3, or an unknown opcode (§5.2).
    Reserved,
    /// A control frame that is fragmented or longer than 125 bytes (§5.5).
    Control,
    /// Longer than the limit.
    TooLong,
}

impl FrameError {
    /// The error message.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Masked => "the server sent a masked frame",
            Self::Reserved => "the server sent a frame with reserved bits or an unknown opcode",
            Self::Control => "the server sent a control frame that is fragmented or too long",
            Self::TooLong => "the server sent a message of more than 16 MiB",
        }
    }
}

/// Decodes the frame at the front of `bytes`; returns it and the rest, or `None` if it is incomplete.
///
/// # Errors
/// The bytes are not a valid frame.
pub fn next_frame(bytes: &[u8], payload_max: u64) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some((&[b0, b1], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    if b1 & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (payload_len, rest) = match (b1, rest) {
        (short @ 0..=125, rest) => (u64::from(short), rest),
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
        }
        _ => return Ok(None),
    };
    let opcode = match b0 & 0x3F {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Text,
        0x2 => Opcode::Binary,
        0x8 => Opcode::Close,
        0x9 => Opcode::Ping,
        0xA => Opcode::Pong,
        _ => return Err(FrameError::Reserved),
    };
    let fin = b0 & 0x80 != 0;
    if b0 & 0x08 != 0 && (!fin || payload_len > CONTROL_BYTES_MAX) {
        return Err(FrameError::Control);
    }
    if payload_len > payload_max {
        return Err(FrameError::TooLong);
    }
    let Some((payload, rest)) = usize::try_from(payload_len).ok().and_then(|len| rest.split_at_checked(len))
    else {
        return Ok(None);
    };
    Ok(Some((Frame { fin, compressed: b0 & 0x40 != 0, opcode, payload }, rest)))
}

/// The length of the frame at the front of `bytes`, with its header; 0 if the header is incomplete.
pub fn frame_len(bytes: &[u8]) -> usize {
    let len = match bytes {
        [_, short @ 0..=125, ..] => 2 + u64::from(*short),
        [_, 126, a, b, ..] => 4 + u64::from(u16::from_be_bytes([*a, *b])),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]).saturating_add(10)
        }
        _ => 0,
    };
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Appends one complete frame, masked with `key` (§5.3).
pub fn frame_into(out: &mut Vec<u8>, opcode: Opcode, compressed: bool, payload: &[u8], key: [u8; 4]) {
    out.push(0x80 | u8::from(compressed) << 6 | opcode as u8);
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        out.push(0x80 | short);
    } else if let Ok(medium) = u16::try_from(payload.len()) {
        out.push(0x80 | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], key, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::frame::{Frame as Theirs, FrameHeader};

    proptest! {
        #[test]
        fn encoded_frames_match_tungstenite(payload in prop::collection::vec(any::<u8>(), 0..70_000), key: [u8; 4]) {
            let mut ours = Vec::new();
            frame_into(&mut ours, Opcode::Binary, false, &payload, key);
            let mut theirs = Theirs::message(payload, OpCode::Data(Data::Binary), true);
            theirs.header_mut().mask = Some(key);
            let mut expected = Vec::new();
            theirs.format(&mut expected).unwrap();
            prop_assert!(ours == expected);
        }

        #[test]
        fn frames_of_tungstenite_are_decoded(payload in prop::collection::vec(any::<u8>(), 0..70_000), cut: prop::sample::Index) {
            let mut bytes = Vec::new();
            Theirs::message(payload.clone(), OpCode::Data(Data::Text), true).format(&mut bytes).unwrap();
            let front = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(next_frame(front, 1 << 24), Ok(None));
            prop_assert!(front.len() < 10 || frame_len(front) == bytes.len());
            bytes.push(7);
            let frame = Frame { fin: true, compressed: false, opcode: Opcode::Text, payload: &payload };
            prop_assert_eq!(next_frame(&bytes, 1 << 24), Ok(Some((frame, &[7][..]))));
        }
    }

    #[test]
    fn invalid_frames_are_rejected() {
        let header = |opcode| {
            let mut bytes = Vec::new();
            FrameHeader { opcode, ..FrameHeader::default() }.format(5, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(next_frame(&header(OpCode::Data(Data::Text)), 4), Err(FrameError::TooLong));
        assert_eq!(next_frame(&[0x81, 0x80, 1, 2, 3, 4], 9), Err(FrameError::Masked));
        assert_eq!(next_frame(&[0x83, 0], 9), Err(FrameError::Reserved));
        assert_eq!(next_frame(&[0x91, 0], 9), Err(FrameError::Reserved));
        assert_eq!(next_frame(&[0x09, 0], 9), Err(FrameError::Control));
        assert_eq!(next_frame(&[0x89, 126, 0, 126], 999), Err(FrameError::Control));
    }
}
