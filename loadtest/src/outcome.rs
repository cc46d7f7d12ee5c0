//! The raw measurements of a run, before metrics are computed.

use std::collections::BTreeMap;

use crate::message::WorkerSummary;
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

/// A sample of the server's process.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// CPU used since the process started, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory, in bytes.
    pub memory: u64,
}

/// The measurements of a run.
#[derive(Debug)]
pub struct Outcome {
    /// By second, from the start of the run.
    pub seconds: BTreeMap<u64, Second>,
    /// Connected clients when publishing ended.
    pub connected: u32,
    /// Duration of the connect phase, in nanoseconds.
    pub connect_ns: u64,
    /// Duration of publishing, in nanoseconds.
    pub running_ns: u64,
    /// Messages that no client received.
    pub undelivered: u64,
    /// The final reports of the workers.
    pub workers: Vec<WorkerSummary>,
    /// Samples of the server: before the first client, after the connect phase, after publishing.
    pub server: Option<[Sample; 3]>,
    /// Whether the user interrupted the run.
    pub interrupted: bool,
}
