//! How many connections an address has, and how many a user. All shards share these counts, and touch them only where there is a
//! bound.

use core::net::IpAddr;
use std::sync::Arc;

use super::{Shard, Slot};
use crate::base::ConnKey;
use crate::base::census::{Census, Origin, Ticket};
use crate::base::hash::Seed;
use crate::chat::Identification;

/// The counts that all shards share.
#[derive(Clone, Debug)]
pub struct Crowd {
    addresses: Arc<Census<Origin>>,
    users: Arc<Census<Arc<str>>>,
}

impl Crowd {
    /// Nobody is here yet.
    pub fn new(seed: &Seed) -> Self {
        Self { addresses: Arc::new(Census::new(seed)), users: Arc::new(Census::new(seed)) }
    }
}

/// What is known of where a connection comes from. Kept only where that matters.
#[derive(Debug)]
pub(super) struct Provenance {
    /// Its address.
    pub(super) address: IpAddr,
    /// `None`: its address has too many connections.
    pub(super) counted: Option<Ticket<Origin>>,
}

impl Shard {
    /// Whether [`Shard::opened`] is to be told the addresses of those who come. Where it costs a driver something to find them
    /// out, it need not otherwise.
    pub fn wants_addresses(&self) -> bool {
        self.options.connections_per_address_max > 0 || self.options.identification == Identification::Asked
    }

    /// Counts a connection that comes from `address`.
    pub(super) fn provenance(&self, address: Option<IpAddr>) -> Option<Box<Provenance>> {
        let address = address.filter(|_| self.wants_addresses())?;
        let counted = self.crowd.addresses.enter(&address.into(), self.options.connections_per_address_max);
        Some(Box::new(Provenance { address, counted }))
    }

    /// Counts a connection of `user`. False: there are too many of them.
    pub(super) fn count_user(&mut self, key: ConnKey, user: &Arc<str>) -> bool {
        let max = self.options.connections_per_user_max;
        if max == 0 || user.is_empty() {
            return true;
        }
        let Some(ticket) = self.crowd.users.enter(user, max) else { return false };
        if let Some(Slot { user, .. }) = self.conns.get_mut(key) {
            *user = Some(Box::new(ticket));
        }
        true
    }
}
