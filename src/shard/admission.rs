//! Which connections are served, and which are accepted only to be answered.
//!
//! A connection above the limit, or one that comes while the shard drains, is *surplus*: it gets one answer,
//! and its socket is closed as soon as that is written. Health checks and metrics are answered on it like on
//! any other, because that is when they are needed most; everything else gets status 503. Surplus connections
//! are few at a time and have a second each, so that clients that keep theirs open delay no other's answer.

use core::net::IpAddr;
use std::time::Duration;

use super::{Details, Shard, Slot};
use crate::base::ConnKey;
use crate::conn::Conn;
use crate::http::Reject;

/// Surplus connections of a shard that may be open at the same time; further ones wait in the kernel's queue.
pub const OVER_LIMIT_MAX: u64 = 32;

/// How long a surplus connection may take to send its request, and then to take the answer.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether one more connection may be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Within the limit.
    Accept,
    /// Above the limit: accepted to be refused with 503.
    OverLimit,
    /// The same, because the shard drains.
    Draining,
    /// Not now: leave it in the kernel's queue.
    Wait,
}

impl Shard {
    /// Whether another connection may be accepted.
    pub fn admission(&self) -> Admission {
        let is_draining = self.draining.is_some();
        if !is_draining && self.registry.connections() < self.options.connections_max {
            Admission::Accept
        } else if self.over_limit >= OVER_LIMIT_MAX {
            Admission::Wait
        } else if is_draining {
            Admission::Draining
        } else {
            Admission::OverLimit
        }
    }

    /// A connection was accepted, after [`Shard::admission`], from `address` if that is known (see
    /// [`Shard::needs_addresses`]).
    pub fn opened(&mut self, admission: Admission, address: Option<IpAddr>) -> ConnKey {
        let surplus = admission != Admission::Accept;
        self.metrics.accepted.add(1);
        let mut timeout = self.options.handshake_timeout;
        if surplus {
            self.over_limit += 1;
            self.metrics.surplus.add(1);
            timeout = timeout.min(SURPLUS_TIMEOUT);
        } else {
            self.metrics.connections.add(1);
        }
        let peer = self.peer_address(address);
        let details = peer.map(|peer| Box::new(Details { peer: Some(peer), ..Details::default() }));
        let key = self.conns.insert(Slot { conn: Conn::new(self.now, surplus), session: None, details });
        self.wheel.set(key.index(), self.now + timeout);
        key
    }

    /// The socket of a connection is closed: its slot is free.
    pub fn closed(&mut self, key: ConnKey) {
        let Some(Slot { conn, session, details }) = self.conns.remove(key) else { return };
        debug_assert!(session.is_none(), "a session ends before its connection's slot is free");
        self.wheel.cancel(key.index());
        self.uncount(&conn);
        match conn.endpoint() {
            Some(crate::conn::Endpoint::Stream(_)) => self.metrics.streams.sub(1),
            Some(_) => self.metrics.websockets.sub(1),
            None => {}
        }
        let waits = details.and_then(|details| details.http).is_some_and(|http| http.exchange.is_some());
        self.metrics.waiting_requests.sub(u64::from(waits));
        self.metrics.closes[conn.reason() as usize].add(1);
    }

    /// A connection is no longer one of this shard's.
    pub(super) fn uncount(&mut self, conn: &Conn) {
        if conn.over_limit {
            self.over_limit -= 1;
            self.metrics.surplus.sub(1);
        } else {
            self.metrics.connections.sub(1);
        }
    }

    /// Whether a drain has begun and no connection is left but surplus ones, which nothing waits for.
    pub fn is_drained(&self) -> bool {
        self.draining.is_some() && self.conns.len() as u64 == self.over_limit
    }

    /// Why a request on a surplus connection is refused.
    pub(super) const fn surplus_refusal(&self) -> Reject {
        if self.draining.is_some() { Reject::ShuttingDown } else { Reject::Overloaded }
    }

    /// How long the answer to a connection's last request may take to go out, where its state asks for
    /// `timeout`.
    pub(super) fn last_answer_timeout(surplus: bool, timeout: Option<Duration>) -> Option<Duration> {
        if surplus { timeout.map(|timeout| timeout.min(SURPLUS_TIMEOUT)) } else { timeout }
    }
}
