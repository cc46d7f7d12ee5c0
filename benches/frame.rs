//! The codec alone, without sockets: `cargo bench --bench frame`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use stentor::ws::{Decoder, Deflater, Inflater, Limits, Opcode, Utf8, Window, frame_into, unmask};
use stentor_testkit::KEY;

const SIZES: [(usize, &str); 5] =
    [(16, "16B"), (128, "128B"), (1024, "1KiB"), (16 * 1024, "16KiB"), (64 * 1024, "64KiB")];
const LIMITS: Limits = Limits { message_bytes_max: 1 << 20 };

/// Chat as it is: words, names and some structure.
fn text(len: usize) -> Vec<u8> {
    let line = r#"{"name":"Ann","text":"Group chat in real time, for all.  ","at":1732449600}"#;
    line.bytes().cycle().take(len).collect()
}

fn codec(criterion: &mut Criterion) {
    for (size, label) in SIZES {
        let payload = text(size);
        let frame = stentor_testkit::frame(0x81, &payload);
        let mut group = criterion.benchmark_group("frame");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("unmask/{label}"), |bencher| {
            let mut payload = payload.clone();
            bencher.iter(|| unmask(black_box(&mut payload), black_box(KEY), 1));
        });
        group.bench_function(format!("utf8/{label}"), |bencher| {
            bencher.iter(|| Utf8::default().push(black_box(&payload)));
        });
        group.bench_function(format!("decode/{label}"), |bencher| {
            let mut inflater = Inflater::default();
            bencher.iter_batched_ref(
                || frame.clone(),
                |frame| {
                    let mut decoder = Decoder::new(false);
                    let decoded = decoder.decode(black_box(frame), &mut inflater, &LIMITS);
                    decoded.map(|decoded| decoded.consumed)
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("encode/{label}"), |bencher| {
            let mut out = Vec::with_capacity(size + 16);
            bencher.iter(|| {
                out.clear();
                frame_into(&mut out, Opcode::Text, &[b"Ann: ", black_box(&payload)]);
            });
        });
        group.bench_function(format!("deflate/{label}"), |bencher| {
            let mut deflater = Deflater::default();
            bencher.iter(|| deflater.deflate(Window::Full, &[black_box(&payload)]).len());
        });
        group.bench_function(format!("inflate/{label}"), |bencher| {
            let compressed = Deflater::default().deflate(Window::Full, &[&payload]).to_vec();
            let mut inflater = Inflater::default();
            bencher.iter(|| inflater.inflate(black_box(&compressed), 1 << 20).map(<[u8]>::len));
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
