//! What this shard knows of rooms: which audiences it seats for each and, for the rooms whose home it
//! is, their order and which shards want to hear of them.

use slab::Slab;
use std::sync::Arc;

use super::fanout::{AudienceId, Fanout};
use super::mesh::ShardSet;
use crate::app::{FormatSet, WireFormat};
use crate::base::hash::{Map, Seed};
use crate::chat::Sequence;

/// Names a room on this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomId(pub(super) u32);

/// A room, as one shard sees it.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: Arc<str>,
    /// The shard that orders it.
    pub home_shard: usize,
    /// Its audiences on this shard.
    pub audiences: [Option<AudienceId>; WireFormat::COUNT],
    /// What only its home keeps.
    pub home: Option<Home>,
}

/// A room's order, and who listens.
#[derive(Debug)]
pub struct Home {
    /// Gives positions.
    pub sequence: Sequence,
    /// For each format, the other shards with members that take it.
    listeners: [ShardSet; WireFormat::COUNT],
}

impl Home {
    /// A home whose sequence begins with `epoch`.
    pub fn new(epoch: u32) -> Self {
        Self { sequence: Sequence::new(epoch), listeners: Default::default() }
    }

    /// Adds or removes another shard's interest.
    pub const fn listen(&mut self, shard: usize, format: WireFormat, wanted: bool) {
        let set = &mut self.listeners[format as usize];
        if wanted { set.insert(shard) } else { set.remove(shard) }
    }

    /// All other shards with members, whatever they take.
    pub fn shards(&self) -> ShardSet {
        self.listeners.iter().fold(ShardSet::default(), |all, set| all.union(*set))
    }

    /// The formats in which other shards want it.
    pub fn formats(&self) -> FormatSet {
        let wanted =
            WireFormat::ALL.into_iter().filter(|&format| !self.listeners[format as usize].is_empty());
        wanted.fold(FormatSet::default(), FormatSet::with)
    }
}

impl Room {
    /// The formats of this shard's own members.
    pub fn formats(&self) -> FormatSet {
        let here = WireFormat::ALL.into_iter().filter(|&format| self.audiences[format as usize].is_some());
        here.fold(FormatSet::default(), FormatSet::with)
    }

    /// Whether saying more in it would outrun the sweep of one of its audiences.
    pub fn is_congested(&self, fanout: &Fanout, bytes_max: u64) -> bool {
        self.audiences.iter().flatten().any(|&audience| fanout.is_congested(audience, bytes_max))
    }

    /// Whether nobody needs this shard to remember the room.
    fn is_deserted(&self) -> bool {
        self.audiences.iter().all(Option::is_none)
            && self.home.as_ref().is_none_or(|home| home.shards().is_empty())
    }
}

/// The rooms of a shard, by number and by name.
#[derive(Debug)]
pub struct Rooms {
    rooms: Slab<Room>,
    by_name: Map<Arc<str>, RoomId>,
}

impl Rooms {
    /// No room.
    pub fn new(seed: &Seed) -> Self {
        Self { rooms: Slab::new(), by_name: seed.map() }
    }

    /// The room of that name.
    pub fn find(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    /// Adds a room that [`Rooms::find`] did not find.
    pub fn add(&mut self, room: Room) -> RoomId {
        let name = Arc::clone(&room.name);
        let id = RoomId(u32::try_from(self.rooms.insert(room)).expect("fewer rooms than connections"));
        self.by_name.insert(name, id);
        id
    }

    /// Forgets a room that nobody is in any more. Its next life has another epoch.
    pub fn remove_if_deserted(&mut self, id: RoomId) {
        if self[id].is_deserted() {
            let room = self.rooms.remove(id.0 as usize);
            self.by_name.remove(&room.name);
        }
    }

    /// How many rooms have members on this shard.
    pub fn count(&self) -> usize {
        self.rooms.len()
    }
}

impl std::ops::Index<RoomId> for Rooms {
    type Output = Room;

    fn index(&self, id: RoomId) -> &Room {
        &self.rooms[id.0 as usize]
    }
}

impl std::ops::IndexMut<RoomId> for Rooms {
    fn index_mut(&mut self, id: RoomId) -> &mut Room {
        &mut self.rooms[id.0 as usize]
    }
}
