//! swarm: a load tester for WebSocket broadcast servers. It opens many clients, publishes through some of
//! them at a rate that does not depend on the server, and checks what every client receives.
//!
//! ```text
//! options  ->  plan  ->  coordinator  ==pipes==>  worker, worker, …  ->  the server under test
//!                         |                   clients: wire, stamp, order
//!                         +-- display, result (table, JSON, .hgrm, page), thresholds -> exit code
//! ```

#![expect(unreachable_pub, reason = "a binary crate: its modules share their items")]

mod cli;
mod clock;
mod coordinator;
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
mod stats;
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

use cli::EXIT_ERROR;
use coordinator::Coordinator;
use display::Display;
use options::Options;
use plan::Scenario;
use result::Report;
use result::compare::compare;

/// A threshold failed, or without thresholds an error was counted.
const EXIT_FAILED: u8 = 1;

/// A load tester for WebSocket broadcast servers.
#[derive(Parser)]
#[command(
    name = "swarm",
    version,
    after_help = "Exit codes:\n  0  passed\n  1  a threshold failed; without thresholds, an error was counted\n\
    \x20 2  the run could not be started"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Some clients publish to a room; all receive
    Chat(Options),
    /// Each client publishes to a room of its own and waits for each message to return
    Echo(Options),
    /// Opening handshakes at the highest rate the server accepts; with --close, repeatedly
    Connect(Options),
    /// Connected clients without traffic; measures the server's cost per client with --server-pid
    Idle(Options),
    /// Clients disconnect and reconnect while messages are published
    Churn(Options),
    /// All clients disconnect at once and reconnect; measures the recovery time
    Storm(Options),
    /// Some clients read slowly or never; measures the effect on the others
    Slow(Options),
    /// A long run (1h); lost clients reconnect
    Soak(Options),
    /// Run a scenario file (TOML) with stages and thresholds; command-line options take precedence
    Run {
        /// Scenario file
        file: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Compare results of --json, with ratios relative to the first
    Compare {
        /// Result files
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
    /// Measure swarm's own capacity against a sender that writes prepared frames at full speed
    Sink(sink::Sink),
    /// A worker process of a run (started by swarm itself)
    #[command(name = coordinator::WORKER, hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Chat(options) => run(Scenario::Chat, &options),
        Command::Echo(options) => run(Scenario::Echo, &options),
        Command::Connect(options) => run(Scenario::Connect, &options),
        Command::Idle(options) => run(Scenario::Idle, &options),
        Command::Churn(options) => run(Scenario::Churn, &options),
        Command::Storm(options) => run(Scenario::Storm, &options),
        Command::Slow(options) => run(Scenario::Slow, &options),
        Command::Soak(options) => run(Scenario::Soak, &options),
        Command::Run { file, options } => Options::read(&file).and_then(|(scenario, from_file)| {
            let all = options.or(&from_file)?;
            run(scenario, &all)
        }),
        Command::Compare { files } => compared(&files),
        Command::Sink(sink) => sink.run(),
        Command::Worker => {
            worker::run();
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(sentence) => {
            let _ = writeln!(stderr(), "swarm: {sentence}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// Executes one run, from the options to the result files. True if it passed.
fn run(scenario: Scenario, options: &Options) -> Result<bool, String> {
    let plan = options.plan(scenario)?;
    let server_is_local = plan.target.address.ip().is_loopback();
    let workers = coordinator::size(plan.clients, options.workers, server_is_local)?;
    let display = Display::new(options.quiet);
    let coordinator =
        Coordinator::start(&plan, workers, options.server_pid, display, cli::interrupt_flag()?)?;
    let outcome = coordinator.run()?;
    let report = Report::new(&plan, &outcome, &options.thresholds, cli::command_line());
    cli::print(&report.table())?;
    report.write(options.json.as_deref(), options.hdr.as_deref(), options.html.as_deref())?;
    Ok(report.passed)
}

fn compared(files: &[PathBuf]) -> Result<bool, String> {
    let name = |file: &PathBuf| {
        file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    let reports =
        files.iter().map(|file| Ok((name(file), Report::read(file)?))).collect::<Result<Vec<_>, String>>()?;
    cli::print(&compare(&reports))?;
    Ok(true)
}
