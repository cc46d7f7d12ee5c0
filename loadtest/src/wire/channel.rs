//! The seam between what clients do and how their bytes look: a channel decodes what arrives into messages,
//! whatever the transport.

use std::borrow::Cow;

use stentor::ws::Inflater;

use super::handshake::HandshakeRequest;
use super::poll::Poll;
use super::sockjs::SockJs;
use super::stream::Stream;
use super::websocket::WebSocket;

/// How a client's messages arrive.
#[derive(Debug)]
pub enum Channel {
    /// In frames.
    WebSocket(WebSocket),
    /// In one response.
    Stream(Stream),
    /// In a response to each request.
    Poll(Box<Poll>),
    /// In one response after the other, as frames of `SockJS`.
    SockJs(Box<SockJs>),
}

/// A message from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'b> {
    /// Its bytes, which may have several publications in them.
    pub payload: Cow<'b, [u8]>,
    /// Where in the payload the position stands that is reached with it, `EPOCH:OFFSET`.
    pub position: Option<(usize, usize)>,
    /// Everything up to that position has been sent: the client has joined.
    pub is_current: bool,
}

impl<'b> Message<'b> {
    /// One without a position.
    pub const fn borrowed(payload: &'b [u8]) -> Self {
        Self { payload: Cow::Borrowed(payload), position: None, is_current: false }
    }

    /// The position that is reached with it.
    pub fn position(&self) -> Option<&str> {
        let (from, to) = self.position?;
        std::str::from_utf8(self.payload.get(from..to)?).ok()
    }
}

/// What was decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item<'b> {
    /// Nothing: the rest is incomplete. It is complete with at least so many bytes; 0: unknown.
    NeedMore(usize),
    /// The server has accepted the client's request.
    Accepted,
    /// A message.
    Message(Message<'b>),
    /// Something that concerns no client.
    Nothing,
}

/// An item, and the bytes that it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step<'b> {
    /// So many bytes are used.
    pub used: usize,
    /// What they were.
    pub item: Item<'b>,
}

/// Why nothing more arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The server has closed, and says this about it.
    Closed(String),
    /// The connection ends, and the session goes on over another one.
    Reopen,
    /// The server has refused the client, or has broken the protocol.
    Failed(String),
}

impl Channel {
    /// Decodes the next item at the front of `bytes`. What the protocol answers by itself is appended to
    /// `out`: pongs, and the next request of a client that polls. `request` is that of a WebSocket's
    /// handshake.
    ///
    /// # Errors
    /// Nothing more arrives.
    pub fn next<'b>(
        &mut self,
        bytes: &'b [u8],
        request: HandshakeRequest<'_>,
        inflater: &'b mut Inflater,
        out: &mut Vec<u8>,
    ) -> Result<Step<'b>, Ending> {
        match self {
            Self::WebSocket(socket) => socket.next(bytes, request, inflater, out),
            Self::Stream(stream) => stream.next(bytes),
            Self::Poll(poll) => poll.next(bytes, out),
            Self::SockJs(session) => session.next(bytes, out),
        }
    }

    /// What is requested first over another connection, after [`Ending::Reopen`].
    pub fn reopening_request(&self) -> Vec<u8> {
        match self {
            Self::SockJs(session) => session.first_request(),
            Self::WebSocket(_) | Self::Stream(_) | Self::Poll(_) => Vec::new(),
        }
    }

    /// Whether messages that are sent may be compressed.
    pub const fn compresses(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.compresses(),
            Self::Stream(_) | Self::Poll(_) | Self::SockJs(_) => false,
        }
    }
}
