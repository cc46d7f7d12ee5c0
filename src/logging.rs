//! Logs: human text on a terminal, JSON otherwise, written by a thread of their own so that a slow terminal
//! never holds up a loop. What a peer can provoke is rate-limited, and what it can name is escaped.

use std::ffi::OsString;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal};
use std::time::Duration;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt as layer, reload};

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Human text when standard error is a terminal, else JSON.
    Auto,
    /// Text.
    Human,
    /// One JSON object a line.
    Json,
}

/// Lines that may wait to be written; more are dropped, and the loops go on.
const WAITING_LINES_MAX: usize = 16 * 1024;

/// The running logger. Dropped, it writes what waits.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    _writer: WorkerGuard,
}

impl Logging {
    /// Starts it for the whole process.
    ///
    /// # Errors
    /// `directives` are none of tracing's.
    pub fn start(directives: &str, format: LogFormat) -> Result<Self, ParseError> {
        let (filter, handle) = reload::Layer::new(EnvFilter::try_new(directives)?);
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(WAITING_LINES_MAX)
            .finish(io::stderr());
        let terminal = io::stderr().is_terminal();
        let colour = terminal && takes_colour(|name| std::env::var_os(name));
        let json = match format {
            LogFormat::Auto => !terminal,
            LogFormat::Human => false,
            LogFormat::Json => true,
        };
        let registry = tracing_subscriber::registry().with(filter);
        let started = if json {
            registry.with(layer::layer().json().flatten_event(true).with_writer(writer)).try_init()
        } else {
            registry.with(layer::layer().with_ansi(colour).with_target(false).with_writer(writer)).try_init()
        };
        // It fails only when the process has a logger already, as in a test: that one stays.
        drop(started);
        Ok(Self { filter: handle, _writer: guard })
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// `directives` are none of tracing's; the old filter stays.
    pub fn reload(&self, directives: &str) -> Result<(), ParseError> {
        let filter = EnvFilter::try_new(directives)?;
        // It fails only when the logger is gone, and then there is nothing to filter.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

/// Whether a terminal is to be sent colours: not with `NO_COLOR` set to anything but the empty text
/// (no-color.org), nor when `TERM` says that it has none.
fn takes_colour(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_colour && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Has every panic of the process logged, with where it came from.
pub fn log_panics() {
    let unlogged = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return unlogged(panic);
        }
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no text");
        let location = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(
            text = %Escaped(text),
            location,
            thread = thread.name(),
            %backtrace,
            "panic; please report this"
        );
    }));
}

/// A text that a client chose, so shown that it cannot forge a line, move the cursor or hide itself.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                _ if c.is_control() || shows_nothing(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Characters that show nothing, or change the direction or the lines of what stands around them.
pub const fn shows_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Lets some lines through in each interval and counts the rest.
#[derive(Clone, Debug)]
pub struct RateLimit {
    lines_max: u32,
    interval_ns: u64,
    began_ns: u64,
    lines: u32,
    suppressed: u64,
}

impl RateLimit {
    /// At most `lines_max` lines in each `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> Self {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Self { lines_max, interval_ns, began_ns: 0, lines: 0, suppressed: 0 }
    }

    /// Whether a line may be written at `now_ns`, and how many were not since the last one that was.
    pub fn allow(&mut self, now_ns: u64) -> Option<u64> {
        if now_ns.saturating_sub(self.began_ns) >= self.interval_ns {
            (self.began_ns, self.lines) = (now_ns, 0);
        }
        if self.lines == self.lines_max {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_forge_lines() {
        let shown = Escaped("a\r\n2026 INFO \x1b[2J\u{85}\u{202e}\"\\ü").to_string();
        assert_eq!(shown, r#""a\u{d}\u{a}2026 INFO \u{1b}[2J\u{85}\u{202e}\"\\ü""#);
    }

    #[test]
    fn colours_can_be_turned_off() {
        let with = |name: &'static str, value: &'static str| {
            takes_colour(move |asked| (asked == name).then(|| OsString::from(value)))
        };
        assert!(takes_colour(|_| None) && with("NO_COLOR", "") && with("TERM", "xterm"));
        assert!(!with("NO_COLOR", "1") && !with("TERM", "dumb"));
    }

    #[test]
    fn names_cannot_hide() {
        let shown = Escaped("a\u{61c}\u{2067}\u{ad}\u{e0041}\u{200b}b").to_string();
        assert_eq!(shown, r#""a\u{61c}\u{2067}\u{ad}\u{e0041}\u{200b}b""#);
    }

    #[test]
    fn a_flood_of_lines_becomes_a_count() {
        let mut limit = RateLimit::new(2, Duration::from_nanos(100));
        let seen: Vec<_> = [100, 110, 120, 130, 199, 200].into_iter().map(|now| limit.allow(now)).collect();
        assert_eq!(seen, [Some(0), Some(0), None, None, None, Some(3)]);
    }
}
