//! WebSocket as a client speaks and hears it (RFC 6455): written from the other side, and stricter than a browser.

use crate::ws::{Deflater, Window};

/// The masking key of every frame. One is as good as another to the server, and this one shows in a dump.
const KEY: [u8; 4] = [0x11, 0x22, 0x44, 0x88];

/// An opening handshake.
pub fn upgrade_request(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// One masked frame, with the first byte as given.
pub fn frame_into(out: &mut Vec<u8>, b0: u8, payload: &[u8]) {
    head_into(out, b0, payload.len() as u64);
    out.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// The header of a masked frame.
pub fn head_into(out: &mut Vec<u8>, b0: u8, payload_len: u64) {
    out.push(b0);
    if let Ok(short @ 0..=125) = u8::try_from(payload_len) {
        out.push(0x80 | short);
    } else if let Ok(medium) = u16::try_from(payload_len) {
        out.push(0x80 | 126);
        out.extend(medium.to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend(payload_len.to_be_bytes());
    }
    out.extend(KEY);
}

/// One masked frame.
pub fn frame(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame_into(&mut out, b0, payload);
    out
}

/// A text message: in `fragments` frames, or compressed in one.
pub fn text_into(out: &mut Vec<u8>, text: &str, fragments: usize, deflater: Option<&mut Deflater>) {
    if let Some(deflater) = deflater {
        return frame_into(out, 0xC1, deflater.deflate(Window::Full, &[text.as_bytes()]));
    }
    let pieces: Vec<_> = text.as_bytes().chunks(text.len().div_ceil(fragments.max(1)).max(1)).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let fin = u8::from(index + 1 == pieces.len()) << 7;
        frame_into(out, fin | u8::from(index == 0), piece);
    }
}

/// A frame of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: u8,
    /// Whether it is compressed.
    pub compressed: bool,
    /// What it carries.
    pub payload: &'a [u8],
    /// Bytes of the whole.
    pub len: usize,
}

/// The frame at the front of `bytes`, once all of it is there.
///
/// # Panics
/// When a server must not send it: fragments, masked, with unknown bits, with a length that is not in its shortest form.
pub fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let [b0, b1, rest @ ..] = bytes else { return None };
    assert_eq!(b1 & 0x80, 0, "a server does not mask");
    assert_eq!(b0 & 0xB0, 0x80, "a frame in one piece, without reserved bits: {b0:#x}");
    let (payload_len, rest) = match (b1, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
        }
        (126 | 127, _) => return None,
        (short, rest) => (u64::from(*short), rest),
    };
    let least = [0, 126, 65_536][usize::from(*b1 >= 126) + usize::from(*b1 == 127)];
    assert!(payload_len >= least, "a length in its shortest form");
    let payload_len = usize::try_from(payload_len).ok()?;
    let payload = rest.get(..payload_len)?;
    let opcode = b0 & 0x0F;
    assert!(matches!(opcode, 1 | 2 | 8..=10), "an opcode that a server may send: {opcode}");
    assert!(opcode < 8 || payload_len <= 125, "a short control frame");
    let compressed = b0 & 0x40 != 0;
    assert!(!compressed || opcode < 8, "control frames are not compressed");
    Some(Frame { opcode, compressed, payload, len: bytes.len() - rest.len() + payload_len })
}

/// The head of an HTTP response at the front of `bytes`, once all of it is there: its status, and its bytes.
///
/// # Panics
/// When it is none.
pub fn parse_response(bytes: &[u8]) -> Option<(u16, usize)> {
    let len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Some((status.expect("a status line"), len))
}
