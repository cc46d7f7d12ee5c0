//! Settings: a file and an environment of any content are understood or refused, never more; every problem
//! has a location that exists; a value means the same wherever it stands; what is accepted prints back the
//! same.
//!
//! The input is a file, and behind each NUL a variable: its name, `=`, its value.
#![no_main]

use std::ffi::OsString;

use libfuzzer_sys::fuzz_target;
use stentor::config::{Config, Location, Problem, settings, understand};

fn of(file: &str, variables: &[(String, String)]) -> Result<Config, Vec<Problem>> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    understand("s.toml", file, variables).map(|loaded| loaded.config)
}

fn has_location(problem: &Problem, file: &str, variables: &[(String, String)]) {
    match problem.location() {
        Location::Line { file: name, line, column } => {
            assert_eq!(name, "s.toml");
            let line = file.split('\n').nth(line - 1).expect("a line of the file");
            assert!((1..=line.chars().count() + 1).contains(column), "{problem}");
        }
        Location::Variable(name) => assert!(variables.iter().any(|(known, _)| known == name), "{problem}"),
        Location::Default | Location::File(_) | Location::Flag(_) => {
            panic!("nothing was written there: {problem}")
        }
    }
    assert!(!problem.to_string().ends_with(": "), "a sentence");
}

/// A variable as a line of the file: a text there too.
fn in_a_file(name: &str, value: &str) -> Option<String> {
    let setting = settings::find(&name.strip_prefix("STENTOR_")?.to_ascii_lowercase())?;
    Some(format!("{} = {}\n", setting.name, toml::Value::from(value)))
}

fuzz_target!(|input: &str| {
    let mut parts = input.split('\0');
    let file = parts.next().unwrap_or_default();
    let mut variables: Vec<(String, String)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    variables.sort();
    variables.dedup_by(|a, b| a.0 == b.0);
    match of(file, &variables) {
        Err(problems) => {
            assert!(!problems.is_empty() && problems.is_sorted());
            problems.iter().for_each(|problem| has_location(problem, file, &variables));
        }
        Ok(config) => {
            assert!(!config.listen.is_empty());
            let table: toml::Table = file.parse().expect("we took it for TOML");
            let printed = toml::to_string(&table).expect("a table");
            assert_eq!(of(&printed, &variables).as_ref(), Ok(&config), "{printed}");
        }
    }
    // One variable alone gives the same result as the same text in a file.
    if let Some((name, value)) = variables.first()
        && let Some(line) = in_a_file(name, value)
    {
        assert_eq!(of("", &variables[..1]).ok(), of(&line, &[]).ok(), "{line}");
    }
});
