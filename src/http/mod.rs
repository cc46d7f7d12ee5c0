//! As much of HTTP/1.1 (RFC 9110, 9112) as the opening handshake, a few small pages and the transports beside
//! WebSocket need, as functions of bytes.

#![forbid(unsafe_code)]

mod body;
mod cors;
mod date;
mod extension;
mod field;
mod handshake;
mod head;
mod reject;
mod response;
mod stream;
mod target;

pub use ::http::StatusCode;
pub use body::{BodyReader, Framing, IGNORED_BYTES_MAX, LAST_CHUNK, chunk_into};
pub use cors::{Cors, Fields};
pub use date::Date;
pub use extension::{Agreed, negotiate};
pub use handshake::{OriginRule, OriginRules, Upgrade, accept_into, check_upgrade, is_upgrade};
pub use head::{Head, HeadLimits, Precondition, is_head_request, parse_head, percent_decode, query_value};
pub use reject::Reject;
pub use response::{AnswerOptions, CONTINUE, Response, StreamHead};
pub use stream::{EVENT_STREAM, HEARTBEAT, ServerEvent, StreamKind};
