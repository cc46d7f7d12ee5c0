//! The census under threads: a bound holds at every moment, and in the end nobody is counted.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use stentor::base::census::Census;
use stentor::base::hash::Seed;

#[test]
fn a_bound_holds_under_threads() {
    const THREADS: usize = 8;
    const KEYS: u32 = 3;
    const MAX: u32 = 5;
    let census = Arc::new(Census::new(&Seed::new(7)));
    let inside: [AtomicU32; KEYS as usize] = Default::default();
    let refused = AtomicU32::new(0);
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (census, inside, refused, start) = (&census, &inside, &refused, &start);
            scope.spawn(move || {
                start.wait();
                let mut held = Vec::new();
                for round in 0..20_000 {
                    let key = (round + u32::try_from(thread).unwrap()) % KEYS;
                    match census.enter(&key, MAX) {
                        Some(ticket) => {
                            let now = inside[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(now <= MAX, "{now} are in");
                            held.push((key, ticket));
                        }
                        None => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                    if held.len() > 2 {
                        let (key, ticket) = held.swap_remove(round as usize % held.len());
                        inside[key as usize].fetch_sub(1, Ordering::SeqCst);
                        drop(ticket);
                    }
                }
                for (key, _ticket) in held {
                    inside[key as usize].fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "24 hold on to 15 places: some must have been refused");
    assert_eq!(census.keys(), 0);
}
