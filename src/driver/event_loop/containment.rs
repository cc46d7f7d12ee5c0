//! A panic of the shard is contained: its connections are closed, and another shard goes on with the same
//! listeners.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::Loop;
use crate::driver::context::Due;
use crate::driver::host::{Host, Replacement};
use crate::driver::sockets::Sockets;
use crate::shard::Shard;

/// A Close frame with the status code 1011: the server has met a condition that it did not expect (RFC 6455
/// §7.4.1).
const CLOSE_INTERNAL_ERROR: &[u8] = b"\x88\x02\x03\xf3";

impl<S: Sockets, H: Host<Carrier = S::Carrier>> Loop<S, H> {
    /// One turn, and how long to wait before the next one. When the shard panics in it, the next turn is
    /// another shard's.
    ///
    /// # Errors
    /// The kernel refuses to wait; or the host ends the process.
    pub(super) fn contained_turn(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<ControlFlow<(), Option<Duration>>> {
        let turn = || {
            Ok(match self.turn(timeout)? {
                ControlFlow::Continue(()) => ControlFlow::Continue(self.time_to_sleep()),
                ControlFlow::Break(()) => ControlFlow::Break(()),
            })
        };
        // What the shard leaves behind is looked at with care, and dropped.
        match catch_unwind(AssertUnwindSafe(turn)) {
            Ok(outcome) => outcome,
            Err(panic) => match self.context.host.replacement(self.context.begun()) {
                Replacement::Shard(shard) => {
                    self.replace_shard(*shard)?;
                    Ok(ControlFlow::Continue(Some(Duration::ZERO)))
                }
                Replacement::None => resume_unwind(panic),
                Replacement::End(error) => Err(error),
            },
        }
    }

    fn time_to_sleep(&self) -> Option<Duration> {
        match self.due() {
            Due::Now => Some(Duration::ZERO),
            Due::At(time) => Some(time.since(self.context.now())),
            Due::Never => None,
        }
    }

    fn replace_shard(&mut self, shard: Shard) -> io::Result<()> {
        self.context.host.shard_failed();
        self.close_all_failed()?;
        let failed = self.context.replace_shard(shard);
        // Its state may be such that it cannot even be dropped.
        drop(catch_unwind(AssertUnwindSafe(|| drop(failed))));
        Ok(())
    }

    /// Closes every connection: with a Close frame where one may follow, else with a reset.
    fn close_all_failed(&mut self) -> io::Result<()> {
        self.sockets.abandon()?;
        self.events.clear();
        self.readable.clear();
        self.leaving.clear();
        // How far these writes have come the shard may not know.
        let unanswered: Vec<_> = self.writes.drain(..).map(|writing| writing.conn).collect();
        for index in 0..self.slots.len() {
            let Some((key, mut socket)) = self.slots.take(index) else { continue };
            let shard = &self.context.shard;
            let clean = !unanswered.contains(&index)
                && catch_unwind(AssertUnwindSafe(|| shard.takes_close_frame(key))).unwrap_or(false);
            if clean {
                self.sockets.send_last(&mut socket, CLOSE_INTERNAL_ERROR)?;
            }
            self.sockets.close(key, socket, !clean)?;
        }
        Ok(())
    }
}
