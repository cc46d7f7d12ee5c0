//! Standard output, signals, exit codes and the command line.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{Write, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The outcome of a command, as its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// All checks passed.
    Passed = 0,
    /// A check failed.
    Failed = 1,
    /// The run could not be started, or its result could not be written.
    Error = 2,
    /// The user interrupted the run, as shells report SIGINT.
    Interrupted = 130,
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process.
pub fn interrupt_flag() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Interrupted as i32,
            Arc::clone(&interrupted),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
        .map_err(|error| error.to_string())?;
    }
    Ok(interrupted)
}

/// The command line, quoted for a shell.
pub fn command_line() -> String {
    let quoted = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words: Vec<_> = std::env::args().skip(1).map(quoted).collect();
    format!("swarm {}", words.join(" "))
}

/// Prints to the standard output. A closed pipe is not an error.
pub fn print(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints to the standard output, or to the standard error if a result is written to the standard output.
pub fn print_beside(text: &str, standard_output_is_taken: bool) -> Result<(), String> {
    if !standard_output_is_taken {
        return print(text);
    }
    let _ = stderr().write_all(text.as_bytes());
    Ok(())
}
