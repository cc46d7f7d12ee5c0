//! The table at the end of a run.

use std::fmt::Write;

use super::Report;
use crate::metric::{METRICS, Metric};
use crate::unit::Unit;

/// What stands on one line together.
const LINES: &[(&str, &[&str])] = &[
    ("clients", &["connected", "clients"]),
    ("handshakes", &["handshakes", "handshakes_per_s"]),
    ("handshake", &["handshake_p50", "handshake_p99", "handshake_max"]),
    ("said", &["said", "said_per_s"]),
    ("heard", &["deliveries", "deliveries_per_s"]),
    ("faults", &["lost", "duplicated", "reordered"]),
    ("", &["crossed", "strayed", "unheard"]),
    ("latency", &["p50", "p90", "p99", "p999", "max"]),
    ("storm", &["storm_back", "storms_unfinished"]),
    ("resuming", &["recovered", "not_recovered", "caught_up"]),
    ("slow readers", &["slow_clients", "slow_closed"]),
    ("server CPU", &["server_cpu", "server_cpu_per_delivery", "server_cpu_per_handshake"]),
    ("server memory", &["server_memory", "server_memory_peak", "server_memory_per_client"]),
    ("swarm", &["swarm_busy", "swarm_late_p99", "swarm_memory_per_client"]),
];

/// The result, for a terminal.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    for (head, names) in LINES {
        let words: Vec<_> = names.iter().filter_map(|name| word(report, name)).collect();
        let only_zeros =
            head.is_empty() && names.iter().all(|name| report.metric(name).unwrap_or(0.0) == 0.0);
        if !words.is_empty() && !only_zeros {
            let _ = writeln!(out, "  {head:<14}{}", words.join("   "));
        }
    }
    for (error, count) in &report.errors {
        let _ = writeln!(out, "  {:<14}{count} × {error}", "error");
    }
    for verdict in &report.thresholds {
        let found = verdict.found.map_or_else(
            || "there is no such number in this run".to_owned(),
            |found| {
                let name = verdict.threshold.split([' ', '<', '>', '=', '!']).next().unwrap_or_default();
                let unit = METRICS
                    .iter()
                    .find(|metric| metric.name == name)
                    .map_or(Unit::Count, |metric| metric.unit);
                unit.show(found)
            },
        );
        let mark = if verdict.holds { "holds" } else { "DOES NOT HOLD" };
        let _ = writeln!(out, "  {:<14}{}: {mark} ({found})", "threshold", verdict.threshold);
    }
    for note in &report.notes {
        let _ = writeln!(out, "  {:<14}{note}", "note");
    }
    out
}

fn word(report: &Report, name: &str) -> Option<String> {
    let value = report.metric(name)?;
    let metric = METRICS.iter().find(|metric| metric.name == name)?;
    let shown = metric.unit.show(value);
    Some(match name {
        "connected" => format!("{shown} in"),
        "clients" => format!("{shown} wanted"),
        "handshakes" | "said" | "deliveries" => shown,
        "storm_back" => format!("all back after {shown}"),
        "storms_unfinished" if value == 0.0 => return None,
        "recovered" => format!("{shown} came back to where they had been"),
        "not_recovered" => format!("{shown} did not"),
        "caught_up" => format!("{shown} messages heard on return"),
        "slow_closed" => format!("{shown} closed by the server"),
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
        "server_memory_peak" => "at most",
        "swarm_busy" => "busy",
        "swarm_late_p99" => "late p99",
        _ => {
            let title = metric.title;
            title.strip_prefix("latency ").or_else(|| title.strip_prefix("handshake ")).unwrap_or(title)
        }
    }
}
