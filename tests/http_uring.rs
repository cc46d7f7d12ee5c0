//! The tests of `http.rs`, on io_uring: this program's name selects the driver (see `support::driver`).

#[path = "http.rs"]
mod http;
