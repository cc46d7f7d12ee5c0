//! One client: its handshake, and the frames that arrive.

use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};

/// Where a client is.
enum State {
    /// The request goes out; this much has.
    Asking(Vec<u8>, usize),
    /// The answer comes in.
    Waiting(Vec<u8>),
    /// Open.
    Open,
}

/// What became of a client while it read.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on.
    Alive,
    /// Its handshake is done.
    Opened,
    /// It is gone, and why.
    Gone(String),
}

/// A connection to the server under test.
pub struct Client {
    stream: TcpStream,
    state: State,
    /// The beginning of a frame that has not come whole.
    tail: Vec<u8>,
    /// Bytes that the socket has not taken yet.
    unsent: Vec<u8>,
}

impl Client {
    /// A client on a stream that is being connected.
    pub fn new(stream: TcpStream, request: Vec<u8>) -> Self {
        Self { stream, state: State::Asking(request, 0), tail: Vec::new(), unsent: Vec::new() }
    }

    /// The stream, to be registered.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Whether its handshake is done.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Sends one text message; what does not fit goes out later.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let mut frame = vec![0x81];
        match u8::try_from(text.len()) {
            Ok(short @ 0..=125) => frame.push(0x80 | short),
            Ok(_) | Err(_) => match u16::try_from(text.len()) {
                Ok(medium) => {
                    frame.push(0xFE);
                    frame.extend(medium.to_be_bytes());
                }
                Err(_) => {
                    frame.push(0xFF);
                    frame.extend((text.len() as u64).to_be_bytes());
                }
            },
        }
        // A key of zeros is a key; what it hides from (caches in between) is not on this road.
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.unsent.extend(frame);
        self.flush()
    }

    /// The socket takes bytes again.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if let State::Asking(request, sent) = &mut self.state {
            match self.stream.write(&request[*sent..]) {
                Ok(len) => *sent += len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if *sent == request.len() {
                self.state = State::Waiting(Vec::new());
            }
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until there is nothing more; `heard` gets the payload of each text or binary frame, in `buffer`.
    pub fn read(&mut self, buffer: &mut [u8], heard: &mut impl FnMut(&[u8])) -> Outcome {
        let mut opened = false;
        loop {
            let kept = self.tail.len();
            if kept + 1024 > buffer.len() {
                return Outcome::Gone(format!("a frame is larger than the buffer of {} bytes", buffer.len()));
            }
            buffer[..kept].copy_from_slice(&self.tail);
            let len = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => return Outcome::Gone("the server closed the connection".to_owned()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return if opened { Outcome::Opened } else { Outcome::Alive };
                }
                Err(error) => return Outcome::Gone(error.to_string()),
            };
            self.tail.clear();
            let mut bytes = &buffer[..kept + len];
            if let State::Asking(..) | State::Waiting(_) = self.state {
                match self.handshake(bytes) {
                    Ok(None) => continue,
                    Ok(Some(head)) => {
                        bytes = &bytes[head..];
                        self.state = State::Open;
                        opened = true;
                    }
                    Err(why) => return Outcome::Gone(why),
                }
            }
            let rest = match frames(bytes, &mut self.unsent, heard) {
                Ok(rest) => rest,
                Err(why) => return Outcome::Gone(why),
            };
            self.tail.extend_from_slice(rest);
            if !self.unsent.is_empty()
                && let Err(error) = self.flush()
            {
                return Outcome::Gone(error.to_string());
            }
            if kept + len < buffer.len() {
                return if opened { Outcome::Opened } else { Outcome::Alive };
            }
        }
    }

    /// Looks for the end of the answer's head; where it is, in `bytes`.
    fn handshake(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let before = if let State::Waiting(seen) = &mut self.state {
            let before = seen.len();
            seen.extend_from_slice(bytes);
            before
        } else {
            return Err("the server answered before it was asked".to_owned());
        };
        let State::Waiting(seen) = &self.state else { return Ok(None) };
        let Some(end) = memchr::memmem::find(seen, b"\r\n\r\n") else {
            return if seen.len() > 16 * 1024 { Err("the answer has no end".to_owned()) } else { Ok(None) };
        };
        if !seen.starts_with(b"HTTP/1.1 101 ") {
            let line = seen.split(|&byte| byte == b'\r').next().unwrap_or_default();
            return Err(format!("the handshake was refused: {}", String::from_utf8_lossy(line)));
        }
        Ok(Some(end + 4 - before))
    }
}

/// Takes whole frames from the front of `bytes`; returns what is left. Pings are answered.
fn frames<'b>(
    mut bytes: &'b [u8],
    answers: &mut Vec<u8>,
    heard: &mut impl FnMut(&[u8]),
) -> Result<&'b [u8], String> {
    loop {
        let [b0, b1, after @ ..] = bytes else { return Ok(bytes) };
        let (len, after) = match (b1 & 0x7F, after) {
            (126, [a, b, after @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), after),
            (127, [a, b, c, d, e, f, g, h, after @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), after)
            }
            (126 | 127, _) => return Ok(bytes),
            (short, after) => (u64::from(short), after),
        };
        let Some((payload, rest)) = usize::try_from(len).ok().and_then(|len| after.split_at_checked(len))
        else {
            return Ok(bytes);
        };
        match b0 & 0x0F {
            0x1 | 0x2 => heard(payload),
            0x8 => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(format!("the server closed with {code} {reason}"));
            }
            0x9 => {
                answers.extend([0x8A, 0x80 | u8::try_from(payload.len()).unwrap_or(0), 0, 0, 0, 0]);
                answers.extend_from_slice(payload);
            }
            _ => {}
        }
        bytes = rest;
    }
}
