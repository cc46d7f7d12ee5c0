//! The fan-out: audiences, and the sweep that brings each member up to its log's head.
//!
//! An audience is the members of one room on this shard that take one wire format. Publishing appends to its
//! log and touches no member. The sweep goes round the members and hands out, for each that is behind,
//! everything from its cursor to the head. It is sliced: after a budget of writes the shard looks for input
//! again, and what arrives meanwhile is taken along to every member that comes later in the pass. So under
//! load batches form by themselves, and a publication has reached every member once the pass has ended.
//!
//! A member is named by its *subscription*, which stays the same when members move in their audience. What is
//! done about slow members is chosen by the room (`SlowMember`) and carried out in `shard::slow`, when the
//! sweep returns `Overdue`.
//!
//! | file | purpose |
//! |---|---|
//! | `mod` | audiences and subscriptions: they come, go, publish |
//! | `audience` | one audience: its log, its members, whose turn is next |
//! | `sweep` | the next write, and its outcome |

mod audience;
mod sweep;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::app::WireFormat;
use crate::base::log::ChunkPool;
use crate::base::{AudienceId, ConnKey, RoomId, SubId, Time};
use crate::chat::{Position, RoomOptions};
pub use audience::Audience;
use audience::MemberCursor;
pub use sweep::{Missed, Offer, Progress, Sweep};

/// A member's subscription: its index in its audience, and the connection that its messages go to.
#[derive(Clone, Copy, Debug)]
struct Subscription {
    audience: AudienceId,
    member_index: u32,
    /// The slot of its connection; [`NO_CONN`]: its session has none at present.
    conn: u32,
}

/// The slot of no connection.
const NO_CONN: u32 = u32::MAX;

/// All audiences of a shard, and the queue of those that have something to send.
#[derive(Debug, Default)]
pub struct Fanout {
    audiences: Slab<Audience>,
    /// By [`SubId`].
    subscriptions: Vec<Subscription>,
    /// Places in `subscriptions` that are free.
    free: Vec<SubId>,
    pool: ChunkPool,
    queue: VecDeque<AudienceId>,
    /// Audiences that hold back their sweep for a moment (`coalesce`).
    coalescing: BinaryHeap<Reverse<(Time, AudienceId)>>,
    /// Writes that are left in this slice.
    slice: usize,
    /// How long the passes took that ended since the last look, for the histogram.
    timed: Vec<Duration>,
}

/// Bytes that are published while an audience waits for its time, at most: with more it is swept at once.
/// Without this bound the log would grow by everything that comes in meanwhile, and a slow member would be
/// found out too late.
const COALESCED_BYTES_MAX: u64 = 64 * 1024;

/// Writes in a slice: about half a millisecond. Long enough that looking for input costs nothing, short
/// enough that a new message waits little and that rooms take turns.
pub const SLICE_WRITES: usize = 128;

/// How far a publication has come on one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Members.
    pub members: usize,
    /// Of these, the ones that have not been sent it.
    pub unsent: usize,
    /// Those that are behind, and whose socket takes nothing.
    pub lagging: usize,
}

impl Fanout {
    /// A new audience without members.
    pub fn open(&mut self, room: RoomId, format: WireFormat, options: Arc<RoomOptions>) -> AudienceId {
        let index = self.audiences.insert(Audience::new(room, format, options));
        AudienceId(u32::try_from(index).expect("fewer audiences than connections"))
    }

    /// Removes an audience that has lost its last member.
    pub fn close(&mut self, id: AudienceId) {
        debug_assert!(self[id].is_empty());
        if self.audiences.remove(id.0 as usize).queued {
            self.queue.retain(|&queued| queued != id);
            self.coalescing.retain(|&Reverse((_, coalescing))| coalescing != id);
        }
    }

    /// Adds a member: it will get what is published from now on, once [`Fanout::set_ready`] is called.
    /// `shared`: its connection is in other rooms as well.
    pub fn subscribe(&mut self, id: AudienceId, conn: Option<ConnKey>, shared: bool) -> SubId {
        let conn = conn.map_or(NO_CONN, |conn| u32::try_from(conn.index()).unwrap_or(NO_CONN));
        let sub = self.free.pop().unwrap_or_else(|| {
            let next = u32::try_from(self.subscriptions.len()).expect("fewer members than 2^32");
            self.subscriptions.push(Subscription { audience: id, member_index: 0, conn });
            SubId::new(next)
        });
        let member_index = self.audiences[id.0 as usize].join(sub, shared);
        self.subscriptions[sub.index()] = Subscription { audience: id, member_index, conn };
        sub
    }

    /// Names a member that has no connection of its own by another slot.
    pub fn set_slot(&mut self, sub: SubId, slot: usize) {
        self.subscriptions[sub.index()].conn = u32::try_from(slot).unwrap_or(NO_CONN);
    }

    /// Takes a member out. Returns the rest of a frame that has begun to go out to it, which must still
    /// follow.
    pub fn unsubscribe(&mut self, sub: SubId) -> Vec<u8> {
        let Subscription { audience: id, member_index, .. } = self.subscriptions[sub.index()];
        let (audience, pool) = self.split(id);
        let rest = audience.rest_of_frame(member_index as usize);
        let (moved, behind) = audience.leave(member_index as usize, pool);
        if let Some(moved) = moved {
            self.subscriptions[moved.index()].member_index = member_index;
        }
        if behind {
            // A member was moved from before the sweep to behind it, perhaps.
            self.enqueue(id);
        }
        self.free.push(sub);
        rest
    }

    /// Appends a frame, which is the publication at `position`, or none; the sweep will bring it to every
    /// member.
    pub fn publish(&mut self, now: Time, id: AudienceId, frame: &Bytes, position: Option<Position>) {
        let (audience, pool) = self.split(id);
        audience.append(now, frame, position, pool);
        let hold = audience.options.coalesce;
        match audience.coalesced_from {
            Some(from) if audience.log.head().since(from) > COALESCED_BYTES_MAX => self.release(id),
            None if audience.queued => {}
            None if hold.is_zero() => self.enqueue(id),
            None => {
                audience.queued = true;
                audience.coalesced_from = Some(audience.log.head());
                self.coalescing.push(Reverse((now + hold, id)));
            }
            Some(_) => {}
        }
    }

    /// Lets an audience be swept that waits for its time.
    fn release(&mut self, id: AudienceId) {
        if let Some(audience) = self.audiences.get_mut(id.0 as usize)
            && audience.coalesced_from.take().is_some()
        {
            self.queue.push_back(id);
        }
    }

    /// Begins a turn: releases the audiences whose time has come and renews the slice.
    pub fn begin_slice(&mut self, now: Time) {
        self.slice = SLICE_WRITES;
        while let Some(&Reverse((due, id))) = self.coalescing.peek()
            && due <= now
        {
            self.coalescing.pop();
            self.release(id);
        }
    }

    /// How many bytes a member has not been sent.
    pub fn behind(&self, sub: SubId) -> u64 {
        let (audience, member) = self.member(sub);
        audience.behind(member)
    }

    /// Whether there is something for this member, and no member that the sweep comes to next has waited
    /// longer.
    pub fn is_next(&self, sub: SubId) -> bool {
        let (audience, member) = self.member(sub);
        let behind = audience.behind(member);
        behind > 0 && audience.coalesced_from.is_none() && behind >= audience.unswept_bytes()
    }

    /// Marks that a member's connection is in other rooms as well.
    pub fn share(&mut self, sub: SubId) {
        self.member_mut(sub).shared = true;
    }

    /// Whether a member's connection is in other rooms as well.
    pub fn is_shared(&self, sub: SubId) -> bool {
        self.member(sub).1.shared
    }

    /// Whether the last write to a member ended inside a frame.
    pub fn is_mid_frame(&self, sub: SubId) -> bool {
        self.member(sub).1.mid_frame
    }

    /// The slot of a member's connection.
    pub fn conn(&self, sub: SubId) -> usize {
        self.subscriptions[sub.index()].conn as usize
    }

    /// The audience of a member.
    pub fn audience_of(&self, sub: SubId) -> AudienceId {
        self.subscriptions[sub.index()].audience
    }

    /// Whether the sweep may write to a member.
    pub fn is_ready(&self, sub: SubId) -> bool {
        self.member(sub).1.ready
    }

    /// Lets the sweep write to a member, or no longer. When it is behind, the sweep comes to it.
    pub fn set_ready(&mut self, sub: SubId, ready: bool) {
        let Subscription { audience: id, member_index, .. } = self.subscriptions[sub.index()];
        let audience = &mut self[id];
        let head = audience.log.head();
        let member = &mut audience.members[member_index as usize];
        member.ready = ready;
        if ready && member.cursor != head {
            self.sweep_again(sub);
        }
    }

    /// Has the sweep return to a member.
    pub fn sweep_again(&mut self, sub: SubId) {
        let Subscription { audience: id, member_index, .. } = self.subscriptions[sub.index()];
        self[id].visit_again(member_index as usize);
        self.enqueue(id);
    }

    /// How many members of an audience have not been sent the publication at `offset` whole, and how many are
    /// behind at all with a socket that takes nothing.
    pub fn backlog(&self, id: AudienceId, offset: u64) -> Backlog {
        self[id].backlog(offset)
    }

    /// Bytes that the sweep has not yet offered to the member that has waited longest for them.
    pub fn unswept_bytes(&self, id: AudienceId) -> u64 {
        let audience = &self[id];
        if audience.due > 0 { audience.unswept_bytes() } else { 0 }
    }

    /// Whether anything is left to be swept.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the next audience that holds back is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.coalescing.peek().map(|&Reverse((due, _))| due)
    }

    /// How long the passes took that ended since the last call.
    pub fn take_timed(&mut self) -> std::vec::Drain<'_, Duration> {
        self.timed.drain(..)
    }

    /// Subscriptions that were alive at one time.
    pub fn capacity(&self) -> usize {
        self.subscriptions.len()
    }

    /// Checks every log, and that every member that is behind and may be written to will be visited. Returns
    /// the bytes that the largest log keeps. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn assert_invariants(&self) -> u64 {
        for (index, audience) in &self.audiences {
            audience.assert_invariants();
            for (member_index, member) in audience.members.iter().enumerate() {
                let subscription = self.subscriptions[member.sub.index()];
                let there = (subscription.audience.0 as usize, subscription.member_index as usize);
                assert_eq!(there, (index, member_index), "a subscription names its member");
            }
        }
        self.audiences.iter().map(|(_, audience)| audience.log.kept_bytes()).max().unwrap_or(0)
    }

    fn enqueue(&mut self, id: AudienceId) {
        let audience = &mut self.audiences[id.0 as usize];
        if !std::mem::replace(&mut audience.queued, true) {
            self.queue.push_back(id);
        }
    }

    fn member(&self, sub: SubId) -> (&Audience, &MemberCursor) {
        let Subscription { audience, member_index, .. } = self.subscriptions[sub.index()];
        let audience = &self.audiences[audience.0 as usize];
        (audience, &audience.members[member_index as usize])
    }

    fn member_mut(&mut self, sub: SubId) -> &mut MemberCursor {
        let Subscription { audience, member_index, .. } = self.subscriptions[sub.index()];
        &mut self.audiences[audience.0 as usize].members[member_index as usize]
    }

    fn split(&mut self, id: AudienceId) -> (&mut Audience, &mut ChunkPool) {
        (&mut self.audiences[id.0 as usize], &mut self.pool)
    }
}

impl std::ops::Index<AudienceId> for Fanout {
    type Output = Audience;

    fn index(&self, id: AudienceId) -> &Audience {
        &self.audiences[id.0 as usize]
    }
}

impl std::ops::IndexMut<AudienceId> for Fanout {
    fn index_mut(&mut self, id: AudienceId) -> &mut Audience {
        &mut self.audiences[id.0 as usize]
    }
}
