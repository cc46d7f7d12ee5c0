//! What SockJS's clients send, and how its frames quote a text: a plain decoder of JSON reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::app::sockjs;

fuzz_target!(|content: &str| {
    // Any text is quoted so that it reads as itself, and is ASCII where browsers would change it.
    let mut frame = Vec::new();
    sockjs::message_into(&mut frame, content);
    let frame = String::from_utf8(frame).expect("UTF-8");
    let array: Vec<String> = serde_json::from_str(frame.strip_prefix('a').expect("a frame")).expect("JSON");
    assert_eq!(array, [content]);
    assert_eq!(sockjs::parse(&frame[1..]).expect("an array"), [content]);
    assert!(!frame.contains(['\u{2028}', '\u{200C}', '\u{FFFF}', '\n', '\0']));
    // What a plain decoder reads as an array of strings, or as one, is read so.
    let parsed = sockjs::parse(content);
    if let Ok(plain) = serde_json::from_str::<Vec<String>>(content) {
        assert_eq!(parsed.as_deref().map(<[_]>::len), Ok(plain.len()));
        assert!(parsed.iter().flatten().zip(&plain).all(|(one, other)| one == other));
    } else if let Ok(plain) = serde_json::from_str::<String>(content) {
        assert_eq!(parsed.as_deref(), Ok(&[plain.into()][..]));
    } else if let Ok(messages) = parsed {
        // Only half surrogate pairs make a difference.
        let is_empty = content.trim().is_empty();
        assert!(is_empty || content.contains("\\u"), "{content:?} {messages:?}");
    }
});
