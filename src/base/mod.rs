//! What every other module stands on: time as a value, the connection table, a room's shared log, the
//! timer wheel, the rings between shards, the connection counter. Imports no other module and does no I/O.

pub mod connection_counter;
pub mod handles;
pub mod hash;
pub mod log;
pub mod prefetch;
pub mod rng;
pub mod shard_set;
pub mod spsc;
pub mod table;
pub mod time;
pub mod timer_wheel;

pub use handles::{AudienceId, Index, RoomId, SubId};
pub use shard_set::{SHARDS_MAX, ShardSet};
pub use table::{ConnKey, HomeKey, OutletKey, SessionKey, Table};
pub use time::Time;
