//! The result as a self-contained HTML page without scripts or external resources.

use std::fmt::Write;

use super::chart::{Chart, Scale, Series, escaped};
use super::{Point, Report};
use crate::metric::METRICS;
use crate::stats::TimeHistogram;
use crate::unit::{Unit, grouped, seconds};

/// Maximum number of points of a curve; longer runs are aggregated.
const POINTS_MAX: usize = 240;

const STYLE: &str = include_str!("page.css");

/// The metrics at the top of the page.
const HEADLINES: &[(&str, &str)] = &[
    ("connected", "clients"),
    ("deliveries_per_s", "deliveries"),
    ("p50", "latency p50"),
    ("p99", "latency p99"),
    ("max", "latency max"),
    ("lost", "lost"),
    ("duplicated", "duplicated"),
    ("reordered", "reordered"),
    ("handshakes_per_s", "handshakes"),
    ("server_cpu_per_delivery", "server CPU per delivery"),
    ("server_memory_per_client", "server memory per client"),
    ("recovery_time", "recovery time"),
];

/// Renders the page.
pub fn page(report: &Report) -> String {
    let title = escaped(&format!("swarm {} · {}", report.scenario, report.url));
    let (status, class) = if report.passed { ("passed", "good") } else { ("failed", "bad") };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n<header>\n\
         <h1>swarm <em>{}</em> <span class=\"status {class}\">{status}</span></h1>\n<p>{} · {}</p>\n\
         <pre>{}</pre>\n</header>\n",
        escaped(&report.scenario),
        escaped(&report.url),
        escaped(&report.finished_at),
        escaped(&report.command),
    );
    headlines(report, &mut out);
    thresholds(report, &mut out);
    for note in &report.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(note));
    }
    for chart in
        [percentiles(report), latency(report), throughput(report), connections(report), server(report)]
    {
        out.push_str(&chart);
    }
    errors(report, &mut out);
    numbers(report, &mut out);
    let _ = writeln!(out, "<footer>swarm {}</footer>\n</main>\n</html>", escaped(&report.version));
    out
}

fn headlines(report: &Report, out: &mut String) {
    out.push_str("<ul class=\"headlines\">\n");
    for (name, title) in HEADLINES {
        let metric = METRICS.iter().find(|metric| metric.name == *name);
        let (Some(metric), Some(value)) = (metric, report.metric(name)) else { continue };
        let class = if metric.is_error && value > 0.0 { " class=\"bad\"" } else { "" };
        let _ = writeln!(out, "<li{class}><b>{}</b>{title}</li>", escaped(&metric.unit.format(value)));
    }
    out.push_str("</ul>\n");
}

fn thresholds(report: &Report, out: &mut String) {
    if report.thresholds.is_empty() {
        return;
    }
    out.push_str("<h2>Thresholds</h2>\n<table>\n");
    for result in &report.thresholds {
        let (word, class) = if result.passed { ("passed", "good") } else { ("FAILED", "bad") };
        let _ = writeln!(
            out,
            "<tr><th><code>{}</code></th><td class=\"{class}\">{word}</td></tr>",
            escaped(&result.threshold)
        );
    }
    out.push_str("</table>\n");
}

fn errors(report: &Report, out: &mut String) {
    if report.errors.is_empty() {
        return;
    }
    out.push_str("<h2>Errors</h2>\n<table>\n");
    for (error, count) in &report.errors {
        let count = grouped(number(*count));
        let _ = writeln!(out, "<tr><th>{}</th><td>{count}</td></tr>", escaped(error));
    }
    out.push_str("</table>\n");
}

fn numbers(report: &Report, out: &mut String) {
    out.push_str("<h2>All metrics</h2>\n<table>\n");
    for metric in METRICS {
        let Some(value) = report.metric(metric.name) else { continue };
        let _ = writeln!(
            out,
            "<tr><th>{} <code>{}</code></th><td>{}</td></tr>",
            escaped(metric.title),
            metric.name,
            escaped(&metric.unit.format(value)),
        );
    }
    out.push_str("</table>\n");
}

fn in_seconds(value: f64) -> String {
    Unit::Seconds.format(value)
}

fn at_second(value: f64) -> String {
    format!("{value:.0} s")
}

/// How the seconds of one point are aggregated.
type Join = fn(&[f64]) -> f64;

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

#[expect(clippy::cast_precision_loss, reason = "a group has few seconds")]
fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn series(report: &Report, name: &'static str, join: Join, value: impl Fn(&Point) -> Option<f64>) -> Series {
    let group = report.timeline.len().div_ceil(POINTS_MAX).max(1);
    let point = |points: &[Point]| {
        let values: Vec<_> = points.iter().filter_map(&value).collect();
        (number(points[0].second), (!values.is_empty()).then(|| join(&values)))
    };
    Series { name, points: report.timeline.chunks(group).map(point).collect() }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
const fn number(value: u64) -> f64 {
    value as f64
}

/// A chart over the time of the run.
fn over_time(
    title: &str,
    caption: &str,
    y_scale: Scale,
    y_label: &dyn Fn(f64) -> String,
    series: Vec<Series>,
) -> String {
    let chart =
        Chart { title, caption, x_scale: Scale::Linear, x_label: &at_second, y_scale, y_label, series };
    chart.figure()
}

/// On this axis 90 %, 99 %, 99.9 % … are equidistant, which stretches the tail.
fn percentiles(report: &Report) -> String {
    let points = |times: &TimeHistogram| {
        let steps = times.histogram().iter_quantiles(8);
        let known = steps.filter(|step| step.quantile_iterated_to() < 1.0);
        known
            .map(|step| (1.0 / (1.0 - step.quantile_iterated_to()), Some(seconds(step.value_iterated_to()))))
            .collect::<Vec<_>>()
    };
    let (name, times) = if report.latency.count() > 0 {
        ("latency", &report.latency)
    } else {
        ("handshake", &report.handshake)
    };
    let label = |value: f64| {
        let digits = if value > 150.0 { value.log10().ceil() - 2.0 } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few digits")]
        let digits = digits.max(0.0) as usize;
        format!("{:.digits$} %", 100.0 * (1.0 - 1.0 / value))
    };
    let chart = Chart {
        title: if name == "latency" { "Latency by percentile" } else { "Handshakes by percentile" },
        caption: "share of messages or handshakes that took no longer",
        x_scale: Scale::Logarithmic,
        x_label: &label,
        y_scale: Scale::Linear,
        y_label: &in_seconds,
        series: vec![Series { name, points: points(times) }],
    };
    chart.figure()
}

fn latency(report: &Report) -> String {
    let series = vec![
        series(report, "p99", highest, |point| point.p99),
        series(report, "p50", average, |point| point.p50),
        series(report, "max", highest, |point| point.max),
    ];
    over_time(
        "Latency over time",
        "from the intended send time to the reception",
        Scale::Logarithmic,
        &in_seconds,
        series,
    )
}

fn throughput(report: &Report) -> String {
    if report.timeline.iter().all(|point| point.deliveries == 0) {
        return String::new();
    }
    let per_second = |value| Unit::PerSecond.format(value);
    let series = vec![series(report, "received", average, |point| Some(number(point.deliveries)))];
    over_time("Deliveries over time", "messages received, per second", Scale::Linear, &per_second, series)
}

fn connections(report: &Report) -> String {
    let series = vec![
        series(report, "clients", highest, |point| Some(f64::from(point.connected))),
        series(report, "handshakes per second", highest, |point| Some(number(point.handshakes))),
        series(report, "errors per second", highest, |point| Some(number(point.errors))),
    ];
    over_time("Connections over time", "connected clients", Scale::Linear, &grouped, series)
}

fn server(report: &Report) -> String {
    let cpu = series(report, "CPU", highest, |point| point.server_cpu);
    let memory = series(report, "memory", highest, |point| point.server_memory.map(number));
    let share = |value| Unit::Ratio.format(value);
    let bytes = |value| Unit::Bytes.format(value);
    over_time("Server CPU", "share of one core", Scale::Linear, &share, vec![cpu])
        + &over_time("Server memory", "resident", Scale::Linear, &bytes, vec![memory])
}
