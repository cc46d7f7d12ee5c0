//! Decisions of the auth backend that come too late.

use super::*;
use crate::chat::{AuthDecision, AuthMode, Identity};

#[test]
fn a_decision_on_a_closing_connection_changes_nothing() {
    let options = Options { auth_mode: AuthMode::Hook, ..options() };
    let mut world = World::new(1, 1, 65_536, options);
    let peer = world.connect(0);
    // Its Close cannot leave, so it stays for a while.
    world.peers[peer].window = 0;
    // In one read: while the request is open, nothing more is read.
    let both = [request("/ws/a?room=r", "").as_bytes(), &client_frame(0x83, b"reserved")].concat();
    world.send(peer, &both);
    while !world.peers[peer].sending.is_empty() {
        world.turn();
    }
    assert!(world.shards[0].poll_auth_request().is_none(), "it is taken back");
    let session = SessionKey::from_bits(1 << 32).expect("the first one");
    let is_ending = |world: &World| {
        world.shards[0].conns.get(world.peers[peer].key).is_some_and(|slot| slot.conn.state().is_ending())
    };
    assert!(is_ending(&world));
    let (user, name) = ("a".into(), "a".into());
    let identity = Identity { user, name, info: None, expires_in: None, rooms: Vec::new() };
    world.shards[0].begin_turn(world.now);
    world.shards[0].decided(session, AuthDecision::Accept { identity, data: None });
    world.run_until_idle();
    assert!(is_ending(&world));
    assert_eq!(world.shards[0].metrics.members.value(), 0);
    world.peers[peer].window = usize::MAX;
    world.run_until_idle();
    let received = &mut world.peers[peer].received;
    let head = stentor_testkit::parse_response(received).unwrap().len;
    received.drain(..head);
    assert_eq!(world.received_by(peer), (Vec::new(), Some(1002)));
}
