//! Values as people write them: `10s`, `2000/s`, `48..500`. The same on the command line and in files.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::stamp::STAMP_BYTES;

/// What a file may hold where a text is wanted: `rate = 100` is as good as `rate = "100/s"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Loose {
    /// 100
    Integer(i64),
    /// 0.5
    Number(f64),
    /// "100/s"
    Text(String),
}

impl Display for Loose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Reads and writes a type as the text that people write.
macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<Loose> for $type {
            type Error = String;

            fn try_from(loose: Loose) -> Result<Self, String> {
                loose.to_string().parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

/// A length of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Loose", into = "String")]
pub struct Span(pub Duration);

as_text!(Span);

impl Span {
    /// So many seconds.
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

/// How often in a second.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Loose", into = "String")]
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

/// How long clients stay away that are cut: `5s`, or until the others have said so many messages: `100`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Loose", into = "String")]
pub enum Away {
    /// So long.
    Time(Span),
    /// So many messages.
    Messages(u32),
}

as_text!(Away);

impl Default for Away {
    fn default() -> Self {
        Self::Messages(0)
    }
}

impl FromStr for Away {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self::Messages(count));
        }
        let wrong = |_| "write it as 5s, or as 100 for so many messages".to_owned();
        text.parse().map(Self::Time).map_err(wrong)
    }
}

impl Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(span) => span.fmt(f),
            Self::Messages(count) => count.fmt(f),
        }
    }
}

/// How many bytes messages have: `96`, evenly between two bounds `48..500`, or some more often than others `64*9,1024*1`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Loose", into = "String")]
pub enum Sizes {
    /// All the same.
    Fixed(u32),
    /// From, to.
    Even(u32, u32),
    /// Size and weight.
    Weighted(Vec<(u32, u32)>),
}

as_text!(Sizes);

impl Sizes {
    /// The size that `random`, evenly drawn, stands for.
    pub fn pick(&self, random: u32) -> usize {
        let below = |bound: u64| (u64::from(random) * bound) >> 32;
        let size = match self {
            Self::Fixed(size) => u64::from(*size),
            Self::Even(from, to) => u64::from(*from) + below(u64::from(to - from) + 1),
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
                Err(format!("a message has at least {STAMP_BYTES} bytes: it carries a stamp"))
            }
            size if size > 1 << 24 => Err("a message has at most 16 MiB".to_owned()),
            size => Ok(size),
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (size(from)?, size(to)?);
            return if from <= to { Ok(Self::Even(from, to)) } else { Err(format!("{from} is above {to}")) };
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
            Self::Even(from, to) => write!(f, "{from}..{to}"),
            Self::Weighted(choices) => {
                let words: Vec<_> = choices.iter().map(|(size, weight)| format!("{size}*{weight}")).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

/// Numbers that look random and come again with the same seed (xorshift).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Different seeds, different numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next one.
    pub fn roll(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    /// Evenly in 0..`bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        u32::try_from((u64::from(self.roll()) * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!("1m30s".parse(), Ok(Span::seconds(90)));
        assert_eq!("2000/s".parse(), Ok(Rate(2000.0)));
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        assert_eq!("96".parse(), Ok(Sizes::Fixed(96)));
        assert_eq!("48..500".parse(), Ok(Sizes::Even(48, 500)));
        assert_eq!("64*9,1024".parse(), Ok(Sizes::Weighted(vec![(64, 9), (1024, 1)])));
        for wrong in ["47", "500..48", "64*0", "x", "", "99999999"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
        assert!("-1".parse::<Rate>().is_err() && "nan".parse::<Rate>().is_err());
        assert!("10".parse::<Span>().is_err());
    }

    #[test]
    fn sizes_come_as_often_as_they_should() {
        let mut dice = Dice::new(1);
        let mut share = |sizes: Sizes, of: std::ops::RangeInclusive<usize>| {
            (0..10_000).filter(|_| of.contains(&sizes.pick(dice.roll()))).count()
        };
        assert_eq!(share(Sizes::Fixed(96), 96..=96), 10_000);
        assert_eq!(share(Sizes::Even(50, 149), 50..=149), 10_000);
        assert!((800..1200).contains(&share(Sizes::Even(50, 149), 50..=59)));
        assert!((800..1200).contains(&share(Sizes::Weighted(vec![(64, 9), (1024, 1)]), 1024..=1024)));
    }
}
