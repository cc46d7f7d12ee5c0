//! The simulator: a third driver, in which there is no kernel, no thread and no clock. It runs any number of
//! unchanged shards, their mesh and their clients in one thread, from one seed, and checks all the while that
//! the server keeps what it promises. `docs/simulator.md` describes its use.
//!
//! A [`Scenario`] is data: the clients and their actions, the faults of the kernel. [`run`] plays it, and the
//! same scenario always plays alike. When an expectation does not hold, in the core or in the simulator, it
//! panics; [`try_run`] makes a [`Failure`] of that, and [`shrink`] makes the scenario smaller for as long as
//! it still fails.
//!
//! | file | purpose |
//! |---|---|
//! | `scenario`, `draw` | what happens, as data; and from a seed |
//! | `world` | shards, each in the loop that production runs, and what clients do to their connections |
//! | `kernel`, `network` | the third kernel interface: sockets with events as epoll reports them, and the bytes in flight |
//! | `simulation` | the agenda: what comes next, when nothing moves any more, how it ends |
//! | `engine` | an engine that completes and orders late, declines, keeps more than the homes do, and receives from other nodes |
//! | `client`, `json`, `session` | what clients do, and what may be done to them; their WebSocket is the testkit's |
//! | `plain`, `post`, `answer`, `transport` | clients of the plain protocol, which go from WebSocket to streams and polls and back, and publish by request |
//! | `texts` | what is published |
//! | `batch` | many commands in one frame, and how often anything may be sent |
//! | `identity` | tokens and the auth backend: identities and their expiry |
//! | `rest` | what holds when nothing moves any more, and when all clients are gone |
//! | `bounds` | what shards hold, of each kind |
//! | `checker` | every member receives everything, once, in one order |
//! | `shrink` | smaller scenarios that fail |

#![forbid(unsafe_code)]

mod answer;
mod batch;
mod bounds;
mod checker;
mod client;
mod draw;
mod engine;
mod identity;
mod json;
mod kernel;
mod network;
mod plain;
mod post;
mod rest;
pub mod scenario;
mod session;
mod shrink;
mod simulation;
mod texts;
mod transport;
mod world;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use engine::Late;
pub use network::{End, Pipe};
pub use scenario::{Faults, Scenario};
pub use shrink::shrink;
pub use world::{Turn, World};

use crate::base::Time;
use simulation::Simulation;

/// What a simulation has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// How much time has passed in it.
    pub simulated: Duration,
    /// Connections made.
    pub sessions: usize,
    /// Turns of all shards.
    pub turns: u64,
    /// Times that nothing moved, and that everything was checked.
    pub rests: u64,
    /// Messages published.
    pub published: u64,
    /// Publications received, by each member.
    pub received: u64,
    /// Publications that were announced as missed.
    pub missed: u64,
    /// Recoveries after a reconnect.
    pub recovered: u64,
    /// Messages that the engine declined.
    pub declined: u64,
    /// Changes of a client's transport.
    pub switched: u64,
    /// Long polls.
    pub polled: u64,
    /// Messages published by request.
    pub posted: u64,
    /// Those that were sent again because their answers were lost.
    pub repeated: u64,
    /// Gaps that could be compared with what others received.
    pub gaps: usize,
}

/// Why a simulation has failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What did not hold.
    pub message: String,
    /// What happened before, newest last.
    pub trace: Vec<String>,
}

impl Failure {
    /// What did not hold, without the numbers: the same for the same defect, more or less.
    pub fn kind(&self) -> String {
        let words = self.message.split(|c: char| c.is_ascii_digit());
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("#")
    }
}

/// Plays a scenario.
///
/// # Panics
/// When anything does not hold that must.
pub fn run(scenario: &Scenario) -> Report {
    Simulation::new(scenario, Trace::default()).run()
}

/// Plays a scenario, and returns what happened when it fails. What panics is reported by the process's panic
/// hook too.
///
/// # Errors
/// What did not hold, and what came before.
pub fn try_run(scenario: &Scenario) -> Result<Report, Failure> {
    let trace = Trace::new();
    let recorded = trace.clone();
    catch_unwind(AssertUnwindSafe(|| Simulation::new(scenario, trace).run())).map_err(|panic| {
        let message = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => (*message).to_owned(),
            (None, None) => "a panic without a message".to_owned(),
        };
        Failure { message, trace: recorded.lines() }
    })
}

/// The trace of events as text, if it is wanted. Clones write to the same.
#[derive(Clone, Debug, Default)]
struct Trace(Option<std::rc::Rc<std::cell::RefCell<VecDeque<String>>>>);

/// Lines of a trace that are kept.
const TRACE_LINES_MAX: usize = 200;

impl Trace {
    fn new() -> Self {
        Self(Some(std::rc::Rc::default()))
    }

    fn note(&self, at: Time, what: impl FnOnce() -> String) {
        let Some(lines) = &self.0 else { return };
        let mut lines = lines.borrow_mut();
        if lines.len() == TRACE_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("{:>14?}  {}", at.since(Time::ZERO), what()));
    }

    fn lines(&self) -> Vec<String> {
        self.0.as_ref().map_or_else(Vec::new, |lines| lines.borrow().iter().cloned().collect())
    }
}
