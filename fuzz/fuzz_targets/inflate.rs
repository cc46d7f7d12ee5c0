//! Inflating stops at its bound on any input, remembers nothing, and gives back what was deflated.
//!
//! The first two bytes of the input are the bound; the rest is what is inflated, and deflated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::ws::{Deflater, Inflater, Window, deflated_len_max};

fuzz_target!(|input: &[u8]| {
    let Some((&max, bytes)) = input.split_first_chunk() else { return };
    let max = usize::from(u16::from_be_bytes(max));
    let mut inflater = Inflater::default();
    let message = inflater.inflate(bytes, max).map(<[u8]>::to_vec);
    if let Ok(message) = &message {
        assert!(message.len() <= max);
        // The bound is exact: the same passes at its own length, and not below.
        assert_eq!(inflater.inflate(bytes, message.len()), Ok(&message[..]));
        if let Some(less) = message.len().checked_sub(1) {
            assert!(inflater.inflate(bytes, less).is_err());
        }
    }
    // Of the input before nothing is left, however it ended.
    assert_eq!(inflater.inflate(bytes, max).map(<[u8]>::to_vec), message);

    let mut deflater = Deflater::default();
    let (front, back) = bytes.split_at(bytes.len() / 2);
    for window in [Window::Full, Window::Small] {
        let compressed = deflater.deflate(window, &[front, back]).to_vec();
        assert!(compressed.len() <= deflated_len_max(bytes.len()), "{} of {}", compressed.len(), bytes.len());
        assert_eq!(inflater.inflate(&compressed, bytes.len()), Ok(bytes));
        // Not always the same bytes, as where blocks end depends on how much room there is; but always the
        // same message.
        let again = deflater.deflate(window, &[front, back]).to_vec();
        assert_eq!(inflater.inflate(&again, bytes.len()), Ok(bytes));
    }
});
