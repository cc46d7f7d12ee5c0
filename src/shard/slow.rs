//! What is done about members that are too slow: their room's policy, and nothing else.

use super::fanout::Missed;
use super::{Shard, Slot};
use crate::base::{AudienceId, ConnKey};
use crate::chat::SlowMember;
use crate::session::Session;

impl Shard {
    /// The socket takes bytes again.
    pub fn writable(&mut self, key: ConnKey) {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return };
        if !std::mem::replace(&mut conn.blocked, false) {
            return;
        }
        let session = session.and_then(|session| self.sessions.get(session));
        let subs: smallvec::SmallVec<[_; 8]> = session.into_iter().flat_map(Session::subs).collect();
        for sub in subs {
            self.metrics.lagging.sub(1);
            // With `conflate`, a member that was stuck goes on with the newest publication.
            if self.fanout[self.fanout.audience_of(sub)].options.slow_member == SlowMember::Conflate {
                let missed = self.fanout.jump_to_newest(sub);
                self.skip(key, missed);
            }
        }
        self.flush_later(key);
    }

    /// A member has fallen behind by more than its room's log may hold.
    pub(super) fn overdue(&mut self, key: ConnKey, audience: AudienceId) {
        let Some(Slot { conn, session: Some(session), .. }) = self.conns.get(key) else { return };
        // A member that only has bytes of its own in flight is offered the rest after them.
        if !conn.blocked {
            return;
        }
        let session_key = *session;
        let Some(session) = self.sessions.get(session_key) else { return };
        let Some(sub) = session.subs().find(|&sub| self.fanout.audience_of(sub) == audience) else { return };
        match self.fanout[audience].options.slow_member {
            SlowMember::Disconnect => {
                self.call_session(session_key, |session, ctx| session.too_slow(ctx.effects));
            }
            SlowMember::Skip => {
                let missed = self.fanout.jump_to_head(sub);
                let (count, after) = (missed.count, missed.after);
                self.skip(key, missed);
                self.call_session(session_key, |session, ctx| session.lagged(ctx.effects, sub, count, after));
            }
            SlowMember::Conflate => {
                let missed = self.fanout.jump_to_newest(sub);
                self.skip(key, missed);
            }
        }
    }

    /// A member was moved on: the rest of a frame that had begun to go out stays with its connection.
    fn skip(&mut self, key: ConnKey, missed: Missed) {
        self.metrics.skipped.add(missed.count);
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
            conn.outbox.prepend(&missed.rest);
        }
    }
}
