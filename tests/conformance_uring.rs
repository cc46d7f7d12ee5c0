//! The tests of `conformance.rs`, on io_uring: what the server runs on is told by this program's name (see `support::driver`).

#[path = "conformance.rs"]
mod conformance;
