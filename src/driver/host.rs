//! What the loop needs of the process around it: its clock, its other threads, its log.

use super::Control;
use crate::base::{ConnKey, Time};
use crate::chat::Question;
use crate::metrics::CloseReason;

/// The process around a loop; or the simulation of one.
pub(super) trait Host {
    /// The time, as the shard counts it.
    fn now(&self) -> Time;

    /// Milliseconds of Unix time.
    fn unix_ms(&self) -> u64;

    /// The next thing that the process has to say.
    fn next_control(&mut self) -> Option<Control>;

    /// Wakes another shard.
    fn wake(&mut self, shard: usize);

    /// Takes a question to the auth backend. The answer comes as [`Control::Decided`].
    fn ask(&mut self, question: Question);

    /// Takes a question back: its client is gone.
    fn withdraw(&mut self, conn: ConnKey);

    /// Notes that accepting pauses.
    fn accepting_paused(&mut self, now: Time, why: &str);

    /// Notes that a connection was closed.
    fn connection_closed(&mut self, name: &str, reason: CloseReason);
}
