//! A server in a process of its own, pinned, and its figures from the kernel.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Stentor, or another program with the same protocol, on a port of its own choice.
    pub fn start(program: &str, arguments: &str, more: &[&str]) -> Self {
        let address = free_address();
        let arguments = arguments.replace("{listen}", &address.to_string());
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).args(more).stdout(Stdio::null()).stderr(Stdio::null());
        let child = on_core(first_core(), || command.spawn()).expect("the server starts");
        let server = Self { child, address };
        while super::client::connect(server.address, 1).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// The bare loop.
    pub fn bare(members: usize, frame_bytes: usize, audience: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let numbers = [members, frame_bytes, audience].map(|number| number.to_string());
        command.arg("bare").args(numbers).stdout(Stdio::piped());
        let mut child = on_core(first_core(), || command.spawn()).expect("the floor starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("the port");
        let port: u16 = port.trim().parse().expect("a port");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Nanoseconds of CPU that all its threads have used.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("it runs");
        let pages: u64 =
            statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
        pages * 4096
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Twice: the second signal ends a drain.
        for _ in 0..2 {
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins this process, the client, to the last core.
pub fn pin_client() {
    let mut set = CpuSet::new();
    set.set(last_core());
    let _ = sched_setaffinity(None, &set);
}

fn on_core<T>(core: usize, work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("an affinity");
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
    let result = work();
    let _ = sched_setaffinity(None, &before);
    result
}

const fn first_core() -> usize {
    0
}

fn last_core() -> usize {
    std::thread::available_parallelism().map_or(0, |count| count.get() - 1).max(usize::from(CORES_KNOWN > 1))
}

/// After pinning, `available_parallelism` counts one core; two is the least this is meant for.
const CORES_KNOWN: usize = 2;

fn free_address() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address")
}
