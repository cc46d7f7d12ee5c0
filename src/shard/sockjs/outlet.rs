//! Outlets: what a session over HTTP has for its client, and the request that receives it at present.

use super::{Service, Transport};
use crate::app::sockjs;
use crate::base::hash::{Map, Seed};
use crate::base::timer_wheel::TimerWheel;
use crate::base::{ConnKey, OutletKey, SessionKey, Table, Time};
use crate::http::Reject;
use crate::session::TextHandshake;
use crate::shard::http::Exchange;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a session lives without a request that receives.
pub(super) const ABSENCE_MAX: Duration = Duration::from_secs(5);

/// How long a second request waits for the end of the first one: the client may have left, and its end not
/// have been noticed yet.
pub(super) const CONTENTION: Duration = Duration::from_millis(20);

/// Bytes of a session's own messages that may wait in its outlet before it takes no more of its client's.
pub(super) const PENDING_BYTES_MAX: usize = 64 * 1024;

/// A request that receives.
#[derive(Debug)]
pub(in crate::shard) struct Receive {
    pub(super) service: Service,
    pub(super) session: Box<str>,
    pub(super) transport: Transport,
    /// The page's function.
    pub(super) callback: Box<str>,
    /// Who is there, and in which room, should the session begin with it.
    pub(super) client: Result<TextHandshake<'static>, Reject>,
    pub(super) exchange: Exchange,
}

/// The connection that receives.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) conn: ConnKey,
    pub(super) transport: Transport,
    /// The page's function.
    pub(super) callback: Box<str>,
    /// Bytes of frames that its answer has.
    pub(super) sent: usize,
}

/// What a session has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It is open.
    Open,
    /// It has ended: every request that receives gets this.
    Closed(u16, Box<str>),
}

/// An outlet.
#[derive(Debug)]
pub(super) struct Outlet {
    name: Box<str>,
    pub(super) service: Service,
    pub(super) state: State,
    /// It stands in the shard's queue of those with something to deliver.
    pub(super) is_due: bool,
    /// Its client knows that it is there.
    pub(super) is_announced: bool,
    /// Its session; `None`: it has none, or that has ended.
    pub(super) session: Option<SessionKey>,
    /// Messages of its own that were not received yet: strings, each with a comma behind it.
    pub(super) pending: Vec<u8>,
    pub(super) receiver: Option<Receiver>,
    /// A second one, which waits until it is sure that the first one is still there.
    pub(super) contender: Option<Receiver>,
    /// When the session is shown to be alive; or when it ends, if nobody receives.
    pub(super) due: Time,
}

/// The outlets of a shard. How many there are is bounded by the sessions: a new one is refused while as many
/// are there as connections may be.
#[derive(Debug)]
pub(in crate::shard) struct Outlets {
    table: Table<OutletKey, Outlet>,
    by_name: Map<Box<str>, OutletKey>,
    pub(super) wheel: TimerWheel,
    /// Those that have something to deliver.
    pub(super) due: VecDeque<OutletKey>,
    /// Those whose sessions have fallen too far behind.
    pub(in crate::shard) overdue: Vec<OutletKey>,
    /// The connection whose request begins a session.
    pub(in crate::shard) beginning: Option<ConnKey>,
}

impl Outlets {
    pub(in crate::shard) fn new(seed: &Seed) -> Self {
        Self {
            table: Table::default(),
            by_name: seed.map(),
            wheel: TimerWheel::default(),
            due: VecDeque::new(),
            overdue: Vec::new(),
            beginning: None,
        }
    }

    /// Whether there is something to do for one of them at once.
    pub(in crate::shard) fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.overdue.is_empty()
    }

    /// How many there are.
    pub(in crate::shard) fn len(&self) -> usize {
        self.table.len()
    }

    /// The sessions that have an outlet.
    pub(in crate::shard) fn sessions(&self) -> impl Iterator<Item = (OutletKey, SessionKey)> + '_ {
        self.table.keys().filter_map(|key| Some((key, self.table.get(key)?.session?)))
    }

    pub(super) fn keys(&self) -> Vec<OutletKey> {
        self.table.keys().collect()
    }

    /// Bytes of the largest of them.
    pub(in crate::shard) fn bytes_max(&self) -> usize {
        self.table.keys().filter_map(|key| Some(self.table.get(key)?.pending.capacity())).max().unwrap_or(0)
    }

    pub(super) fn find(&self, name: &str) -> Option<OutletKey> {
        self.by_name.get(name).copied()
    }

    pub(super) fn insert(&mut self, service: Service, session: &str) -> OutletKey {
        let name = name_of(service, session);
        let outlet = Outlet {
            name: name.clone(),
            service,
            state: State::Open,
            is_due: false,
            is_announced: false,
            session: None,
            pending: Vec::new(),
            receiver: None,
            contender: None,
            due: Time::NEVER,
        };
        let key = self.table.insert(outlet);
        self.by_name.insert(name, key);
        key
    }

    pub(in crate::shard) fn remove(&mut self, key: OutletKey) {
        if let Some(outlet) = self.table.remove(key) {
            self.by_name.remove(&outlet.name);
            self.wheel.cancel(key.index());
        }
    }

    pub(super) fn get(&self, key: OutletKey) -> Option<&Outlet> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: OutletKey) -> Option<&mut Outlet> {
        self.table.get_mut(key)
    }

    pub(in crate::shard) fn key_at(&self, index: usize) -> Option<OutletKey> {
        self.table.key_at(index)
    }

    /// When the next of them is due.
    pub(in crate::shard) fn next_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Whether an outlet holds as much as it may.
    pub(in crate::shard) fn is_full(&self, key: OutletKey) -> bool {
        self.get(key).is_some_and(|outlet| outlet.pending.len() > PENDING_BYTES_MAX)
    }
}

/// Two services may have sessions of one name.
pub(super) fn name_of(service: Service, session: &str) -> Box<str> {
    format!("{service:?} {session}").into()
}

impl Outlet {
    /// A message of its own waits to be received.
    pub(super) fn push(&mut self, text: &str) {
        sockjs::quote_into(&mut self.pending, text);
        self.pending.push(b',');
    }
}
