//! The process and the person who started it: output, Ctrl-C, what was typed.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{Write, stdout};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The exit code of a run that could not be tried.
pub const NOT_TRIED: u8 = 2;

/// Set by the first Ctrl-C; the second ends the process at once.
pub fn until_interrupted() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, NOT_TRIED.into(), Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|error| error.to_string())?;
    }
    Ok(interrupted)
}

/// What was typed, for whoever wants to repeat it.
pub fn command() -> String {
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

/// Whoever has seen enough closes the pipe: that is no failure.
pub fn say(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}
