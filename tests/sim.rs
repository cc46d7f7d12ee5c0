//! The simulator at work: the same scenarios each time, and new ones for as long as one likes.
//!
//! `STENTOR_SIM_SEED=7 cargo test --test sim` plays one scenario. `STENTOR_SIM_SECONDS=60` plays new ones
//! too, for a minute. `STENTOR_SIM_SURVEY=300` only reports which of so many seeds fail, and how.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test reports what it does and ends where it fails"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stentor::driver::sim::scenario::What;
use stentor::driver::sim::{self, Report, Scenario};

/// Scenarios of `cargo test`.
const SEEDS: std::ops::Range<u64> = 0..150;

/// Runs that making a failing scenario smaller may take.
const SHRINK_TRIES_MAX: usize = 400;

/// Which seeds fail, and how the first ones do.
fn survey(seeds: std::ops::Range<u64>) {
    let (mut failed, mut kinds) = (Vec::new(), BTreeMap::new());
    for seed in seeds.clone() {
        if let Err(failure) = quietly(|| sim::try_run(&Scenario::draw(seed))) {
            *kinds.entry(failure.kind()).or_insert(0) += 1;
            failed.push((seed, failure.message));
        }
    }
    println!("{} of {} seeds fail", failed.len(), seeds.end - seeds.start);
    for (seed, message) in failed.iter().take(12) {
        println!("seed {seed}: {}", message.chars().take(300).collect::<String>());
    }
    for (kind, count) in kinds {
        println!("{count} times: {}", kind.chars().take(150).collect::<String>());
    }
}

thread_local! {
    /// Whether this thread's panics are not to be reported.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Without the panic hook's reports: every caller reports what happened.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                report(panic);
            }
        }));
    });
    QUIET.set(true);
    let outcome = run();
    QUIET.set(false);
    outcome
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays the scenario of a seed. When it fails, reports how to repeat it, and what is left of it when it is
/// made smaller.
fn play(seed: u64) -> Report {
    let scenario = Scenario::draw(seed);
    let outcome = quietly(|| {
        sim::try_run(&scenario).map_err(|failure| {
            let first = failure.message.clone();
            Box::new((first, sim::shrink(&scenario, failure, SHRINK_TRIES_MAX)))
        })
    });
    outcome.unwrap_or_else(|found| {
        let (first, (small, failure)) = *found;
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
#[expect(clippy::disallowed_methods, reason = "its duration is in real time")]
fn the_server_keeps_its_promises() {
    if let Some(seed) = variable("STENTOR_SIM_SEED") {
        println!("{:?}", play(seed));
        return;
    }
    if let Some(count) = variable("STENTOR_SIM_SURVEY") {
        return survey(0..count);
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

/// How much a simulation costs: a quiet afternoon of a hundred clients. Prints the ratio to real time.
#[test]
#[expect(clippy::disallowed_methods, reason = "it is real time that is measured")]
fn a_quiet_afternoon_is_simulated_quickly() {
    let begun = Instant::now();
    let report = sim::run(&Scenario::calm(1, 100, Duration::from_secs(1000)));
    let ratio = report.simulated.as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("{ratio:.0} simulated seconds with 100 clients in a second: {report:?}");
    assert_eq!(report.received, report.published * 100);
}
