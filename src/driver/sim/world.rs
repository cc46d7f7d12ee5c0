//! Shards with their sockets: what a driver is, without a kernel. Everything happens when it is told to, in one thread.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use super::network::{End, Outcome, Pipe, index_below, one_in};
use super::scenario::Faults;
use crate::base::hash::Seed;
use crate::base::rng::Rng;
use crate::base::{ConnKey, Time};
use crate::chat::{Question, Verdict};
use crate::metrics::Registry;
use crate::shard::{Admission, Close, HowToClose, Mesh, Options, SLICES_MAX, Shard, Ticket};

/// How long accepting pauses at the bound on connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The wall clock at the beginning, in milliseconds of Unix time.
const UNIX_ORIGIN_MS: u64 = 1_700_000_000_000;

/// Shards, and every connection that was ever made to them.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    pipes: Vec<Pipe>,
    registry: Arc<Registry>,
    now: Time,
    rng: Rng,
    faults: Faults,
    /// Connections on which something has reached the client.
    news: Vec<usize>,
    /// The server's buffer for reads.
    buffer: Vec<u8>,
}

/// A shard and its driver's part.
#[derive(Debug)]
struct Node {
    shard: Shard,
    /// The connection in each slot.
    slots: Vec<Option<usize>>,
    /// Connections that wait to be accepted.
    backlog: VecDeque<usize>,
    accept_again: Option<Time>,
    /// What the kernel has to tell.
    edges: Vec<Edge>,
    /// Connections that may have bytes for us.
    readable: VecDeque<usize>,
    /// What somebody outside has said of clients.
    verdicts: Vec<(ConnKey, Verdict)>,
}

/// Something that has become possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    Readable(usize),
    Writable(usize),
}

/// What a turn has brought.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Whether anything has moved.
    pub moved: bool,
    /// Whether the shard wants its next turn at once.
    pub busy: bool,
    /// When it wants to be woken even if nothing happens.
    pub deadline: Option<Time>,
    /// The shards that it has woken.
    pub woken: Vec<usize>,
    /// What it asks somebody outside.
    pub questions: Vec<Question>,
}

impl World {
    /// Shards without connections, whose rooms and jitter come from `seed`.
    pub fn new(shards: usize, seed: u64, faults: Faults, options: Options) -> Self {
        let registry = Arc::new(Registry::new(shards));
        registry.set_ready(true);
        let options = Arc::new(options);
        let meshes = Mesh::build_with(shards, &Seed::new(seed), faults.rings);
        let nodes = Shard::fleet(meshes, &options, &registry, || seed).into_iter().map(|shard| Node {
            shard,
            slots: Vec::new(),
            backlog: VecDeque::new(),
            accept_again: None,
            edges: Vec::new(),
            readable: VecDeque::new(),
            verdicts: Vec::new(),
        });
        Self {
            nodes: nodes.collect(),
            pipes: Vec::new(),
            registry,
            now: Time::ZERO,
            rng: Rng::new(seed ^ 0x776f_726c_6400),
            faults,
            news: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// The time that the next turns are told.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Moves the clock on; it never goes back.
    pub fn set_now(&mut self, now: Time) {
        debug_assert!(self.now <= now);
        self.now = now;
    }

    /// The counters of all shards.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.nodes.len()
    }

    /// A shard.
    pub fn shard(&self, id: usize) -> &Shard {
        &self.nodes[id].shard
    }

    /// A shard, to be drained or given other options.
    pub fn shard_mut(&mut self, id: usize) -> &mut Shard {
        &mut self.nodes[id].shard
    }

    /// A connection, by its number.
    pub fn pipe(&self, pipe: usize) -> &Pipe {
        &self.pipes[pipe]
    }

    /// Every connection that was ever made.
    pub fn pipes(&self) -> &[Pipe] {
        &self.pipes
    }

    /// What may happen.
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// From now on no fault happens but those that the connections' own state brings.
    pub fn calm_down(&mut self) {
        self.faults = Faults { rings: self.faults.rings, ..Faults::default() };
    }

    /// A client connects to `shard`, with room for `capacity` bytes that it has not read.
    pub fn connect(&mut self, shard: usize, capacity: usize) -> usize {
        let pipe = self.pipes.len();
        self.pipes.push(Pipe::new(shard, capacity));
        self.nodes[shard].backlog.push_back(pipe);
        pipe
    }

    /// A client sends.
    pub fn send(&mut self, pipe: usize, bytes: &[u8]) {
        let Pipe { shard, to_server, end: None, closed: None, .. } = &mut self.pipes[pipe] else { return };
        to_server.extend(bytes);
        self.nodes[*shard].edges.push(Edge::Readable(pipe));
    }

    /// A client ends its connection.
    pub fn end(&mut self, pipe: usize, end: End) {
        let it = &mut self.pipes[pipe];
        if !it.is_open() {
            return;
        }
        it.end = Some(end);
        if end == End::Reset {
            it.to_server.clear();
            it.to_client.clear();
        }
        let edges = &mut self.nodes[it.shard].edges;
        edges.push(Edge::Readable(pipe));
        if end == End::Reset {
            // What is written now fails at once, so a full socket takes it (EPOLLOUT beside EPOLLHUP).
            edges.push(Edge::Writable(pipe));
        }
    }

    /// A client reads at most `bytes_max` bytes, which are appended to `out`.
    pub fn read(&mut self, pipe: usize, out: &mut Vec<u8>, bytes_max: usize) {
        let it = &mut self.pipes[pipe];
        if out.is_empty() && it.to_client.len() <= bytes_max {
            std::mem::swap(out, &mut it.to_client);
        } else {
            out.extend(it.to_client.drain(..bytes_max.min(it.to_client.len())));
        }
        self.relieve(pipe);
    }

    /// Somebody outside has decided about a connection of `shard`: it will hear of it in its next turn.
    pub fn decide(&mut self, shard: usize, conn: ConnKey, verdict: Verdict) {
        self.nodes[shard].verdicts.push((conn, verdict));
    }

    /// Changes how much a client lets wait.
    pub fn set_capacity(&mut self, pipe: usize, capacity: usize) {
        self.pipes[pipe].capacity = capacity;
        self.relieve(pipe);
    }

    /// Tells the server of a socket that has room again, if it waits for that. Whether it did.
    pub fn relieve(&mut self, pipe: usize) -> bool {
        let it = &mut self.pipes[pipe];
        let room = it.to_client.len() < it.capacity && it.closed.is_none();
        if !room || !std::mem::take(&mut it.starved) {
            return false;
        }
        self.nodes[it.shard].edges.push(Edge::Writable(pipe));
        true
    }

    /// The connections on which something has reached the client since the last call; some more than once.
    pub fn take_news(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.news)
    }

    /// Whether the kernel has something to tell a shard.
    pub fn has_edges(&self, shard: usize) -> bool {
        let node = &self.nodes[shard];
        !node.edges.is_empty() || (!node.backlog.is_empty() && node.accept_again.is_none())
    }

    /// One turn of a shard, as `driver::epoll` has it.
    pub fn turn(&mut self, id: usize) -> Turn {
        let mut turn = Turn::default();
        let node = &mut self.nodes[id];
        node.shard.awake();
        node.shard.begin_turn(self.now);
        node.shard.tell_wall_clock(UNIX_ORIGIN_MS + self.now.as_nanos() / 1_000_000);
        for (conn, verdict) in node.verdicts.drain(..) {
            turn.moved = true;
            node.shard.decided(conn, verdict);
        }
        turn.moved |= self.dispatch(id);
        turn.moved |= self.accept_some(id);
        turn.moved |= self.read_some(id);
        let shard = &mut self.nodes[id].shard;
        shard.run();
        turn.questions.extend(std::iter::from_fn(|| shard.poll_question()));
        turn.moved |= self.write_all(id);
        turn.moved |= self.close_all(id);
        let node = &mut self.nodes[id];
        while let Some(key) = node.shard.poll_resume() {
            turn.moved = true;
            if let Some(pipe) = node.slots.get(key.index()).copied().flatten()
                && self.pipes[pipe].key == Some(key)
            {
                queue_read(&mut node.readable, &mut self.pipes, pipe);
            }
        }
        turn.woken.extend(std::iter::from_fn(|| node.shard.poll_wake()));
        node.shard.end_turn(Duration::from_micros(1));
        let accepting = !node.backlog.is_empty() && node.accept_again.is_none();
        turn.busy = accepting
            || !node.edges.is_empty()
            || !node.readable.is_empty()
            || node.shard.has_work()
            || !node.shard.may_sleep();
        turn.deadline = [node.shard.next_deadline(), node.accept_again].into_iter().flatten().min();
        turn
    }

    fn dispatch(&mut self, id: usize) -> bool {
        let node = &mut self.nodes[id];
        let mut edges = std::mem::take(&mut node.edges);
        if self.faults.reorder {
            for index in 1..edges.len() {
                edges.swap(index, index_below(&mut self.rng, index + 1));
            }
        }
        if one_in(&mut self.rng, self.faults.spurious_one_in) && !node.slots.is_empty() {
            // epoll(7) may report what is no longer so, or what nobody waits for.
            let slot = index_below(&mut self.rng, node.slots.len());
            edges.extend(node.slots[slot].map(Edge::Readable));
        }
        let told = !edges.is_empty();
        for edge in edges {
            let (Edge::Readable(pipe) | Edge::Writable(pipe)) = edge;
            let Some(key) = self.pipes[pipe].key.filter(|_| self.pipes[pipe].closed.is_none()) else {
                continue; // not accepted yet, or gone
            };
            match edge {
                Edge::Writable(_) => node.shard.writable(key),
                Edge::Readable(_) => queue_read(&mut node.readable, &mut self.pipes, pipe),
            }
        }
        told
    }

    fn accept_some(&mut self, id: usize) -> bool {
        let mut moved = false;
        if self.nodes[id].accept_again.is_some_and(|again| self.now < again) {
            return false;
        }
        self.nodes[id].accept_again = None;
        for _ in 0..self.faults.accepts_per_turn {
            if self.nodes[id].backlog.is_empty() {
                break;
            }
            let admission = self.nodes[id].shard.admission();
            if admission == Admission::Later {
                self.nodes[id].accept_again = Some(self.now + ACCEPT_PAUSE);
                self.nodes[id].shard.accept_paused();
                break;
            }
            moved = true;
            // What was closed in this turn must have left its slot before it is given away.
            self.close_all(id);
            let node = &mut self.nodes[id];
            let Some(pipe) = node.backlog.pop_front() else { break };
            let key = node.shard.opened(admission, None);
            if key.index() >= node.slots.len() {
                node.slots.resize(key.index() + 1, None);
            }
            assert_eq!(node.slots[key.index()], None, "a slot is given away twice");
            node.slots[key.index()] = Some(pipe);
            let it = &mut self.pipes[pipe];
            (it.key, it.opened, it.heard) = (Some(key), self.now, self.now);
            queue_read(&mut node.readable, &mut self.pipes, pipe);
        }
        moved
    }

    fn read_some(&mut self, id: usize) -> bool {
        let mut moved = false;
        for _ in 0..self.faults.reads_per_turn.min(self.nodes[id].readable.len()) {
            let node = &mut self.nodes[id];
            let Some(pipe) = node.readable.pop_front() else { break };
            let it = &mut self.pipes[pipe];
            it.queued = false;
            let Some(key) = it.key.filter(|_| it.closed.is_none()) else { continue };
            if !node.shard.may_read(key) {
                continue;
            }
            if it.to_server.is_empty() {
                match it.end {
                    None => continue,
                    Some(End::Fin) => node.shard.ended(key),
                    Some(End::Reset) => node.shard.broken(key),
                }
            } else {
                let len = it.to_server.len().min(1 + index_below(&mut self.rng, self.faults.read_bytes_max));
                self.buffer.clear();
                self.buffer.extend(it.to_server.drain(..len));
                it.silence = it.silence.max(self.now.since(it.heard));
                it.heard = self.now;
                node.shard.received(key, &mut self.buffer);
                if !it.to_server.is_empty() || it.end.is_some() {
                    queue_read(&mut node.readable, &mut self.pipes, pipe);
                }
            }
            moved = true;
        }
        moved
    }

    fn write_all(&mut self, id: usize) -> bool {
        let mut moved = false;
        let Node { shard, slots, .. } = &mut self.nodes[id];
        let mut under_way: Vec<(Ticket, usize, Outcome)> = Vec::new();
        loop {
            // One, as epoll's are, or several at a time, as a ring has them.
            for _ in 0..=index_below(&mut self.rng, self.faults.writes_at_once) {
                let Some(write) = shard.poll_write() else { break };
                let pipe = slots.get(write.conn).copied().flatten();
                let pipe = pipe.expect("a write to a connection that is open");
                assert!(under_way.iter().all(|&(_, other, _)| other != pipe), "two writes to one connection");
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = write.gather(&mut slices);
                if let Some(contiguous) = write.contiguous() {
                    assert!(count == 1 && *contiguous == *slices[0], "a write's two forms differ");
                }
                let outcome = self.pipes[pipe].write(&slices[..count], &self.faults, &mut self.rng);
                self.news.push(pipe);
                under_way.push((write.ticket, pipe, outcome));
            }
            if under_way.is_empty() {
                return moved;
            }
            moved = true;
            while !under_way.is_empty() {
                let which = index_below(&mut self.rng, under_way.len());
                match under_way.swap_remove(which) {
                    (ticket, _, Outcome::Took(len, offered)) => shard.wrote(ticket, len, offered),
                    (ticket, _, Outcome::Full) => shard.refused(ticket),
                    (ticket, _, Outcome::Broken) => shard.write_failed(ticket),
                }
            }
        }
    }

    fn close_all(&mut self, id: usize) -> bool {
        let mut moved = false;
        let Node { shard, slots, .. } = &mut self.nodes[id];
        while let Some(Close { key, how, reason, .. }) = shard.poll_close() {
            moved = true;
            let pipe = slot_of(slots, &self.pipes, key).expect("a connection that is closed once");
            self.news.push(pipe);
            if how == HowToClose::Shutdown {
                self.pipes[pipe].shut = true;
                continue;
            }
            self.pipes[pipe].closed = Some(reason);
            slots[key.index()] = None;
            shard.closed(key);
        }
        moved
    }

    /// Turns of every shard until nothing moves any more, with the clock standing still.
    ///
    /// # Panics
    /// When it never ends.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let mut moved = false;
            for id in 0..self.nodes.len() {
                let turn = self.turn(id);
                moved |= turn.moved || turn.busy;
            }
            if !moved && self.nodes.iter().all(|node| node.shard.audit().mesh_waiting == 0) {
                return;
            }
        }
        panic!("it never settles");
    }
}

fn slot_of(slots: &[Option<usize>], pipes: &[Pipe], key: ConnKey) -> Option<usize> {
    slots.get(key.index()).copied().flatten().filter(|&pipe| pipes[pipe].key == Some(key))
}

fn queue_read(readable: &mut VecDeque<usize>, pipes: &mut [Pipe], pipe: usize) {
    if !std::mem::replace(&mut pipes[pipe].queued, true) {
        readable.push_back(pipe);
    }
}
