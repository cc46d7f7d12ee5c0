//! Shards with their sockets: what a driver is, without a kernel. Every step is a call, in one thread.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Late, LateEngine};
use super::kernel::{Kernel, SimHost, SimSockets, unix_ms};
use super::network::{End, Pipe, one_in};
use super::scenario::Faults;
use crate::base::hash::Seed;
use crate::base::{SessionKey, Time};
use crate::chat::{AuthDecision, AuthRequest, Body};
use crate::driver::Control;
use crate::driver::context::Due;
use crate::driver::event_loop::Loop;
use crate::engine::{Engine, Memory, PublishOutcome};
use crate::metrics::Registry;
use crate::shard::{ConnectionLimits, Mesh, Options, Shard};

/// Shards, and every connection that was ever made to them.
pub struct World {
    /// Each shard in its loop, the same that production runs.
    loops: Vec<Loop<SimSockets, SimHost>>,
    kernel: Kernel,
    registry: Arc<Registry>,
    /// The shards' engines, if they are not those in memory; and which of them orders which room.
    engines: Vec<LateEngine>,
    seed: Seed,
}

/// Longer than any simulation goes on after a drain has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a turn has brought.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Whether anything has moved.
    pub moved: bool,
    /// Whether the shard needs its next turn at once.
    pub busy: bool,
    /// When it must be woken even if nothing happens.
    pub deadline: Option<Time>,
    /// The shards that it has woken.
    pub woken: Vec<usize>,
    /// Its auth requests.
    pub auth_requests: Vec<AuthRequest>,
}

impl World {
    /// Shards without connections, whose rooms and jitter come from `seed`. `late_engines`: how their engines
    /// behave, if they are not those in memory.
    pub fn new(
        shards: usize,
        seed: u64,
        faults: Faults,
        late_engines: Option<Late>,
        options: Options,
    ) -> Self {
        let registry = Arc::new(Registry::new(shards));
        registry.set_ready(true);
        let options = Arc::new(options);
        let hashes = Seed::new(seed);
        let limits = ConnectionLimits::new(&hashes);
        let late = |late| {
            (0..shards as u64).map(move |id| LateEngine::new(late, seed ^ 0x656e_6769_6e65 ^ id << 48))
        };
        let engines: Vec<_> = late_engines.into_iter().flat_map(late).collect();
        let shard = |(id, mesh): (usize, Mesh)| {
            let engine: Box<dyn Engine> = match engines.get(id) {
                Some(engine) => Box::new(engine.clone()),
                None => Box::new(Memory::default()),
            };
            let (options, registry) = (Arc::clone(&options), Arc::clone(&registry));
            let shard = Shard::new(mesh, limits.clone(), engine, options, registry, seed);
            Loop::new(SimSockets::new(id), shard, SimHost::default())
        };
        let meshes = Mesh::build_with(shards, &hashes, faults.rings);
        let loops = meshes.into_iter().enumerate().map(shard).collect();
        let kernel = Kernel::new(seed ^ 0x776f_726c_6400, faults);
        Self { loops, kernel, registry, engines, seed: hashes }
    }

    /// Whether an engine has an event planned.
    pub fn engine_waits(&self) -> bool {
        self.engines.iter().any(LateEngine::is_waiting)
    }

    /// What the engines have declined since the last call, and how.
    pub fn take_declined(&self) -> Vec<(Body, PublishOutcome)> {
        self.engines.iter().flat_map(LateEngine::take_declined).collect()
    }

    /// Which shard orders `room`.
    pub fn home(&self, room: &str) -> usize {
        self.seed.home(room, self.loops.len())
    }

    /// Another node publishes a text. False: there is no other, or the room has never been open here.
    pub fn publish_elsewhere(&self, room: &str, text: String) -> bool {
        let now = self.kernel.now;
        let engine = self.engines.get(self.home(room));
        engine.is_some_and(|engine| engine.publish_elsewhere(room, text, now, unix_ms(now)))
    }

    /// The time of the next turns.
    pub const fn now(&self) -> Time {
        self.kernel.now
    }

    /// Moves the clock on; it never goes back.
    pub fn set_now(&mut self, now: Time) {
        debug_assert!(self.kernel.now <= now);
        self.kernel.now = now;
    }

    /// The counters of all shards.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.loops.len()
    }

    /// A shard.
    pub fn shard(&self, id: usize) -> &Shard {
        self.loops[id].shard()
    }

    /// A shard, to be given other options.
    pub fn shard_mut(&mut self, id: usize) -> &mut Shard {
        self.loops[id].shard_mut()
    }

    /// Drains a shard, which learns of it in its next turn.
    pub fn drain(&mut self, id: usize) {
        let drain = Control::Drain { timeout: DRAIN_TIMEOUT, close_listeners: false };
        self.loops[id].host_mut().controls.push_back(drain);
    }

    /// Whether a drained shard has closed all that it had to, and its process knows.
    pub fn is_drained(&mut self, id: usize) -> bool {
        let drained = self.loops[id].shard().is_drained();
        assert_eq!(self.loops[id].host_mut().drained, drained, "the process of shard {id} waits for nothing");
        drained
    }

    /// A connection, by its number.
    pub fn pipe(&self, pipe: usize) -> &Pipe {
        &self.kernel.pipes[pipe]
    }

    /// Every connection that was ever made.
    pub fn pipes(&self) -> &[Pipe] {
        &self.kernel.pipes
    }

    /// What may happen.
    pub const fn faults(&self) -> &Faults {
        &self.kernel.faults
    }

    /// From now on no fault happens but those that the connections' own state brings.
    pub fn calm_down(&mut self) {
        self.kernel.faults = Faults {
            rings: self.kernel.faults.rings,
            completes: self.kernel.faults.completes,
            ..Faults::default()
        };
    }

    /// A client connects to `shard`, with room for `capacity` bytes that it has not read.
    pub fn connect(&mut self, shard: usize, capacity: usize) -> usize {
        let pipe = self.kernel.pipes.len();
        self.kernel.pipes.push(Pipe::new(shard, capacity));
        self.loops[shard].sockets_mut().backlog.push_back(pipe);
        pipe
    }

    /// A client sends.
    pub fn send(&mut self, pipe: usize, bytes: &[u8]) {
        let it = &mut self.kernel.pipes[pipe];
        if it.end.is_none() && it.closed.is_none() {
            it.to_server.extend(bytes);
            self.mark_ready(pipe);
        }
    }

    /// A client ends its connection.
    pub fn end(&mut self, pipe: usize, end: End) {
        let it = &mut self.kernel.pipes[pipe];
        if !it.is_open() {
            return;
        }
        it.end = Some(end);
        if end == End::Reset {
            // What had arrived may still be read (tcp_recvmsg takes the queue before the error), or is lost
            // in flight.
            if one_in(&mut self.kernel.rng, 2) {
                it.to_server.clear();
            }
            it.to_client.clear();
        }
        self.mark_ready(pipe);
    }

    /// A client reads at most `bytes_max` bytes, which are appended to `out`.
    pub fn read(&mut self, pipe: usize, out: &mut Vec<u8>, bytes_max: usize) {
        let it = &mut self.kernel.pipes[pipe];
        if out.is_empty() && it.to_client.len() <= bytes_max {
            std::mem::swap(out, &mut it.to_client);
        } else {
            out.extend(it.to_client.drain(..bytes_max.min(it.to_client.len())));
        }
        self.relieve(pipe);
    }

    /// The auth backend decides about a session of `shard`, which learns of it in its next turn.
    pub fn decide(&mut self, shard: usize, session: SessionKey, decision: AuthDecision) {
        self.loops[shard].host_mut().controls.push_back(Control::AuthDecided(session, decision));
    }

    /// Changes how much a client lets wait.
    pub fn set_capacity(&mut self, pipe: usize, capacity: usize) {
        self.kernel.pipes[pipe].capacity = capacity;
        self.relieve(pipe);
    }

    /// Reports to the server that a socket is writable again, if it waits for that. Whether it did.
    pub fn relieve(&mut self, pipe: usize) -> bool {
        let it = &mut self.kernel.pipes[pipe];
        let room = it.to_client.len() < it.capacity && it.closed.is_none();
        if !room || !std::mem::take(&mut it.starved) {
            return false;
        }
        self.mark_ready(pipe);
        true
    }

    /// The connections on which something has reached the client since the last call; some more than once.
    pub fn take_news(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.kernel.news)
    }

    /// Whether the kernel has an event for a shard.
    pub fn has_edges(&self, shard: usize) -> bool {
        let it = &self.loops[shard];
        it.has_connection() || it.sockets().has_edges() || !it.host().arrivals.is_empty()
    }

    fn mark_ready(&mut self, pipe: usize) {
        let shard = self.kernel.pipes[pipe].shard;
        self.loops[shard].sockets_mut().mark_ready(&mut self.kernel.pipes, pipe);
    }

    /// One turn of a shard: of the loop that production runs, which is lent the kernel for it.
    ///
    /// # Panics
    /// When the shard breaks an invariant.
    pub fn turn(&mut self, id: usize) -> Turn {
        let it = &mut self.loops[id];
        it.host_mut().now = self.kernel.now;
        self.kernel.moved = !it.host_mut().controls.is_empty();
        std::mem::swap(&mut it.sockets_mut().kernel, &mut self.kernel);
        let outcome = it.turn(Some(Duration::ZERO));
        std::mem::swap(&mut it.sockets_mut().kernel, &mut self.kernel);
        let _ = outcome.expect("no call fails");
        let closed = std::mem::take(&mut it.sockets_mut().closed);
        for (pipe, reason) in closed.into_iter().zip(it.host_mut().closed.drain(..)) {
            self.kernel.pipes[pipe].closed = Some(reason);
        }
        self.kernel.moved |= self.engines.get(id).is_some_and(LateEngine::has_published);
        let due = it.due();
        for (shard, passing) in std::mem::take(&mut it.host_mut().passed) {
            self.loops[shard].host_mut().arrivals.push_back(passing);
        }
        let it = &mut self.loops[id];
        let host = it.host_mut();
        Turn {
            moved: self.kernel.moved,
            woken: std::mem::take(&mut host.woken),
            auth_requests: std::mem::take(&mut host.auth_requests),
            busy: due == Due::Now || it.sockets_mut().has_edges(),
            deadline: match due {
                Due::At(time) => Some(time),
                Due::Now | Due::Never => None,
            },
        }
    }

    /// Turns of every shard until nothing moves any more, with the clock standing still.
    ///
    /// # Panics
    /// When it never ends.
    pub fn run_until_idle(&mut self) {
        for _ in 0..1_000_000 {
            let mut moved = false;
            for id in 0..self.loops.len() {
                let turn = self.turn(id);
                moved |= turn.moved || turn.busy;
            }
            if !moved && self.loops.iter().all(|it| it.shard().audit().mesh_waiting == 0) {
                return;
            }
        }
        panic!("it never becomes idle");
    }
}
