//! One client's connection as the kernel between it and the server sees it: a queue of bytes each way, of
//! bounded size, and how each side has ended it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use super::scenario::Faults;
use crate::base::rng::Rng;
use crate::base::{ConnKey, Time};
use crate::driver::sockets::Outcome;
use crate::metrics::CloseReason;

/// How a client ends its connection without a Close frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It ends its stream, and reads on.
    Fin,
    /// It breaks both directions; what was in flight is lost.
    Reset,
}

/// Whether bytes arrive at the server by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiving {
    /// No.
    No,
    /// Yes.
    Yes,
    /// No more, and some may still arrive.
    Stopping,
}

/// One connection.
#[derive(Debug)]
pub struct Pipe {
    /// The shard that it came to.
    pub shard: usize,
    /// What the shard calls it, once it has accepted it.
    pub(super) key: Option<ConnKey>,
    /// What the client has sent and the server has not read.
    pub to_server: VecDeque<u8>,
    /// How the client has ended it.
    pub end: Option<End>,
    /// What the server has written and the client has not read.
    pub to_client: Vec<u8>,
    /// How much of that fits.
    pub capacity: usize,
    /// A write did not go through whole: the server is owed an event when the socket is writable.
    pub starved: bool,
    /// The server has ended its stream.
    pub shut: bool,
    /// The server has closed its socket, and why.
    pub closed: Option<CloseReason>,
    /// When the server last read from it, or accepted it.
    pub received: Time,
    /// The longest time that the server waited for something to read.
    pub silence: Duration,
    /// When the server accepted it.
    pub opened: Time,
    /// Stands in the kernel's list of sockets with events.
    pub(super) ready: bool,
    /// Whether its bytes arrive at the server by themselves.
    pub(super) receiving: Receiving,
}

impl Pipe {
    pub(super) const fn new(shard: usize, capacity: usize) -> Self {
        Self {
            shard,
            key: None,
            to_server: VecDeque::new(),
            end: None,
            to_client: Vec::new(),
            capacity,
            starved: false,
            shut: false,
            closed: None,
            received: Time::ZERO,
            silence: Duration::ZERO,
            opened: Time::ZERO,
            ready: false,
            receiving: Receiving::No,
        }
    }

    /// Whether the server has accepted it.
    pub const fn is_accepted(&self) -> bool {
        self.key.is_some()
    }

    /// Whether neither side has given it up.
    pub fn is_open(&self) -> bool {
        self.closed.is_none() && self.end != Some(End::Reset)
    }

    /// The server writes. What fits is taken, or less, by the faults.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>], faults: &Faults, rng: &mut Rng) -> Outcome {
        if self.end == Some(End::Reset) {
            return Outcome::Failed;
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "an empty write");
        let mut room = self.capacity.saturating_sub(self.to_client.len()).min(faults.write_bytes_max);
        if one_in(rng, faults.refused_one_in) {
            room = 0;
        } else if one_in(rng, faults.short_one_in) {
            room = room.min(index_below(rng, offered) + 1);
        }
        self.starved = room < offered;
        if room == 0 {
            return Outcome::Full;
        }
        let mut left = room;
        for slice in slices {
            let take = slice.len().min(left);
            self.to_client.extend_from_slice(&slice[..take]);
            left -= take;
        }
        Outcome::Took { len: room.min(offered), offered }
    }
}

/// True once in `n` times; never when `n` is 0.
pub(super) fn one_in(rng: &mut Rng, n: u64) -> bool {
    n > 0 && rng.below(n) == 0
}

/// Uniform in `0..bound`.
pub(super) fn index_below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or(0)
}
