//! Members that poll: between two polls they have neither a connection nor a session, and are members all the
//! same, for as long as a lease. Each poll renews it. A room is kept for them as for others.

use std::cmp::Reverse;
use std::time::Duration;

use super::Homes;
use crate::base::{HomeKey, Time};
use crate::chat::ClientId;

/// Members of the rooms of one shard that poll; above it, those whose leases end first are no longer members.
pub const LEASES_MAX: usize = 100_000;

/// How long before its time it is looked whether a lease was renewed: so that many renewed ones take few
/// turns.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

impl Homes {
    /// A client that polls is a member until `until`. One that polls again stands in the queue already, under
    /// the former time: [`Homes::end_leases`] finds that it is a member for longer.
    pub(super) fn lease(&mut self, key: HomeKey, client: ClientId, until: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
        if home.leases.get_or_insert_default().insert(client, until).is_none() {
            self.leases.push(Reverse((until, key, client)));
        }
    }

    /// Lets those go whose leases have ended.
    pub(super) fn end_leases(&mut self, now: Time) {
        while let Some(&Reverse((at, key, client))) = self.leases.peek() {
            let is_full = self.leases.len() > self.leases_max;
            if at > now + RENEWAL_INTERVAL && !is_full {
                return;
            }
            let leases = self.homes.get(key).and_then(|home| home.leases.as_ref());
            let until = leases.and_then(|leases| leases.get(&client)).copied();
            if let Some(until) = until.filter(|&until| until > at) {
                self.leases.pop();
                self.leases.push(Reverse((until, key, client)));
            } else if at <= now || is_full {
                self.leases.pop();
                self.end_lease(key, client, now);
            } else {
                return;
            }
        }
    }

    fn end_lease(&mut self, key: HomeKey, client: ClientId, now: Time) {
        let Some(home) = self.homes.get_mut(key) else { return };
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

    /// How many clients poll.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }
}
