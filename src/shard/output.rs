//! What leaves a shard: bytes for the kernel, and connections to be closed.

use std::io::IoSlice;
use std::sync::Arc;

use super::fanout::{Offer, Sweep};
use super::{OUTBOX_PAUSE_BYTES, Shard, Slot};
use crate::app::WireFormat;
use crate::base::{AudienceId, ConnKey, SubId};
use crate::conn::{CloseMethod, State};
use crate::metrics::CloseReason;
use crate::session::Session;

/// Writes of connections' own bytes in one turn: then it is the sweep's turn.
pub(super) const FLUSHES_PER_TURN: usize = 1024;

/// Bytes to be written to one connection.
#[derive(Debug)]
pub struct Write<'a> {
    /// The slot of the connection.
    pub conn: usize,
    /// The slot of the connection that is written to next, most likely: a hint, to have it in the cache.
    pub upcoming: Option<usize>,
    /// Identifies the write for its outcome.
    pub write_id: WriteId,
    payload: Payload<'a>,
}

#[derive(Debug)]
enum Payload<'a> {
    /// The connection's own bytes, and perhaps what a room has for it.
    Own(&'a [u8], Option<Offer<'a>>),
    /// A run of a room's log.
    Log(Offer<'a>),
}

/// How many pieces of a log leave in one call at most.
pub const SLICES_MAX: usize = 32;

impl<'a> Write<'a> {
    /// The bytes, when they lie in one piece; else use [`Write::gather`].
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        match &self.payload {
            Payload::Own(bytes, None) => Some(bytes),
            Payload::Own(_, Some(_)) => None,
            Payload::Log(offer) => offer.contiguous(),
        }
    }

    /// The bytes as slices for a vectored write; returns how many were filled in.
    pub fn gather(&self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        match &self.payload {
            Payload::Own(bytes, offer) => {
                slices[0] = IoSlice::new(bytes);
                1 + offer.as_ref().map_or(0, |offer| offer.gather(&mut slices[1..]))
            }
            Payload::Log(offer) => offer.gather(slices),
        }
    }
}

/// A connection to be closed.
#[derive(Clone, Debug)]
pub struct Close {
    /// Which.
    pub key: ConnKey,
    /// How.
    pub how: CloseMethod,
    /// Why.
    pub reason: CloseReason,
    /// What it was called, as the client chose it; empty if it had no name.
    pub name: Arc<str>,
}

/// Names a write that is in flight.
#[must_use = "the shard waits for the outcome of every write"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteId(Writing);

/// What is to be done about a connection once no write is in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deferred {
    /// Its socket has failed.
    Broken,
    /// It is behind by more than the log of this audience may hold.
    Overdue(AudienceId),
}

/// Whose bytes the driver is writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    /// The outbox of a connection, and behind it a member's backlog.
    Own(ConnKey, Option<SubId>),
    /// The rest of a frame that was cut, and what follows it in a room's log: before anything of the
    /// connection's own.
    Rest(ConnKey, SubId),
    /// A member's backlog, as a part of the sweep.
    Sweep(SubId),
}

impl Shard {
    /// The next bytes to be written. Answer with [`Shard::wrote`], [`Shard::refused`] or
    /// [`Shard::write_failed`].
    ///
    /// Several writes may be in flight, all of different connections: their bytes stay where they are until
    /// the first of them is answered. From then on call nothing else, until all of them are. `None` while
    /// some are in flight means no more than that these must be answered first.
    pub fn poll_write(&mut self) -> Option<Write<'_>> {
        if self.writes_in_flight == 0 && !self.deferred.is_empty() {
            self.run_deferred();
        }
        let writing = self.next_own().or_else(|| self.next_swept())?;
        self.writes_in_flight += 1;
        let write_id = WriteId(writing);
        Some(match writing {
            Writing::Own(key, sub) => {
                let slot = self.conns.get_mut(key)?;
                let bytes = slot.conn.outbox.unsent();
                let offer = sub.map(|sub| self.fanout.offer(sub));
                Write { conn: key.index(), upcoming: None, write_id, payload: Payload::Own(bytes, offer) }
            }
            Writing::Rest(_, sub) | Writing::Sweep(sub) => {
                let offer = self.fanout.offer(sub);
                let upcoming = self.fanout.upcoming();
                Write { conn: offer.conn, upcoming, write_id, payload: Payload::Log(offer) }
            }
        })
    }

    /// The kernel took `len` of the `offered` bytes of a write.
    pub fn wrote(&mut self, WriteId(writing): WriteId, len: usize, offered: usize) {
        self.write_answered();
        self.metrics.writes.add(1);
        self.metrics.sent_bytes.add(len as u64);
        let full = len < offered;
        match writing {
            Writing::Own(key, sub) => {
                let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
                let own = conn.outbox.len().min(len);
                conn.outbox.wrote(own);
                if let Some(sub) = sub {
                    self.advance(sub, len - own);
                }
                self.flush_goes_on(key, full);
            }
            Writing::Rest(key, sub) => {
                self.advance(sub, len);
                self.flush_goes_on(key, full);
            }
            Writing::Sweep(sub) => {
                let caught_up = self.advance(sub, len);
                if full {
                    self.block_member(sub);
                } else if !caught_up {
                    self.fanout.sweep_again(sub);
                }
            }
        }
    }

    /// A part of a connection's flush is done.
    fn flush_goes_on(&mut self, key: ConnKey, full: bool) {
        if full {
            self.block(key);
        }
        self.flush.push_back(key);
        if self.conns.get(key).is_some_and(|slot| slot.conn.outbox.len() <= OUTBOX_PAUSE_BYTES) {
            self.offer_later(key);
        }
    }

    /// The kernel took nothing of a write: the socket is full.
    pub fn refused(&mut self, WriteId(writing): WriteId) {
        self.write_answered();
        match writing {
            Writing::Own(key, _) | Writing::Rest(key, _) => {
                self.block(key);
                self.flush.push_back(key);
            }
            Writing::Sweep(sub) => self.block_member(sub),
        }
    }

    /// The socket of a write failed.
    pub fn write_failed(&mut self, WriteId(writing): WriteId) {
        self.write_answered();
        let key = match writing {
            Writing::Own(key, _) | Writing::Rest(key, _) => {
                self.flush.push_back(key);
                Some(key)
            }
            Writing::Sweep(sub) => self.conns.key_at(self.fanout.conn(sub)),
        };
        self.deferred.extend(key.map(|key| (key, Deferred::Broken)));
    }

    fn write_answered(&mut self) {
        self.writes_in_flight -= 1;
        if self.writes_in_flight == 0 {
            while let Some(key) = self.in_flight.pop() {
                if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                    conn.write_in_flight = false;
                }
            }
        }
    }

    /// Does what takes members out of their audiences, which cannot be done while writes are in flight.
    fn run_deferred(&mut self) {
        for (key, what) in std::mem::take(&mut self.deferred) {
            match what {
                Deferred::Broken => self.broken(key),
                Deferred::Overdue(audience) => self.overdue(key, audience),
            }
        }
    }

    /// The next connection to be closed.
    pub fn poll_close(&mut self) -> Option<Close> {
        loop {
            let (key, how) = self.closing.pop_front()?;
            if let Some(Slot { conn, details, .. }) = self.conns.get(key) {
                let name =
                    details.as_ref().and_then(|details| details.name.as_ref()).unwrap_or(&self.nameless);
                return Some(Close { key, how, reason: conn.reason(), name: Arc::clone(name) });
            }
        }
    }

    /// Puts a connection into the queue of those with something of their own to send.
    pub(super) fn flush_later(&mut self, key: ConnKey) {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return };
        if conn.blocked || conn.queued {
            return;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        // A plain client that has its answer receives everything published later: so the answer waits until
        // the room's home has accepted it.
        if conn.is_open() && session.is_some_and(Session::holds_handshake) {
            return;
        }
        conn.queued = true;
        self.flush.push_back(key);
        for sub in session.into_iter().flat_map(Session::subs) {
            self.fanout.set_ready(sub, false);
        }
    }

    fn next_own(&mut self) -> Option<Writing> {
        while self.flushes_left > 0
            && let Some(key) = self.flush.pop_front()
        {
            if let Some(writing) = self.own_write(key) {
                self.flushes_left -= 1;
                return Some(writing);
            }
            self.flushed(key);
        }
        None
    }

    /// What a connection has to write before the sweep may write to it.
    fn own_write(&mut self, key: ConnKey) -> Option<Writing> {
        self.append_notice(key);
        let Slot { conn, session, .. } = self.conns.get_mut(key)?;
        if conn.blocked || conn.state() == State::Closed {
            return None;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        let mut subs = session.into_iter().flat_map(Session::subs);
        if let Some(sub) = subs.clone().find(|&sub| self.fanout.is_mid_frame(sub)) {
            return Some(Writing::Rest(key, sub));
        }
        if !conn.outbox.is_empty() {
            // An answer and what was published with it leave in one packet. Otherwise its publications wait
            // for their turn: no member overtakes the sweep by publishing. Before a client's connection is
            // confirmed, nothing comes along.
            let confirmed = session.is_none_or(Session::is_confirmed);
            let last = confirmed && conn.is_open() && conn.outbox.is_all_bytes();
            let along = subs.find(|&sub| last && self.fanout.is_next(sub));
            return Some(Writing::Own(key, along));
        }
        if session.is_none_or(Session::is_confirmed) {
            for sub in subs {
                self.fanout.set_ready(sub, true);
            }
        }
        None
    }

    /// Has a session send its notice after everything before it was sent.
    fn append_notice(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if !conn.blocked && conn.outbox.take_notice_due() {
            self.with_session(key, |session, ctx| session.notice(ctx.effects));
        }
    }

    /// A connection has left the flush queue: either it is blocked, or everything of its own is out.
    fn flushed(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.queued = false;
        if !conn.blocked {
            let change = conn.flushed();
            self.apply(key, change);
            self.move_if_flushed(key);
            if let Some(outlet) = self.conns.get(key).and_then(Slot::outlet) {
                self.deliver_later(outlet);
            }
        }
    }

    fn next_swept(&mut self) -> Option<Writing> {
        loop {
            match self.fanout.poll(self.now, self.options.log_bytes_max()) {
                Sweep::Write(sub) if self.fanout.is_shared(sub) && !self.claim(sub) => {
                    self.fanout.sweep_again(sub);
                    return None;
                }
                Sweep::Write(sub) => return Some(Writing::Sweep(sub)),
                Sweep::Overdue(sub) if self.is_of_outlet(sub) => {
                    self.outlets.overdue.extend(self.outlets.key_at(self.fanout.conn(sub)));
                }
                Sweep::Overdue(sub) => {
                    let key = self.conns.key_at(self.fanout.conn(sub));
                    let audience = self.fanout.audience_of(sub);
                    self.deferred.extend(key.map(|key| (key, Deferred::Overdue(audience))));
                    if self.writes_in_flight == 0 {
                        self.run_deferred();
                    }
                }
                Sweep::Idle => return None,
            }
        }
    }

    fn is_of_outlet(&self, sub: SubId) -> bool {
        self.fanout[self.fanout.audience_of(sub)].format == WireFormat::QuotedEntries
    }

    /// Whether the connection of this member, whose session is in other rooms as well, has no write in
    /// flight; from now on it has one.
    fn claim(&mut self, sub: SubId) -> bool {
        let Some(key) = self.conns.key_at(self.fanout.conn(sub)) else { return false };
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return false };
        let free = !std::mem::replace(&mut conn.write_in_flight, true);
        if free {
            self.in_flight.push(key);
        }
        free
    }

    /// Moves a member on by what the kernel took. True: it has everything.
    fn advance(&mut self, sub: SubId, len: usize) -> bool {
        let progress = self.fanout.wrote(sub, len);
        self.metrics.deliveries.add(progress.delivered);
        progress.caught_up
    }

    fn block_member(&mut self, sub: SubId) {
        let Some(key) = self.conns.key_at(self.fanout.conn(sub)) else { return };
        self.block(key);
        // It took something, perhaps, and is too slow all the same.
        if self.fanout.behind(sub) > self.options.log_bytes_max() {
            self.deferred.push((key, Deferred::Overdue(self.fanout.audience_of(sub))));
        }
    }

    fn block(&mut self, key: ConnKey) {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return };
        if std::mem::replace(&mut conn.blocked, true) {
            return;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        for sub in session.into_iter().flat_map(Session::subs) {
            self.metrics.lagging.add(1);
            self.fanout.set_ready(sub, false);
        }
    }
}
