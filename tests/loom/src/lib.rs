//! The rings between shards and the doorbell, with loom's atomics: `RUSTFLAGS="--cfg loom" cargo test -p
//! stentor-loom`. Empty otherwise.

#![cfg(loom)]
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module of another crate, of which the models use a part"
)]

#[path = "../../../src/base/spsc/mod.rs"]
mod spsc;
