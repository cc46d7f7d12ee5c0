//! The client side of WebSocket (RFC 6455) and of HTTP's streams, for tests, benches, the simulator and the
//! fuzz targets.
//!
//! [`client`] writes what a client sends: the opening handshake and masked frames, also wrong ones, as the
//! first byte is the caller's. [`server`] reads what a server sends, and is stricter than a browser: a server
//! that sends what RFC 6455 or 7692 forbids fails the test. [`http`] reads the content of answers, event
//! streams and lines. All are written from the standards and use nothing of Stentor's own codec, so that an
//! error there does not hide behind the same error here.
//!
//! Parsing borrows its input and allocates nothing, except for [`FrameReader`], which keeps the incomplete
//! frame at the end of what it was given.

#![forbid(unsafe_code)]

pub mod client;
pub mod http;
pub mod server;

pub use client::{
    KEY, close, fragments_into, frame, frame_into, frame_with_key, head_into, header_into, text,
    upgrade_request,
};
pub use http::{Content, EventStream, Lines, StreamEvent, chunked};
pub use server::{
    Frame, FrameError, FrameReader, Frames, Response, ResponseError, frames, parse, parse_response,
    try_parse, try_parse_response,
};
