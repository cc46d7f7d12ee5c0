//! Frames as a server sends them: unmasked, in one piece (RFC 6455 §5).

use std::ops::Deref;

use super::{CloseCode, Opcode};

/// Bytes of the longest header that a server sends.
pub const FRAME_HEAD_BYTES_MAX: usize = 10;

/// A control frame's payload (§5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// An encoded frame header: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameHead {
    bytes: [u8; FRAME_HEAD_BYTES_MAX],
    len: u8,
}

impl Deref for FrameHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The header of an unmasked frame, with the length in its shortest form (§5.2).
pub fn frame_header(fin: bool, rsv1: bool, opcode: Opcode, payload_len: u64) -> FrameHead {
    let mut bytes = [0; FRAME_HEAD_BYTES_MAX];
    bytes[0] = u8::from(fin) << 7 | u8::from(rsv1) << 6 | opcode as u8;
    let len = if let Ok(short @ 0..=125) = u8::try_from(payload_len) {
        bytes[1] = short;
        2
    } else if let Ok(medium) = u16::try_from(payload_len) {
        bytes[1] = 126;
        bytes[2..4].copy_from_slice(&medium.to_be_bytes());
        4
    } else {
        bytes[1] = 127;
        bytes[2..10].copy_from_slice(&payload_len.to_be_bytes());
        10
    };
    FrameHead { bytes, len }
}

/// Appends one whole frame whose payload is `parts`, one behind the other.
pub fn frame_into(out: &mut Vec<u8>, opcode: Opcode, parts: &[&[u8]]) {
    let payload_len: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(payload_len + FRAME_HEAD_BYTES_MAX);
    out.extend_from_slice(&frame_header(true, false, opcode, payload_len as u64));
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends one whole frame that permessage-deflate has compressed (RFC 7692 §6.1).
pub fn deflated_frame_into(out: &mut Vec<u8>, opcode: Opcode, compressed: &[u8]) {
    out.reserve(compressed.len() + FRAME_HEAD_BYTES_MAX);
    out.extend_from_slice(&frame_header(true, true, opcode, compressed.len() as u64));
    out.extend_from_slice(compressed);
}

/// Appends a Close frame with a status code (§5.5.1). The reason is cut to what fits, between characters.
pub fn close_into(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    frame_into(out, Opcode::Close, &[&u16::from(code).to_be_bytes(), reason.as_bytes()]);
}

/// Appends a Close frame without a status code.
pub fn close_empty_into(out: &mut Vec<u8>) {
    frame_into(out, Opcode::Close, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        for (payload_len, head) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(&*frame_header(true, false, Opcode::Text, payload_len), head);
        }
    }

    /// RFC 7692 §6.1: RSV1 on the first frame, which is all there is; frames of every other kind have no
    /// reserved bit.
    #[test]
    fn a_compressed_message_is_one_frame_with_rsv1() {
        let (mut compressed, mut others) = (Vec::new(), Vec::new());
        deflated_frame_into(&mut compressed, Opcode::Text, &[0xca, 0x00]);
        assert_eq!(compressed, [0xC1, 2, 0xca, 0x00]);
        frame_into(&mut others, Opcode::Ping, &[]);
        frame_into(&mut others, Opcode::Pong, &[]);
        frame_into(&mut others, Opcode::Binary, &[]);
        close_empty_into(&mut others);
        assert_eq!(others, [0x89, 0, 0x8A, 0, 0x82, 0, 0x88, 0]);
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        close_into(&mut out, CloseCode::Normal, &"ü".repeat(100));
        assert_eq!(out[1], 124);
        assert_eq!(out[2..4], [0x03, 0xE8]);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
    }
}
