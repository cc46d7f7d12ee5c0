//! What one listener has heard of one speaker: enough to count lost, doubled and late messages exactly.

/// How far back a late message is told from a doubled one.
const WINDOW: u32 = 64;

/// What was wrong with what was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Said while the listener was there, and never heard.
    pub lost: u64,
    /// Heard a second time.
    pub duplicated: u64,
    /// Heard after a later one.
    pub reordered: u64,
}

/// 24 bytes for each listener and speaker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    /// The sequence number that should come next.
    next: u32,
    /// Numbers below `next` that were passed over and have not come: bit n stands for `next - 1 - n`.
    missing: u64,
    /// Those that are too old to come late any more.
    lost: u32,
}

impl Ledger {
    /// A message was heard.
    pub fn heard(&mut self, sequence: u32, faults: &mut Faults) {
        if sequence >= self.next {
            let passed = sequence - self.next;
            self.shift(passed + 1);
            // Bit 0 is the one that came; the `passed` ones behind it are missing.
            let passed_bits = if passed >= WINDOW - 1 { u64::MAX } else { (1 << (passed + 1)) - 1 };
            self.missing |= passed_bits & !1;
            self.lost += passed.saturating_sub(WINDOW - 1);
            self.next = sequence + 1;
            return;
        }
        let age = self.next - 1 - sequence;
        let bit = if age < WINDOW { 1_u64 << age } else { 0 };
        if self.missing & bit == 0 {
            faults.duplicated += 1;
        } else {
            self.missing &= !bit;
            faults.reordered += 1;
        }
    }

    /// Whether all of `said` messages were heard.
    pub fn is_complete(self, said: u32) -> bool {
        self.next >= said && self.missing == 0 && self.lost == 0
    }

    /// The run is over, and `said` messages were said.
    pub fn close(self, said: u32, faults: &mut Faults) {
        faults.lost += u64::from(self.missing.count_ones())
            + u64::from(self.lost)
            + u64::from(said - self.next.min(said));
    }

    fn shift(&mut self, by: u32) {
        if by >= WINDOW {
            self.lost += self.missing.count_ones();
            self.missing = 0;
        } else {
            self.lost += (self.missing >> (WINDOW - by)).count_ones();
            self.missing <<= by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(heard: &[u32], said: u32, (lost, duplicated, reordered): (u64, u64, u64)) {
        let (mut ledger, mut faults) = (Ledger::default(), Faults::default());
        for &sequence in heard {
            ledger.heard(sequence, &mut faults);
        }
        ledger.close(said, &mut faults);
        assert_eq!(faults, Faults { lost, duplicated, reordered }, "{heard:?} of {said}");
    }

    #[test]
    fn each_fault_is_counted_once() {
        check(&[0, 1, 2], 3, (0, 0, 0));
        check(&[], 3, (3, 0, 0));
        check(&[0, 2], 3, (1, 0, 0));
        check(&[0, 1], 3, (1, 0, 0));
        check(&[0, 0, 1, 1, 2], 3, (0, 2, 0));
        check(&[1, 0, 2], 3, (0, 0, 1));
        check(&[2, 0, 1, 0], 3, (0, 1, 2));
        check(&[200], 201, (200, 0, 0));
        check(&[0, 200, 199, 150], 201, (197, 0, 2));
        check(&[0, 2, 100, 170], 171, (167, 0, 0));
    }
}
