//! A whole shard under a sequence of things that a driver may tell it: it never panics, writes only to open connections, and
//! ends every one of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;
use stentor::base::hash::Seed;
use stentor::base::{ConnKey, Time};
use stentor::chat::{RoomOptions, RoomRules, SlowMember};
use stentor::http::HeadLimits;
use stentor::metrics::Registry;
use stentor::shard::mesh::Mesh;
use stentor::shard::{Admission, Close, HowToClose, Options, SLICES_MAX, Shard};
use stentor::ws::Limits;

const UPGRADE: &str = "GET /ws/a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

fn options() -> Options {
    Options {
        head: HeadLimits { head_bytes_max: 1024 },
        message: Limits { message_bytes_max: 4096 },
        connections_max: 6,
        room_log_bytes_max: 16 * 1024,
        rooms: Arc::new(RoomRules {
            patterns: Vec::new(),
            otherwise: Arc::new(RoomOptions { slow_member: SlowMember::Skip, ..RoomOptions::default() }),
        }),
        deflate_bytes_min: 16,
        echo: true,
        ..Options::default()
    }
}

fn outputs(shard: &mut Shard, open: &mut Vec<ConnKey>, takes: usize) {
    while let Some(write) = shard.poll_write() {
        assert!(open.iter().any(|key| key.index() == write.conn));
        let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
        let count = write.gather(&mut slices);
        let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        assert!(offered > 0);
        let ticket = write.ticket;
        match offered.min(takes) {
            0 => shard.refused(ticket),
            len => shard.wrote(ticket, len, offered),
        }
    }
    while let Some(Close { key, how, .. }) = shard.poll_close() {
        if how != HowToClose::Shutdown {
            open.retain(|other| *other != key);
            shard.closed(key);
        }
    }
    while shard.poll_resume().is_some() {}
}

fuzz_target!(|operations: Vec<(u8, u8, Vec<u8>)>| {
    let registry = Arc::new(Registry::new(1));
    let mesh = Mesh::build(1, &Seed::new(1)).remove(0);
    let mut shard = Shard::new(mesh, Arc::new(options()), registry, 1);
    let (mut open, mut now) = (Vec::new(), Time::ZERO);
    for (operation, argument, mut bytes) in operations {
        shard.begin_turn(now);
        let key = open.get(usize::from(argument) % open.len().max(1)).copied();
        match (operation % 8, key) {
            (0, _) if shard.admission() != Admission::Later => {
                let admission = shard.admission();
                open.push(shard.opened(admission, None));
            }
            (1, Some(key)) if shard.may_read(key) => {
                shard.received(key, &mut UPGRADE.to_owned().into_bytes())
            }
            (2 | 3, Some(key)) if !bytes.is_empty() && shard.may_read(key) => shard.received(key, &mut bytes),
            (4, Some(key)) => shard.writable(key),
            (5, Some(key)) => shard.ended(key),
            (6, Some(key)) => shard.broken(key),
            (7, _) => now = now + Duration::from_millis(u64::from(argument) * 200),
            _ => {}
        }
        shard.run();
        let takes = if operation > 128 { usize::from(argument) } else { usize::MAX };
        outputs(&mut shard, &mut open, takes);
    }
    shard.drain();
    for _ in 0..20 {
        now = now + Duration::from_secs(4);
        shard.begin_turn(now);
        shard.run();
        outputs(&mut shard, &mut open, usize::MAX);
    }
    assert!(shard.is_drained(), "{} connections are left", shard.connections());
});
