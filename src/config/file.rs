//! The TOML file, as the user wrote it, with the place of every value.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, Place, Problem, Raw, settings, suggestion, unknown};

/// Reads `text`, the content of the file called `name`. What is wrong goes to `problems`; the rest is returned.
pub(super) fn parse(name: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What else such a file seems to say may be an effect of the mistake.
        problems.extend(errors.iter().map(|error| {
            let place = place(name, text, error.span().unwrap_or(0..0));
            Problem::new(place, format!("this is not TOML: {}", error.message()))
        }));
        return Vec::new();
    }
    let mut entries = Vec::new();
    for (key, value) in table.into_inner() {
        let key_place = place(name, text, key.span());
        let key = key.into_inner();
        if settings::find(&key).is_none() {
            let meant = suggestion(&key.replace('-', "_"), settings::ALL.iter().map(|setting| setting.name));
            problems.push(Problem::new(key_place, format!("`{key}`: {}", unknown("setting", meant))));
            continue;
        }
        let place = place(name, text, value.span());
        match raw(value) {
            Some(value) => entries.push(Entry { name: key.into_owned(), value, place }),
            None => problems.push(Problem::new(place, format!("`{key}` cannot have a value of this kind"))),
        }
    }
    entries
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

fn place(name: &str, text: &str, span: Range<usize>) -> Place {
    let before = &text[..text.floor_char_boundary(span.start)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Place::Line { file: name.to_owned(), line, column }
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
    fn places() {
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
    fn broken_toml_says_where() {
        check(
            "echo = yes\nshards 3\nlisten = []\n",
            &[
                "s.toml:1:8: this is not TOML: string values must be quoted, expected literal string",
                "s.toml:2:8: this is not TOML: key with no value, expected `=`",
            ],
        );
    }
}
