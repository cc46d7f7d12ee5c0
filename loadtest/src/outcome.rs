//! The raw measurements of a run, before metrics are computed.

use std::collections::BTreeMap;

use crate::message::WorkerSummary;
use crate::process::Usage;
use crate::stats::Stats;

/// One second of a run, all workers together.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// The counters of this second.
    pub stats: Stats,
    /// Connected clients at its end.
    pub connected: u32,
    /// The server's CPU in this second, in nanoseconds, and its memory at the end, in bytes.
    pub server: Option<(u64, u64)>,
}

/// What the server's processes have used, at four moments.
#[derive(Clone, Copy, Debug)]
pub struct ServerUsage {
    /// Before the first client.
    pub before: Usage,
    /// When the clients were connected.
    pub connected: Usage,
    /// After the warm-up.
    pub measured: Usage,
    /// When publishing had ended.
    pub finished: Usage,
}

/// The measurements of a run.
#[derive(Debug)]
pub struct Outcome {
    /// By second, from the start of the run.
    pub seconds: BTreeMap<u64, Second>,
    /// Connected clients at the start of the first stage, if all should have been connected then.
    pub connected_at_start: Option<u32>,
    /// Connected clients at the end.
    pub connected: u32,
    /// Duration of the connect phase, in nanoseconds.
    pub connect_ns: u64,
    /// Handshakes in it.
    pub connect_handshakes: u64,
    /// Duration of publishing, in nanoseconds.
    pub running_ns: u64,
    /// Handshakes in it.
    pub running_handshakes: u64,
    /// From the start of the run to the end of the last second, in nanoseconds.
    pub ended_ns: u64,
    /// Messages that no client received.
    pub undelivered: u64,
    /// The final reports of the workers.
    pub workers: Vec<WorkerSummary>,
    /// The server's usage, with `--server-pid`.
    pub server: Option<ServerUsage>,
    /// Whether the user interrupted the run.
    pub interrupted: bool,
}
