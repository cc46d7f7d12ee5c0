//! Open files: how many there may be, and a table of them for each shard.
//!
//! The threads of a process share one descriptor table, and every call that names a descriptor then counts a reference up
//! and down; in a `send` that is some 3 %. A table that only one thread uses needs no counting. And the limit on open
//! files holds for each table: so each shard may hold as many connections as else the whole process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::shard::SURPLUS_MAX;

/// Descriptors for what is no client's: the log, a file that is read, the signals' pipe.
const RESERVED: u64 = 32;

/// What "unlimited" is taken for: more than memory holds.
const UNLIMITED: u64 = 1 << 32;

/// Descriptors for each shard in every table: its poller, its waker, its listeners, with some to spare.
const RESERVED_PER_SHARD: u64 = 8;

/// How many connections the limit on open files allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// In the whole process.
    pub process: u64,
    /// On each shard.
    pub shard: u64,
    /// Whether every shard is to have a table of its own.
    pub own_tables: bool,
    /// Open files that are allowed in one table.
    pub limit: u64,
    /// Of these, the ones that are not for clients.
    pub reserve: u64,
}

impl Capacity {
    /// Raises the soft limit to the hard one and looks at what there is for `shards` shards.
    pub fn survey(shards: usize) -> Self {
        let limit = raise_limit();
        let shards = shards as u64;
        let own_tables = unsharing_is_allowed();
        let surplus = if own_tables { SURPLUS_MAX } else { SURPLUS_MAX * shards };
        let reserve = RESERVED + RESERVED_PER_SHARD * shards + surplus;
        let shard = limit.saturating_sub(reserve);
        let process = if own_tables { shard.saturating_mul(shards) } else { shard };
        Self { process, shard, own_tables, limit, reserve }
    }
}

/// Gives the calling thread a descriptor table of its own, a copy of the process's.
///
/// # Errors
/// The kernel does not let it, as under some containers' filters.
pub fn own_table() -> rustix::io::Result<()> {
    // SAFETY: afterwards a descriptor that this thread opens means nothing to the others, and one that they open means nothing
    // here. The threads that call this open sockets for themselves only, and share with the others what was opened
    // before: the wakers, which nobody closes while a shard runs, and standard error.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }
}

#[expect(clippy::disallowed_methods, reason = "a thread that lives for one call, whose table may change")]
fn unsharing_is_allowed() -> bool {
    std::thread::spawn(own_table).join().is_ok_and(|allowed| allowed.is_ok())
}

fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    allowed.unwrap_or(UNLIMITED)
}
