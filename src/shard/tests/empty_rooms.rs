//! Empty rooms.

use super::*;

/// Thirty members of ten rooms come and leave again. The shards' rooms are added up.
fn kept_empty_rooms(world: &mut World) -> usize {
    let come = |index: usize| (index % 3, format!("room{}", index % 10));
    let members: Vec<_> = (0..30).map(come).map(|(shard, room)| world.join(shard, "m", &room, "")).collect();
    for member in members {
        world.peers[member].shut = true;
    }
    world.run_until_idle();
    for shard in &world.shards {
        assert_eq!((shard.conns.len(), shard.metrics.members.value()), (0, 0));
    }
    world.shards.iter().map(|shard| shard.homes.len()).sum()
}

#[test]
fn rooms_without_a_history_are_forgotten_when_the_last_member_leaves() {
    let rooms = rooms(RoomOptions { history_count_max: 0, ..RoomOptions::default() });
    assert_eq!(kept_empty_rooms(&mut World::new(3, 2, 1000, Options { rooms, ..options() })), 0);
}

#[test]
fn rooms_with_a_history_are_kept_for_reconnecting_clients() {
    let mut world = World::new(3, 2, 1000, options());
    let age = RoomOptions::default().history_age_max;
    assert_eq!(kept_empty_rooms(&mut world), 10);
    world.advance(age / 2);
    assert_eq!(kept_empty_rooms(&mut world), 10, "the same ones");
    world.advance(age / 2 + Duration::from_secs(1));
    world.advance(age / 2 - Duration::from_secs(2));
    let rooms = |world: &World| world.shards.iter().map(|shard| shard.homes.len()).sum::<usize>();
    assert_eq!(rooms(&world), 10, "their time began anew");
    world.advance(Duration::from_secs(2));
    assert_eq!(rooms(&world), 0);
}

/// Names that no client uses again push out the oldest of their kind, and no occupied room.
#[test]
fn empty_rooms_are_bounded() {
    let mut world = World::new(1, 2, 65_536, options());
    let here = world.join(0, "here", "first", "");
    for index in 0..10_500 {
        let member = world.join(0, "m", &format!("room{index}"), "");
        world.peers[member].shut = true;
        world.advance(Duration::from_millis(1));
        world.peers.pop();
    }
    let shard = &world.shards[0];
    let rooms = ["first", "room0", "room499", "room500", "room10499"];
    assert_eq!(rooms.map(|room| shard.homes.contains(room)), [true, false, false, true, true]);
    assert_eq!(world.peers[here].closed, None);
}
