//! Starts the worker processes, sends them commands, and merges their reports.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::display::{Display, View};
use crate::message::{Assignment, Command, IntervalReport, WorkerMessage, WorkerSummary};
use crate::outcome::{Outcome, Sample, Second};
use crate::plan::Plan;
use crate::process;
use crate::stats::Stats;

/// The subcommand of a worker process.
pub const WORKER: &str = "worker";

/// File descriptors that a worker needs besides its clients.
const RESERVED_DESCRIPTORS: u64 = 32;

/// How long the coordinator waits for a message before it updates the display.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// From the end of the connect phase to the first message.
const START_DELAY_NS: u64 = 50 * MILLISECOND;

/// The number of workers.
///
/// # Errors
/// One sentence: the requested number is too low.
pub fn size(clients: u32, requested: Option<u32>, server_is_local: bool) -> Result<u32, String> {
    let required = u32::try_from(u64::from(clients).div_ceil(clients_per_worker()?)).unwrap_or(u32::MAX);
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
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

struct Worker {
    child: Child,
    stdin: ChildStdin,
    /// Its final report has arrived.
    done: bool,
    connected: u32,
}

impl Worker {
    fn spawn(
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
        let mut worker = Self { child, stdin, done: false, connected: 0 };
        worker.send(assignment);
        Ok(worker)
    }

    /// A failed write is ignored: the end of the worker's output is noticed in `wait_until`.
    fn send(&mut self, message: &impl serde::Serialize) {
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

/// A run in progress.
pub struct Coordinator<'r> {
    plan: &'r Plan,
    workers: Vec<Worker>,
    messages: Receiver<(usize, Option<WorkerMessage>)>,
    epoch_ns: u64,
    interrupted: Arc<AtomicBool>,
    stopping: bool,
    server_pid: Option<u32>,
    /// The last sample of the server, and its second.
    last_sample: Option<(u64, Sample)>,
    display: Display,
    seconds: BTreeMap<u64, Second>,
    total: Stats,
    connected_workers: usize,
    published_workers: usize,
    published: Vec<u32>,
    summaries: Vec<WorkerSummary>,
}

impl<'r> Coordinator<'r> {
    /// Starts the workers.
    ///
    /// # Errors
    /// One sentence: a worker cannot be started.
    pub fn start(
        plan: &'r Plan,
        workers: u32,
        server_pid: Option<u32>,
        display: Display,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let (sender, messages) = channel();
        let epoch_ns = clock::now();
        let spawn = |index| {
            let assignment = Assignment { plan: plan.clone(), index, of: workers, epoch_ns };
            Worker::spawn(&assignment, sender.clone())
        };
        Ok(Self {
            plan,
            workers: (0..workers).map(spawn).collect::<Result<_, _>>()?,
            messages,
            epoch_ns,
            interrupted,
            stopping: false,
            server_pid,
            last_sample: None,
            display,
            seconds: BTreeMap::new(),
            total: Stats::default(),
            connected_workers: 0,
            published_workers: 0,
            published: vec![0; plan.publishers as usize],
            summaries: Vec::new(),
        })
    }

    /// Executes the run.
    ///
    /// # Errors
    /// One sentence that names the cause.
    pub fn run(mut self) -> Result<Outcome, String> {
        let workers = self.workers.len();
        let initial_sample = self.sample()?;
        self.wait_until("connecting", |run| run.connected_workers == workers)?;
        let connect_ns = clock::now() - self.epoch_ns;
        if self.plan.connect_first && self.total.handshakes == 0 && !self.stopping {
            return Err(self.connect_error());
        }
        let connected_sample = self.sample()?;
        let begin_ns = clock::now() + START_DELAY_NS;
        if !self.stopping {
            self.send_to_all(&Command::Start(begin_ns));
        }
        self.wait_until("running", |run| run.published_workers == workers)?;
        let running_ns = clock::now().saturating_sub(begin_ns);
        let published_sample = self.sample()?;
        let connected = self.workers.iter().map(|worker| worker.connected).sum();
        let published = std::mem::take(&mut self.published);
        self.send_to_all(&Command::Drain(published.clone()));
        self.wait_until("draining", |run| run.summaries.len() == workers)?;
        self.display.end();
        let server = match (initial_sample, connected_sample, published_sample) {
            (Some(initial), Some(connected), Some(published)) => Some([initial, connected, published]),
            _ => None,
        };
        let received = |publisher: usize| {
            self.summaries.iter().map(|summary| summary.received[publisher]).max().unwrap_or(0)
        };
        let undelivered = published
            .iter()
            .enumerate()
            .map(|(publisher, &published)| u64::from(published.saturating_sub(received(publisher))));
        Ok(Outcome {
            undelivered: undelivered.sum(),
            seconds: std::mem::take(&mut self.seconds),
            connected,
            connect_ns,
            running_ns,
            workers: std::mem::take(&mut self.summaries),
            server,
            interrupted: self.stopping,
        })
    }

    fn connect_error(&self) -> String {
        let address = self.plan.target.address;
        let why = self.total.errors.iter().max_by_key(|&(_, count)| count);
        let why = why.map_or("unknown reason", |(why, _)| why);
        format!("no client connected to {address}: {why}; check that the server runs and the URL is correct")
    }

    fn send_to_all(&mut self, command: &Command) {
        for worker in &mut self.workers {
            worker.send(command);
        }
    }

    fn sample(&self) -> Result<Option<Sample>, String> {
        let Some(pid) = self.server_pid else { return Ok(None) };
        Ok(Some(Sample { cpu_ns: process::cpu(pid)?, memory: process::memory(pid)? }))
    }

    /// Handles messages of the workers until `condition` is true.
    fn wait_until(&mut self, phase: &str, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !condition(self) {
            if self.interrupted.load(Ordering::Relaxed) && !self.stopping {
                self.stopping = true;
                self.send_to_all(&Command::Stop);
            }
            match self.messages.recv_timeout(POLL_INTERVAL) {
                Ok((index, Some(message))) => self.handle_message(index, message)?,
                Ok((index, None)) if !self.workers[index].done => {
                    return Err("a worker exited early; it may have been killed or out of memory".to_owned());
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("all workers have exited".to_owned()),
            }
            self.sample_server();
            self.display.show(&View {
                phase,
                plan: self.plan,
                elapsed_ns: clock::now() - self.epoch_ns,
                connected: self.workers.iter().map(|worker| worker.connected).sum(),
                seconds: &self.seconds,
                total: &self.total,
            });
        }
        Ok(())
    }

    fn handle_message(&mut self, index: usize, message: WorkerMessage) -> Result<(), String> {
        match message {
            WorkerMessage::Interval(report) => self.add_interval(index, &report),
            WorkerMessage::Connected => self.connected_workers += 1,
            WorkerMessage::Published(published) => {
                self.connected_workers =
                    self.workers.len().min(self.connected_workers + usize::from(self.stopping));
                self.published_workers += 1;
                for (publisher, published) in published {
                    self.published[publisher as usize] = published;
                }
            }
            WorkerMessage::Finished(summary) => {
                self.workers[index].done = true;
                self.summaries.push(summary);
            }
            WorkerMessage::Failed(why) => return Err(why),
        }
        Ok(())
    }

    fn add_interval(&mut self, index: usize, report: &IntervalReport) {
        self.workers[index].connected = report.connected;
        let connected = self.workers.iter().map(|worker| worker.connected).sum();
        let second = self.seconds.entry(report.second).or_default();
        second.stats.add(&report.stats);
        second.connected = connected;
        self.total.add(&report.stats);
    }

    /// Samples the server's CPU and memory once per second.
    fn sample_server(&mut self) {
        let second = (clock::now() - self.epoch_ns) / SECOND;
        let Ok(Some(sample)) = self.sample_if_new(second) else { return };
        if let Some((last, before)) = self.last_sample {
            let entry = self.seconds.entry(last).or_default();
            entry.server = Some((sample.cpu_ns.saturating_sub(before.cpu_ns), sample.memory));
        }
        self.last_sample = Some((second, sample));
    }

    fn sample_if_new(&self, second: u64) -> Result<Option<Sample>, String> {
        if self.last_sample.is_some_and(|(last, _)| last == second) { Ok(None) } else { self.sample() }
    }
}
