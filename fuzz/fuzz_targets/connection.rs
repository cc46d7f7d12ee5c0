//! Whole shards under any sequence of driver calls: they write to open connections only, what they write to a
//! WebSocket is frames, every member receives each author in order and nothing twice, and all ends.
#![no_main]

mod world;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use world::World;

/// One thing that happens. Connections, shards and rooms are counted round, so that every number names one.
#[derive(Arbitrary, Debug)]
enum Operation {
    /// A client connects.
    Open { shard: u8 },
    /// It requests a WebSocket, with other input in the same packet.
    Upgrade { conn: u8, room: u8, deflate: bool, echo: bool, followed_by_text: bool },
    /// It requests a WebSocket of the JSON protocol.
    Json { conn: u8 },
    /// It sends these commands of it.
    Command { conn: u8, commands: u16 },
    /// It requests a page.
    Get { conn: u8, page: u8, keep_alive: bool },
    /// It publishes by request.
    Post { conn: u8, room: u8, chunked: bool, cut: u8 },
    /// It publishes the next number of its own, with so many bytes behind it; the frame comes in two pieces.
    Publish { conn: u8, padding: u16, cut: u8 },
    /// It sends a frame of any kind.
    Frame { conn: u8, b0: u8, payload: Vec<u8> },
    /// It sends anything.
    Bytes { conn: u8, bytes: Vec<u8> },
    /// Its socket takes so many bytes from now on.
    Window { conn: u8, bytes: u16 },
    /// Its socket takes everything again.
    Reads { conn: u8 },
    /// It ends its stream.
    Ends { conn: u8 },
    /// Its socket breaks.
    Breaks { conn: u8 },
    /// The next write to it fails.
    WriteFails { conn: u8 },
    /// One shard takes a turn, with so many writes in flight at a time.
    Turn { shard: u8, writes: u8 },
    /// Time passes.
    Advance { ms: u16 },
    /// The options change.
    Reconfigure { slow_member: u8, ping: bool, coalesce: bool },
    /// A shard begins to drain.
    Drain { shard: u8 },
}

fn apply(world: &mut World, operation: Operation) {
    match operation {
        Operation::Open { shard } => world.open(shard),
        Operation::Upgrade { conn, room, deflate, echo, followed_by_text } => {
            world.upgrade(conn, room, deflate, echo, followed_by_text);
        }
        Operation::Json { conn } => world.json(conn),
        Operation::Command { conn, commands } => world.command(conn, commands),
        Operation::Get { conn, page, keep_alive } => world.get(conn, page, keep_alive),
        Operation::Post { conn, room, chunked, cut } => world.post(conn, room, chunked, cut),
        Operation::Publish { conn, padding, cut } => world.publish(conn, padding, cut),
        Operation::Frame { conn, b0, payload } => world.send_frame(conn, b0, &payload),
        Operation::Bytes { conn, mut bytes } => world.send(conn, &mut bytes),
        Operation::Window { conn, bytes } => world.window(conn, usize::from(bytes)),
        Operation::Reads { conn } => world.window(conn, usize::MAX),
        Operation::Ends { conn } => world.ends(conn),
        Operation::Breaks { conn } => world.breaks(conn),
        Operation::WriteFails { conn } => world.write_fails(conn),
        Operation::Turn { shard, writes } => world.turn(shard, writes),
        Operation::Advance { ms } => world.advance(ms),
        Operation::Reconfigure { slow_member, ping, coalesce } => {
            world.reconfigure(slow_member, ping, coalesce)
        }
        Operation::Drain { shard } => world.drain(shard),
    }
}

fuzz_target!(|input: (u8, Vec<Operation>)| {
    let (shards, operations) = input;
    let mut world = World::new(1 + usize::from(shards % 3));
    for operation in operations {
        apply(&mut world, operation);
    }
    world.end();
});
