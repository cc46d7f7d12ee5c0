//! UTF-8 (RFC 3629) checked as it arrives, in any pieces: a fault is found at the first byte that cannot be
//! right.

use super::ProtocolError;

/// An incomplete check. Keeps at most three bytes: the beginning of a character.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    carry: [u8; 4],
    carried: usize,
}

impl Utf8 {
    /// Checks the next piece.
    ///
    /// # Errors
    /// No continuation could make this UTF-8.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while self.carried > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            self.carry[self.carried] = byte;
            self.carried += 1;
            bytes = rest;
            match std::str::from_utf8(&self.carry[..self.carried]) {
                Ok(_) => self.carried = 0,
                Err(error) if error.error_len().is_some() => return Err(ProtocolError::InvalidUtf8),
                Err(_) => {}
            }
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(ProtocolError::InvalidUtf8),
            Err(error) => {
                let begun = &bytes[error.valid_up_to()..];
                self.carry[..begun.len()].copy_from_slice(begun);
                self.carried = begun.len();
                Ok(())
            }
        }
    }

    /// The text ends here.
    ///
    /// # Errors
    /// In the middle of a character.
    pub const fn finish(self) -> Result<(), ProtocolError> {
        if self.carried == 0 { Ok(()) } else { Err(ProtocolError::InvalidUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<(), ProtocolError> {
        let mut utf8 = Utf8::default();
        let mut at = 0;
        for &cut in cuts {
            let end = (at + cut).min(bytes.len());
            utf8.push(&bytes[at..end])?;
            at = end;
        }
        utf8.push(&bytes[at..])?;
        utf8.finish()
    }

    #[test]
    fn faults_are_found_at_once() {
        for (valid, fault) in
            [(&b"ok\xed"[..], 0xa0), (b"\xf4", 0x90), (b"\xe2\x82", b'x'), (b"", 0xc0), (b"\xc3", 0xc3)]
        {
            let mut utf8 = Utf8::default();
            assert_eq!(utf8.push(valid), Ok(()));
            assert_eq!(utf8.push(&[fault]), Err(ProtocolError::InvalidUtf8), "{valid:x?} {fault:x}");
        }
    }

    proptest! {
        #[test]
        fn pieces_equal_the_whole(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                any::<String>().prop_map(String::into_bytes),
                (any::<String>(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
                    let mut bytes = text.into_bytes();
                    let at = at.index(bytes.len() + 1);
                    bytes.insert(at, byte);
                    bytes
                }),
            ],
            cuts in prop::collection::vec(0usize..5, 0..30),
        ) {
            prop_assert_eq!(in_pieces(&bytes, &cuts).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
