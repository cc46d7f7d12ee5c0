//! Connections that are streams of HTTP: what their clients receive beside publications, and how they end.

use super::{Change, CloseMethod, Conn, Ending, Endpoint, LINGER_BYTES_MAX, State};
use crate::base::Time;
use crate::http::{HEARTBEAT, LAST_CHUNK, chunk_into};
use crate::metrics::CloseReason;
use crate::options::Options;
use crate::ws::Opcode;

impl Endpoint {
    /// Whether it is a stream of HTTP, on which a client sends nothing.
    pub const fn is_stream(self) -> bool {
        match self {
            Self::Echo | Self::Chat | Self::Centrifuge => false,
            Self::Events | Self::EventsUnchunked | Self::Lines | Self::LinesUnchunked => true,
        }
    }

    const fn is_chunked(self) -> bool {
        matches!(self, Self::Events | Self::Lines)
    }

    /// What shows a stream's client that the connection is alive.
    const fn heartbeat(self) -> &'static [u8] {
        match self {
            Self::Events | Self::EventsUnchunked => HEARTBEAT,
            Self::Lines | Self::LinesUnchunked => EMPTY_LINE,
            Self::Echo | Self::Chat | Self::Centrifuge => b"",
        }
    }
}

/// A line of a stream that has no message.
const EMPTY_LINE: &[u8] = b"{}\n";

impl Conn {
    /// Whether it is a stream of HTTP.
    pub fn is_stream(&self) -> bool {
        self.endpoint.is_some_and(Endpoint::is_stream)
    }

    /// It is a stream from now on; its head is in the outbox. `heartbeat_at`: when its client is to be shown
    /// that it is alive.
    pub fn begin_stream(&mut self, endpoint: Endpoint, heartbeat_at: Time) {
        debug_assert_eq!(self.state, State::Waiting);
        self.state = State::Open;
        self.endpoint = Some(endpoint);
        self.set_ping(heartbeat_at);
    }

    /// Appends what its session sends: a message, or a part of its stream.
    pub fn send_payload(&mut self, payload: &[u8]) {
        match self.endpoint {
            Some(endpoint) if endpoint.is_stream() => self.send_part(endpoint, payload),
            _ => self.send(Opcode::Text, payload),
        }
    }

    fn send_part(&mut self, endpoint: Endpoint, payload: &[u8]) {
        if endpoint.is_chunked() {
            chunk_into(self.outbox.bytes(), &[payload]);
        } else {
            self.outbox.bytes().extend_from_slice(payload);
        }
    }

    /// Ends a stream with `payload`, which has the reason.
    pub fn end_stream(&mut self, payload: &[u8], reason: CloseReason, options: &Options) -> Change {
        if let (State::Open, Some(endpoint)) = (self.state, self.endpoint) {
            self.send_part(endpoint, payload);
            if endpoint.is_chunked() {
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
    pub(super) fn beat(&mut self, next: Time, endpoint: Endpoint, options: &Options) -> Change {
        if self.blocked && self.ping_pending && !self.outbox.is_empty() {
            return self.end_stream(b"", CloseReason::PingTimeout, options);
        }
        self.ping_at = next;
        self.ping_pending = true;
        if self.outbox.is_empty() {
            self.send_part(endpoint, endpoint.heartbeat());
        }
        Change { flush: true, ..Change::default() }
    }
}
