//! What the loop needs of the process around it: its clock, its other threads, its log.

use core::net::IpAddr;
use std::io;

use super::Control;
use super::passing::Passing;
use crate::base::{SessionKey, Time};
use crate::chat::AuthRequest;
use crate::metrics::CloseReason;
use crate::shard::{Refusal, Shard};

/// Why connections are not accepted, or only to be refused.
#[derive(Debug)]
pub(super) enum AcceptProblem {
    /// As many are open as may be: further ones get 503.
    LimitReached,
    /// The kernel has no descriptor or no memory for one.
    Shortage(io::Error),
    /// The ring's table has no room.
    TableFull,
}

/// The replacement of a shard that has panicked.
pub(super) enum Replacement {
    /// Another one, without connections.
    Shard(Box<Shard>),
    /// Nothing: the panic goes on.
    None,
    /// Nothing, and the process is to end with this error.
    End(io::Error),
}

/// The process around a loop; or the simulation of one.
pub(super) trait Host {
    /// A socket between two loops.
    type Carrier;

    /// The time, as the shard counts it.
    fn now(&self) -> Time;

    /// Milliseconds of Unix time.
    fn unix_ms(&self) -> u64;

    /// The next control message of the process.
    fn next_control(&mut self) -> Option<Control>;

    /// Wakes another shard.
    fn wake(&mut self, shard: usize);

    /// Passes a connection on to another shard; `Err`: too many are in flight there.
    fn pass(&mut self, shard: usize, passing: Passing<Self::Carrier>) -> Result<(), Passing<Self::Carrier>>;

    /// The next connection that another shard has passed on.
    fn next_arrival(&mut self) -> Option<Passing<Self::Carrier>>;

    /// Sends an auth request to the auth backend. The answer comes as [`Control::AuthDecided`].
    fn request_auth(&mut self, auth_request: AuthRequest);

    /// Cancels an auth request: its client is gone.
    fn cancel_auth(&mut self, session: SessionKey);

    /// Notes that a connection cannot be served.
    fn cannot_accept(&mut self, now: Time, why: &AcceptProblem);

    /// Notes that a drain has closed every connection that it waits for.
    fn drained(&mut self);

    /// Whether [`Host::request_refused`] and [`Host::connection_closed`] do anything. Where it costs
    /// something to find out where a connection comes from, that need not be done otherwise.
    fn logs_connections(&self) -> bool;

    /// Notes that a request was refused. `address`: where it comes from, if that is known.
    fn request_refused(&mut self, refusal: &Refusal, address: Option<IpAddr>);

    /// The shard has panicked, in a turn that has `begun` then. Returns its replacement.
    fn replacement(&mut self, begun: Time) -> Replacement;

    /// Notes that the shard is being replaced: all its connections end.
    fn shard_failed(&mut self);

    /// A hook for tests: input of a connection is about to go to the shard.
    fn before_input(&self, _bytes: &[u8]) {}

    /// Notes that a connection was closed. `address`: where it came from, if that is known.
    fn connection_closed(&mut self, name: &str, reason: CloseReason, address: Option<IpAddr>);
}
