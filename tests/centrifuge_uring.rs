//! The tests of `centrifuge.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "centrifuge.rs"]
mod centrifuge;
