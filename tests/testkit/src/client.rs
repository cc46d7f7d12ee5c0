//! What a client sends. Nothing is checked: a test must be able to send every error there is.

/// The masking key where the caller names none. It is not zero, so that a server that forgets to unmask
/// fails, and it is easy to see in a dump.
pub const KEY: [u8; 4] = [0x11, 0x22, 0x44, 0x88];

/// An opening handshake (RFC 6455 §4.1) with its key from §1.3. `fields` are further header fields, each with
/// its line end.
pub fn upgrade_request(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// One masked frame. `first_byte` has FIN, the reserved bits and the opcode.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    frame_with_key(first_byte, payload, KEY)
}

/// One frame, masked with this key.
pub fn frame_with_key(first_byte: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    masked_into(&mut out, first_byte, payload, key);
    out
}

/// Appends one masked frame.
pub fn frame_into(out: &mut Vec<u8>, first_byte: u8, payload: &[u8]) {
    masked_into(out, first_byte, payload, KEY);
}

fn masked_into(out: &mut Vec<u8>, first_byte: u8, payload: &[u8], key: [u8; 4]) {
    header_into(out, first_byte, payload.len() as u64, Some(key));
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends the header of a masked frame, of a payload that may never follow.
pub fn head_into(out: &mut Vec<u8>, first_byte: u8, payload_len: u64) {
    header_into(out, first_byte, payload_len, Some(KEY));
}

/// Appends a frame's header, with the payload's length in its shortest form (§5.2). Without a key it is a
/// server's.
pub fn header_into(out: &mut Vec<u8>, first_byte: u8, payload_len: u64, key: Option<[u8; 4]>) {
    let masked = if key.is_some() { 0x80 } else { 0 };
    out.push(first_byte);
    if let Ok(short @ 0..=125) = u8::try_from(payload_len) {
        out.push(masked | short);
    } else if let Ok(medium) = u16::try_from(payload_len) {
        out.push(masked | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&payload_len.to_be_bytes());
    }
    out.extend(key.iter().flatten());
}

/// A text message in one frame.
pub fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// A Close with this status code and no reason.
pub fn close(code: u16) -> Vec<u8> {
    frame(0x88, &code.to_be_bytes())
}

/// Appends a message as `count` masked frames of about the same length, or fewer when it is shorter than that
/// (§5.4).
pub fn fragments_into(out: &mut Vec<u8>, opcode: u8, payload: &[u8], count: usize) {
    let len = payload.len().div_ceil(count.max(1)).max(1);
    let (mut rest, mut opcode) = (payload, opcode);
    loop {
        let (fragment, after) = rest.split_at(len.min(rest.len()));
        let fin = if after.is_empty() { 0x80 } else { 0 };
        frame_into(out, fin | opcode, fragment);
        if after.is_empty() {
            return;
        }
        (rest, opcode) = (after, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{self, Cursor, Read, Write};
    use tungstenite::protocol::Role;
    use tungstenite::{Message, WebSocket};

    struct Sent(Cursor<Vec<u8>>);

    impl Read for Sent {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What tungstenite's server reads.
    fn read(bytes: Vec<u8>) -> Message {
        WebSocket::from_raw_socket(Sent(Cursor::new(bytes)), Role::Server, None).read().unwrap()
    }

    proptest! {
        #[test]
        fn tungstenite_reads_our_frames(payload in prop::collection::vec(any::<u8>(), 0..70_000), key: [u8; 4], count in 1usize..5) {
            prop_assert_eq!(read(frame_with_key(0x82, &payload, key)), Message::binary(payload.clone()));
            let mut fragments = Vec::new();
            fragments_into(&mut fragments, 2, &payload, count);
            prop_assert_eq!(read(fragments), Message::binary(payload));
        }
    }

    #[test]
    fn the_rfcs_example() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame_with_key(0x81, b"Hello", [0x37, 0xfa, 0x21, 0x3d]), hello);
        assert_eq!(read(text("Hello")), Message::text("Hello"));
        assert!(matches!(read(close(1001)), Message::Close(Some(frame)) if u16::from(frame.code) == 1001));
    }

    #[test]
    fn an_empty_message_is_one_frame() {
        let mut bytes = Vec::new();
        fragments_into(&mut bytes, 1, b"", 3);
        assert_eq!(bytes, frame(0x81, b""));
    }
}
