//! permessage-deflate's payloads (RFC 7692 §7.2). No context is kept from one message to the next, in either
//! direction: so one compressed frame serves all members of a room, and one inflater all connections of a
//! shard.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Fail, LimitExceeded, ProtocolError};

/// What the sender leaves out and the receiver puts back: an empty stored block (§7.2.1, §7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Between messages no more than this is kept of the buffers.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// The window of our compressor: what the client must remember of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// 15 bits, 32 KiB.
    Full,
    /// 9 bits, 512 bytes: serves every client that requested 9 to 14.
    Small,
}

impl Window {
    const fn bits(self) -> u8 {
        match self {
            Self::Full => 15,
            Self::Small => 9,
        }
    }
}

/// Bytes of the longest payload that [`Deflater`] makes of a message of `message_len` bytes, with either
/// window.
///
/// At its fastest level, the one used here, zlib-rs writes one block with fixed codes up to a flush (RFC 1951
/// §3.2.6) and never a stored one: 3 bits of header, at most 9 bits for each byte (a literal from 144 on; a
/// match is of four bytes at least, and costs 31 bits at most), and 7 bits for the end of the block. The
/// flush begins an empty stored block, 3 bits and what is missing to a whole byte; the rest of that block is
/// left out. That is ⌈(9n + 13) / 8⌉ bytes. When the flush ends exactly where the room in the output does it
/// is called again, and writes a second empty block: 5 bytes. The window bounds distances, and changes
/// nothing of this.
pub const fn deflated_len_max(message_len: usize) -> usize {
    message_len.saturating_add(message_len.saturating_add(13).div_ceil(8)).saturating_add(5)
}

/// Inflates one message after the other. Owns nothing before the first.
#[derive(Debug, Default)]
pub struct Inflater {
    stream: Option<Box<Decompress>>,
    out: Vec<u8>,
    /// Bytes produced since the last check.
    inflated: usize,
}

impl Inflater {
    /// How many bytes have come out since the last call.
    pub const fn take_inflated(&mut self) -> usize {
        std::mem::replace(&mut self.inflated, 0)
    }

    /// Bytes that it keeps for its next message.
    pub fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// The message behind `compressed`, which is all of it without the tail.
    ///
    /// # Errors
    /// It is not DEFLATE, or holds more than `bytes_max` bytes: inflating stops there.
    pub fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<&[u8], Fail> {
        let stream = self.stream.get_or_insert_with(|| Box::new(Decompress::new(false)));
        stream.reset(false);
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES_MAX);
        let mut pieces = [compressed, &TAIL].into_iter();
        let outcome = pieces.try_for_each(|piece| inflate_piece(stream, piece, &mut self.out, bytes_max));
        self.inflated += self.out.len();
        outcome.map(|()| &self.out[..])
    }
}

fn inflate_piece(
    stream: &mut Decompress,
    mut piece: &[u8],
    out: &mut Vec<u8>,
    max: usize,
) -> Result<(), Fail> {
    loop {
        if out.len() == out.capacity() {
            out.reserve((out.len() / 2).clamp(1024, 1 << 20));
        }
        let (read, written) = (stream.total_in(), stream.total_out());
        let status = stream
            .decompress_vec(piece, out, FlushDecompress::Sync)
            .map_err(|_| ProtocolError::InvalidDeflate)?;
        if out.len() > max {
            return Err(LimitExceeded::MessageTooBig.into());
        }
        let consumed = usize::try_from(stream.total_in() - read).unwrap_or(piece.len());
        piece = &piece[consumed..];
        let stuck = consumed == 0 && stream.total_out() == written;
        match status {
            // A block with BFINAL ends the stream, not the message: what follows begins a new one (§7.2.3.5).
            Status::StreamEnd => stream.reset(false),
            Status::Ok | Status::BufError if stuck && out.len() < out.capacity() => {
                return if piece.is_empty() { Ok(()) } else { Err(ProtocolError::InvalidDeflate.into()) };
            }
            Status::Ok | Status::BufError => {}
        }
        if piece.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

/// Compresses one message after the other. Owns nothing before the first.
#[derive(Debug, Default)]
pub struct Deflater {
    full: Option<Box<Compress>>,
    small: Option<Box<Compress>>,
    out: Vec<u8>,
}

impl Deflater {
    /// The payload of a compressed message: `parts`, one behind the other, without the tail.
    pub fn deflate(&mut self, window: Window, parts: &[&[u8]]) -> &[u8] {
        let stream = match window {
            Window::Full => &mut self.full,
            Window::Small => &mut self.small,
        };
        let stream = stream.get_or_insert_with(|| {
            // The fastest level: on chat it gives up few percent of size for half of the time.
            Box::new(Compress::new_with_window_bits(Compression::fast(), false, window.bits()))
        });
        stream.reset();
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES_MAX);
        for part in parts {
            deflate_piece(stream, part, &mut self.out, FlushCompress::None);
        }
        deflate_piece(stream, &[], &mut self.out, FlushCompress::Sync);
        if self.out.ends_with(&TAIL) {
            self.out.truncate(self.out.len() - TAIL.len());
        }
        if self.out.is_empty() {
            self.out.push(0); // an empty message is one empty stored block's first byte (§7.2.3.6)
        }
        &self.out
    }
}

fn deflate_piece(stream: &mut Compress, mut piece: &[u8], out: &mut Vec<u8>, flush: FlushCompress) {
    loop {
        out.reserve(piece.len() / 2 + 64);
        let before = stream.total_in();
        // Without Finish and with room in `out` there is nothing that can fail.
        let _ = stream.compress_vec(piece, out, flush);
        let consumed = usize::try_from(stream.total_in() - before).unwrap_or(piece.len());
        piece = &piece[consumed..];
        // Room that is left over means that everything is out (zlib's rule for a flush).
        if piece.is_empty() && out.len() < out.capacity() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn words(len: usize) -> Vec<u8> {
        let mut rng = Rng::new(len as u64);
        (0..len).map(|_| b"the herald "[usize::try_from(rng.below(11)).unwrap()]).collect()
    }

    #[test]
    fn compression_round_trips() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for window in [Window::Full, Window::Small] {
            for len in [0, 1, 5, 127, 128, 1000, 65_535, 300_000] {
                let message = words(len);
                let (front, back) = message.split_at(len / 3);
                let compressed = deflater.deflate(window, &[front, back]).to_vec();
                assert_eq!(inflater.inflate(&compressed, len).as_deref(), Ok(&message[..]));
                assert!(!compressed.ends_with(&TAIL));
            }
        }
    }

    #[test]
    fn a_small_window_is_kept_to() {
        let mut deflater = Deflater::default();
        let message = [words(600), words(600)].concat();
        let compressed = deflater.deflate(Window::Small, &[&message]).to_vec();
        let mut narrow = Decompress::new_with_window_bits(false, 9);
        let mut out = Vec::with_capacity(4096);
        narrow.decompress_vec(&compressed, &mut out, FlushDecompress::Sync).unwrap();
        assert_eq!(out, message);
    }

    /// Noise of any bytes, and of those whose fixed codes have 9 bits, which nothing shortens.
    #[test]
    fn incompressible_data_grows_within_the_bound() {
        let mut rng = Rng::new(1);
        let mut deflater = Deflater::default();
        let mut slack_min = usize::MAX;
        let lengths = (0..600).chain([1303, 4095, 4096, 8191, 16_384, 65_535, 65_536, 100_000]);
        for len in lengths.flat_map(|len| [len; 4]) {
            let noise: Vec<u8> = (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            let worst: Vec<u8> = noise.iter().map(|byte| 144 + byte % 112).collect();
            for message in [noise, worst] {
                let (front, back) = message.split_at(usize::try_from(rng.below(len as u64 + 1)).unwrap());
                for window in [Window::Full, Window::Small] {
                    let parts: [&[&[u8]]; 2] = [&[&message], &[front, back]];
                    for parts in parts {
                        let found = deflater.deflate(window, parts).len();
                        let max = deflated_len_max(len);
                        assert!(found <= max, "{found} > {max} bytes of {len}, {window:?}");
                        slack_min = slack_min.min(max - found);
                    }
                }
            }
        }
        assert!(slack_min <= 5, "the bound is {slack_min} bytes above all that was found");
    }

    #[test]
    fn inflating_stops_at_the_bound() {
        let bomb = Deflater::default().deflate(Window::Full, &[&vec![0; 10_000_000]]).to_vec();
        assert!(bomb.len() < 100_000);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&bomb, 65_536), Err(LimitExceeded::MessageTooBig.into()));
        assert!(inflater.out.capacity() < 200_000, "grew to {}", inflater.out.capacity());
    }

    #[test]
    fn the_examples_of_rfc_7692() {
        let hello: [&[u8]; 4] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], // §7.2.3.1
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], // §7.2.3.3
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], // §7.2.3.4
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], // §7.2.3.5
        ];
        let mut inflater = Inflater::default();
        for payload in hello {
            assert_eq!(inflater.inflate(payload, 5), Ok(&b"Hello"[..]), "{payload:x?}");
        }
        assert_eq!(inflater.inflate(&[0x00], 0), Ok(&b""[..])); // §7.2.3.6
    }

    #[test]
    fn invalid_deflate_data_is_refused() {
        let mut inflater = Inflater::default();
        for payload in [&[0xff, 0xff][..], &[0x07], b"\x00\x05\x00\x00\x00hello"] {
            assert_eq!(
                inflater.inflate(payload, 1000),
                Err(ProtocolError::InvalidDeflate.into()),
                "{payload:x?}"
            );
        }
    }
}
