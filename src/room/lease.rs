//! Members that poll: between two polls they have neither a connection nor a session, and are members all the
//! same, for as long as a lease. Each poll renews it. A room is kept for them as for others.

use super::Homes;
use crate::base::{HomeKey, Time};
use crate::chat::ClientId;

/// Members of the rooms of one shard that poll; above it, those whose leases end first are no longer members.
pub const LEASES_MAX: usize = 100_000;

impl Homes {
    /// A client that polls is a member until `until`.
    pub(super) fn lease(&mut self, key: HomeKey, client: ClientId, until: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if let Some(before) = home.leases.get_or_insert_default().insert(client, until) {
            self.leases.remove(&(before, key, client));
        }
        self.leases.insert((until, key, client));
    }

    /// Lets those go whose leases have ended.
    pub(super) fn end_leases(&mut self, now: Time) {
        while let Some(&(until, key, client)) = self.leases.first()
            && (until <= now || self.leases.len() > self.leases_max)
        {
            self.leases.pop_first();
            let Some(home) = self.homes.get_mut(key) else { continue };
            if let Some(leases) = &mut home.leases {
                leases.remove(&client);
                if leases.is_empty() {
                    home.leases = None;
                }
            }
            home.leave(client);
            self.announce_soon(key, now);
            self.keep_or_forget(key, now);
        }
    }

    /// How many clients poll.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }
}
