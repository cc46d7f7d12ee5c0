//! The fan-out of one shard in memory, without sockets: what a member costs in a sweep, and what a
//! publication costs. `cargo bench --bench fanout`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;
use stentor::base::hash::Seed;
use stentor::base::{ConnKey, Time};
use stentor::metrics::Registry;
use stentor::shard::{ConnectionLimits, Mesh, Options, Shard};
use stentor_testkit::{frame, upgrade_request};

const MEMBERS: [usize; 3] = [100, 10_000, 100_000];

fn shard() -> Shard {
    let options =
        Options { ping_interval: Duration::ZERO, session_messages_per_second_max: 0, ..Options::default() };
    Shard::fleet(
        Mesh::build(1, &Seed::new(1)),
        &ConnectionLimits::new(&Seed::new(1)),
        &Arc::new(options),
        &Arc::new(Registry::new(1)),
        || 1,
    )
    .remove(0)
}

/// A room with `members` in it; the first one's key.
fn room(members: usize) -> (Shard, ConnKey) {
    let mut shard = shard();
    let mut keys = Vec::new();
    for index in 0..members {
        shard.begin_turn(Time::ZERO);
        let admission = shard.admission();
        let key = shard.opened(admission, None);
        let request = upgrade_request(&format!("/ws/member-{index}"), "");
        shard.received(key, &mut request.into_bytes());
        shard.run();
        sweep(&mut shard);
        keys.push(key);
    }
    (shard, keys[0])
}

/// Every write succeeds, as if the kernel cost nothing.
fn sweep(shard: &mut Shard) -> usize {
    let mut writes = 0;
    loop {
        shard.begin_turn(Time::ZERO);
        while let Some(write) = shard.poll_write() {
            let len = write.contiguous().map_or(0, <[u8]>::len);
            let write_id = write.write_id;
            shard.wrote(write_id, len, len);
            writes += 1;
        }
        if !shard.has_work() {
            return writes;
        }
    }
}

fn frames(count: usize) -> Vec<u8> {
    frame(0x81, &[b'x'; 96]).repeat(count)
}

fn fanout(criterion: &mut Criterion) {
    for members in MEMBERS {
        let (mut shard, publisher) = room(members);
        let mut group = criterion.benchmark_group("fanout");
        // The cost of a member in a sweep is the inverse of the throughput.
        group.throughput(Throughput::Elements(members as u64));
        for batch in [1, 20] {
            let frames = frames(batch);
            group.bench_function(format!("sweep-of-{batch}/{members}"), |bencher| {
                bencher.iter(|| {
                    shard.begin_turn(Time::ZERO);
                    shard.received(publisher, &mut frames.clone());
                    shard.run();
                    assert_eq!(sweep(&mut shard), members);
                });
            });
        }
        group.throughput(Throughput::Elements(100));
        let hundred = frames(100);
        group.bench_function(format!("publish/{members}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let mut hundred = hundred.clone();
                    shard.begin_turn(Time::ZERO);
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the sweep between two rounds is not measured"
                    )]
                    let begun = std::time::Instant::now();
                    shard.received(publisher, &mut hundred);
                    shard.run();
                    spent += begun.elapsed();
                    sweep(&mut shard);
                }
                spent
            });
        });
        group.finish();
    }
}

criterion_group!(benches, fanout);
criterion_main!(benches);
