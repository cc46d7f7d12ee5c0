//! swarm: a load tester for WebSocket broadcast servers. It opens many clients, publishes through some of
//! them at a rate that does not depend on the server, and checks what every client receives.
//!
//! ```text
//! options  ->  plan  ->  coordinator  ==pipes==>  worker, worker, …  ->  the server under test
//!                         |                   clients: wire, stamp, order
//!                         +-- display, result (table, files), checks -> exit code
//! ```

#![expect(unreachable_pub, reason = "a binary crate: its modules share their items")]

mod cli;
mod clock;
mod coordinator;
mod display;
mod find;
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
mod run;
mod sink;
mod stamp;
mod stats;
mod template;
mod threshold;
mod tokens;
mod unit;
mod units;
mod wire;
mod worker;

use clap::{Parser, Subcommand};
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use cli::Exit;
use find::Find;
use options::Options;
use plan::Scenario;
use result::Report;
use result::compare::{Tolerance, compare};

/// A load tester for WebSocket broadcast servers.
#[derive(Parser)]
#[command(
    name = "swarm",
    version,
    after_help = "Exit codes:\n  0    passed\n  1    a threshold failed; without thresholds, an error was counted; or clients \
                  were not connected\n  2    the run could not be started, or its result not written\n  130  interrupted"
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
    /// Search for the highest rate, or number of clients, at which all thresholds hold
    Find(Box<Find>),
    /// Compare results of --json, with ratios relative to the first
    Compare {
        /// How much worse than the first a metric may be: 10% for all, p99=20% for one; beyond, the exit code
        /// is 1
        #[arg(long = "tolerance", value_name = "PERCENT")]
        tolerances: Vec<Tolerance>,
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
        Command::Chat(options) => single(Scenario::Chat, &options),
        Command::Echo(options) => single(Scenario::Echo, &options),
        Command::Connect(options) => single(Scenario::Connect, &options),
        Command::Idle(options) => single(Scenario::Idle, &options),
        Command::Churn(options) => single(Scenario::Churn, &options),
        Command::Storm(options) => single(Scenario::Storm, &options),
        Command::Slow(options) => single(Scenario::Slow, &options),
        Command::Soak(options) => single(Scenario::Soak, &options),
        Command::Run { file, options } => Options::read(&file).and_then(|(scenario, from_file)| {
            let all = options.or(&from_file)?;
            single(scenario, &all)
        }),
        Command::Find(find) => find.run(),
        Command::Compare { files, tolerances } => compared(&files, &tolerances),
        Command::Sink(sink) => sink.run(),
        Command::Worker => {
            worker::run();
            Ok(Exit::Passed)
        }
    };
    let exit = outcome.unwrap_or_else(|sentence| {
        let _ = writeln!(stderr(), "swarm: {sentence}");
        Exit::Error
    });
    ExitCode::from(exit as u8)
}

/// Executes one run, and writes its result.
fn single(scenario: Scenario, options: &Options) -> Result<Exit, String> {
    let files = run::files(options)?;
    let report = run::run(scenario, options, &cli::interrupt_flag()?)?;
    cli::print_beside(&report.table(), files.use_standard_output())?;
    files.write(&report)?;
    Ok(match report {
        Report { interrupted: true, .. } => Exit::Interrupted,
        Report { passed: true, .. } => Exit::Passed,
        Report { .. } => Exit::Failed,
    })
}

fn compared(files: &[PathBuf], tolerances: &[Tolerance]) -> Result<Exit, String> {
    let name = |file: &PathBuf| {
        file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    let reports =
        files.iter().map(|file| Ok((name(file), Report::read(file)?))).collect::<Result<Vec<_>, String>>()?;
    let comparison = compare(&reports, tolerances);
    cli::print(&comparison.text)?;
    Ok(if comparison.worse == 0 { Exit::Passed } else { Exit::Failed })
}
