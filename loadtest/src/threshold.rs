//! What must hold of a result: `p99 < 50ms`, `lost == 0`, `deliveries_per_s >= 1e6`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::metric::METRICS;
use crate::unit::Unit;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// Longer ones first: `<=` is no `<`.
const RELATIONS: [(&str, Relation); 6] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Equal),
    ("!=", Relation::Unequal),
    ("<", Relation::Less),
    (">", Relation::More),
];

/// One condition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    text: String,
    name: String,
    relation: Relation,
    value: f64,
}

/// What became of a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// As it was written.
    pub threshold: String,
    /// What was found; nothing, if the run has no such number.
    pub found: Option<f64>,
    /// Whether it holds.
    pub holds: bool,
}

impl Threshold {
    /// Whether it holds of these numbers. A number that a run does not have holds nothing.
    pub fn judge(&self, metrics: &BTreeMap<String, f64>) -> Verdict {
        let found = metrics.get(&self.name).copied();
        let holds = found.is_some_and(|found| match self.relation {
            Relation::Less => found < self.value,
            Relation::AtMost => found <= self.value,
            Relation::More => found > self.value,
            Relation::AtLeast => found >= self.value,
            #[expect(
                clippy::float_cmp,
                reason = "counts are whole; who compares times for equality means it"
            )]
            Relation::Equal => found == self.value,
            #[expect(
                clippy::float_cmp,
                reason = "counts are whole; who compares times for equality means it"
            )]
            Relation::Unequal => found != self.value,
        });
        Verdict { threshold: self.text.clone(), found, holds }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = RELATIONS.iter().find_map(|(sign, relation)| Some((text.split_once(sign)?, *relation)));
        let ((name, value), relation) = found.ok_or_else(|| {
            format!("{text:?} compares nothing: write it as \"p99 < 50ms\" or \"lost == 0\"")
        })?;
        let (name, value) = (name.trim(), value.trim());
        let metric = METRICS.iter().find(|metric| metric.name == name).ok_or_else(|| {
            let names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
            format!("there is no number called {name:?}; there are {}", names.join(", "))
        })?;
        let value = read(metric.unit, value).ok_or_else(|| {
            let example = match metric.unit {
                Unit::Seconds => "50ms",
                Unit::Bytes => "64KiB",
                Unit::Share => "80%",
                Unit::Count | Unit::PerSecond => "1000",
            };
            format!("{value:?} is nothing that {name} can be compared with: write it as {example}")
        })?;
        Ok(Self { text: text.to_owned(), name: metric.name.to_owned(), relation, value })
    }
}

fn read(unit: Unit, text: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    match unit {
        Unit::Count => number(text),
        Unit::PerSecond => number(text.strip_suffix("/s").unwrap_or(text)),
        Unit::Share => {
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
    fn conditions_hold_or_do_not() {
        let metrics = BTreeMap::from([
            ("p99".to_owned(), 0.05),
            ("lost".to_owned(), 0.0),
            ("server_memory".to_owned(), 2048.0),
        ]);
        for (text, holds) in [
            ("p99 < 50ms", false),
            ("p99<=50ms", true),
            ("p99 > 1us", true),
            ("lost == 0", true),
            ("lost != 0", false),
            ("server_memory >= 2KiB", true),
            ("duplicated == 0", false), // not a number of this run
        ] {
            let verdict = text.parse::<Threshold>().unwrap().judge(&metrics);
            assert_eq!((verdict.holds, verdict.threshold.as_str()), (holds, text));
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("p99", "compares nothing"),
            ("p98 < 1ms", "there is no number called \"p98\""),
            ("p99 < 50", "write it as 50ms"),
            ("lost == none", "write it as 1000"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
