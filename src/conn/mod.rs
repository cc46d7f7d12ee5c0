//! One connection: what its socket is doing, what of the input has not been used yet, and what it has still
//! to send.
//!
//! A connection serves HTTP, or it is one open WebSocket, or one stream of HTTP. It holds its state, and
//! every transition of it: each method that changes the state returns a [`Change`] with what its shard has to
//! do. It does not know what a session is, nor that rooms exist. An idle one owns its slot and nothing else.

#![forbid(unsafe_code)]

mod input;
mod outbox;
mod stream;
#[cfg(test)]
mod tests;

pub use input::Kept;
pub use outbox::Outbox;
pub use stream::Stream;

use std::time::Duration;

use crate::base::Time;
use crate::http::{AnswerOptions, Date, Reject, is_head_request};
use crate::metrics::CloseReason;
use crate::options::Options;
use crate::ws::{self, CloseCode, Decoder, Opcode, Window};

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Reading a request head (RFC 9112), the first one or the next.
    Head,
    /// Reading a request's content.
    Body,
    /// A request is taken whose answer comes later; what follows waits.
    Waiting,
    /// An open WebSocket, or a stream that goes on until it ends.
    Open,
    /// Our Close frame is sent, or in flight; the peer's is awaited (RFC 6455 §7.1.2).
    Closing,
    /// Nothing more is taken in: when everything has gone out, the connection ends.
    Finishing(Ending),
    /// The sending side is shut; what still arrives is thrown away until the peer ends the stream too.
    /// Closing at once would make the kernel answer unread bytes with a reset, which can destroy our final
    /// flush.
    Lingering,
    /// Handed to the driver to be closed.
    Closed,
}

impl State {
    /// Whether what still arrives brings about nothing but the end.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Closing | Self::Finishing(_) | Self::Lingering | Self::Closed)
    }
}

/// How a connection ends once its last bytes are out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Close at once: the peer has finished the closing handshake.
    AtOnce,
    /// Shut the sending side and wait for the peer's end.
    Linger,
}

/// How a socket is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseMethod {
    /// Close the socket, then call `Shard::closed`.
    Now,
    /// Close it with a reset, so that nothing lingers in the kernel, then call `Shard::closed`.
    Reset,
    /// Shut the sending side only; the connection goes on.
    Shutdown,
}

/// What an open WebSocket is connected to, or which stream a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// Every message is sent back.
    Echo,
    /// The plain text protocol, in a room.
    Chat,
    /// The Centrifuge protocol, in JSON.
    Centrifuge,
    /// The plain text protocol in SockJS's frames, or their echo.
    SockJs,
    /// A stream of HTTP.
    Stream(Stream),
}

/// What the shard has to do about a connection whose state has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "the shard carries it out"]
pub struct Change {
    /// Its session, if it has one, ends.
    pub leaves: bool,
    /// It has something to write, or to do once all is written.
    pub flush: bool,
    /// Its socket is to be closed.
    pub close: Option<CloseMethod>,
    /// Its deadline is so far away from now on.
    pub timer: Option<Duration>,
}

/// Bytes that a lingering connection may still send: after that its socket is reset.
pub const LINGER_BYTES_MAX: u32 = 256 * 1024;

/// While less than this waits in a connection, every ping is answered; above, only the newest.
const PONG_EACH_BYTES: usize = 4 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Conn {
    state: State,
    endpoint: Option<Endpoint>,
    /// Why it ends; the first reason stays.
    reason: CloseReason,
    /// How what only it gets is compressed, if it is.
    window: Option<Window>,
    /// Accepted above the bound on connections: every request is answered with 503.
    pub over_limit: bool,
    /// The kernel takes no more bytes until an event.
    pub blocked: bool,
    /// Stands in the shard's queue of connections with bytes of their own to send.
    pub queued: bool,
    /// The driver does not read from it.
    pub paused: bool,
    /// Stands in the shard's queue of connections whose input may go on.
    pub ready: bool,
    /// A write is in flight, in a batch with others. Kept up only for those whose session is in several
    /// rooms.
    pub write_in_flight: bool,
    /// The peer has ended its stream; what it sent before may still wait to be used.
    ended: bool,
    ping_pending: bool,
    /// Bytes that have arrived since it lingers.
    lingered: u32,
    /// The fragments of an incomplete message.
    pub decoder: Decoder,
    /// Input that was not used yet.
    kept: Option<Box<Kept>>,
    /// Bytes of its own that wait to be written.
    pub outbox: Outbox,
    /// When anything was last received.
    last_received: Time,
    /// When its peer is to be pinged, or to have answered, or to be gone after its stream has ended;
    /// [`Time::NEVER`]: that is its session's concern, or none.
    ping_at: Time,
}

/// An idle member costs its slot in the table, its session, 16 bytes in its audience, 12 for its
/// subscription, 16 in the timer wheel, and a descriptor in the driver's table.
const _: () = assert!(size_of::<Conn>() <= 80, "a connection's slot has grown");

impl Conn {
    /// A connection that was accepted at `now`.
    pub fn new(now: Time, over_limit: bool) -> Self {
        Self {
            state: State::Head,
            endpoint: None,
            reason: CloseReason::Disconnected,
            window: None,
            over_limit,
            blocked: false,
            queued: false,
            paused: false,
            ready: false,
            write_in_flight: false,
            ended: false,
            ping_pending: false,
            lingered: 0,
            decoder: Decoder::default(),
            kept: None,
            outbox: Outbox::default(),
            last_received: now,
            ping_at: Time::NEVER,
        }
    }

    /// What it is doing.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it is an open WebSocket.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// What its WebSocket is connected to, once it is one.
    pub const fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
    }

    /// Why it ends.
    pub const fn reason(&self) -> CloseReason {
        self.reason
    }

    /// How what only it gets is compressed, if it is.
    pub const fn window(&self) -> Option<Window> {
        self.window
    }

    /// When anything was last received.
    pub const fn last_received(&self) -> Time {
        self.last_received
    }

    /// Something was received.
    pub const fn record_activity(&mut self, now: Time) {
        self.last_received = now;
        self.ping_pending = false;
    }

    /// When its own clock is due: [`Conn::tick`].
    pub const fn due(&self) -> Time {
        self.ping_at
    }

    /// It is an open WebSocket from now on; its handshake's answer is in the outbox. `ping_at`: when its peer
    /// is to be pinged.
    pub fn opened(&mut self, endpoint: Endpoint, deflate: bool, window: Option<Window>, ping_at: Time) {
        debug_assert_eq!(self.state, State::Head);
        self.state = State::Open;
        self.endpoint = Some(endpoint);
        self.decoder = Decoder::new(deflate);
        self.window = window;
        self.set_ping(ping_at);
    }

    /// When its peer is to be pinged next; an unanswered ping keeps its time, and so does the end of a stream
    /// that has ended.
    pub fn set_ping(&mut self, at: Time) {
        if (self.stream().is_some() || !self.ping_pending) && !self.ended {
            self.ping_at = at;
        }
    }

    /// Pings are no longer sent: none is waited for.
    pub const fn stop_pings(&mut self) {
        if !self.ended {
            (self.ping_pending, self.ping_at) = (false, Time::NEVER);
        }
    }

    /// A request's head is read, and its content is to come.
    pub fn expect_body(&mut self) {
        debug_assert_eq!(self.state, State::Head);
        self.state = State::Body;
    }

    /// A request is read whose answer comes later.
    pub fn wait(&mut self) {
        debug_assert!(matches!(self.state, State::Head | State::Body));
        self.state = State::Waiting;
    }

    /// The next request may come.
    pub fn next_request(&mut self) {
        debug_assert!(matches!(self.state, State::Head | State::Body | State::Waiting));
        self.state = State::Head;
    }

    /// Whether the peer has ended its stream.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The peer has ended its stream while an answer is in the making, which it may still read.
    pub const fn end_later(&mut self) {
        self.ended = true;
    }

    /// Appends a message.
    pub fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        ws::frame_into(self.outbox.bytes(), opcode, &[payload]);
    }

    /// Pings the peer.
    pub fn ping(&mut self) {
        self.send(Opcode::Ping, &[]);
    }

    /// Answers a ping (RFC 6455 §5.5.3): each one, unless much waits to be written; then only the newest.
    pub fn pong(&mut self, payload: &[u8]) {
        if self.outbox.len() < PONG_EACH_BYTES && !self.outbox.has_pending_pong() {
            self.send(Opcode::Pong, payload);
        } else {
            self.outbox.pong(payload);
        }
    }

    /// Fails a WebSocket: sends the reason, and takes nothing more (RFC 6455 §7.1.7).
    pub fn fail(
        &mut self,
        code: CloseCode,
        sentence: &str,
        reason: CloseReason,
        options: &Options,
    ) -> Change {
        if self.state == State::Open {
            ws::close_into(self.outbox.close_frame(), code, sentence);
        }
        self.finish(Ending::Linger, reason, options)
    }

    /// The peer's Close has come: it is answered, if ours has not gone before, and the connection ends (RFC
    /// 6455 §5.5.1).
    pub fn peer_closed(&mut self, code: Option<CloseCode>, options: &Options) -> Change {
        let reason = if self.state == State::Open {
            match code {
                Some(code) => ws::close_into(self.outbox.close_frame(), code, ""),
                None => ws::close_empty_into(self.outbox.close_frame()),
            }
            CloseReason::ClosedByPeer
        } else {
            self.reason
        };
        self.finish(Ending::AtOnce, reason, options)
    }

    /// Begins the closing handshake from our side (RFC 6455 §7.1.2).
    pub fn begin_close(
        &mut self,
        code: CloseCode,
        sentence: &str,
        reason: CloseReason,
        options: &Options,
    ) -> Change {
        ws::close_into(self.outbox.close_frame(), code, sentence);
        self.state = State::Closing;
        self.reason = reason;
        self.ping_at = Time::NEVER;
        Change { leaves: true, flush: true, close: None, timer: Some(options.close_timeout) }
    }

    /// Takes nothing more in; ends when everything is out.
    pub fn finish(&mut self, ending: Ending, reason: CloseReason, options: &Options) -> Change {
        if self.state == State::Closed {
            return Change::default();
        }
        self.reason = reason;
        self.state = State::Finishing(if self.ended { Ending::AtOnce } else { ending });
        self.kept = None;
        self.decoder = Decoder::default();
        self.ping_at = Time::NEVER;
        Change { leaves: true, flush: true, close: None, timer: Some(options.close_timeout) }
    }

    /// Hands the connection to the driver to be closed.
    pub fn close(&mut self, how: CloseMethod, reason: CloseReason) -> Change {
        if self.state == State::Closed {
            return Change::default();
        }
        self.state = State::Closed;
        self.reason = reason;
        self.outbox.clear();
        self.kept = None;
        self.ping_at = Time::NEVER;
        Change { leaves: true, flush: false, close: Some(how), timer: None }
    }

    /// The peer has ended its stream. What it has sent before and that waits is used first.
    pub fn ended(&mut self, now: Time, options: &Options) -> Change {
        self.ended = true;
        if self.has_waiting_input() {
            // But not forever, should its answers have nowhere to go.
            self.ping_at = now + options.close_timeout;
            return Change { timer: Some(options.close_timeout), ..Change::default() };
        }
        self.end_of_input(options)
    }

    /// Everything that the peer has sent is used: acts on the end of its stream, if it has ended.
    pub fn end_of_input(&mut self, options: &Options) -> Change {
        if !self.ended {
            return Change::default();
        }
        match self.state {
            // A client may end its side after a request and still read the answer.
            State::Head if !self.outbox.is_empty() => {
                self.finish(Ending::AtOnce, CloseReason::RequestComplete, options)
            }
            State::Head => self.close(CloseMethod::Now, CloseReason::RequestComplete),
            State::Body | State::Waiting | State::Open | State::Closing => {
                self.close(CloseMethod::Now, CloseReason::Disconnected)
            }
            State::Lingering => self.close(CloseMethod::Now, self.reason),
            State::Finishing(_) | State::Closed => Change::default(),
        }
    }

    /// So many bytes have arrived that are thrown away.
    pub fn discarded(&mut self, len: usize) -> Change {
        self.lingered = self.lingered.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        let lingers = matches!(self.state, State::Lingering | State::Finishing(_));
        if lingers && self.lingered > LINGER_BYTES_MAX {
            return self.close(CloseMethod::Reset, self.reason);
        }
        Change::default()
    }

    /// Everything of its own is out.
    pub fn flushed(&mut self) -> Change {
        match self.state {
            State::Finishing(_) if self.ended => self.close(CloseMethod::Now, self.reason),
            State::Finishing(Ending::AtOnce) => self.close(CloseMethod::Now, self.reason),
            State::Finishing(Ending::Linger) => {
                self.state = State::Lingering;
                Change { close: Some(CloseMethod::Shutdown), ..Change::default() }
            }
            State::Head
            | State::Body
            | State::Waiting
            | State::Open
            | State::Closing
            | State::Lingering
            | State::Closed => Change::default(),
        }
    }

    /// Its timer, which is also its session's, has fired; `None`: no deadline of its own has passed, look at
    /// [`Conn::tick`]. `date` is for an answer.
    pub fn timed_out(&mut self, now: Time, date: Option<Date>, options: &Options) -> Option<Change> {
        match self.state {
            State::Head if self.ended => Some(self.close(CloseMethod::Now, CloseReason::RequestComplete)),
            State::Head => {
                let head_only = self.kept.as_ref().is_some_and(|kept| is_head_request(kept.unused()));
                let options_of_answer = AnswerOptions { head_only, date, ..AnswerOptions::default() };
                Reject::HeadTimeout.response_into(self.outbox.bytes(), &options_of_answer);
                Some(self.finish(Ending::Linger, CloseReason::RequestTimeout, options))
            }
            State::Body => {
                let options_of_answer = AnswerOptions { date, ..AnswerOptions::default() };
                Reject::BodyTimeout.response_into(self.outbox.bytes(), &options_of_answer);
                Some(self.finish(Ending::Linger, CloseReason::RequestTimeout, options))
            }
            State::Open | State::Waiting if self.ended && now >= self.ping_at => {
                Some(self.close(CloseMethod::Now, CloseReason::Disconnected))
            }
            State::Open | State::Waiting => None,
            State::Lingering => Some(self.close(CloseMethod::Now, self.reason)),
            State::Closing | State::Finishing(_) => Some(self.close(CloseMethod::Reset, self.reason)),
            State::Closed => Some(Change::default()),
        }
    }

    /// Pings a peer that has been silent, fails one that stayed so. `next` is when the ping after one that
    /// was not needed is due, from the last time that something was received.
    pub fn tick(&mut self, now: Time, next: Duration, options: &Options) -> Change {
        if now < self.ping_at || self.ended {
            return Change::default();
        }
        if let Some(stream) = self.stream() {
            return self.beat(now + next, stream, options);
        }
        if self.ping_pending {
            return self.fail(CloseCode::Away, "no answer to a ping", CloseReason::PingTimeout, options);
        }
        if now.since(self.last_received) < options.ping_interval / 2 {
            self.ping_at = self.last_received + next;
            return Change::default();
        }
        self.ping_pending = true;
        self.ping_at = now + options.pong_timeout;
        self.ping();
        Change { flush: true, ..Change::default() }
    }
}
