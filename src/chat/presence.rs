//! The members of a room, and presence events that are not announced yet.

use hashbrown::HashTable;

use super::{ClientId, Member};
use crate::base::hash::Seed;

/// A member has joined or left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PresenceEvent {
    /// Into the room.
    Join(Member),
    /// Out of it.
    Leave(Member),
}

impl PresenceEvent {
    /// The member.
    pub const fn member(&self) -> &Member {
        match self {
            Self::Join(member) | Self::Leave(member) => member,
        }
    }
}

/// The members of one room. Exists once: on the room's home shard.
#[derive(Debug)]
pub struct Presence {
    /// By the client's id, which stands in the member itself: 16 bytes each.
    members: HashTable<Member>,
    seed: Seed,
    /// Events that are not announced yet: for each client a leave, a join, or a leave with a join behind it.
    pending_events: Vec<PresenceEvent>,
}

impl Presence {
    /// An empty room.
    pub fn new(seed: &Seed) -> Self {
        Self { members: HashTable::new(), seed: seed.clone(), pending_events: Vec::new() }
    }

    /// A client joins that is not a member; `announced`: the other members receive an event.
    pub fn join(&mut self, member: Member, announced: bool) {
        let seed = &self.seed;
        let hash = |member: &Member| seed.hash(&member.person.client);
        let is_same = |other: &Member| other.person.client == member.person.client;
        if self.members.find(hash(&member), is_same).is_some() {
            debug_assert!(false, "a client comes in once");
            return;
        }
        if announced {
            self.pending_events.push(PresenceEvent::Join(member.clone()));
        }
        self.members.insert_unique(hash(&member), member, hash);
    }

    /// A member leaves. A member that joins and leaves between two batches is not announced.
    pub fn leave(&mut self, client: ClientId, announced: bool) {
        let is_meant = |member: &Member| member.person.client == client;
        let Ok(entry) = self.members.find_entry(self.seed.hash(&client), is_meant) else { return };
        let (member, _) = entry.remove();
        let is_join = |event: &PresenceEvent| matches!(event, PresenceEvent::Join(member) if member.person.client == client);
        match self.pending_events.iter().position(is_join) {
            // What remains of this client, if anything, is the leave of an earlier membership.
            Some(index) => {
                self.pending_events.remove(index);
            }
            None if announced => self.pending_events.push(PresenceEvent::Leave(member)),
            None => {}
        }
        if self.members.is_empty() {
            self.members = HashTable::new();
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members, in no order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// How many users there are: one may have several connections, and all anonymous clients count as one.
    pub fn users(&self) -> usize {
        let mut users: Vec<&str> = self.members.iter().map(|member| member.person.user()).collect();
        users.sort_unstable();
        users.dedup();
        users.len()
    }

    /// Whether there are pending events.
    pub fn has_pending_events(&self) -> bool {
        !self.pending_events.is_empty()
    }

    /// Takes the pending events.
    pub fn take_pending_events(&mut self) -> Vec<PresenceEvent> {
        std::mem::take(&mut self.pending_events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Person;
    use std::sync::Arc;

    fn member(number: u128, user: &str) -> Member {
        let client = ClientId::new(0, number << 64);
        Member::new(Arc::new(Person::new(client, user.into(), user.into(), None)), None)
    }

    #[test]
    fn a_member_that_joins_and_leaves_between_two_batches_is_not_announced() {
        let mut presence = Presence::new(&Seed::new(1));
        let (ann, bob) = (member(1, "ann"), member(2, "bob"));
        presence.join(ann.clone(), true);
        presence.join(bob.clone(), true);
        presence.leave(ann.person.client, true);
        assert_eq!(presence.take_pending_events(), [PresenceEvent::Join(bob.clone())]);
        presence.leave(bob.person.client, true);
        presence.leave(bob.person.client, true);
        assert_eq!(presence.take_pending_events(), [PresenceEvent::Leave(bob)]);
        assert!(presence.is_empty() && !presence.has_pending_events());
    }

    #[test]
    fn a_member_that_leaves_again_and_again_between_two_batches_has_left() {
        let mut presence = Presence::new(&Seed::new(1));
        let ann = member(1, "ann");
        presence.join(ann.clone(), true);
        presence.take_pending_events();
        for _ in 0..3 {
            presence.leave(ann.person.client, true);
            presence.join(ann.clone(), true);
        }
        let events = [PresenceEvent::Leave(ann.clone()), PresenceEvent::Join(ann.clone())];
        assert_eq!(presence.take_pending_events(), events);
        for _ in 0..3 {
            presence.leave(ann.person.client, true);
            presence.join(ann.clone(), true);
        }
        presence.leave(ann.person.client, true);
        assert_eq!(presence.take_pending_events(), [PresenceEvent::Leave(ann)]);
    }

    #[test]
    fn users_are_counted_once() {
        let mut presence = Presence::new(&Seed::new(1));
        for (number, user) in [(1, "ann"), (2, "bob"), (3, "ann"), (4, ""), (5, "")] {
            presence.join(member(number, user), false);
        }
        assert_eq!((presence.len(), presence.users()), (5, 3));
    }
}
