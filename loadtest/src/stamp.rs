//! The stamp that every message carries, and how it is found again in what arrives.

/// Marks the beginning of a stamp. Unlikely in anything else that a room says.
const MARK: &[u8] = b"@swarm:";
const DIGITS: usize = 8 + 4 + 8 + 16;

/// Bytes of a stamp in a text.
pub const STAMP_BYTES: usize = MARK.len() + DIGITS;

/// Who said it, which of its messages it is, and when it was meant to be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Tells this run's messages from those of others in the same room.
    pub run: u32,
    /// 0, 1, 2 …
    pub speaker: u16,
    /// 0, 1, 2 … for each speaker.
    pub sequence: u32,
    /// Nanoseconds since the run began.
    pub intended_ns: u64,
}

impl Stamp {
    /// A text of `bytes` bytes that begins with the stamp, or of as many as it needs.
    pub fn text(self, bytes: usize) -> String {
        let Self { run, speaker, sequence, intended_ns } = self;
        let mark = "@swarm:";
        let text = format!("{mark}{run:08x}{speaker:04x}{sequence:08x}{intended_ns:016x}");
        format!("{text:x<bytes$}")
    }

    /// The stamp in `payload`, wherever a server has put the text.
    pub fn find(payload: &[u8]) -> Option<Self> {
        let at = memchr::memmem::find(payload, MARK)?;
        let digits: &[u8; DIGITS] = payload[at + MARK.len()..].first_chunk()?;
        let hex = |from: usize, to: usize| {
            digits[from..to].iter().try_fold(0_u64, |value, digit| {
                Some(value << 4 | u64::from(char::from(*digit).to_digit(16)?))
            })
        };
        Some(Self {
            run: u32::try_from(hex(0, 8)?).ok()?,
            speaker: u16::try_from(hex(8, 12)?).ok()?,
            sequence: u32::try_from(hex(12, 20)?).ok()?,
            intended_ns: hex(20, 36)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_wherever_it_stands() {
        let stamp = Stamp { run: 7, speaker: 3, sequence: 99, intended_ns: 123_456_789 };
        let text = stamp.text(100);
        assert_eq!(text.len(), 100);
        assert_eq!(Stamp::find(text.as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(format!("{{\"data\":\"{text}\"}}").as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(&text.as_bytes()[..STAMP_BYTES - 1]), None);
        assert_eq!(Stamp::find(b"@swarm:zz"), None);
    }
}
