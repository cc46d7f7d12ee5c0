//! Units of metrics, and how their values are shown.

/// The unit of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number of items.
    Count,
    /// Items per second.
    PerSecond,
    /// A time.
    Seconds,
    /// Memory.
    Bytes,
    /// A ratio, shown as a percentage.
    Ratio,
}

impl Unit {
    /// Formats a value.
    pub fn format(self, value: f64) -> String {
        match self {
            Self::Count => grouped(value),
            Self::PerSecond if value < 100.0 => format!("{value:.1}/s"),
            Self::PerSecond => format!("{}/s", grouped(value)),
            Self::Seconds => match value {
                0.0 => "0".to_owned(),
                ..1e-6 => format!("{:.0} ns", value * 1e9),
                ..1e-5 => format!("{:.2} µs", value * 1e6),
                ..1e-3 => format!("{:.0} µs", value * 1e6),
                ..1e-2 => format!("{:.2} ms", value * 1e3),
                ..1.0 => format!("{:.1} ms", value * 1e3),
                _ => format!("{value:.2} s"),
            },
            Self::Bytes => match value.abs() {
                ..1024.0 => format!("{value:.0} B"),
                ..1_048_576.0 => format!("{:.1} KiB", value / 1024.0),
                ..1_073_741_824.0 => format!("{:.1} MiB", value / 1_048_576.0),
                _ => format!("{:.1} GiB", value / 1_073_741_824.0),
            },
            Self::Ratio => format!("{:.0} %", value * 100.0),
        }
    }
}

/// An integer with thousands separators.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &digits[..]), |digits| ("-", digits));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Converts microseconds to seconds.
#[expect(clippy::cast_precision_loss, reason = "microseconds of an hour need 32 bits")]
pub fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_formatted_by_unit() {
        let show = |unit: Unit, value| unit.format(value);
        assert_eq!(show(Unit::Count, 1_234_567.0), "1,234,567");
        assert_eq!(show(Unit::Count, -123.0), "-123");
        assert_eq!(show(Unit::PerSecond, 99.94), "99.9/s");
        assert_eq!(show(Unit::PerSecond, 4_100_000.0), "4,100,000/s");
        let times = [0.0, 4.3e-7, 1.5e-5, 0.00123, 0.0123, 12.3].map(|value| show(Unit::Seconds, value));
        assert_eq!(times, ["0", "430 ns", "15 µs", "1.23 ms", "12.3 ms", "12.30 s"]);
        assert_eq!(
            [100.0, 2048.0, 3.5 * 1_048_576.0, 2.5 * 1_073_741_824.0].map(|v| show(Unit::Bytes, v)),
            ["100 B", "2.0 KiB", "3.5 MiB", "2.5 GiB"]
        );
    }
}
