//! Shards with their clients in one thread: what a driver would do, and what a client would notice.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use stentor::base::hash::Seed;
use stentor::base::{ConnKey, Time};
use stentor::chat::{RoomOptions, RoomRules, SlowMember};
use stentor::http::HeadLimits;
use stentor::metrics::Registry;
use stentor::shard::{
    Admission, Close, CloseMethod, ConnectionLimits, Mesh, Options, SLICES_MAX, Shard, WriteId,
};
use stentor::ws::{Inflater, Limits};
use stentor_testkit::{frame, frames, try_parse_response, upgrade_request};

const LIMITS: Limits = Limits { message_bytes_max: 4096 };
/// Commands of the JSON protocol.
const COMMANDS: [&str; 9] = [
    r#"{"id":1,"connect":{"name":"js"}}"#,
    r#"{"id":2,"subscribe":{"channel":"r0"}}"#,
    r#"{"id":3,"subscribe":{"channel":"r1","recover":true,"epoch":"1","offset":1}}"#,
    r#"{"id":4,"publish":{"channel":"r0","data":{"a":[1,"x"]}}}"#,
    r#"{"id":5,"presence":{"channel":"r0"}}"#,
    r#"{"id":6,"history":{"channel":"r0","limit":3}}"#,
    r#"{"id":7,"unsubscribe":{"channel":"r0"}}"#,
    r#"{"id":8,"refresh":{"token":"x"}}"#,
    "{}",
];
const PAGES: [&str; 12] = [
    "/",
    "/healthz",
    "/metrics",
    "/nothing",
    "/ws/a",
    "/sse/x?room=r0",
    "/sse/x?room=r1&history=9",
    "/stream/x?room=r0",
    "/stream/x?room=r2&since=x:1",
    "/poll/x?room=r0&session=s",
    "/poll/x?room=r1&since=x:1",
    "/send/x",
];

/// The same for all rooms.
fn rooms(slow_member: SlowMember, coalesce: Duration) -> Arc<RoomRules> {
    let otherwise = Arc::new(RoomOptions { slow_member, coalesce, ..RoomOptions::default() });
    Arc::new(RoomRules { patterns: Vec::new(), otherwise })
}

fn options() -> Options {
    Options {
        head: HeadLimits { head_bytes_max: 1024 },
        message: LIMITS,
        connections_max: 12,
        room_log_bytes_max: 16 * 1024,
        rooms: rooms(SlowMember::Skip, Duration::ZERO),
        deflate_bytes_min: 16,
        echo: true,
        session_messages_per_second_max: 0,
        session_commands_per_second_max: 0,
        ..Options::default()
    }
}

/// A client, and what it has got.
struct Client {
    shard: usize,
    key: ConnKey,
    /// What its socket takes before it is full.
    window: usize,
    /// It was full, and has not been reported as writable.
    blocked: bool,
    /// The shard does not read from it.
    paused: bool,
    write_fails: bool,
    ended: bool,
    closed: bool,
    /// It was sent nothing but what makes a WebSocket, so that the answer is frames.
    upgraded: bool,
    echo: bool,
    /// It sends nothing but its own numbers.
    counts: bool,
    sent: u32,
    received: Vec<u8>,
}

/// The outcome of a write.
enum Outcome {
    Took(usize, usize),
    Refused,
    Failed,
}

pub(crate) struct World {
    shards: Vec<Shard>,
    clients: Vec<Client>,
    options: Options,
    registry: Arc<Registry>,
    now: Time,
}

impl World {
    pub(crate) fn new(shards: usize) -> Self {
        let registry = Arc::new(Registry::new(shards));
        let shared = Arc::new(options());
        let shards = Shard::fleet(
            Mesh::build(shards, &Seed::new(1)),
            &ConnectionLimits::new(&Seed::new(1)),
            &shared,
            &registry,
            || 1,
        );
        Self { shards, clients: Vec::new(), options: options(), registry, now: Time::ZERO }
    }

    pub(crate) fn open(&mut self, shard: u8) {
        let id = usize::from(shard) % self.shards.len();
        let shard = &mut self.shards[id];
        let admission = shard.admission();
        if admission == Admission::Wait {
            return;
        }
        shard.begin_turn(self.now);
        let client = Client {
            shard: id,
            key: shard.opened(admission, None),
            window: usize::MAX,
            blocked: false,
            paused: false,
            write_fails: false,
            ended: false,
            closed: false,
            upgraded: false,
            echo: false,
            counts: true,
            sent: 0,
            received: Vec::new(),
        };
        self.clients.push(client);
    }

    /// The client of that number that is still there, and its shard in a turn.
    fn client(&mut self, conn: u8) -> Option<(usize, &mut Client, &mut Shard)> {
        let there: Vec<usize> =
            (0..self.clients.len()).filter(|&index| !self.clients[index].closed).collect();
        let &index = there.get(usize::from(conn) % there.len().max(1))?;
        let client = &mut self.clients[index];
        let shard = &mut self.shards[client.shard];
        shard.begin_turn(self.now);
        Some((index, client, shard))
    }

    /// As a driver reads: only when the shard allows it. False when it does not.
    fn receive(&mut self, conn: u8, bytes: &mut [u8]) -> bool {
        let Some((_, client, shard)) = self.client(conn) else { return false };
        if bytes.is_empty() || client.ended || client.paused {
            return false;
        }
        client.paused = !shard.may_read(client.key);
        if !client.paused {
            shard.received(client.key, bytes);
        }
        !client.paused
    }

    pub(crate) fn send(&mut self, conn: u8, bytes: &mut [u8]) {
        let Some((_, client, _)) = self.client(conn) else { return };
        client.counts = false;
        self.receive(conn, bytes);
    }

    pub(crate) fn send_frame(&mut self, conn: u8, b0: u8, payload: &[u8]) {
        let Some((_, client, _)) = self.client(conn) else { return };
        client.counts &= matches!(b0 & 0x0F, 0x9 | 0xA);
        self.receive(conn, &mut frame(b0, payload));
    }

    pub(crate) fn upgrade(&mut self, conn: u8, room: u8, deflate: bool, echo: bool, followed_by_text: bool) {
        let Some((index, client, _)) = self.client(conn) else { return };
        let fresh = !client.upgraded && client.counts && client.received.is_empty();
        let path = if echo { "/echo".to_owned() } else { format!("/ws/m{index}?room=r{}", room % 4) };
        let offer = if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let mut request = upgrade_request(&path, offer).into_bytes();
        if followed_by_text {
            request.extend(frame(0x81, b"0"));
        }
        if self.receive(conn, &mut request) && fresh {
            let client = &mut self.clients[index];
            (client.upgraded, client.echo) = (true, echo);
            client.sent = u32::from(followed_by_text);
        } else {
            self.clients[index].counts = false;
        }
    }

    /// A WebSocket of the JSON protocol.
    pub(crate) fn json(&mut self, conn: u8) {
        let Some((_, client, _)) = self.client(conn) else { return };
        client.counts = false;
        let mut request = upgrade_request("/connection/websocket", "").into_bytes();
        let fresh = !client.upgraded && client.received.is_empty();
        if self.receive(conn, &mut request) && fresh {
            // Its frames are checked as those of an echo, with any payload.
            let there = self.client(conn);
            there.into_iter().for_each(|(_, client, _)| (client.upgraded, client.echo) = (true, true));
        }
    }

    /// Commands of it, in one frame; the bits of `commands` select them.
    pub(crate) fn command(&mut self, conn: u8, commands: u16) {
        let chosen =
            (0..COMMANDS.len()).filter(|index| commands & (1 << index) != 0).map(|index| COMMANDS[index]);
        self.send_frame(conn, 0x81, chosen.collect::<Vec<_>>().join("\n").as_bytes());
    }

    pub(crate) fn get(&mut self, conn: u8, page: u8, keep_alive: bool) {
        let Some((_, client, _)) = self.client(conn) else { return };
        client.counts = false;
        let page = PAGES[usize::from(page) % PAGES.len()];
        let close = if keep_alive { "" } else { "Connection: close\r\n" };
        self.receive(conn, &mut format!("GET {page} HTTP/1.1\r\nHost: h\r\n{close}\r\n").into_bytes());
    }

    /// A message by request, whose content may be chunked, and comes in two pieces.
    pub(crate) fn post(&mut self, conn: u8, room: u8, chunked: bool, cut: u8) {
        let Some((_, client, _)) = self.client(conn) else { return };
        client.counts = false;
        let (field, content) = match chunked {
            true => ("Transfer-Encoding: chunked", "2;x=y\r\nhi\r\n0\r\n\r\n"),
            false => ("Content-Length: 2", "hi"),
        };
        let request =
            format!("POST /send/x{room}?room=r{} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n{content}", room % 4);
        let mut request = request.into_bytes();
        let cut = usize::from(cut).min(request.len());
        let (front, back) = request.split_at_mut(cut);
        self.receive(conn, front);
        self.receive(conn, back);
    }

    pub(crate) fn publish(&mut self, conn: u8, padding: u16, cut: u8) {
        let Some((index, client, _)) = self.client(conn) else { return };
        if !client.counts || !client.upgraded {
            return;
        }
        let text = format!("{} {}", client.sent, "la".repeat(usize::from(padding % 2000)));
        let mut frame = frame(0x81, text.as_bytes());
        let cut = usize::from(cut).min(frame.len());
        let (front, back) = frame.split_at_mut(cut);
        if cut > 0 && !self.receive(conn, front) {
            return;
        }
        let whole = back.is_empty() || self.receive(conn, back);
        self.clients[index].counts &= whole;
        self.clients[index].sent += 1;
    }

    pub(crate) fn window(&mut self, conn: u8, bytes: usize) {
        let Some((_, client, shard)) = self.client(conn) else { return };
        client.window = bytes;
        if bytes > 0 && std::mem::take(&mut client.blocked) {
            shard.writable(client.key);
        }
    }

    pub(crate) fn ends(&mut self, conn: u8) {
        let Some((_, client, shard)) = self.client(conn) else { return };
        client.ended = true;
        shard.ended(client.key);
    }

    pub(crate) fn breaks(&mut self, conn: u8) {
        if let Some((_, client, shard)) = self.client(conn) {
            shard.broken(client.key);
        }
    }

    pub(crate) fn write_fails(&mut self, conn: u8) {
        if let Some((_, client, _)) = self.client(conn) {
            client.write_fails = true;
        }
    }

    pub(crate) fn advance(&mut self, ms: u16) {
        self.now = self.now + Duration::from_millis(u64::from(ms));
    }

    pub(crate) fn reconfigure(&mut self, slow_member: u8, ping: bool, coalesce: bool) {
        let policies = [SlowMember::Disconnect, SlowMember::Skip, SlowMember::Conflate];
        let coalesce = if coalesce { Duration::from_millis(5) } else { Duration::ZERO };
        self.options.rooms = rooms(policies[usize::from(slow_member % 3)], coalesce);
        self.options.ping_interval = if ping { Duration::from_secs(2) } else { Duration::ZERO };
        let options = Arc::new(self.options.clone());
        for shard in &mut self.shards {
            shard.begin_turn(self.now);
            shard.reconfigure(self.now, Arc::clone(&options));
        }
    }

    pub(crate) fn drain(&mut self, shard: u8) {
        let id = usize::from(shard) % self.shards.len();
        self.shards[id].drain();
    }

    /// A turn of one shard, with up to `writes` of its writes in flight together.
    pub(crate) fn turn(&mut self, shard: u8, writes: u8) {
        let id = usize::from(shard) % self.shards.len();
        self.shards[id].begin_turn(self.now);
        self.shards[id].run();
        self.writes(id, 1 + usize::from(writes % 8));
        let shard = &mut self.shards[id];
        while let Some(Close { key, how, .. }) = shard.poll_close() {
            let client = open(&mut self.clients, id, key.index());
            assert_eq!(client.key, key);
            if how != CloseMethod::Shutdown {
                client.closed = true;
                shard.closed(key);
            }
        }
        while let Some(key) = shard.poll_resume() {
            if let Some(client) =
                self.clients.iter_mut().find(|client| client.shard == id && client.key == key)
            {
                client.paused = false;
            }
        }
        while let Some(other) = shard.poll_wake() {
            assert_ne!(other, id);
        }
        if !shard.has_work() && shard.may_sleep() {
            shard.awake();
        }
    }

    fn writes(&mut self, id: usize, writes: usize) {
        let shard = &mut self.shards[id];
        let mut in_flight: VecDeque<(usize, WriteId, Outcome)> = VecDeque::new();
        loop {
            while in_flight.len() < writes {
                let Some(write) = shard.poll_write() else { break };
                assert!(
                    in_flight.iter().all(|(conn, ..)| *conn != write.conn),
                    "two writes to one connection"
                );
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = write.gather(&mut slices);
                let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                assert!(!bytes.is_empty());
                assert!(write.contiguous().is_none_or(|contiguous| contiguous == bytes));
                let client = open(&mut self.clients, id, write.conn);
                in_flight.push_back((write.conn, write.write_id, client.takes(&bytes)));
            }
            if in_flight.is_empty() {
                return;
            }
            for (_, write_id, outcome) in in_flight.drain(..) {
                match outcome {
                    Outcome::Took(len, offered) => shard.wrote(write_id, len, offered),
                    Outcome::Refused => shard.refused(write_id),
                    Outcome::Failed => shard.write_failed(write_id),
                }
            }
        }
    }

    fn turns(&mut self, writes: u8) {
        for shard in (0..self.shards.len() as u8).cycle().take(3 * self.shards.len()) {
            self.turn(shard, writes);
        }
    }

    /// All clients leave, and what they have received is checked.
    pub(crate) fn end(mut self) {
        for shard in &mut self.shards {
            shard.drain();
        }
        for round in 0..40 {
            self.advance(if round % 2 == 0 { 0 } else { 4000 });
            self.turns(round);
        }
        // Publications are kept for reconnecting clients, and then forgotten.
        self.now = self.now + Duration::from_secs(24 * 60 * 60);
        self.turns(0);
        for shard in &self.shards {
            assert!(shard.is_drained(), "{} connections are left", shard.connections());
        }
        assert_eq!(self.registry.connections(), 0);
        let page = self.registry.exposition();
        for gauge in
            ["stentor_members", "stentor_websocket_connections", "stentor_rooms", "stentor_lagging_members"]
        {
            let left = page.lines().filter(|line| line.starts_with(gauge) && !line.ends_with(" 0"));
            assert_eq!(left.collect::<Vec<_>>(), Vec::<&str>::new());
        }
        let counts = |name: &str| {
            let index: Option<usize> = name.strip_prefix('m').and_then(|index| index.parse().ok());
            index.and_then(|index| self.clients.get(index)).is_some_and(|client| client.counts)
        };
        self.clients
            .iter()
            .filter(|client| client.upgraded)
            .for_each(|client| client.check_received(&counts));
    }
}

/// The client whose connection has that slot.
fn open(clients: &mut [Client], shard: usize, slot: usize) -> &mut Client {
    let mut there = clients.iter_mut().filter(|client| client.shard == shard && client.key.index() == slot);
    there.find(|client| !client.closed).expect("a connection that is open")
}

impl Client {
    /// What its socket makes of a write.
    fn takes(&mut self, bytes: &[u8]) -> Outcome {
        assert!(!self.blocked, "a write to a full socket");
        if std::mem::take(&mut self.write_fails) {
            return Outcome::Failed;
        }
        let len = bytes.len().min(self.window);
        if self.window != usize::MAX {
            self.window -= len;
        }
        self.blocked = len < bytes.len();
        self.received.extend_from_slice(&bytes[..len]);
        if len == 0 { Outcome::Refused } else { Outcome::Took(len, bytes.len()) }
    }

    /// Frames that a server may send, in which every counting author counts upwards; the last one may be
    /// partial.
    fn check_received(&self, counts: &dyn Fn(&str) -> bool) {
        let response = try_parse_response(&self.received).ok().flatten();
        let Some(response) = response.filter(|response| response.status == 101) else { return };
        let (mut frames, mut inflater) = (frames(&self.received[response.len..]), Inflater::default());
        let mut last: HashMap<String, u32> = HashMap::new();
        while let Some(frame) = frames.next() {
            let text = match (frame.opcode, frame.compressed) {
                (1, false) => frame.payload.to_vec(),
                (1, true) => inflater.inflate(frame.payload, 1 << 16).expect("DEFLATE").to_vec(),
                (2, _) if self.echo => continue,
                (8, _) => {
                    assert!(
                        frame.close_code().is_some() && frames.rest().is_empty(),
                        "a Close is the last frame"
                    );
                    return;
                }
                (9 | 10, _) => continue,
                other => panic!("an unexpected frame: {other:?}"),
            };
            let text = String::from_utf8(text).expect("text is UTF-8");
            let Some((author, sent)) = text.split_once(": ") else { continue };
            if self.echo || !counts(author) {
                continue;
            }
            let number = sent.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
            let before = last.insert(author.to_owned(), number);
            assert!(before.is_none_or(|before| before < number), "{author} sent {number} after {before:?}");
        }
    }
}
