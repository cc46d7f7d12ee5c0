//! Counters, gauges and histograms, and their exposition in Prometheus' text format.
//!
//! Each shard writes only its own block, with plain loads and stores; a scrape sums the blocks. A block is
//! aligned so that no two shards share a cache line.

mod exposition;
mod labels;
mod markdown;

pub use labels::{CloseReason, ERROR_CODES, REFUSALS};
pub use markdown::families_table;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A number that one shard writes and any thread reads.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds, as the only writer.
    pub fn add(&self, n: u64) {
        // Not `fetch_add`: with one writer a load and a store are enough, and cost no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts, as the only writer.
    pub fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Replaces a part of the value, as the only writer.
    pub fn replace(&self, before: usize, after: usize) {
        self.add((after as u64).wrapping_sub(before as u64));
    }

    /// Replaces the value, as the only writer.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histograms' buckets, in microseconds: powers of two from 16 µs to 8 s.
const BUCKETS: usize = 20;
const FIRST_BUCKET_US: u64 = 16;

/// Durations in buckets whose bounds double.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative here; the scrape adds them up. The last one is the overflow.
    buckets: [Cell; BUCKETS + 1],
    sum_ns: Cell,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (micros / FIRST_BUCKET_US).checked_ilog2().map_or(0, |log| log as usize + 1);
        self.buckets[bucket.min(BUCKETS)].add(1);
        self.sum_ns.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// So many numbers. (Arrays of more than 32 have no default.)
#[derive(Debug)]
pub struct Cells<const N: usize>([Cell; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

impl<const N: usize> std::ops::Deref for Cells<N> {
    type Target = [Cell];

    fn deref(&self) -> &[Cell] {
        &self.0
    }
}

/// One shard's block.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections accepted.
    pub accepted: Cell,
    /// Connections open now, without the surplus ones.
    pub connections: Cell,
    /// Connections that are open only to be answered: above `max_connections`, or since a drain began.
    pub surplus: Cell,
    /// Of these, the WebSocket connections.
    pub websockets: Cell,
    /// Streams of HTTP that are open.
    pub streams: Cell,
    /// Requests that wait for their answers: long polls, and streams that are about to begin.
    pub waiting_requests: Cell,
    /// Members of rooms whose home is this shard that poll.
    pub leases: Cell,
    /// SockJS sessions over HTTP.
    pub outlets: Cell,
    /// Idempotency keys that are kept.
    pub idempotency_keys: Cell,
    /// Rooms with members on this shard.
    pub rooms: Cell,
    /// Members of rooms.
    pub members: Cell,
    /// Messages that clients published in rooms.
    pub messages_received: Cell,
    /// Publications that this shard, as their room's home, has ordered.
    pub publications: Cell,
    /// Frames handed to the kernel whole, each for one member.
    pub deliveries: Cell,
    /// Publications that slow members skipped.
    pub skipped: Cell,
    /// Bytes of the histories of all rooms.
    pub history_bytes: Cell,
    /// Publications evicted from histories because of `history_memory`.
    pub evicted: Cell,
    /// Rooms whose home is this shard.
    pub homes: Cell,
    /// Drafts delayed at their room's home because a shard was behind.
    pub delayed: Cell,
    /// Bytes of drafts parked until earlier drafts of their room are completed.
    pub parked_bytes: Cell,
    /// Subscriptions recovered without a gap.
    pub recovered: Cell,
    /// Subscriptions whose missed publications were no longer available.
    pub unrecovered: Cell,
    /// Bytes read.
    pub received_bytes: Cell,
    /// Bytes written.
    pub sent_bytes: Cell,
    /// Calls to the kernel that wrote something.
    pub writes: Cell,
    /// Members with pending publications whose socket is full.
    pub lagging: Cell,
    /// Times that reading from a client paused because a room or a ring was full.
    pub pauses: Cell,
    /// Times that accepting paused for lack of descriptors.
    pub accept_pauses: Cell,
    /// HTTP responses, without upgrades.
    pub requests: Cell,
    /// Connections that went to another shard, where their sessions are.
    pub moves: Cell,
    /// Wake-ups that this shard sent to others.
    pub wakes: Cell,
    /// Times that this shard panicked and was replaced.
    pub panics: Cell,
    /// Closes, by [`CloseReason`].
    pub closes: [Cell; CloseReason::ALL.len()],
    /// Requests refused, by [`REFUSALS`].
    pub refusals: Cells<{ REFUSALS.len() }>,
    /// Error replies sent to clients, by [`ERROR_CODES`]; the last: with another code.
    pub errors: [Cell; ERROR_CODES.len() + 1],
    /// One turn of the loop, without the sleep.
    pub turn: Histogram,
    /// Time from the beginning of the turn that brought a publication to the end of the turn in which the
    /// last member on this shard was offered it.
    pub fanout: Histogram,
}

impl ShardMetrics {
    /// Counts an error reply.
    pub fn count_error(&self, code: u16) {
        let index = ERROR_CODES.iter().position(|&known| known == code).unwrap_or(ERROR_CODES.len());
        self.errors[index].add(1);
    }

    /// Counts a refused request.
    pub fn count_refusal(&self, status: u16, cause: &str) {
        let index = REFUSALS.iter().position(|&known| known == (status, cause));
        debug_assert!(index.is_some(), "{status} {cause} is no row of the table");
        if let Some(index) = index {
            self.refusals[index].add(1);
        }
    }

    /// The shard panicked: its gauges are reset.
    pub fn shard_failed(&self) {
        self.panics.add(1);
        let closed = self.connections.value() + self.surplus.value();
        self.closes[CloseReason::ShardPanic as usize].add(closed);
        let gauges = [
            &self.connections,
            &self.surplus,
            &self.websockets,
            &self.streams,
            &self.waiting_requests,
            &self.leases,
            &self.outlets,
            &self.idempotency_keys,
            &self.rooms,
            &self.members,
            &self.lagging,
            &self.history_bytes,
            &self.homes,
            &self.parked_bytes,
        ];
        for gauge in gauges {
            gauge.set(0);
        }
    }
}

/// The operating system's figures of this process, as Prometheus' client libraries name them.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ProcessStats {
    /// User and system time, of all threads.
    pub cpu: Duration,
    /// Bytes of memory in RAM.
    pub resident_memory_bytes: u64,
    /// Bytes of address space.
    pub virtual_memory_bytes: u64,
    /// Descriptors that are open.
    pub open_fds: u64,
    /// The limit on them; `None`: there is none.
    pub max_fds: Option<u64>,
    /// When the process began, since the Unix epoch.
    pub start_time: Duration,
}

/// Reloads of the configuration.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Those that were applied.
    succeeded: AtomicU64,
    /// Those that were refused.
    failed: AtomicU64,
    /// Whether the last one was refused.
    last_failed: AtomicBool,
    /// When the configuration in force was read, in seconds of Unix time; 0: not yet.
    applied_at_s: AtomicU64,
}

impl Reloads {
    /// The configuration was read at the start, `at` since the Unix epoch.
    pub fn started(&self, at: Duration) {
        self.applied_at_s.store(at.as_secs(), Ordering::Relaxed);
    }

    /// A reload was applied, `at` since the Unix epoch.
    pub fn succeeded(&self, at: Duration) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(false, Ordering::Relaxed);
        self.started(at);
    }

    /// A reload was refused: nothing has changed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(true, Ordering::Relaxed);
    }
}

/// All blocks of a process, and facts that every shard reports.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Arc<ShardMetrics>]>,
    ready: AtomicBool,
    /// `max_connections`, resolved; [`u64::MAX`]: none.
    connections_max: AtomicU64,
    /// Reloads of the configuration.
    pub reloads: Reloads,
    /// Asks the operating system; the core cannot.
    process: OnceLock<fn() -> ProcessStats>,
}

impl Registry {
    /// For `shards` shards; not ready yet.
    pub fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            ready: AtomicBool::new(false),
            connections_max: AtomicU64::new(u64::MAX),
            reloads: Reloads::default(),
            process: OnceLock::new(),
        }
    }

    /// The block of one shard.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn shard(&self, id: usize) -> Arc<ShardMetrics> {
        Arc::clone(&self.shards[id])
    }

    /// Whether the server accepts clients: from the start until the drain.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Turns `/readyz` on or off.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Sets what `stentor_connections_limit` reports.
    pub fn set_connections_max(&self, max: u64) {
        self.connections_max.store(max, Ordering::Relaxed);
    }

    /// Has `/metrics` report the process too, with the figures that `stats` returns at each scrape.
    pub fn set_process(&self, stats: fn() -> ProcessStats) {
        let _ = self.process.set(stats);
    }

    /// How many requests were refused so far, in all shards, by [`REFUSALS`].
    pub fn refusals(&self) -> [u64; REFUSALS.len()] {
        std::array::from_fn(|index| self.sum(|shard| &shard.refusals[index]))
    }

    /// Connections open now, in all shards, without the surplus ones.
    pub fn connections(&self) -> u64 {
        self.sum(|shard| &shard.connections)
    }

    fn sum(&self, pick: impl Fn(&ShardMetrics) -> &Cell) -> u64 {
        self.shards.iter().map(|shard| pick(shard).value()).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_their_bounds_hold() {
        let registry = Registry::new(1);
        let turn = &registry.shard(0).turn;
        for micros in [0, 15, 16, 31, 32, 5_000_000, 60_000_000] {
            turn.observe(Duration::from_micros(micros));
        }
        let page = registry.exposition();
        for line in [
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000016\"} 2",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000032\"} 4",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000064\"} 5",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"8.388608\"} 6",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"+Inf\"} 7",
            "stentor_turn_duration_seconds_sum{shard=\"0\"} 65.000094",
            "stentor_turn_duration_seconds_count{shard=\"0\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn reasons_stand_at_their_discriminants() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(index, reason as usize);
        }
    }

    #[test]
    fn refusals_are_counted_by_status_and_cause() {
        let registry = Registry::new(2);
        registry.shard(0).count_refusal(403, "origin");
        registry.shard(1).count_refusal(403, "origin");
        let line = "stentor_http_refusals_total{status=\"403\",cause=\"origin\"} 2";
        assert!(registry.exposition().lines().any(|found| found == line));
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<ShardMetrics>() % 128, 0);
    }
}
