//! The tests of `e2e.rs`, on io_uring: what the server runs on is told by this program's name (see `support::driver`).

#[path = "e2e.rs"]
mod e2e;
