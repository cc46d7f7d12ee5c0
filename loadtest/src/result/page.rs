//! The result as a self-contained HTML page without scripts or external resources: `templates/page.html` with
//! `page.css` and a `chart.html` for each chart. The templates are compiled into the program; every value in
//! them is escaped.

use askama::Template;

use super::chart::{Chart, Figure, Scale, Series};
use super::{Point, Probe, Report};
use crate::metric::{METRICS, Metric};
use crate::stats::TimeHistogram;
use crate::unit::{Unit, grouped, seconds};

/// The part of a second from which a rate is computed.
const COVERED_MIN: f64 = 0.05;

/// Maximum number of points of a curve; longer runs are aggregated.
const POINTS_MAX: usize = 240;

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

/// The content of `templates/page.html`.
#[derive(Template)]
#[template(path = "page.html", whitespace = "minimize")]
struct Page<'r> {
    report: &'r Report,
    headlines: Vec<Headline>,
    charts: Vec<Figure>,
    /// Errors by message, with their counts.
    errors: Vec<(&'r str, String)>,
    /// The metrics that the run has, with their values.
    metrics: Vec<(&'static Metric, String)>,
}

/// A metric at the top of the page.
struct Headline {
    title: &'static str,
    value: String,
    is_error: bool,
}

/// Renders the page.
///
/// # Errors
/// The template engine's message.
pub fn page(report: &Report) -> Result<String, String> {
    let charts = [
        searched(report),
        percentiles(report),
        latency(report),
        throughput(report),
        connections(report),
        cpu(report),
        memory(report),
    ];
    let page = Page {
        report,
        headlines: HEADLINES.iter().filter_map(|&(name, title)| headline(report, name, title)).collect(),
        charts: charts.into_iter().flatten().collect(),
        errors: report
            .errors
            .iter()
            .map(|(error, &count)| (error.as_str(), grouped(number(count))))
            .collect(),
        metrics: METRICS
            .iter()
            .filter_map(|metric| Some((metric, metric.unit.format(report.metric(metric.name)?))))
            .collect(),
    };
    page.render().map(|page| page + "\n").map_err(|error| error.to_string())
}

fn headline(report: &Report, name: &str, title: &'static str) -> Option<Headline> {
    let metric = METRICS.iter().find(|metric| metric.name == name)?;
    let value = report.metric(name)?;
    Some(Headline { title, value: metric.unit.format(value), is_error: metric.is_error && value > 0.0 })
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

/// The seconds of one point.
fn group(report: &Report) -> usize {
    report.timeline.len().div_ceil(POINTS_MAX).max(1)
}

fn series(report: &Report, name: &'static str, join: Join, value: impl Fn(&Point) -> Option<f64>) -> Series {
    let group = group(report);
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

/// The label of the last point, if that is a part of a second.
fn partial(report: &Report) -> Option<String> {
    let last = report.timeline.last().filter(|last| last.covered < 1.0 && group(report) == 1)?;
    Some(format!("{} s, of which {:.2} s", last.second, last.covered))
}

/// A count of one second as a rate; unknown if the run had next to nothing of that second.
fn rate(point: &Point, count: u64) -> Option<f64> {
    (point.covered >= COVERED_MIN).then(|| number(count) / point.covered)
}

/// A chart over the time of the run.
fn over_time(
    report: &Report,
    title: &'static str,
    caption: &'static str,
    y_scale: Scale,
    y_label: &dyn Fn(f64) -> String,
    series: Vec<Series>,
) -> Option<Figure> {
    let (x_scale, x_label) = (Scale::Linear, &at_second);
    Chart { title, caption, x_scale, x_label, y_scale, y_label, series, partial: partial(report) }.figure()
}

/// The runs of a search.
fn searched(report: &Report) -> Option<Figure> {
    let of = |name, value: fn(&Probe) -> Option<f64>| Series {
        name,
        points: report.curve.iter().map(|probe| (probe.value, value(probe))).collect(),
    };
    let chart = Chart {
        title: "Latency by load",
        caption: "of the runs of the search, by rate or number of clients",
        x_scale: Scale::Linear,
        x_label: &grouped,
        y_scale: Scale::Logarithmic,
        y_label: &in_seconds,
        series: vec![
            of("p99", |probe| probe.p99),
            of("p50", |probe| probe.p50),
            of("max", |probe| probe.max),
        ],
        partial: None,
    };
    chart.figure()
}

/// On this axis 90 %, 99 %, 99.9 % … are equidistant, which stretches the tail.
fn percentiles(report: &Report) -> Option<Figure> {
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
        partial: None,
    };
    chart.figure()
}

fn latency(report: &Report) -> Option<Figure> {
    let series = vec![
        series(report, "p99", highest, |point| point.p99),
        series(report, "p50", average, |point| point.p50),
        series(report, "max", highest, |point| point.max),
    ];
    over_time(
        report,
        "Latency over time",
        "from the intended send time to the reception",
        Scale::Logarithmic,
        &in_seconds,
        series,
    )
}

fn throughput(report: &Report) -> Option<Figure> {
    if report.timeline.iter().all(|point| point.deliveries == 0) {
        return None;
    }
    let per_second = |value| Unit::PerSecond.format(value);
    let series = vec![series(report, "received", average, |point| rate(point, point.deliveries))];
    let caption = "messages received, per second";
    over_time(report, "Deliveries over time", caption, Scale::Linear, &per_second, series)
}

fn connections(report: &Report) -> Option<Figure> {
    let series = vec![
        series(report, "clients", highest, |point| Some(f64::from(point.connected))),
        series(report, "handshakes per second", highest, |point| rate(point, point.handshakes)),
        series(report, "errors per second", highest, |point| rate(point, point.errors)),
    ];
    over_time(report, "Connections over time", "connected clients", Scale::Linear, &grouped, series)
}

fn cpu(report: &Report) -> Option<Figure> {
    let cpu = series(report, "CPU", highest, |point| point.server_cpu);
    let share = |value| Unit::Ratio.format(value);
    over_time(report, "Server CPU", "share of one core", Scale::Linear, &share, vec![cpu])
}

fn memory(report: &Report) -> Option<Figure> {
    let memory = series(report, "memory", highest, |point| point.server_memory.map(number));
    let bytes = |value| Unit::Bytes.format(value);
    over_time(report, "Server memory", "resident", Scale::Binary, &bytes, vec![memory])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::result::Check;
    use crate::threshold::ThresholdResult;

    /// A report with `text` wherever text comes from outside the program.
    fn report(text: &str) -> Report {
        let text = || text.to_owned();
        let point = |second| Point {
            second,
            covered: if second == 2 { 0.5 } else { 1.0 },
            connected: 3,
            deliveries: 100,
            p50: Some(0.002),
            p99: Some(0.03),
            max: Some(0.4),
            ..Point::default()
        };
        Report {
            version: text(),
            scenario: text(),
            transport: text(),
            url: text(),
            command: text(),
            finished_at: text(),
            metrics: BTreeMap::from([("lost".to_owned(), 1.0), ("p99".to_owned(), 0.03)]),
            errors: BTreeMap::from([(text(), 1234)]),
            notes: vec![text()],
            thresholds: vec![ThresholdResult {
                threshold: text(),
                metric: text(),
                value: Some(1.0),
                passed: false,
            }],
            checks: vec![Check { name: text(), reason: Some(text()) }],
            timeline: (0..3).map(point).collect(),
            latency: vec![(1000, 10), (2000, 10)].into(),
            ..Report::default()
        }
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let page = page(&report("\"'></title><script>alert('1')</script>&")).unwrap();
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        // The scenario and the URL stand in the title, too.
        let escaped =
            "&#34;&#39;&#62;&#60;/title&#62;&#60;script&#62;alert(&#39;1&#39;)&#60;/script&#62;&#38;";
        assert_eq!(page.matches(escaped).count(), 13, "{page}");
        assert_eq!(page.matches("</title>\n<style>").count(), 1, "{page}");
        for template in
            [include_str!("../../templates/page.html"), include_str!("../../templates/chart.html")]
        {
            assert!(!template.replace(' ', "").contains("|safe"), "no value bypasses the escaper");
        }
    }

    #[test]
    fn the_page_has_charts_and_tables() {
        let page = page(&report("text")).unwrap();
        let titles: Vec<_> =
            page.split("<figcaption><b>").skip(1).map(|rest| rest.split("</b>").next().unwrap()).collect();
        assert_eq!(
            titles,
            ["Latency by percentile", "Latency over time", "Deliveries over time", "Connections over time"]
        );
        for text in [
            "<h1>swarm <em>text</em> over text\n<span class=\"status bad\">failed</span></h1>",
            "<li class=\"bad\"><b>1</b>lost</li>",
            "<tr><th>text</th><td>1,234</td></tr>",
            "<tr><th>latency p99 <code>p99</code></th><td>30.0 ms</td></tr>",
            "<title>1 s\np99 30.0 ms\np50 2.00 ms\nmax 400.0 ms</title>",
            "<path class=\"curve s0\" d=\"M78.0 ",
            "<path class=\"curve partial s0\" d=\"M",
            "<title>2 s, of which 0.50 s\nreceived 200/s</title>",
            "<li>text</li>",
        ] {
            assert!(page.contains(text), "{text} is not in {page}");
        }
    }
}
