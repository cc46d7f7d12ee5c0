//! The WebSocket protocol (RFC 6455) and permessage-deflate (RFC 7692) as functions of bytes.
//!
//! Frames are unmasked, checked and used where the driver put them; only what is incomplete is kept. Nothing
//! here knows of a socket, a clock or a room.
//!
//! ```
//! use stentor::ws::{Decoder, Event, Inflater, Limits, Opcode, frame_into};
//!
//! // "Hello" in a masked frame (RFC 6455 §5.7), of which the last byte has not arrived.
//! let mut input = [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
//! let (mut decoder, mut inflater) = (Decoder::new(false), Inflater::default());
//! let limits = Limits { message_bytes_max: 65_536 };
//! let first = decoder.decode(&mut input[..10], &mut inflater, &limits).unwrap();
//! assert_eq!((first.consumed, first.event), (10, None));
//! let rest = decoder.decode(&mut input[10..], &mut inflater, &limits).unwrap();
//! assert_eq!(rest.event, Some(Event::Text("Hello")));
//!
//! let mut out = Vec::new();
//! frame_into(&mut out, Opcode::Text, &[b"Hel", b"lo"]);
//! assert_eq!(out, b"\x81\x05Hello");
//! ```

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
