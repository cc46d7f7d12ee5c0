//! The tests of `faults.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "faults.rs"]
mod faults;
