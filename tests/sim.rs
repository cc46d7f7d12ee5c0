//! The simulator at work: the same scenarios each time, and new ones for as long as one likes.
//!
//! `STENTOR_SIM_SEED=7 cargo test --test sim` plays one scenario; `STENTOR_SIM_SECONDS=60` plays new ones for a minute, beginning
//! at a seed that is printed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does and ends where it fails"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stentor::driver::sim::scenario::What;
use stentor::driver::sim::{self, Report, Scenario};

/// Scenarios of `cargo test`.
const SEEDS: std::ops::Range<u64> = 0..300;

/// Runs that making a failing scenario smaller may take.
const SHRINK_TRIES_MAX: usize = 400;

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays the scenario of a seed. When it fails, says how to see it again, and what is left of it when it is made smaller.
fn play(seed: u64) -> Report {
    let scenario = Scenario::draw(seed);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = sim::try_run(&scenario).map_err(|failure| {
        let first = failure.message.clone();
        (first, sim::shrink(&scenario, failure, SHRINK_TRIES_MAX))
    });
    std::panic::set_hook(hook);
    outcome.unwrap_or_else(|(first, (small, failure))| {
        println!(
            "The smallest scenario that still fails:\n{} shards, {:?}, {:?}",
            small.shards, small.options, small.faults
        );
        for (client, plan) in small.clients.iter().enumerate() {
            if small.events.iter().any(|event| matches!(event.what, What::Client(who, _) if who == client)) {
                println!("client {client}: {plan:?}");
            }
        }
        println!("What happens in it, at last {:?}:\n{}", small.ending, failure.trace.join("\n"));
        println!("And then: {}", failure.message);
        panic!("{first}\nSTENTOR_SIM_SEED={seed} cargo test --test sim -- --nocapture");
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it plays is told in real time")]
fn the_server_keeps_its_promises() {
    if let Some(seed) = variable("STENTOR_SIM_SEED") {
        println!("{:?}", play(seed));
        return;
    }
    for seed in SEEDS {
        play(seed);
    }
    let Some(seconds) = variable("STENTOR_SIM_SECONDS") else { return };
    let first =
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() << 20;
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        play(first + count);
        count += 1;
    }
    println!("{count} new scenarios, from seed {first}");
}
