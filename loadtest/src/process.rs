//! CPU and memory of a process, from /proc.

use std::fs;

/// CPU that all threads of a process have used, in nanoseconds, from the scheduler's statistics.
///
/// # Errors
/// One sentence: there is no such process.
pub fn cpu(pid: u32) -> Result<u64, String> {
    let tasks =
        fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| format!("--server-pid {pid}: {error}"))?;
    let nanos = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok());
    Ok(nanos.sum())
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// One sentence: there is no such process.
pub fn memory(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("--server-pid {pid}: {error}"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}
