//! The sweep: the next write, and its outcome.

use std::io::IoSlice;

use super::audience::Due;
use super::{Fanout, Subscription};
use crate::app::WireFormat;
use crate::base::log::{Cursor, Log};
use crate::base::prefetch::prefetch;
use crate::base::{AudienceId, SubId, Time};
use crate::chat::Position;

/// The next step of the sweep.
#[derive(Clone, Copy, Debug)]
pub enum Sweep {
    /// Write [`Fanout::offer`] to this member's connection.
    Write(SubId),
    /// The room's policy for slow members is due for this member.
    Overdue(SubId),
    /// Nothing more in this slice.
    Idle,
}

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
    pub fn gather(&self, slices: &mut [IoSlice<'a>]) -> usize {
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
}

/// What a jump has left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missed {
    /// Frames.
    pub count: u64,
    /// The last publication before them, if any was among them: from there one can recover.
    pub after: Option<Position>,
    /// The rest of the frame that the member was in the middle of, which must still go out before anything
    /// else.
    pub rest: Vec<u8>,
}

/// What a poll is answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entries {
    /// Each publication, with a comma behind it.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub count: u64,
}

impl Fanout {
    /// What to do next. After [`Sweep::Write`] comes [`Fanout::wrote`].
    pub fn poll(&mut self, now: Time, log_bytes_max: u64) -> Sweep {
        while let Some(&id) = self.queue.front() {
            if self.slice == 0 {
                self.queue.rotate_left(1); // the others' turn first, next time
                return Sweep::Idle;
            }
            let audience = &mut self.audiences[id.0 as usize];
            let due = audience.next_due(log_bytes_max);
            // Members that left have made the pass shorter than it was going to be.
            if let Some((since, ends)) = audience.timed
                && (audience.visits >= ends || matches!(due, Due::Done))
            {
                audience.timed = None;
                self.timed.push(now.since(since));
            }
            match due {
                Due::Write(member_index) => {
                    self.slice -= 1;
                    return Sweep::Write(audience.members[member_index].sub);
                }
                Due::Overdue(member_index) => return Sweep::Overdue(audience.members[member_index].sub),
                Due::Done => {
                    audience.queued = false;
                    self.queue.pop_front();
                }
            }
        }
        Sweep::Idle
    }

    /// The slot of the connection that the sweep most likely writes to next. In a small room nothing of its
    /// members is in the cache when a publication comes: what the sweep needs of the member behind that one
    /// is fetched while the kernel performs the present write.
    pub fn upcoming(&self) -> Option<usize> {
        let audience = &self.audiences[self.queue.front()?.0 as usize];
        let (next, behind) = audience.upcoming()?;
        prefetch(&self.subscriptions[behind.index()]);
        Some(self.subscriptions[next.index()].conn as usize)
    }

    /// What a member is to be sent.
    pub fn offer(&self, sub: SubId) -> Offer<'_> {
        let Subscription { audience, member_index, conn } = self.subscriptions[sub.index()];
        let audience = &self.audiences[audience.0 as usize];
        Offer {
            conn: conn as usize,
            log: &audience.log,
            from: audience.members[member_index as usize].cursor,
        }
    }

    /// Moves a member on by what the kernel took. A member that is not caught up is not visited by the sweep
    /// until [`Fanout::set_ready`] or [`Fanout::sweep_again`].
    pub fn wrote(&mut self, sub: SubId, len: usize) -> Progress {
        let Subscription { audience, member_index, .. } = self.subscriptions[sub.index()];
        let (audience, pool) = self.split(audience);
        let member = &mut audience.members[member_index as usize];
        let log = &mut audience.log;
        let from = member.cursor;
        let to = from.plus(len);
        member.cursor = to;
        let caught_up = to == log.head();
        member.mid_frame = !caught_up && log.frame_boundary(to) != to;
        let delivered = log.frames_between(from, to);
        log.advance(from, to, pool);
        Progress { delivered, caught_up }
    }

    /// Moves a member to the head.
    pub fn jump_to_head(&mut self, sub: SubId) -> Missed {
        self.jump(sub, |log, _| log.head())
    }

    /// Moves a member to the newest publication.
    pub fn jump_to_newest(&mut self, sub: SubId) -> Missed {
        self.jump(sub, |log, boundary| log.newest_publication().max(boundary))
    }

    fn jump(&mut self, sub: SubId, target: impl FnOnce(&Log, Cursor) -> Cursor) -> Missed {
        let Subscription { audience, member_index, .. } = self.subscriptions[sub.index()];
        let (audience, pool) = self.split(audience);
        let rest = audience.rest_of_frame(member_index as usize);
        let log = &mut audience.log;
        let member = &mut audience.members[member_index as usize];
        let from = member.cursor;
        let boundary = log.frame_boundary(from);
        let to = target(log, boundary);
        let count = log.frames_between(boundary, to);
        let before = |first: u64| Some(Position { epoch: audience.epoch?, offset: first - 1 });
        let after = log.first_offset_after(boundary).and_then(before);
        member.cursor = to;
        member.mid_frame = false;
        log.advance(from, to, pool);
        Missed { count, after, rest }
    }

    /// What members of an audience that is never swept have not been sent, of at most `count_max` of them:
    /// the slot of each one's connection, the entries, and the position of the last one.
    pub fn unanswered(&self, id: AudienceId, count_max: usize) -> Vec<(usize, Entries, Option<Position>)> {
        let Some(audience) = self.audiences.get(id.0 as usize) else { return Vec::new() };
        if audience.format != WireFormat::PlainEntries {
            return Vec::new(); // another one has its place
        }
        let head = audience.log.head();
        let offset = audience.log.newest_offset();
        let position = audience.epoch.zip(offset).map(|(epoch, offset)| Position { epoch, offset });
        let behind = audience.members.iter().filter(|member| member.cursor != head);
        let entries = |from: Cursor| Entries {
            bytes: audience.log.copy_range(from, head),
            count: audience.log.frames_between(from, head),
        };
        behind
            .take(count_max)
            .map(|it| (self.subscriptions[it.sub.index()].conn as usize, entries(it.cursor), position))
            .collect()
    }

    /// The slots of the members of an audience that have not been sent everything, where it is one of SockJS
    /// over HTTP.
    pub fn behind_in(&self, id: AudienceId) -> impl Iterator<Item = usize> + '_ {
        let audience = self.audiences.get(id.0 as usize);
        let audience = audience.filter(|audience| audience.format == WireFormat::QuotedEntries);
        audience.into_iter().flat_map(move |audience| {
            let head = audience.log.head();
            let behind = audience.members.iter().filter(move |member| member.cursor != head);
            behind.map(|member| self.subscriptions[member.sub.index()].conn as usize)
        })
    }

    /// Takes what a member has not been sent: at most `bytes_max`, or one publication; and how many they are.
    pub fn take_entries(&mut self, sub: SubId, bytes_max: u64) -> (Vec<u8>, u64) {
        let (audience, member) = self.member(sub);
        let (from, head) = (member.cursor, audience.log.head());
        let to = if head.since(from) <= bytes_max {
            head
        } else {
            let most = from.plus(usize::try_from(bytes_max).unwrap_or(usize::MAX));
            audience.log.frame_boundary(most)
        };
        let bytes = audience.log.copy_range(from, to);
        let progress = self.wrote(sub, bytes.len());
        (bytes, progress.delivered)
    }

    /// The member that is in the middle of a frame, among those of one connection.
    pub fn mid_frame_among(&self, subs: impl Iterator<Item = SubId>) -> Option<SubId> {
        subs.into_iter().find(|&sub| self.is_mid_frame(sub))
    }

    /// The audiences that wait to be swept, for the audit.
    pub fn queued(&self) -> impl Iterator<Item = AudienceId> + '_ {
        self.queue.iter().copied()
    }
}
