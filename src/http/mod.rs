//! As much of HTTP/1.1 (RFC 9110, 9112) as the opening handshake and a few small pages need, as functions of
//! bytes.

#![forbid(unsafe_code)]

mod date;
mod extension;
mod field;
mod handshake;
mod head;
mod response;
mod target;

pub use ::http::StatusCode;
pub use date::Date;
pub use extension::{Agreed, negotiate};
pub use handshake::{OriginRule, OriginRules, Upgrade, accept_into, check_upgrade, is_upgrade};
pub use head::{Head, HeadLimits, Precondition, is_head_request, parse_head, percent_decode, query_value};
pub use response::{Reject, Response};
