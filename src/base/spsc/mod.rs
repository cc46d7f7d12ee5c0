//! Bounded rings between two shards, and the doorbell that wakes the one that sleeps.
//!
//! The ring itself is `rtrb`'s. Added here: a bound in bytes beside the one in messages (a ring of 64 KiB
//! messages must not hold gigabytes), and the only hand-written synchronisation of the project.
//!
//! That is why it is checked with loom, which runs a model in every interleaving and with every value that
//! the memory model lets a load return, in the crate `tests/loom`: `./test.sh loom`. `rtrb` does not know of
//! loom; a ring with the same orderings stands in for it there.

#[cfg(loom)]
mod models;
#[cfg(loom)]
mod stand_in;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
#[cfg(loom)]
use stand_in as rtrb;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// How much memory a message holds on to, for the ring's bound in bytes.
pub trait Weigh {
    /// Bytes on the heap, roughly.
    fn weight(&self) -> usize;
}

/// What a ring takes at most. One message is always taken, whatever its weight.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes, as [`Weigh`] counts them.
    pub bytes_max: usize,
}

/// The writing end.
#[derive(Debug)]
pub struct Sender<T> {
    ring: rtrb::Producer<T>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The reading end.
#[derive(Debug)]
pub struct Receiver<T> {
    ring: rtrb::Consumer<T>,
    bytes: Arc<AtomicUsize>,
}

/// A ring for one writer and one reader.
pub fn ring<T: Weigh>(limits: RingLimits) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(limits.messages_max);
    let bytes = Arc::new(AtomicUsize::new(0));
    let sender = Sender { ring: producer, bytes: Arc::clone(&bytes), bytes_max: limits.bytes_max };
    (sender, Receiver { ring: consumer, bytes })
}

impl<T: Weigh> Sender<T> {
    /// Hands `message` over, or back when the ring is full.
    ///
    /// # Errors
    /// The message, when either bound is reached or the other end is gone.
    pub fn send(&mut self, message: T) -> Result<(), T> {
        let weight = message.weight();
        // Only this end adds, so the sum can only have shrunk since it was read.
        let queued = self.bytes.load(Ordering::Relaxed);
        if queued > 0 && queued + weight > self.bytes_max {
            return Err(message);
        }
        // Added before the push: the reader must never subtract first.
        self.bytes.fetch_add(weight, Ordering::Relaxed);
        self.ring.push(message).map_err(|rtrb::PushError::Full(message)| {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            message
        })
    }
}

impl<T: Weigh> Receiver<T> {
    /// The oldest message.
    pub fn receive(&mut self) -> Option<T> {
        let message = self.ring.pop().ok()?;
        let weight = message.weight();
        let queued = self.bytes.fetch_sub(weight, Ordering::Relaxed);
        debug_assert!(queued >= weight, "{weight} of {queued} bytes");
        Some(message)
    }

    /// A look at the oldest message.
    pub fn peek(&self) -> Option<&T> {
        self.ring.peek().ok()
    }

    /// Whether there is nothing to receive.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// Whether a shard sleeps, so that it is woken at most once and only then.
///
/// The sleeper announces itself, then looks at its rings once more; the writer pushes, then looks at the
/// announcement. The two full fences make it impossible that both look too early (Dekker's argument).
#[derive(Debug, Default)]
#[repr(align(128))] // its own cache line, and the neighbour that the prefetcher drags along
pub struct Doorbell {
    asleep: AtomicBool,
}

impl Doorbell {
    /// The sleeper, before its last look at the rings.
    pub fn announce_sleep(&self) {
        // A store would do, as nothing can come between the two halves of a writer's swap. loom does not know
        // that rule, and beside a sleep a swap costs nothing.
        self.asleep.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper, when it did not sleep after all or is up again.
    pub fn announce_awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// A writer, after its push. True when it is the one that must wake the sleeper.
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    #[test]
    fn both_bounds_hold_and_one_heavy_message_passes() {
        let (mut sender, mut receiver) = ring::<usize>(RingLimits { messages_max: 3, bytes_max: 100 });
        assert_eq!(sender.send(5000), Ok(()));
        assert_eq!(sender.send(1), Err(1));
        assert_eq!(receiver.receive(), Some(5000));
        for weight in [40, 40, 20] {
            assert_eq!(sender.send(weight), Ok(()));
        }
        assert_eq!(sender.send(0), Err(0), "three messages");
        assert_eq!(receiver.receive(), Some(40));
        assert_eq!(sender.send(41), Err(41), "one hundred bytes");
        assert_eq!(sender.send(40), Ok(()));
    }

    #[test]
    fn a_doorbell_rings_once_for_a_sleeper() {
        let bell = Doorbell::default();
        assert!(!bell.ring(), "awake");
        bell.announce_sleep();
        assert!(bell.ring());
        assert!(!bell.ring(), "already woken");
    }
}
