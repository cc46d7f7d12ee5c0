//! The checks as JUnit's XML, which CI systems show: a test suite for the run, a test case for each check.

use std::fmt::Write;

use super::Report;

/// Renders the test suite.
pub fn junit(report: &Report) -> String {
    let failed = report.checks.iter().filter(|check| check.reason.is_some()).count();
    let suite = escaped(&format!("swarm {} {}", report.scenario, report.url));
    let seconds: f64 = report.timeline.iter().map(|point| point.covered).sum();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failed}\" \
         errors=\"0\" skipped=\"0\" time=\"{seconds:.3}\" timestamp=\"{}\" hostname=\"{}\">\n",
        report.checks.len(),
        escaped(report.finished_at.trim_end_matches('Z')),
        escaped(&report.host.name),
    );
    for check in &report.checks {
        let _ = write!(
            out,
            "<testcase classname=\"swarm.{}\" name=\"{}\"",
            escaped(&report.scenario),
            escaped(&check.name)
        );
        let _ = match &check.reason {
            None => writeln!(out, "/>"),
            Some(reason) => writeln!(out, "><failure message=\"{}\"/></testcase>", escaped(reason)),
        };
    }
    let _ =
        writeln!(out, "<system-out>{}</system-out>\n</testsuite>\n</testsuites>", escaped(&report.table()));
    out
}

/// Text for an attribute or element; characters that XML 1.0 does not allow are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Check, Point};

    #[test]
    fn each_check_is_a_test_case() {
        let reason = Some("the value is <1 s> & \u{1b}".to_owned());
        let report = Report {
            scenario: "chat".to_owned(),
            url: "ws://h/?a=1&b=2".to_owned(),
            finished_at: "2026-01-02T03:04:05Z".to_owned(),
            checks: vec![
                Check { name: "p99 < 1ms".to_owned(), reason },
                Check { name: "lost == 0".to_owned(), reason: None },
            ],
            timeline: vec![
                Point { covered: 1.0, ..Point::default() },
                Point { second: 1, covered: 0.25, ..Point::default() },
            ],
            ..Report::default()
        };
        let text = junit(&report);
        for part in [
            "<testsuite name=\"swarm chat ws://h/?a=1&amp;b=2\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\" time=\"1.250\" timestamp=\"2026-01-02T03:04:05\"",
            "<testcase classname=\"swarm.chat\" name=\"p99 &lt; 1ms\"><failure message=\"the value is &lt;1 s&gt; &amp; \u{fffd}\"/></testcase>\n",
            "<testcase classname=\"swarm.chat\" name=\"lost == 0\"/>\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
