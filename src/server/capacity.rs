//! What the shards run on, and how many connections the limit on open files leaves room for.

use rustix::io::Errno;
use std::io;

use super::listeners::BACKLOG;
use super::{Failure, failure};
use crate::config::{Config, Driver};
use crate::driver::IoBackend;
use crate::shard::OVER_LIMIT_MAX;

/// Descriptors of a shard's own: its poller, its waker, its listeners, and room for a log and a scrape.
const DESCRIPTORS_PER_SHARD: u64 = 8;

/// Descriptors for what is not a client.
const DESCRIPTORS_RESERVED: u64 = 32;

/// What the shards run on, and how many connections that leaves room for.
pub(super) struct Capacity {
    /// What the log calls it.
    pub(super) driver: &'static str,
    /// Whether clients' sockets are open files; on a ring they stand in its table.
    sockets_are_files: bool,
    connections: u64,
    /// What of the limit on open files goes to something else.
    reserve: u64,
    files_max: u64,
    /// What more connections need.
    remedy: &'static str,
}

/// What more connections need when the limit on open files bounds them.
const MORE_FILES: &str = "raise LimitNOFILE (ulimit -n)";

/// What more connections need when each ring's table is as large as it gets.
const MORE_RINGS: &str = "raise shards, as each has a table of its own, or choose --driver epoll";

/// One I/O backend for each shard: the configured one, or the best that is available.
pub(super) fn backends(config: &Config, shards: usize) -> Result<(Vec<IoBackend>, Capacity), Failure> {
    let (soft, hard) = raise_descriptor_limit();
    let count = shards as u64;
    if config.driver != Driver::Epoll {
        // Each ring's table is held against the limit for itself.
        let sockets_max = soft.min(config.max_connections.map_or(TABLE_MAX, table_for)).min(TABLE_MAX);
        let table = u32::try_from(sockets_max).unwrap_or(u32::MAX);
        match (0..shards).map(|_| IoBackend::uring(table)).collect::<io::Result<Vec<_>>>() {
            Ok(backends) => {
                let connections = count * sockets_max.saturating_sub(OVER_LIMIT_MAX);
                let reserve = OVER_LIMIT_MAX * count;
                let capacity = Capacity {
                    driver: "uring",
                    sockets_are_files: false,
                    connections,
                    reserve,
                    files_max: hard,
                    remedy: if sockets_max == TABLE_MAX { MORE_RINGS } else { MORE_FILES },
                };
                return Ok((backends, capacity));
            }
            Err(error) if config.driver == Driver::Uring => {
                let advice = ring_advice(&error);
                return Err(Failure::new(format!(
                    "io_uring cannot be used: {error}; {advice}, or choose --driver epoll"
                )));
            }
            Err(error) => {
                let advice = ring_advice(&error);
                tracing::info!(%error, advice, "io_uring unavailable: using epoll");
            }
        }
    }
    let backends = (0..shards).map(|_| IoBackend::epoll()).collect::<io::Result<Vec<_>>>();
    let backends = backends.map_err(|error| failure("epoll creation failed", &error))?;
    let reserve = DESCRIPTORS_RESERVED + count * DESCRIPTORS_PER_SHARD + OVER_LIMIT_MAX * count;
    let connections = soft.saturating_sub(reserve);
    let capacity = Capacity {
        driver: "epoll",
        sockets_are_files: true,
        connections,
        reserve,
        files_max: hard,
        remedy: MORE_FILES,
    };
    Ok((backends, capacity))
}

/// What it takes to have the ring that the kernel has refused.
fn ring_advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOMEM) => {
            "locked memory is used up: raise LimitMEMLOCK (ulimit -l), of which each shard's ring takes some 400 KiB"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "set kernel.io_uring_disabled = 0 (sysctl) and allow io_uring in the sandbox (seccomp)"
        }
        Some(Errno::MFILE) => "raise LimitNOFILE (ulimit -n), or lower shards",
        Some(Errno::NFILE) => "raise fs.file-max (sysctl)",
        Some(Errno::NOSYS) => "the kernel is built without io_uring, or the sandbox (seccomp) hides it",
        // An operation or a flag that this kernel does not know.
        _ => "Linux 6.8 or later is needed",
    }
}

/// The largest table that a ring gets by default, for which the kernel keeps eight bytes a slot: 2 MiB.
const TABLE_MAX: u64 = 1 << 18;

/// A table in which one ring can hold all of `connections`, if they all come to it, without being careful.
const fn table_for(connections: u64) -> u64 {
    connections.saturating_add(OVER_LIMIT_MAX + 2 * BACKLOG.cast_unsigned() as u64)
}

/// How many connections may be open: what was chosen, or what there is room for.
pub(super) fn connections_max(config: &Config, capacity: &Capacity) -> Result<u64, Failure> {
    let files_max = capacity.files_max;
    let hook = match &config.hook {
        Some(hook) if capacity.sockets_are_files => hook.concurrency as u64,
        Some(_) | None => 0,
    };
    let (connections, reserve) = (capacity.connections.saturating_sub(hook), capacity.reserve + hook);
    if connections == 0 {
        return Err(Failure::new(format!(
            "only {files_max} files may be open, and {reserve} are needed before the first client; {MORE_FILES}"
        )));
    }
    let remedy = capacity.remedy;
    match config.max_connections {
        Some(wanted) if wanted > connections => Err(Failure::new(format!(
            "max_connections = {wanted}, and there is room for {connections} with {files_max} open files allowed; {remedy}, \
             or lower max_connections"
        ))),
        Some(wanted) => Ok(wanted),
        None => Ok(connections),
    }
}

/// Raises the soft limit on open files to the hard one; returns both.
fn raise_descriptor_limit() -> (u64, u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let soft = if raised.is_ok() { hard } else { limit.current.unwrap_or(hard) };
    (soft, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_advice() {
        for (errno, expected) in [
            (Errno::NOMEM, "LimitMEMLOCK"),
            (Errno::PERM, "kernel.io_uring_disabled"),
            (Errno::MFILE, "LimitNOFILE"),
            (Errno::NOSYS, "without io_uring"),
            (Errno::INVAL, "Linux 6.8"),
        ] {
            let advice = ring_advice(&errno.into());
            assert!(advice.contains(expected), "{errno}: {advice}");
        }
        let missing = io::Error::new(io::ErrorKind::Unsupported, "the kernel has no recv");
        assert!(ring_advice(&missing).contains("Linux 6.8"));
    }
}
