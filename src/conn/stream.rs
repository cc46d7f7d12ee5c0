//! Connections that are streams of HTTP: what their clients receive beside publications, and how they end.

use super::{Change, CloseMethod, Conn, Ending, Endpoint, LINGER_BYTES_MAX, State};
use crate::base::Time;
use crate::http::{HEARTBEAT, LAST_CHUNK, StreamKind, chunk_into};
use crate::metrics::CloseReason;
use crate::options::Options;
use crate::ws::Opcode;

/// A stream of HTTP, on which a client sends nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Of which kind.
    pub kind: StreamKind,
    /// In chunks; else it ends with the connection, as it must in HTTP/1.0.
    pub chunked: bool,
    /// What its session sends are messages, which are framed here, pings among them; else it sends parts of
    /// the stream, and the connection shows that it is alive.
    pub messages: bool,
}

impl Stream {
    /// What shows a stream's client that the connection is alive.
    const fn heartbeat(self) -> &'static [u8] {
        match self.kind {
            StreamKind::Events => HEARTBEAT,
            StreamKind::Lines => EMPTY_LINE,
        }
    }
}

/// A line of a stream that has no message.
const EMPTY_LINE: &[u8] = b"{}\n";

impl Conn {
    /// The stream of HTTP that it is, if it is one.
    pub const fn stream(&self) -> Option<Stream> {
        match self.endpoint {
            Some(Endpoint::Stream(stream)) => Some(stream),
            Some(Endpoint::Echo | Endpoint::Chat | Endpoint::Centrifuge | Endpoint::SockJs) | None => None,
        }
    }

    /// It is a stream from now on; its head is in the outbox. `heartbeat_at`: when its client is to be shown
    /// that it is alive.
    pub fn begin_stream(&mut self, stream: Stream, heartbeat_at: Time) {
        debug_assert_eq!(self.state, State::Waiting);
        self.state = State::Open;
        self.endpoint = Some(Endpoint::Stream(stream));
        self.set_ping(heartbeat_at);
    }

    /// Appends what its session sends: a message, or a part of its stream.
    pub fn send_payload(&mut self, payload: &[u8]) {
        let Some(stream) = self.stream() else { return self.send(Opcode::Text, payload) };
        if stream.messages {
            let mut part = Vec::with_capacity(payload.len() + 16);
            stream.kind.message_into(&mut part, payload);
            self.send_part(stream, &part);
        } else {
            self.send_part(stream, payload);
        }
    }

    /// Appends a part of its stream.
    pub fn send_part(&mut self, stream: Stream, part: &[u8]) {
        if stream.chunked {
            chunk_into(self.outbox.bytes(), &[part]);
        } else {
            self.outbox.bytes().extend_from_slice(part);
        }
    }

    /// Ends a stream with `payload`, which has the reason.
    pub fn end_stream(&mut self, payload: &[u8], reason: CloseReason, options: &Options) -> Change {
        if let (State::Open, Some(stream)) = (self.state, self.stream()) {
            if !payload.is_empty() {
                self.send_payload(payload);
            }
            if stream.chunked {
                self.outbox.bytes().extend_from_slice(LAST_CHUNK);
            }
        }
        self.finish(Ending::Linger, reason, options)
    }

    /// So many bytes have arrived on a stream, where a client has nothing to send.
    pub fn ignored(&mut self, len: usize) -> Change {
        self.lingered = self.lingered.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        if self.lingered > LINGER_BYTES_MAX {
            return self.close(CloseMethod::Reset, CloseReason::ProtocolError);
        }
        Change::default()
    }

    /// Shows a stream's client that the connection is alive. One whose socket has not even taken the last
    /// such sign is not.
    pub(super) fn beat(&mut self, next: Time, stream: Stream, options: &Options) -> Change {
        if self.blocked && self.ping_pending && !self.outbox.is_empty() {
            return self.end_stream(b"", CloseReason::PingTimeout, options);
        }
        self.ping_at = next;
        self.ping_pending = true;
        if self.outbox.is_empty() {
            self.send_part(stream, stream.heartbeat());
        }
        Change { flush: true, ..Change::default() }
    }
}
