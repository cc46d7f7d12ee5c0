//! The tests of `sockjs.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "sockjs.rs"]
mod sockjs;
