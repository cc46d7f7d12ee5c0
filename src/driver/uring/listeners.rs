//! Accepting: how much the kernel may take in before we look again.
//!
//! A connection that is accepted into a full table is lost. So a listener accepts until further notice only
//! while the table has room for all that can wait in its queue; with less room it accepts one at a time, and
//! with none it does not accept.

use socket2::Socket;
use std::io;
use std::os::fd::AsFd;

use super::op::Op;
use super::ring::Ring;

/// Connections that can wait in one listener's queue, and so come out of it in one turn.
const WAITING_MAX: usize = 4096;

/// What a listener is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing.
    Idle,
    /// Accepting until further notice.
    Many,
    /// Accepting one.
    One,
    /// Is to stop, and has not done so yet.
    Stopping,
}

/// The listeners of a shard.
pub(super) struct Listeners(Vec<(Socket, State)>);

impl Listeners {
    pub(super) fn new(listeners: Vec<Socket>) -> io::Result<Self> {
        let listeners = listeners.into_iter().map(|listener| {
            // A listener that never blocks would have the kernel answer that none waits, instead of waiting
            // for one.
            listener.set_nonblocking(false)?;
            Ok((listener, State::Idle))
        });
        listeners.collect::<io::Result<_>>().map(Self)
    }

    /// Whether a connection that came through a listener is still wanted.
    pub(super) const fn has(&self, listener: usize) -> bool {
        listener < self.0.len()
    }

    /// The operation of a listener is over.
    pub(super) fn over(&mut self, listener: usize) {
        if let Some((_, state)) = self.0.get_mut(listener) {
            *state = State::Idle;
        }
    }

    /// Has each listener accept as far as `room` reaches. False: one has to wait because there is none.
    pub(super) fn open(&mut self, mut room: usize, ring: &mut Ring) -> io::Result<bool> {
        let many = room > self.0.len() * WAITING_MAX;
        let mut all = true;
        for (number, (listener, state)) in self.0.iter_mut().enumerate() {
            match state {
                State::Many if !many => {
                    ring.cancel(Op::Accept(number))?;
                    *state = State::Stopping;
                }
                State::One => room = room.saturating_sub(1),
                State::Idle if room == 0 => all = false,
                State::Idle => {
                    ring.accept(listener.as_fd(), Op::Accept(number), many)?;
                    *state = if many { State::Many } else { State::One };
                    room -= 1;
                }
                State::Many | State::Stopping => {}
            }
        }
        Ok(all)
    }

    /// Has no listener accept any more. What is accepted already may still come.
    pub(super) fn pause(&mut self, ring: &mut Ring) -> io::Result<()> {
        for (number, (_, state)) in self.0.iter_mut().enumerate() {
            if matches!(state, State::Many | State::One) {
                ring.cancel(Op::Accept(number))?;
                *state = State::Stopping;
            }
        }
        Ok(())
    }

    /// Stops listening.
    pub(super) fn close(&mut self, ring: &mut Ring) -> io::Result<()> {
        self.pause(ring)?;
        self.0.clear();
        Ok(())
    }
}
