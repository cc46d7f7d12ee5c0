//! What has brought other servers down, and no other test here tries.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use stentor::base::Time;
use stentor::base::hash::Seed;
use stentor::metrics::Registry;
use stentor::shard::{ConnectionLimits, Mesh, Options, Shard};
use stentor::ws::{CloseCode, Decoder, Deflater, Fail, Inflater, Limits, Window};
use stentor_testkit::{frame, frames, parse_response, upgrade_request};
use support::{Server, text};
use tungstenite::Message;

const LIMITS: Limits = Limits { message_bytes_max: 10_000 };

/// A proxy that trusts in the upgrade passes on everything that follows; so no other client's request may be
/// in there.
#[test]
fn a_request_behind_a_refused_upgrade_is_not_answered() {
    let server = Server::start(&["--shards", "1"]);
    for refused in [
        upgrade_request("/ws/a", "").replace(": 13", ": 8"),
        upgrade_request("/nowhere", ""),
        upgrade_request("/ws/%0A", ""),
    ] {
        let answer = server.ask(&(refused + "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

#[test]
fn a_reset_at_any_point_ends_one_connection_only() {
    let server = Server::start(&["--shards", "2"]);
    let mut witness = server.client("/ws/witness?room=r");
    let whole =
        [upgrade_request("/ws/a?room=r", "").as_bytes(), &frame(0x81, b"hi"), &frame(0x01, b"and"), &[0x80]]
            .concat();
    for len in (0..whole.len()).step_by(7).chain([whole.len()]) {
        let mut stream = server.raw();
        stream.write_all(&whole[..len]).unwrap();
        // Closed like this, the kernel sends a reset instead of an end.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    witness.send(Message::text("still here")).unwrap();
    while text(&mut witness) != "witness: still here" {}
}

#[test]
fn queries_are_not_logged() {
    for target in ["/nowhere?token=sesame", "/ws/a?room=r&token=sesame"] {
        let mut server = Server::start(&["--shards", "1", "--log", "trace"]);
        let mut stream = server.raw();
        stream.write_all(upgrade_request(target, "").as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        drop(stream);
        let lines = server.log_until("connection closed");
        assert!(lines.iter().all(|line| !line.contains("sesame")), "{lines:?}");
    }
}

/// The announced length costs nothing; what has come does.
#[test]
fn memory_is_allocated_for_received_bytes_only() {
    let (mut decoder, mut inflater) = (Decoder::new(false), Inflater::default());
    let mut header = frame(0x82, &[7; 9_999]);
    header.truncate(20);
    assert_eq!(decoder.decode(&mut header, &mut inflater, &LIMITS).unwrap().event, None);
    assert!(decoder.kept_bytes() < 500, "{} bytes", decoder.kept_bytes());
}

#[test]
fn a_message_that_never_ends_fails_at_the_bound() {
    for (first, deflate) in [(0x02, false), (0x42, true)] {
        let (mut decoder, mut inflater) = (Decoder::new(deflate), Inflater::default());
        let mut fragment = frame(first, &[7; 100]);
        let fail = loop {
            match decoder.decode(&mut fragment, &mut inflater, &LIMITS) {
                Ok(decoded) => assert_eq!(decoded.event, None),
                Err(fail) => break fail,
            }
            assert!(decoder.kept_bytes() < 3 * LIMITS.message_bytes_max);
            fragment = frame(0x00, &[7; 100]);
        };
        assert_eq!(fail.close_code(), CloseCode::Size);
    }
}

#[test]
fn a_deflated_bomb_in_a_small_frame_fails_at_the_bound() {
    let mut deflater = Deflater::default();
    let mut bomb = frame(0xC2, deflater.deflate(Window::Full, &[&vec![0; 5_000_000]]));
    let (mut decoder, mut inflater) = (Decoder::new(true), Inflater::default());
    let limits = Limits { message_bytes_max: 1 << 20 };
    let fail = decoder.decode(&mut bomb, &mut inflater, &limits).unwrap_err();
    assert_eq!(fail.close_code(), CloseCode::Size);
    // It has left nothing behind.
    let mut again = frame(0xC2, deflater.deflate(Window::Full, &[b"small"]));
    assert!(Decoder::new(true).decode(&mut again, &mut inflater, &limits).unwrap().event.is_some());
    assert!(matches!(fail, Fail::Limit(_)));
}

/// A driver's clock is monotonic. If it were not, time-outs would neither come early nor be put off.
#[test]
fn a_clock_that_goes_back_moves_no_deadline() {
    let options = Arc::new(Options::default());
    let registry = Arc::new(Registry::new(1));
    let mut shard = Shard::fleet(
        Mesh::build(1, &Seed::new(1)),
        &ConnectionLimits::new(&Seed::new(1)),
        &options,
        &registry,
        || 1,
    )
    .remove(0);
    let start = Time::ZERO + Duration::from_secs(3600);
    shard.begin_turn(start);
    let admission = shard.admission();
    let key = shard.opened(admission, None);
    for now in [Time::ZERO, start + (options.handshake_timeout - Duration::from_secs(1)), Time::ZERO] {
        shard.begin_turn(now);
        shard.received(key, &mut [b'G']);
        shard.run();
        assert!(shard.poll_write().is_none(), "not yet");
    }
    shard.begin_turn(start + options.handshake_timeout + Duration::from_secs(1));
    shard.run();
    let answer = shard.poll_write().and_then(|write| write.contiguous().map(<[u8]>::to_vec)).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn garbage_after_the_handshake_is_answered_with_a_close() {
    let server = Server::start(&["--shards", "1"]);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 300], &[0x88, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0]] {
        let mut stream = server.raw();
        stream.write_all(upgrade_request("/ws/a", "").as_bytes()).unwrap();
        stream.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = parse_response(&answer).unwrap();
        let code = frames(&answer[head.len..]).last().and_then(|frame| frame.close_code());
        assert_eq!(code, Some(1002), "{:?}", String::from_utf8_lossy(&answer));
    }
}
