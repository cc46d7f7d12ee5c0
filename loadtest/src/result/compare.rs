//! Results side by side, with ratios relative to the first.

use std::fmt::Write;

use super::Report;
use crate::metric::{METRICS, Metric};

/// Renders the comparison of named results.
pub fn compare(reports: &[(String, Report)]) -> String {
    let mut out = String::new();
    let width = reports.iter().map(|(name, _)| name.chars().count() + 2).max().unwrap_or(0).max(24);
    let _ = write!(out, "{:<42}", "");
    for (name, _) in reports {
        let _ = write!(out, "{name:>width$}");
    }
    out.push('\n');
    for metric in METRICS {
        let values: Vec<_> = reports.iter().map(|(_, report)| report.metric(metric.name)).collect();
        if values.iter().all(|value| value.is_none_or(|value| value == 0.0)) {
            continue;
        }
        let title = format!("{} ({})", metric.title, metric.name);
        let _ = write!(out, "{title:<42}");
        for (index, value) in values.iter().enumerate() {
            let cell = value.map_or_else(|| "–".to_owned(), |value| metric.unit.format(value));
            let ratio = if index == 0 { String::new() } else { ratio(metric, values[0], *value) };
            let _ = write!(out, "{:>width$}", format!("{cell}{ratio:>11}"));
        }
        out.push('\n');
    }
    out
}

/// The ratio to the first value, and whether it is better.
fn ratio(metric: &Metric, first: Option<f64>, value: Option<f64>) -> String {
    let (Some(first), Some(value)) = (first.filter(|&first| first != 0.0), value) else {
        return String::new();
    };
    let ratio = value / first;
    let mark = match metric.less_is_better {
        Some(less) if (ratio - 1.0).abs() >= 0.05 => {
            if (ratio < 1.0) == less {
                " +"
            } else {
                " −"
            }
        }
        _ => "",
    };
    format!("×{ratio:.2}{mark:<2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_mark_the_better_value() {
        let of = |name: &str, first, value| {
            let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
            ratio(metric, first, Some(value))
        };
        assert_eq!(of("p99", Some(0.010), 0.005), "×0.50 +");
        assert_eq!(of("p99", Some(0.010), 0.020), "×2.00 −");
        assert_eq!(of("p99", Some(0.010), 0.0102), "×1.02  ");
        assert_eq!(of("deliveries_per_s", Some(100.0), 300.0), "×3.00 +");
        assert_eq!(of("published", Some(100.0), 300.0), "×3.00  ");
        assert_eq!((of("p99", None, 1.0), of("lost", Some(0.0), 1.0)), (String::new(), String::new()));
    }
}
