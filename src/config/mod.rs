//! Configuration: what the user wrote (a TOML file, the environment, flags) → one checked [`Config`].
//!
//! One table, in [`settings`], declares every setting. The file's keys, the variables `STENTOR_…`, the flags
//! and the page that `stentor config` prints are all made from it, so they cannot drift apart. The file is
//! weaker than the environment, the environment weaker than a flag. What is not known is an error, with a
//! suggestion.

#![forbid(unsafe_code)]

mod checked;
mod cli;
mod effective;
mod file;
mod identity;
mod markdown;
mod outside;
mod reader;
mod rooms;
pub mod settings;
mod token;
mod warnings;

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io;
use std::path::Path;

pub use checked::{Auth, Config, Driver};
pub use cli::{Command, ConfigPage, Invocation, completions, parse};
pub use effective::Effective;
pub use markdown::settings_table;
pub use token::{Order, TokenCommand};

/// A value as it was written, not yet understood.
#[derive(Clone, PartialEq, Debug)]
pub enum Raw {
    /// `"64KiB"`; everything from the environment and from flags.
    Text(String),
    /// `64`.
    Integer(i64),
    /// `true`.
    Bool(bool),
    /// `["a", "b"]`.
    List(Vec<String>),
}

impl Raw {
    /// The value, if it is a text.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// Where something was written. The order is that in which it is read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Location {
    /// Nowhere: the setting has its default.
    Default,
    /// A file as a whole.
    File(String),
    /// A line of a file.
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// A variable of the environment, `STENTOR_…`.
    Variable(String),
    /// A flag, `--…`.
    Flag(String),
}

impl Location {
    /// The flag of the setting called `name`.
    pub fn flag(name: &str) -> Self {
        Self::Flag(format!("--{}", name.replace('_', "-")))
    }
}

impl Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::Variable(name) | Self::Flag(name) => f.write_str(name),
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// The setting's name.
    pub name: String,
    /// Its value.
    pub value: Raw,
    /// Where it was written.
    pub location: Location,
}

/// A secret's value is not shown.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = settings::find(&self.name).is_some_and(|setting| setting.secret);
        let mut shown = f.debug_struct("Entry");
        shown.field("name", &self.name).field("location", &self.location);
        if secret { shown.finish_non_exhaustive() } else { shown.field("value", &self.value).finish() }
    }
}

/// One mistake: a sentence with the cause and the remedy, and its location.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    location: Location,
    sentence: String,
}

impl Problem {
    /// A problem at `location`.
    pub fn new(location: Location, sentence: impl Into<String>) -> Self {
        Self { location, sentence: sentence.into() }
    }

    /// Where it is.
    pub const fn location(&self) -> &Location {
        &self.location
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.sentence)
    }
}

/// A configuration that was read and is valid.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What holds of what was written, and where that is.
    pub effective: Effective,
    /// What is valid, and most likely not meant.
    pub warnings: Vec<Problem>,
}

/// Reads the file that the invocation or the environment names, the environment, and the invocation's flags.
/// Can be called again: that is how a reload reads what has changed. Relative paths in the file are relative
/// to it, all others to the working directory.
///
/// # Errors
/// Everything that is wrong, in the order of the locations.
pub fn load(invocation: &Invocation) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut written = file::Written::default();
    let (variables, named_file) = environment(std::env::vars_os(), &mut problems);
    if let Some(path) = invocation.config_file.clone().or(named_file) {
        match outside::read_to_string(&path) {
            Ok(text) => written = file::parse(&path.display().to_string(), &text, &mut problems),
            Err(error) => problems.push(unreadable(&path, &error)),
        }
        if let Some(folder) = path.parent() {
            identity::resolve_paths(&mut written.entries, folder);
        }
    }
    written.entries.extend(variables);
    written.entries.extend(invocation.flags.iter().cloned());
    checked(&written, problems)
}

/// The result of a file of that name with that text and these variables; a file that a variable names is not
/// read.
///
/// # Errors
/// As [`load`].
pub fn understand(
    name: &str,
    text: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut written = file::parse(name, text, &mut problems);
    let (variables, _) = environment(variables, &mut problems);
    written.entries.extend(variables);
    checked(&written, problems)
}

fn checked(written: &file::Written, mut problems: Vec<Problem>) -> Result<Loaded, Vec<Problem>> {
    let config = checked::check(&written.entries, &written.rooms, &mut problems);
    problems.sort();
    if !problems.is_empty() {
        return Err(problems);
    }
    let warnings = warnings::check(written, &config.listen);
    Ok(Loaded { config, effective: Effective::new(written), warnings })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let sentence = if error.kind() == io::ErrorKind::InvalidData {
        "the file is not UTF-8, which TOML has to be".to_owned()
    } else {
        format!("the file cannot be read ({error}); name another with --config")
    };
    Problem::new(Location::File(path.display().to_string()), sentence)
}

const PREFIX: &str = "STENTOR_";

/// The settings in the environment, and the file that it names.
fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> (Vec<Entry>, Option<std::path::PathBuf>) {
    let (mut entries, mut file) = (Vec::new(), None);
    for (key, value) in variables {
        let Some(name) = key.to_str().and_then(|key| key.strip_prefix(PREFIX)) else { continue };
        let location = Location::Variable(format!("{PREFIX}{name}"));
        let name = name.to_ascii_lowercase();
        if name == "config" && value.is_empty() {
            problems.push(Problem::new(location, "no file is named; name one, or leave the variable out"));
        } else if name == "config" {
            file = Some(value.into());
        } else if settings::find(&name).is_none() {
            let known = settings::ALL.iter().map(|setting| setting.name);
            let meant = suggestion(&name, known).map(|name| PREFIX.to_owned() + &name.to_ascii_uppercase());
            problems.push(Problem::new(location, unknown("variable", meant.as_deref())));
        } else if let Ok(value) = value.into_string() {
            entries.push(Entry { name, value: Raw::Text(value), location });
        } else {
            problems.push(Problem::new(location, "the value is not UTF-8"));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    (entries, file)
}

fn unknown(what: &str, meant: Option<&str>) -> String {
    match meant {
        Some(meant) => format!("there is no such {what}; did you mean {meant}?"),
        None => format!("there is no such {what}; `stentor config` prints all settings"),
    }
}

/// The known name that is most like `name`, if any is like it at all.
fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_environment(variables: &[(&str, &str)]) -> (Vec<Entry>, Vec<String>) {
        let mut problems = Vec::new();
        let variables = variables.iter().map(|(key, value)| (key.into(), value.into()));
        let (entries, _) = environment(variables, &mut problems);
        (entries, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_environment_has_the_same_names() {
        let (entries, problems) = from_environment(&[("STENTOR_MAX_MESSAGE", "1MiB"), ("PATH", "/bin")]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(entries[0].name, "max_message");
    }

    #[test]
    fn places_are_in_the_order_of_reading() {
        let line = |line, column| Location::Line { file: "s.toml".into(), line, column };
        let expected =
            [line(2, 9), line(10, 1), Location::Variable("STENTOR_LOG".into()), Location::flag("log")];
        let mut locations = expected.clone();
        locations.reverse();
        locations.sort();
        assert_eq!(locations, expected);
    }

    #[test]
    fn every_setting_is_a_variable() {
        for setting in settings::ALL {
            let variable = PREFIX.to_owned() + &setting.name.to_ascii_uppercase();
            let (entries, problems) = from_environment(&[(&variable, "1")]);
            assert_eq!(problems, Vec::<String>::new());
            assert_eq!(entries[0].name, setting.name);
        }
    }

    #[test]
    fn unknown_variables_are_errors_with_a_suggestion() {
        let (_, problems) =
            from_environment(&[("STENTOR_LISTN", "x"), ("STENTOR_QQ", "x"), ("STENTOR_CONFIG", "")]);
        assert_eq!(
            problems,
            [
                "STENTOR_LISTN: there is no such variable; did you mean STENTOR_LISTEN?",
                "STENTOR_QQ: there is no such variable; `stentor config` prints all settings",
                "STENTOR_CONFIG: no file is named; name one, or leave the variable out",
            ]
        );
    }
}
