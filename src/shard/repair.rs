//! What a shard does when another one was rebuilt after a panic: everything that was in flight there is lost.
//!
//! Rooms whose home it was begin a new epoch. Their members here must recover, and join anew; what was
//! requested of that home is answered with an error that may be tried again. Its members of rooms whose home
//! is here are gone.

use std::sync::Arc;

use super::Shard;
use super::messages::PeerEnds;
use crate::room::Request;

impl Shard {
    /// Takes the rings to a shard that was built anew.
    pub fn replace_peer(&mut self, ends: PeerEnds) {
        let lost = ends.id();
        self.mesh.replace_peer(ends);
        let (now, unix_ms) = (self.now, self.unix_ms());
        self.homes.shard_lost(now, unix_ms, lost, |member| member.person.client.shard() == lost);
        self.lose_rooms(lost);
        self.lose_sessions(lost);
        self.lose_counts();
    }

    /// Rooms whose home is lost: the new home learns the listeners anew, and drafts that were in flight are
    /// lost.
    fn lose_rooms(&mut self, lost: usize) {
        for id in self.rooms.ids() {
            let Some(room) = self.rooms.get(id).map(|room| Arc::clone(&room.name)) else { continue };
            if self.mesh.home(&room) != lost {
                continue;
            }
            self.rooms.home_lost(id);
            let forms = self.rooms.get(id).map(super::rooms::Room::forms).unwrap_or_default();
            if !forms.is_empty() {
                self.request_home(&room, Request::Listen { forms });
            }
            while let Some(parked) = self.rooms.next_parked(id) {
                let reply_to = self.reply_to(parked.session, parked.command);
                self.request_home(&room, Request::Publish { draft: parked.draft, reply_to });
                self.call_session(parked.session, |session, _| session.unparked());
            }
            self.forget_unused(id);
        }
    }

    /// Sessions with something in those rooms.
    fn lose_sessions(&mut self, lost: usize) {
        let keys: Vec<_> = self.sessions.keys().collect();
        let (seed, shards) = (self.mesh.seed().clone(), self.mesh.shards());
        for key in keys {
            let is_lost = |room: &str| seed.home(room, shards) == lost;
            self.call_session(key, |session, ctx| session.home_lost(ctx, is_lost));
        }
    }

    /// Counts of deliveries that wait for that shard: the commands get their errors when their time is up.
    fn lose_counts(&mut self) {
        self.countings.clear();
    }
}
