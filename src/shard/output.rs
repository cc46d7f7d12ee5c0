//! What leaves a shard: bytes for the kernel, and connections to be closed.

use std::io::IoSlice;
use std::sync::Arc;

use super::fanout::{AudienceId, Jump, Missed, Offer, Seat, Sweep};
use super::{Shard, Slot};
use crate::app::json::{Disconnect, Unsubscribe};
use crate::app::{Protocol, text};
use crate::base::ConnKey;
use crate::chat::{Epoch, Position, SlowMember};
use crate::conn::{Ending, Skipped, State};
use crate::metrics::CloseReason;
use crate::ws::CloseCode;

/// Bytes to be written to one connection.
#[derive(Debug)]
pub struct Write<'a> {
    /// The slot of the connection.
    pub conn: usize,
    /// What its outcome is told with.
    pub ticket: Ticket,
    payload: Payload<'a>,
}

#[derive(Debug)]
enum Payload<'a> {
    /// The connection's own words, and perhaps what a room has for it.
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

/// How a connection is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HowToClose {
    /// Close the socket, then call [`Shard::closed`].
    Now,
    /// Close it with a reset, so that nothing lingers in the kernel, then call [`Shard::closed`].
    Reset,
    /// Shut the sending side only; the connection goes on.
    Shutdown,
}

/// A connection to be closed.
#[derive(Clone, Debug)]
pub struct Close {
    /// Which.
    pub key: ConnKey,
    /// How.
    pub how: HowToClose,
    /// Why.
    pub reason: CloseReason,
    /// What it was called, as the client chose it; empty if it had no name.
    pub name: Arc<str>,
}

/// Names a write that is under way.
#[must_use = "the shard waits for the outcome of every write"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(Writing);

/// What is to be done about a connection once no write is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unsettled {
    /// Its socket has failed.
    Broken,
    /// It is behind by more than the log of this audience may hold.
    Overdue(AudienceId),
}

/// Whose bytes the driver is writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    /// The outbox of a connection, and behind it a member's backlog.
    Own(ConnKey, Option<Seat>),
    /// The rest of a frame that was torn, and what follows it in a room's log: before anything of the connection's own.
    Torn(ConnKey, Seat),
    /// A member's backlog, as a part of the sweep.
    Sweep(Seat),
}

impl Shard {
    /// The next bytes to be written. Answer with [`Shard::wrote`], [`Shard::refused`] or [`Shard::write_failed`].
    ///
    /// Several writes may be under way, all of different connections: their bytes stay where they are until the first of them
    /// is answered. From then on ask for no more, and call nothing else, until all of them are. `None` while some are under way
    /// means no more than that these must be answered first.
    pub fn poll_write(&mut self) -> Option<Write<'_>> {
        if self.writes_under_way == 0 {
            self.settle();
        }
        let writing = self.next_own().or_else(|| self.next_swept())?;
        self.writes_under_way += 1;
        let ticket = Ticket(writing);
        Some(match writing {
            Writing::Own(key, seat) => {
                let slot = self.conns.get_mut(key)?;
                let bytes = slot.conn.outbox.unsent(skipped_into);
                let offer = seat.map(|seat| self.fanout.offer(seat));
                Write { conn: key.index(), ticket, payload: Payload::Own(bytes, offer) }
            }
            Writing::Torn(_, seat) | Writing::Sweep(seat) => {
                let offer = self.fanout.offer(seat);
                Write { conn: offer.conn, ticket, payload: Payload::Log(offer) }
            }
        })
    }

    /// The kernel took `len` of the `offered` bytes of a write.
    pub fn wrote(&mut self, Ticket(writing): Ticket, len: usize, offered: usize) {
        self.write_answered();
        self.metrics.writes.add(1);
        self.metrics.bytes_out.add(len as u64);
        let full = len < offered;
        match writing {
            Writing::Own(key, seat) => {
                let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
                let own = conn.outbox.len().min(len);
                conn.outbox.wrote(own);
                self.flushed_of(key, seat, len - own, full);
            }
            Writing::Torn(key, seat) => self.flushed_of(key, Some(seat), len, full),
            Writing::Sweep(seat) => {
                let progress = self.advance(seat, len);
                if full {
                    self.block_seat(seat, progress.torn);
                } else if !progress.caught_up {
                    self.fanout.sweep_again(seat);
                }
            }
        }
    }

    /// A connection's flush has taken this much of a member's backlog.
    fn flushed_of(&mut self, key: ConnKey, seat: Option<Seat>, len: usize, full: bool) {
        if let Some(seat) = seat {
            let torn = self.advance(seat, len).torn;
            if let Some(client) = self.client_mut(key) {
                client.torn = torn.then_some(seat.audience);
            }
        }
        if full {
            self.block(key);
        }
        self.flush.push_back(key);
    }

    /// The kernel took nothing of a write: the socket is full.
    pub fn refused(&mut self, Ticket(writing): Ticket) {
        self.write_answered();
        match writing {
            Writing::Own(key, _) | Writing::Torn(key, _) => {
                self.block(key);
                self.flush.push_back(key);
            }
            Writing::Sweep(seat) => self.block_seat(seat, false),
        }
    }

    /// The socket of a write failed.
    pub fn write_failed(&mut self, Ticket(writing): Ticket) {
        self.write_answered();
        let key = match writing {
            Writing::Own(key, _) | Writing::Torn(key, _) => {
                self.flush.push_back(key);
                Some(key)
            }
            Writing::Sweep(seat) => self.conns.key_at(self.fanout.conn(seat)),
        };
        self.unsettled.extend(key.map(|key| (key, Unsettled::Broken)));
    }

    fn write_answered(&mut self) {
        self.writes_under_way -= 1;
        if self.writes_under_way == 0 {
            while let Some(key) = self.claimed.pop() {
                if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                    conn.under_way = false;
                }
            }
        }
    }

    /// Does what takes members out of their seats, which cannot be done while writes are under way.
    fn settle(&mut self) {
        for (key, what) in std::mem::take(&mut self.unsettled) {
            match what {
                Unsettled::Broken => self.broken(key),
                Unsettled::Overdue(audience) => self.overdue(key, audience),
            }
        }
    }

    /// The next connection to be closed.
    pub fn poll_close(&mut self) -> Option<Close> {
        loop {
            let (key, how) = self.closing.pop_front()?;
            if let Some(Slot { conn, client, .. }) = self.conns.get(key) {
                let name = client.as_ref().map_or(&self.nameless, |client| &client.person.name);
                return Some(Close { key, how, reason: conn.reason, name: Arc::clone(name) });
            }
        }
    }

    /// Puts a connection into the queue of those with something of their own to send.
    pub(super) fn flush_later(&mut self, key: ConnKey) {
        let Some(Slot { conn, client, .. }) = self.conns.get_mut(key) else { return };
        if conn.blocked || conn.queued {
            return;
        }
        conn.queued = true;
        self.flush.push_back(key);
        for seat in client.as_ref().map(|client| client.seats()).unwrap_or_default() {
            self.fanout.set_ready(seat, false);
        }
    }

    /// With `conflate`, a member that was stuck goes on with the newest publication.
    pub(super) fn catch_up_conflated(&mut self, key: ConnKey, seat: Seat) {
        if self.fanout[seat.audience].options.slow_member == SlowMember::Conflate {
            self.jump(key, seat, Jump::Newest);
        }
    }

    fn next_own(&mut self) -> Option<Writing> {
        while let Some(key) = self.flush.pop_front() {
            if let Some(Slot { conn, client, .. }) = self.conns.get_mut(key)
                && !conn.blocked
                && conn.state != State::Closed
            {
                let torn = client.as_mut().and_then(|client| client.seat_mut(client.torn?).copied());
                let seats = client.as_ref().map(|client| client.seats()).unwrap_or_default();
                if let Some(seat) = torn {
                    return Some(Writing::Torn(key, seat));
                } else if !conn.outbox.is_empty() {
                    // An answer and what was said with it leave in one packet. Else what its rooms have for it comes in its turn:
                    // nobody overtakes the sweep by speaking.
                    let last = conn.state == State::Open && conn.outbox.is_all_bytes();
                    let along = seats.iter().find(|&&seat| last && self.fanout.is_next(seat));
                    return Some(Writing::Own(key, along.copied()));
                }
                for seat in seats {
                    self.fanout.set_ready(seat, true);
                }
            }
            self.flushed(key);
        }
        None
    }

    /// A connection has left the flush queue: either it is blocked, or everything of its own is out.
    fn flushed(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.queued = false;
        if conn.blocked {
            return;
        }
        let (state, reason) = (conn.state, conn.reason);
        match state {
            State::Finishing(_) if conn.ended => self.close(key, HowToClose::Now, reason),
            State::Finishing(Ending::AtOnce) => self.close(key, HowToClose::Now, reason),
            State::Finishing(Ending::Linger) => {
                conn.state = State::Lingering;
                self.closing.push_back((key, HowToClose::Shutdown));
            }
            State::Head | State::Open | State::Closing | State::Lingering | State::Closed => {}
        }
    }

    fn next_swept(&mut self) -> Option<Writing> {
        loop {
            match self.fanout.poll(self.now, self.options.log_bytes_max()) {
                Sweep::Write(seat) if self.fanout.is_shared(seat) && !self.claim(seat) => {
                    self.fanout.sweep_again(seat);
                    return None;
                }
                Sweep::Write(seat) => return Some(Writing::Sweep(seat)),
                Sweep::Overdue(seat) => {
                    let key = self.conns.key_at(self.fanout.conn(seat));
                    self.unsettled.extend(key.map(|key| (key, Unsettled::Overdue(seat.audience))));
                    if self.writes_under_way == 0 {
                        self.settle();
                    }
                }
                Sweep::Idle => return None,
            }
        }
    }

    /// Whether the connection of this seat, which sits in other rooms as well, has no write under way; from now on it has one.
    fn claim(&mut self, seat: Seat) -> bool {
        let Some(key) = self.conns.key_at(self.fanout.conn(seat)) else { return false };
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return false };
        let free = !std::mem::replace(&mut conn.under_way, true);
        if free {
            self.claimed.push(key);
        }
        free
    }

    /// A member has fallen behind by more than its room's log may hold.
    fn overdue(&mut self, key: ConnKey, audience: AudienceId) {
        // Whoever only has bytes of its own under way is offered the rest after them.
        if self.conns.get(key).is_none_or(|slot| !slot.conn.blocked) {
            return;
        }
        let Some(client) = self.client_mut(key) else { return };
        let Some(index) =
            client.memberships.iter().position(|it| it.seat.is_some_and(|s| s.audience == audience))
        else {
            return;
        };
        let Some(seat) = client.memberships[index].seat else { return };
        let protocol = client.format.protocol();
        match (self.fanout[audience].options.slow_member, protocol) {
            (SlowMember::Disconnect, Protocol::Text) => self.fail(
                key,
                CloseCode::Again,
                "this connection reads too slowly for the room",
                CloseReason::TooSlow,
            ),
            (SlowMember::Disconnect, Protocol::Json) => self.disconnect(key, Disconnect::Slow),
            (SlowMember::Skip, Protocol::Text) => {
                let positioned = self.fanout[audience].options.history_count_max > 0;
                let Missed { count, after, .. } = self.jump(key, seat, Jump::Head);
                let after = after.filter(|_| positioned).map(|at| (at.epoch.0, at.offset));
                if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                    conn.outbox.skipped(Skipped { count, after });
                }
            }
            // It knows its position, and resumes from there at once.
            (SlowMember::Skip, Protocol::Json) => {
                self.jump(key, seat, Jump::Head);
                self.unsubscribe(key, index, Unsubscribe::Insufficient);
            }
            (SlowMember::Conflate, _) => {
                self.jump(key, seat, Jump::Newest);
            }
        }
    }

    fn jump(&mut self, key: ConnKey, seat: Seat, target: Jump) -> Missed {
        let mut missed = self.fanout.jump(seat, target);
        self.metrics.skipped.add(missed.count);
        if let Some(Slot { conn, client: Some(client), .. }) = self.conns.get_mut(key)
            && client.torn.take_if(|torn| *torn == seat.audience).is_some()
        {
            conn.outbox.prepend(&std::mem::take(&mut missed.rest));
        }
        missed
    }

    fn advance(&mut self, seat: Seat, len: usize) -> super::fanout::Progress {
        let progress = self.fanout.wrote(seat, len);
        self.metrics.deliveries.add(progress.delivered);
        progress
    }

    fn block_seat(&mut self, seat: Seat, torn: bool) {
        let Some(key) = self.conns.key_at(self.fanout.conn(seat)) else { return };
        if torn && let Some(client) = self.client_mut(key) {
            client.torn = Some(seat.audience);
        }
        self.block(key);
        // It took something, perhaps, and is too slow all the same.
        if self.fanout.behind(seat) > self.options.log_bytes_max() {
            self.unsettled.push((key, Unsettled::Overdue(seat.audience)));
        }
    }

    fn block(&mut self, key: ConnKey) {
        let Some(Slot { conn, client, .. }) = self.conns.get_mut(key) else { return };
        if std::mem::replace(&mut conn.blocked, true) {
            return;
        }
        let seats = client.as_ref().map(|client| client.seats()).unwrap_or_default();
        self.metrics.lagging.add(seats.len() as u64);
        for seat in seats {
            self.fanout.set_ready(seat, false);
        }
    }
}

/// What a plain member is told of publications that it will not be sent.
fn skipped_into(out: &mut Vec<u8>, Skipped { count, after }: Skipped) {
    let after = after.map(|(epoch, offset)| Position { epoch: Epoch(epoch), offset });
    text::skipped_into(out, count, after);
}
