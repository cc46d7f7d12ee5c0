//! The TOML file, as the user wrote it, with the location of every value.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{Entry, Location, Problem, Raw, settings, suggestion, unknown};

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The settings.
    pub(super) entries: Vec<Entry>,
    /// `[[room]]`, in order.
    pub(super) rooms: Vec<Table>,
}

/// One `[[room]]`.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) location: Location,
    pub(super) entries: Vec<Entry>,
}

/// Tables of this name are rooms.
const ROOM: &str = "room";

/// In such a table, which rooms it is for.
pub(super) const PATTERN: &str = "pattern";

/// Reads `text`, the content of the file called `name`. What is wrong goes to `problems`; the rest is
/// returned.
pub(super) fn parse(name: &str, text: &str, problems: &mut Vec<Problem>) -> Written {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // Further problems of such a file may be effects of the mistake.
        problems.extend(errors.iter().map(|error| {
            let location = location(name, text, error.span().unwrap_or(0..0));
            Problem::new(location, format!("this is not TOML: {}", error.message()))
        }));
        return Written::default();
    }
    let mut written = Written::default();
    let mut file = File { name, text, problems };
    for (key, value) in table.into_inner() {
        if &**key.get_ref() == ROOM {
            file.rooms(value, &mut written.rooms);
        } else if let Some(entry) = file.entry(key, value, &Scope::Server) {
            written.entries.push(entry);
        }
    }
    written
}

/// Where a key stands.
enum Scope {
    Server,
    Room,
}

impl Scope {
    /// Why there is no such key here; `None`: there is.
    fn refusal(&self, key: &str) -> Option<String> {
        let setting = settings::find(key);
        match self {
            Self::Server if setting.is_some() => None,
            Self::Server => {
                let meant =
                    suggestion(&key.replace('-', "_"), settings::ALL.iter().map(|setting| setting.name));
                Some(unknown("setting", meant))
            }
            Self::Room if key == PATTERN || setting.is_some_and(|setting| setting.of_rooms) => None,
            Self::Room if setting.is_some() => {
                Some("this is a setting of the whole server; these stand above the first [[room]]".to_owned())
            }
            Self::Room => {
                let of_rooms = settings::ALL.iter().filter(|setting| setting.of_rooms);
                let known = of_rooms.map(|setting| setting.name).chain([PATTERN]);
                Some(unknown("option of a room", suggestion(&key.replace('-', "_"), known)))
            }
        }
    }
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl File<'_> {
    fn location(&self, span: Range<usize>) -> Location {
        location(self.name, self.text, span)
    }

    fn entry(
        &mut self,
        key: Spanned<DeString<'_>>,
        value: Spanned<DeValue<'_>>,
        scope: &Scope,
    ) -> Option<Entry> {
        let key_location = self.location(key.span());
        let key = key.into_inner();
        if let Some(refusal) = scope.refusal(&key) {
            self.problems.push(Problem::new(key_location, format!("`{key}`: {refusal}")));
            return None;
        }
        let location = self.location(value.span());
        let Some(value) = raw(value) else {
            self.problems.push(Problem::new(location, format!("`{key}` cannot have a value of this kind")));
            return None;
        };
        Some(Entry { name: key.into_owned(), value, location })
    }

    fn rooms(&mut self, value: Spanned<DeValue<'_>>, rooms: &mut Vec<Table>) {
        const TABLES: &str = "`room` is a list of tables, each headed by [[room]]";
        let whole = self.location(value.span());
        let DeValue::Array(tables) = value.into_inner() else {
            self.problems.push(Problem::new(whole, TABLES));
            return;
        };
        for table in tables {
            let location = self.location(table.span());
            let DeValue::Table(table) = table.into_inner() else {
                self.problems.push(Problem::new(location, TABLES));
                continue;
            };
            let entries = table.into_iter().filter_map(|(key, value)| self.entry(key, value, &Scope::Room));
            rooms.push(Table { location, entries: entries.collect() });
        }
    }
}

fn raw(value: Spanned<DeValue<'_>>) -> Option<Raw> {
    match value.into_inner() {
        DeValue::String(text) => Some(Raw::Text(text.into_owned())),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Raw::Integer)
        }
        DeValue::Boolean(value) => Some(Raw::Bool(value)),
        DeValue::Array(values) => {
            let texts = values.into_iter().map(|value| match value.into_inner() {
                DeValue::String(text) => Some(text.into_owned()),
                DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_) => None,
            });
            texts.collect::<Option<_>>().map(Raw::List)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn location(name: &str, text: &str, span: Range<usize>) -> Location {
    let before = &text[..text.floor_char_boundary(span.start)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Location::Line { file: name.to_owned(), line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut problems = Vec::new();
        parse("s.toml", text, &mut problems);
        problems.sort();
        assert_eq!(problems.iter().map(Problem::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn locations() {
        check(
            "echo = true\n\n max_mesage = 5\n",
            &["s.toml:3:2: `max_mesage`: there is no such setting; did you mean max_message?"],
        );
        check(
            "echo = 1.5\n[rooms]\n",
            &[
                "s.toml:1:8: `echo` cannot have a value of this kind",
                "s.toml:2:2: `rooms`: there is no such setting; did you mean room_log?",
            ],
        );
    }

    #[test]
    fn rooms_are_tables() {
        check("[[room]]\npattern = \"a\"\nhistory = 5\n[[room]]\npattern = \"b\"\n", &[]);
        check(
            "[room]\npattern = \"a\"\n",
            &["s.toml:1:1: `room` is a list of tables, each headed by [[room]]"],
        );
        check("room = [1]\n", &["s.toml:1:9: `room` is a list of tables, each headed by [[room]]"]);
        check(
            "[[room]]\npatern = \"a\"\nhistroy = 5\nshards = 2\nx = 1\n",
            &[
                "s.toml:2:1: `patern`: there is no such option of a room; did you mean pattern?",
                "s.toml:3:1: `histroy`: there is no such option of a room; did you mean history?",
                "s.toml:4:1: `shards`: this is a setting of the whole server; these stand above the first [[room]]",
                "s.toml:5:1: `x`: there is no such option of a room; `stentor config` prints all settings",
            ],
        );
    }

    #[test]
    fn toml_errors_have_locations() {
        check(
            "echo = yes\nshards 3\nlisten = []\n",
            &[
                "s.toml:1:8: this is not TOML: string values must be quoted, expected literal string",
                "s.toml:2:8: this is not TOML: key with no value, expected `=`",
            ],
        );
    }
}
