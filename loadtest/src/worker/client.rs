//! One client connection: its bytes in both directions, from the opening handshake to the end. Events are
//! passed to the worker.

use std::io::{self, ErrorKind, Read, Write};

use stentor::ws::Inflater;

use crate::wire::{
    Frame, HandshakeRequest, HandshakeResponse, Negotiated, Opcode, Transport, cause, frame_into, frame_len,
    next_frame, parse_response,
};

/// Maximum size of a received message.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// Minimum free space in the buffer for a read.
const READ_BYTES: usize = 64 * 1024;

/// Capacity of the tail that a client keeps between reads.
const TAIL_KEPT_MAX: usize = 512;

/// The phase of a client connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The opening handshake is in progress.
    Handshake,
    /// The client waits for the message that marks it as connected.
    Joining,
    /// The client is connected.
    Open,
    /// The client has sent a Close frame.
    Closing,
}

/// The readiness of a client's socket.
#[derive(Clone, Copy, Default)]
pub struct Readiness {
    /// Data can be read.
    pub readable: bool,
    /// Data can be written.
    pub writable: bool,
    /// The server has closed, or the connection is broken.
    pub ended: bool,
}

impl From<&mio::event::Event> for Readiness {
    fn from(event: &mio::event::Event) -> Self {
        Self {
            readable: event.is_readable(),
            writable: event.is_writable(),
            ended: event.is_read_closed() || event.is_error(),
        }
    }
}

/// An event on a connection.
#[derive(Clone, Copy, Debug)]
pub enum Event<'b> {
    /// The opening handshake is complete.
    Upgraded,
    /// A complete message.
    Message(&'b [u8]),
}

/// Why a connection has ended.
#[derive(Debug)]
pub enum Disconnect {
    /// The client closed it, and the server has confirmed.
    Closed,
    /// A storm dropped it; the client reconnects at this time.
    Dropped(u64),
    /// It failed, for this reason.
    Failed(String),
}

impl From<io::Error> for Disconnect {
    fn from(error: io::Error) -> Self {
        Self::Failed(cause::connection(&error))
    }
}

/// Read state that the clients of a worker share.
pub struct ReadBuffer {
    /// The buffer of every read.
    buffer: Vec<u8>,
    inflater: Inflater,
    /// Received bytes, of all clients.
    pub bytes: u64,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { buffer: vec![0; 4 * READ_BYTES], inflater: Inflater::default(), bytes: 0 }
    }
}

/// A connection to the server under test. An idle one owns no heap memory besides itself.
pub struct Client {
    transport: Transport,
    /// The current phase.
    pub phase: Phase,
    negotiated: Negotiated,
    /// The start of the connection.
    pub started_ns: u64,
    /// The counter for `{id}` in templates, including messages of the join.
    pub message_id: u32,
    /// An incomplete frame, or an incomplete response to the handshake.
    tail: Vec<u8>,
    /// The tail is parsed again when it has this length.
    tail_needed: usize,
    /// The fragments of an incomplete message.
    fragments: Option<Box<Fragments>>,
    /// Bytes that the socket has not accepted yet; at first the request.
    send_buffer: Vec<u8>,
}

/// The fragments of a message so far (RFC 6455 §5.4).
struct Fragments {
    compressed: bool,
    payload: Vec<u8>,
}

impl Client {
    /// A connection in progress, with the request to send.
    pub const fn new(transport: Transport, request: Vec<u8>, started_ns: u64) -> Self {
        Self {
            transport,
            phase: Phase::Handshake,
            negotiated: Negotiated { deflate: false },
            started_ns,
            message_id: 0,
            tail: Vec::new(),
            tail_needed: 0,
            fragments: None,
            send_buffer: request,
        }
    }

    /// The transport.
    pub const fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Whether the server accepts compressed messages.
    pub const fn compresses(&self) -> bool {
        self.negotiated.deflate
    }

    /// Appends a frame to the send buffer, masked with `key`.
    pub fn queue(&mut self, opcode: Opcode, compressed: bool, payload: &[u8], key: [u8; 4]) {
        frame_into(&mut self.send_buffer, opcode, compressed, payload, key);
    }

    /// Queues a Close frame; the server then closes the connection (RFC 6455 §7.1.2).
    pub fn close(&mut self, key: [u8; 4]) {
        self.queue(Opcode::Close, false, &1000_u16.to_be_bytes(), key);
        self.phase = Phase::Closing;
    }

    /// Writes the send buffer as far as the socket accepts it.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        self.transport.flush()?;
        let mut sent = 0;
        let outcome = loop {
            if sent == self.send_buffer.len() {
                break Ok(());
            }
            match self.transport.write(&self.send_buffer[sent..]) {
                Ok(len) => sent += len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server's Close frame, which is read next, has a more precise reason.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.send_buffer.drain(..sent);
        if self.send_buffer.is_empty() && self.phase == Phase::Handshake {
            self.send_buffer = Vec::new();
        }
        outcome
    }

    /// Reads at most `budget` bytes, or until the socket is empty, and passes events to `on`. True: there may
    /// be more.
    ///
    /// # Errors
    /// The connection has ended; earlier events have been passed.
    pub fn read(
        &mut self,
        mut budget: usize,
        request: HandshakeRequest<'_>,
        shared: &mut ReadBuffer,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<bool, Disconnect> {
        loop {
            let ReadBuffer { buffer, inflater, bytes } = shared;
            let kept = if self.tail_needed > self.tail.len() + READ_BYTES { 0 } else { self.tail.len() };
            if kept + READ_BYTES > buffer.len() {
                buffer.resize(kept + READ_BYTES, 0);
            }
            buffer[..kept].copy_from_slice(&self.tail[..kept]);
            let end = buffer.len().min(kept + budget);
            let len = match self.transport.read(&mut buffer[kept..end]) {
                Ok(0) => return Err(self.ended()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            *bytes += len as u64;
            budget -= len;
            let whole = kept + len < end && self.transport.short_read_is_all();
            if kept == 0 && !self.tail.is_empty() {
                // A long frame is collected in the tail and parsed when it is complete.
                self.tail.extend_from_slice(&buffer[..len]);
                if self.tail.len() >= self.tail_needed {
                    let tail = std::mem::take(&mut self.tail);
                    self.received(&tail, request, inflater, on)?;
                }
            } else {
                self.tail.clear();
                self.received(&buffer[..kept + len], request, inflater, on)?;
            }
            if whole || budget == 0 {
                return Ok(!whole);
            }
        }
    }

    fn ended(&self) -> Disconnect {
        match self.phase {
            Phase::Closing => Disconnect::Closed,
            Phase::Handshake => Disconnect::Failed(cause::CLOSED_IN_HANDSHAKE.to_owned()),
            Phase::Joining | Phase::Open => {
                Disconnect::Failed("the server closed the connection without a Close frame".to_owned())
            }
        }
    }

    fn received(
        &mut self,
        mut bytes: &[u8],
        request: HandshakeRequest<'_>,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<(), Disconnect> {
        if self.phase == Phase::Handshake {
            match parse_response(bytes, request) {
                HandshakeResponse::NeedMore => {
                    self.tail.extend_from_slice(bytes);
                    return Ok(());
                }
                HandshakeResponse::Rejected(why) => return Err(Disconnect::Failed(why)),
                HandshakeResponse::Accepted(negotiated, len) => {
                    bytes = &bytes[len..];
                    self.negotiated = negotiated;
                    self.phase = Phase::Joining;
                    on(self, Event::Upgraded);
                }
            }
        }
        let wrong = |reason: &str| Disconnect::Failed(reason.to_owned());
        while let Some((frame, rest)) =
            next_frame(bytes, MESSAGE_BYTES_MAX).map_err(|error| wrong(error.reason()))?
        {
            bytes = rest;
            self.frame(&frame, inflater, on)?;
        }
        self.tail_needed = frame_len(bytes);
        self.tail.extend_from_slice(bytes);
        if self.tail.is_empty() && self.tail.capacity() > TAIL_KEPT_MAX {
            self.tail = Vec::new();
        }
        Ok(())
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<(), Disconnect> {
        if frame.compressed && !self.negotiated.deflate {
            return Err(Disconnect::Failed(
                "the server compressed a message, which was not negotiated".to_owned(),
            ));
        }
        match (frame.opcode, frame.fin) {
            (Opcode::Text | Opcode::Binary, true) if !frame.compressed && self.fragments.is_none() => {
                on(self, Event::Message(frame.payload));
                Ok(())
            }
            (Opcode::Text | Opcode::Binary | Opcode::Continuation, _) => self.fragment(frame, inflater, on),
            (Opcode::Ping, _) => {
                // The payload is not secret, so the key may be constant.
                self.queue(Opcode::Pong, false, frame.payload, [0; 4]);
                self.flush()
            }
            (Opcode::Pong, _) => Ok(()),
            (Opcode::Close, _) if self.phase == Phase::Closing => Err(Disconnect::Closed),
            (Opcode::Close, _) => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                Err(Disconnect::Failed(
                    format!("the server closed with {code} {reason}").trim_end().to_owned(),
                ))
            }
        }
    }

    /// Handles a fragment, or a frame of a compressed message.
    fn fragment(
        &mut self,
        frame: &Frame<'_>,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<(), Disconnect> {
        let wrong = |reason: &str| Err(Disconnect::Failed(reason.to_owned()));
        if (frame.opcode == Opcode::Continuation) != self.fragments.is_some() {
            return wrong("the server sent an invalid sequence of fragments");
        }
        let mut message = self
            .fragments
            .take()
            .unwrap_or_else(|| Box::new(Fragments { compressed: frame.compressed, payload: Vec::new() }));
        if message.payload.len() as u64 + frame.payload.len() as u64 > MESSAGE_BYTES_MAX {
            return wrong("the server sent a message of more than 16 MiB");
        }
        message.payload.extend_from_slice(frame.payload);
        if !frame.fin {
            self.fragments = Some(message);
            return Ok(());
        }
        if !message.compressed {
            on(self, Event::Message(&message.payload));
            return Ok(());
        }
        match inflater.inflate(&message.payload, usize::try_from(MESSAGE_BYTES_MAX).unwrap_or(usize::MAX)) {
            Ok(payload) => {
                on(self, Event::Message(payload));
                Ok(())
            }
            Err(_) => wrong("the server sent a compressed message that cannot be decompressed"),
        }
    }
}
