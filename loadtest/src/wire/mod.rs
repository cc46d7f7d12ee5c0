//! The client's half of the WebSocket protocol (RFC 6455), as functions of bytes, and the transports that carry it.

mod frame;
mod handshake;
mod transport;

pub use frame::{Frame, Opcode, frame_into, frame_len, next_frame};
pub use handshake::{Agreed, Answer, Asked, Key, answer};
pub use transport::{Transport, Trust};
