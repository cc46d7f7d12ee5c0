//! The tests of `emulation.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "emulation.rs"]
mod emulation;
