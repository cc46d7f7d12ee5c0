//! One worker: a process with one thread and one event loop, which holds its share of the clients. It is told what to do by
//! the parent (`crew`) through its standard input, and tells what it has seen through its standard output, a line of JSON each.
//!
//! | file | its one job |
//! |---|---|
//! | `parent` | the pipes to the parent |
//! | `progress` | where the run is, and what is due |
//! | `reporter` | what the parent is told each second and at the end |
//! | `connections` | the clients with their sockets: `arrivals` says who connects and goes, `client` is one connection |
//! | `receivers` | the same clients without sockets: `slot` is one of them, `hearing` what was heard in the rooms, `place` where a client resumes |
//! | `speech` | what is published, and when |

mod arrivals;
mod client;
mod connections;
mod hearing;
mod parent;
mod place;
mod progress;
mod receivers;
mod reporter;
mod slot;
mod speech;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind};

use crate::clock::{self, Alarm, MILLISECOND};
use crate::message::{Command, Notice};
use crate::pace;
use client::Readiness;
use connections::Connections;
use parent::{Parent, tell};
use progress::{Due, Progress};
use reporter::Reporter;

const ALARM: Token = Token(usize::MAX - 1);
const PARENT: Token = Token(usize::MAX - 2);

/// Between two looks at the clock for what is to be published, at most so many clients are read.
const READS_BETWEEN: usize = 32;

/// What can wait is looked at so often.
const TURN_NS: u64 = 10 * MILLISECOND;

struct Worker {
    poll: Poll,
    parent: Parent,
    alarm: Alarm,
    progress: Progress,
    connections: Connections,
    reporter: Reporter,
}

/// Does as it is told until it is over.
pub fn run() {
    let outcome = Worker::start().and_then(|mut worker| {
        worker.work()?;
        tell(&Notice::Done(worker.reporter.end()));
        Ok(())
    });
    if let Err(why) = outcome {
        tell(&Notice::Failed(why));
    }
}

/// Binds this process to a core, as the worker of that number.
fn pin(cores: &[usize], index: u32) -> Result<(), String> {
    let Some(&core) = cores.get(index as usize % cores.len().max(1)) else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("--pin {core}: {error}"))
}

impl Worker {
    fn start() -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (mut parent, assignment) = Parent::at_stdin()?;
        pin(&assignment.plan.pin, assignment.index)?;
        let poll = Poll::new().map_err(text)?;
        parent.register(poll.registry(), PARENT).map_err(text)?;
        let alarm = Alarm::new().map_err(text)?;
        poll.registry()
            .register(&mut SourceFd(&alarm.descriptor()), ALARM, Interest::READABLE)
            .map_err(text)?;
        let now = clock::now();
        let registry = poll.registry().try_clone().map_err(text)?;
        Ok(Self {
            poll,
            parent,
            alarm,
            progress: Progress::new(),
            reporter: Reporter::new(assignment.epoch_ns, now),
            connections: Connections::new(assignment, registry, now)?,
        })
    }

    fn work(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let mut ready = Vec::with_capacity(1024);
        while !self.progress.is_over() {
            let now = clock::now();
            self.connections.arrive(now)?;
            // What is due by the end is published before it ends, however late it is.
            self.connections.publish(now);
            self.go_on(now);
            self.connections.read_slowly(now);
            self.tick(now);
            self.alarm.set(self.connections.next_ns(now).min(now + TURN_NS));
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|error| error.to_string())?,
            }
            let again = Readiness { readable: true, ..Readiness::default() };
            ready.extend(self.connections.take_unfinished().into_iter().map(|local| (Token(local), again)));
            ready.extend(events.iter().map(|event| (event.token(), Readiness::from(event))));
            for (count, (token, readiness)) in ready.drain(..).enumerate() {
                if count % READS_BETWEEN == READS_BETWEEN - 1 {
                    self.connections.publish(clock::now());
                }
                match token {
                    ALARM => self.alarm.rang(),
                    PARENT => self.obey()?,
                    Token(local) => self.connections.ready(local, readiness),
                }
            }
        }
        Ok(())
    }

    /// Does what the parent wants.
    fn obey(&mut self) -> Result<(), String> {
        for command in self.parent.commands()? {
            match command {
                Command::Begin(at_ns) => {
                    let length_ns = pace::nanos(pace::length(&self.connections.plan().stages));
                    self.reporter.begin();
                    self.connections.begin(at_ns);
                    self.progress.begin(at_ns, length_ns);
                }
                Command::Finish(said_by_all) => {
                    self.connections.drain(said_by_all);
                    self.progress.drain(clock::now() + self.connections.plan().patience_ns);
                }
                Command::Stop => {
                    if self.progress.stop() {
                        self.end_stages(clock::now());
                    }
                }
            }
        }
        Ok(())
    }

    fn go_on(&mut self, now: u64) {
        match self.progress.due(now, self.connections.all_have_settled()) {
            Due::Nothing => {}
            Due::Connected => {
                self.tell_second();
                tell(&Notice::Gathered);
            }
            Due::StagesEnd => self.end_stages(now),
            Due::Check { last } => {
                if last || self.connections.is_complete() {
                    let (heard, storms) = self.connections.close();
                    self.reporter.close(heard, storms);
                    self.tell_second();
                    self.progress.end();
                }
            }
        }
    }

    fn end_stages(&mut self, now: u64) {
        if let Some(ran_ns) = self.progress.published(now) {
            self.reporter.stages_ended(ran_ns);
        }
        let said = self.connections.end_stages();
        self.tell_second();
        tell(&Notice::Spoken(said));
    }

    fn tick(&mut self, now: u64) {
        if self.reporter.is_new_second(now) {
            self.tell_second();
            self.reporter.turn_to(now);
            self.connections.each_second(now);
        }
    }

    fn tell_second(&mut self) {
        let tally = self.connections.take_tally();
        let tick = self.reporter.tick(tally, self.connections.connected());
        tell(&Notice::Tick(Box::new(tick)));
    }
}
