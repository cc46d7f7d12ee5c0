//! Input that was not used yet: the beginning of a request head, or whole messages that must wait, as they
//! came over the wire.

use super::{Conn, State};

/// Bytes that have arrived and are not used yet.
#[derive(Debug, Default)]
pub struct Kept {
    /// The bytes, those that are used already among them.
    pub bytes: Vec<u8>,
    /// How many at the front are used.
    pub used: usize,
    /// How far behind those a request head has been searched for its end.
    pub scanned: usize,
    /// It waits for the connection's session, the turn's budget or the outbox; else for more input.
    pub waits: bool,
}

impl Kept {
    /// What is not used yet.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// The same, to be looked at.
    pub fn unused(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Whether everything is used.
    pub fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    /// So many more bytes are used.
    pub fn advance(&mut self, len: usize) {
        self.used += len;
        debug_assert!(self.used <= self.bytes.len());
    }
}

impl Conn {
    /// Keeps `input` behind what is kept already. `waits`: it is complete enough to be used, and must wait.
    pub fn keep(&mut self, input: &[u8], waits: bool) {
        let kept = self.kept.get_or_insert_default();
        if kept.used > 0 {
            kept.bytes.drain(..kept.used);
            kept.used = 0;
        }
        kept.bytes.extend_from_slice(input);
        kept.waits |= waits;
    }

    /// Takes out what is kept, to be used; the rest returns with [`Conn::put_back`].
    pub fn take_kept(&mut self) -> Option<Box<Kept>> {
        self.kept.take()
    }

    /// Keeps what was not used.
    pub fn put_back(&mut self, kept: Box<Kept>) {
        let takes_input =
            matches!(self.state, State::Head | State::Body | State::Waiting | State::Open | State::Closing);
        if takes_input && (kept.waits || !kept.is_empty()) {
            self.kept = Some(kept);
        }
    }

    /// Whether something is kept.
    pub const fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether input is kept that waits for something else than more input.
    pub fn has_waiting_input(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.waits)
    }

    /// Bytes on the heap for input that is not used.
    pub fn input_bytes(&self) -> usize {
        self.decoder.kept_bytes() + self.kept.as_ref().map_or(0, |kept| kept.bytes.capacity())
    }
}
