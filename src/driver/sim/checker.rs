//! What must hold of every room: every member receives every publication, once, in one order.
//!
//! The checker does not know the order that a room's home has given; it needs none. When two members receive
//! `a` and then, with no gap announced, `b`, then `b` is *the* successor of `a`: for every member, on every
//! shard. So it keeps one successor and one predecessor for each publication. Together with each publisher's
//! own numbering, in which no member may find a hole, a doubled, a lost, a foreign or a swapped publication
//! contradicts what some member has received, at once.
//!
//! What cannot be contradicted because no member has received it is found [at rest](Checker::at_rest): when
//! nothing moves any more, every member of a room has received its last publication.

use crate::base::Time;
use crate::base::hash::{Map, Seed};

/// Identifies a publication in the whole simulation.
pub(super) type PublicationId = u32;

/// Nothing.
const NONE: PublicationId = PublicationId::MAX;

/// A publication of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// By which session.
    pub(super) session: usize,
    /// Where.
    pub(super) room: usize,
    /// The how-manieth of that session.
    pub(super) number: u32,
    /// The session's publication before this one.
    pub(super) before: Option<PublicationId>,
    /// Bytes of its text behind the id.
    pub(super) fill_bytes: usize,
    /// Why it was never published, and is never received.
    pub(super) declined: Option<Declined>,
    /// It is published by request: others may receive its successor before its publisher gets the refusal.
    pub(super) by_request: bool,
    /// Whether it is published is not known, and never will be.
    pub(super) uncertain: bool,
    /// Its publisher knows that it is published.
    pub(super) acknowledged: bool,
    /// A session has received its successor, and not it.
    passed: bool,
    /// A session has received it.
    received: bool,
}

impl Record {
    /// Whether it is published, for all that is known.
    const fn is_owed(&self) -> bool {
        self.declined.is_none() && !self.uncertain
    }
}

/// Why a message is not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Declined {
    /// The engine could not take it.
    Temporary,
    /// The engine has had it before.
    Known,
    /// Its session exceeds its limit.
    TooOften,
    /// The request was refused.
    Refused,
}

/// The session of what another node publishes.
pub(super) const OTHER_NODE: usize = usize::MAX;

/// What one session has received in its room.
#[derive(Debug)]
pub(super) struct Receiver {
    room: usize,
    /// Whether publications may be missing without an announcement: a socket that was full, in a room that
    /// conflates.
    pub(super) conflated: bool,
    last: Option<PublicationId>,
    /// Announced as skipped since the last one, if any.
    skipped: Option<u64>,
    /// Gaps so far.
    gaps: u32,
    /// The number that is to come next, by publisher, and how many gaps there were when the one before came.
    next: Map<usize, (u32, u32)>,
    /// Whether its session has published here before it subscribed.
    pub(super) published_before: bool,
    /// The epoch and the offset that it has received last, in a room with a history.
    pub(super) position: Option<(String, u64)>,
    /// When that was, if it was received as soon as it was published.
    pub(super) position_at: Option<Time>,
    /// From which publication on nothing may be missing.
    sure_from: Option<PublicationId>,
    /// Publications received.
    pub(super) received: u64,
    /// Publications that were announced as skipped.
    pub(super) missed: u64,
    /// The number of the last rest at which it had received all that it was owed; 0: none.
    complete_at: u64,
}

impl Receiver {
    /// The ear of a session that has just joined `room`.
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            conflated: false,
            last: None,
            skipped: None,
            gaps: 0,
            next: Seed::new(0).map(),
            published_before: false,
            position: None,
            position_at: None,
            sure_from: None,
            received: 0,
            missed: 0,
            complete_at: 0,
        }
    }

    /// What was skipped has come after all.
    pub(super) const fn skipped_is_over(&mut self) {
        self.skipped = None;
    }

    /// It goes on where no publication is conflated, without those that were.
    pub(super) fn is_conflated_no_more(&mut self) {
        if std::mem::take(&mut self.conflated) {
            (self.sure_from, self.complete_at) = (None, 0);
        }
    }

    /// Where it listens.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    const fn may_skip(&self) -> bool {
        self.conflated || self.missed > 0 || self.skipped.is_some()
    }

    fn has_received(&self, record: &Record) -> bool {
        self.next.get(&record.session).is_some_and(|&(next, _)| next > record.number)
    }
}

/// A gap that was announced to a member, or that it may have had: after `before` comes `after`.
#[derive(Debug)]
struct Gap {
    session: usize,
    before: PublicationId,
    after: PublicationId,
    announced: Option<u64>,
}

/// All publications, and what is known of their order.
#[derive(Debug)]
pub(super) struct Checker {
    records: Vec<Record>,
    /// The publication at each position that any session has received.
    positions: Map<(usize, String, u64), PublicationId>,
    successor: Vec<PublicationId>,
    predecessor: Vec<PublicationId>,
    gaps: Vec<Gap>,
    /// Whether a session may exceed a limit, so that others receive later publications before it gets its
    /// error.
    pub(super) limited: bool,
    /// The longest text so far.
    pub(super) longest_fill: usize,
    /// What a session passed over: it must turn out to have been declined.
    suspects: Vec<PublicationId>,
    /// Rests so far.
    rests: u64,
    /// What the members were owed at the last one, in ascending order.
    owed: Vec<PublicationId>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            positions: Seed::new(0).map(),
            successor: Vec::new(),
            predecessor: Vec::new(),
            gaps: Vec::new(),
            limited: false,
            longest_fill: 0,
            suspects: Vec::new(),
            rests: 0,
            owed: Vec::new(),
        }
    }
}

impl Checker {
    /// A session learns the position of a publication in its room; it receives it next.
    ///
    /// # Panics
    /// When it is not the next position, or when something else stands there.
    pub(super) fn record_position(&mut self, receiver: &mut Receiver, id: PublicationId, offset: u64) {
        let Some((epoch, last)) = &mut receiver.position else { return };
        let next = if receiver.conflated { offset > *last } else { offset == *last + 1 };
        assert!(next, "offset {offset} after {last}");
        *last = offset;
        self.check_position(receiver.room, epoch, offset, id);
    }

    /// A session learns that a publication is at this position of a room.
    ///
    /// # Panics
    /// When something else stands there.
    pub(super) fn check_position(&mut self, room: usize, epoch: &str, offset: u64, id: PublicationId) {
        let there = *self.positions.entry((room, epoch.to_owned(), offset)).or_insert(id);
        assert_eq!(there, id, "two publications at offset {offset} of epoch {epoch}");
    }

    /// Notes what `session` is about to publish, after `before`.
    pub(super) fn publish(
        &mut self,
        session: usize,
        room: usize,
        before: Option<PublicationId>,
        fill_bytes: usize,
    ) -> PublicationId {
        let id = PublicationId::try_from(self.records.len()).expect("fewer publications than 2^32");
        self.longest_fill = self.longest_fill.max(fill_bytes);
        let number = before.map_or(0, |before| self.record(before).number + 1);
        self.records.push(Record {
            session,
            room,
            number,
            before,
            fill_bytes,
            declined: None,
            by_request: false,
            uncertain: false,
            acknowledged: false,
            passed: false,
            received: false,
        });
        self.successor.push(NONE);
        self.predecessor.push(NONE);
        id
    }

    /// What is known of a publication.
    ///
    /// # Panics
    /// When there is no such publication.
    pub(super) fn record(&self, id: PublicationId) -> Record {
        *self.records.get(id as usize).expect("a known publication")
    }

    /// A message is not published.
    ///
    /// # Panics
    /// When a session has received it.
    pub(super) fn decline(&mut self, id: PublicationId, why: Declined) {
        let record = &mut self.records[id as usize];
        assert!(!record.received, "{id} is declined, and was received");
        record.declined = Some(why);
    }

    /// A message is published by request.
    pub(super) fn by_request(&mut self, id: PublicationId) {
        self.records[id as usize].by_request = true;
    }

    /// Nobody knows whether a message is published.
    pub(super) fn leave_open(&mut self, id: PublicationId) {
        self.records[id as usize].uncertain = true;
    }

    /// A publisher learns that its message is published, or was before.
    ///
    /// # Panics
    /// When others were passed over it.
    pub(super) fn acknowledge(&mut self, id: PublicationId) {
        let record = &mut self.records[id as usize];
        record.acknowledged = true;
        let is_lost = record.passed && !record.received && record.declined.is_none();
        assert!(!is_lost, "{id} is acknowledged, and was not received with its successors");
    }

    /// A session has not received a message whose successor it has received, and that is not known to be
    /// declined yet.
    pub(super) fn pass_over(&mut self, id: PublicationId) {
        let record = &mut self.records[id as usize];
        assert!(!record.acknowledged, "{id} is acknowledged, and is missing");
        record.passed = true;
    }

    /// The last accepted publication of the same session and room up to `id`.
    fn last_accepted(&self, id: PublicationId) -> Option<PublicationId> {
        let mut back = std::iter::successors(Some(id), |&id| self.record(id).before);
        back.find(|&id| self.record(id).is_owed())
    }

    /// Whether `record` is the session's first accepted publication there from number `expected` on.
    fn is_next(&mut self, record: &Record, expected: u32) -> bool {
        let mut back = std::iter::successors(record.before, |&id| self.record(id).before);
        let between = back.by_ref().take_while(|&id| self.record(id).number >= expected);
        let open: Vec<_> = between.filter(|&id| self.record(id).is_owed()).collect();
        let (excusable, lost): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|&id| self.limited || self.record(id).by_request);
        self.suspects.extend(excusable);
        record.number >= expected && lost.is_empty()
    }

    /// A session has received a publication.
    ///
    /// # Panics
    /// When it must not have, now.
    pub(super) fn receive(&mut self, session: usize, receiver: &mut Receiver, id: PublicationId) {
        let record = self.record(id);
        self.records[id as usize].received = true;
        assert!(record.declined.is_none(), "session {session} receives {id}, which was declined");
        assert_eq!(record.room, receiver.room, "session {session} receives a publication of another room");
        let gap = receiver.conflated || receiver.skipped.is_some();
        // Of a publisher that was there before this session is sure to be, the beginning may be missing.
        let unreceived =
            record.before.filter(|&before| receiver.sure_from.is_some_and(|sure_from| before >= sure_from));
        let first = unreceived.map_or(record.number, |before| self.record(before).number);
        receiver.gaps += u32::from(gap);
        let next = receiver.next.entry(record.session).or_insert((first, 0));
        let (expected, gaps) = *next;
        // What was sent on a connection that was cut, and is not sent again, may still arrive there, behind
        // what was sent again on another one.
        let is_late = record.uncertain && record.number < expected;
        if !is_late {
            *next = (record.number + 1, receiver.gaps);
        }
        assert!(
            if is_late {
                true
            } else if gaps < receiver.gaps {
                record.number >= expected
            } else {
                self.is_next(&record, expected)
            },
            "session {session} receives number {} of session {}, and should have received {expected}",
            record.number,
            record.session
        );
        if record.session == session && receiver.received == 0 && !gap && !receiver.published_before {
            assert!(self.is_next(&record, 0), "session {session} has not received its own first publication");
        }
        if let Some(before) = receiver.last {
            if gap {
                self.gaps.push(Gap { session, before, after: id, announced: receiver.skipped });
            } else {
                self.follow(session, before, id);
            }
        }
        receiver.received += 1;
        receiver.last = Some(id);
        receiver.skipped = None;
    }

    fn follow(&mut self, session: usize, before: PublicationId, after: PublicationId) {
        let (next, previous) = (&mut self.successor[before as usize], &mut self.predecessor[after as usize]);
        assert!(
            [NONE, after].contains(next) && [NONE, before].contains(previous),
            "session {session} receives {after} after {before}; others received {next} after {before}, and {after} after {previous}"
        );
        (*next, *previous) = (after, before);
    }

    /// A session learns that it will not receive `count` publications.
    pub(super) fn skip(receiver: &mut Receiver, count: u64) {
        receiver.missed += count;
        *receiver.skipped.get_or_insert(0) += count;
    }

    /// Nothing moves any more. `members` are the sessions that are in a room, whose sockets take everything
    /// and which have read everything that arrived; `final_messages` the last publication of each publisher.
    ///
    /// What a member has received it has received for good: of one that was complete at the last rest, only
    /// what it was not owed then is looked at.
    ///
    /// # Panics
    /// When one of them has not received the last publication.
    pub(super) fn at_rest(
        &mut self,
        mut members: Vec<(usize, &mut Receiver)>,
        final_messages: &[PublicationId],
    ) {
        let owed = self.owed_to(&members, final_messages);
        let before = std::mem::replace(&mut self.owed, owed);
        let all: Vec<_> = self.owed.iter().map(|&id| (id, self.record(id))).collect();
        let new: Vec<_> = all.iter().filter(|(id, _)| before.binary_search(id).is_err()).copied().collect();
        for (session, receiver) in &mut members {
            let Some(sure_from) = receiver.sure_from else {
                receiver.sure_from = Some(self.count());
                continue;
            };
            let was_complete = receiver.complete_at == self.rests && self.rests > 0;
            let mut unchecked = if was_complete { &new } else { &all }.iter();
            let missing = unchecked.find(|(id, record)| {
                record.room == receiver.room && *id >= sure_from && !receiver.has_received(record)
            });
            match missing {
                None => receiver.complete_at = self.rests + 1,
                Some(&(id, _)) if self.is_excused(receiver, id) => {}
                Some((id, _)) => panic!("session {session} is missing {id}, which others received"),
            }
        }
        self.rests += 1;
    }

    /// What every member of its room must have received at rest, in ascending order.
    fn owed_to(
        &self,
        members: &[(usize, &mut Receiver)],
        final_messages: &[PublicationId],
    ) -> Vec<PublicationId> {
        let mut owed: Vec<PublicationId> =
            final_messages.iter().filter_map(|&id| self.last_accepted(id)).collect();
        for (_, receiver) in members {
            // Those of one room have mostly received the same one last.
            if !receiver.may_skip() && receiver.last != owed.last().copied() {
                owed.extend(receiver.last);
            }
        }
        owed.sort_unstable();
        owed.dedup();
        owed
    }

    /// Whether a member may be without `id`: one that has skipped something is at the head all the same, so
    /// far as is known where that is.
    fn is_excused(&self, receiver: &Receiver, id: PublicationId) -> bool {
        receiver.may_skip() && (receiver.skipped.is_some() || self.may_follow(id, receiver.last))
    }

    /// Takes what a session passed over and was not declined so far, as session and publication, each once.
    pub(super) fn take_suspects(&mut self) -> Vec<(usize, PublicationId)> {
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_unstable();
        suspects.dedup();
        suspects.retain(|&id| self.record(id).is_owed());
        suspects.into_iter().map(|id| (self.record(id).session, id)).collect()
    }

    /// Whether `last` may come behind `id`, for all that is known.
    fn may_follow(&self, id: PublicationId, last: Option<PublicationId>) -> bool {
        let Some(last) = last else { return false };
        let is_last = self.successor_of(last).is_none();
        is_last || std::iter::successors(Some(id), |&at| self.successor_of(at)).any(|at| at == last)
    }

    /// Checks every gap against the order, as far as some member has received what lies in it. Returns how
    /// many could be.
    ///
    /// # Panics
    /// When a gap is not what was announced, or does not lead forward.
    pub(super) fn check_gaps(&self) -> usize {
        self.gaps.iter().filter(|gap| self.check_gap(gap)).count()
    }

    fn check_gap(&self, gap: &Gap) -> bool {
        let Gap { session, before, after, announced } = *gap;
        let mut walk = std::iter::successors(self.successor_of(before), |&at| self.successor_of(at));
        match (walk.position(|at| at == after), announced) {
            (Some(between), Some(count)) => {
                assert_eq!(between as u64, count, "session {session} had another gap than was announced");
                true
            }
            (found, None) if found.is_some() => true,
            _ => {
                let mut back = std::iter::successors(self.successor_of(after), |&at| self.successor_of(at));
                assert!(!back.any(|at| at == before), "session {session} was sent back in time");
                false
            }
        }
    }

    fn successor_of(&self, id: PublicationId) -> Option<PublicationId> {
        Some(self.successor[id as usize]).filter(|&next| next != NONE)
    }

    /// How many publications there are.
    pub(super) fn count(&self) -> PublicationId {
        PublicationId::try_from(self.records.len()).unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sessions in one room, of which the first publishes six messages; what each receives, and whether
    /// a violation is found.
    fn check(received: [&[PublicationId]; 2]) -> bool {
        std::panic::catch_unwind(|| {
            let mut checker = Checker::default();
            let mut before = [None; 2];
            for number in 0..6 {
                let publisher = number % 2;
                before[publisher] = Some(checker.publish(publisher, 0, before[publisher], 1));
            }
            let mut receivers = [Receiver::new(0), Receiver::new(0)];
            for (session, receiver) in receivers.iter_mut().enumerate() {
                receiver.sure_from = Some(0);
                for &id in received[session] {
                    checker.receive(session + 7, receiver, id);
                }
            }
            checker.at_rest(receivers.iter_mut().enumerate().collect(), &[]);
        })
        .is_ok()
    }

    #[test]
    fn violations_are_found_and_correct_orders_pass() {
        assert!(check([&[0, 1, 2, 3], &[0, 1, 2, 3]]));
        assert!(check([&[1, 0, 2, 3], &[1, 0, 2, 3]]), "an order is an order");
        assert!(!check([&[0, 1, 2, 3], &[1, 0, 2, 3]]), "two orders");
        assert!(!check([&[0, 1, 2, 3], &[0, 1, 3, 2]]), "two orders at the end");
        assert!(!check([&[0, 1, 2, 3], &[0, 1, 2]]), "the last publication is missing");
        assert!(!check([&[0, 1, 2, 3], &[0, 2, 3]]), "one is missing");
        assert!(!check([&[0, 1, 1], &[0, 1]]), "one is doubled");
        assert!(!check([&[0, 4], &[]]), "a hole in the numbers of one publisher");
    }
}
