//! The metrics in Prometheus' text format, for a textfile collector or a push gateway.

use std::fmt::Write;

use super::Report;
use crate::metric::{METRICS, Metric};
use crate::unit::{Unit, seconds};

/// Quantiles of the summaries.
const QUANTILES: [&str; 6] = ["0.5", "0.9", "0.95", "0.99", "0.999", "1"];

/// Renders all metrics of the run as gauges, and its histograms as summaries.
pub fn prometheus(report: &Report) -> String {
    let labels = format!(
        "scenario=\"{}\",transport=\"{}\",url=\"{}\"",
        escaped(&report.scenario),
        escaped(&report.transport),
        escaped(&report.url)
    );
    let mut out = String::new();
    gauge(&mut out, "swarm_passed", "Whether all checks passed", &labels, f64::from(u8::from(report.passed)));
    let metrics = METRICS.iter().filter_map(|metric| Some((metric, report.metric(metric.name)?)));
    for (metric, value) in metrics {
        gauge(&mut out, &name(metric), metric.title, &labels, value);
    }
    for (name, help, times) in [
        ("swarm_latency_seconds", "From the intended send time to the reception", &report.latency),
        ("swarm_handshake_seconds", "From the start of a connection to its readiness", &report.handshake),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} summary");
        for quantile in QUANTILES {
            let value = seconds(times.quantile(quantile.parse().unwrap_or(1.0)));
            let _ = writeln!(out, "{name}{{{labels},quantile=\"{quantile}\"}} {value}");
        }
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
        let sum = times.mean() * times.count() as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {}", times.count());
    }
    out
}

/// The name with its unit, by Prometheus' conventions.
fn name(metric: &Metric) -> String {
    let base = metric.name.strip_suffix("_per_s");
    match (metric.unit, base) {
        (_, Some(base)) => format!("swarm_{base}_per_second"),
        (Unit::Seconds, None) => format!("swarm_{}_seconds", metric.name),
        (Unit::Bytes, None) => format!("swarm_{}_bytes", metric.name),
        (Unit::Ratio, None) => format!("swarm_{}_ratio", metric.name),
        (Unit::Count | Unit::PerSecond, None) => format!("swarm_{}", metric.name),
    }
}

fn gauge(out: &mut String, name: &str, help: &str, labels: &str, value: f64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{{labels}}} {value}");
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_gauges_with_units() {
        let metrics =
            [("p99", 0.03), ("deliveries", 100.0), ("deliveries_per_s", 10.0), ("server_memory", 4096.0)];
        let report = Report {
            scenario: "chat".to_owned(),
            transport: "ws".to_owned(),
            url: "ws://h/\"\n".to_owned(),
            passed: true,
            metrics: metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            latency: vec![(1000, 10), (3000, 10)].into(),
            ..Report::default()
        };
        let text = prometheus(&report);
        let labels = r#"scenario="chat",transport="ws",url="ws://h/\"\n""#;
        for line in [
            format!("swarm_passed{{{labels}}} 1"),
            format!("swarm_p99_seconds{{{labels}}} 0.03"),
            format!("swarm_deliveries{{{labels}}} 100"),
            format!("swarm_deliveries_per_second{{{labels}}} 10"),
            format!("swarm_server_memory_bytes{{{labels}}} 4096"),
            format!("swarm_latency_seconds{{{labels},quantile=\"0.5\"}} 0.001"),
            format!("swarm_latency_seconds_count{{{labels}}} 20"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all, "a name has one type");
    }
}
