//! The summary at the end of a run.

use std::fmt::Write;

use super::Report;
use crate::metric::{METRICS, Metric, unit_of};
use crate::unit::Unit;

/// The lines of the summary: a label and its metrics.
const LINES: &[(&str, &[&str])] = &[
    ("connected", &["connected"]),
    ("handshakes", &["handshakes", "handshakes_per_s", "reconnects"]),
    ("handshake", &["handshake_p50", "handshake_p99", "handshake_max"]),
    ("published", &["published", "published_per_s"]),
    ("received", &["deliveries", "deliveries_per_s"]),
    ("delivery errors", &["lost", "duplicated", "reordered"]),
    ("", &["order_mismatch", "misdelivered", "undelivered"]),
    ("latency", &["p50", "p90", "p95", "p99", "p999", "max"]),
    ("storm", &["recovery_time", "storms_incomplete"]),
    ("recovery", &["recovered", "not_recovered", "recovered_messages"]),
    ("slow readers", &["slow_clients", "slow_closed"]),
    ("server CPU", &["server_cpu", "server_cpu_per_delivery", "server_cpu_per_handshake"]),
    ("server memory", &["server_memory", "server_memory_peak", "server_memory_per_client"]),
    ("swarm", &["swarm_cpu_max", "send_lag_p99", "swarm_memory_per_client"]),
];

/// Renders the summary for a terminal.
pub fn table(report: &Report) -> String {
    let mut out = format!("swarm {} over {}: {}\n", report.scenario, report.transport, report.url);
    for (head, names) in LINES {
        let cells: Vec<_> = names.iter().filter_map(|name| cell(report, name)).collect();
        let only_zeros =
            head.is_empty() && names.iter().all(|name| report.metric(name).unwrap_or(0.0) == 0.0);
        if !cells.is_empty() && !only_zeros {
            let _ = writeln!(out, "  {head:<17}{}", cells.join("   "));
        }
    }
    for (error, count) in &report.errors {
        let _ = writeln!(out, "  {:<17}{count} × {error}", "error");
    }
    for result in &report.thresholds {
        let unit = unit_of(&result.metric).unwrap_or(Unit::Count);
        let no_metric = || "this run does not have the metric".to_owned();
        let found = result.value.map_or_else(no_metric, |found| unit.format(found));
        let mark = if result.passed { "passed" } else { "FAILED" };
        let _ = writeln!(out, "  {:<17}{}: {mark} ({found})", "threshold", result.threshold);
    }
    for note in &report.notes {
        let _ = writeln!(out, "  {:<17}{note}", "note");
    }
    let is_threshold = |name: &str| report.thresholds.iter().any(|result| result.threshold == name);
    for check in report.checks.iter().filter(|check| !is_threshold(&check.name)) {
        if let Some(reason) = &check.reason {
            let _ = writeln!(out, "  {:<17}{reason}", "FAILED");
        }
    }
    out
}

fn cell(report: &Report, name: &str) -> Option<String> {
    let value = report.metric(name)?;
    let metric = METRICS.iter().find(|metric| metric.name == name)?;
    let shown = metric.unit.format(value);
    Some(match name {
        "connected" => format!(
            "{shown} / {}",
            report.metric("clients").map_or_else(String::new, |target| metric.unit.format(target))
        ),
        "handshakes" | "published" | "deliveries" => shown,
        "reconnects" => format!("{shown} reconnects"),
        "recovery_time" => format!("recovery time {shown}"),
        "storms_incomplete" if value == 0.0 => return None,
        "recovered" => format!("{shown} recovered"),
        "not_recovered" => format!("{shown} not recovered"),
        "recovered_messages" => format!("{shown} messages recovered"),
        "slow_closed" => format!("{shown} closed"),
        "slow_clients" | "server_cpu" | "server_memory" => shown,
        _ if metric.unit == Unit::PerSecond => shown,
        _ => format!("{} {shown}", short(metric)),
    })
}

fn short(metric: &Metric) -> &str {
    match metric.name {
        "server_cpu_per_delivery" => "per delivery",
        "server_cpu_per_handshake" => "per handshake",
        "server_memory_per_client" | "swarm_memory_per_client" => "per client",
        "server_memory_peak" => "peak",
        "swarm_cpu_max" => "CPU",
        "send_lag_p99" => "send lag p99",
        _ => {
            let title = metric.title;
            title.strip_prefix("latency ").or_else(|| title.strip_prefix("handshake ")).unwrap_or(title)
        }
    }
}
