//! What the operating system knows of this process, for `/metrics`.

use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::metrics::ProcessStats;

/// When the process began, since the Unix epoch.
static BEGAN: OnceLock<Duration> = OnceLock::new();

/// Notes that the process begins now.
pub(super) fn begin() {
    BEGAN.get_or_init(unix_time);
}

/// The wall clock, since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "a date for operators; no timer goes by it")]
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The figures of this moment; 0 for those that the sandbox hides. It takes some twenty microseconds.
pub(super) fn stats() -> ProcessStats {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(cpu.tv_nsec).unwrap_or(0);
    let (virtual_memory_bytes, resident_memory_bytes) = memory_bytes().unwrap_or_default();
    ProcessStats {
        cpu: Duration::new(seconds, nanos),
        resident_memory_bytes,
        virtual_memory_bytes,
        open_fds: open_fds(),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        start_time: BEGAN.get().copied().unwrap_or_default(),
    }
}

/// Address space and resident memory (proc_pid_statm(5)).
fn memory_bytes() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let page = rustix::param::page_size() as u64;
    let mut pages = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some((pages.next()?.ok()? * page, pages.next()?.ok()? * page))
}

/// Linux 6.2 and later have their number as the folder's size; before, they are counted.
fn open_fds() -> u64 {
    const FDS: &str = "/proc/self/fd";
    match fs::metadata(FDS).map(|folder| folder.len()) {
        Ok(count) if count > 0 => count,
        Ok(_) | Err(_) => fs::read_dir(FDS).map_or(0, |fds| fds.count().saturating_sub(1) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_this_processes() {
        begin();
        let before = stats();
        let ballast = vec![1_u8; 64 << 20];
        let files: Vec<_> = (0..10).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = stats();
        assert!(after.resident_memory_bytes >= before.resident_memory_bytes + ballast.len() as u64 / 2);
        assert!(after.virtual_memory_bytes >= after.resident_memory_bytes);
        // Other tests of this program open and close files, too.
        assert!(
            after.open_fds >= files.len() as u64 && after.max_fds.is_none_or(|max| max >= after.open_fds)
        );
        assert!(after.cpu >= before.cpu && after.cpu > Duration::ZERO);
        assert!(after.start_time > Duration::from_secs(1_700_000_000) && after.start_time <= unix_time());
    }
}
