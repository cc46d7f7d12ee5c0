//! What every other module stands on: time as a value, the connection table, a room's shared log, the
//! timer wheel, the rings between shards, the census of connections. Names nobody above it and does no I/O.

pub mod census;
pub mod hash;
pub mod log;
pub mod rng;
pub mod spsc;
pub mod table;
pub mod time;
pub mod timer_wheel;

pub use table::{ConnKey, Table};
pub use time::Time;
