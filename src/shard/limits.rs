//! How many connections an address has, and how many a user. All shards share these counts, and touch them
//! only where there is a bound.

use core::net::IpAddr;
use std::sync::Arc;

use super::Shard;
use crate::base::connection_counter::{AddressKey, ConnectionCounter, Permit};
use crate::base::hash::Seed;
use crate::chat::AuthMode;

/// The counts that all shards share.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    addresses: Arc<ConnectionCounter<AddressKey>>,
    users: Arc<ConnectionCounter<Arc<str>>>,
}

impl ConnectionLimits {
    /// No connection is counted yet.
    pub fn new(seed: &Seed) -> Self {
        Self {
            addresses: Arc::new(ConnectionCounter::new(seed)),
            users: Arc::new(ConnectionCounter::new(seed)),
        }
    }

    /// How many connections each user has.
    pub const fn users(&self) -> &Arc<ConnectionCounter<Arc<str>>> {
        &self.users
    }
}

/// Where a connection comes from. Kept only where that matters.
#[derive(Debug)]
pub(super) struct PeerAddress {
    /// Its address, canonical (an IPv4 address is never mapped into IPv6).
    pub(super) address: IpAddr,
    /// `None`: its address has too many connections.
    pub(super) counted: Option<Permit<AddressKey>>,
}

impl Shard {
    /// Whether [`Shard::opened`] needs the addresses of connections. Where it costs a driver something to
    /// find them out, it need not otherwise.
    pub fn needs_addresses(&self) -> bool {
        self.options.connections_per_address_max > 0 || self.options.auth_mode == AuthMode::Hook
    }

    /// Counts a connection that comes from `address`.
    pub(super) fn peer_address(&self, address: Option<IpAddr>) -> Option<PeerAddress> {
        let address = address.filter(|_| self.needs_addresses())?.to_canonical();
        let counted =
            self.limits.addresses.acquire(&address.into(), self.options.connections_per_address_max);
        Some(PeerAddress { address, counted })
    }
}
