//! A worker: a process with one thread and one event loop, which holds its share of the clients. It receives
//! commands from the coordinator on its standard input and sends messages on its standard output, one line of
//! JSON each.
//!
//! | file | responsibility |
//! |---|---|
//! | `control` | the pipes to the coordinator |
//! | `progress` | the phase of the run, and what is due |
//! | `reporter` | the report of each second and the final summary |
//! | `connections` | the clients with their sockets: `dialer` schedules connections, `sources` has their addresses, `client` is one connection, `events` is what it changes, `uplink` is a connection for what it publishes |
//! | `receivers` | the clients without their sockets: `slot` is one, `deliveries` checks messages, `recovery` tracks positions |
//! | `publishers` | the messages to publish, and their send times |

mod client;
mod connections;
mod control;
mod deliveries;
mod dialer;
mod events;
mod progress;
mod publishers;
mod receivers;
mod recovery;
mod reporter;
mod slot;
mod sources;
mod uplink;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind};

use crate::clock::{self, MILLISECOND, Timer};
use crate::message::{Command, IntervalReport, WorkerMessage};
use crate::pace;
use crate::stats::Stats;
use client::Readiness;
use connections::Connections;
use control::{ControlPipe, send};
use progress::{Due, Progress};
use reporter::Reporter;
use uplink::UPLINK;

const TIMER: Token = Token(usize::MAX - 1);
const CONTROL: Token = Token(usize::MAX - 2);

/// Clients that are read between two checks for messages to publish.
const READS_BETWEEN: usize = 32;

/// The maximum time between two turns of the loop.
const LOOP_INTERVAL_NS: u64 = 10 * MILLISECOND;

struct Worker {
    poll: Poll,
    control: ControlPipe,
    timer: Timer,
    progress: Progress,
    connections: Connections,
    reporter: Reporter,
}

/// Executes the assignment that the coordinator sends.
pub fn run() {
    let outcome = Worker::start().and_then(|mut worker| {
        worker.work()?;
        send(&WorkerMessage::Finished(worker.reporter.end()));
        Ok(())
    });
    if let Err(why) = outcome {
        send(&WorkerMessage::Failed(why));
    }
}

/// Pins this process to a core, chosen by the worker's index.
fn pin(cores: &[usize], index: u32) -> Result<(), String> {
    let Some(&core) = cores.get(index as usize % cores.len().max(1)) else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("--pin {core}: {error}"))
}

impl Worker {
    fn start() -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (mut control, assignment) = ControlPipe::at_stdin()?;
        pin(&assignment.plan.pin, assignment.index)?;
        let poll = Poll::new().map_err(text)?;
        control.register(poll.registry(), CONTROL).map_err(text)?;
        let timer = Timer::new().map_err(text)?;
        poll.registry()
            .register(&mut SourceFd(&timer.descriptor()), TIMER, Interest::READABLE)
            .map_err(text)?;
        let now = clock::now();
        let registry = poll.registry().try_clone().map_err(text)?;
        Ok(Self {
            poll,
            control,
            timer,
            progress: Progress::new(&assignment.plan, now),
            reporter: Reporter::new(assignment.epoch_ns, now),
            connections: Connections::new(assignment, registry, now)?,
        })
    }

    fn work(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let mut ready = Vec::with_capacity(1024);
        while !self.progress.is_over() {
            let now = clock::now();
            self.connections.update_connections(now)?;
            // Messages that are due before the end of the stages are published even if they are late.
            self.connections.publish(now);
            self.advance(now);
            self.connections.read_slowly(now);
            self.tick(now);
            self.timer.set(self.connections.next_ns(now).min(now + LOOP_INTERVAL_NS));
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|error| error.to_string())?,
            }
            let again = Readiness { readable: true, ..Readiness::default() };
            ready.extend(self.connections.take_unfinished().into_iter().map(|local| (Token(local), again)));
            ready.extend(events.iter().map(|event| (event.token(), Readiness::from(event))));
            for (count, (token, readiness)) in ready.drain(..).enumerate() {
                if count % READS_BETWEEN == READS_BETWEEN - 1 {
                    let now = clock::now();
                    self.connections.publish(now);
                    self.tick(now); // a long turn does not move what is received into another second
                }
                match token {
                    TIMER => self.timer.fired(),
                    CONTROL => self.handle_commands()?,
                    Token(token) if token & UPLINK != 0 => {
                        self.connections.uplink_ready(token ^ UPLINK, readiness)
                    }
                    Token(local) => self.connections.ready(local, readiness),
                }
            }
        }
        Ok(())
    }

    /// Executes the commands that have arrived.
    fn handle_commands(&mut self) -> Result<(), String> {
        for command in self.control.commands()? {
            match command {
                Command::Start(at_ns) => {
                    let length_ns = pace::nanos(pace::length(&self.connections.plan().stages));
                    self.reporter.begin();
                    self.connections.begin(at_ns);
                    self.progress.begin(at_ns, length_ns);
                }
                Command::Drain(published_by_all) => {
                    self.connections.drain(published_by_all);
                    self.progress.drain(clock::now());
                }
                Command::Stop => {
                    self.connections.stop_connecting();
                    if self.progress.stop() {
                        self.end_stages(clock::now());
                    }
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, now: u64) {
        match self.progress.due(now, self.connections.observed()) {
            Due::Nothing => {}
            Due::Connected { timeout } => {
                if timeout {
                    self.connections.abandon_connecting();
                }
                self.send_interval();
                send(&WorkerMessage::Connected);
            }
            Due::StagesEnd => self.end_stages(now),
            Due::Check { last } => {
                if last || self.connections.is_complete() {
                    self.finish(now);
                }
            }
            Due::Closed => {
                self.reporter.closed(self.connections.unanswered_closes());
                self.progress.end();
            }
        }
    }

    fn end_stages(&mut self, now: u64) {
        if let Some(ran_ns) = self.progress.published(now) {
            self.reporter.stages_ended(ran_ns);
        }
        let published = self.connections.end_stages();
        self.send_interval();
        send(&WorkerMessage::Published(published));
    }

    /// Takes the results; then the clients leave.
    fn finish(&mut self, now: u64) {
        let (received, storms) = self.connections.finish();
        self.reporter.finish(received, storms, self.connections.sources_used());
        self.send_interval();
        send(&WorkerMessage::Drained);
        self.connections.close_all();
        self.progress.close(now);
    }

    fn tick(&mut self, now: u64) {
        if self.reporter.is_new_second(now) && self.progress.is_measuring() {
            let stats = self.connections.take_stats();
            let ended = self.reporter.advance_to(now);
            self.send_report(ended, stats);
            self.connections.each_second(now);
        }
    }

    fn send_interval(&mut self) {
        let stats = self.connections.take_stats();
        self.send_report(self.reporter.second(), stats);
    }

    fn send_report(&self, second: u64, stats: Stats) {
        send(&WorkerMessage::Interval(Box::new(IntervalReport {
            second,
            complete_before: self.reporter.second(),
            stats,
            connected: self.connections.connected(),
            in_handshake: self.connections.in_handshake(),
        })));
    }
}
