//! Percentiles in the text format of HdrHistogram (`.hgrm`), in milliseconds.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// Steps per halving of the distance to 100 %, as in HdrHistogram's own tools.
const STEPS_PER_HALF: u32 = 5;

/// Renders the distribution.
pub fn hgrm(times: &Histogram<u64>) -> String {
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in times.iter_quantiles(STEPS_PER_HALF) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (milliseconds(step.value_iterated_to()), step.quantile_iterated_to());
        if quantile < 1.0 {
            let _ =
                writeln!(out, "{value:>12.3} {quantile:>2.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile));
        } else {
            let _ = writeln!(out, "{value:>12.3} {quantile:>2.12} {total:>10}");
        }
    }
    let (mean, deviation) = (times.mean() / 1000.0, times.stdev() / 1000.0);
    let _ = writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        milliseconds(times.max()),
        times.len()
    );
    let _ = writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        times.buckets(),
        times.distinct_values()
    );
    out
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of an hour need 32 bits")]
const fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_hdrhistogram() {
        let mut times = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        for value in 1..=1000 {
            times.record(value).unwrap();
        }
        let text = hgrm(&times);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        let half = lines.iter().find(|line| line.contains(" 0.500000000000 ")).unwrap();
        assert_eq!(half.split_whitespace().collect::<Vec<_>>(), ["0.500", "0.500000000000", "500", "2.00"]);
        let last = lines.iter().rfind(|line| !line.starts_with('#')).unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["1.000", "1.000000000000", "1000"]);
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("#[Max     =        1.000, Total count    =         1000]"))
        );
    }
}
