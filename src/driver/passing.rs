//! Connections that go from one shard's loop to another's: the socket, and what the shard knows of it.

use std::collections::VecDeque;
use std::io;

use super::event_loop::Loop;
use super::host::Host;
use super::sockets::Sockets;
use crate::base::ConnKey;
use crate::shard::Moved;

/// A connection in flight between two loops.
#[derive(Debug)]
pub(super) struct Passing<C> {
    /// Its socket, as it travels between two loops.
    pub(super) carrier: C,
    /// What its shard knows of it.
    pub(super) moved: Moved,
}

/// Connections in flight to one shard; further ones wait where they are.
pub(super) const PASSING_MAX: usize = 256;

/// Connections taken over in one turn.
const ARRIVALS_PER_TURN: usize = 64;

impl<S: Sockets, H: Host<Carrier = S::Carrier>> Loop<S, H> {
    /// Takes over the connections that other shards have passed on.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(passing) = self.context.host.next_arrival() else { return Ok(()) };
            // What was closed in this turn must have left its slot before it is given away.
            self.close_all()?;
            self.adopt(passing)?;
        }
        self.takes_over_again = true;
        Ok(())
    }

    fn adopt(&mut self, passing: Passing<S::Carrier>) -> io::Result<()> {
        // Without a place for the socket its connection ends: the client connects anew.
        let Some(socket) = self.sockets.adopt(passing.carrier)? else { return Ok(()) };
        let key = self.context.shard.arrived(passing.moved);
        self.serve(key, socket)
    }

    /// Passes on the connections whose requests are for other shards.
    pub(super) fn pass_on(&mut self) -> io::Result<()> {
        while let Some((key, shard)) = self.context.shard.poll_move() {
            if let Some(slot) = self.slots.get_mut(key) {
                self.sockets.stop_reading(key, &mut slot.socket)?;
                self.leaving.push_back((key, shard));
            }
        }
        for _ in 0..self.leaving.len() {
            let Some((key, shard)) = self.leaving.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if !self.context.shard.is_moving(key) {
                self.queue_read(key);
            } else if S::is_quiet(&self.sockets, &slot.socket) {
                self.pass(key, shard)?;
            } else {
                self.leaving.push_back((key, shard));
            }
        }
        Ok(())
    }

    fn pass(&mut self, key: ConnKey, shard: usize) -> io::Result<()> {
        let Some(socket) = self.slots.remove(key) else { return Ok(()) };
        let carrier = match self.sockets.detach(socket)? {
            Ok(carrier) => carrier,
            Err(socket) => {
                self.slots.insert(key, socket);
                self.context.shard.cannot_move(key);
                self.queue_read(key);
                return Ok(());
            }
        };
        let Some(moved) = self.context.shard.departed(key) else { return Ok(()) };
        match self.context.host.pass(shard, Passing { carrier, moved }) {
            Ok(()) => {
                self.context.host.wake(shard);
                Ok(())
            }
            // Too many are in flight: it stays here, and tries again.
            Err(passing) => self.adopt(passing),
        }
    }
}

/// Connections that are about to leave: what the kernel does for them by itself has yet to end.
pub(super) type Leaving = VecDeque<(ConnKey, usize)>;
