//! What runs a shard: sockets, a clock, a thread. The contract is on [`crate::shard`]'s page.
//!
//! There are two ways to ask the kernel, and the same core on both: [`epoll`] works everywhere; [`uring`] holds the sockets in
//! tables of its own and hands over many operations with one call.

#[cfg(feature = "edges")]
mod engine;
#[cfg(feature = "edges")]
pub mod epoll;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "edges")]
pub mod uring;

#[cfg(feature = "edges")]
pub use engine::{Engine, Parts, Waker};

use std::sync::Arc;
use std::time::Duration;

use crate::base::ConnKey;
use crate::chat::{Question, Verdict};
use crate::shard::Options;

/// Takes a question to somebody outside. The answer comes back as [`Control::Decided`]; taking it must not take time.
pub type Ask = Box<dyn FnMut(Question) + Send>;

/// What the process tells a shard's driver.
#[derive(Debug)]
pub enum Control {
    /// New options.
    Reload(Arc<Options>),
    /// Accept nothing more, close everybody, end when nobody is left or the time is up.
    Drain(Duration),
    /// What somebody outside says of a client.
    Decided(ConnKey, Verdict),
    /// End now.
    Stop,
}
