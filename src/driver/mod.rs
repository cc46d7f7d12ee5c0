//! What runs a shard: one loop, over one of three kernel interfaces.
//!
//! | file | purpose |
//! |---|---|
//! | `event_loop`, `context` | the loop: accept, read, run, write, close, sleep; with what it has beside its sockets |
//! | `sockets`, `slots` | what a kernel interface must offer, and the table of sockets |
//! | [`epoll`] | sockets on epoll: works everywhere |
//! | [`uring`] | sockets in the tables of io_uring: many operations with one call |
//! | `sim` | sockets without a kernel, clock or thread: the simulator runs the loop that production runs |
//! | `host`, `backend` | the process around a loop, and what production puts there |
//!
//! # The contract with the shard
//!
//! The order of a turn, and how writes and closes are answered, stand on [`crate::shard`]'s page. For input:
//!
//! - [`received`](crate::shard::Shard::received) takes **all** bytes that it is given, and keeps what it
//!   cannot use yet. A driver holds no input back.
//! - While [`may_read`](crate::shard::Shard::may_read) is false for a connection, the loop does not read from
//!   it: on epoll it makes no call, on the ring it cancels the receive. What completes all the same is handed
//!   to `received`. When reading may go on, [`poll_resume`](crate::shard::Shard::poll_resume) names the
//!   connection.
//! - [`ended`](crate::shard::Shard::ended) and [`broken`](crate::shard::Shard::broken) may follow `received`
//!   at once, in the same turn; the shard orders them behind what it has kept.
//! - An end, or an error, that the kernel reports together with the last bytes is passed on in the same turn
//!   as these.
//! - [`opened`](crate::shard::Shard::opened) gets the peer's address in its canonical form (an IPv4 address
//!   that is mapped into IPv6 is IPv4), and 0.0.0.0 when it cannot be found out: such connections share one
//!   bound.
//! - A loop with nothing to do sleeps until [`next_deadline`](crate::shard::Shard::next_deadline): a shard
//!   that names a time that has passed makes it spin.

#[cfg(feature = "edges")]
mod backend;
mod context;
#[cfg(feature = "edges")]
pub mod epoll;
#[cfg_attr(not(feature = "edges"), allow(dead_code, reason = "the simulation needs less than a kernel does"))]
mod event_loop;
#[cfg_attr(not(feature = "edges"), allow(dead_code, reason = "the simulation needs less than a kernel does"))]
mod host;
#[cfg_attr(not(feature = "edges"), allow(dead_code, reason = "the simulation needs less than a kernel does"))]
mod passing;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg_attr(not(feature = "edges"), allow(dead_code, reason = "the simulation needs less than a kernel does"))]
mod slots;
#[cfg_attr(not(feature = "edges"), allow(dead_code, reason = "the simulation needs less than a kernel does"))]
mod sockets;
#[cfg(feature = "edges")]
pub mod uring;

#[cfg(feature = "edges")]
pub use backend::{IoBackend, Parts, Passages, Rebuild, RepeatedPanic, Waker};

use std::sync::Arc;
use std::time::Duration;

use crate::base::SessionKey;
use crate::chat::{AuthDecision, AuthRequest};
use crate::shard::{Options, PeerEnds};

/// Sends auth requests to the auth backend. The answer is [`Control::AuthDecided`]; sending must not block.
pub type AuthSender = Box<dyn FnMut(AuthCommand) + Send>;

/// A message to the auth backend's client.
#[derive(Debug)]
pub enum AuthCommand {
    /// Decide about this client.
    Request(AuthRequest),
    /// The client of this session is gone: there need be no answer.
    Cancel(SessionKey),
}

/// A control message of the process to a shard's driver.
#[derive(Debug)]
pub enum Control {
    /// New options.
    Reload(Arc<Options>),
    /// Close all connections, and only answer new ones: health checks and metrics as ever, everything else
    /// with 503. When none is left the process is notified; the loop ends with [`Control::Stop`], or when the
    /// time is up.
    Drain {
        /// How long the connections may take.
        timeout: Duration,
        /// Whether new connections are left to the kernel's queue instead, because another process goes on
        /// listening on the sockets.
        close_listeners: bool,
    },
    /// The auth backend's decision about a client.
    AuthDecided(SessionKey, AuthDecision),
    /// New rings to a shard that was built anew.
    Peer(Box<PeerEnds>),
    /// End now.
    Stop,
}
