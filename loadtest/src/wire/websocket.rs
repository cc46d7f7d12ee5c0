//! A WebSocket, the client's half of it, from the response to its handshake to the Close frame.

use std::borrow::Cow;

use stentor::ws::Inflater;

use super::channel::{Ending, Item, Message, Step};
use super::frame::{Frame, Opcode, frame_into, frame_len, next_frame};
use super::handshake::{HandshakeRequest, HandshakeResponse, Negotiated, parse_response};

/// Maximum size of a received message.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// A WebSocket. An idle one owns no heap memory.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// `None` before the response to the handshake.
    negotiated: Option<Negotiated>,
    /// The fragments of an incomplete message.
    fragments: Option<Box<Fragments>>,
}

/// The fragments of a message so far (RFC 6455 §5.4).
#[derive(Debug)]
struct Fragments {
    compressed: bool,
    payload: Vec<u8>,
}

fn failed<T>(reason: &str) -> Result<T, Ending> {
    Err(Ending::Failed(reason.to_owned()))
}

impl WebSocket {
    /// Whether the server accepts compressed messages.
    pub const fn compresses(&self) -> bool {
        matches!(self.negotiated, Some(Negotiated { deflate: true }))
    }

    /// Decodes the next item at the front of `bytes`; appends the pong to a ping to `out`.
    ///
    /// # Errors
    /// The server has closed, or has broken the protocol.
    pub fn next<'b>(
        &mut self,
        bytes: &'b [u8],
        request: HandshakeRequest<'_>,
        inflater: &'b mut Inflater,
        out: &mut Vec<u8>,
    ) -> Result<Step<'b>, Ending> {
        if self.negotiated.is_none() {
            return match parse_response(bytes, request) {
                HandshakeResponse::NeedMore => Ok(Step { used: 0, item: Item::NeedMore(0) }),
                HandshakeResponse::Rejected(why) => Err(Ending::Failed(why)),
                HandshakeResponse::Accepted(negotiated, used) => {
                    self.negotiated = Some(negotiated);
                    Ok(Step { used, item: Item::Accepted })
                }
            };
        }
        match next_frame(bytes, MESSAGE_BYTES_MAX) {
            Err(error) => failed(error.reason()),
            Ok(None) => Ok(Step { used: 0, item: Item::NeedMore(frame_len(bytes)) }),
            Ok(Some((frame, rest))) => {
                Ok(Step { used: bytes.len() - rest.len(), item: self.frame(&frame, inflater, out)? })
            }
        }
    }

    fn frame<'b>(
        &mut self,
        frame: &Frame<'b>,
        inflater: &'b mut Inflater,
        out: &mut Vec<u8>,
    ) -> Result<Item<'b>, Ending> {
        if frame.compressed && !self.compresses() {
            return failed("the server compressed a message, which was not negotiated");
        }
        match (frame.opcode, frame.fin) {
            (Opcode::Text | Opcode::Binary, true) if !frame.compressed && self.fragments.is_none() => {
                Ok(Item::Message(Message::borrowed(frame.payload)))
            }
            (Opcode::Text | Opcode::Binary | Opcode::Continuation, _) => self.fragment(frame, inflater),
            (Opcode::Ping, _) => {
                // The payload is not secret, so the key may be constant.
                frame_into(out, Opcode::Pong, false, frame.payload, [0; 4]);
                Ok(Item::Nothing)
            }
            (Opcode::Pong, _) => Ok(Item::Nothing),
            (Opcode::Close, _) => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                Err(Ending::Closed(format!("the server closed with {code} {reason}").trim_end().to_owned()))
            }
        }
    }

    /// Handles a fragment, or a frame of a compressed message.
    fn fragment<'b>(&mut self, frame: &Frame<'b>, inflater: &'b mut Inflater) -> Result<Item<'b>, Ending> {
        if (frame.opcode == Opcode::Continuation) != self.fragments.is_some() {
            return failed("the server sent an invalid sequence of fragments");
        }
        let mut message = self
            .fragments
            .take()
            .unwrap_or_else(|| Box::new(Fragments { compressed: frame.compressed, payload: Vec::new() }));
        if message.payload.len() as u64 + frame.payload.len() as u64 > MESSAGE_BYTES_MAX {
            return failed("the server sent a message of more than 16 MiB");
        }
        message.payload.extend_from_slice(frame.payload);
        if !frame.fin {
            self.fragments = Some(message);
            return Ok(Item::Nothing);
        }
        if !message.compressed {
            let payload = Cow::Owned(message.payload);
            return Ok(Item::Message(Message { payload, position: None, is_current: false }));
        }
        match inflater.inflate(&message.payload, usize::try_from(MESSAGE_BYTES_MAX).unwrap_or(usize::MAX)) {
            Ok(payload) => Ok(Item::Message(Message::borrowed(payload))),
            Err(_) => failed("the server sent a compressed message that cannot be decompressed"),
        }
    }
}
