//! The tests of `faults.rs`, on io_uring: what the server runs on is told by this program's name (see `support::driver`).

#[path = "faults.rs"]
mod faults;
