//! swarm: a load tester for WebSocket broadcast servers. It holds many clients, has some of them speak at a pace that does
//! not depend on the server, and tells what all of them saw.
//!
//! ```text
//! options  ->  plan  ->  crew (the parent)  ==pipes==>  worker, worker, …  ->  the server under test
//!                         |                                 clients: wire, stamp, order
//!                         +-- display, result (table, JSON, .hgrm, page), thresholds -> exit code
//! ```

#![expect(unreachable_pub, reason = "a program: its modules share what they need")]

mod clock;
mod console;
mod crew;
mod display;
mod message;
mod metric;
mod options;
mod order;
mod outcome;
mod pace;
mod plan;
mod preset;
mod process;
mod result;
mod sink;
mod stamp;
mod tally;
mod template;
mod threshold;
mod unit;
mod units;
mod wire;
mod worker;

use clap::{Parser, Subcommand};
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use console::NOT_TRIED;
use crew::Crew;
use display::Display;
use options::Options;
use plan::Scenario;
use result::Report;
use result::compare::compare;

/// Thresholds do not hold, or not everybody heard everything once and in order.
const NOT_PASSED: u8 = 1;

/// A load tester for WebSocket broadcast servers.
#[derive(Parser)]
#[command(
    name = "swarm",
    version,
    after_help = "Exit code 0: all is well. 1: a threshold does not hold; without any, \
    somebody did not hear everything once and in order. 2: it could not be tried."
)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Clients in a room, some of which speak: what do all hear, and when?
    Chat(Options),
    /// Each client hears only itself, and speaks again when it has
    Echo(Options),
    /// Opening handshakes, as many as the server takes; with --close, again and again
    Connect(Options),
    /// Silent clients: what does one cost? (with --server-pid)
    Idle(Options),
    /// Clients leave and come back while the room talks
    Churn(Options),
    /// All clients are cut at once: when is the last one back?
    Storm(Options),
    /// Some clients read slowly or never: what do the others notice?
    Slow(Options),
    /// A talk of hours; clients that are lost come back
    Soak(Options),
    /// A run that a TOML file describes, with stages and thresholds; options given here are stronger
    Run {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Results of --json side by side, with ratios against the first
    Compare {
        /// The files
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
    /// Measures swarm itself: it listens to a bare writer, which sends as fast as it can
    Sink(sink::Sink),
    /// One process of a run (started by swarm itself)
    #[command(name = crew::WORKER, hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().what {
        What::Chat(options) => run(Scenario::Chat, &options),
        What::Echo(options) => run(Scenario::Echo, &options),
        What::Connect(options) => run(Scenario::Connect, &options),
        What::Idle(options) => run(Scenario::Idle, &options),
        What::Churn(options) => run(Scenario::Churn, &options),
        What::Storm(options) => run(Scenario::Storm, &options),
        What::Slow(options) => run(Scenario::Slow, &options),
        What::Soak(options) => run(Scenario::Soak, &options),
        What::Run { file, options } => Options::read(&file).and_then(|(scenario, from_file)| {
            let all = options.or(&from_file)?;
            run(scenario, &all)
        }),
        What::Compare { files } => compared(&files),
        What::Sink(sink) => sink.run(),
        What::Worker => {
            worker::run();
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_PASSED),
        Err(sentence) => {
            let _ = writeln!(stderr(), "swarm: {sentence}");
            ExitCode::from(NOT_TRIED)
        }
    }
}

/// One run, from the options to the files. True if all is well.
fn run(scenario: Scenario, options: &Options) -> Result<bool, String> {
    let plan = options.plan(scenario)?;
    let server_is_here = plan.target.address.ip().is_loopback();
    let workers = crew::size(plan.clients, options.workers, server_is_here)?;
    let display = Display::new(options.quiet);
    let crew = Crew::start(&plan, workers, options.server_pid, display, console::until_interrupted()?)?;
    let outcome = crew.run()?;
    let report = Report::new(&plan, &outcome, &options.thresholds, console::command());
    console::say(&report.table())?;
    report.write(options.json.as_deref(), options.hdr.as_deref(), options.html.as_deref())?;
    Ok(report.passed)
}

fn compared(files: &[PathBuf]) -> Result<bool, String> {
    let name = |file: &PathBuf| {
        file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    let reports =
        files.iter().map(|file| Ok((name(file), Report::read(file)?))).collect::<Result<Vec<_>, String>>()?;
    console::say(&compare(&reports))?;
    Ok(true)
}
