//! A worker process, as the coordinator sees it, and how many of them a run needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::mpsc::Sender;

use crate::message::{Assignment, WorkerMessage};
use crate::plan::Plan;

/// The subcommand of a worker process.
pub const WORKER: &str = "worker";

/// File descriptors that a worker needs besides its clients.
const RESERVED_DESCRIPTORS: u64 = 32;

/// The number of workers, without that of the publishers.
///
/// # Errors
/// One sentence: the requested number is too low.
pub fn size(plan: &Plan, requested: Option<u32>) -> Result<u32, String> {
    let clients = if plan.publishers_apart() { plan.clients - plan.publishers } else { plan.clients };
    let has_uplinks = plan.has_uplinks() && !plan.publishers_apart();
    let uplinks = if has_uplinks { plan.publishers } else { 0 };
    let sockets = u64::from(clients) + u64::from(uplinks);
    let required = u32::try_from(sockets.div_ceil(clients_per_worker()?)).unwrap_or(u32::MAX);
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let server_is_local = plan.target.address.ip().is_loopback();
    let default = if server_is_local { (cores / 2).max(1) } else { cores };
    match requested {
        Some(requested) if requested < required => Err(format!(
            "{clients} clients need {required} workers: a process may open {} files; use more --workers, fewer --clients, \
             or raise ulimit -n",
            clients_per_worker()? + RESERVED_DESCRIPTORS
        )),
        Some(requested) => Ok(requested.min(clients)),
        None => Ok(default.max(required).min(clients)),
    }
}

/// Raises the limit on open files to the hard limit.
fn clients_per_worker() -> Result<u64, String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    match allowed.unwrap_or(u64::MAX).checked_sub(RESERVED_DESCRIPTORS) {
        Some(clients @ 1..) => Ok(clients),
        _ => Err(format!("a process may open only {} files here: raise ulimit -n", allowed.unwrap_or(0))),
    }
}

/// A worker process.
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    /// Its final report has arrived.
    pub done: bool,
}

impl Worker {
    /// Starts a worker with its assignment. Its messages are sent to `messages` with its index; `None` is the
    /// end of its output.
    ///
    /// # Errors
    /// One sentence: it cannot be started.
    pub fn spawn(
        assignment: &Assignment,
        messages: Sender<(usize, Option<WorkerMessage>)>,
    ) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("cannot start a worker: {error}");
        let mut child = Program::new(std::env::current_exe().map_err(text)?)
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0) // Ctrl-C reaches the coordinator alone
            .spawn()
            .map_err(text)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a worker has no pipes".to_owned());
        };
        let index = assignment.index as usize;
        std::thread::Builder::new().spawn(move || relay(index, stdout, &messages)).map_err(text)?;
        let mut worker = Self { child, stdin, done: false };
        worker.send(assignment);
        Ok(worker)
    }

    /// Sends a line. A failed write is ignored: the end of the worker's output is noticed instead.
    pub fn send(&mut self, message: &impl serde::Serialize) {
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        let _ = self.stdin.write_all(&line);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn relay(index: usize, stdout: ChildStdout, messages: &Sender<(usize, Option<WorkerMessage>)>) {
    for line in BufReader::new(stdout).lines() {
        let message = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        if message.is_none() || messages.send((index, message)).is_err() {
            break;
        }
    }
    let _ = messages.send((index, None));
}
