//! The history of joining clients.
//!
//! A join is answered once, with the engine's page and the home's own tail from the page's end on. All
//! clients that wait for one room share one read, from the lowest offset of theirs. Clients whose position
//! the tail reaches do not wait.

use std::sync::Arc;
use std::time::Duration;

use super::{Homes, Output, Reply};
use crate::base::{HomeKey, Time};
use crate::chat::{Member, Publication, Recovered, RecoveryRequest, Since};
use crate::engine::{EnginePage, ReplyTo};

/// Publications in one page of the engine's.
pub(super) const PAGE_MAX: usize = 10_000;

/// Reads of the engine's for one join: after that the client cannot recover.
const READS_MAX: u32 = 3;

/// Bytes of the engine's publications that one joining client receives: with more it cannot recover.
const MISSED_BYTES_MAX: usize = 1 << 20;

/// A joining client.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) member: Member,
    pub(super) recovery_request: RecoveryRequest,
    pub(super) presence: Option<bool>,
    pub(super) join_leave: Option<bool>,
    pub(super) lease: Option<Duration>,
    pub(super) reply_to: ReplyTo,
}

/// Clients that wait for a page of the engine's.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with its shard and its position.
    joins: Vec<(usize, Joining, Since)>,
    reads: u32,
    /// Where the requested page begins.
    requested_from: u64,
}

impl Waiting {
    /// How many wait.
    pub(super) const fn len(&self) -> usize {
        self.joins.len()
    }

    /// Removes waiting clients that match `is_meant`, which gets their shard too.
    pub(super) fn give_up(&mut self, is_meant: impl Fn(usize, &Member) -> bool) {
        self.joins.retain(|(from, joining, _)| !is_meant(*from, &joining.member));
    }
}

impl Homes {
    pub(super) fn join(&mut self, key: HomeKey, now: Time, from: usize, joining: Joining) {
        self.forget_old(key, now);
        self.touch(key, now);
        let Some(home) = self.homes.get_mut(key) else { return };
        let recovery = home.history.recover(joining.recovery_request);
        if recovery.recovered == Some(false)
            && self.engine.has_pages()
            && let RecoveryRequest::Since(since) = joining.recovery_request
            && since.epoch.is_none_or(|epoch| epoch == recovery.top.epoch)
            && since.offset <= recovery.top.offset
        {
            let begins = home.joining.is_none();
            let waiting = home.joining.get_or_insert_default();
            waiting.joins.push((from, joining, since));
            if begins {
                self.read_page(key);
            }
            return;
        }
        self.admit(key, now, from, joining, recovery);
    }

    /// The client is in: what comes behind this answer is for it.
    fn admit(&mut self, key: HomeKey, now: Time, from: usize, joining: Joining, recovery: Recovered) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Joining { member, presence, join_leave, lease, reply_to, .. } = joining;
        let client = member.person.client;
        if !home.has_lease(client) {
            home.join(member, presence, join_leave);
        }
        if let Some(lease) = lease {
            self.lease(key, client, now + lease);
        }
        match recovery.recovered {
            Some(true) => self.counts.recovered += 1,
            Some(false) => self.counts.unrecovered += 1,
            None => {}
        }
        self.announce_soon(key, now);
        self.outputs.push_back(Output::Reply(from, Reply::Joined { reply_to, recovery }));
    }

    fn read_page(&mut self, key: HomeKey) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Some(waiting) = &mut home.joining else { return };
        waiting.reads += 1;
        waiting.requested_from = waiting.joins.iter().map(|(_, _, since)| since.offset).min().unwrap_or(0);
        self.engine.page(key, waiting.requested_from, PAGE_MAX);
    }

    /// The engine has read a page: it is merged with the tail, and every client whose position it reaches is
    /// answered.
    pub(super) fn paged(&mut self, key: HomeKey, now: Time, page: Option<EnginePage>) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Some(mut waiting) = home.joining.take() else { return };
        let page = page.unwrap_or_default();
        let requested_from = waiting.requested_from;
        let tail = home.history.recover(RecoveryRequest::Last(usize::MAX));
        let merged = merge(&page, requested_from, &tail.publications, tail.top.offset);
        let first = page.publications.first().map(|first| first.offset());
        let (mut again, may_read) = (false, waiting.reads < READS_MAX);
        for (from, joining, since) in std::mem::take(&mut waiting.joins) {
            // A page that does not reach back to the lowest position may reach back to this one.
            let reaches = page.is_complete || first.is_some_and(|first| first <= since.offset + 1);
            let partial = merged.is_none() && reaches && may_read;
            if partial || since.offset < requested_from {
                again |= partial;
                waiting.joins.push((from, joining, since));
                continue;
            }
            let missed = merged.as_ref().filter(|_| reaches).map(|run| after(run, since.offset));
            let missed = missed.filter(|missed| weight(missed) <= MISSED_BYTES_MAX);
            let recovered = Some(missed.is_some());
            let recovery = Recovered { top: tail.top, publications: missed.unwrap_or_default(), recovered };
            self.admit(key, now, from, joining, recovery);
        }
        if !waiting.joins.is_empty()
            && let Some(home) = self.homes.get_mut(key)
        {
            if !again {
                waiting.reads = 0; // those that came meanwhile, from further back
            }
            home.joining = Some(waiting);
            self.read_page(key);
        }
    }
}

/// A page from `requested_from` on and the tail of the room that stands at `top`, as one run; `None`: there
/// is a hole between them.
// What the engine has ordered and not passed on yet comes by itself, behind the answer.
fn merge(
    page: &EnginePage,
    requested_from: u64,
    tail: &[Arc<Publication>],
    top: u64,
) -> Option<Vec<Arc<Publication>>> {
    let known = page.publications.partition_point(|publication| publication.offset() <= top);
    let page = &page.publications[..known];
    let end = page.last().map_or(requested_from, |last| last.offset());
    let newer = after(tail, end);
    let reaches = newer.first().map_or(end >= top, |first| first.offset() == end + 1);
    reaches.then(|| page.iter().cloned().chain(newer).collect())
}

fn after(run: &[Arc<Publication>], offset: u64) -> Vec<Arc<Publication>> {
    let first = run.partition_point(|publication| publication.offset() <= offset);
    run[first..].to_vec()
}

fn weight(run: &[Arc<Publication>]) -> usize {
    run.iter().map(|publication| publication.weight()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Body, ClientId, Epoch, Person, Position};
    use std::sync::OnceLock;

    fn run(offsets: std::ops::RangeInclusive<u64>) -> Vec<Arc<Publication>> {
        let person = Person::new(ClientId::new(0, 1), "u".into(), "u".into(), None);
        let author = Member::new(Arc::new(person), None);
        let publication = |offset| Publication {
            position: Some(Position { epoch: Epoch::from_random(1), offset }),
            accepted: Time::ZERO,
            unix_ms: 0,
            author: author.clone(),
            body: Body::Text("hi".into()),
            json: OnceLock::new(),
        };
        offsets.map(|offset| Arc::new(publication(offset))).collect()
    }

    /// What a page from `requested_from` on makes together with a tail.
    fn check(
        requested_from: u64,
        page: std::ops::RangeInclusive<u64>,
        tail: std::ops::RangeInclusive<u64>,
        top: u64,
        expected: Option<std::ops::RangeInclusive<u64>>,
    ) {
        let page = EnginePage { publications: run(page), is_complete: true };
        let merged = merge(&page, requested_from, &run(tail), top);
        let offsets =
            merged.map(|run| run.iter().map(|publication| publication.offset()).collect::<Vec<_>>());
        assert_eq!(offsets, expected.map(Iterator::collect::<Vec<_>>));
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "nothing is an empty range")]
    fn a_page_and_a_tail_are_one_run_up_to_the_top() {
        check(2, 3..=6, 5..=9, 9, Some(3..=9));
        check(2, 3..=4, 5..=9, 9, Some(3..=9));
        check(2, 3..=3, 5..=9, 9, None);
        check(2, 3..=9, 1..=0, 9, Some(3..=9));
        check(2, 3..=8, 1..=0, 9, None);
        check(2, 3..=12, 5..=9, 9, Some(3..=9));
        check(2, 3..=12, 1..=0, 9, Some(3..=9));
        check(4, 1..=0, 5..=9, 9, Some(5..=9));
    }
}
