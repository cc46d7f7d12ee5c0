//! Connections above the limit, and those that come during a drain.

use super::*;

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

fn full(shards: usize) -> World {
    let mut world = World::new(shards, 7, 5000, Options { connections_max: 2, ..options() });
    world.join(0, "a", "r", "");
    world.join(0, "b", "r", "");
    world
}

#[test]
fn a_surplus_client_gets_its_answer_and_its_place_is_free_at_once() {
    let mut world = full(1);
    for attempt in 0..200 {
        let peer = world.connect(0);
        world.send(peer, request("/ws/c?room=r", "").as_bytes());
        world.run_until_idle();
        assert!(world.text(peer).starts_with("HTTP/1.1 503 "), "attempt {attempt}: {}", world.text(peer));
        // It has not ended its side, and is not waited for.
        assert!(!world.peers[peer].shut && world.peers[peer].closed == Some(CloseReason::RequestRejected));
    }
    let metrics = &world.shards[0].metrics;
    assert_eq!((metrics.connections.value(), metrics.surplus.value()), (2, 0));
    assert_eq!(metrics.refusals.iter().map(crate::metrics::Cell::value).sum::<u64>(), 200);
}

#[test]
fn surplus_clients_that_send_nothing_have_a_second() {
    let mut world = full(1);
    let silent: Vec<_> = (0..OVER_LIMIT_MAX).map(|_| world.connect(0)).collect();
    assert_eq!(world.shards[0].admission(), Admission::Wait);
    world.advance(Duration::from_millis(900));
    assert_eq!(world.shards[0].admission(), Admission::Wait);
    world.advance(Duration::from_millis(300));
    for peer in silent {
        assert!(world.text(peer).starts_with("HTTP/1.1 503 ") && world.peers[peer].closed.is_some());
    }
    assert_eq!(world.shards[0].admission(), Admission::OverLimit);
}

#[test]
fn a_surplus_client_that_does_not_read_has_a_second() {
    let mut world = full(1);
    let peer = world.connect(0);
    world.peers[peer].window = 10;
    world.send(peer, request("/ws/c?room=r", "").as_bytes());
    world.run_until_idle();
    assert_eq!(world.peers[peer].closed, None);
    world.advance(Duration::from_millis(1200));
    assert_eq!(world.peers[peer].closed, Some(CloseReason::RequestRejected));
}

/// Surplus connections do not count as open ones: when a client has gone, the next one is let in, however
/// many are being refused.
#[test]
fn a_place_that_becomes_free_is_given_away() {
    let mut world = full(1);
    for _ in 0..10 {
        world.connect(0);
    }
    assert_eq!(world.shards[0].admission(), Admission::OverLimit);
    world.send(0, &client_frame(0x88, &1000_u16.to_be_bytes()));
    world.run_until_idle();
    assert_eq!(world.shards[0].admission(), Admission::Accept);
}

#[test]
fn health_and_metrics_are_answered_to_the_end() {
    let mut world = full(1);
    let answer = |world: &mut World, path: &str| {
        let peer = world.connect(0);
        world.send(peer, &String::from_utf8_lossy(HEALTH).replace("/healthz", path).into_bytes());
        world.run_until_idle();
        assert!(world.peers[peer].closed.is_some(), "{path} holds up the next one");
        world.text(peer)
    };
    assert!(answer(&mut world, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(answer(&mut world, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(answer(&mut world, "/metrics").contains("stentor_connections{shard=\"0\"} 2\n"));
    assert!(answer(&mut world, "/").starts_with("HTTP/1.1 503 "));
    world.shards[0].registry.set_ready(false);
    assert!(answer(&mut world, "/readyz").starts_with("HTTP/1.1 503 "));
    world.shards[0].drain();
    world.run_until_idle();
    // The clients have not answered the server's Close yet.
    assert!(!world.shards[0].is_drained());
    assert!(answer(&mut world, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(answer(&mut world, "/readyz").starts_with("HTTP/1.1 503 "));
    assert!(answer(&mut world, "/metrics").starts_with("HTTP/1.1 200 "));
    let refused = answer(&mut world, "/ws/c");
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("shutting down"), "{refused}");
    for peer in [0, 1] {
        world.send(peer, &client_frame(0x88, &1001_u16.to_be_bytes()));
    }
    world.run_until_idle();
    assert!(world.shards[0].is_drained());
    // A probe that comes last is answered, too, and nothing waits for it.
    let probe = world.connect(0);
    assert!(world.shards[0].is_drained());
    world.send(probe, HEALTH);
    world.run_until_idle();
    assert!(world.text(probe).starts_with("HTTP/1.1 200 "));
    assert_eq!(world.shards[0].connections(), 0);
}

#[test]
fn a_refusal_says_what_was_refused() {
    let mut world = World::new(1, 7, 5000, options());
    let peer = world.connect(0);
    let origin = "Origin: https://evil.example\r\n";
    world.shards[0].begin_turn(world.now);
    let mut head = request("/ws/a%20b?room=r&token=secret", origin).into_bytes();
    world.shards[0].received(world.peers[peer].key, &mut head);
    let refusal = world.shards[0].poll_refusal().unwrap();
    assert_eq!((refusal.status, refusal.cause, refusal.conn), (403, "origin", world.peers[peer].key));
    assert_eq!((&*refusal.method, &*refusal.path), ("GET", "/ws/a%20b"));
    assert_eq!(&*refusal.origin, "https://evil.example");
    assert!(!refusal.host.is_empty() && !format!("{refusal:?}").contains("secret"));
    assert_eq!(world.shards[0].poll_refusal(), None);
    assert_eq!(world.shards[0].metrics.requests.value(), 1);
    // What is not taken is gone with the next turn.
    let other = world.connect(0);
    world.shards[0].received(world.peers[other].key, &mut b"garbage\r\n\r\n".to_vec());
    world.shards[0].begin_turn(world.now);
    assert_eq!(world.shards[0].poll_refusal(), None);
}
