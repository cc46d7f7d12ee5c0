//! Requests made through the edge: a bounded number in flight, a bounded number queued, and a bounded number
//! of bytes for both. Each has a deadline that begins when it is handed over, waiting included, so that a
//! peer that stalls costs no other one. Its owner can cancel it, which frees its slot at once.

use std::fmt::{self, Debug};
use std::hash::{Hash, RandomState};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// Bounds of a kind of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In flight at a time.
    pub concurrency: usize,
    /// That may wait for one of these.
    pub waiting_max: usize,
    /// Of all these together.
    pub bytes_max: usize,
    /// From when it is handed over to its outcome.
    pub timeout: Duration,
}

/// The outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It was carried out.
    Done(T),
    /// It was not, within the time-out.
    TimedOut,
    /// It was given up: the edge has ended, or the work has panicked.
    Lost,
}

/// Which bound a request was refused for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// [`Limits::waiting_max`].
    Count,
    /// [`Limits::bytes_max`].
    Bytes,
}

/// Requests of one kind. Their owners are distinguished by `K`; each has one request at a time.
pub struct Requests<K> {
    edge: Handle,
    limits: Limits,
    slots: Arc<Semaphore>,
    open: Arc<Mutex<Open<K>>>,
}

impl<K> Debug for Requests<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Those that have no outcome yet.
struct Open<K> {
    requests: Map<K, Request>,
    bytes: usize,
    next_number: u64,
}

#[expect(
    clippy::disallowed_types,
    reason = "its keys are the server's own, and it is seeded anew in each process"
)]
type Map<K, V> = std::collections::HashMap<K, V, RandomState>;

struct Request {
    /// Distinguishes it from earlier and later ones of the same owner.
    number: u64,
    bytes: usize,
    /// `None`: its task is just being spawned.
    task: Option<AbortHandle>,
}

impl<K: Copy + Eq + Hash + Send + 'static> Requests<K> {
    /// They are carried out on `edge`.
    pub fn new(edge: &Handle, limits: Limits) -> Self {
        let open = Open { requests: Map::default(), bytes: 0, next_number: 0 };
        Self {
            edge: edge.clone(),
            limits,
            slots: Arc::new(Semaphore::new(limits.concurrency)),
            open: Arc::new(Mutex::new(open)),
        }
    }

    /// Runs `work` for `owner` as soon as a slot is free; it holds `bytes` until then. `done` receives the
    /// outcome, on the edge's thread, unless the request is cancelled. An earlier request of the same asker
    /// is cancelled. Takes no time.
    ///
    /// # Errors
    /// There are too many: neither is called.
    pub fn submit<F: Future + Send + 'static>(
        &self,
        owner: K,
        bytes: usize,
        work: impl FnOnce() -> F + Send + 'static,
        done: impl FnOnce(Outcome<F::Output>) + Send + 'static,
    ) -> Result<(), Full> {
        self.cancel(owner);
        let number = self.admit(owner, bytes)?;
        let ending =
            Ending { open: Arc::clone(&self.open), owner, number, done: Some(done), outcome: PhantomData };
        let deadline = Instant::now() + self.limits.timeout;
        let slots = Arc::clone(&self.slots);
        let task = self.edge.spawn(async move {
            let mut ending = ending;
            let carried_out = timeout_at(deadline, async {
                // The semaphore is never closed.
                let _slot = slots.acquire().await.ok();
                // Boxed: queued work needs no memory for its running state.
                Box::pin(work()).await
            });
            let outcome = carried_out.await.map_or(Outcome::TimedOut, Outcome::Done);
            ending.report(outcome);
        });
        let mut open = lock(&self.open);
        match open.requests.get_mut(&owner).filter(|request| request.number == number) {
            Some(request) => request.task = Some(task.abort_handle()),
            None => {
                // It is over already, or was cancelled meanwhile. Aborting may run the task's end, which
                // takes the lock.
                drop(open);
                task.abort();
            }
        }
        Ok(())
    }

    /// Takes back the request of `owner`, if there is one: it gets no outcome.
    pub fn cancel(&self, owner: K) {
        let request = lock(&self.open).remove(owner, None);
        // Not under the lock: a task that has not begun is dropped here and now.
        if let Some(task) = request.and_then(|request| request.task) {
            task.abort();
        }
    }

    /// How many have no outcome yet.
    pub fn count(&self) -> usize {
        lock(&self.open).requests.len()
    }

    fn admit(&self, owner: K, bytes: usize) -> Result<u64, Full> {
        let mut open = lock(&self.open);
        if open.requests.len() >= self.limits.concurrency + self.limits.waiting_max {
            return Err(Full::Count);
        }
        if bytes > self.limits.bytes_max - open.bytes.min(self.limits.bytes_max) {
            return Err(Full::Bytes);
        }
        let number = open.next_number;
        open.next_number += 1;
        open.bytes += bytes;
        open.requests.insert(owner, Request { number, bytes, task: None });
        Ok(number)
    }
}

impl<K: Copy + Eq + Hash> Open<K> {
    /// Takes out the request of `owner`, if it is the one of that number, or whichever it is.
    fn remove(&mut self, owner: K, number: Option<u64>) -> Option<Request> {
        let found = self.requests.get(&owner)?;
        if number.is_some_and(|number| number != found.number) {
            return None;
        }
        let request = self.requests.remove(&owner)?;
        self.bytes -= request.bytes;
        Some(request)
    }
}

fn lock<K>(open: &Mutex<Open<K>>) -> MutexGuard<'_, Open<K>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports the outcome once, however the task ends.
struct Ending<K: Copy + Eq + Hash, T, D: FnOnce(Outcome<T>)> {
    open: Arc<Mutex<Open<K>>>,
    owner: K,
    number: u64,
    done: Option<D>,
    outcome: PhantomData<fn(T)>,
}

impl<K: Copy + Eq + Hash, T, D: FnOnce(Outcome<T>)> Ending<K, T, D> {
    fn report(&mut self, outcome: Outcome<T>) {
        // One that was cancelled is not there any more.
        let is_open = lock(&self.open).remove(self.owner, Some(self.number)).is_some();
        if let Some(done) = self.done.take().filter(|_| is_open) {
            done(outcome);
        }
    }
}

impl<K: Copy + Eq + Hash, T, D: FnOnce(Outcome<T>)> Drop for Ending<K, T, D> {
    fn drop(&mut self) {
        self.report(Outcome::Lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Edge;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tokio::sync::oneshot;

    /// For what has to happen at once.
    const SOON: Duration = Duration::from_secs(20);

    const LIMITS: Limits = Limits { concurrency: 1, waiting_max: 2, bytes_max: 10, timeout: SOON };

    type Reported = (u32, Outcome<u32>);

    fn start(limits: Limits) -> (Requests<u32>, Sender<Reported>, Receiver<Reported>, Edge) {
        let (sender, outcomes) = channel();
        let edge = Edge::start().unwrap();
        (Requests::new(edge.handle(), limits), sender, outcomes, edge)
    }

    /// Submits a request that is carried out when its sender is used.
    fn gated(
        requests: &Requests<u32>,
        outcomes: &Sender<Reported>,
        owner: u32,
        bytes: usize,
    ) -> (Result<(), Full>, oneshot::Sender<u32>) {
        let (release, released) = oneshot::channel();
        let outcomes = outcomes.clone();
        let work = move || async move { released.await.unwrap() };
        (requests.submit(owner, bytes, work, move |it| outcomes.send((owner, it)).unwrap()), release)
    }

    #[test]
    fn each_outcome_is_reported_once() {
        let (requests, sender, outcomes, _edge) = start(LIMITS);
        let (submitted, release) = gated(&requests, &sender, 1, 1);
        assert_eq!((submitted, requests.count()), (Ok(()), 1));
        release.send(7).unwrap();
        assert_eq!(outcomes.recv_timeout(SOON).unwrap(), (1, Outcome::Done(7)));
        assert_eq!(requests.count(), 0);
        requests.cancel(1);
        assert!(outcomes.try_recv().is_err());
    }

    #[test]
    fn work_that_panics_is_lost_and_frees_its_slot() {
        let (requests, sender, outcomes, _edge) = start(LIMITS);
        let reports = sender.clone();
        // Without the panic hook, which would write a backtrace.
        let work = || async { std::panic::resume_unwind(Box::new(())) };
        requests.submit(1, 10, work, move |it| reports.send((1, it)).unwrap()).unwrap();
        assert_eq!(outcomes.recv_timeout(SOON).unwrap(), (1, Outcome::Lost));
        let (submitted, release) = gated(&requests, &sender, 2, 10);
        assert_eq!(submitted, Ok(()));
        release.send(5).unwrap();
        assert_eq!(outcomes.recv_timeout(SOON).unwrap(), (2, Outcome::Done(5)));
    }

    #[test]
    fn both_limits_hold_and_are_reported() {
        let (requests, sender, outcomes, _edge) = start(LIMITS);
        let (_, first) = gated(&requests, &sender, 1, 4);
        let (_, second) = gated(&requests, &sender, 2, 4);
        assert_eq!(gated(&requests, &sender, 3, 3).0, Err(Full::Bytes));
        let (_, third) = gated(&requests, &sender, 3, 2);
        assert_eq!(gated(&requests, &sender, 4, 0).0, Err(Full::Count));
        for (release, value) in [(third, 3), (second, 2), (first, 1)] {
            release.send(value).unwrap();
        }
        // One slot: in the order in which they came.
        for owner in 1..=3 {
            assert_eq!(outcomes.recv_timeout(SOON).unwrap(), (owner, Outcome::Done(owner)));
        }
    }

    #[test]
    fn a_second_request_replaces_the_first() {
        let (requests, sender, outcomes, _edge) = start(LIMITS);
        let (_, first) = gated(&requests, &sender, 1, 10);
        let (submitted, second) = gated(&requests, &sender, 1, 10);
        assert_eq!(submitted, Ok(()));
        let _ = first.send(1);
        second.send(2).unwrap();
        assert_eq!(outcomes.recv_timeout(SOON).unwrap(), (1, Outcome::Done(2)));
        assert_eq!((requests.count(), outcomes.try_recv().is_err()), (0, true));
    }
}
