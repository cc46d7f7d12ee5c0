//! What runs a shard: sockets, a clock, a thread. The contract is on [`crate::shard`]'s page.

pub mod epoll;

use std::sync::Arc;
use std::time::Duration;

use crate::shard::Options;

/// What the process tells a shard's driver.
#[derive(Debug)]
pub enum Control {
    /// New options.
    Reload(Arc<Options>),
    /// Accept nothing more, close everybody, end when nobody is left or the time is up.
    Drain(Duration),
    /// End now.
    Stop,
}
