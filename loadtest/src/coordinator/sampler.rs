//! Samples of the server's processes: once a second, and at the moments that metrics need.

use crate::process::Usage;

/// The server's processes, if any are given.
pub struct Sampler {
    pids: Vec<u32>,
    /// The last sample, and its second.
    last: Option<(u64, Usage)>,
}

impl Sampler {
    /// Follows the processes `pids` and their children; none: there are no samples.
    pub const fn new(pids: Vec<u32>) -> Self {
        Self { pids, last: None }
    }

    /// A sample now.
    ///
    /// # Errors
    /// One sentence: there is no such process.
    pub fn sample(&self) -> Result<Option<Usage>, String> {
        if self.pids.is_empty() { Ok(None) } else { Usage::of_trees(&self.pids).map(Some) }
    }

    /// If `second` is new: the CPU since the second of the last sample, that second, and the memory now.
    pub fn each_second(&mut self, second: u64) -> Option<(u64, (u64, u64))> {
        if self.last.is_some_and(|(last, _)| last == second) {
            return None;
        }
        let sample = self.sample().ok()??;
        let (last, before) = self.last.replace((second, sample))?;
        Some((last, (sample.cpu_ns.saturating_sub(before.cpu_ns), sample.memory)))
    }
}
