//! One client: its bytes in and out, from the opening handshake to the end. What they mean for the run is told to the worker.

use std::io::{self, ErrorKind, Read, Write};

use stentor::ws::Inflater;

use crate::wire::{
    Agreed, Answer, Asked, Frame, Opcode, Transport, answer, frame_into, frame_len, next_frame,
};

/// A message of the server is at most so long.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// Free room that a read finds in the buffer, at least.
const READ_BYTES: usize = 64 * 1024;

/// The room for a tail that a client keeps from one read to the next.
const TAIL_KEPT_MAX: usize = 512;

/// Where a client is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Its handshake is under way.
    Handshake,
    /// It waits to hear that it is in.
    Joining,
    /// It is in.
    Open,
    /// It has said that it leaves.
    Leaving,
}

/// What the kernel says of a client's socket.
#[derive(Clone, Copy, Default)]
pub struct Readiness {
    /// There is something to read.
    pub readable: bool,
    /// It takes something.
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

/// What a client's bytes have come to.
#[derive(Clone, Copy, Debug)]
pub enum Event<'b> {
    /// The handshake is done.
    Upgraded,
    /// A whole message.
    Message(&'b [u8]),
}

/// Why a client is gone.
#[derive(Debug)]
pub enum Gone {
    /// It left, and the server has answered.
    Left,
    /// It was cut by us, and comes back at this moment.
    Cut(u64),
    /// The connection ended, with this reason.
    Lost(String),
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self::Lost(if error.kind() == ErrorKind::ConnectionRefused {
            "the connection was refused".to_owned()
        } else if error.kind() == ErrorKind::ConnectionReset {
            "the server reset the connection".to_owned()
        } else {
            error.to_string()
        })
    }
}

/// What all clients of a worker share while they read.
pub struct Reading {
    /// Every read goes here.
    buffer: Vec<u8>,
    inflater: Inflater,
    /// Bytes read, of all clients.
    pub bytes: u64,
}

impl Default for Reading {
    fn default() -> Self {
        Self { buffer: vec![0; 4 * READ_BYTES], inflater: Inflater::default(), bytes: 0 }
    }
}

/// A connection to the server under test. An idle one owns no memory but itself.
pub struct Client {
    transport: Transport,
    /// What it does now.
    pub phase: Phase,
    agreed: Agreed,
    /// When its connection was begun.
    pub begun_ns: u64,
    /// Messages that it has said: `{id}` of a template counts on from those of joining.
    pub said: u32,
    /// What has come of a frame, or of the answer to the handshake, that is not all there.
    tail: Vec<u8>,
    /// It makes no sense to look at the tail before it has so many bytes.
    tail_wanted: usize,
    /// A fragmented message.
    fragments: Option<Box<Fragments>>,
    /// What the socket has not taken yet; the request at first.
    unsent: Vec<u8>,
}

/// The frames of a message so far (RFC 6455 §5.4).
struct Fragments {
    compressed: bool,
    payload: Vec<u8>,
}

impl Client {
    /// A client whose socket is being connected, and what it will ask for.
    pub const fn new(transport: Transport, request: Vec<u8>, begun_ns: u64) -> Self {
        Self {
            transport,
            phase: Phase::Handshake,
            agreed: Agreed { deflate: false },
            begun_ns,
            said: 0,
            tail: Vec::new(),
            tail_wanted: 0,
            fragments: None,
            unsent: request,
        }
    }

    /// What carries it.
    pub const fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Whether the server takes compressed messages.
    pub const fn compresses(&self) -> bool {
        self.agreed.deflate
    }

    /// Puts a frame behind those that go out. `key` masks it.
    pub fn queue(&mut self, opcode: Opcode, compressed: bool, payload: &[u8], key: [u8; 4]) {
        frame_into(&mut self.unsent, opcode, compressed, payload, key);
    }

    /// Says that it leaves (RFC 6455 §7.1.2: the server closes the connection then).
    pub fn leave(&mut self, key: [u8; 4]) {
        self.queue(Opcode::Close, false, &1000_u16.to_be_bytes(), key);
        self.phase = Phase::Leaving;
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.transport.flush()?;
        let mut sent = 0;
        let outcome = loop {
            if sent == self.unsent.len() {
                break Ok(());
            }
            match self.transport.write(&self.unsent[sent..]) {
                Ok(len) => sent += len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What the server said before it closed says more than that it has closed.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.unsent.drain(..sent);
        if self.unsent.is_empty() && self.phase == Phase::Handshake {
            self.unsent = Vec::new();
        }
        outcome
    }

    /// Reads at most `budget` bytes, or until the socket is empty, and tells `on` what they come to. True: there may be more.
    ///
    /// # Errors
    /// The connection is gone; what came before that has been told.
    pub fn read(
        &mut self,
        mut budget: usize,
        asked: Asked<'_>,
        shared: &mut Reading,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<bool, Gone> {
        loop {
            let Reading { buffer, inflater, bytes } = shared;
            let kept = if self.tail_wanted > self.tail.len() + READ_BYTES { 0 } else { self.tail.len() };
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
                // A long frame: it is collected, and looked at when it is there.
                self.tail.extend_from_slice(&buffer[..len]);
                if self.tail.len() >= self.tail_wanted {
                    let tail = std::mem::take(&mut self.tail);
                    self.received(&tail, asked, inflater, on)?;
                }
            } else {
                self.tail.clear();
                self.received(&buffer[..kept + len], asked, inflater, on)?;
            }
            if whole || budget == 0 {
                return Ok(!whole);
            }
        }
    }

    fn ended(&self) -> Gone {
        match self.phase {
            Phase::Leaving => Gone::Left,
            Phase::Handshake => {
                Gone::Lost("the server closed the connection during the handshake".to_owned())
            }
            Phase::Joining | Phase::Open => {
                Gone::Lost("the server closed the connection without a Close frame".to_owned())
            }
        }
    }

    fn received(
        &mut self,
        mut bytes: &[u8],
        asked: Asked<'_>,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<(), Gone> {
        if self.phase == Phase::Handshake {
            match answer(bytes, asked) {
                Answer::NeedMore => {
                    self.tail.extend_from_slice(bytes);
                    return Ok(());
                }
                Answer::Refused(why) => return Err(Gone::Lost(why)),
                Answer::Open(agreed, len) => {
                    bytes = &bytes[len..];
                    self.agreed = agreed;
                    self.phase = Phase::Joining;
                    on(self, Event::Upgraded);
                }
            }
        }
        let wrong = |reason: &str| Gone::Lost(reason.to_owned());
        while let Some((frame, rest)) =
            next_frame(bytes, MESSAGE_BYTES_MAX).map_err(|error| wrong(error.reason()))?
        {
            bytes = rest;
            self.frame(&frame, inflater, on)?;
        }
        self.tail_wanted = frame_len(bytes);
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
    ) -> Result<(), Gone> {
        if frame.compressed && !self.agreed.deflate {
            return Err(Gone::Lost("the server compressed a message, which was not agreed on".to_owned()));
        }
        match (frame.opcode, frame.fin) {
            (Opcode::Text | Opcode::Binary, true) if !frame.compressed && self.fragments.is_none() => {
                on(self, Event::Message(frame.payload));
                Ok(())
            }
            (Opcode::Text | Opcode::Binary | Opcode::Continuation, _) => self.fragment(frame, inflater, on),
            (Opcode::Ping, _) => {
                // The payload itself is the key: it need not be random towards a server under test.
                self.queue(Opcode::Pong, false, frame.payload, [0; 4]);
                self.flush()
            }
            (Opcode::Pong, _) => Ok(()),
            (Opcode::Close, _) if self.phase == Phase::Leaving => Err(Gone::Left),
            (Opcode::Close, _) => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                Err(Gone::Lost(format!("the server closed with {code} {reason}").trim_end().to_owned()))
            }
        }
    }

    /// A frame of a message that has several, or that is compressed.
    fn fragment(
        &mut self,
        frame: &Frame<'_>,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Result<(), Gone> {
        let wrong = |reason: &str| Err(Gone::Lost(reason.to_owned()));
        if (frame.opcode == Opcode::Continuation) != self.fragments.is_some() {
            return wrong("the server mixed up the fragments of its messages");
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
            Err(_) => wrong("the server sent a compressed message that cannot be inflated"),
        }
    }
}
