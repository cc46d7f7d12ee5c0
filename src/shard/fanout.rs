//! The fan-out: audiences, and the sweep that brings each member up to its log's head.
//!
//! An audience is the members of one room on this shard that take one wire format. Publishing appends to
//! its log and touches no member. The sweep goes round the members in a circle and hands out, for each that is
//! behind, everything from its cursor to the head. It is sliced: after a budget of writes the shard looks
//! for input again, and what arrives meanwhile is taken along to every member that comes later in the circle. So under load
//! batches form by themselves, and a publication has reached everybody once the circle has closed.
//!
//! Which members cannot keep up is found out when the sweep comes to them, in `Audience::next_due`, or when it has filled their
//! sockets, in `Shard::block_seat`; what becomes of them is decided in
//! `Shard::overdue`, and nowhere else.

use bytes::Bytes;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::rooms::RoomId;
use crate::app::WireFormat;
use crate::base::log::{ChunkPool, Cursor, Log};
use crate::base::{ConnKey, Time};
use crate::chat::{Epoch, Position, RoomOptions};

/// Names an audience of this shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AudienceId(u32);

/// Where a connection stands in the audience that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    /// The audience.
    pub audience: AudienceId,
    /// The place among its members; changes when another one leaves.
    pub place: u32,
}

/// One reader of an audience's log: 16 bytes, in one dense array.
#[derive(Debug)]
struct Member {
    cursor: Cursor,
    /// The slot of its connection.
    conn: u32,
    /// Whether the sweep may write to it. Not while its socket takes nothing, nor while bytes of its own
    /// wait, which go first.
    ready: bool,
    /// Whether its connection sits in other rooms as well.
    shared: bool,
}

const _: () = assert!(size_of::<Member>() == 16);

/// The members of one room on this shard that take one format, and the log that they read.
#[derive(Debug)]
pub struct Audience {
    /// The room.
    pub room: RoomId,
    /// What its members speak.
    pub format: WireFormat,
    /// What holds in the room.
    pub options: Arc<RoomOptions>,
    /// The room's life that its publications belong to.
    epoch: Epoch,
    log: Log,
    members: Vec<Member>,
    /// Where the sweep goes on.
    next: usize,
    /// How many members must still be visited until all have been offered everything: 0 when the circle is closed.
    due: usize,
    /// Visits since ever.
    visits: u64,
    /// The publication whose way round is timed: when it came, and the visit that closes its circle.
    timed: Option<(Time, u64)>,
    /// Stands in the sweep's queue, or waits for its time to be put there.
    queued: bool,
    /// Where the log ended when it began to wait for its time, if it does.
    held_from: Option<Cursor>,
}

/// What the sweep found next.
#[derive(Debug)]
enum Due {
    /// This member is behind and its socket takes data.
    Write(usize),
    /// This member is behind by more than the bound and its socket takes nothing.
    Overdue(usize),
    /// The circle is closed.
    Done,
}

impl Audience {
    fn next_due(&mut self, log_bytes_max: u64) -> Due {
        while self.due > 0 {
            let place = self.next;
            self.next = if place + 1 == self.members.len() { 0 } else { place + 1 };
            self.due -= 1;
            self.visits += 1;
            let member = &self.members[place];
            if member.cursor == self.log.head() {
                continue;
            }
            if member.ready {
                return Due::Write(place);
            }
            if self.behind(member) > log_bytes_max {
                return Due::Overdue(place);
            }
        }
        Due::Done
    }

    /// How many bytes a member has not been sent.
    fn behind(&self, member: &Member) -> u64 {
        self.log.head().since(member.cursor)
    }

    /// How much the sweep has not yet offered to the member that has waited longest.
    fn unswept_bytes(&self) -> u64 {
        let ahead = self.members[self.next..].iter().chain(&self.members[..self.next]);
        let next_ready = ahead.take(self.due.min(UNSWEPT_SCAN_MAX)).find(|member| member.ready);
        next_ready.map_or(0, |member| self.behind(member))
    }

    fn visit_again(&mut self, place: usize) {
        let distance = (place + self.members.len() - self.next) % self.members.len();
        self.due = self.due.max(distance + 1);
    }
}

/// How far to look for a member that is not stuck, to learn how far behind the sweep is.
const UNSWEPT_SCAN_MAX: usize = 16;

/// Bytes to be written to one member: everything from its cursor on that lies in one piece, or all pieces.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The slot of the member's connection.
    pub conn: usize,
    log: &'a Log,
    from: Cursor,
}

impl<'a> Offer<'a> {
    /// The bytes, when they are contiguous: the usual case, for which one `send` is enough.
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        self.log.is_contiguous(self.from).then(|| self.log.first(self.from))
    }

    /// The bytes as slices; returns how many were filled in.
    pub fn gather(&self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        self.log.gather(self.from, slices)
    }
}

/// What a write did for a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Publications that went out whole.
    pub delivered: u64,
    /// Whether the member has everything now.
    pub caught_up: bool,
    /// Whether the write ended inside a frame.
    pub torn: bool,
}

/// What the sweep wants of the shard.
#[derive(Clone, Copy, Debug)]
pub enum Sweep {
    /// Write [`Fanout::offer`] to this seat's connection.
    Write(Seat),
    /// The room's policy for slow members is due for this seat.
    Overdue(Seat),
    /// Nothing more in this slice.
    Idle,
}

/// All audiences of a shard, and the queue of those that have something to send.
#[derive(Debug, Default)]
pub struct Fanout {
    audiences: Slab<Audience>,
    pool: ChunkPool,
    queue: VecDeque<AudienceId>,
    /// Audiences that hold back their sweep for a moment (`coalesce`).
    held: BinaryHeap<Reverse<(Time, AudienceId)>>,
    /// Visits that are left in this slice.
    slice: usize,
    /// Circles that closed since the last look, for the histogram.
    timed: Vec<Duration>,
}

/// Bytes that are published while an audience waits for its time, at most: with more it is swept at once. Without this bound the
/// log would grow by whatever comes in meanwhile, and who is too slow for it would be found out too late.
const HELD_BYTES_MAX: u64 = 64 * 1024;

/// Writes in a slice: about half a millisecond. Long enough that looking for input costs nothing, short enough that a new
/// message waits little and that rooms take turns.
pub const SLICE_WRITES: usize = 128;

impl Fanout {
    /// A new audience without members.
    pub fn open(&mut self, room: RoomId, format: WireFormat, options: Arc<RoomOptions>) -> AudienceId {
        let audience = Audience {
            room,
            format,
            options,
            epoch: Epoch(0),
            log: Log::default(),
            members: Vec::new(),
            next: 0,
            due: 0,
            visits: 0,
            timed: None,
            queued: false,
            held_from: None,
        };
        AudienceId(u32::try_from(self.audiences.insert(audience)).expect("fewer audiences than connections"))
    }

    /// Removes an audience that has lost its last member.
    pub fn close(&mut self, id: AudienceId) {
        debug_assert!(self[id].members.is_empty());
        if self.audiences.remove(id.0 as usize).queued {
            self.queue.retain(|&queued| queued != id);
            self.held.retain(|&Reverse((_, held))| held != id);
        }
    }

    /// Seats a connection: it will get what is published from now on, once [`Fanout::set_ready`] is called. `shared`: it sits in
    /// other rooms as well.
    pub fn join(&mut self, id: AudienceId, conn: ConnKey, shared: bool) -> Seat {
        let audience = &mut self[id];
        let cursor = audience.log.join();
        let place = u32::try_from(audience.members.len()).expect("fewer members than connections");
        let conn = u32::try_from(conn.index()).expect("slots are u32");
        audience.members.push(Member { cursor, conn, ready: false, shared });
        // The newcomer may stand in the middle of what is still to be visited, if that reaches round the end.
        audience.due += usize::from(audience.due > 0);
        Seat { audience: id, place }
    }

    /// Takes a member out. Returns the connection that was moved into its place, if one was: its seat is `seat` now.
    pub fn leave(&mut self, seat: Seat) -> Option<usize> {
        let (audience, pool) = self.split(seat.audience);
        let place = seat.place as usize;
        let gone = audience.members.swap_remove(place);
        audience.log.leave(gone.cursor, pool);
        let count = audience.members.len();
        if audience.next >= count {
            audience.next = 0;
        }
        audience.due = audience.due.min(count);
        let moved = audience.members.get(place)?;
        let (conn, behind) = (moved.conn as usize, moved.cursor != audience.log.head());
        if behind {
            // It may have been moved from before the sweep to behind it.
            audience.visit_again(place);
            self.enqueue(seat.audience);
        }
        Some(conn)
    }

    /// Appends a frame, which is the publication at `position`, or none; the sweep will bring it to everybody.
    pub fn publish(&mut self, now: Time, id: AudienceId, frame: &Bytes, position: Option<Position>) {
        let (audience, pool) = self.split(id);
        if let Some(position) = position {
            audience.epoch = position.epoch;
        }
        audience.log.append(frame, position.map_or(0, |position| position.offset), pool);
        let hold = audience.options.coalesce;
        let count = audience.members.len();
        if audience.due == 0 {
            // Another beginning each time: nobody is always last. The stride is odd and far from any period.
            audience.next = (audience.next + START_STRIDE) % count.max(1);
        }
        audience.due = count;
        if audience.timed.is_none() {
            audience.timed = Some((now, audience.visits + count as u64));
        }
        match audience.held_from {
            Some(from) if audience.log.head().since(from) > HELD_BYTES_MAX => self.release(id),
            None if audience.queued => {}
            None if hold.is_zero() => self.enqueue(id),
            None => {
                audience.queued = true;
                audience.held_from = Some(audience.log.head());
                self.held.push(Reverse((now + hold, id)));
            }
            Some(_) => {}
        }
    }

    /// Lets an audience be swept that waits for its time.
    fn release(&mut self, id: AudienceId) {
        if let Some(audience) = self.audiences.get_mut(id.0 as usize)
            && audience.held_from.take().is_some()
        {
            self.queue.push_back(id);
        }
    }

    /// Begins a turn: releases the audiences whose time has come and renews the slice.
    pub fn begin_slice(&mut self, now: Time) {
        self.slice = SLICE_WRITES;
        while let Some(&Reverse((due, id))) = self.held.peek()
            && due <= now
        {
            self.held.pop();
            self.release(id);
        }
    }

    /// What to do next. After [`Sweep::Write`] comes [`Fanout::wrote`].
    pub fn poll(&mut self, now: Time, log_bytes_max: u64) -> Sweep {
        while let Some(&id) = self.queue.front() {
            if self.slice == 0 {
                self.queue.rotate_left(1); // the others' turn first, next time
                return Sweep::Idle;
            }
            let audience = &mut self.audiences[id.0 as usize];
            let due = audience.next_due(log_bytes_max);
            // Members that left have made the circle shorter than it was going to be.
            if let Some((since, closes)) = audience.timed
                && (audience.visits >= closes || matches!(due, Due::Done))
            {
                audience.timed = None;
                self.timed.push(now.since(since));
            }
            let seat = |place| Seat { audience: id, place: u32::try_from(place).expect("places are u32") };
            match due {
                Due::Write(place) => {
                    self.slice -= 1;
                    return Sweep::Write(seat(place));
                }
                Due::Overdue(place) => return Sweep::Overdue(seat(place)),
                Due::Done => {
                    audience.queued = false;
                    self.queue.pop_front();
                }
            }
        }
        Sweep::Idle
    }

    /// What a member is to be sent.
    pub fn offer(&self, seat: Seat) -> Offer<'_> {
        let audience = &self[seat.audience];
        let member = &audience.members[seat.place as usize];
        Offer { conn: member.conn as usize, log: &audience.log, from: member.cursor }
    }

    /// Moves a member on by what the kernel took. A member that is not caught up is not visited by the sweep until
    /// [`Fanout::set_ready`] or [`Fanout::sweep_again`].
    pub fn wrote(&mut self, seat: Seat, len: usize) -> Progress {
        let (audience, pool) = self.split(seat.audience);
        let member = &mut audience.members[seat.place as usize];
        let from = member.cursor;
        let to = from.plus(len);
        member.cursor = to;
        let log = &mut audience.log;
        let progress = Progress {
            delivered: log.frames_between(from, to),
            caught_up: to == log.head(),
            torn: to != log.head() && log.frame_boundary(to) != to,
        };
        log.advance(from, to, pool);
        progress
    }

    /// How many bytes a member has not been sent.
    pub fn behind(&self, seat: Seat) -> u64 {
        let audience = &self[seat.audience];
        audience.behind(&audience.members[seat.place as usize])
    }

    /// Whether there is something for this member, and nobody whom the sweep comes to next has waited longer.
    pub fn is_next(&self, seat: Seat) -> bool {
        let (audience, behind) = (&self[seat.audience], self.behind(seat));
        behind > 0 && audience.held_from.is_none() && behind >= audience.unswept_bytes()
    }

    /// Says that a member's connection sits in other rooms as well.
    pub fn share(&mut self, seat: Seat) {
        self[seat.audience].members[seat.place as usize].shared = true;
    }

    /// Whether a member's connection sits in other rooms as well.
    pub fn is_shared(&self, seat: Seat) -> bool {
        self[seat.audience].members[seat.place as usize].shared
    }

    /// The slot of a member's connection.
    pub fn conn(&self, seat: Seat) -> usize {
        self[seat.audience].members[seat.place as usize].conn as usize
    }

    /// Whether the sweep may write to a member.
    pub fn is_ready(&self, seat: Seat) -> bool {
        self[seat.audience].members[seat.place as usize].ready
    }

    /// Lets the sweep write to a member, or no longer. When it is behind, the sweep comes to it.
    pub fn set_ready(&mut self, seat: Seat, ready: bool) {
        let audience = &mut self[seat.audience];
        let member = &mut audience.members[seat.place as usize];
        member.ready = ready;
        if ready && member.cursor != audience.log.head() {
            self.sweep_again(seat);
        }
    }

    /// Has the sweep come back to a member.
    pub fn sweep_again(&mut self, seat: Seat) {
        self[seat.audience].visit_again(seat.place as usize);
        self.enqueue(seat.audience);
    }

    /// Moves a member to the head, or to the newest publication.
    pub fn jump(&mut self, seat: Seat, target: Jump) -> Missed {
        let (audience, pool) = self.split(seat.audience);
        let log = &mut audience.log;
        let member = &mut audience.members[seat.place as usize];
        let from = member.cursor;
        let boundary = log.frame_boundary(from);
        let to = match target {
            Jump::Head => log.head(),
            Jump::Newest => log.newest_publication().max(boundary),
        };
        let rest = log.copy_range(from, boundary);
        let count = log.frames_between(boundary, to);
        let epoch = audience.epoch;
        let before = |first: u64| Position { epoch, offset: first - 1 };
        let after = log.first_offset_after(boundary).map(before);
        member.cursor = to;
        log.advance(from, to, pool);
        Missed { count, after, rest }
    }

    /// How many members of an audience have not been sent the publication at `offset` whole, and how many are behind at all with
    /// a socket that takes nothing.
    pub fn backlog(&self, id: AudienceId, offset: u64) -> Backlog {
        let audience = &self[id];
        let end = audience.log.end_of(offset);
        let head = audience.log.head();
        let count = |which: &dyn Fn(&Member) -> bool| audience.members.iter().filter(|it| which(it)).count();
        Backlog {
            members: audience.members.len(),
            unsent: end.map_or(0, |end| count(&|member| member.cursor < end)),
            lagging: count(&|member| !member.ready && member.cursor < head),
        }
    }

    /// Whether publishing more would outrun the sweep, with `bytes_max` not yet offered to somebody who could take it.
    pub fn is_congested(&self, id: AudienceId, bytes_max: u64) -> bool {
        let audience = &self[id];
        audience.due > 0 && audience.unswept_bytes() > bytes_max
    }

    /// Whether anything is left to be swept.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the next audience that holds back is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.held.peek().map(|&Reverse((due, _))| due)
    }

    /// How long the circles took that closed since the last call.
    pub fn take_timed(&mut self) -> std::vec::Drain<'_, Duration> {
        self.timed.drain(..)
    }

    /// How many members an audience has.
    pub fn member_count(&self, id: AudienceId) -> usize {
        self[id].members.len()
    }

    /// Checks every log, and that whoever is behind and may be written to will be visited. Returns the bytes that the largest
    /// log keeps. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn assert_invariants(&self) -> u64 {
        for (_, audience) in &self.audiences {
            audience.log.assert_invariants();
            let behind = |member: &&Member| member.cursor != audience.log.head();
            assert_eq!(audience.members.iter().filter(behind).count(), audience.log.readers_behind());
            let owed = audience.members.iter().filter(|member| member.ready).any(|member| behind(&member));
            assert!(!owed || audience.queued, "somebody is behind, and no sweep is to come");
        }
        self.audiences.iter().map(|(_, audience)| audience.log.kept_bytes()).max().unwrap_or(0)
    }

    fn enqueue(&mut self, id: AudienceId) {
        let audience = &mut self.audiences[id.0 as usize];
        if !std::mem::replace(&mut audience.queued, true) {
            self.queue.push_back(id);
        }
    }

    fn split(&mut self, id: AudienceId) -> (&mut Audience, &mut ChunkPool) {
        (&mut self.audiences[id.0 as usize], &mut self.pool)
    }
}

/// What a jump has left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missed {
    /// Frames.
    pub count: u64,
    /// The last publication before them, if any was among them: from there one can recover.
    pub after: Option<Position>,
    /// The rest of the frame that the member was in the middle of, which must still go out before anything else.
    pub rest: Vec<u8>,
}

/// How far a publication has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Members.
    pub members: usize,
    /// Of these, who has not been sent it.
    pub unsent: usize,
    /// Who is behind, and whose socket takes nothing.
    pub lagging: usize,
}

/// Where a slow member goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jump {
    /// Behind the newest publication.
    Head,
    /// Before the newest publication.
    Newest,
}

/// A prime near the golden section of a thousand.
const START_STRIDE: usize = 619;

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

#[cfg(test)]
mod tests;
