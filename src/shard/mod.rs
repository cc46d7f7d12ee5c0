//! One core's whole world: its connections, its rooms and the way from what is received to what is sent.
//!
//! # The contract with a driver
//!
//! A shard does no I/O and knows no clock. A driver owns the sockets, indexed by [`ConnKey::index`], and repeats
//! one *turn*:
//!
//! 1. [`Shard::begin_turn`] with the time;
//! 2. every input of the wake-up: [`opened`](Shard::opened), [`received`](Shard::received) (after
//!    [`may_read`](Shard::may_read)), [`ended`](Shard::ended), [`broken`](Shard::broken),
//!    [`writable`](Shard::writable), then [`run`](Shard::run) for the mesh and the timers;
//! 3. every output until `None`: [`poll_write`](Shard::poll_write), one or several at a time, each answered with
//!    [`wrote`](Shard::wrote), [`refused`](Shard::refused) or [`write_failed`](Shard::write_failed);
//!    [`poll_close`](Shard::poll_close), each answered with [`closed`](Shard::closed) unless it only shuts the sending side; [`poll_resume`](Shard::poll_resume);
//!    [`poll_wake`](Shard::poll_wake);
//! 4. sleep, unless [`Shard::has_work`], until [`Shard::next_deadline`].
//!
//! `received` borrows the driver's buffer and is done with it when it returns: an incomplete message is kept with the
//! connection. A short write means that the socket is full and that the driver will report `writable` once it is not.
//! No method calls back.

#![forbid(unsafe_code)]

pub mod fanout;
pub mod mesh;
mod output;
mod requests;
pub mod rooms;
mod speech;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use output::{Close, HowToClose, SLICES_MAX, Ticket, Write};

use crate::app::Encoder;
use crate::base::rng::Rng;
use crate::base::timer_wheel::TimerWheel;
use crate::base::{ConnKey, Table, Time};
use crate::chat::SlowMember;
use crate::conn::{Conn, Ending, State};
use crate::http::{HeadLimits, OriginRules, Reject};
use crate::metrics::{CloseReason, Registry, ShardMetrics};
use crate::ws::{self, CloseCode, Inflater};
use fanout::{Fanout, Seat};
use mesh::Mesh;
use output::Unsettled;
use rooms::Rooms;

/// What a shard is told about its limits and manners. Replaced as a whole on a reload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bounds of a request head.
    pub head: HeadLimits,
    /// Bounds of a message, inflated.
    pub message: ws::Limits,
    /// Bytes of a name.
    pub name_bytes_max: usize,
    /// Bytes of a room's name.
    pub room_bytes_max: usize,
    /// From the accept, or the last response, to the end of the next request head.
    pub handshake_timeout: Duration,
    /// Silence after which a member is pinged; zero: never.
    pub ping_interval: Duration,
    /// From a ping to the close, when nothing is heard.
    pub pong_timeout: Duration,
    /// Bound of a closing handshake and of last words.
    pub close_timeout: Duration,
    /// Connections of the whole process.
    pub connections_max: u64,
    /// Bytes of a room's log on one shard, in one format.
    pub room_log_bytes_max: u64,
    /// What becomes of a member that falls behind by more.
    pub slow_member: SlowMember,
    /// How long a room waits for more before it sends.
    pub coalesce: Duration,
    /// Which origins may open a WebSocket.
    pub origins: OriginRules,
    /// Whether permessage-deflate is agreed to.
    pub deflate: bool,
    /// Publications shorter than this are not compressed.
    pub deflate_bytes_min: usize,
    /// Whether `/echo` is there.
    pub echo: bool,
    /// Whether `/` is there.
    pub page: bool,
}

/// The defaults of the configuration, with as many connections as anyone wants.
impl Default for Options {
    fn default() -> Self {
        Self {
            head: HeadLimits { head_bytes_max: 8 * 1024 },
            message: ws::Limits { message_bytes_max: 64 * 1024 },
            name_bytes_max: 64,
            room_bytes_max: 255,
            handshake_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            close_timeout: Duration::from_secs(5),
            connections_max: u64::MAX,
            room_log_bytes_max: 1024 * 1024,
            slow_member: SlowMember::Disconnect,
            coalesce: Duration::ZERO,
            origins: OriginRules::default(),
            deflate: true,
            deflate_bytes_min: 128,
            echo: false,
            page: true,
        }
    }
}

impl Options {
    /// A log must hold what is not swept yet beside what slow members need: at least twice the largest message.
    fn log_bytes_max(&self) -> u64 {
        self.room_log_bytes_max.max(2 * self.message.message_bytes_max as u64)
    }

    /// Above this many bytes that are not yet offered to everybody, a room takes nothing more in. One read of the smallest
    /// possible messages grows tenfold with the longest names, and must still fit into the rest.
    fn congestion_bytes(&self) -> u64 {
        self.log_bytes_max() / 4
    }
}

/// Connections above the bound that may be told so at the same time; further ones wait in the kernel's queue.
pub const SURPLUS_MAX: u64 = 32;

/// Bytes of its own that may wait in a connection before it is no longer read from.
const OUTBOX_PAUSE_BYTES: usize = 64 * 1024;

/// How many connections that are not read from are looked at in a turn.
const RESUMES_PER_TURN: usize = 64;

/// Closes that a drain begins in one turn, so that the rooms that still talk are not held up.
const DRAINS_PER_TURN: usize = 256;

/// What a shard keeps for one connection.
#[derive(Debug)]
struct Slot {
    conn: Conn,
    /// Where it sits, once it is in a room.
    seat: Option<Seat>,
}

/// One core's whole world. See the module's page for how it is driven.
#[derive(Debug)]
pub struct Shard {
    now: Time,
    options: Arc<Options>,
    registry: Arc<Registry>,
    metrics: Arc<ShardMetrics>,
    conns: Table<Slot>,
    wheel: TimerWheel,
    rng: Rng,
    rooms: Rooms,
    fanout: Fanout,
    mesh: Mesh,
    encoder: Encoder,
    inflater: Inflater,
    /// Connections with bytes of their own to send.
    flush: VecDeque<ConnKey>,
    /// Connections that are not read from, because what they say has nowhere to go for now.
    paused: VecDeque<ConnKey>,
    resumed: Vec<ConnKey>,
    closing: VecDeque<(ConnKey, HowToClose)>,
    /// Writes that the driver has not answered yet.
    writes_under_way: usize,
    /// What waits for them to be.
    unsettled: Vec<(ConnKey, Unsettled)>,
    /// Connections accepted above the bound.
    surplus: u64,
    /// The slot at which the drain goes on, once it has begun.
    draining: Option<usize>,
    nameless: Arc<str>,
}

/// Whether one more connection may be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// As any other.
    Welcome,
    /// To be told that the server is full.
    Surplus,
    /// Not now: leave it in the kernel's queue.
    Later,
}

impl Shard {
    /// A shard without connections. `entropy` seeds its jitter and its rooms' epochs.
    pub fn new(mesh: Mesh, options: Arc<Options>, registry: Arc<Registry>, entropy: u64) -> Self {
        Self {
            now: Time::ZERO,
            metrics: registry.shard(mesh.me()),
            registry,
            conns: Table::default(),
            wheel: TimerWheel::default(),
            rng: Rng::new(entropy),
            rooms: Rooms::new(mesh.seed()),
            fanout: Fanout::default(),
            encoder: Encoder::new(options.deflate_bytes_min),
            inflater: Inflater::default(),
            options,
            mesh,
            flush: VecDeque::new(),
            paused: VecDeque::new(),
            resumed: Vec::new(),
            closing: VecDeque::new(),
            writes_under_way: 0,
            unsettled: Vec::new(),
            surplus: 0,
            draining: None,
            nameless: Arc::from(""),
        }
    }

    /// Replaces the options; they hold for what comes from now on, and the pings for everybody who is there.
    pub fn reconfigure(&mut self, now: Time, options: Arc<Options>) {
        self.encoder.deflate_bytes_min = options.deflate_bytes_min;
        let interval = options.ping_interval;
        let pings_change = interval != self.options.ping_interval;
        self.options = options;
        if !pings_change {
            return;
        }
        let keys: Vec<_> = self.conns.keys().collect();
        for key in keys {
            let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { continue };
            if conn.state != State::Open {
                continue;
            }
            if interval.is_zero() {
                conn.pinged = false;
                self.wheel.cancel(key.index());
            } else if !conn.pinged {
                self.wheel.set(key.index(), now + jittered(&mut self.rng, interval));
            }
        }
    }

    /// Begins to close every connection (1001), some each turn. New ones are not accepted any more.
    pub const fn drain(&mut self) {
        if self.draining.is_none() {
            self.draining = Some(0);
        }
    }

    /// Whether a drain has begun and nobody is left.
    pub fn is_drained(&self) -> bool {
        self.draining.is_some() && self.conns.is_empty()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Begins a turn at `now`, which never goes back.
    pub fn begin_turn(&mut self, now: Time) {
        debug_assert_eq!(self.writes_under_way, 0, "a write was not answered");
        self.now = self.now.max(now);
        self.fanout.begin_slice(self.now);
    }

    /// Whether another connection may be accepted.
    pub fn admission(&self) -> Admission {
        if self.draining.is_some() {
            Admission::Later
        } else if self.registry.connections() < self.options.connections_max {
            Admission::Welcome
        } else if self.surplus < SURPLUS_MAX {
            Admission::Surplus
        } else {
            Admission::Later
        }
    }

    /// A connection was accepted, with what [`Shard::admission`] said.
    pub fn opened(&mut self, admission: Admission) -> ConnKey {
        let surplus = admission != Admission::Welcome;
        self.surplus += u64::from(surplus);
        self.metrics.accepted.add(1);
        self.metrics.connections.add(1);
        let conn = Conn::new(self.now, &self.nameless, surplus);
        let key = self.conns.insert(Slot { conn, seat: None });
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        key
    }

    /// Whether `key` should be read from. When not, [`Shard::poll_resume`] will name it once it should; until then the
    /// driver leaves its bytes in the kernel, which slows the sender down.
    pub fn may_read(&mut self, key: ConnKey) -> bool {
        let Some(slot) = self.conns.get(key) else { return false };
        if slot.conn.paused {
            return false;
        }
        if self.has_room_for_input_of(slot) {
            return true;
        }
        self.paused.push_back(key);
        self.metrics.pauses.add(1);
        if let Some(slot) = self.conns.get_mut(key) {
            slot.conn.paused = true;
        }
        false
    }

    /// Bytes have arrived. They are unmasked and used in place.
    pub fn received(&mut self, key: ConnKey, input: &mut [u8]) {
        self.metrics.bytes_in.add(input.len() as u64);
        let Some(slot) = self.conns.get_mut(key) else { return };
        slot.conn.heard = self.now;
        slot.conn.pinged = false;
        match slot.conn.state {
            State::Head => self.head_bytes(key, input),
            State::Open | State::Closing => self.frame_bytes(key, input),
            State::Finishing(_) | State::Lingering | State::Closed => {}
        }
    }

    /// The peer has ended its stream.
    pub fn ended(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.ended = true;
        match conn.state {
            // A client may end its side after a request and still read the answer.
            State::Head if !conn.outbox.is_empty() => self.finish(key, Ending::AtOnce, CloseReason::HttpDone),
            State::Head => self.close(key, HowToClose::Now, CloseReason::HttpDone),
            State::Open | State::Closing => self.close(key, HowToClose::Now, CloseReason::Gone),
            State::Lingering => {
                let reason = conn.reason;
                self.close(key, HowToClose::Now, reason);
            }
            State::Finishing(_) | State::Closed => {}
        }
    }

    /// The socket failed.
    pub fn broken(&mut self, key: ConnKey) {
        self.close(key, HowToClose::Now, CloseReason::Gone);
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        if !std::mem::replace(&mut slot.conn.blocked, false) {
            return;
        }
        if slot.seat.is_some() {
            self.metrics.lagging.sub(1);
            self.catch_up_conflated(key);
        }
        self.flush_later(key);
    }

    /// Takes in what other shards have sent, and lets the timers and the drain go on.
    pub fn run(&mut self) {
        self.receive_mesh();
        while let Some(index) = self.wheel.poll_expired(self.now) {
            if let Some(key) = self.conns.key_at(index) {
                self.expired(key);
            }
        }
        self.drain_some();
        self.resume_some();
    }

    /// The driver stops accepting for a while.
    pub fn accept_paused(&self) {
        self.metrics.accept_pauses.add(1);
    }

    /// Ends a turn, which took `elapsed`.
    pub fn end_turn(&mut self, elapsed: Duration) {
        self.metrics.turn.observe(elapsed);
        for circle in self.fanout.take_timed() {
            self.metrics.fanout.observe(circle);
        }
    }

    /// Whether there is something to do before any further input.
    pub fn has_work(&self) -> bool {
        self.fanout.has_work()
            || !self.flush.is_empty()
            || !self.resumed.is_empty()
            || !self.closing.is_empty()
            || !self.unsettled.is_empty()
            || self.draining.is_some_and(|next| next < self.conns.slots())
    }

    /// When to begin a turn even without input.
    pub fn next_deadline(&self) -> Option<Time> {
        // What waits for another shard, or for a room to be swept, is looked at again soon.
        let soon = (!self.mesh.is_clear() || !self.paused.is_empty()).then(|| self.now + LOOK_AGAIN);
        [self.wheel.next_deadline(), self.fanout.next_deadline(), soon].into_iter().flatten().min()
    }

    /// Announces that the driver is about to sleep; false when another shard has sent something meanwhile.
    pub fn may_sleep(&self) -> bool {
        self.mesh.may_sleep()
    }

    /// After the sleep.
    pub fn awake(&self) {
        self.mesh.announce_awake();
    }

    /// The next shard to be woken.
    pub fn poll_wake(&mut self) -> Option<usize> {
        let shard = self.mesh.poll_wake()?;
        self.metrics.wakes.add(1);
        Some(shard)
    }

    /// The next connection that may be read from again.
    pub fn poll_resume(&mut self) -> Option<ConnKey> {
        self.resumed.pop()
    }

    /// The socket of a connection is closed: its slot is free.
    pub fn closed(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.remove(key) else { return };
        self.wheel.cancel(key.index());
        self.surplus -= u64::from(conn.surplus);
        self.metrics.connections.sub(1);
        self.metrics.websockets.sub(u64::from(conn.endpoint.is_some()));
        self.metrics.closes[conn.reason as usize].add(1);
    }

    fn has_room_for_input_of(&self, slot: &Slot) -> bool {
        if slot.conn.outbox.len() > OUTBOX_PAUSE_BYTES {
            return false;
        }
        let Some(seat) = slot.seat else { return true };
        let room = &self.rooms[self.fanout[seat.audience].room];
        self.mesh.is_clear_up(room.home_shard)
            && (room.home_shard != self.mesh.me() || self.mesh.is_clear_down())
            && !room.is_congested(&self.fanout, self.options.congestion_bytes())
    }

    fn resume_some(&mut self) {
        for _ in 0..self.paused.len().min(RESUMES_PER_TURN) {
            let Some(key) = self.paused.pop_front() else { return };
            let Some(slot) = self.conns.get(key) else { continue };
            if self.has_room_for_input_of(slot) {
                if let Some(slot) = self.conns.get_mut(key) {
                    slot.conn.paused = false;
                }
                self.resumed.push(key);
            } else {
                self.paused.push_back(key);
            }
        }
    }

    fn drain_some(&mut self) {
        let Some(first) = self.draining else { return };
        let next = self.conns.slots().min(first + DRAINS_PER_TURN);
        for index in first..next {
            let Some(key) = self.conns.key_at(index) else { continue };
            let Some(Slot { conn, .. }) = self.conns.get(key) else { continue };
            match conn.state {
                State::Open => {
                    self.close_handshake(key, CloseCode::Away, "server is going away", CloseReason::Shutdown)
                }
                State::Head => self.finish(key, Ending::AtOnce, CloseReason::Shutdown),
                State::Closing | State::Finishing(_) | State::Lingering | State::Closed => {}
            }
        }
        self.draining = Some(next);
    }

    fn expired(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get(key) else { return };
        match conn.state {
            State::Head => self.reject(key, Reject::HeadTimeout, CloseReason::HeadTimeout),
            State::Open => self.keep_alive(key),
            State::Lingering => {
                let reason = conn.reason;
                self.close(key, HowToClose::Now, reason);
            }
            State::Closing | State::Finishing(_) => {
                let reason = conn.reason;
                self.close(key, HowToClose::Reset, reason);
            }
            State::Closed => {}
        }
    }

    /// Pings a connection that has been silent, gives up one that stayed so.
    fn keep_alive(&mut self, key: ConnKey) {
        let interval = self.options.ping_interval;
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if interval.is_zero() {
            return;
        }
        if conn.pinged {
            self.fail(key, CloseCode::Away, "no answer to a ping", CloseReason::Silent);
        } else if self.now.since(conn.heard) < interval / 2 {
            let next = conn.heard + jittered(&mut self.rng, interval);
            self.wheel.set(key.index(), next);
        } else {
            conn.pinged = true;
            ws::frame_into(conn.outbox.bytes(), ws::Opcode::Ping, &[]);
            self.wheel.set(key.index(), self.now + self.options.pong_timeout);
            self.flush_later(key);
        }
    }

    /// Answers a request that cannot be served, and ends the connection.
    fn reject(&mut self, key: ConnKey, reject: Reject, reason: CloseReason) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        reject.response_into(conn.outbox.bytes());
        self.metrics.requests.add(1);
        self.finish(key, Ending::Linger, reason);
    }

    /// Fails a WebSocket: says why, and takes nothing more (RFC 6455 §7.1.7).
    fn fail(&mut self, key: ConnKey, code: CloseCode, sentence: &str, reason: CloseReason) {
        self.leave_room(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state == State::Open {
            ws::close_into(conn.outbox.bytes(), code, sentence);
        }
        self.finish(key, Ending::Linger, reason);
    }

    /// Begins the closing handshake from our side (RFC 6455 §7.1.2).
    fn close_handshake(&mut self, key: ConnKey, code: CloseCode, sentence: &str, reason: CloseReason) {
        self.leave_room(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        ws::close_into(conn.outbox.bytes(), code, sentence);
        conn.state = State::Closing;
        conn.reason = reason;
        self.wheel.set(key.index(), self.now + self.options.close_timeout);
        self.flush_later(key);
    }

    /// Takes nothing more in; ends when everything is out.
    fn finish(&mut self, key: ConnKey, ending: Ending, reason: CloseReason) {
        self.leave_room(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.reason = reason;
        conn.state = State::Finishing(if conn.ended { Ending::AtOnce } else { ending });
        conn.head = None;
        conn.decoder = ws::Decoder::default();
        self.wheel.set(key.index(), self.now + self.options.close_timeout);
        self.flush_later(key);
    }

    /// Hands the connection to the driver to be closed.
    fn close(&mut self, key: ConnKey, how: HowToClose, reason: CloseReason) {
        self.leave_room(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state == State::Closed {
            return;
        }
        conn.state = State::Closed;
        conn.reason = reason;
        conn.outbox.clear();
        self.wheel.cancel(key.index());
        self.closing.push_back((key, how));
    }
}

/// How soon a shard looks again at what could not go on, when nothing else wakes it.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Between half of `interval` and the whole: what many began in one moment spreads out over time.
fn jittered(rng: &mut Rng, interval: Duration) -> Duration {
    let half = u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX);
    Duration::from_nanos(half + rng.below(half))
}
