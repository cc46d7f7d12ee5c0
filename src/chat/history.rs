//! What a room's home keeps of its recent publications, and what of it can be had.
//!
//! What is kept is always the newest run without a hole: the oldest kept publication and every one after it.
//! So whether a client can resume is one comparison.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Position, Publication, Recovered, RecoveryRequest, RoomOptions, Since};
use crate::base::Time;

/// The newest publications of one room. Exists once: on the room's home shard.
///
/// Invariant: `kept` holds the offsets `top - kept.len() + 1 ..= top`, in order, and `kept_bytes` is the sum
/// of the weights beside them.
#[derive(Debug)]
pub struct History {
    top: Position,
    /// Each with its weight at the time when it came.
    kept: VecDeque<(Arc<Publication>, usize)>,
    kept_bytes: usize,
}

/// A page of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// From where on, itself not included; `None`: from the oldest, or the newest with `reverse`.
    pub since: Option<Since>,
    /// How many at most.
    pub limit: usize,
    /// Backwards.
    pub reverse: bool,
}

/// Why there is no such page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError {
    /// The position is of another epoch of the room.
    OtherEpoch,
    /// Backwards from the very beginning.
    BeforeFirst,
}

impl History {
    /// Nothing is kept of a room that stands at `top`.
    pub const fn new(top: Position) -> Self {
        Self { top, kept: VecDeque::new(), kept_bytes: 0 }
    }

    /// The newest position.
    pub const fn top(&self) -> Position {
        self.top
    }

    /// Keeps `publication`, the newest of its room, as far as the room keeps anything. One of another epoch,
    /// or one that does not follow the newest directly, begins a new run.
    pub fn push(&mut self, publication: &Arc<Publication>, options: &RoomOptions) {
        let Some(position) = publication.position else { return };
        let follows = position.epoch == self.top.epoch && position.offset == self.top.offset + 1;
        if !follows {
            self.clear();
        }
        self.top = position;
        if options.history_count_max > 0 {
            let weight = publication.weight();
            self.kept_bytes += weight;
            self.kept.push_back((Arc::clone(publication), weight));
        }
        self.forget(publication.accepted, options);
    }

    /// Drops everything that is kept; the position stays. Returns how many publications that were.
    pub fn clear(&mut self) -> usize {
        self.kept_bytes = 0;
        std::mem::take(&mut self.kept).len()
    }

    /// Forgets what the options no longer let it keep. True when nothing is left.
    pub fn forget(&mut self, now: Time, options: &RoomOptions) -> bool {
        while let Some((oldest, weight)) = self.kept.front()
            && (self.kept.len() > options.history_count_max
                || self.kept_bytes > options.history_bytes_max
                || now.since(oldest.accepted) > options.history_age_max)
        {
            self.kept_bytes -= weight;
            self.kept.pop_front();
        }
        if self.kept.is_empty() && self.kept.capacity() > 0 {
            self.kept = VecDeque::new();
        }
        self.kept.is_empty()
    }

    /// How many publications are kept, and how many bytes.
    pub fn kept(&self) -> (usize, usize) {
        (self.kept.len(), self.kept_bytes)
    }

    /// What a joining client gets. Expects [`History::forget`] to have been called with the present time.
    pub fn recover(&self, recovery_request: RecoveryRequest) -> Recovered {
        let (publications, recovered) = match recovery_request {
            RecoveryRequest::None => (Vec::new(), None),
            RecoveryRequest::Last(count) => {
                let first = self.kept.len().saturating_sub(count);
                (self.run(first..), None)
            }
            RecoveryRequest::Since(since) => match self.after(since) {
                Some(publications) => (publications, Some(true)),
                None => (Vec::new(), Some(false)),
            },
            RecoveryRequest::Unrecoverable => (Vec::new(), Some(false)),
        };
        Recovered { top: self.top, publications, recovered }
    }

    /// Everything after `since`, if nothing of it is missing.
    fn after(&self, since: Since) -> Option<Vec<Arc<Publication>>> {
        if since.epoch.is_some_and(|epoch| epoch != self.top.epoch) {
            return None;
        }
        let missed = usize::try_from(self.top.offset.checked_sub(since.offset)?).ok()?;
        let first = self.kept.len().checked_sub(missed)?;
        Some(self.run(first..))
    }

    /// One page. What is no longer kept is silently left out.
    ///
    /// # Errors
    /// There is no such page.
    pub fn page(&self, page: Page) -> Result<Vec<Arc<Publication>>, PageError> {
        if let Some(since) = page.since {
            if since.epoch.is_some_and(|epoch| epoch != self.top.epoch) {
                return Err(PageError::OtherEpoch);
            }
            if page.reverse && since.offset == 0 {
                return Err(PageError::BeforeFirst);
            }
        }
        let before_kept = self.top.offset - self.kept.len() as u64;
        // Where `since` stands among what is kept: so many are at or before it.
        let index = |offset: u64| {
            usize::try_from(offset.saturating_sub(before_kept)).unwrap_or(usize::MAX).min(self.kept.len())
        };
        Ok(if page.reverse {
            let end = page.since.map_or(self.kept.len(), |since| index(since.offset.saturating_sub(1)));
            self.run(end.saturating_sub(page.limit)..end).into_iter().rev().collect()
        } else {
            let begin = page.since.map_or(0, |since| index(since.offset));
            self.run(begin..begin.saturating_add(page.limit).min(self.kept.len()))
        })
    }

    /// A copy of a part of what is kept.
    fn run(&self, range: impl std::ops::RangeBounds<usize>) -> Vec<Arc<Publication>> {
        self.kept.range(range).map(|(publication, _)| Arc::clone(publication)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Body, ClientId, Epoch, Member, Person};
    use bytes::Bytes;
    use std::time::Duration;

    fn epoch(number: u32) -> Epoch {
        Epoch::from_random(number)
    }

    fn member() -> Member {
        let person = Person::new(ClientId::new(0, 1), "u".into(), "u".into(), None);
        Member::new(Arc::new(person), None)
    }

    fn history_of(count: u64, options: &RoomOptions) -> History {
        let mut history = History::new(Position { epoch: epoch(9), offset: 0 });
        for second in 1..=count {
            let publication = Publication {
                position: Some(Position { epoch: epoch(9), offset: second }),
                accepted: Time::ZERO + Duration::from_secs(second),
                unix_ms: 0,
                author: member(),
                body: Body::Text(Bytes::from_static(b"hello")),
                json: std::sync::OnceLock::new(),
            };
            history.push(&Arc::new(publication), options);
        }
        history
    }

    fn keep(history_count_max: usize) -> RoomOptions {
        RoomOptions { history_count_max, ..RoomOptions::default() }
    }

    fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
        publications.iter().map(|publication| publication.offset()).collect()
    }

    /// What a client gets that has received up to `offset` of ten, of which five are kept.
    fn check(of: Option<u32>, offset: u64, expected: Option<&[u64]>) {
        let history = history_of(10, &keep(5));
        let recovery = history.recover(RecoveryRequest::Since(Since { epoch: of.map(epoch), offset }));
        assert_eq!(recovery.top, Position { epoch: epoch(9), offset: 10 });
        assert_eq!(recovery.recovered, Some(expected.is_some()));
        assert_eq!(offsets(&recovery.publications), expected.unwrap_or_default());
    }

    #[test]
    fn resuming_is_without_a_gap_or_not_at_all() {
        check(Some(9), 10, Some(&[]));
        check(Some(9), 8, Some(&[9, 10]));
        check(Some(9), 5, Some(&[6, 7, 8, 9, 10]));
        check(Some(9), 4, None);
        check(Some(9), 0, None);
        check(Some(9), 11, None);
        check(Some(9), u64::MAX, None);
        check(Some(8), 9, None);
        check(None, 9, Some(&[10]));
    }

    #[test]
    fn an_empty_room_can_be_resumed_from_its_beginning() {
        let history = history_of(0, &keep(5));
        assert_eq!(
            history.recover(RecoveryRequest::Since(Since { epoch: None, offset: 0 })).recovered,
            Some(true)
        );
        let nothing_kept = history_of(3, &keep(0));
        let since =
            |offset| nothing_kept.recover(RecoveryRequest::Since(Since { epoch: None, offset })).recovered;
        assert_eq!((since(3), since(2)), (Some(true), Some(false)));
    }

    #[test]
    fn pages_go_both_ways() {
        let history = history_of(10, &keep(6));
        let page = |since: Option<u64>, limit, reverse| {
            let since = since.map(|offset| Since { epoch: Some(epoch(9)), offset });
            history.page(Page { since, limit, reverse }).map(|publications| offsets(&publications))
        };
        assert_eq!(page(None, 2, false), Ok(vec![5, 6]));
        assert_eq!(page(None, 2, true), Ok(vec![10, 9]));
        assert_eq!(page(Some(6), 2, false), Ok(vec![7, 8]));
        assert_eq!(page(Some(1), 2, false), Ok(vec![5, 6]), "what is older is gone");
        assert_eq!(page(Some(7), 9, true), Ok(vec![6, 5]));
        assert_eq!(page(Some(5), 9, true), Ok(vec![]));
        assert_eq!(page(Some(50), 9, true), Ok(vec![10, 9, 8, 7, 6, 5]));
        assert_eq!(page(Some(50), 9, false), Ok(vec![]));
        assert_eq!(page(Some(0), 9, true), Err(PageError::BeforeFirst));
        let other = Since { epoch: Some(epoch(1)), offset: 6 };
        let page = history.page(Page { since: Some(other), limit: 1, reverse: false });
        assert_eq!(page.err(), Some(PageError::OtherEpoch));
    }

    #[test]
    fn histories_are_bounded_by_age_and_bytes() {
        let mut history = history_of(10, &keep(100));
        let options = RoomOptions { history_age_max: Duration::from_secs(3), ..keep(100) };
        assert!(!history.forget(Time::ZERO + Duration::from_secs(10), &options));
        assert_eq!(history.kept().0, 4);
        assert!(history.forget(Time::ZERO + Duration::from_secs(14), &options));
        assert_eq!(history.kept(), (0, 0));
        let one = history_of(1, &keep(1)).kept().1;
        let history = history_of(10, &RoomOptions { history_bytes_max: 3 * one, ..keep(100) });
        assert_eq!(history.kept(), (3, 3 * one));
    }
}
