//! Command line → configuration → server; nothing else.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use stentor::config::{
    self, Command, ConfigPage, Invocation, Loaded, Location, Problem, TokenCommand, settings,
};
use stentor::logging::Logging;
use stentor::{metrics, server, token};

/// The command line, or the configuration, is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match config::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match &invocation.command {
        Command::Serve => serve(&invocation),
        Command::Check => check(&invocation),
        Command::Config(ConfigPage::Defaults) => print(settings::commented_defaults().as_bytes()),
        Command::Config(ConfigPage::Markdown) => print(config::settings_table().as_bytes()),
        Command::Config(ConfigPage::Effective) => effective(&invocation),
        Command::Metrics => print(metrics::families_table().as_bytes()),
        Command::Token(command) => token(command, &invocation),
        Command::Completions(shell) => {
            let mut script = Vec::new();
            config::completions(*shell, &mut script);
            print(&script)
        }
    }
}

fn serve(invocation: &Invocation) -> ExitCode {
    let loaded = match config::load(invocation) {
        Ok(loaded) => loaded,
        Err(problems) => return print_problems(&problems),
    };
    let logging = match Logging::start(&loaded.config.log, loaded.config.log_format) {
        Ok(logging) => logging,
        Err(error) => return print_problems(&[Problem::new(Location::flag("log"), error.to_string())]),
    };
    match server::run(loaded, &logging, || config::load(invocation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            drop(logging);
            let _ = writeln!(stderr(), "stentor: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn check(invocation: &Invocation) -> ExitCode {
    match config::load(invocation) {
        Ok(Loaded { warnings, .. }) => {
            for warning in &warnings {
                let _ = writeln!(stderr(), "stentor: warning: {warning}");
            }
            print(b"ok\n")
        }
        Err(problems) => print_problems(&problems),
    }
}

fn effective(invocation: &Invocation) -> ExitCode {
    match config::load(invocation) {
        Ok(Loaded { effective, .. }) => print(effective.page().as_bytes()),
        Err(problems) => print_problems(&problems),
    }
}

fn token(command: &TokenCommand, invocation: &Invocation) -> ExitCode {
    let config = match config::load(invocation) {
        Ok(Loaded { config, .. }) => config,
        Err(problems) => return print_problems(&problems),
    };
    match token::run(command, &config) {
        Ok(token::Printed { page, note }) => {
            if let Some(note) = note {
                let _ = writeln!(stderr(), "stentor: {note}");
            }
            print(page.as_bytes())
        }
        Err(why) => {
            let _ = writeln!(stderr(), "stentor: {why}");
            ExitCode::FAILURE
        }
    }
}

fn print_problems(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        let _ = writeln!(stderr(), "stentor: {problem}");
    }
    ExitCode::from(USAGE)
}

/// A reader that has seen enough closes the pipe: that is no failure.
fn print(page: &[u8]) -> ExitCode {
    match stdout().write_all(page) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(stderr(), "stentor: the output cannot be written ({error})");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
