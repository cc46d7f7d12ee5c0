//! What a driver needs of a shard that has panicked, and of its replacement. The first may be in any state:
//! nothing here relies on more than the fields that it reads.

use super::{Shard, Slot};
use crate::base::ConnKey;

impl Shard {
    /// Whether a Close frame may be written behind all that was written to a connection: it is an open
    /// WebSocket, and the last write has ended with a whole frame.
    pub fn takes_close_frame(&self, key: ConnKey) -> bool {
        let Some(Slot { conn, session, .. }) = self.conns.get(key) else { return false };
        let session = session.and_then(|session| self.sessions.get(session));
        let mid_frame =
            session.is_some_and(|session| session.subs().any(|sub| self.fanout.is_mid_frame(sub)));
        conn.is_open() && !mid_frame && !conn.outbox.is_partly_sent()
    }

    /// Replaces a shard that has failed: no connection or session gets a key of a previous one, so that late
    /// events for those reach none of these.
    pub fn replace(&mut self, failed: &Self) {
        self.conns.continue_after(&failed.conns);
        self.sessions.continue_after(&failed.sessions);
    }
}
