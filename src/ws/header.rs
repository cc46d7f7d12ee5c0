//! The frame header (RFC 6455 §5.2), as a client must send it.

use super::{ProtocolError, Step};

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Requests a pong of the peer.
    Ping = 0x9,
    /// The answer to it.
    Pong = 0xA,
}

impl Opcode {
    /// Whether it is a control frame's (§5.5).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl TryFrom<u8> for Opcode {
    type Error = ProtocolError;

    fn try_from(nibble: u8) -> Result<Self, ProtocolError> {
        Ok(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return Err(ProtocolError::ReservedOpcode),
        })
    }
}

/// One client frame's header. RSV2 and RSV3 are never set, or it would not have decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The last fragment of its message.
    pub fin: bool,
    /// The message is compressed (RFC 7692 §6).
    pub rsv1: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The masking key (§5.3).
    pub key: [u8; 4],
    /// Bytes of payload: below 2⁶³.
    pub payload_len: u64,
    /// Bytes of the header itself: 6 to 14.
    pub len: usize,
}

/// Bytes of the longest client header.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// Reads one header from the front of `bytes`; consumes nothing. `rsv1_allowed`: permessage-deflate was
/// agreed on.
///
/// # Errors
/// Everything that a single header can break. What depends on the incomplete message is the decoder's.
pub fn decode_header(bytes: &[u8], rsv1_allowed: bool) -> Result<Step<Header>, ProtocolError> {
    let Some((&[b0, b1], rest)) = bytes.split_first_chunk() else {
        return Ok(Step::NeedMore);
    };
    let (fin, rsv1) = (b0 & 0x80 != 0, b0 & 0x40 != 0);
    let opcode = Opcode::try_from(b0 & 0x0F)?;
    // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values";
    // permessage-deflate gives RSV1 one, and only on the first fragment of a data message (RFC 7692 §6.1).
    let rsv1_has_meaning = rsv1_allowed && matches!(opcode, Opcode::Text | Opcode::Binary);
    if b0 & 0x30 != 0 || (rsv1 && !rsv1_has_meaning) {
        return Err(ProtocolError::ReservedBits);
    }
    if b1 & 0x80 == 0 {
        return Err(ProtocolError::Unmasked);
    }
    if opcode.is_control() {
        if !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        if b1 & 0x7F > 125 {
            return Err(ProtocolError::ControlTooLong);
        }
    }
    let (payload_len, rest) = match (b1 & 0x7F, rest) {
        (short @ 0..=125, rest) => (u64::from(short), rest),
        (126, &[a, b, ref rest @ ..]) => (u64::from(u16::from_be_bytes([a, b])), rest),
        (127, &[a, b, c, d, e, f, g, h, ref rest @ ..]) => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
        }
        _ => return Ok(Step::NeedMore),
    };
    // "the minimal number of bytes MUST be used to encode the length"
    match b1 & 0x7F {
        126 if payload_len < 126 => return Err(ProtocolError::LengthNotMinimal),
        127 if payload_len <= u64::from(u16::MAX) => return Err(ProtocolError::LengthNotMinimal),
        127 if payload_len >> 63 != 0 => return Err(ProtocolError::LengthOverflow),
        _ => {}
    }
    let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(Step::NeedMore) };
    Ok(Step::Done(Header { fin, rsv1, opcode, key, payload_len, len: bytes.len() - rest.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<Step<(Opcode, u64, usize)>, ProtocolError>) {
        let found = decode_header(bytes, false).map(|step| match step {
            Step::NeedMore => Step::NeedMore,
            Step::Done(header) => Step::Done((header.opcode, header.payload_len, header.len)),
        });
        assert_eq!(found, expected, "{bytes:02x?}");
    }

    #[test]
    fn the_three_lengths_and_their_limits() {
        check(&[0x81, 0x80 | 125, 1, 2, 3, 4], Ok(Step::Done((Opcode::Text, 125, 6))));
        check(&[0x82, 0xFE, 0, 126, 1, 2, 3, 4], Ok(Step::Done((Opcode::Binary, 126, 8))));
        check(&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], Ok(Step::Done((Opcode::Binary, 65536, 14))));
        check(&[0x82, 0xFE, 0, 125, 1, 2, 3, 4], Err(ProtocolError::LengthNotMinimal));
        check(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4], Err(ProtocolError::LengthNotMinimal));
        check(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], Err(ProtocolError::LengthOverflow));
    }

    #[test]
    fn errors_are_detected_in_the_first_two_bytes() {
        check(&[0x83, 0x80], Err(ProtocolError::ReservedOpcode));
        check(&[0xC1, 0x80], Err(ProtocolError::ReservedBits));
        check(&[0xA1, 0x80], Err(ProtocolError::ReservedBits));
        check(&[0x81, 0x00], Err(ProtocolError::Unmasked));
        check(&[0x09, 0x80], Err(ProtocolError::ControlFragmented));
        check(&[0x88, 0xFE], Err(ProtocolError::ControlTooLong));
    }

    #[test]
    fn rsv1_has_a_meaning_only_on_the_first_fragment_of_data() {
        let decode = |b0| decode_header(&[b0, 0x80, 0, 0, 0, 0], true);
        assert!(matches!(decode(0xC1), Ok(Step::Done(Header { rsv1: true, .. }))));
        assert!(matches!(decode(0x42), Ok(Step::Done(Header { rsv1: true, .. }))));
        for control_or_continuation in [0xC0, 0xC8, 0xC9, 0xCA] {
            assert_eq!(decode(control_or_continuation), Err(ProtocolError::ReservedBits));
        }
    }

    #[test]
    fn every_prefix_needs_more() {
        let whole = [0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        for len in 0..whole.len() {
            check(&whole[..len], Ok(Step::NeedMore));
        }
    }
}
