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

mod audit;
mod client;
mod crowd;
mod endings;
pub mod fanout;
mod home;
mod identity;
mod inbox;
mod json;
mod members;
pub mod mesh;
mod options;
mod output;
mod replacement;
mod requests;
pub mod rooms;
mod session;
mod speech;
#[cfg(test)]
mod tests;
mod text;

use core::net::IpAddr;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use audit::Audit;
pub use crowd::Crowd;
pub use options::Options;
pub use output::{Close, HowToClose, SLICES_MAX, Ticket, Write};

use crate::app::Encoder;
use crate::base::census;
use crate::base::rng::Rng;
use crate::base::timer_wheel::TimerWheel;
use crate::base::{ConnKey, Table, Time};
use crate::chat::{ClientId, Question, Verdict};
use crate::conn::{Conn, Ending, State};
use crate::http::Reject;
use crate::metrics::{CloseReason, Registry, ShardMetrics};
use crate::ws::{self, CloseCode, Inflater};
use client::Client;
use crowd::Provenance;
use fanout::{Backlog, Fanout};
use mesh::{Ask, Mesh};
use output::Unsettled;
use rooms::{RoomId, Rooms};

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
    /// Who is behind it, once its WebSocket is open to a room.
    client: Option<Box<Client>>,
    /// Where it comes from, if that matters.
    provenance: Option<Box<Provenance>>,
    /// Counted among the connections of its user.
    user: Option<Box<census::Ticket<Arc<str>>>>,
}

/// A count of members that is under way on all shards.
#[derive(Debug)]
struct Counting {
    ask: Ask,
    /// Shards that have not answered yet.
    missing: usize,
    sum: Backlog,
}

/// One core's whole world. See the module's page for how it is driven.
#[derive(Debug)]
pub struct Shard {
    now: Time,
    options: Arc<Options>,
    registry: Arc<Registry>,
    crowd: Crowd,
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
    /// Connections with a write under way that could have a second one, as they sit in several rooms.
    claimed: Vec<ConnKey>,
    /// What waits for them to be answered.
    unsettled: Vec<(ConnKey, Unsettled)>,
    /// Connections accepted above the bound.
    surplus: u64,
    /// The slot at which the drain goes on, once it has begun.
    draining: Option<usize>,
    nameless: Arc<str>,
    /// Unix time at the origin of this shard's time, in milliseconds.
    unix_origin_ms: u64,
    /// The last number that a question has got.
    numbers: u32,
    /// Rooms whose members are to be told who came and went, in the order in which that is due.
    tellings: VecDeque<(Time, RoomId)>,
    /// Rooms that nobody is in, and until when they are kept for the sake of their past.
    kept_rooms: BinaryHeap<Reverse<(Time, RoomId)>>,
    /// When the pasts of rooms are looked through again, and where that goes on.
    ages_at: Time,
    next_aged: u32,
    countings: Vec<Counting>,
    questions: VecDeque<Question>,
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
            crowd: mesh.crowd().clone(),
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
            claimed: Vec::new(),
            unsettled: Vec::new(),
            surplus: 0,
            draining: None,
            nameless: Arc::from(""),
            unix_origin_ms: 0,
            numbers: 0,
            tellings: VecDeque::new(),
            kept_rooms: BinaryHeap::new(),
            ages_at: Time::ZERO,
            next_aged: 0,
            countings: Vec::new(),
            questions: VecDeque::new(),
        }
    }

    /// Replaces the options; they hold for what comes from now on, and the pings for everybody who is there.
    pub fn reconfigure(&mut self, now: Time, options: Arc<Options>) {
        self.encoder.deflate_bytes_min = options.deflate_bytes_min;
        let interval = options.ping_interval;
        let pings_change = interval != self.options.ping_interval;
        for room in self.rooms.iter_mut() {
            room.options = Arc::clone(options.rooms.of(&room.name));
            for (_, audience) in room.attended() {
                self.fanout[audience].options = Arc::clone(&room.options);
            }
        }
        self.options = options;
        if !pings_change {
            return;
        }
        let keys: Vec<_> = self.conns.keys().collect();
        for key in keys {
            let Some(Slot { conn, client, .. }) = self.conns.get_mut(key) else { continue };
            if conn.state != State::Open {
                continue;
            }
            if client.as_ref().is_some_and(|client| client.session.is_some()) {
                self.renew_pings(key);
            } else if interval.is_zero() {
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

    /// The wall clock, for what people are told; the shard's own time is what everything else goes by.
    pub fn tell_wall_clock(&mut self, unix_ms: u64) {
        self.unix_origin_ms = unix_ms.saturating_sub(self.now.as_nanos() / 1_000_000);
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

    /// A connection was accepted, with what [`Shard::admission`] said, from `address` if that is known (see
    /// [`Shard::wants_addresses`]).
    pub fn opened(&mut self, admission: Admission, address: Option<IpAddr>) -> ConnKey {
        let surplus = admission != Admission::Welcome;
        self.surplus += u64::from(surplus);
        self.metrics.accepted.add(1);
        self.metrics.connections.add(1);
        let conn = Conn::new(self.now, surplus);
        let provenance = self.provenance(address);
        let key = self.conns.insert(Slot { conn, client: None, provenance, user: None });
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
        let holds = !slot.conn.state.is_ending() && slot.client.as_ref().is_some_and(|it| it.held.is_some());
        if self.has_room_for_input_of(slot) && !holds {
            return true;
        }
        self.pause(key);
        false
    }

    /// Has a connection not read from until there is room for what it says.
    fn pause(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if !std::mem::replace(&mut conn.paused, true) {
            self.paused.push_back(key);
            self.metrics.pauses.add(1);
        }
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
        let seats = slot.client.as_ref().map(|client| client.seats()).unwrap_or_default();
        self.metrics.lagging.sub(seats.len() as u64);
        for seat in seats {
            self.catch_up_conflated(key, seat);
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
        self.tell_moves();
        self.age();
        self.drain_some();
        self.resume_some();
    }

    /// What somebody outside is to be asked about a client; the answer is told with [`Shard::decided`], at any time.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// What somebody outside has said of a client. If it is gone, or going, nothing happens.
    pub fn decided(&mut self, conn: ConnKey, verdict: Verdict) {
        if !self.is_open(conn) {
            return;
        }
        let Some(client) = self.client_mut(conn) else { return };
        let Some(held) = &mut client.held else { return self.verdict_of_connect(conn, verdict) };
        match held.entrance.take() {
            Some(entrance) => self.verdict_of_entrance(conn, &entrance, verdict),
            None => self.verdict_of_connect(conn, verdict),
        }
    }

    /// Whether a client is there, and not on its way out.
    fn is_open(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|slot| slot.conn.state == State::Open)
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
            || !self.questions.is_empty()
            || !self.unsettled.is_empty()
            || self.draining.is_some_and(|next| next < self.conns.slots())
    }

    /// When to begin a turn even without input.
    pub fn next_deadline(&self) -> Option<Time> {
        // What waits for another shard, or for a room to be swept, is looked at again soon.
        let soon = (!self.mesh.is_clear() || !self.paused.is_empty()).then(|| self.now + LOOK_AGAIN);
        let moves = self.tellings.front().map(|&(due, _)| due);
        let all = [self.wheel.next_deadline(), self.fanout.next_deadline(), soon, moves, self.next_aging()];
        all.into_iter().flatten().min()
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
        if slot.conn.state.is_ending() {
            return true; // nothing comes of it but the end
        }
        if slot.conn.outbox.len() > OUTBOX_PAUSE_BYTES {
            return false;
        }
        let Some(client) = &slot.client else { return true };
        if client.session.as_ref().is_some_and(|session| session.must_wait())
            || client.held.as_ref().is_some_and(|held| held.entrance.is_some())
        {
            return false;
        }
        let bound = self.options.congestion_bytes();
        self.mesh.is_clear()
            && client.memberships.iter().all(|it| !self.rooms[it.room].is_congested(&self.fanout, bound))
    }

    fn resume_some(&mut self) {
        for _ in 0..self.paused.len().min(RESUMES_PER_TURN) {
            let Some(key) = self.paused.pop_front() else { return };
            let Some(slot) = self.conns.get(key) else { continue };
            if !self.has_room_for_input_of(slot) {
                self.paused.push_back(key);
                continue;
            }
            if let Some(slot) = self.conns.get_mut(key) {
                slot.conn.paused = false;
            }
            self.release_held(key);
            // What was held may have brought about that it must wait again.
            if self.conns.get(key).is_some_and(|slot| !slot.conn.paused) {
                self.resumed.push(key);
            }
        }
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
        let Some(Slot { conn, client, .. }) = self.conns.get_mut(key) else { return };
        let expires = client.as_ref().map_or(Time::NEVER, |client| client.expires);
        if client.as_ref().is_some_and(|client| client.session.is_some()) {
            return self.session_due(key);
        }
        if expires <= self.now {
            return self.fail(key, CloseCode::Policy, "your token has expired", CloseReason::Expired);
        }
        if interval.is_zero() {
            return;
        }
        if conn.pinged {
            self.fail(key, CloseCode::Away, "no answer to a ping", CloseReason::Silent);
        } else if self.now.since(conn.heard) < interval / 2 {
            let next = conn.heard + jittered(&mut self.rng, interval);
            self.wheel.set(key.index(), next.min(expires));
        } else {
            conn.pinged = true;
            ws::frame_into(conn.outbox.bytes(), ws::Opcode::Ping, &[]);
            self.wheel.set(key.index(), (self.now + self.options.pong_timeout).min(expires));
            self.flush_later(key);
        }
    }

    /// A new client's id.
    fn new_client_id(&mut self) -> ClientId {
        let (high, low) = (self.rng.next_u64(), self.rng.next_u64());
        ClientId::from_random(u128::from(high) << 64 | u128::from(low))
    }

    fn unix_ms(&self) -> u64 {
        self.unix_origin_ms + self.now.as_nanos() / 1_000_000
    }
}

/// How soon a shard looks again at what could not go on, when nothing else wakes it.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Between half of `interval` and the whole: what many began in one moment spreads out over time.
fn jittered(rng: &mut Rng, interval: Duration) -> Duration {
    let half = u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX);
    Duration::from_nanos(half + rng.below(half))
}
