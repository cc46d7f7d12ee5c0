//! The shard: one core's whole world. It holds the parts (connections, sessions, the homes of rooms, the
//! fan-out, the mesh), carries the messages between them, and keeps the budget of a turn. It has no rules of
//! its own.
//!
//! ```text
//! bytes ── connection ── session ── mesh ── home ── engine
//!                                              │
//! bytes ── connection ── fan-out ── mesh ── encodings
//! ```
//!
//! # The contract with a driver
//!
//! A shard does no I/O and knows no clock. A driver owns the sockets, indexed by [`ConnKey::index`], and
//! repeats one *turn*:
//!
//! 1. [`Shard::begin_turn`] with the time;
//! 2. every input of the wake-up: [`opened`](Shard::opened), [`received`](Shard::received) (after
//!    [`may_read`](Shard::may_read)), [`ended`](Shard::ended), [`broken`](Shard::broken),
//!    [`writable`](Shard::writable), then [`run`](Shard::run) for the mesh and the timers;
//! 3. every output until `None`: [`poll_write`](Shard::poll_write), one or several at a time, each answered
//!    with [`wrote`](Shard::wrote), [`refused`](Shard::refused) or [`write_failed`](Shard::write_failed);
//!    [`poll_close`](Shard::poll_close), each answered with [`closed`](Shard::closed) unless it only shuts
//!    the sending side; [`poll_resume`](Shard::poll_resume); [`poll_wake`](Shard::poll_wake);
//! 4. sleep, unless [`Shard::has_work`], until [`Shard::next_deadline`].
//!
//! `received` borrows the driver's buffer and is done with it when it returns, always with all of it: what
//! cannot be used yet is kept with the connection, once, as it came over the wire. `ended` and `broken` may
//! follow it at once. A short write means that the socket is full and that the driver will report `writable`
//! once it is not. No method calls back.
//!
//! | file | what it carries |
//! |---|---|
//! | `admission` | connections that are served, and those that are only answered |
//! | `input` | bytes to requests and messages, and those to sessions |
//! | `requests`, `refusals` | HTTP requests and their responses; those that are refused, for the log |
//! | `http`, `content` | the other kinds of requests, and how they are answered; their content |
//! | `plain`, `publish` | the plain protocol over HTTP: streams, long polls; messages published by request |
//! | `emulation` | the Centrifuge protocol over streams, and commands that come by request |
//! | `effects` | effects of connections and sessions on the other parts |
//! | `exchange` | messages of the mesh, to homes, sessions and the fan-out |
//! | `output` | bytes for the kernel, and connections to be closed |
//! | `sockjs` | SockJS: its paths, and sessions that have a connection now and then |
//! | `moving` | connections that go to another shard |
//! | `slow` | the slow-consumer policy |
//! | `timers` | what is due, and the drain |
//! | `repair` | the losses after another shard was rebuilt |
//! | `fanout`, `rooms`, `mesh`, `limits` | the parts that are the shard's alone |

#![forbid(unsafe_code)]

mod admission;
mod audit;
mod content;
mod effects;
mod emulation;
mod exchange;
pub mod fanout;
mod http;
mod input;
mod limits;
pub mod mesh;
pub mod messages;
mod moving;
mod output;
mod plain;
mod publish;
mod refusals;
mod repair;
mod replacement;
mod requests;
pub mod rooms;
mod slow;
mod sockjs;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use crate::conn::CloseMethod;
pub use admission::{Admission, OVER_LIMIT_MAX};
pub use audit::Audit;
pub use limits::ConnectionLimits;
pub use messages::{Mesh, PeerEnds};
pub use moving::Moved;
pub use output::{Close, SLICES_MAX, Write, WriteId};
pub use refusals::Refusal;

use crate::app::Encoder;
use crate::base::rng::Rng;
use crate::base::timer_wheel::TimerWheel;
use crate::base::{AudienceId, ConnKey, SessionKey, Table, Time};
use crate::chat::{AuthDecision, AuthRequest, ClientId};
use crate::conn::Conn;
use crate::engine::{Engine, Memory, ReplyTo};
use crate::metrics::{Registry, ShardMetrics};
pub use crate::options::Options;
use crate::room::{self, Homes};
use crate::session::{Budget, Context, Effects, Session};
use crate::ws::Inflater;
use fanout::{Backlog, Fanout};
use limits::PeerAddress;
use output::Deferred;
use rooms::Rooms;
use sockjs::Outlets;

/// Bytes of its own that may wait in a connection before its input waits.
const OUTBOX_PAUSE_BYTES: usize = 64 * 1024;

/// What a shard keeps for one connection.
#[derive(Debug)]
struct Slot {
    conn: Conn,
    /// The session behind it, once its WebSocket is open to one and as long as it is.
    session: Option<SessionKey>,
    /// Where it comes from, if that matters, what its client was called when its session ended, and what of
    /// HTTP is in progress on it.
    details: Option<Box<Details>>,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Details {
    peer: Option<PeerAddress>,
    name: Option<Arc<str>>,
    /// What is in progress of HTTP.
    http: Option<Box<http::Http>>,
}

impl Slot {
    fn http(&self) -> Option<&http::Http> {
        self.details.as_ref()?.http.as_deref()
    }

    fn http_mut(&mut self) -> Option<&mut http::Http> {
        self.details.as_mut()?.http.as_deref_mut()
    }

    fn http_or_new(&mut self) -> &mut http::Http {
        self.details.get_or_insert_default().http.get_or_insert_default()
    }
}

/// A count of members that is in flight on all shards.
#[derive(Debug)]
struct Counting {
    reply_to: ReplyTo,
    /// Shards that have not answered yet.
    missing: usize,
    sum: Backlog,
}

/// One core's whole world. See the module's page for how it is driven.
#[derive(Debug)]
pub struct Shard {
    now: Time,
    /// Unix time at the origin of this shard's time, in milliseconds.
    unix_origin_ms: u64,
    options: Arc<Options>,
    registry: Arc<Registry>,
    metrics: Arc<ShardMetrics>,
    limits: ConnectionLimits,
    rng: Rng,
    budget: Budget,
    // The parts.
    conns: Table<ConnKey, Slot>,
    sessions: Table<SessionKey, Session>,
    homes: Homes,
    rooms: Rooms,
    fanout: Fanout,
    mesh: Mesh,
    encoder: Encoder,
    inflater: Inflater,
    wheel: TimerWheel,
    /// What the session that was last called does; empty between calls.
    effects: Effects,
    // The next one.
    /// Connections with bytes of their own to send.
    flush: VecDeque<ConnKey>,
    /// Writes of connections' own bytes that are left in this turn.
    flushes_left: usize,
    /// Connections whose input may go on.
    ready: VecDeque<ConnKey>,
    resumed: Vec<ConnKey>,
    closing: VecDeque<(ConnKey, CloseMethod)>,
    /// Writes that the driver has not answered yet.
    writes_in_flight: usize,
    /// Connections with a write in flight that could have a second one, as their sessions are in several
    /// rooms.
    in_flight: Vec<ConnKey>,
    /// What waits for them to be answered.
    deferred: Vec<(ConnKey, Deferred)>,
    /// Surplus connections.
    over_limit: u64,
    /// The slot at which the drain goes on, once it has begun.
    draining: Option<usize>,
    nameless: Arc<str>,
    /// Audiences with publications for polls.
    polls_due: VecDeque<AudienceId>,
    /// Connections that go to other shards, and to which.
    moves: VecDeque<(ConnKey, usize)>,
    /// What the sessions of SockJS over HTTP have for their clients.
    outlets: Outlets,
    /// Sessions to which something was relayed, or which may take what waits.
    relays_ready: VecDeque<SessionKey>,
    /// Requests refused in this turn.
    refusals: VecDeque<Refusal>,
    countings: Vec<Counting>,
    auth_requests: VecDeque<AuthRequest>,
    /// Sessions that have ended, and whose auth requests the driver has.
    cancelled: Vec<SessionKey>,
}

impl Shard {
    /// A shard without connections, whose rooms are ordered by `engine`. `entropy` seeds its jitter and its
    /// rooms' epochs.
    pub fn new(
        mesh: Mesh,
        limits: ConnectionLimits,
        engine: Box<dyn Engine>,
        options: Arc<Options>,
        registry: Arc<Registry>,
        entropy: u64,
    ) -> Self {
        let mut rng = Rng::new(entropy);
        let shards = mesh.shards();
        let outlets = Outlets::new(mesh.seed());
        Self {
            now: Time::ZERO,
            unix_origin_ms: 0,
            metrics: registry.shard(mesh.me()),
            registry,
            limits,
            budget: Budget::TURN,
            conns: Table::default(),
            sessions: Table::default(),
            homes: Homes::new(engine, home_limits(&options, shards), mesh.seed(), rng.next_u64()),
            rooms: Rooms::new(mesh.seed()),
            fanout: Fanout::default(),
            encoder: Encoder::new(options.deflate_bytes_min),
            inflater: Inflater::default(),
            wheel: TimerWheel::default(),
            effects: Effects::default(),
            rng,
            options,
            mesh,
            flush: VecDeque::new(),
            flushes_left: 0,
            ready: VecDeque::new(),
            resumed: Vec::new(),
            closing: VecDeque::new(),
            writes_in_flight: 0,
            in_flight: Vec::new(),
            deferred: Vec::new(),
            over_limit: 0,
            draining: None,
            nameless: Arc::from(""),
            polls_due: VecDeque::new(),
            moves: VecDeque::new(),
            outlets,
            relays_ready: VecDeque::new(),
            refusals: VecDeque::new(),
            countings: Vec::new(),
            auth_requests: VecDeque::new(),
            cancelled: Vec::new(),
        }
    }

    /// All shards of a process, whose rooms are ordered in memory. `entropy` gives random numbers.
    pub fn fleet(
        meshes: Vec<Mesh>,
        limits: &ConnectionLimits,
        options: &Arc<Options>,
        registry: &Arc<Registry>,
        mut entropy: impl FnMut() -> u64,
    ) -> Vec<Self> {
        let shard = |mesh: Mesh| {
            let engine = Box::new(Memory::default());
            Self::new(mesh, limits.clone(), engine, Arc::clone(options), Arc::clone(registry), entropy())
        };
        meshes.into_iter().map(shard).collect()
    }

    /// Replaces the options; they hold for all later input, and the pings and the rooms' options for every
    /// client.
    pub fn reconfigure(&mut self, now: Time, options: Arc<Options>) {
        self.now = self.now.max(now);
        let pings_change = options.ping_interval != self.options.ping_interval;
        self.encoder.deflate_bytes_min = options.deflate_bytes_min;
        self.homes.reconfigure(home_limits(&options, self.mesh.shards()));
        self.rooms.reconfigure(&options.rooms, options.congestion_bytes(), &mut self.fanout);
        self.options = options;
        let keys: Vec<_> = self.conns.keys().collect();
        for key in keys {
            self.with_session(key, |session, ctx| session.reconfigured(ctx, pings_change));
            if pings_change {
                self.renew_pings(key);
            }
        }
    }

    /// Begins to close every connection (1001), some each turn. New ones are only answered from now on:
    /// health checks and metrics as ever, everything else with 503.
    pub const fn drain(&mut self) {
        if self.draining.is_none() {
            self.draining = Some(0);
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Begins a turn at `now`, which never goes back.
    pub fn begin_turn(&mut self, now: Time) {
        debug_assert_eq!(self.writes_in_flight, 0, "a write was not answered");
        self.now = self.now.max(now);
        self.budget = Budget::TURN;
        self.flushes_left = output::FLUSHES_PER_TURN;
        self.refusals.clear();
        self.fanout.begin_slice(self.now);
        self.mesh.begin_turn();
    }

    /// The wall clock, for time stamps in messages; everything else goes by the shard's own time.
    pub fn set_wall_clock(&mut self, unix_ms: u64) {
        self.unix_origin_ms = unix_ms.saturating_sub(self.now.as_nanos() / 1_000_000);
    }

    /// Takes in what other shards have sent, and lets the timers, the drain and the input that waited go on.
    pub fn run(&mut self) {
        self.exchange();
        self.expire();
        self.homes.tick(self.now);
        self.drain_some();
        self.take_ready();
        self.take_relayed();
        self.exchange();
        self.answer_polls();
        self.deliver_some();
        self.count_homes();
    }

    /// The next auth request; [`Shard::decided`] takes the answer, at any time.
    pub fn poll_auth_request(&mut self) -> Option<AuthRequest> {
        self.auth_requests.pop_front()
    }

    /// The next session whose auth request is cancelled: its client is gone, or going.
    pub fn poll_auth_cancellation(&mut self) -> Option<SessionKey> {
        self.cancelled.pop()
    }

    /// What the auth backend has decided about the client of a session. If it is gone, nothing happens.
    pub fn decided(&mut self, session: SessionKey, decision: AuthDecision) {
        self.call_session(session, |session, ctx| session.decided(ctx, decision));
    }

    /// The connection of a session, if it has one of its own.
    pub fn connection_of(&self, session: SessionKey) -> Option<ConnKey> {
        self.sessions.get(session)?.conn
    }

    /// The driver stops accepting for a while.
    pub fn accept_paused(&self) {
        self.metrics.accept_pauses.add(1);
    }

    /// Ends a turn, which took `elapsed`.
    pub fn end_turn(&mut self, elapsed: Duration) {
        self.metrics.turn.observe(elapsed);
        // Passes are timed from turn to turn, without a look at the clock of their own: what was published
        // and offered to all in one turn took as long as that turn.
        for pass in self.fanout.take_timed() {
            self.metrics.fanout.observe(pass + elapsed);
        }
    }

    /// Whether there is something to do before any further input.
    pub fn has_work(&self) -> bool {
        self.fanout.has_work()
            || !self.flush.is_empty()
            || !self.resumed.is_empty()
            || !self.closing.is_empty()
            || !self.moves.is_empty()
            || !self.auth_requests.is_empty()
            || !self.cancelled.is_empty()
            || !self.deferred.is_empty()
            || !self.polls_due.is_empty()
            || self.outlets.has_work()
            || self.mesh.has_own()
            || self.homes.has_output()
            || (!(self.ready.is_empty() && self.relays_ready.is_empty()) && self.mesh.is_clear())
            || self.draining.is_some_and(|next| next < self.conns.slots())
    }

    /// When to begin a turn even without input.
    pub fn next_deadline(&self) -> Option<Time> {
        // What waits for room in another shard's ring is looked at again soon.
        let soon = (!self.mesh.is_clear()).then(|| self.now + RING_RETRY_INTERVAL);
        let timers = [self.wheel.next_deadline(), self.outlets.next_deadline()];
        let all = [self.fanout.next_deadline(), soon, self.homes.next_deadline()];
        timers.into_iter().chain(all).flatten().min()
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
        // What was swept in this turn is reported in it: there may be no other soon.
        self.acknowledge_swept();
        let shard = self.mesh.poll_wake()?;
        self.metrics.wakes.add(1);
        Some(shard)
    }

    /// The next connection that may be read from again.
    pub fn poll_resume(&mut self) -> Option<ConnKey> {
        self.resumed.pop()
    }

    /// Calls the session of a connection, if it has one, and carries out what it does.
    fn with_session<R>(
        &mut self,
        key: ConnKey,
        call: impl FnOnce(&mut Session, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let session = self.conns.get(key)?.session?;
        self.call_session(session, call)
    }

    /// Calls a session, and carries out what it does.
    fn call_session<R>(
        &mut self,
        key: SessionKey,
        call: impl FnOnce(&mut Session, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let session = self.sessions.get_mut(key)?;
        let result = call(
            session,
            &mut Context {
                now: self.now,
                shard: self.mesh.me(),
                options: &self.options,
                users: self.limits.users(),
                seed: self.mesh.seed(),
                rng: &mut self.rng,
                budget: &mut self.budget,
                effects: &mut self.effects,
            },
        );
        self.apply_effects(key);
        Some(result)
    }

    /// A new client's id.
    fn new_client_id(&mut self) -> ClientId {
        let (high, low) = (self.rng.next_u64(), self.rng.next_u64());
        ClientId::new(self.mesh.me(), u128::from(high) << 64 | u128::from(low))
    }

    const fn unix_ms(&self) -> u64 {
        self.unix_origin_ms + self.now.as_nanos() / 1_000_000
    }
}

/// How soon a shard looks again at what waits for room in a ring, when nothing else wakes it.
const RING_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// The limits of the homes on one of `shards` shards.
fn home_limits(options: &Options, shards: usize) -> room::Limits {
    room::Limits {
        rules: Arc::clone(&options.rooms),
        congestion_bytes: options.congestion_bytes(),
        history_bytes_max: options.history_total_bytes_max / shards as u64,
    }
}
