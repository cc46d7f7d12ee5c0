//! What is valid, and most likely not meant: values that stand twice in a list, and rooms' tables that never
//! apply.

use std::net::SocketAddr;

use super::file::{PATTERN, Written};
use super::reader::list;
use super::settings::{self, Kind};
use super::{Location, Problem};

/// Everything that should be looked at, in the order of the locations. `listen`: the addresses, resolved,
/// with those that stand there twice.
pub(super) fn check(written: &Written, listen: &[SocketAddr]) -> Vec<Problem> {
    let mut warnings = duplicates(written, listen);
    warnings.extend(hidden_rooms(written));
    warnings.sort();
    warnings
}

/// Values that stand twice in one list, of the entries that hold.
fn duplicates(written: &Written, listen: &[SocketAddr]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for setting in settings::ALL.iter().filter(|setting| setting.kind == Kind::List) {
        let Some(entry) = written.entries.iter().rev().find(|entry| entry.name == setting.name) else {
            continue;
        };
        let texts = match setting.name {
            "listen" => listen.iter().map(ToString::to_string).collect(),
            _ => list(&entry.value).unwrap_or_default(),
        };
        for text in twice(&texts) {
            let name = setting.name;
            let shown = if setting.secret { "a value".to_owned() } else { text.clone() };
            warnings.push(Problem::new(entry.location.clone(), format!("`{name}` has {shown} twice")));
        }
    }
    warnings
}

/// The texts that have stood in the list before, each once.
fn twice(texts: &[String]) -> Vec<&String> {
    let mut found: Vec<&String> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        if texts[..index].contains(text) && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// Tables whose rooms all match the pattern of an earlier one.
fn hidden_rooms(written: &Written) -> Vec<Problem> {
    let mut earlier: Vec<(&str, &Location)> = Vec::new();
    let mut warnings = Vec::new();
    for table in &written.rooms {
        let Some(entry) = table.entries.iter().find(|entry| entry.name == PATTERN) else { continue };
        let Some(pattern) = entry.value.text() else { continue };
        if let Some((by, at)) = earlier.iter().find(|(by, _)| covers(by, pattern)) {
            let sentence = format!(
                "`pattern` = {pattern:?} never applies: {by:?} ({at}) matches every such room, and the first pattern that \
                 matches holds; put the narrower one first"
            );
            warnings.push(Problem::new(entry.location.clone(), sentence));
        }
        earlier.push((pattern, &entry.location));
    }
    warnings
}

/// Whether every name that `narrow` matches is matched by `wide`: `*` stands for any characters, `?` for one.
/// For some pairs that do, such as `?*` and `*?`, it is `false` all the same. It takes the product of their
/// lengths.
fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow): (Vec<char>, Vec<char>) = (wide.chars().collect(), narrow.chars().collect());
    // Row by row from the end: whether the rest of `wide` covers the rest of `narrow` from there on.
    let mut below: Vec<bool> = (0..=narrow.len()).map(|from| from == narrow.len()).collect();
    for &w in wide.iter().rev() {
        let mut row = vec![false; narrow.len() + 1];
        row[narrow.len()] = w == '*' && below[narrow.len()];
        for from in (0..narrow.len()).rev() {
            let n = narrow[from];
            row[from] = match w {
                '*' => below[from] || row[from + 1],
                '?' => n != '*' && below[from + 1],
                _ => w == n && below[from + 1],
            };
        }
        below = row;
    }
    below[0]
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn of_file(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let written = file::parse("s.toml", text, &mut problems);
        let config = super::super::checked::check(&written.entries, &written.rooms, &mut problems);
        assert_eq!(problems, Vec::<Problem>::new());
        check(&written, &config.listen).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn patterns_that_cover_others() {
        for (wide, narrow, expected) in [
            ("*", "a", true),
            ("*", "*", true),
            ("news:*", "news:*", true),
            ("news:*", "news:local:*", true),
            ("news:*", "news:?", true),
            ("n?ws:*", "news:a", true),
            ("*:old", "news:*:old", true),
            ("*a*", "bab", true),
            ("a", "*", false),
            ("news:?", "news:*", false),
            ("news:*", "new*", false),
            ("news:*", "sport:*", false),
            ("?", "", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(covers(wide, narrow), expected, "{wide} and {narrow}");
        }
    }

    /// Against the matcher that the server uses: a covered pattern matches no name that the other one does
    /// not.
    #[test]
    fn covering_agrees_with_matching() {
        let words = |len: u32, letters: &'static [char]| {
            (0..letters.len().pow(len)).map(move |mut number| {
                let letter = |_| {
                    let letter = letters[number % letters.len()];
                    number /= letters.len();
                    letter
                };
                (0..len).map(letter).collect::<String>()
            })
        };
        let patterns: Vec<_> = (1..=3).flat_map(|len| words(len, &['a', '*', '?'])).collect();
        let names: Vec<_> = (0..=4).flat_map(|len| words(len, &['a', 'b'])).collect();
        for wide in &patterns {
            for narrow in patterns.iter().filter(|narrow| covers(wide, narrow)) {
                let (of_wide, of_narrow) =
                    (wildmatch::WildMatch::new(wide), wildmatch::WildMatch::new(narrow));
                let missed = names.iter().find(|name| of_narrow.matches(name) && !of_wide.matches(name));
                assert_eq!(missed, None, "{wide} and {narrow}");
            }
        }
    }

    #[test]
    fn warnings_have_locations() {
        let text = "listen = [\"127.0.0.1:80\", \"localhost:80\", \"127.0.0.1:80\"]\norigins = [\"any\", \"null\", \"any\"]\n\
                    [[room]]\npattern = \"news:*\"\n[[room]]\npattern = \"news:local\"\n[[room]]\npattern = \"sport\"\n";
        let warnings = of_file(text);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert_eq!(warnings[0], "s.toml:1:10: `listen` has 127.0.0.1:80 twice");
        assert_eq!(warnings[1], "s.toml:2:11: `origins` has any twice");
        assert_eq!(
            warnings[2],
            "s.toml:6:11: `pattern` = \"news:local\" never applies: \"news:*\" (s.toml:4:11) matches every such room, and \
             the first pattern that matches holds; put the narrower one first"
        );
        assert_eq!(of_file("[[room]]\npattern = \"a\"\n[[room]]\npattern = \"a*\"\n"), Vec::<String>::new());
    }
}
