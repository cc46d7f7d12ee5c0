//! The models that loom runs. A wake-up that is lost leaves the sleeper waiting forever, which loom reports
//! as a deadlock.
//!
//! What they are for has been seen to fail them: either fence taken out or weakened, the doorbell before the
//! push, the look at the rings before the announcement, an announcement that is read but not taken, bytes
//! added after the push, and bytes of a refused message that stay counted.

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;

/// A message of so many bytes.
struct Bytes(usize);

impl Weigh for Bytes {
    fn weight(&self) -> usize {
        self.0
    }
}

const WIDE: RingLimits = RingLimits { messages_max: 2, bytes_max: 100 };

/// More preemptions than any fault is known to need, and what ends within seconds.
const PREEMPTIONS_MAX: usize = 4;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(run);
}

/// An eventfd: a wake-up that comes before the sleep is kept for it.
struct EventFd {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl EventFd {
    fn new() -> Self {
        Self { rung: Mutex::new(false), changed: Condvar::new() }
    }

    fn write(&self) {
        *self.rung.lock().expect("no thread panics") = true;
        self.changed.notify_one();
    }

    fn read(&self) {
        let mut rung = self.rung.lock().expect("no thread panics");
        while !std::mem::take(&mut *rung) {
            rung = self.changed.wait(rung).expect("no thread panics");
        }
    }
}

/// What a shard and those that write to it share: its announcement, and the eventfd that ends its sleep.
struct Sleeper {
    doorbell: Doorbell,
    wake: EventFd,
}

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Self { doorbell: Doorbell::default(), wake: EventFd::new() })
    }

    /// A writer's turn, as the mesh takes it: the push, then the doorbell.
    fn send(&self, sender: &mut Sender<Bytes>, weight: usize) {
        assert!(sender.send(Bytes(weight)).is_ok(), "the ring has room");
        if self.doorbell.ring() {
            self.wake.write();
        }
    }

    /// A shard's turns until `count` messages have come. What it looks at before it sleeps is what it reads
    /// when it is up.
    fn receive_all(&self, receivers: &mut [Receiver<Bytes>], count: usize) {
        let mut received = 0;
        loop {
            for receiver in &mut *receivers {
                while receiver.receive().is_some() {
                    received += 1;
                }
            }
            if received == count {
                return;
            }
            self.doorbell.announce_sleep();
            if receivers.iter().all(Receiver::is_empty) {
                self.wake.read();
            }
            self.doorbell.announce_awake();
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let sleeper = Sleeper::new();
        let (mut sender, receiver) = ring(WIDE);
        let writer = thread::spawn({
            let sleeper = Arc::clone(&sleeper);
            move || {
                sleeper.send(&mut sender, 1);
                sleeper.send(&mut sender, 1);
            }
        });
        sleeper.receive_all(&mut [receiver], 2);
        writer.join().expect("it ends");
    });
}

#[test]
fn no_wake_up_is_lost_between_two_writers() {
    model(|| {
        let sleeper = Sleeper::new();
        let ((mut one, from_one), (mut other, from_other)) = (ring(WIDE), ring(WIDE));
        let writer = thread::spawn({
            let sleeper = Arc::clone(&sleeper);
            move || sleeper.send(&mut one, 1)
        });
        let second = thread::spawn({
            let sleeper = Arc::clone(&sleeper);
            move || sleeper.send(&mut other, 1)
        });
        sleeper.receive_all(&mut [from_one, from_other], 2);
        writer.join().expect("it ends");
        second.join().expect("it ends");
    });
}

#[test]
fn a_sleep_is_ended_once() {
    model(|| {
        let doorbell = Arc::new(Doorbell::default());
        doorbell.announce_sleep();
        let ring = |doorbell: &Arc<Doorbell>| {
            let doorbell = Arc::clone(doorbell);
            thread::spawn(move || doorbell.ring())
        };
        let rung = [ring(&doorbell), ring(&doorbell)].map(|writer| writer.join().expect("it ends"));
        assert_eq!(rung.iter().filter(|rung| **rung).count(), 1, "one of two writers wakes");
    });
}

/// The reader's own assertion fails when more is taken off than was put on.
#[test]
fn bytes_are_counted_on_both_ends() {
    model(|| {
        let (mut sender, mut receiver) = ring(RingLimits { messages_max: 1, bytes_max: 10 });
        let writer = thread::spawn(move || {
            // The second may find the ring full, and the third its bytes used up: both are refused, and
            // neither is counted.
            let sent: usize =
                [6, 3, 5].into_iter().filter(|weight| sender.send(Bytes(*weight)).is_ok()).sum();
            (sender, sent)
        });
        let mut taken = 0;
        for _ in 0..2 {
            taken += receiver.receive().map_or(0, |message| message.weight());
        }
        let (sender, sent) = writer.join().expect("it ends");
        taken += std::iter::from_fn(|| receiver.receive()).map(|message| message.weight()).sum::<usize>();
        assert_eq!(taken, sent);
        assert_eq!(sender.bytes.load(Ordering::Relaxed), 0, "nothing is held any more");
    });
}
