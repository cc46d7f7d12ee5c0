//! swarm: a load tester for WebSocket broadcast servers. It holds many clients, has some of them speak at a pace that does
//! not depend on the server, and tells what all of them saw.

#![expect(unreachable_pub, reason = "a program: its modules share what they need")]

mod chat;
mod client;
mod ledger;
mod report;
mod stamp;

use clap::{Parser, Subcommand};
use std::io::{Write, stderr};
use std::process::ExitCode;

/// A load tester for WebSocket broadcast servers.
#[derive(Parser)]
#[command(name = "swarm", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Clients in one room; some of them speak.
    Chat(chat::Plan),
}

fn main() -> ExitCode {
    let Scenario::Chat(plan) = Arguments::parse().scenario;
    match chat::run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            let _ = writeln!(stderr(), "swarm: {sentence}");
            ExitCode::from(2)
        }
    }
}
