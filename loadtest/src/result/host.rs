//! The machine that swarm runs on.

use serde::{Deserialize, Serialize};
use std::fs;

/// A machine, as far as results depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Operating system and its version.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// Cores that swarm may use.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory: u64,
}

impl Host {
    /// This machine.
    pub fn read() -> Self {
        let system = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&memory, "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            name: text(system.nodename()),
            kernel: format!("{} {}", text(system.sysname()), text(system.release())),
            cpu: field(&cpus, "model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: kib.unwrap_or(0) * 1024,
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        let cpu = if self.cpu.is_empty() { "CPU" } else { &self.cpu };
        format!("{}, {}, {} cores of {cpu}", self.name, self.kernel, self.cores)
    }
}

/// The value of the first line `name: value`.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let host = Host::read();
        assert!(host.kernel.starts_with("Linux ") && host.cores > 0 && host.memory > 1 << 20, "{host:?}");
        assert_eq!(
            field("processor\t: 0\nmodel name\t: Fast CPU 3\nmodel name: x\n", "model name"),
            "Fast CPU 3"
        );
        assert_eq!(field("a: b", "model name"), "");
    }
}
