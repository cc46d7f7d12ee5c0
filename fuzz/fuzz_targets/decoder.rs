//! Frames: any split gives the whole's events and the whole's failure.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::ws::{Decoded, Decoder, Fail, Inflater, Limits};

const LIMITS: Limits = Limits { message_bytes_max: 10_000 };

fn decode(bytes: &[u8], deflate: bool, step: usize) -> (Vec<String>, Option<Fail>) {
    let (mut decoder, mut inflater, mut events) = (Decoder::new(deflate), Inflater::default(), Vec::new());
    let mut bytes = bytes.to_vec();
    for piece in bytes.chunks_mut(step) {
        let mut rest = piece;
        loop {
            match decoder.decode(rest, &mut inflater, &LIMITS) {
                Ok(Decoded { event: None, .. }) => break,
                Ok(Decoded { event: Some(event), consumed }) => {
                    events.push(format!("{event:?}"));
                    rest = &mut rest[consumed..];
                }
                Err(fail) => return (events, Some(fail)),
            }
        }
        assert!(decoder.kept_bytes() < 50_000);
    }
    (events, None)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (deflate, step, bytes) = input;
    if !bytes.is_empty() {
        assert_eq!(decode(bytes, deflate, 1 + usize::from(step)), decode(bytes, deflate, bytes.len()));
    }
});
