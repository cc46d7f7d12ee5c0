//! All clients in one thread: it speaks, and takes in and times everything that is heard.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::process::Server;

/// A blocking connection from 127.0.0.`source`, so that ports do not run out.
pub fn connect(to: SocketAddr, source: u8) -> io::Result<socket2::Socket> {
    connect_with(to, source, false)
}

fn connect_with(to: SocketAddr, source: u8, narrow: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let from = SocketAddr::from(([127, 0, 0, source], 0));
    if narrow {
        socket.set_recv_buffer_size(1)?;
    }
    socket.bind(&from.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.connect(&to.into())?;
    Ok(socket)
}

/// What a client says when it opens its WebSocket.
#[derive(Clone, Copy, Default)]
pub struct Manners {
    /// Offers permessage-deflate.
    pub deflate: bool,
    /// Has the smallest receive buffer there is, to be full soon.
    pub narrow: bool,
}

/// How many opening handshakes are under way at a time.
const HANDSHAKES: usize = 100;

/// Opens a WebSocket for each name, in order.
pub fn upgrade(server: &Server, source: u8, names: &[String], manners: Manners) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(names.len());
    for names in names.chunks(HANDSHAKES) {
        let mut sockets: Vec<_> = names
            .iter()
            .map(|_| connect_with(server.address, source, manners.narrow).expect("the server listens"))
            .collect();
        for (socket, name) in sockets.iter_mut().zip(names) {
            let extension =
                if manners.deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
            let request = format!(
                "GET /ws/{name} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n",
                server.address
            );
            socket.write_all(request.as_bytes()).expect("the server reads");
        }
        streams.extend(sockets.into_iter().map(answered));
    }
    streams
}

fn answered(mut socket: socket2::Socket) -> TcpStream {
    let mut answer = [0; 1024];
    let len = socket.read(&mut answer).expect("the server answers");
    let answer = &answer[..len];
    // Nobody speaks yet, so nothing of a room can follow it.
    assert!(
        answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n"),
        "{}",
        answer.escape_ascii()
    );
    socket.set_nonblocking(true).expect("a socket");
    TcpStream::from_std(socket.into())
}

/// Everything that is held open against one server.
pub struct Client {
    poll: Poll,
    events: Events,
    /// Listeners; the first ones are also the speakers.
    streams: Vec<TcpStream>,
    /// Bytes that each has received.
    received: Vec<u64>,
    /// Against the bare loop, the connection that speaks.
    speaker: Option<TcpStream>,
    /// Every frame has this length; 0: they differ, and are counted by their headers.
    frame_bytes: usize,
    /// What is said when frames differ in length.
    text: String,
    counters: Vec<FrameCounter>,
    /// Members beyond these are connected but never read.
    silent: Vec<TcpStream>,
    buffer: Vec<u8>,
    origin: Instant,
}

/// What was seen in one measurement.
#[derive(Default)]
pub struct Seen {
    /// Messages said.
    pub said: u64,
    /// Frames received by those who read.
    pub deliveries: u64,
    /// From the intended time of saying to hearing, in nanoseconds.
    pub latencies: Vec<u32>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Seen {
    /// The 99th percentile of the latencies.
    pub fn p99(&mut self) -> Duration {
        if self.latencies.is_empty() {
            return Duration::ZERO;
        }
        let at = self.latencies.len() * 99 / 100;
        let (_, p99, _) = self.latencies.select_nth_unstable(at);
        Duration::from_nanos(u64::from(*p99))
    }
}

/// How messages are paced.
#[derive(Clone, Copy)]
pub enum Pace {
    /// The next message is said when everybody has the last one.
    OneAtATime,
    /// So many a second, whatever happens.
    Open(u32),
    /// So many speakers, each with so many messages of its own under way.
    Closed { speakers: usize, window: u32 },
}

impl Client {
    /// Takes over connections that are open.
    pub fn new(
        streams: Vec<TcpStream>,
        speaker: Option<TcpStream>,
        silent: Vec<TcpStream>,
        frame_bytes: usize,
    ) -> Self {
        let poll = Poll::new().expect("a poller");
        let mut streams = streams;
        for (index, stream) in streams.iter_mut().enumerate() {
            poll.registry().register(stream, Token(index), Interest::READABLE).expect("a socket");
        }
        let received = vec![0; streams.len()];
        let counters = vec![FrameCounter::default(); streams.len()];
        #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
        let origin = Instant::now();
        Self {
            poll,
            events: Events::with_capacity(1024),
            streams,
            received,
            speaker,
            frame_bytes,
            text: String::new(),
            counters,
            silent,
            buffer: vec![0; 256 * 1024],
            origin,
        }
    }

    /// Speaks for `time` at `pace`, then takes in what is still under way.
    pub fn drive(&mut self, pace: Pace, time: Duration) -> Seen {
        let mut seen = Seen::default();
        let readers = self.streams.len() as u64;
        let begun = self.now();
        let until = begun + nanos(time);
        let mut next = begun;
        match pace {
            Pace::OneAtATime => self.say(0, begun, &mut seen),
            Pace::Closed { speakers, window } => {
                for speaker in 0..speakers {
                    for _ in 0..window {
                        self.say(speaker, begun, &mut seen);
                    }
                }
            }
            Pace::Open(_) => {}
        }
        loop {
            let now = self.now();
            if let Pace::Open(rate) = pace {
                while next <= now && next < until {
                    let speaker = usize::try_from(seen.said).unwrap_or(0) % 10;
                    self.say(speaker, next, &mut seen);
                    next += 1_000_000_000 / u64::from(rate);
                }
            }
            if seen.deliveries == seen.said * readers && now >= until {
                break;
            }
            assert!(
                now < until + 20_000_000_000,
                "lost: {} of {}",
                seen.said * readers - seen.deliveries,
                seen.said * readers
            );
            let wait = Duration::from_nanos(next.saturating_sub(now)).min(Duration::from_millis(1));
            let own = self.hear(wait, &mut seen);
            let now = self.now();
            match pace {
                Pace::OneAtATime if seen.deliveries == seen.said * readers && now < until => {
                    self.say(0, now, &mut seen)
                }
                Pace::Closed { speakers, .. } if now < until => {
                    for speaker in own.into_iter().filter(|&speaker| speaker < speakers) {
                        self.say(speaker, now, &mut seen);
                    }
                }
                Pace::OneAtATime | Pace::Open(_) | Pace::Closed { .. } => {}
            }
        }
        seen.elapsed = Duration::from_nanos(self.now() - begun);
        seen
    }

    /// Has every frame have this length.
    pub fn hearing(mut self, frame_bytes: usize) -> Self {
        self.frame_bytes = frame_bytes;
        self
    }

    /// Has this said, whatever the length of the frames that it becomes.
    pub fn saying(mut self, text: &str) -> Self {
        self.text = text.to_owned();
        self.frame_bytes = 0;
        self
    }

    /// Nobody reads these.
    pub fn silent(&self) -> usize {
        self.silent.len()
    }

    fn say(&mut self, speaker: usize, intended: u64, seen: &mut Seen) {
        seen.said += 1;
        if self.frame_bytes == 0 {
            return write_whole(&mut self.streams[speaker], &client_frame(self.text.as_bytes()));
        }
        let text_bytes = self.frame_bytes - 2 - usize::from(self.frame_bytes > 127) * 2;
        // "member-0003: " is the name; the stamp and the speaker follow.
        let stamp = format!("{intended:016x}{speaker:04}");
        let name = name_of(speaker);
        let fill = text_bytes - name.len() - 2 - stamp.len();
        let text = format!("{stamp}{}", "x".repeat(fill));
        if let Some(stream) = &mut self.speaker {
            let mut frame = vec![0x81];
            match u8::try_from(text_bytes) {
                Ok(len @ 0..=125) => frame.push(len),
                Ok(_) | Err(_) => {
                    frame.push(126);
                    frame.extend_from_slice(&u16::try_from(text_bytes).unwrap_or(u16::MAX).to_be_bytes());
                }
            }
            frame.extend_from_slice(format!("{name}: {text}").as_bytes());
            write_whole(stream, &frame);
        } else {
            write_whole(&mut self.streams[speaker], &client_frame(text.as_bytes()));
        }
    }

    /// Takes in what has arrived. Returns, for each own message that a speaker heard, the speaker.
    fn hear(&mut self, wait: Duration, seen: &mut Seen) -> Vec<usize> {
        self.poll.poll(&mut self.events, Some(wait)).expect("a poller");
        let mut own = Vec::new();
        for event in &self.events {
            let index = event.token().0;
            loop {
                let len = match self.streams[index].read(&mut self.buffer) {
                    Ok(0) => panic!("the server closed connection {index}"),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("connection {index}: {error}"),
                };
                #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
                let now = nanos(Instant::now().duration_since(self.origin));
                if self.frame_bytes == 0 {
                    seen.deliveries += self.counters[index].count(&self.buffer[..len]);
                    continue;
                }
                let frame = self.frame_bytes as u64;
                let before = self.received[index];
                self.received[index] += len as u64;
                seen.deliveries += self.received[index] / frame - before / frame;
                // Frames that began and whose stamp lies in what was just read.
                let mut at = usize::try_from((frame - before % frame) % frame).unwrap_or(0);
                while at + 40 <= len {
                    let payload = &self.buffer[at + 2 + usize::from(self.frame_bytes > 127) * 2..];
                    let stamp = &payload[NAME_BYTES + 2..NAME_BYTES + 22];
                    seen.latencies
                        .push(u32::try_from(now.saturating_sub(hex(&stamp[..16]))).unwrap_or(u32::MAX));
                    if index < 10 && payload[..NAME_BYTES] == *name_of(index).as_bytes() {
                        own.push(index);
                    }
                    at += self.frame_bytes;
                }
                if len < self.buffer.len() {
                    break;
                }
            }
        }
        own
    }

    #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
    fn now(&self) -> u64 {
        nanos(Instant::now().duration_since(self.origin))
    }
}

/// Counts frames by their headers, whatever the pieces.
#[derive(Clone, Copy, Default)]
struct FrameCounter {
    header: [u8; 4],
    header_len: usize,
    payload_left: usize,
}

impl FrameCounter {
    /// How many frames end in `bytes`. Their payloads are shorter than 64 KiB.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let take = self.payload_left.min(bytes.len());
                self.payload_left -= take;
                bytes = &bytes[take..];
                frames += u64::from(self.payload_left == 0);
                continue;
            }
            self.header[self.header_len] = byte;
            self.header_len += 1;
            bytes = rest;
            let [_, short, high, low] = self.header;
            let needed = if short & 0x7F == 126 { 4 } else { 2 };
            if self.header_len >= needed {
                self.header_len = 0;
                self.payload_left = match short & 0x7F {
                    126 => usize::from(u16::from_be_bytes([high, low])),
                    short => usize::from(short),
                };
            }
        }
        frames
    }
}

const NAME_BYTES: usize = 11;

/// What member number `index` is called: always 11 bytes.
pub fn name_of(index: usize) -> String {
    format!("member-{index:04}")
}

/// A masked text frame of up to 64 KiB.
pub fn client_frame(text: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(len @ 0..=125) => frame.push(0x80 | len),
        Ok(_) | Err(_) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(text.iter().enumerate().map(|(index, byte)| byte ^ KEY[index % 4]));
    frame
}

fn write_whole(stream: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("speaking: {error}"),
        }
    }
}

fn hex(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| value << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or(0)))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
