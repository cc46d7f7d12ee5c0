//! How many there are of each: connections of a user, of an address. Shared by all shards, touched when a
//! connection comes and when it goes, and only where there is a bound.

use core::net::IpAddr;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use super::hash::{Map, Seed};

/// Locks, so that shards seldom meet at one.
const PARTS: usize = 16;

/// Counts by key. A key without connections takes no memory.
#[derive(Debug)]
pub struct ConnectionCounter<K> {
    seed: Seed,
    parts: [Mutex<Map<K, u32>>; PARTS],
}

impl<K: Hash + Eq + Clone> ConnectionCounter<K> {
    /// An empty counter. Clients choose the keys: `seed` keeps them from aiming at one bucket.
    pub fn new(seed: &Seed) -> Self {
        Self { seed: seed.clone(), parts: std::array::from_fn(|_| Mutex::new(seed.map())) }
    }

    /// Counts one more connection of `key`, unless there are `max` already. It is counted until the permit is
    /// dropped. With `max` = 0 the permit is not counted: a later limit does not see that connection.
    pub fn acquire(self: &Arc<Self>, key: &K, max: u32) -> Option<Permit<K>> {
        if max == 0 {
            return Some(Permit(None));
        }
        let mut part = self.part(key).lock().unwrap_or_else(PoisonError::into_inner);
        match part.get_mut(key) {
            Some(count) if *count >= max => return None,
            Some(count) => *count += 1,
            None => drop(part.insert(key.clone(), 1)),
        }
        Some(Permit(Some((Arc::clone(self), key.clone()))))
    }

    /// How many of `key` are counted now.
    pub fn count(&self, key: &K) -> u32 {
        let part = self.part(key).lock().unwrap_or_else(PoisonError::into_inner);
        part.get(key).copied().unwrap_or(0)
    }

    /// How many keys have a connection.
    pub fn keys(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn part(&self, key: &K) -> &Mutex<Map<K, u32>> {
        &self.parts[self.seed.spread(key, PARTS)]
    }
}

/// One counted connection. It is released on drop.
#[derive(Debug)]
#[must_use = "it is counted until this is dropped"]
pub struct Permit<K: Hash + Eq + Clone>(Option<(Arc<ConnectionCounter<K>>, K)>);

impl<K: Hash + Eq + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let Some((counter, key)) = &self.0 else { return };
        let mut part = counter.part(key).lock().unwrap_or_else(PoisonError::into_inner);
        match part.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(part.remove(key)),
            None => debug_assert!(false, "a released key was counted"),
        }
        // Many released keys give their memory back.
        if part.capacity() > 64 && part.len() < part.capacity() / 8 {
            part.shrink_to_fit();
        }
    }
}

/// What counts as one address: all of an IPv4 one, the network (/64) of an IPv6 one, whose host part is the
/// client's own choice (RFC 4291 §2.5.4, RFC 8981).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressKey {
    /// An IPv4 address, also one that is mapped into IPv6 (`::ffff:a.b.c.d`).
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact() {
        let counter = Arc::new(ConnectionCounter::<Arc<str>>::new(&Seed::new(3)));
        let (ann, bob) = (Arc::from("ann"), Arc::from("bob"));
        let first = counter.acquire(&ann, 2);
        let _second = counter.acquire(&ann, 2);
        assert!(first.is_some() && counter.acquire(&ann, 2).is_none());
        assert!(counter.acquire(&bob, 2).is_some(), "another user has a bound of its own");
        drop(first);
        assert!(counter.acquire(&ann, 2).is_some(), "a dropped permit frees one");
        assert!(counter.acquire(&ann, 1).is_none(), "a lower limit holds for later connections");
    }

    #[test]
    fn released_connections_free_their_memory() {
        let counter = Arc::new(ConnectionCounter::new(&Seed::new(3)));
        let permits: Vec<_> = (0..10_000_u32).map(|key| counter.acquire(&key, 1).unwrap()).collect();
        assert_eq!(counter.keys(), 10_000);
        drop(permits);
        assert_eq!(counter.keys(), 0);
        let memory: usize = counter.parts.iter().map(|part| part.lock().unwrap().capacity()).sum();
        assert!(memory < 10_000 / 4, "{memory}");
    }

    #[test]
    fn connections_without_a_limit_are_not_counted() {
        let counter = Arc::new(ConnectionCounter::new(&Seed::new(3)));
        let permit = counter.acquire(&1, 0);
        assert_eq!((permit.is_some(), counter.keys()), (true, 0));
    }

    #[test]
    fn addresses_are_grouped_by_network() {
        let origin = |text: &str| AddressKey::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
