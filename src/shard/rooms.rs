//! What this shard knows of rooms: which audiences it seats for each and, for the rooms whose home it
//! is, their order and which shards want to hear of them.

use slab::Slab;
use std::sync::Arc;

use super::fanout::{AudienceId, Fanout};
use super::mesh::ShardSet;
use crate::app::{FormatSet, WireFormat};
use crate::base::Time;
use crate::base::hash::{Map, Seed};
use crate::chat::{Epoch, History, Presence, RoomOptions};

/// Names a room on this shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RoomId(pub(super) u32);

/// A room, as one shard sees it.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: Arc<str>,
    /// What holds in it.
    pub options: Arc<RoomOptions>,
    /// The shard that orders it.
    pub home_shard: usize,
    /// Its audiences on this shard.
    pub audiences: [Option<Attended>; WireFormat::COUNT],
    /// What only its home keeps.
    pub home: Option<Box<Home>>,
}

/// An audience, and how many of this shard's clients are in it or on their way.
#[derive(Clone, Copy, Debug)]
pub struct Attended {
    /// The audience.
    pub audience: AudienceId,
    /// Clients.
    pub clients: u32,
}

/// A room's order, who is in it, and who listens.
#[derive(Debug)]
pub struct Home {
    /// Its order and its past.
    pub history: History,
    /// Who is in it.
    pub presence: Presence,
    /// For each format, the other shards with members that take it.
    listeners: [ShardSet; WireFormat::COUNT],
    /// When its members will be told who came and went; `None`: there is nothing to tell.
    pub tells_at: Option<Time>,
    /// Until when it is kept without members, since the last one left.
    pub kept_until: Option<Time>,
    /// Under which time it stands in the queue of those that are kept, if it does: at most `kept_until`.
    pub queued_until: Option<Time>,
    /// Clients and users as they were last counted, and when.
    pub counted: Option<(Time, usize, usize)>,
}

impl Home {
    /// A home whose life begins with `epoch`.
    pub fn new(epoch: Epoch, seed: &Seed) -> Self {
        Self {
            history: History::new(epoch),
            presence: Presence::new(seed),
            listeners: Default::default(),
            tells_at: None,
            kept_until: None,
            queued_until: None,
            counted: None,
        }
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
    /// The formats of this shard's own members, and at its home those of the others' too.
    pub fn formats(&self) -> FormatSet {
        let here = WireFormat::ALL.into_iter().filter(|&format| self.audiences[format as usize].is_some());
        let here = here.fold(FormatSet::default(), FormatSet::with);
        self.home.as_ref().map_or(here, |home| here.union(home.formats()))
    }

    /// Its audiences, by format.
    pub fn attended(&self) -> impl Iterator<Item = (WireFormat, AudienceId)> {
        let by_format = WireFormat::ALL.into_iter().zip(self.audiences);
        by_format.filter_map(|(format, attended)| Some((format, attended?.audience)))
    }

    /// Whether saying more in it would outrun the sweep of one of its audiences.
    pub fn is_congested(&self, fanout: &Fanout, bytes_max: u64) -> bool {
        self.audiences.iter().flatten().any(|attended| fanout.is_congested(attended.audience, bytes_max))
    }

    /// Whether nobody is in it, as far as this shard knows.
    pub fn is_deserted(&self) -> bool {
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

    /// Forgets a room. Its next life has another epoch.
    pub fn remove(&mut self, id: RoomId) {
        let room = self.rooms.remove(id.0 as usize);
        self.by_name.remove(&room.name);
    }

    /// The room of that number, if there is one.
    pub fn get_mut(&mut self, id: RoomId) -> Option<&mut Room> {
        self.rooms.get_mut(id.0 as usize)
    }

    /// All rooms.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Room> {
        self.rooms.iter_mut().map(|(_, room)| room)
    }

    /// The numbers of all rooms are below it.
    pub fn numbers(&self) -> u32 {
        u32::try_from(self.rooms.capacity()).unwrap_or(u32::MAX)
    }

    /// How many rooms this shard knows.
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
