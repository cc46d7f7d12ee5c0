//! What goes over the wire, as functions of bytes: the client's half of WebSocket (RFC 6455) and of HTTP/1.1
//! (RFC 9112), and the socket.
//!
//! | file | responsibility |
//! |---|---|
//! | `channel` | the seam: messages out of bytes, whatever the transport |
//! | `websocket` | a WebSocket: `handshake`, `frame` |
//! | `stream`, `poll`, `sockjs` | messages in responses: `http` has their heads and their content |
//! | `post` | messages that are published by request |
//! | `socket` | TCP, with or without TLS |
//! | `cause` | why a connection has failed |

pub mod cause;
mod channel;
mod frame;
mod handshake;
mod http;
mod poll;
mod post;
mod socket;
mod sockjs;
mod stream;
mod websocket;

pub use channel::{Channel, Ending, Item, Message, Step};
pub use frame::{Opcode, frame_into};
pub use handshake::{HandshakeRequest, Key};
pub use poll::Poll;
pub use post::{PostFormat, Posted, Posts};
pub use socket::{Socket, TlsConfig};
pub use sockjs::SockJs;
pub use stream::{Stream, StreamFormat};
pub use websocket::WebSocket;

/// A member of a JSON object, as text; of a string its content, without escapes.
fn json_member(object: &str, name: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_str(object).ok()?;
    let value = object.get(name)?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}
