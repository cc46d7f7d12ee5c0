//! The client's half of the WebSocket protocol (RFC 6455) as functions of bytes, and the transports.

pub mod cause;
mod frame;
mod handshake;
mod transport;

pub use frame::{Frame, Opcode, frame_into, frame_len, next_frame};
pub use handshake::{HandshakeRequest, HandshakeResponse, Key, Negotiated, parse_response};
pub use transport::{TlsConfig, Transport};
