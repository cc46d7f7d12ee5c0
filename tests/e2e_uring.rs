//! The tests of `e2e.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "e2e.rs"]
mod e2e;
