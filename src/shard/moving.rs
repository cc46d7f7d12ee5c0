//! Connections that go to another shard, because the session that their request names is there.
//!
//! Such a connection leaves as it would have come: its request unread, with everything behind it, and with
//! all earlier answers written. On the other shard it is served as if it had been accepted there, and it
//! stays there as long as it is kept alive.

use super::limits::PeerAddress;
use super::{Details, Shard, Slot};
use crate::base::ConnKey;
use crate::conn::{Conn, State};
use crate::http::Reject;

/// A connection between two shards: plain data. Its socket travels beside it.
#[derive(Debug)]
pub struct Moved {
    input: Vec<u8>,
    peer: Option<PeerAddress>,
}

impl Moved {
    /// Bytes on the heap.
    pub const fn capacity(&self) -> usize {
        self.input.capacity()
    }
}

impl Shard {
    /// A connection's next request is `shard`'s. Its input waits until it is there.
    pub(super) fn move_to(&mut self, key: ConnKey, shard: usize) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        slot.http_or_new().moving_to = Some(shard);
        self.end_publisher(key);
        self.move_if_flushed(key);
    }

    /// A connection that moves goes as soon as all its answers are out.
    pub(super) fn move_if_flushed(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get(key) else { return };
        let is_flushed = slot.conn.outbox.is_empty() && !slot.conn.queued;
        if let Some(shard) = slot.moving_to().filter(|_| is_flushed) {
            self.moves.push_back((key, shard));
        }
    }

    /// The next connection that is to go to another shard. The loop ends what its kernel does for it by
    /// itself; then, while [`Shard::is_moving`], it takes the socket out and calls [`Shard::departed`].
    pub fn poll_move(&mut self) -> Option<(ConnKey, usize)> {
        self.moves.pop_front()
    }

    /// Whether a connection is still to go. One whose time is up is answered here.
    pub fn is_moving(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|slot| slot.moving_to().is_some() && slot.conn.state() == State::Head)
    }

    /// A connection's socket is taken out: what remains of it here goes with it.
    pub fn departed(&mut self, key: ConnKey) -> Option<Moved> {
        let Slot { mut conn, session, details } = self.conns.remove(key)?;
        debug_assert!(session.is_none() && conn.outbox.is_empty(), "it goes between two requests");
        self.wheel.cancel(key.index());
        self.uncount(&conn);
        self.metrics.moves.add(1);
        let input = conn.take_kept().map(|kept| kept.unused().to_vec()).unwrap_or_default();
        Some(Moved { input, peer: details.and_then(|details| details.peer) })
    }

    /// A connection cannot go: its socket could not be taken out.
    pub fn cannot_move(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get_mut(key) else { return };
        if let Some(http) = slot.http_mut() {
            http.moving_to = None;
        }
        self.reject(key, Reject::TryAgain, None, false);
    }

    /// A connection has come from another shard; its socket is here. Its request is taken in this turn.
    pub fn arrived(&mut self, moved: Moved) -> ConnKey {
        let Moved { input, peer } = moved;
        self.metrics.connections.add(1);
        let details = peer.map(|peer| Box::new(Details { peer: Some(peer), ..Details::default() }));
        let mut conn = Conn::new(self.now, false);
        conn.keep(&input, true);
        let key = self.conns.insert(Slot { conn, session: None, details });
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        self.offer_later(key);
        key
    }
}

impl Slot {
    /// The shard that it goes to.
    pub(super) fn moving_to(&self) -> Option<usize> {
        self.http()?.moving_to
    }
}
