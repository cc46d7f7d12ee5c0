//! Values as written on the command line and in scenario files: `10s`, `2000/s`, `48..500`.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::stamp::STAMP_BYTES;

/// A value in a file, as a text or a number: `rate = 100` equals `rate = "100/s"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum RawValue {
    /// 100
    Integer(i64),
    /// 0.5
    Number(f64),
    /// "100/s"
    Text(String),
}

impl Display for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Serializes a type as its text.
macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<RawValue> for $type {
            type Error = String;

            fn try_from(raw: RawValue) -> Result<Self, String> {
                raw.to_string().parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

/// A duration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "RawValue", into = "String")]
pub struct Span(pub Duration);

as_text!(Span);

impl Span {
    /// A number of seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// In nanoseconds.
    pub fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}; write it as 10s or 1m30s"))
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number per second.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "RawValue", into = "String")]
pub struct Rate(pub f64);

as_text!(Rate);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").unwrap_or(text).trim().parse::<f64>();
        match number {
            Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(Self(rate)),
            _ => Err("write it as 100 or 100/s".to_owned()),
        }
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// How long clients stay disconnected after a storm: a time, `5s`, or until a number of messages is
/// published, `100`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawValue", into = "String")]
pub enum Downtime {
    /// A time.
    Time(Span),
    /// A number of messages.
    Messages(u32),
}

as_text!(Downtime);

impl Default for Downtime {
    fn default() -> Self {
        Self::Messages(0)
    }
}

impl FromStr for Downtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self::Messages(count));
        }
        let wrong = |_| "write it as 5s, or as 100 for a number of messages".to_owned();
        text.parse().map(Self::Time).map_err(wrong)
    }
}

impl Display for Downtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(span) => span.fmt(f),
            Self::Messages(count) => count.fmt(f),
        }
    }
}

/// Message sizes in bytes: `96`, uniform `48..500`, or weighted `64*9,1024*1`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawValue", into = "String")]
pub enum Sizes {
    /// One size.
    Fixed(u32),
    /// Uniform between two bounds, inclusive.
    Uniform(u32, u32),
    /// Sizes with weights.
    Weighted(Vec<(u32, u32)>),
}

as_text!(Sizes);

impl Sizes {
    /// The size for `random`, a uniform random number.
    pub fn sample(&self, random: u32) -> usize {
        let below = |bound: u64| (u64::from(random) * bound) >> 32;
        let size = match self {
            Self::Fixed(size) => u64::from(*size),
            Self::Uniform(from, to) => u64::from(*from) + below(u64::from(to - from) + 1),
            Self::Weighted(choices) => {
                let mut left = below(choices.iter().map(|&(_, weight)| u64::from(weight)).sum());
                let chosen = choices.iter().find(|&&(_, weight)| match left.checked_sub(u64::from(weight)) {
                    Some(less) => {
                        left = less;
                        false
                    }
                    None => true,
                });
                chosen.map_or(0, |&(size, _)| u64::from(size))
            }
        };
        usize::try_from(size).unwrap_or(usize::MAX)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim().parse::<u32>().map_err(|_| "write it as 96, 48..500 or 64*9,1024*1".to_owned())
        };
        let size = |text: &str| match number(text)? {
            size if (size as usize) < STAMP_BYTES => {
                Err(format!("a message has at least {STAMP_BYTES} bytes, the size of its stamp"))
            }
            size if size > 1 << 24 => Err("a message has at most 16 MiB".to_owned()),
            size => Ok(size),
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (size(from)?, size(to)?);
            return if from <= to {
                Ok(Self::Uniform(from, to))
            } else {
                Err(format!("{from} is above {to}"))
            };
        }
        if !text.contains(['*', ',']) {
            return Ok(Self::Fixed(size(text)?));
        }
        let choice = |text: &str| {
            let (what, weight) = text.split_once('*').unwrap_or((text, "1"));
            Ok((size(what)?, number(weight)?))
        };
        let choices = text.split(',').map(choice).collect::<Result<Vec<_>, String>>()?;
        if choices.iter().all(|&(_, weight)| weight == 0) {
            return Err("one of the weights must be above 0".to_owned());
        }
        Ok(Self::Weighted(choices))
    }
}

impl Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform(from, to) => write!(f, "{from}..{to}"),
            Self::Weighted(choices) => {
                let words: Vec<_> = choices.iter().map(|(size, weight)| format!("{size}*{weight}")).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

/// A pseudo-random generator with a seed (xorshift).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    /// Uniform in 0..`bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        u32::try_from((u64::from(self.next_u32()) * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed() {
        assert_eq!("1m30s".parse(), Ok(Span::seconds(90)));
        assert_eq!("2000/s".parse(), Ok(Rate(2000.0)));
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        assert_eq!("96".parse(), Ok(Sizes::Fixed(96)));
        assert_eq!("48..500".parse(), Ok(Sizes::Uniform(48, 500)));
        assert_eq!("64*9,1024".parse(), Ok(Sizes::Weighted(vec![(64, 9), (1024, 1)])));
        for wrong in ["47", "500..48", "64*0", "x", "", "99999999"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
        assert!("-1".parse::<Rate>().is_err() && "nan".parse::<Rate>().is_err());
        assert!("10".parse::<Span>().is_err());
    }

    #[test]
    fn sizes_follow_their_distribution() {
        let mut rng = Rng::new(1);
        let mut share = |sizes: Sizes, of: std::ops::RangeInclusive<usize>| {
            (0..10_000).filter(|_| of.contains(&sizes.sample(rng.next_u32()))).count()
        };
        assert_eq!(share(Sizes::Fixed(96), 96..=96), 10_000);
        assert_eq!(share(Sizes::Uniform(50, 149), 50..=149), 10_000);
        assert!((800..1200).contains(&share(Sizes::Uniform(50, 149), 50..=59)));
        assert!((800..1200).contains(&share(Sizes::Weighted(vec![(64, 9), (1024, 1)]), 1024..=1024)));
    }
}
