//! One client connection: its bytes in both directions, from the opening handshake to the end. Events are
//! passed to the worker.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use stentor::ws::Inflater;

use crate::wire::{
    Channel, Ending, HandshakeRequest, Item, Message, Opcode, Socket, Step, cause, frame_into,
};

/// Minimum free space in the buffer for a read.
const READ_BYTES: usize = 64 * 1024;

/// Capacity of the tail that a client keeps between reads.
const TAIL_KEPT_MAX: usize = 512;

/// The phase of a client connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The opening handshake, or the first request, is not answered.
    Handshake,
    /// The client waits for the message that marks it as connected.
    Joining,
    /// The client is connected.
    Open,
    /// The client has sent a Close frame, or has ended its side of the connection.
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
    /// The server has accepted the handshake, or the first request.
    Accepted,
    /// A complete message.
    Message(&'b Message<'b>),
}

/// Why a connection has ended.
#[derive(Debug)]
pub enum Disconnect {
    /// The client closed it, and the server has confirmed.
    Closed,
    /// A storm dropped it; the client reconnects at this time.
    Dropped(u64),
    /// Its session goes on over another connection.
    Reopen,
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
    pub buffer: Vec<u8>,
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
    socket: Socket,
    /// The current phase.
    pub phase: Phase,
    channel: Channel,
    /// The start of the connection.
    pub started_ns: u64,
    /// The counter for `{id}` in templates, including messages of the join.
    pub message_id: u32,
    /// What is incomplete: a frame, or a response.
    tail: Vec<u8>,
    /// The tail is parsed again when it has this length.
    tail_needed: usize,
    /// Bytes that the socket has not accepted yet; at first the request.
    send_buffer: Vec<u8>,
}

impl Client {
    /// A connection in progress, with the request to send.
    pub const fn new(socket: Socket, channel: Channel, request: Vec<u8>, started_ns: u64) -> Self {
        Self {
            socket,
            phase: Phase::Handshake,
            channel,
            started_ns,
            message_id: 0,
            tail: Vec::new(),
            tail_needed: 0,
            send_buffer: request,
        }
    }

    /// Goes on over another connection, after [`Disconnect::Reopen`].
    pub fn reopen(&mut self, socket: Socket) {
        self.socket = socket;
        self.tail.clear();
        self.send_buffer = self.channel.reopening_request();
    }

    /// The socket.
    pub const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether the server accepts compressed messages.
    pub const fn compresses(&self) -> bool {
        self.channel.compresses()
    }

    /// Appends a frame to the send buffer, masked with `key`.
    pub fn queue(&mut self, opcode: Opcode, compressed: bool, payload: &[u8], key: [u8; 4]) {
        frame_into(&mut self.send_buffer, opcode, compressed, payload, key);
    }

    /// Queues a Close frame, or without WebSocket ends this side of the connection; the server then closes it
    /// (RFC 6455 §7.1.2).
    pub fn close(&mut self, key: [u8; 4]) {
        if let Channel::WebSocket(_) = self.channel {
            self.queue(Opcode::Close, false, &1000_u16.to_be_bytes(), key);
        } else {
            // If it fails, the connection has ended, which is read next.
            let _ = self.socket.socket().shutdown(Shutdown::Write);
        }
        self.phase = Phase::Closing;
    }

    /// Writes the send buffer as far as the socket accepts it.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        write_from(&mut self.send_buffer, &mut self.socket)?;
        if self.send_buffer.is_empty() && self.phase == Phase::Handshake {
            self.send_buffer = Vec::new();
        }
        Ok(())
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
            let len = match self.socket.read(&mut buffer[kept..end]) {
                Ok(0) => return Err(self.ended()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            *bytes += len as u64;
            budget -= len;
            let whole = kept + len < end && self.socket.short_read_is_all();
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
                let why = match self.channel {
                    Channel::WebSocket(_) => cause::CLOSED_WITHOUT_FRAME,
                    Channel::Stream(_) | Channel::Poll(_) | Channel::SockJs(_) => cause::CLOSED_IN_RESPONSE,
                };
                Disconnect::Failed(why.to_owned())
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
        loop {
            let step = self.channel.next(bytes, request, inflater, &mut self.send_buffer);
            let Step { used, item } = step.map_err(|ending| self.end(ending))?;
            bytes = &bytes[used..];
            match item {
                Item::NeedMore(needed) => {
                    self.tail_needed = needed;
                    break;
                }
                Item::Accepted => {
                    self.phase = Phase::Joining;
                    on(self, Event::Accepted);
                }
                Item::Message(message) => on(self, Event::Message(&message)),
                Item::Nothing => {}
            }
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.is_empty() && self.tail.capacity() > TAIL_KEPT_MAX {
            self.tail = Vec::new();
        }
        Ok(())
    }

    fn end(&self, ending: Ending) -> Disconnect {
        match ending {
            Ending::Closed(_) | Ending::Reopen if self.phase == Phase::Closing => Disconnect::Closed,
            Ending::Reopen => Disconnect::Reopen,
            Ending::Closed(why) | Ending::Failed(why) => Disconnect::Failed(why),
        }
    }
}

/// Writes what `bytes` holds, as far as the socket accepts it, and removes it from there.
pub fn write_from(bytes: &mut Vec<u8>, socket: &mut Socket) -> io::Result<()> {
    socket.flush()?;
    let mut sent = 0;
    let outcome = loop {
        if sent == bytes.len() {
            break Ok(());
        }
        match socket.write(&bytes[sent..]) {
            Ok(len) => sent += len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                break Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What the server has sent before is read next, and has a more precise reason.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    bytes.drain(..sent);
    outcome
}
