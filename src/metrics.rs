//! Counters, gauges and histograms, and their exposition in Prometheus' text format.
//!
//! Each shard writes only its own block, with plain loads and stores; a scrape sums the blocks. A block is
//! aligned so that no two shards share a cache line.

mod markdown;

pub use markdown::families_table;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Why a connection ended: the `reason` of `stentor_connections_closed_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer began the closing handshake and had its answer.
    ClosedByPeer,
    /// The stream ended, or broke, without a closing handshake.
    Disconnected,
    /// The peer broke RFC 6455 or 7692.
    ProtocolError,
    /// A message over the bound.
    MessageTooBig,
    /// Data of a kind that the endpoint does not take.
    UnsupportedData,
    /// No answer to a ping.
    PingTimeout,
    /// A member that read too slowly for its room.
    SlowConsumer,
    /// The server is going away.
    Shutdown,
    /// The request head took too long, or a kept-alive connection had no further request.
    RequestTimeout,
    /// The request was refused.
    RequestRejected,
    /// An HTTP exchange that ended as it should.
    RequestComplete,
    /// The client is not authorized, or no longer.
    Unauthorized,
    /// Its token has expired, or was not sent in time.
    Expired,
    /// It exceeded a rate limit repeatedly.
    RateLimited,
    /// Its shard panicked.
    ShardPanic,
}

impl CloseReason {
    /// Every reason, in the order of its discriminant.
    pub const ALL: [Self; 15] = [
        Self::ClosedByPeer,
        Self::Disconnected,
        Self::ProtocolError,
        Self::MessageTooBig,
        Self::UnsupportedData,
        Self::PingTimeout,
        Self::SlowConsumer,
        Self::Shutdown,
        Self::RequestTimeout,
        Self::RequestRejected,
        Self::RequestComplete,
        Self::Unauthorized,
        Self::Expired,
        Self::RateLimited,
        Self::ShardPanic,
    ];

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClosedByPeer => "closed_by_peer",
            Self::Disconnected => "disconnected",
            Self::ProtocolError => "protocol_error",
            Self::MessageTooBig => "message_too_big",
            Self::UnsupportedData => "unsupported_data",
            Self::PingTimeout => "ping_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::Shutdown => "shutdown",
            Self::RequestTimeout => "request_timeout",
            Self::RequestRejected => "request_rejected",
            Self::RequestComplete => "request_complete",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "expired",
            Self::RateLimited => "rate_limited",
            Self::ShardPanic => "shard_panic",
        }
    }
}

/// The protocol's error codes: the `code` of `stentor_errors_total`. An auth backend may send others, which
/// are counted together.
pub const ERROR_CODES: [u16; 10] = [100, 103, 104, 105, 106, 107, 108, 109, 111, 112];

/// One shard's block.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections accepted.
    pub accepted: Cell,
    /// Connections open now.
    pub connections: Cell,
    /// Of these, the WebSocket connections.
    pub websockets: Cell,
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
    /// Wake-ups that this shard sent to others.
    pub wakes: Cell,
    /// Times that this shard panicked and was replaced.
    pub panics: Cell,
    /// Closes, by [`CloseReason`].
    pub closes: [Cell; CloseReason::ALL.len()],
    /// Error replies sent to clients, by [`ERROR_CODES`]; the last: with another code.
    pub errors: [Cell; ERROR_CODES.len() + 1],
    /// One turn of the loop, without the sleep.
    pub turn: Histogram,
    /// Time from a publication until it has been offered to every member on this shard.
    pub fanout: Histogram,
}

impl ShardMetrics {
    /// Counts an error reply.
    pub fn count_error(&self, code: u16) {
        let index = ERROR_CODES.iter().position(|&known| known == code).unwrap_or(ERROR_CODES.len());
        self.errors[index].add(1);
    }

    /// The shard panicked: its gauges are reset.
    pub fn shard_failed(&self) {
        self.panics.add(1);
        self.closes[CloseReason::ShardPanic as usize].add(self.connections.value());
        let gauges = [
            &self.connections,
            &self.websockets,
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

/// All blocks of a process, and facts that every shard reports.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Arc<ShardMetrics>]>,
    ready: AtomicBool,
}

impl Registry {
    /// For `shards` shards; not ready yet.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Arc::default()).collect(), ready: AtomicBool::new(false) }
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

    /// Connections open now, in all shards.
    pub fn connections(&self) -> u64 {
        self.sum(|shard| &shard.connections)
    }

    fn sum(&self, pick: impl Fn(&ShardMetrics) -> &Cell) -> u64 {
        self.shards.iter().map(|shard| pick(shard).value()).fold(0, u64::wrapping_add)
    }

    /// The page at `/metrics` (Prometheus text format 0.0.4).
    pub fn exposition(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        self.render(&mut page);
        page
    }

    fn render(&self, page: &mut String) {
        let _ =
            writeln!(page, "# HELP stentor_build_info The running version.\n# TYPE stentor_build_info gauge");
        let _ = writeln!(page, "stentor_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        self.total(page, "ready", "gauge", "1 while the server accepts clients.", u64::from(self.is_ready()));
        for (name, kind, help, pick) in FAMILIES {
            family(page, name, kind, help);
            for (id, shard) in self.shards.iter().enumerate() {
                let _ = writeln!(page, "stentor_{name}{{shard=\"{id}\"}} {}", pick(shard).value());
            }
        }
        family(page, "connections_closed_total", "counter", "Connections closed, by reason.");
        for reason in CloseReason::ALL {
            let count = self.sum(|shard| &shard.closes[reason as usize]);
            let _ =
                writeln!(page, "stentor_connections_closed_total{{reason=\"{}\"}} {count}", reason.label());
        }
        family(page, "errors_total", "counter", "Error replies sent to clients, by code.");
        let codes = ERROR_CODES.iter().map(u16::to_string).chain(["other".to_owned()]);
        for (index, code) in codes.enumerate() {
            let count = self.sum(|shard| &shard.errors[index]);
            let _ = writeln!(page, "stentor_errors_total{{code=\"{code}\"}} {count}");
        }
        self.histogram(
            page,
            "turn_duration_seconds",
            "One turn of an event loop, without its sleep.",
            |shard| &shard.turn,
        );
        self.histogram(
            page,
            "fanout_duration_seconds",
            "Time from a publication until it is offered to its last member on the shard (sampled).",
            |shard| &shard.fanout,
        );
    }

    #[expect(clippy::unused_self, reason = "reads as one family among the others")]
    fn total(&self, page: &mut String, name: &str, kind: &str, help: &str, value: u64) {
        family(page, name, kind, help);
        let _ = writeln!(page, "stentor_{name} {value}");
    }

    fn histogram(
        &self,
        page: &mut String,
        name: &str,
        help: &str,
        pick: impl Fn(&ShardMetrics) -> &Histogram,
    ) {
        family(page, name, "histogram", help);
        for (id, shard) in self.shards.iter().enumerate() {
            let histogram = pick(shard);
            let mut count = 0;
            for (bucket, cell) in histogram.buckets.iter().enumerate() {
                count += cell.value();
                let bound = match bucket {
                    BUCKETS => "+Inf".to_owned(),
                    _ => seconds((FIRST_BUCKET_US << bucket) * 1000),
                };
                let _ = writeln!(page, "stentor_{name}_bucket{{shard=\"{id}\",le=\"{bound}\"}} {count}");
            }
            let sum = seconds(histogram.sum_ns.value());
            let _ = writeln!(page, "stentor_{name}_sum{{shard=\"{id}\"}} {sum}");
            let _ = writeln!(page, "stentor_{name}_count{{shard=\"{id}\"}} {count}");
        }
    }
}

type Pick = fn(&ShardMetrics) -> &Cell;

/// Every plain family: name without prefix, type, help, where it is.
const FAMILIES: [(&str, &str, &str, Pick); 25] = [
    ("connections_accepted_total", "counter", "Connections accepted.", |s| &s.accepted),
    ("connections", "gauge", "Connections open now.", |s| &s.connections),
    ("websocket_connections", "gauge", "Open WebSocket connections.", |s| &s.websockets),
    ("rooms", "gauge", "Rooms with members on the shard.", |s| &s.rooms),
    ("members", "gauge", "Members of rooms.", |s| &s.members),
    ("messages_received_total", "counter", "Messages received for rooms.", |s| &s.messages_received),
    ("publications_total", "counter", "Publications ordered by the shard.", |s| &s.publications),
    ("deliveries_total", "counter", "Publications written completely to a member's socket.", |s| {
        &s.deliveries
    }),
    ("publications_skipped_total", "counter", "Publications skipped by slow members.", |s| &s.skipped),
    ("history_bytes", "gauge", "Bytes of publications kept in the histories of rooms.", |s| &s.history_bytes),
    (
        "history_evictions_total",
        "counter",
        "Publications evicted from histories because of history_memory.",
        |s| &s.evicted,
    ),
    ("home_rooms", "gauge", "Rooms whose home is the shard, with or without members.", |s| &s.homes),
    (
        "publications_delayed_total",
        "counter",
        "Messages delayed at their room's home because a shard was behind.",
        |s| &s.delayed,
    ),
    (
        "publications_parked_bytes",
        "gauge",
        "Bytes of messages parked behind earlier ones of their room.",
        |s| &s.parked_bytes,
    ),
    ("recoveries_succeeded_total", "counter", "Subscriptions recovered without a gap.", |s| &s.recovered),
    ("recoveries_failed_total", "counter", "Subscriptions that could not be recovered.", |s| &s.unrecovered),
    ("received_bytes_total", "counter", "Bytes read from clients.", |s| &s.received_bytes),
    ("sent_bytes_total", "counter", "Bytes written to clients.", |s| &s.sent_bytes),
    ("socket_writes_total", "counter", "System calls and ring operations that wrote to clients.", |s| {
        &s.writes
    }),
    ("lagging_members", "gauge", "Members with pending publications whose socket is full.", |s| &s.lagging),
    ("read_pauses_total", "counter", "Times reading from a client paused because a room was full.", |s| {
        &s.pauses
    }),
    ("accept_pauses_total", "counter", "Times accepting paused for lack of descriptors.", |s| {
        &s.accept_pauses
    }),
    ("http_requests_total", "counter", "HTTP responses, without upgrades.", |s| &s.requests),
    ("shard_panics_total", "counter", "Shard panics.", |s| &s.panics),
    ("mesh_wakeups_total", "counter", "Wake-ups sent to other shards.", |s| &s.wakes),
];

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP stentor_{name} {help}\n# TYPE stentor_{name} {kind}");
}

/// Nanoseconds as a decimal number of seconds, without the detour over floating point.
fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
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
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000016000\"} 2",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000032000\"} 4",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"0.000064000\"} 5",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"8.388608000\"} 6",
            "stentor_turn_duration_seconds_bucket{shard=\"0\",le=\"+Inf\"} 7",
            "stentor_turn_duration_seconds_sum{shard=\"0\"} 65.000094000",
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
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<ShardMetrics>() % 128, 0);
    }
}
