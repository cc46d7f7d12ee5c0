//! The connection counter under threads: a limit holds at every moment, and in the end nothing is counted.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use stentor::base::connection_counter::ConnectionCounter;
use stentor::base::hash::Seed;

const THREADS: u32 = 8;
const KEYS: u32 = 3;
const MAX: u32 = 5;

#[test]
fn the_limit_is_exact_under_contention() {
    let counter = Arc::new(ConnectionCounter::new(&Seed::new(7)));
    let (together, inside) = (Barrier::new(THREADS as usize), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 1..=100 {
                    together.wait();
                    let permit = counter.acquire(&0, MAX);
                    inside.fetch_add(u32::from(permit.is_some()), Ordering::SeqCst);
                    together.wait();
                    assert_eq!(inside.load(Ordering::SeqCst), MAX * round);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(counter.keys(), 0);
}

#[test]
fn the_limit_holds_under_churn() {
    let counter = Arc::new(ConnectionCounter::new(&Seed::new(7)));
    let inside: [AtomicU32; KEYS as usize] = Default::default();
    let leave = |key: u32| inside[key as usize].fetch_sub(1, Ordering::SeqCst);
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (counter, inside, leave, start) = (&counter, &inside, &leave, &start);
            scope.spawn(move || {
                start.wait();
                let mut held = Vec::new();
                for round in 0..20_000_u32 {
                    let key = (round + thread) % KEYS;
                    if let Some(permit) = counter.acquire(&key, MAX) {
                        let now = inside[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(now <= MAX, "{now} are in");
                        held.push((key, permit));
                    }
                    if held.len() > 2 {
                        let (key, permit) = held.swap_remove(round as usize % held.len());
                        leave(key);
                        drop(permit);
                    }
                }
                for (key, _permit) in held {
                    leave(key);
                }
            });
        }
    });
    assert_eq!(counter.keys(), 0);
}
