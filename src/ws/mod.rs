//! The WebSocket protocol (RFC 6455) and permessage-deflate (RFC 7692) as functions of bytes.
//!
//! Frames are unmasked, checked and used where the driver put them; only what is incomplete is kept. Nothing
//! here knows of a socket, a clock or a room.

#![forbid(unsafe_code)]

mod deflate;
mod encode;
mod error;
mod header;
mod mask;
mod message;
mod utf8;

pub use deflate::{Deflater, Inflater, Window, deflated_len_max};
pub use encode::{
    FRAME_HEAD_BYTES_MAX, FrameHead, close_empty_into, close_into, deflated_frame_into, frame_header,
    frame_into,
};
pub use error::{Fail, LimitExceeded, ProtocolError};
pub use header::{Header, Opcode, decode_header};
pub use mask::unmask;
pub use message::{Decoded, Decoder, Event, Limits, undo};
pub use tungstenite::protocol::frame::coding::CloseCode;
pub use utf8::Utf8;

/// What came of looking at the front of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<T> {
    /// The bytes end too early for a decision.
    NeedMore,
    /// It is all there.
    Done(T),
}
