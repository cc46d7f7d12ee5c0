//! The stamp at the start of every published message, and its detection in received payloads. It is plain
//! ASCII without quotes or brackets, so that it survives encoding in JSON, HTML or a line of text.

use memchr::memmem;

/// Marks the start of a stamp; unlikely in other traffic of a room.
const MARK: [u8; 8] = *b"@swarm1:";

/// Length of an encoded stamp: the mark and five groups of eight hexadecimal digits.
pub const STAMP_BYTES: usize = 48;

/// The publisher of a message, its sequence number, and its intended send time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Distinguishes the messages of this run from those of others in the same room.
    pub run: u32,
    /// Index of the publisher, from 0.
    pub publisher: u32,
    /// Number of the message among those of its publisher, from 0.
    pub sequence: u32,
    /// The intended send time, by the machine's monotonic clock.
    pub intended_ns: u64,
}

impl Stamp {
    /// Appends a text of `bytes` bytes that begins with the stamp, at least the stamp itself.
    pub fn text_into(self, bytes: usize, out: &mut Vec<u8>) {
        let Self { run, publisher, sequence, intended_ns } = self;
        let end = out.len() + bytes.max(STAMP_BYTES);
        out.extend_from_slice(&MARK);
        let [high, low] = [intended_ns >> 32, intended_ns & 0xFFFF_FFFF];
        for group in [u64::from(run), u64::from(publisher), u64::from(sequence), high, low] {
            out.extend((0..8).rev().map(|digit| b"0123456789abcdef"[(group >> (4 * digit) & 0xF) as usize]));
        }
        out.resize(end, b'x');
    }

    fn decode(digits: &[u8; STAMP_BYTES - MARK.len()]) -> Self {
        let [run, publisher, sequence, high, low] = digits.as_chunks::<8>().0 else {
            unreachable!("forty digits are five groups of eight")
        };
        Self {
            run: hex(*run),
            publisher: hex(*publisher),
            sequence: hex(*sequence),
            intended_ns: u64::from(hex(*high)) << 32 | u64::from(hex(*low)),
        }
    }
}

/// Decodes eight hexadecimal digits at once; each step halves the number of groups. Other bytes decode to
/// some number.
fn hex(digits: [u8; 8]) -> u32 {
    let digits = u64::from_be_bytes(digits);
    // '0'–'9' have their value in the low nibble; letters, which have bit 6, are nine behind theirs.
    let nibbles = (digits & 0x0F0F_0F0F_0F0F_0F0F) + 9 * (digits >> 6 & 0x0101_0101_0101_0101);
    let bytes = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
    let words = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
    u32::try_from((words | words >> 16) & 0xFFFF_FFFF).unwrap_or(0)
}

/// Finds stamps. It remembers the offset of the last one, since the payloads of a room share it.
#[derive(Debug, Default)]
pub struct Finder {
    usual: usize,
}

impl Finder {
    /// Calls `found` with each stamp in `payload`, which may contain several messages. True if there was one.
    pub fn each(&mut self, payload: &[u8], mut found: impl FnMut(Stamp)) -> bool {
        let mut any = false;
        let mut rest = payload;
        while rest.len() >= STAMP_BYTES {
            let Some(at) = self.find(rest) else { break };
            let Some((digits, behind)) = rest[at + MARK.len()..].split_first_chunk() else { break };
            found(Stamp::decode(digits));
            any = true;
            rest = behind;
        }
        any
    }

    fn find(&mut self, payload: &[u8]) -> Option<usize> {
        if payload.get(self.usual..).is_some_and(|rest| rest.starts_with(&MARK)) {
            return Some(self.usual);
        }
        let at = memmem::find(payload, &MARK)?;
        self.usual = at;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamps(payload: &[u8]) -> Vec<Stamp> {
        let mut found = Vec::new();
        assert_eq!(Finder::default().each(payload, |stamp| found.push(stamp)), !found.is_empty());
        found
    }

    proptest! {
        #[test]
        fn a_stamp_is_found_at_any_offset(
            run: u32, publisher: u32, sequence: u32, intended_ns: u64, size in 0..200_usize, before in "[^@]{0,40}",
        ) {
            let stamp = Stamp { run, publisher, sequence, intended_ns };
            let mut payload = before.into_bytes();
            let start = payload.len();
            stamp.text_into(size, &mut payload);
            prop_assert_eq!(payload.len() - start, size.max(STAMP_BYTES));
            prop_assert_eq!(stamps(&payload), vec![stamp]);
            let twice = [&payload[..], b"\n", &payload].concat();
            prop_assert_eq!(stamps(&twice), vec![stamp, stamp]);
            prop_assert_eq!(stamps(&payload[..start + STAMP_BYTES - 1]), vec![]);
        }
    }
}
