//! One audience: its log, its members, and whose turn is next.

use bytes::Bytes;
use std::sync::Arc;

use super::Backlog;
use crate::app::WireFormat;
use crate::base::log::{ChunkPool, Cursor, Log};
use crate::base::{RoomId, SubId, Time};
use crate::chat::{Epoch, Position, RoomOptions};

/// One reader of an audience's log: 16 bytes, in one dense array.
#[derive(Debug)]
pub(super) struct MemberCursor {
    pub(super) cursor: Cursor,
    pub(super) sub: SubId,
    /// Whether the sweep may write to it. Not while its socket takes nothing, nor while bytes of its
    /// connection's own wait, which go first.
    pub(super) ready: bool,
    /// Whether its connection is in other rooms as well.
    pub(super) shared: bool,
    /// The last write to it ended inside a frame: nothing else may be written to its connection before the
    /// frame's rest.
    pub(super) mid_frame: bool,
}

const _: () = assert!(size_of::<MemberCursor>() == 16);

/// The members of one room on this shard that take one form, and the log that they read.
#[derive(Debug)]
pub struct Audience {
    /// The room.
    pub room: RoomId,
    /// The form that its members take.
    pub format: WireFormat,
    /// What holds in the room.
    pub options: Arc<RoomOptions>,
    /// The epoch that its publications belong to, once there was one.
    pub(super) epoch: Option<Epoch>,
    pub(super) log: Log,
    pub(super) members: Vec<MemberCursor>,
    /// Where the sweep goes on.
    next: usize,
    /// How many members must still be visited until all have been offered everything: 0 when the pass has
    /// ended.
    pub(super) due: usize,
    /// Visits since ever.
    pub(super) visits: u64,
    /// The publication whose pass is timed: when it came, and the visit that ends its pass.
    pub(super) timed: Option<(Time, u64)>,
    /// Stands in the sweep's queue, or waits for its time to be put there.
    pub(super) queued: bool,
    /// Where the log ended when it began to wait for its time, if it does.
    pub(super) coalesced_from: Option<Cursor>,
}

/// What the sweep finds next.
#[derive(Debug)]
pub(super) enum Due {
    /// This member is behind and its socket takes data.
    Write(usize),
    /// This member is behind by more than the bound and its socket takes nothing.
    Overdue(usize),
    /// The pass has ended.
    Done,
}

/// A prime near the golden section of a thousand.
const START_STRIDE: usize = 619;

/// How far to look for a member that is not stuck, to learn how far behind the sweep is.
const UNSWEPT_SCAN_MAX: usize = 16;

impl Audience {
    pub(super) fn new(room: RoomId, format: WireFormat, options: Arc<RoomOptions>) -> Self {
        Self {
            room,
            format,
            options,
            epoch: None,
            log: Log::default(),
            members: Vec::new(),
            next: 0,
            due: 0,
            visits: 0,
            timed: None,
            queued: false,
            coalesced_from: None,
        }
    }

    /// Whether it has no members.
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a member at the head of the log; returns its index.
    pub(super) fn join(&mut self, sub: SubId, shared: bool) -> u32 {
        let cursor = self.log.join();
        let member_index = u32::try_from(self.members.len()).expect("fewer members than connections");
        self.members.push(MemberCursor { cursor, sub, ready: false, shared, mid_frame: false });
        // The new member may stand in the middle of what is still to be visited, if that reaches round the
        // end.
        self.due += usize::from(self.due > 0);
        member_index
    }

    /// Removes the member at `member_index`. Returns the one that was moved there, if one was, and whether
    /// the sweep must return to it.
    pub(super) fn leave(&mut self, member_index: usize, pool: &mut ChunkPool) -> (Option<SubId>, bool) {
        let gone = self.members.swap_remove(member_index);
        self.log.leave(gone.cursor, pool);
        let count = self.members.len();
        if self.next >= count {
            self.next = 0;
        }
        self.due = self.due.min(count);
        let Some(moved) = self.members.get(member_index) else { return (None, false) };
        let (sub, behind) = (moved.sub, moved.cursor != self.log.head());
        if behind {
            // It may have been moved from before the sweep to behind it.
            self.visit_again(member_index);
        }
        (Some(sub), behind)
    }

    /// Appends a frame and begins a pass behind it.
    pub(super) fn append(
        &mut self,
        now: Time,
        frame: &Bytes,
        position: Option<Position>,
        pool: &mut ChunkPool,
    ) {
        if let Some(position) = position {
            self.epoch = Some(position.epoch);
        }
        self.log.append(frame, position.map_or(0, |position| position.offset), pool);
        let count = self.members.len();
        if self.due == 0 {
            // Another beginning each time: no member is always last. The stride is odd and far from any
            // period.
            self.next = (self.next + START_STRIDE) % count.max(1);
        }
        self.due = count;
        if self.timed.is_none() {
            self.timed = Some((now, self.visits + count as u64));
        }
    }

    pub(super) fn next_due(&mut self, log_bytes_max: u64) -> Due {
        while self.due > 0 {
            let member_index = self.next;
            self.next = if member_index + 1 == self.members.len() { 0 } else { member_index + 1 };
            self.due -= 1;
            self.visits += 1;
            let member = &self.members[member_index];
            if member.cursor == self.log.head() {
                continue;
            }
            if member.ready {
                return Due::Write(member_index);
            }
            if self.behind(member) > log_bytes_max {
                return Due::Overdue(member_index);
            }
        }
        Due::Done
    }

    /// The members at which the sweep looks next, and after it; `None`: the pass ends with fewer than two.
    pub(super) fn upcoming(&self) -> Option<(SubId, SubId)> {
        let at = |index: usize| self.members.get(index).map(|member| member.sub);
        if self.due < 2 { None } else { Some((at(self.next)?, at(self.next + 1).or_else(|| at(0))?)) }
    }

    /// How many bytes a member has not been sent.
    pub(super) fn behind(&self, member: &MemberCursor) -> u64 {
        self.log.head().since(member.cursor)
    }

    /// How much the sweep has not yet offered to the member that has waited longest.
    pub(super) fn unswept_bytes(&self) -> u64 {
        let ahead = self.members[self.next..].iter().chain(&self.members[..self.next]);
        let next_ready = ahead.take(self.due.min(UNSWEPT_SCAN_MAX)).find(|member| member.ready);
        next_ready.map_or(0, |member| self.behind(member))
    }

    pub(super) fn visit_again(&mut self, member_index: usize) {
        let distance = (member_index + self.members.len() - self.next) % self.members.len();
        self.due = self.due.max(distance + 1);
    }

    /// The rest of the frame that the member at `member_index` is in the middle of.
    pub(super) fn rest_of_frame(&self, member_index: usize) -> Vec<u8> {
        let member = &self.members[member_index];
        if !member.mid_frame {
            return Vec::new();
        }
        self.log.copy_range(member.cursor, self.log.frame_boundary(member.cursor))
    }

    pub(super) fn backlog(&self, offset: u64) -> Backlog {
        if self.log.readers_behind() == 0 {
            return Backlog { members: self.members.len(), ..Backlog::default() };
        }
        let end = self.log.end_of(offset);
        let head = self.log.head();
        let count =
            |which: &dyn Fn(&MemberCursor) -> bool| self.members.iter().filter(|it| which(it)).count();
        Backlog {
            members: self.members.len(),
            unsent: end.map_or(0, |end| count(&|member| member.cursor < end)),
            lagging: count(&|member| !member.ready && member.cursor < head),
        }
    }

    pub(super) fn assert_invariants(&self) {
        self.log.assert_invariants();
        let behind = |member: &&MemberCursor| member.cursor != self.log.head();
        assert_eq!(self.members.iter().filter(behind).count(), self.log.readers_behind());
        let owed = self.members.iter().filter(|member| member.ready).any(|member| behind(&member));
        assert!(!owed || self.queued, "a member is behind, and no sweep is to come");
    }
}
