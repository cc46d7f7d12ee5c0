//! The metric families as a table of `docs/metrics.md`.

use super::{ProcessStats, Registry};

/// All metric families as a Markdown table: what `stentor metrics --markdown` prints. It is made from the
/// exposition, so it names whatever `/metrics` serves.
pub fn families_table() -> String {
    let page = page();
    let mut table = String::from("| metric | type | labels | what it is |\n|---|---|---|---|\n");
    let mut lines = page.lines();
    let mut help = ("", "");
    while let Some(line) = lines.next() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ').unwrap_or((named, ""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            let sample = lines.clone().next().unwrap_or("");
            let text = help.1.replace('|', "\\|");
            table.push_str(&format!("| `{name}` | {kind} | {} | {text} |\n", labels(sample)));
        }
    }
    table
}

fn page() -> String {
    let registry = Registry::new(1);
    registry.set_process(ProcessStats::default);
    registry.exposition()
}

/// The names of a sample's labels; a histogram's `le` is part of the type.
fn labels(sample: &str) -> String {
    let inside = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(it, _)| it);
    let names = inside.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    let names: Vec<_> = names.filter(|name| *name != "le").map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_this_table() {
        let document = include_str!("../../docs/metrics.md");
        assert!(
            document.contains(&format!("-->\n{}<!--", families_table())),
            "docs/metrics.md is out of date: python3 tests/docs/generate.py target/debug/stentor"
        );
    }

    /// The names that begin so in a text.
    fn names<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let begins = |at: usize| !text[..at].chars().next_back().is_some_and(is_name);
        let found = text.match_indices(prefix).filter(|(at, _)| begins(*at));
        found
            .map(|(at, _)| &text[at..])
            .map(|rest| &rest[..rest.find(|c: char| !is_name(c)).unwrap_or(rest.len())])
            .collect()
    }

    #[test]
    fn dashboard_and_alerts_name_what_is_served() {
        let table = families_table();
        let dashboard = include_str!("../../deploy/grafana/stentor.json");
        let alerts = include_str!("../../deploy/prometheus/alerts.yml");
        for (text, at_least) in [(dashboard, 20), (alerts, 8)] {
            let found = [names(text, "stentor_"), names(text, "process_")].concat();
            assert!(found.len() >= at_least, "{found:?}");
            for name in found {
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .unwrap_or(name);
                assert!(table.contains(&format!("| `{family}` |")), "{name} is no metric");
            }
        }
        let labels = names(alerts, "cause");
        assert!(!labels.is_empty());
    }

    #[test]
    fn every_family_is_a_row() {
        let page = page();
        let families = page.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(families_table().lines().count(), families + 2);
    }

    #[test]
    fn labels_are_named_without_their_values() {
        assert_eq!(labels("stentor_x_bucket{shard=\"0\",le=\"+Inf\"} 7"), "`shard`");
        assert_eq!(labels("stentor_x 7"), "");
    }
}
