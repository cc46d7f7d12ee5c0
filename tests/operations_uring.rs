//! The tests of `operations.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "operations.rs"]
mod operations;
