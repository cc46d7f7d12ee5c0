//! The values that hold, each with where it was written: what `stentor config --effective` prints, and what a
//! reload compares.

use super::file::{PATTERN, Table, Written};
use super::reader::list;
use super::settings::{self, Kind, Setting};
use super::{Entry, Location, Raw};

/// What stands for a secret.
const MASK: &str = "\"********\"";

/// One setting's value.
#[derive(Clone, PartialEq, Debug)]
struct Value {
    setting: &'static Setting,
    /// As TOML.
    toml: String,
    location: Location,
}

/// A line of a room's table: key, value as TOML, location.
type Line = (String, String, Location);

/// The values of all settings, and the rooms' tables.
#[derive(Clone, PartialEq, Debug)]
pub struct Effective {
    values: Vec<Value>,
    /// For each `[[room]]`: where it begins, and its lines.
    rooms: Vec<(Location, Vec<Line>)>,
}

impl Effective {
    /// What holds of everything that was written.
    pub(super) fn new(written: &Written) -> Self {
        let values = settings::ALL.iter().map(|setting| {
            let strongest = written.entries.iter().rev().find(|entry| entry.name == setting.name);
            match strongest {
                Some(entry) => Value {
                    setting,
                    toml: toml(setting.kind, &entry.value),
                    location: entry.location.clone(),
                },
                None => Value { setting, toml: setting.default.to_owned(), location: Location::Default },
            }
        });
        let line = |Entry { name, value, location }: &Entry| {
            let kind = settings::find(name).map_or(Kind::Text, |setting| setting.kind);
            (name.clone(), toml(kind, value), location.clone())
        };
        let room = |table: &Table| {
            let mut lines: Vec<_> = table.entries.iter().map(line).collect();
            lines.sort_by_key(|(name, ..)| name != PATTERN); // stable: the others stay as they are written
            (table.location.clone(), lines)
        };
        Self { values: values.collect(), rooms: written.rooms.iter().map(room).collect() }
    }

    /// A configuration file with all values, and behind each where it is from: `FILE:LINE:COLUMN`, a
    /// variable, a flag, or `default`. Secrets are masked, in comments.
    pub fn page(&self) -> String {
        let mut page = String::new();
        for Value { setting, toml, location } in &self.values {
            let is_masked = setting.secret && *location != Location::Default;
            let (begin, value) = if is_masked { ("# ", MASK) } else { ("", toml.as_str()) };
            page.push_str(&format!("{begin}{} = {value} # {location}\n", setting.name));
        }
        for (location, lines) in &self.rooms {
            page.push_str(&format!("\n[[room]] # {location}\n"));
            for (name, value, location) in lines {
                page.push_str(&format!("{name} = {value} # {location}\n"));
            }
        }
        page
    }

    /// A setting's value as TOML, masked if it is secret.
    pub fn value(&self, name: &str) -> &str {
        self.find(name).map_or("", Value::shown)
    }

    /// Where the setting of that name was written.
    pub fn location(&self, name: &str) -> Location {
        self.find(name).map_or(Location::Default, |value| value.location.clone())
    }

    /// What differs in `new`, of the settings that a reload changes: each as a phrase.
    pub fn changes(&self, new: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (old, new) in self.values.iter().zip(&new.values) {
            if old.toml == new.toml || !old.setting.live {
                continue;
            }
            changes.push(if old.setting.secret {
                format!("{} (secret)", old.setting.name)
            } else {
                format!("{}: {} → {}", old.setting.name, old.toml, new.toml)
            });
        }
        let lines = |it: &Self| -> Vec<Vec<(String, String)>> {
            let tables = it.rooms.iter().map(|(_, lines)| lines);
            tables
                .map(|lines| lines.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect())
                .collect()
        };
        if lines(self) != lines(new) {
            changes.push("[[room]]".to_owned());
        }
        changes
    }

    /// These values, but for the settings that need a restart: those stay as they are in `running`.
    pub fn keeping(mut self, running: &Self) -> Self {
        for (value, running) in self.values.iter_mut().zip(&running.values) {
            if !value.setting.live {
                value.clone_from(running);
            }
        }
        self
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|value| value.setting.name == name)
    }
}

impl Value {
    fn shown(&self) -> &str {
        if self.setting.secret { MASK } else { &self.toml }
    }
}

/// A value as TOML. What variables and flags give as text becomes what a file would have.
fn toml(kind: Kind, value: &Raw) -> String {
    let is_plain = |text: &str| match kind {
        Kind::Switch => matches!(text, "true" | "false"),
        Kind::Count | Kind::CountOrAuto | Kind::Size => {
            text.parse::<u64>().is_ok_and(|number| number.to_string() == text)
        }
        Kind::Span | Kind::Choice(_) | Kind::Text | Kind::List => false,
    };
    match value {
        Raw::Bool(value) => value.to_string(),
        Raw::Integer(number) => number.to_string(),
        Raw::Text(text) if is_plain(text) => text.clone(),
        Raw::Text(text) if kind != Kind::List => quoted(text),
        Raw::Text(_) | Raw::List(_) => {
            let texts: Vec<_> = list(value).unwrap_or_default().iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

/// A basic string of TOML, whose escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::super::{Problem, file};
    use super::*;

    fn of_file(text: &str, flags: &[(&str, &str)]) -> Effective {
        let mut problems = Vec::new();
        let mut written = file::parse("s.toml", text, &mut problems);
        written.entries.extend(flags.iter().map(|(name, value)| Entry {
            name: (*name).to_owned(),
            value: Raw::Text((*value).to_owned()),
            location: Location::flag(name),
        }));
        assert_eq!(problems, Vec::<Problem>::new());
        Effective::new(&written)
    }

    #[test]
    fn every_value_has_its_source() {
        let effective = of_file(
            "max_name = 7\nlog = \"warn\"\n[[room]]\nhistory = 5\npattern = \"a\\\"*\"\n",
            &[("max_name", "9"), ("origins", "any,null"), ("echo", "true")],
        );
        let page = effective.page();
        for line in [
            "max_name = 9 # --max-name",
            "log = \"warn\" # s.toml:2:7",
            "origins = [\"any\", \"null\"] # --origins",
            "echo = true # --echo",
            "max_head = \"8KiB\" # default",
            "token_hmac_secret = \"\" # default",
            "\n[[room]] # s.toml:3:1\npattern = \"a\\\"*\" # s.toml:5:11\nhistory = 5 # s.toml:4:11",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line} is not in\n{page}");
        }
        // It is a file that means the same.
        let again = of_file(&page, &[]);
        assert_eq!(effective.changes(&again), Vec::<String>::new());
    }

    #[test]
    fn secrets_are_masked() {
        let secret = "a secret of thirty-two characters";
        let text = format!("token_hmac_secret = {secret:?}\nhook_headers = [\"X: {secret}\"]");
        let effective = of_file(&text, &[]);
        let page = effective.page();
        assert!(page.contains("# token_hmac_secret = \"********\" # s.toml:1:21\n"), "{page}");
        assert!(page.contains("# hook_headers = \"********\" # s.toml:2:16\n"), "{page}");
        assert!(!page.contains("thirty-two"), "{page}");
        let changes = effective.changes(&of_file("", &[]));
        assert_eq!(changes, ["token_hmac_secret (secret)", "hook_headers (secret)"]);
    }

    #[test]
    fn changes_are_those_that_a_reload_makes() {
        let old = of_file("max_name = 7\nshards = 1\n[[room]]\npattern = \"a\"\n", &[]);
        let new = of_file("max_name = 9\nshards = 2\n\n[[room]]\npattern = \"b\"\n", &[]);
        assert_eq!(old.changes(&new), ["max_name: 7 → 9", "[[room]]"]);
        // What needs a restart is compared with what runs, and not with the last file.
        let kept = new.keeping(&old);
        assert_eq!((kept.value("max_name"), kept.value("shards")), ("9", "1"));
        // Lines that have moved are no change.
        assert_eq!(
            old.changes(&of_file("\n\nmax_name = 7\nshards = 1\n[[room]]\npattern = \"a\"\n", &[])),
            Vec::<String>::new()
        );
    }
}
