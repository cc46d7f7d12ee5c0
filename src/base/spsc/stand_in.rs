//! `rtrb`'s ring as loom sees it: two counters, of which the writer releases one and the reader the other.
//!
//! Whether `rtrb` itself is sound is its own concern. What counts here is that no edge is added that the real
//! ring does not give: a mutex around the whole would order a look at an empty ring before the push that
//! follows, and hide a missing fence. So [`Consumer::is_empty`] is one load, as it is there.

use loom::sync::atomic::{AtomicUsize, Ordering};
use std::cell::OnceCell;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(super) enum PushError<T> {
    Full(T),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Empty;

#[derive(Debug)]
struct Shared<T> {
    /// Messages taken out so far; only the reader adds.
    head: AtomicUsize,
    /// Messages put in so far; only the writer adds. `head <= tail <= head + slots.len()`.
    tail: AtomicUsize,
    /// Never contended, as loom switches threads at its own operations alone: that makes it a cell that is
    /// `Sync`.
    slots: Vec<Mutex<Option<T>>>,
}

impl<T> Shared<T> {
    fn take(&self, at: usize) -> Option<T> {
        self.slots[at % self.slots.len()].try_lock().ok()?.take()
    }
}

pub(super) struct RingBuffer;

impl RingBuffer {
    #[expect(clippy::new_ret_no_self, reason = "named as in rtrb")]
    pub(super) fn new<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let slots = (0..capacity).map(|_| Mutex::new(None)).collect();
        let shared = Arc::new(Shared { head: AtomicUsize::new(0), tail: AtomicUsize::new(0), slots });
        (Producer { shared: Arc::clone(&shared) }, Consumer { shared, first: OnceCell::new() })
    }
}

#[derive(Debug)]
pub(super) struct Producer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Producer<T> {
    #[expect(clippy::needless_pass_by_ref_mut, reason = "there is one writer")]
    pub(super) fn push(&mut self, message: T) -> Result<(), PushError<T>> {
        let Shared { head, tail, slots } = &*self.shared;
        let at = tail.load(Ordering::Relaxed);
        if at - head.load(Ordering::Acquire) == slots.len() {
            return Err(PushError::Full(message));
        }
        *slots[at % slots.len()].try_lock().expect("a slot that is not visible") = Some(message);
        tail.store(at + 1, Ordering::Release);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// The oldest message, once it has been looked at.
    first: OnceCell<T>,
}

impl<T> Consumer<T> {
    pub(super) fn pop(&mut self) -> Result<T, Empty> {
        self.peek()?;
        let message = self.first.take().ok_or(Empty)?;
        let at = self.shared.head.load(Ordering::Relaxed);
        self.shared.head.store(at + 1, Ordering::Release);
        Ok(message)
    }

    pub(super) fn peek(&self) -> Result<&T, Empty> {
        if self.first.get().is_none() && self.is_empty() {
            return Err(Empty);
        }
        let at = self.shared.head.load(Ordering::Relaxed);
        Ok(self.first.get_or_init(|| self.shared.take(at).expect("the writer has filled it")))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.head.load(Ordering::Relaxed) == self.shared.tail.load(Ordering::Acquire)
    }
}
