//! All clients in one thread: publishes, receives and times every delivery.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stentor_testkit::{FrameReader, parse_response, upgrade_request};

use super::process::Server;
use super::protocol::Protocol;
use super::streams::{self, Reader};

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

/// A client's opening handshake.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// Offers permessage-deflate.
    pub deflate: bool,
    /// Has the smallest receive buffer there is, to be full soon.
    pub narrow: bool,
}

/// Which members are in which rooms. Members are numbered, and so are the rooms.
#[derive(Clone, Copy)]
pub struct Topology {
    /// Their protocol.
    pub protocol: Protocol,
    /// How many there are.
    pub members: usize,
    /// How many rooms.
    pub rooms: usize,
    /// In how many rooms each member sits.
    pub rooms_per_member: usize,
}

impl Topology {
    /// All in one room.
    pub const fn together(protocol: Protocol, members: usize) -> Self {
        Self { protocol, members, rooms: 1, rooms_per_member: 1 }
    }

    /// How many members receive each message.
    pub const fn audience(&self) -> usize {
        self.members * self.rooms_per_member / self.rooms
    }

    /// The protocol of a member: those that publish have a WebSocket.
    const fn protocol_of(&self, member: usize) -> Protocol {
        if self.protocol.is_stream() && member < PUBLISHERS { Protocol::Plain } else { self.protocol }
    }

    /// The rooms of a member. Two rooms have as few members in common as can be.
    fn rooms_of(&self, member: usize) -> Vec<usize> {
        (0..self.rooms_per_member)
            .map(|room| (member + room * self.rooms / self.rooms_per_member) % self.rooms)
            .collect()
    }

    /// The publisher of message number `turn`, and its room.
    fn publisher(&self, turn: usize) -> (usize, usize) {
        if self.rooms == 1 {
            return (turn % PUBLISHERS, 0);
        }
        let publisher = turn * 7919 % self.members;
        let rooms = self.rooms_of(publisher);
        (publisher, rooms[turn % rooms.len()])
    }
}

/// The members that publish, where all are in one room.
const PUBLISHERS: usize = 10;

/// How many opening handshakes are in flight at a time.
const HANDSHAKES: usize = 100;

/// Opens a WebSocket for each of these members, in order.
pub fn upgrade(
    server: &Server,
    source: u8,
    topology: Topology,
    members: &[usize],
    settings: Settings,
) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(members.len());
    for members in members.chunks(HANDSHAKES) {
        let mut sockets: Vec<_> = members
            .iter()
            .map(|_| connect_with(server.address, source, settings.narrow).expect("the server listens"))
            .collect();
        for (socket, &member) in sockets.iter_mut().zip(members) {
            let (protocol, room) = (topology.protocol_of(member), topology.rooms_of(member)[0]);
            if protocol.is_stream() {
                streams::ask(socket, &topology, member, room);
                continue;
            }
            let extension =
                if settings.deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
            let path = protocol.path(member, room);
            let request = upgrade_request(&path, extension);
            socket.write_all(request.as_bytes()).expect("the server reads");
        }
        for (socket, &member) in sockets.iter_mut().zip(members) {
            let is_stream = topology.protocol_of(member).is_stream();
            if is_stream { streams::answered(socket) } else { answered(socket) }
        }
        let replies = sockets.iter_mut().zip(members).map(|(socket, &member)| {
            let protocol = topology.protocol_of(member);
            let (first_frame, replies) = protocol.first_frame(member, &topology.rooms_of(member));
            socket.write_all(&first_frame).expect("the server reads");
            replies
        });
        let replies: Vec<usize> = replies.collect();
        for (mut socket, replies) in sockets.into_iter().zip(replies) {
            read_replies(&mut socket, replies);
            socket.set_nonblocking(true).expect("a socket");
            streams.push(TcpStream::from_std(socket.into()));
        }
    }
    streams
}

fn answered(socket: &mut socket2::Socket) {
    let mut answer = [0; 1024];
    let len = socket.read(&mut answer).expect("the server answers");
    let head = parse_response(&answer[..len]).expect("a whole answer");
    // Nothing is published yet, so nothing of a room can follow it.
    assert_eq!((head.status, head.len), (101, len), "{}", answer[..len].escape_ascii());
}

/// Reads so many frames, none of which may be an error.
fn read_replies(socket: &mut socket2::Socket, mut replies: usize) {
    let mut frames = FrameReader::default();
    let mut bytes = [0; 4096];
    while replies > 0 {
        let len = socket.read(&mut bytes).expect("the server replies");
        assert!(len > 0, "the server closed a connection");
        frames.take(&bytes[..len], |reply| {
            let reply = String::from_utf8_lossy(reply.payload);
            assert!(reply.starts_with("{\"id\":") && !reply.contains("\"error\""), "{reply}");
            replies -= 1;
        });
    }
}

/// Everything that is held open against one server.
pub struct Client {
    poll: Poll,
    events: Events,
    topology: Topology,
    /// Members, by number.
    streams: Vec<TcpStream>,
    /// What each has received of a frame, or of a chunk, that is not whole.
    readers: Vec<Reader>,
    /// Against the bare loop, the connection that publishes.
    publisher: Option<TcpStream>,
    /// Every received frame has about this length.
    frame_bytes: usize,
    /// What is published instead of stamped texts; what is received is only counted then.
    text: Option<String>,
    /// Members beyond these are connected but never read.
    silent: Vec<TcpStream>,
    buffer: Vec<u8>,
    origin: Instant,
}

/// What was seen in one measurement.
#[derive(Default)]
pub struct Seen {
    /// Messages published.
    pub published: u64,
    /// Frames received by clients that read.
    pub deliveries: u64,
    /// From the intended time of publishing to hearing, in nanoseconds.
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
    /// The next message is published when every member has the last one.
    OneAtATime,
    /// So many a second, unconditionally.
    Open(u32),
    /// So many publishers, each with so many messages of its own in flight.
    Closed { publishers: usize, window: u32 },
}

impl Client {
    /// Takes over connections that are open.
    pub fn new(
        topology: Topology,
        mut streams: Vec<TcpStream>,
        publisher: Option<TcpStream>,
        silent: Vec<TcpStream>,
        frame_bytes: usize,
    ) -> Self {
        let poll = Poll::new().expect("a poller");
        for (index, stream) in streams.iter_mut().enumerate() {
            poll.registry().register(stream, Token(index), Interest::READABLE).expect("a socket");
        }
        #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
        let origin = Instant::now();
        Self {
            poll,
            events: Events::with_capacity(1024),
            topology,
            readers: (0..streams.len()).map(|member| Reader::new(topology.protocol_of(member))).collect(),
            streams,
            publisher,
            frame_bytes,
            text: None,
            silent,
            buffer: vec![0; 256 * 1024],
            origin,
        }
    }

    /// Publishes for `time` at `pace`, then receives what is still in flight.
    pub fn drive(&mut self, pace: Pace, time: Duration) -> Seen {
        let mut seen = Seen::default();
        let audience = self.topology.audience() as u64;
        let begun = self.now();
        let until = begun + nanos(time);
        let mut next = begun;
        match pace {
            Pace::OneAtATime => self.publish((0, 0), begun, &mut seen),
            Pace::Closed { publishers, window } => {
                for publisher in 0..publishers {
                    for _ in 0..window {
                        self.publish((publisher, 0), begun, &mut seen);
                    }
                }
            }
            Pace::Open(_) => {}
        }
        loop {
            let now = self.now();
            if let Pace::Open(rate) = pace {
                while next <= now && next < until {
                    let turn = usize::try_from(seen.published).unwrap_or(0);
                    self.publish(self.topology.publisher(turn), next, &mut seen);
                    next += 1_000_000_000 / u64::from(rate);
                }
            }
            let expected = seen.published * audience;
            if seen.deliveries == expected && now >= until {
                break;
            }
            assert!(now < until + 20_000_000_000, "lost: {} of {expected}", expected - seen.deliveries);
            let wait = Duration::from_nanos(next.saturating_sub(now)).min(Duration::from_millis(1));
            let own = self.receive(wait, &mut seen);
            let now = self.now();
            match pace {
                Pace::OneAtATime if seen.deliveries == seen.published * audience && now < until => {
                    self.publish((0, 0), now, &mut seen)
                }
                Pace::Closed { publishers, .. } if now < until => {
                    for publisher in own.into_iter().filter(|&publisher| publisher < publishers) {
                        self.publish((publisher, 0), now, &mut seen);
                    }
                }
                Pace::OneAtATime | Pace::Open(_) | Pace::Closed { .. } => {}
            }
        }
        seen.elapsed = Duration::from_nanos(self.now() - begun);
        seen
    }

    /// Publishes this, of any length of the resulting frames.
    pub fn publishing(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    /// Clients that never read.
    pub fn silent(&self) -> usize {
        self.silent.len()
    }

    fn publish(&mut self, (publisher, room): (usize, usize), intended: u64, seen: &mut Seen) {
        seen.published += 1;
        let protocol = self.topology.protocol;
        let bytes = match &self.text {
            Some(text) => protocol.publish_text(text, room),
            None => protocol.publish(self.frame_bytes, intended, publisher, room),
        };
        write_whole(self.publisher.as_mut().unwrap_or(&mut self.streams[publisher]), &bytes);
    }

    /// Receives what has arrived. Returns the publisher of each own message that was received.
    fn receive(&mut self, wait: Duration, seen: &mut Seen) -> Vec<usize> {
        self.poll.poll(&mut self.events, Some(wait)).expect("a poller");
        let mut own = Vec::new();
        for event in &self.events {
            let index = event.token().0;
            let protocol = self.topology.protocol_of(index);
            loop {
                let len = match self.streams[index].read(&mut self.buffer) {
                    Ok(0) => panic!("the server closed connection {index}"),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("connection {index}: {error}"),
                };
                #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
                let now = nanos(Instant::now().duration_since(self.origin));
                self.readers[index].take(&self.buffer[..len], |payload| {
                    if self.text.is_some() {
                        seen.deliveries += 1;
                    } else if let Some((intended, publisher)) = protocol.received(payload) {
                        seen.deliveries += 1;
                        seen.latencies.push(u32::try_from(now.saturating_sub(intended)).unwrap_or(u32::MAX));
                        if publisher == index {
                            own.push(index);
                        }
                    }
                });
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

fn write_whole(stream: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("publishing: {error}"),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
