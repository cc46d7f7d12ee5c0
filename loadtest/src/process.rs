//! CPU and memory of processes, from /proc.

use std::collections::BTreeSet;
use std::fs;

/// Processes of a server that are followed at most.
const PROCESSES_MAX: usize = 4096;

/// What processes have used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU since they started, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory, in bytes. Pages that processes share count for each.
    pub memory: u64,
    /// The highest resident memory so far, in bytes.
    pub memory_peak: u64,
}

impl Usage {
    /// That of the processes `pids` and all their children, now.
    ///
    /// # Errors
    /// One sentence: there is no such process.
    pub fn of_trees(pids: &[u32]) -> Result<Self, String> {
        let mut sum = Self::default();
        for &pid in pids {
            cpu(pid)?;
        }
        for pid in trees(pids) {
            // A child may have ended in between.
            let (Ok(cpu_ns), Ok(status)) = (cpu(pid), status(pid)) else { continue };
            sum.cpu_ns += cpu_ns;
            sum.memory += kib(&status, "VmRSS:") * 1024;
            sum.memory_peak += kib(&status, "VmHWM:") * 1024;
        }
        Ok(sum)
    }
}

/// The processes and their descendants, each once.
fn trees(pids: &[u32]) -> BTreeSet<u32> {
    let (mut found, mut next) = (BTreeSet::new(), pids.to_vec());
    while let Some(pid) = next.pop() {
        if found.len() < PROCESSES_MAX && found.insert(pid) {
            next.extend(children(pid));
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// CPU that all threads of a process have used, in nanoseconds, from the scheduler's statistics.
fn cpu(pid: u32) -> Result<u64, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| absent(pid, &error))?;
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
    status(pid).map(|status| kib(&status, "VmRSS:") * 1024)
}

fn status(pid: u32) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| absent(pid, &error))
}

fn absent(pid: u32, error: &std::io::Error) -> String {
    format!("--server-pid {pid}: there is no such process ({error})")
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn children_count_with_their_parent() {
        let own = std::process::id();
        // A shell that waits for its own child, both until their standard input ends.
        let mut shell = Command::new("sh")
            .args(["-c", "cat; :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = shell.id();
        // What is echoed has passed through the child, so the child exists.
        shell.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let expected: BTreeSet<_> = children(pid).into_iter().chain([pid]).collect();
        assert_eq!(expected.len(), 2);
        assert_eq!(trees(&[pid]), expected);
        assert!(trees(&[own]).is_superset(&expected) && trees(&[own, pid]) == trees(&[own]));
        let one = status(pid).map(|status| kib(&status, "VmRSS:") * 1024).unwrap();
        let tree = Usage::of_trees(&[pid]).unwrap();
        assert!(tree.memory > one && tree.memory_peak >= tree.memory, "{tree:?} {one}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(Usage::of_trees(&[own, pid]).unwrap_err().contains("there is no such process"));
    }
}
