//! Why a WebSocket connection fails, and with which status code (RFC 6455 §7.4.1).

use super::CloseCode;

/// The peer broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// RSV bits that no extension gave a meaning (§5.2).
    ReservedBits,
    /// An opcode of 3–7 or 11–15 (§5.2).
    ReservedOpcode,
    /// A frame from a client without a mask (§5.1).
    Unmasked,
    /// A length in more bytes than it needs (§5.2).
    LengthNotMinimal,
    /// A length with its highest bit set (§5.2).
    LengthOverflow,
    /// A control frame of more than 125 bytes (§5.5).
    ControlTooLong,
    /// A control frame in fragments (§5.5).
    ControlFragmented,
    /// A continuation of nothing (§5.4).
    ContinuationUnexpected,
    /// A new message before the last fragment of the one before (§5.4).
    ContinuationExpected,
    /// Text that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A Close frame with a payload of one byte (§5.5.1).
    InvalidClosePayload,
    /// A status code that must not be sent (§7.4).
    InvalidCloseCode,
    /// A payload that is not DEFLATE (RFC 7692 §7.2.2).
    InvalidDeflate,
}

/// The peer exceeded one of our bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitExceeded {
    /// A message over [`Limits::message_bytes_max`](super::Limits), before or after inflating.
    MessageTooBig,
}

/// Why the connection fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// The protocol was broken.
    Protocol(ProtocolError),
    /// A bound was passed.
    Limit(LimitExceeded),
}

impl From<ProtocolError> for Fail {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<LimitExceeded> for Fail {
    fn from(error: LimitExceeded) -> Self {
        Self::Limit(error)
    }
}

impl Fail {
    /// The status code of our Close frame. No wildcard: a new variant must choose.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::Protocol(error) => match error {
                ProtocolError::ReservedBits
                | ProtocolError::ReservedOpcode
                | ProtocolError::Unmasked
                | ProtocolError::LengthNotMinimal
                | ProtocolError::LengthOverflow
                | ProtocolError::ControlTooLong
                | ProtocolError::ControlFragmented
                | ProtocolError::ContinuationUnexpected
                | ProtocolError::ContinuationExpected
                | ProtocolError::InvalidClosePayload
                | ProtocolError::InvalidCloseCode => CloseCode::Protocol,
                ProtocolError::InvalidUtf8 | ProtocolError::InvalidDeflate => CloseCode::Invalid,
            },
            Self::Limit(LimitExceeded::MessageTooBig) => CloseCode::Size,
        }
    }

    /// The reason in our Close frame: one plain sentence of at most 123 bytes.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Protocol(error) => match error {
                ProtocolError::ReservedBits => "a reserved bit is set",
                ProtocolError::ReservedOpcode => "the opcode is reserved",
                ProtocolError::Unmasked => "a frame from a client must be masked",
                ProtocolError::LengthNotMinimal => "the payload length is not in its shortest form",
                ProtocolError::LengthOverflow => "the payload length has its highest bit set",
                ProtocolError::ControlTooLong => "a control frame holds at most 125 bytes",
                ProtocolError::ControlFragmented => "a control frame must not be fragmented",
                ProtocolError::ContinuationUnexpected => "there is no message to continue",
                ProtocolError::ContinuationExpected => "the message before this one is not finished",
                ProtocolError::InvalidUtf8 => "the text is not UTF-8",
                ProtocolError::InvalidClosePayload => "a Close frame holds no byte or a status code",
                ProtocolError::InvalidCloseCode => "this status code must not be sent",
                ProtocolError::InvalidDeflate => "the compressed message cannot be inflated",
            },
            Self::Limit(LimitExceeded::MessageTooBig) => "the message is too big",
        }
    }
}
