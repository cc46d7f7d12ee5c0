//! Conditions on a result: `p99 < 50ms`, `lost == 0`, `deliveries_per_s >= 1e6`.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::metric::{METRICS, unit_of};
use crate::unit::Unit;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// Longer operators first, since `<` is a prefix of `<=`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

/// A condition on one metric.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    text: String,
    name: String,
    comparison: Comparison,
    value: f64,
}

/// The outcome of a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdResult {
    /// The condition as given.
    pub threshold: String,
    /// The name of its metric.
    pub metric: String,
    /// The measured value; `None`: the run does not have this metric.
    pub value: Option<f64>,
    /// Whether the condition is true.
    pub passed: bool,
}

impl Threshold {
    /// The name of its metric.
    pub fn metric(&self) -> &str {
        &self.name
    }

    /// Evaluates the condition with the metric's value. It fails if the run does not have the metric.
    pub fn evaluate(&self, value: Option<f64>) -> ThresholdResult {
        let passed = value.is_some_and(|value| match self.comparison {
            Comparison::Less => value < self.value,
            Comparison::AtMost => value <= self.value,
            Comparison::More => value > self.value,
            Comparison::AtLeast => value >= self.value,
            #[expect(
                clippy::float_cmp,
                reason = "counts are integers; comparing times for equality is the user's choice"
            )]
            Comparison::Equal => value == self.value,
            #[expect(
                clippy::float_cmp,
                reason = "counts are integers; comparing times for equality is the user's choice"
            )]
            Comparison::Unequal => value != self.value,
        });
        ThresholdResult { threshold: self.text.clone(), metric: self.name.clone(), value, passed }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            COMPARISONS.iter().find_map(|(sign, comparison)| Some((text.split_once(sign)?, *comparison)));
        let ((name, value), comparison) = parsed.ok_or_else(|| {
            format!("{text:?} is not a condition: write it as \"p99 < 50ms\" or \"lost == 0\"")
        })?;
        let (name, value) = (name.trim(), value.trim());
        let unit = unit_of(name).ok_or_else(|| {
            let names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
            let names = names.join(", ");
            format!("there is no metric {name:?}; the metrics are {names}, and any percentile, like p99.95")
        })?;
        let value = read(unit, value).ok_or_else(|| {
            let example = match unit {
                Unit::Seconds => "50ms",
                Unit::Bytes => "64KiB",
                Unit::Ratio => "80%",
                Unit::Count | Unit::PerSecond => "1000",
            };
            format!("{value:?} is not a value of {name}: write it as {example}")
        })?;
        Ok(Self { text: text.to_owned(), name: name.to_owned(), comparison, value })
    }
}

fn read(unit: Unit, text: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    match unit {
        Unit::Count => number(text),
        Unit::PerSecond => number(text.strip_suffix("/s").unwrap_or(text)),
        Unit::Ratio => {
            text.strip_suffix('%').map_or_else(|| number(text), |text| Some(number(text)? / 100.0))
        }
        Unit::Seconds if text == "0" => Some(0.0),
        Unit::Seconds => humantime::parse_duration(text).ok().map(|time| time.as_secs_f64()),
        Unit::Bytes => {
            let units =
                [("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("B", 1.0), ("", 1.0)];
            units.iter().find_map(|(unit, bytes)| Some(number(text.strip_suffix(unit)?)? * bytes))
        }
    }
}

impl Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_evaluated() {
        for (text, value, passed) in [
            ("p99 < 50ms", Some(0.05), false),
            ("p99<=50ms", Some(0.05), true),
            ("p99.95 > 1us", Some(0.05), true),
            ("lost == 0", Some(0.0), true),
            ("lost != 0", Some(0.0), false),
            ("server_memory >= 2KiB", Some(2048.0), true),
            ("duplicated == 0", None, false), // not a metric of this run
        ] {
            let threshold: Threshold = text.parse().unwrap();
            let result = threshold.evaluate(value);
            assert_eq!((result.passed, result.threshold.as_str()), (passed, text));
            assert!(text.starts_with(&result.metric) && result.metric == threshold.metric());
        }
    }

    #[test]
    fn invalid_conditions_are_rejected() {
        for (text, part) in [
            ("p99", "is not a condition"),
            ("latency < 1ms", "there is no metric \"latency\""),
            ("p99 < 50", "write it as 50ms"),
            ("lost == none", "write it as 1000"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
