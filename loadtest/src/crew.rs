//! The parent of the workers: starts as many processes as the clients need, tells them what to do, and puts together what
//! they tell.

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
use crate::message::{Assignment, Command, End, Notice, Tick};
use crate::outcome::{Outcome, Sample, Second};
use crate::plan::Plan;
use crate::process;
use crate::tally::Tally;

/// The subcommand by which the parent starts its workers.
pub const WORKER: &str = "worker";

/// Descriptors that a worker needs for itself.
const RESERVE: u64 = 32;

/// How often the display is looked after.
const LOOK: Duration = Duration::from_millis(100);

/// Between the word that all are in, and the first message.
const BREATH_NS: u64 = 50 * MILLISECOND;

/// How many workers there are to be.
///
/// # Errors
/// One sentence: so many are too few.
pub fn size(clients: u32, wanted: Option<u32>, server_is_here: bool) -> Result<u32, String> {
    let needed = u32::try_from(u64::from(clients).div_ceil(clients_per_worker()?)).unwrap_or(u32::MAX);
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let usual = if server_is_here { (cores / 2).max(1) } else { cores };
    match wanted {
        Some(wanted) if wanted < needed => Err(format!(
            "{clients} clients need {needed} workers: a process may open {} files; use more --workers, fewer --clients, \
             or raise ulimit -n",
            clients_per_worker()? + RESERVE
        )),
        Some(wanted) => Ok(wanted.min(clients)),
        None => Ok(usual.max(needed).min(clients)),
    }
}

/// Raises the limit on open files as far as it goes.
fn clients_per_worker() -> Result<u64, String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    match allowed.unwrap_or(u64::MAX).checked_sub(RESERVE) {
        Some(clients @ 1..) => Ok(clients),
        _ => Err(format!("a process may open only {} files here: raise ulimit -n", allowed.unwrap_or(0))),
    }
}

struct Worker {
    child: Child,
    stdin: ChildStdin,
    /// It has told its end.
    done: bool,
    connected: u32,
}

impl Worker {
    fn hire(assignment: &Assignment, news: Sender<(usize, Option<Notice>)>) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("a worker cannot be started: {error}");
        let mut child = Program::new(std::env::current_exe().map_err(text)?)
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0) // Ctrl-C is for the parent alone
            .spawn()
            .map_err(text)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a worker has no pipes".to_owned());
        };
        let index = assignment.index as usize;
        std::thread::Builder::new().spawn(move || relay(index, stdout, &news)).map_err(text)?;
        let mut worker = Self { child, stdin, done: false, connected: 0 };
        worker.tell(assignment);
        Ok(worker)
    }

    /// A worker that is gone will be missed elsewhere.
    fn tell(&mut self, what: &impl serde::Serialize) {
        let mut line = serde_json::to_vec(what).unwrap_or_default();
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

fn relay(index: usize, stdout: ChildStdout, news: &Sender<(usize, Option<Notice>)>) {
    for line in BufReader::new(stdout).lines() {
        let notice = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        if notice.is_none() || news.send((index, notice)).is_err() {
            break;
        }
    }
    let _ = news.send((index, None));
}

/// A run under way.
pub struct Crew<'r> {
    plan: &'r Plan,
    workers: Vec<Worker>,
    news: Receiver<(usize, Option<Notice>)>,
    epoch_ns: u64,
    interrupted: Arc<AtomicBool>,
    stopping: bool,
    server_pid: Option<u32>,
    /// The server at the end of the last second that was looked at.
    last_sample: Option<(u64, Sample)>,
    display: Display,
    seconds: BTreeMap<u64, Second>,
    total: Tally,
    gathered: usize,
    spoken: usize,
    said: Vec<u32>,
    ends: Vec<End>,
}

impl<'r> Crew<'r> {
    /// Starts the workers.
    ///
    /// # Errors
    /// One sentence.
    pub fn start(
        plan: &'r Plan,
        workers: u32,
        server_pid: Option<u32>,
        display: Display,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let (sender, news) = channel();
        let epoch_ns = clock::now();
        let hire = |index| {
            let assignment = Assignment { plan: plan.clone(), index, of: workers, epoch_ns };
            Worker::hire(&assignment, sender.clone())
        };
        Ok(Self {
            plan,
            workers: (0..workers).map(hire).collect::<Result<_, _>>()?,
            news,
            epoch_ns,
            interrupted,
            stopping: false,
            server_pid,
            last_sample: None,
            display,
            seconds: BTreeMap::new(),
            total: Tally::default(),
            gathered: 0,
            spoken: 0,
            said: vec![0; plan.speakers as usize],
            ends: Vec::new(),
        })
    }

    /// Goes through the whole run.
    ///
    /// # Errors
    /// One sentence that says why it could not be done.
    pub fn run(mut self) -> Result<Outcome, String> {
        let all = self.workers.len();
        let before = self.sample()?;
        self.until("coming in", |crew| crew.gathered == all)?;
        let gathered_ns = clock::now() - self.epoch_ns;
        if self.plan.gather && self.total.handshakes == 0 && !self.stopping {
            return Err(self.nobody_came());
        }
        let gathered = self.sample()?;
        let begin_ns = clock::now() + BREATH_NS;
        if !self.stopping {
            self.tell_all(&Command::Begin(begin_ns));
        }
        self.until("talking", |crew| crew.spoken == all)?;
        let talked_ns = clock::now().saturating_sub(begin_ns);
        let spoken = self.sample()?;
        let connected = self.workers.iter().map(|worker| worker.connected).sum();
        let said = std::mem::take(&mut self.said);
        self.tell_all(&Command::Finish(said.clone()));
        self.until("hearing the last", |crew| crew.ends.len() == all)?;
        self.display.end();
        let server = match (before, gathered, spoken) {
            (Some(before), Some(gathered), Some(spoken)) => Some([before, gathered, spoken]),
            _ => None,
        };
        let heard = |speaker: usize| self.ends.iter().map(|end| end.heard[speaker]).max().unwrap_or(0);
        let unheard =
            said.iter().enumerate().map(|(speaker, &said)| u64::from(said.saturating_sub(heard(speaker))));
        Ok(Outcome {
            unheard: unheard.sum(),
            seconds: std::mem::take(&mut self.seconds),
            connected,
            gathered_ns,
            talked_ns,
            ends: std::mem::take(&mut self.ends),
            server,
            interrupted: self.stopping,
        })
    }

    fn nobody_came(&self) -> String {
        let address = self.plan.target.address;
        let why = self.total.errors.iter().max_by_key(|&(_, count)| count);
        let why = why.map_or("no reason is known", |(why, _)| why);
        format!("no client came in at {address}: {why}; is the server there, and is the URL right?")
    }

    fn tell_all(&mut self, command: &Command) {
        for worker in &mut self.workers {
            worker.tell(command);
        }
    }

    fn sample(&self) -> Result<Option<Sample>, String> {
        let Some(pid) = self.server_pid else { return Ok(None) };
        Ok(Some(Sample { cpu_ns: process::cpu(pid)?, memory: process::memory(pid)? }))
    }

    /// Takes in what the workers tell until `over` holds.
    fn until(&mut self, act: &str, over: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !over(self) {
            if self.interrupted.load(Ordering::Relaxed) && !self.stopping {
                self.stopping = true;
                self.tell_all(&Command::Stop);
            }
            match self.news.recv_timeout(LOOK) {
                Ok((index, Some(notice))) => self.notice(index, notice)?,
                Ok((index, None)) if !self.workers[index].done => {
                    return Err("a worker ended before its time; was it killed, or out of memory?".to_owned());
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("all workers are gone".to_owned()),
            }
            self.look_at_server();
            self.display.show(&View {
                act,
                plan: self.plan,
                elapsed_ns: clock::now() - self.epoch_ns,
                connected: self.workers.iter().map(|worker| worker.connected).sum(),
                seconds: &self.seconds,
                total: &self.total,
            });
        }
        Ok(())
    }

    fn notice(&mut self, index: usize, notice: Notice) -> Result<(), String> {
        match notice {
            Notice::Tick(tick) => self.tick(index, &tick),
            Notice::Gathered => self.gathered += 1,
            Notice::Spoken(said) => {
                self.gathered = self.workers.len().min(self.gathered + usize::from(self.stopping));
                self.spoken += 1;
                for (speaker, said) in said {
                    self.said[speaker as usize] = said;
                }
            }
            Notice::Done(end) => {
                self.workers[index].done = true;
                self.ends.push(end);
            }
            Notice::Failed(why) => return Err(why),
        }
        Ok(())
    }

    fn tick(&mut self, index: usize, tick: &Tick) {
        self.workers[index].connected = tick.connected;
        let connected = self.workers.iter().map(|worker| worker.connected).sum();
        let second = self.seconds.entry(tick.second).or_default();
        second.tally.add(&tick.tally);
        second.connected = connected;
        self.total.add(&tick.tally);
    }

    /// Once a second, the server's CPU and memory.
    fn look_at_server(&mut self) {
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
