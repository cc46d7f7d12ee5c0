//! One room at its home.

use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::join::Waiting;
use crate::base::hash::Seed;
use crate::base::{ShardSet, Time};
use crate::chat::{ClientId, Draft, Forms, History, Member, Position, Presence, PresenceEvent, RoomOptions};
use crate::engine::ReplyTo;

/// Places that an empty queue keeps.
const KEPT_CAPACITY: usize = 16;

/// A shard with members of the room.
#[derive(Clone, Copy, Debug)]
struct Listener {
    shard: u16,
    forms: Forms,
    /// Bytes that were sent to it, and that it has not reported as offered to all its members.
    unswept: u64,
}

/// A room's history, its members, and the shards with members.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) name: Arc<str>,
    pub(super) options: Arc<RoomOptions>,
    pub(super) history: History,
    pub(super) presence: Presence,
    listeners: SmallVec<[Listener; 1]>,
    /// Drafts that wait until no shard is behind. Their senders are slowed down: each shard has only so many
    /// bytes of them incomplete.
    waiting: VecDeque<(Draft, ReplyTo)>,
    /// Weights of the drafts that the engine has not completed yet, in the order in which it will, and their
    /// sum.
    submitted: VecDeque<u32>,
    submitted_bytes: u64,
    /// Members that are announced, or not, against the room's rule.
    #[allow(clippy::box_collection, reason = "rarely there: a pointer instead of three words")]
    unusual: Option<Box<BTreeSet<ClientId>>>,
    /// Clients that wait for a page of the engine's.
    pub(super) joining: Option<Box<Waiting>>,
    /// Until when clients that poll are members.
    #[allow(clippy::box_collection, reason = "rarely there: a pointer instead of three words")]
    pub(super) leases: Option<Box<BTreeMap<ClientId, Time>>>,
    /// Its members will receive presence events.
    events_pending: bool,
    /// Clients and users as they were last counted, and when.
    pub(super) counted: Option<(Time, usize, usize)>,
    /// Until when it is kept without members, since the last one left.
    pub(super) kept_until: Option<Time>,
    /// Under which time it stands in the queue of those that are kept, if it does: at most `kept_until`.
    pub(super) queued_until: Option<Time>,
    /// When it was last used, while it stands among those whose histories may be evicted.
    pub(super) used: Option<Time>,
}

impl Home {
    /// An empty room at position `top`.
    pub(super) fn new(name: Arc<str>, options: Arc<RoomOptions>, top: Position, seed: &Seed) -> Self {
        Self {
            name,
            options,
            history: History::new(top),
            presence: Presence::new(seed),
            listeners: SmallVec::new(),
            waiting: VecDeque::new(),
            submitted: VecDeque::new(),
            submitted_bytes: 0,
            unusual: None,
            joining: None,
            leases: None,
            events_pending: false,
            counted: None,
            kept_until: None,
            queued_until: None,
            used: None,
        }
    }

    /// A shard has members for these forms from now on.
    pub(super) fn listen(&mut self, shard: usize, forms: Forms) {
        let shard = u16::try_from(shard).unwrap_or(u16::MAX);
        match self.listeners.iter().position(|listener| listener.shard == shard) {
            Some(index) if forms.is_empty() => drop(self.listeners.swap_remove(index)),
            Some(index) => self.listeners[index].forms = forms,
            None if forms.is_empty() => {}
            None => self.listeners.push(Listener { shard, forms, unswept: 0 }),
        }
    }

    /// The shards with members.
    pub(super) fn listeners(&self) -> ShardSet {
        let mut shards = ShardSet::default();
        self.listeners.iter().for_each(|listener| shards.insert(usize::from(listener.shard)));
        shards
    }

    /// The forms in which the room is wanted.
    pub(super) fn forms(&self) -> Forms {
        self.listeners.iter().fold(Forms::default(), |all, listener| all.union(listener.forms))
    }

    /// So many bytes went to every listener.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.listeners.iter_mut().for_each(|listener| listener.unswept += bytes);
    }

    /// A listener has offered so many bytes to all its members. It may have been counted anew since they were
    /// sent.
    pub(super) fn swept(&mut self, shard: usize, bytes: u64) {
        let listener = self.listeners.iter_mut().find(|listener| usize::from(listener.shard) == shard);
        if let Some(listener) = listener {
            listener.unswept = listener.unswept.saturating_sub(bytes);
        }
    }

    /// Whether a shard is behind by more than `bytes_max`, counting what is still to be ordered.
    pub(super) fn is_congested(&self, bytes_max: u64) -> bool {
        let slowest = self.listeners.iter().map(|listener| listener.unswept).max();
        slowest.is_some_and(|unswept| unswept + self.submitted_bytes > bytes_max)
    }

    /// Keeps a draft until no shard is behind.
    pub(super) fn wait(&mut self, draft: Draft, reply_to: ReplyTo) {
        self.waiting.push_back((draft, reply_to));
    }

    /// Whether drafts wait.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The draft that has waited longest.
    pub(super) fn next_waiting(&mut self) -> Option<(Draft, ReplyTo)> {
        let next = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
        next
    }

    /// A draft goes to the engine.
    pub(super) fn submitted(&mut self, draft: &Draft) {
        let weight = u32::try_from(draft.weight()).unwrap_or(u32::MAX);
        self.submitted.push_back(weight);
        self.submitted_bytes += u64::from(weight);
    }

    /// The engine has completed the draft that it had longest; returns its weight.
    pub(super) fn draft_completed(&mut self) -> u64 {
        let weight = self.submitted.pop_front();
        debug_assert!(weight.is_some(), "a draft is completed once");
        let weight = u64::from(weight.unwrap_or(0));
        self.submitted_bytes -= weight;
        if self.submitted.is_empty() && self.submitted.capacity() > KEPT_CAPACITY {
            self.submitted = VecDeque::new();
        }
        weight
    }

    /// A client joins. `presence` and `join_leave` are its own, where they differ from the room's.
    pub(super) fn join(&mut self, member: Member, presence: Option<bool>, join_leave: Option<bool>) {
        if !presence.unwrap_or(self.options.presence) {
            return;
        }
        let few = self.presence.len() < self.options.join_leave_members_max;
        let announced = join_leave.unwrap_or(self.options.join_leave);
        if announced != self.options.join_leave {
            self.unusual.get_or_insert_default().insert(member.person.client);
        }
        self.presence.join(member, few && announced);
    }

    /// Whether a client polls, and is a member between two polls.
    pub(super) fn has_lease(&self, client: ClientId) -> bool {
        self.leases.as_ref().is_some_and(|leases| leases.contains_key(&client))
    }

    /// A client goes out.
    pub(super) fn leave(&mut self, client: ClientId) {
        let few = self.presence.len() <= self.options.join_leave_members_max;
        let unusual = self.unusual.as_mut().is_some_and(|unusual| unusual.remove(&client));
        self.presence.leave(client, few && self.options.join_leave != unusual);
        if self.presence.is_empty() {
            self.unusual = None;
        }
    }

    /// Removes waiting joins of clients that match `is_meant`, which gets their shard too.
    pub(super) fn give_up_joins(&mut self, is_meant: impl Fn(usize, &Member) -> bool) {
        if let Some(waiting) = &mut self.joining {
            waiting.give_up(is_meant);
        }
    }

    /// Removes all clients that match `is_meant`.
    pub(super) fn leave_all(&mut self, is_meant: &impl Fn(&Member) -> bool) {
        let gone: Vec<_> =
            self.presence.members().filter(|member| is_meant(member)).map(|it| it.person.client).collect();
        gone.into_iter().for_each(|client| self.leave(client));
    }

    /// Whether an announcement of presence events is to be planned: there are events, and none is planned.
    pub(super) fn begin_events(&mut self) -> bool {
        let begins = !self.events_pending && self.presence.has_pending_events();
        self.events_pending |= begins;
        begins
    }

    /// Takes what is to be announced.
    pub(super) fn take_events(&mut self) -> Vec<PresenceEvent> {
        self.events_pending = false;
        self.presence.take_pending_events()
    }

    /// Bytes of drafts that are not ordered, and clients that wait for a page.
    pub(super) fn usage(&self) -> (u64, usize) {
        let waiting: usize = self.waiting.iter().map(|(draft, _)| draft.weight()).sum();
        (waiting as u64 + self.submitted_bytes, self.joining.as_ref().map_or(0, |waiting| waiting.len()))
    }

    /// Whether it has no members, not even between two polls, and nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.waiting.is_empty()
            && self.submitted.is_empty()
            && self.joining.is_none()
            && self.leases.is_none()
    }
}
