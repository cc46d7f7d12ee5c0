//! The tests of `rooms.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "rooms.rs"]
mod rooms;
