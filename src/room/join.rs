//! What a client that comes in gets of the history.
//!
//! A join is answered once, with the engine's page and the home's own tail from the page's end on. All clients that wait
//! for one room share one read, from the lowest offset of theirs. Clients whose position the tail reaches do not wait.

use std::sync::Arc;

use super::{Homes, Output, Reply};
use crate::base::{HomeKey, Time};
use crate::chat::{Member, Past, Publication, Since, Wanted};
use crate::engine::{Ask, EnginePage};

/// Publications in one page of the engine's.
pub(super) const PAGE_MAX: usize = 10_000;

/// Reads of the engine's for one join: after that the client cannot recover.
const READS_MAX: u32 = 3;

/// A client that comes in.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) member: Member,
    pub(super) wanted: Wanted,
    pub(super) presence: Option<bool>,
    pub(super) join_leave: Option<bool>,
    pub(super) ask: Ask,
}

/// Clients that wait for a page of the engine's.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with its shard and its position.
    joins: Vec<(usize, Joining, Since)>,
    reads: u32,
    /// Where the page that was asked for begins.
    asked_from: u64,
}

impl Waiting {
    /// Clients that `is_meant` says, by their shard too, no longer wait.
    pub(super) fn give_up(&mut self, is_meant: impl Fn(usize, &Member) -> bool) {
        self.joins.retain(|(from, joining, _)| !is_meant(*from, &joining.member));
    }
}

impl Homes {
    pub(super) fn join(&mut self, key: HomeKey, now: Time, from: usize, joining: Joining) {
        self.forget_old(key, now);
        self.touch(key, now);
        let Some(home) = self.homes.get_mut(key) else { return };
        let past = home.history.past(joining.wanted);
        if past.recovered == Some(false)
            && self.engine.has_pages()
            && let Wanted::Since(since) = joining.wanted
            && since.epoch.is_none_or(|epoch| epoch == past.top.epoch)
            && since.offset <= past.top.offset
        {
            let begins = home.joining.is_none();
            let waiting = home.joining.get_or_insert_default();
            waiting.joins.push((from, joining, since));
            if begins {
                self.read_page(key);
            }
            return;
        }
        self.admit(key, now, from, joining, past);
    }

    /// The client is in: what comes behind this answer is for it.
    fn admit(&mut self, key: HomeKey, now: Time, from: usize, joining: Joining, past: Past) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Joining { member, presence, join_leave, ask, .. } = joining;
        home.enter(member, presence, join_leave);
        match past.recovered {
            Some(true) => self.counts.recovered += 1,
            Some(false) => self.counts.unrecovered += 1,
            None => {}
        }
        self.announce_soon(key, now);
        self.outputs.push_back(Output::Reply(from, Reply::Joined { ask, past }));
    }

    fn read_page(&mut self, key: HomeKey) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Some(waiting) = &mut home.joining else { return };
        waiting.reads += 1;
        waiting.asked_from = waiting.joins.iter().map(|(_, _, since)| since.offset).min().unwrap_or(0);
        self.engine.page(&home.name, waiting.asked_from, PAGE_MAX);
    }

    /// The engine has read a page: it is merged with the tail, and everyone whose position it reaches is answered.
    pub(super) fn paged(&mut self, key: HomeKey, now: Time, page: Option<EnginePage>) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Some(mut waiting) = home.joining.take() else { return };
        let page = page.unwrap_or_default();
        let asked_from = waiting.asked_from;
        let tail = home.history.past(Wanted::Last(usize::MAX));
        let merged = merge(&page, &tail.publications, tail.top.offset);
        let again = merged.is_none() && page.is_complete && waiting.reads < READS_MAX;
        for (from, joining, since) in std::mem::take(&mut waiting.joins) {
            if again || since.offset < asked_from {
                waiting.joins.push((from, joining, since));
                continue;
            }
            let recovered = merged.as_ref().filter(|_| page.is_complete);
            let publications = recovered.map_or_else(Vec::new, |run| after(run, since.offset));
            let past = Past { top: tail.top, publications, recovered: Some(recovered.is_some()) };
            self.admit(key, now, from, joining, past);
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

/// A page and the tail of the room that stands at `top`, as one run; `None`: there is a hole between them.
fn merge(page: &EnginePage, tail: &[Arc<Publication>], top: u64) -> Option<Vec<Arc<Publication>>> {
    let end = page.publications.last().map_or(0, |last| last.offset());
    let newer = after(tail, end);
    let reaches = newer.first().map_or(end >= top, |first| first.offset() == end + 1);
    reaches.then(|| page.publications.iter().cloned().chain(newer).collect())
}

fn after(run: &[Arc<Publication>], offset: u64) -> Vec<Arc<Publication>> {
    let first = run.partition_point(|publication| publication.offset() <= offset);
    run[first..].to_vec()
}
