//! The settings as a table of `docs/configuration.md`.

use super::settings::{self, Kind, Setting};

/// All settings as a Markdown table: what `stentor config --markdown` prints.
pub fn settings_table() -> String {
    let mut table = String::from(
        "| setting | value | default | reload | room | what it does |\n|---|---|---|---|---|---|\n",
    );
    for setting in settings::ALL {
        let Setting { name, default, live, of_rooms, secret, doc, .. } = setting;
        let mark = |holds: &bool| if *holds { "yes" } else { "" };
        let no_flag = if *secret { " Has no flag." } else { "" };
        table.push_str(&format!(
            "| `{name}` | {} | `{default}` | {} | {} | {}{no_flag} |\n",
            value(setting.kind),
            mark(live),
            mark(of_rooms),
            doc.replace('|', "\\|"),
        ));
    }
    table
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Switch => "`true`, `false`".to_owned(),
        Kind::Count => "number".to_owned(),
        Kind::CountOrAuto => "number, `auto`".to_owned(),
        Kind::Size => "size".to_owned(),
        Kind::Span => "time".to_owned(),
        Kind::Choice(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(", ")
        }
        Kind::Text => "text".to_owned(),
        Kind::List => "list".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_this_table() {
        let document = include_str!("../../docs/configuration.md");
        assert!(
            document.contains(&format!("-->\n{}<!--", settings_table())),
            "docs/configuration.md is out of date: python3 tests/docs/generate.py target/debug/stentor"
        );
    }

    #[test]
    fn every_setting_is_a_row() {
        let table = settings_table();
        assert_eq!(table.lines().count(), settings::ALL.len() + 2);
        assert!(
            table.contains(
                "| `slow_member` | `disconnect`, `skip`, `conflate` | `\"disconnect\"` | yes | yes |"
            )
        );
    }
}
