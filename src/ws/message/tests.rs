//! Events that are refused and decoded again, and what a decoder holds meanwhile.

use super::*;
use crate::base::rng::Rng;
use crate::ws::{Deflater, Window, deflated_len_max};
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

const LIMITS: Limits = Limits { message_bytes_max: 100_000 };

fn masked(b0: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![b0];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=65_535 => {
            frame.push(0xFE);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0xFF);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]));
    frame
}

fn deflated(message: &[u8]) -> Vec<u8> {
    Deflater::default().deflate(Window::Full, &[message]).to_vec()
}

/// A caller that takes events one by one, and keeps what it has refused: as wire bytes or in the decoder.
#[derive(Default)]
struct Caller {
    decoder: Decoder,
    inflater: Inflater,
    /// Wire bytes that are not consumed.
    input: Vec<u8>,
    accepted: Vec<String>,
    /// The event that was refused last.
    refused: Option<String>,
    failed: Option<Fail>,
    closed: bool,
}

impl Caller {
    fn new(deflate: bool) -> Self {
        Self { decoder: Decoder::new(deflate), ..Self::default() }
    }

    /// Takes events until there is none or `accepts` returns false.
    fn run(&mut self, mut accepts: impl FnMut() -> bool) {
        let mut at = 0;
        while self.failed.is_none() && !self.closed {
            let input = &mut self.input[at..];
            let available = input.len();
            let decoded = match self.decoder.decode(input, &mut self.inflater, &LIMITS) {
                Ok(decoded) => decoded,
                Err(fail) => {
                    self.failed = Some(fail);
                    break;
                }
            };
            let (consumed, in_place) = (decoded.consumed, decoded.in_place);
            let Some(event) = decoded.event else {
                assert_eq!((consumed, in_place), (available, false), "all is used up when there is no event");
                at += consumed;
                break;
            };
            let (event, closes) = (format!("{event:?}"), matches!(event, Event::Close(_)));
            if let Some(refused) = self.refused.take() {
                assert_eq!(event, refused, "the refused event comes first");
            }
            if accepts() {
                self.accepted.push(event);
                self.closed = closes;
                at += consumed;
                assert!(!self.decoder.holds_event());
                continue;
            }
            self.refused = Some(event);
            if in_place {
                undo(&mut self.input[at..at + consumed]);
                self.decoder.keep(); // no effect
                assert!(!self.decoder.holds_event() && self.decoder.kept_bytes() == 0);
            } else {
                at += consumed;
                self.decoder.keep();
                assert!(self.decoder.holds_event());
            }
            break;
        }
        self.input.drain(..at);
        self.decoder.release();
    }

    fn result(self) -> (Vec<String>, Option<Fail>) {
        (self.accepted, self.failed)
    }
}

/// Frames of every kind, most of them valid: whole messages, fragments with control frames between them,
/// compressed ones.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = || {
        prop_oneof![
            4 => any::<String>().prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..140),
            1 => (0usize..3000).prop_map(|len| vec![b'a'; len]),
        ]
    };
    let message = (
        any::<bool>(),
        payload(),
        any::<bool>(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4),
        any::<[u8; 4]>(),
    )
        .prop_map(|(text, payload, compress, cuts, key)| {
            let payload = if compress { deflated(&payload) } else { payload };
            let mut bounds: Vec<_> =
                cuts.iter().map(|(cut, ping)| (cut.index(payload.len() + 1), *ping)).collect();
            bounds.push((payload.len(), false));
            bounds.sort_unstable();
            let mut out = Vec::new();
            let mut from = 0;
            let last = bounds.len() - 1;
            for (number, (to, ping)) in bounds.into_iter().enumerate() {
                let opcode = if text { 0x01 } else { 0x02 } | (u8::from(compress) << 6);
                let first = if number == 0 { opcode } else { 0 };
                out.extend(masked(first | (u8::from(number == last) << 7), &payload[from..to], key));
                from = to;
                if ping && number < last {
                    out.extend(masked(0x89, &payload[..to.min(20)], key));
                }
            }
            out
        });
    let control = (
        prop::sample::select(vec![0x89, 0x8A, 0x88]),
        prop::collection::vec(any::<u8>(), 0..126),
        any::<[u8; 4]>(),
    )
        .prop_map(|(b0, payload, key)| masked(b0, &payload, key));
    let anything =
        (any::<u8>(), payload(), any::<[u8; 4]>()).prop_map(|(b0, payload, key)| masked(b0, &payload, key));
    prop::collection::vec(prop_oneof![20 => message, 4 => control, 1 => anything], 0..8)
        .prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn a_refused_event_is_returned_again(
        bytes in frames(), deflate in prop::bool::weighted(0.8),
        pieces in prop::collection::vec(1usize..60, 1..20),
        answers in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut plain = Caller::new(deflate);
        plain.input.clone_from(&bytes);
        plain.run(|| true);

        let mut caller = Caller::new(deflate);
        let (mut rest, mut pieces, mut answers) = (&bytes[..], pieces.iter().cycle(), answers.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            caller.input.extend_from_slice(piece);
            rest = after;
            caller.run(|| *answers.next().unwrap());
        }
        caller.run(|| true);
        prop_assert_eq!(caller.result(), plain.result());
    }

    #[test]
    fn undo_gives_the_bytes_as_they_came(
        payload in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), Just(vec![7; 70_000])],
        key: [u8; 4], compress: bool,
    ) {
        let wire = if compress { masked(0xC2, &deflated(&payload), key) } else { masked(0x82, &payload, key) };
        let (mut input, mut inflater) = (wire.clone(), Inflater::default());
        let mut decoder = Decoder::new(true);
        let decoded = decoder.decode(&mut input, &mut inflater, &LIMITS).unwrap();
        prop_assert_eq!(decoded.event, Some(Event::Binary(&payload)));
        prop_assert!(decoded.in_place && decoded.consumed == wire.len());
        undo(&mut input);
        prop_assert_eq!(input, wire);
    }
}

/// A compressed message is kept compressed, whether it lies in the decoder or with the caller.
#[test]
fn kept_input_is_never_decompressed() {
    let compressed = deflated(&[b'a'; 50_000]);
    assert!(compressed.len() < 1000);
    let (front, back) = compressed.split_at(50);
    let fragments = [masked(0x41, front, [1; 4]), masked(0x80, back, [2; 4])].concat();
    for wire in [masked(0xC1, &compressed, [1; 4]), fragments] {
        let mut caller = Caller::new(true);
        caller.input.clone_from(&wire);
        for _ in 0..3 {
            caller.run(|| false);
            assert!(caller.decoder.kept_bytes() + caller.input.capacity() < 3000);
        }
        caller.run(|| true);
        assert_eq!(caller.accepted, [format!("{:?}", Event::Text(&"a".repeat(50_000)))]);
        assert_eq!((caller.decoder.kept_bytes(), caller.input.len()), (0, 0));
    }
}

#[test]
fn a_kept_event_needs_no_further_input_and_survives_more_of_it() {
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::default());
    let mut wire =
        [masked(0x01, b"a", [1; 4]), masked(0x89, b"ping", [2; 4]), masked(0x80, b"b", [3; 4])].concat();
    let ping_end = 7 + 10;
    let decoded = decoder.decode(&mut wire, &mut inflater, &LIMITS).unwrap();
    assert_eq!(
        (decoded.consumed, decoded.event, decoded.in_place),
        (ping_end, Some(Event::Ping(b"ping")), false)
    );
    for _ in 0..2 {
        decoder.keep();
        let decoded = decoder.decode(&mut wire[ping_end..], &mut inflater, &LIMITS).unwrap();
        assert_eq!(
            (decoded.consumed, decoded.event, decoded.in_place),
            (0, Some(Event::Ping(b"ping")), false)
        );
        decoder.keep();
        let decoded = decoder.decode(&mut [], &mut inflater, &LIMITS).unwrap();
        assert_eq!((decoded.consumed, decoded.event), (0, Some(Event::Ping(b"ping"))));
    }
    let decoded = decoder.decode(&mut wire[ping_end..], &mut inflater, &LIMITS).unwrap();
    assert_eq!((decoded.consumed, decoded.event), (7, Some(Event::Text("ab"))));
    assert!(decoder.kept_bytes() > 0);
    decoder.release();
    assert_eq!(decoder.kept_bytes(), 0);
}

/// Capacities count, not lengths; `kept_bytes` takes the structure apart, so that a new field must be counted
/// or named.
#[test]
fn kept_input_is_counted_by_capacity() {
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::default());
    decoder.decode(&mut masked(0x02, &[7; 1000], [1; 4]), &mut inflater, &LIMITS).unwrap();
    decoder.decode(&mut masked(0x00, &[7; 1], [1; 4]), &mut inflater, &LIMITS).unwrap();
    let ping = masked(0x89, &[7; 100], [1; 4]);
    decoder.decode(&mut ping.clone()[..50], &mut inflater, &LIMITS).unwrap();
    let partial = decoder.partial.as_ref().unwrap();
    let message = partial.message.as_ref().unwrap().bytes.capacity();
    assert!(message > 1001 && partial.control.capacity() >= 44);
    assert_eq!(decoder.kept_bytes(), size_of::<Partial>() + message + partial.control.capacity());
}

/// A client may send any message of the longest length, with any compressor, level and window.
#[test]
fn the_longest_message_is_taken_however_little_it_can_be_compressed() {
    let mut rng = Rng::new(7);
    for len in [0, 1, 125, 1000, 65_536] {
        let limits = Limits { message_bytes_max: len };
        assert!(deflated_bytes_max(len) >= deflated_len_max(len));
        // Literals from 144 on have the longest fixed codes.
        let message: Vec<u8> = (0..len).map(|_| 144 + rng.next_u64().to_le_bytes()[0] % 112).collect();
        for level in [0, 1, 2, 6, 9] {
            for window_bits in [9, 15] {
                let mut stream = Compress::new_with_window_bits(Compression::new(level), false, window_bits);
                let mut compressed = Vec::with_capacity(2 * len + 100);
                stream.compress_vec(&message, &mut compressed, FlushCompress::Sync).unwrap();
                compressed.truncate(compressed.len() - 4);
                let fits = compressed.len() <= deflated_bytes_max(len);
                assert!(fits, "{} of {len} bytes, level {level}, window {window_bits}", compressed.len());
                let mut input = masked(0xC2, &compressed, [1; 4]);
                let (mut decoder, mut inflater) = (Decoder::new(true), Inflater::default());
                let event = decoder.decode(&mut input, &mut inflater, &limits).unwrap().event;
                assert_eq!(event, Some(Event::Binary(&message)), "level {level}, window {window_bits}");
            }
        }
        // Stored blocks as small as zlib makes them with the least memory.
        let mut stored: Vec<u8> = message
            .chunks(127)
            .flat_map(|chunk| {
                let len = u16::try_from(chunk.len()).unwrap();
                [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), chunk].concat()
            })
            .collect();
        stored.push(0);
        let mut input = masked(0xC2, &stored, [1; 4]);
        let (mut decoder, mut inflater) = (Decoder::new(true), Inflater::default());
        let event = decoder.decode(&mut input, &mut inflater, &limits).unwrap().event;
        assert_eq!(event, Some(Event::Binary(&message)));
    }
}
