//! Starts the worker processes, sends them commands, and merges their reports.

mod sampler;
mod timeline;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::display::{Display, View};
use crate::message::{Assignment, Command, WorkerMessage, WorkerSummary};
use crate::outcome::{Outcome, ServerUsage};
use crate::pace;
use crate::plan::Plan;
use crate::process::Usage;
use sampler::Sampler;
use timeline::Timeline;
use worker::Worker;
pub use worker::{WORKER, size};

/// How long the coordinator waits for a message before it updates the display.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// From the end of the connect phase to the first message.
const START_DELAY_NS: u64 = 50 * MILLISECOND;

/// The parts of a run, for the display.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    /// From this time on, the stages.
    Running(u64),
    Draining,
    Closing,
}

/// A run in progress.
pub struct Coordinator<'r> {
    plan: &'r Plan,
    workers: Vec<Worker>,
    messages: Receiver<(usize, Option<WorkerMessage>)>,
    epoch_ns: u64,
    interrupted: Arc<AtomicBool>,
    stopping: bool,
    sampler: Sampler,
    /// The server's usage at the end of the warm-up.
    measured: Option<Usage>,
    display: Display,
    timeline: Timeline,
    /// The number of connected clients, and when it last grew.
    grown: (u32, u64),
    connected_workers: usize,
    published_workers: usize,
    drained_workers: usize,
    published: Vec<u32>,
    summaries: Vec<WorkerSummary>,
}

impl<'r> Coordinator<'r> {
    /// Starts `workers` workers, and one for the publishers if they have their own. The processes
    /// `server_pids` are sampled.
    ///
    /// # Errors
    /// One sentence: a worker cannot be started.
    pub fn start(
        plan: &'r Plan,
        workers: u32,
        server_pids: Vec<u32>,
        display: Display,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let (sender, messages) = channel();
        let epoch_ns = clock::now();
        let of = workers + u32::from(plan.publishers_apart());
        let spawn = |index| {
            let assignment = Assignment { plan: plan.clone(), index, of, epoch_ns };
            Worker::spawn(&assignment, sender.clone())
        };
        let workers = (0..of).map(spawn).collect::<Result<Vec<_>, String>>()?;
        Ok(Self {
            plan,
            timeline: Timeline::new(workers.len()),
            workers,
            messages,
            epoch_ns,
            interrupted,
            stopping: false,
            sampler: Sampler::new(server_pids),
            measured: None,
            display,
            grown: (0, epoch_ns),
            connected_workers: 0,
            published_workers: 0,
            drained_workers: 0,
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
        let before = self.sampler.sample()?;
        self.wait_until(Phase::Connecting, |run| run.connected_workers == workers)?;
        let connect_ns = clock::now() - self.epoch_ns;
        let connect_handshakes = self.timeline.total.handshakes;
        if self.plan.connect_first && connect_handshakes == 0 && !self.stopping {
            return Err(self.connect_error());
        }
        let connected_at_start =
            (self.plan.connect_first && !self.stopping).then(|| self.timeline.connected());
        let connected = self.sampler.sample().ok().flatten();
        let begin_ns = clock::now() + START_DELAY_NS;
        if !self.stopping {
            self.send_to_all(&Command::Start(begin_ns));
        }
        self.wait_until(Phase::Running(begin_ns), |run| run.published_workers == workers)?;
        let running_ns = clock::now().saturating_sub(begin_ns);
        let running_handshakes = self.timeline.total.handshakes - connect_handshakes;
        let finished = self.sampler.sample().ok().flatten();
        let published = std::mem::take(&mut self.published);
        self.send_to_all(&Command::Drain(published.clone()));
        self.wait_until(Phase::Draining, |run| run.drained_workers == workers)?;
        let ended_ns = clock::now() - self.epoch_ns;
        self.wait_until(Phase::Closing, |run| run.summaries.len() == workers)?;
        self.show(Phase::Closing);
        self.display.end();
        Ok(Outcome {
            undelivered: self.undelivered(&published),
            connected: self.timeline.connected(),
            seconds: std::mem::take(&mut self.timeline.seconds),
            connected_at_start,
            connect_ns,
            connect_handshakes,
            running_ns,
            running_handshakes,
            ended_ns,
            workers: std::mem::take(&mut self.summaries),
            server: self.server_usage(before, connected, finished),
            interrupted: self.stopping,
        })
    }

    /// Messages that no client of any worker has received.
    fn undelivered(&self, published: &[u32]) -> u64 {
        let received = |publisher: usize| {
            self.summaries.iter().map(|summary| summary.received[publisher]).max().unwrap_or(0)
        };
        let missing =
            |(publisher, &published): (usize, &u32)| u64::from(published.saturating_sub(received(publisher)));
        published.iter().enumerate().map(missing).sum()
    }

    fn server_usage(
        &self,
        before: Option<Usage>,
        connected: Option<Usage>,
        finished: Option<Usage>,
    ) -> Option<ServerUsage> {
        let (before, connected, finished) = (before?, connected?, finished?);
        Some(ServerUsage { before, connected, measured: self.measured.unwrap_or(connected), finished })
    }

    fn connect_error(&self) -> String {
        let address = self.plan.target.address;
        let why = self.timeline.total.errors.iter().max_by_key(|&(_, count)| count);
        let no_port = "no free source port was found: see --source".to_owned();
        let why = why.map_or_else(
            || if self.timeline.total.no_port > 0 { no_port } else { "no server has answered".to_owned() },
            |(why, _)| why.clone(),
        );
        format!("no client connected to {address}: {why}")
    }

    fn send_to_all(&mut self, command: &Command) {
        for worker in &mut self.workers {
            worker.send(command);
        }
    }

    /// Handles messages of the workers until `condition` is true.
    fn wait_until(&mut self, phase: Phase, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
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
            self.sample_server(phase);
            self.show(phase);
        }
        Ok(())
    }

    fn show(&mut self, phase: Phase) {
        let now = clock::now();
        let connected = self.timeline.connected();
        if connected > self.grown.0 {
            self.grown = (connected, now);
        }
        self.display.show(&View {
            phase: phase_name(self.plan, phase, now),
            connecting: phase == Phase::Connecting,
            plan: self.plan,
            elapsed_ns: now - self.epoch_ns,
            complete_before: self.timeline.complete_before(),
            connected,
            in_handshake: self.timeline.in_handshake(),
            waiting_ns: now - self.grown.1,
            seconds: &self.timeline.seconds,
            total: &self.timeline.total,
        });
    }

    fn handle_message(&mut self, index: usize, message: WorkerMessage) -> Result<(), String> {
        match message {
            WorkerMessage::Interval(report) => self.timeline.add(index, &report),
            WorkerMessage::Connected => self.connected_workers += 1,
            WorkerMessage::Published(published) => {
                self.connected_workers =
                    self.workers.len().min(self.connected_workers + usize::from(self.stopping));
                self.published_workers += 1;
                for (publisher, published) in published {
                    self.published[publisher as usize] = published;
                }
            }
            WorkerMessage::Drained => {
                self.timeline.completed(index);
                self.drained_workers += 1;
            }
            WorkerMessage::Finished(summary) => {
                self.workers[index].done = true;
                self.summaries.push(summary);
            }
            WorkerMessage::Failed(why) => return Err(why),
        }
        Ok(())
    }

    /// Samples the server's CPU and memory once per second, and at the end of the warm-up.
    fn sample_server(&mut self, phase: Phase) {
        let now = clock::now();
        if let Some((second, server)) = self.sampler.each_second((now - self.epoch_ns) / SECOND) {
            self.timeline.seconds.entry(second).or_default().server = Some(server);
        }
        if let Phase::Running(begin_ns) = phase
            && self.measured.is_none()
            && self.plan.warmup_ns > 0
            && now >= begin_ns + self.plan.warmup_ns
        {
            self.measured = self.sampler.sample().ok().flatten();
        }
    }
}

/// What happens in a phase at `now`: in stages with names, their names.
fn phase_name(plan: &Plan, phase: Phase, now: u64) -> String {
    let begin_ns = match phase {
        Phase::Connecting => return "connecting".to_owned(),
        Phase::Draining => return "draining".to_owned(),
        Phase::Closing => return "closing".to_owned(),
        Phase::Running(begin_ns) => begin_ns,
    };
    let elapsed_ns = now.saturating_sub(begin_ns);
    let is_down =
        |at: f64, reconnect_at: f64| (pace::nanos(at)..pace::nanos(reconnect_at)).contains(&elapsed_ns);
    if plan.storms.iter().any(|storm| is_down(storm.at, storm.reconnect_at)) {
        return "downtime".to_owned();
    }
    if elapsed_ns < plan.warmup_ns {
        return "warm-up".to_owned();
    }
    let (stage, of) = (pace::stage_at(&plan.stages, elapsed_ns), plan.stages.len());
    match plan.stages.get(stage).and_then(|stage| stage.name.as_deref()) {
        Some(name) => format!("{name} ({} of {of})", stage + 1),
        None if of > 1 => format!("stage {} of {of}", stage + 1),
        None => "running".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn phases_have_the_names_of_the_stages() {
        let text = "[[stage]]\nname = \"ramp up\"\nduration = \"10s\"\n\n[[stage]]\nduration = \"5s\"\n";
        let staged: Options = toml::from_str(text).unwrap();
        let plan = staged.plan(Scenario::Chat).unwrap();
        let name = |plan: &Plan, second: u64| phase_name(plan, Phase::Running(7), 7 + second * SECOND);
        assert_eq!(
            [0, 9, 10, 99].map(|second| name(&plan, second)),
            ["ramp up (1 of 2)", "ramp up (1 of 2)", "stage 2 of 2", "stage 2 of 2"]
        );
        let text = "downtime = \"4s\"\nduration = \"20s\"\nwarmup = \"5s\"\n";
        let plan = toml::from_str::<Options>(text).unwrap().plan(Scenario::Storm).unwrap();
        let names = [0, 4, 5, 10, 13, 14].map(|second| name(&plan, second));
        assert_eq!(names, ["warm-up", "warm-up", "running", "downtime", "downtime", "running"]);
    }
}
