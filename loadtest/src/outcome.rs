//! What a run has found, before anything is computed from it.

use std::collections::BTreeMap;

use crate::message::End;
use crate::tally::Tally;

/// One second of a run, of all workers together.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// What was counted.
    pub tally: Tally,
    /// Clients that are in at its end.
    pub connected: u32,
    /// The server's CPU in this second, in nanoseconds, and its memory at its end, in bytes.
    pub server: Option<(u64, u64)>,
}

/// The server's process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// CPU that it has used since it began, in nanoseconds.
    pub cpu_ns: u64,
    /// Its resident memory, in bytes.
    pub memory: u64,
}

/// All that a run has found.
#[derive(Debug)]
pub struct Outcome {
    /// Second by second, from the begin of the run.
    pub seconds: BTreeMap<u64, Second>,
    /// Clients that were in when the talk ended.
    pub connected: u32,
    /// How long it took to come in, in nanoseconds.
    pub gathered_ns: u64,
    /// How long they talked, in nanoseconds.
    pub talked_ns: u64,
    /// Messages that nobody has heard.
    pub unheard: u64,
    /// What each worker knew at its end.
    pub ends: Vec<End>,
    /// The server before the first client, when all were in, and when they had spoken.
    pub server: Option<[Sample; 3]>,
    /// It was ended by the user.
    pub interrupted: bool,
}
