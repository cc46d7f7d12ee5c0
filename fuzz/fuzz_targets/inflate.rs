//! Inflating stops at its bound whatever comes, and gives back what was deflated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::ws::{Deflater, Inflater, Window};

fuzz_target!(|bytes: &[u8]| {
    let mut inflater = Inflater::default();
    if let Ok(message) = inflater.inflate(bytes, 5000) {
        assert!(message.len() <= 5000);
    }
    let mut deflater = Deflater::default();
    for window in [Window::Full, Window::Small] {
        let compressed = deflater.deflate(window, &[bytes]).to_vec();
        assert_eq!(inflater.inflate(&compressed, bytes.len()).ok(), Some(bytes));
    }
});
