//! A shard's directory of rooms: those that it has members for, and those that its sessions publish to. What
//! the room's home knows is not here.
//!
//! Two flows are bounded here, in bytes and for each room: drafts that the home has not completed yet (a
//! session whose draft does not fit waits, with that one draft), and publications that the sweep has not
//! offered to all members yet (the home learns how far it has come, and orders no more than it has credit
//! for).

use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

use super::fanout::Fanout;
use crate::app::WireFormat;
use crate::base::hash::{Map, Seed};
use crate::base::{AudienceId, RoomId, SessionKey};
use crate::chat::{Draft, Forms, RoomOptions, RoomRules};

/// Bytes of drafts for one room that a shard may have in flight, beside the last one.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 * 1024;

/// An audience of a room, and how many of this shard's clients are in it or on their way.
#[derive(Clone, Copy, Debug)]
struct AudienceEntry {
    format: WireFormat,
    audience: AudienceId,
    clients: u32,
}

/// A draft that waits for others to be completed.
#[derive(Debug)]
pub struct Parked {
    /// The session that waits with it.
    pub session: SessionKey,
    /// Which of its commands it is.
    pub command: u32,
    /// The draft.
    pub draft: Draft,
}

/// A room, as one shard sees it.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: Arc<str>,
    /// What holds in it.
    pub options: Arc<RoomOptions>,
    audiences: SmallVec<[AudienceEntry; 1]>,
    /// Bytes of drafts that the home has not completed, and how many drafts.
    in_flight: (u64, u32),
    parked: VecDeque<Parked>,
    /// Bytes of publications that have come, and of those the ones that the home knows to be swept.
    received: u64,
    acknowledged: u64,
    /// Stands in the list of rooms that owe the home an acknowledgement.
    owes: bool,
}

impl Room {
    /// Its audiences.
    pub fn audiences(&self) -> impl Iterator<Item = (WireFormat, AudienceId)> {
        self.audiences.iter().map(|entry| (entry.format, entry.audience))
    }

    /// The forms that its members take.
    pub fn forms(&self) -> Forms {
        self.audiences.iter().fold(Forms::default(), |forms, it| forms.with(it.format as u8))
    }

    fn is_unused(&self) -> bool {
        self.audiences.is_empty() && self.in_flight.1 == 0 && self.parked.is_empty()
    }
}

/// The rooms of a shard, by number and by name.
#[derive(Debug)]
pub struct Rooms {
    rooms: Slab<Room>,
    by_name: Map<Arc<str>, RoomId>,
    /// Rooms that owe their home an acknowledgement.
    owing: Vec<RoomId>,
    /// Drafts that wait, in all rooms, and their bytes.
    parked: (usize, u64),
    /// Rooms that have members.
    occupied: usize,
}

impl Rooms {
    /// No room.
    pub fn new(seed: &Seed) -> Self {
        Self { rooms: Slab::new(), by_name: seed.map(), owing: Vec::new(), parked: (0, 0), occupied: 0 }
    }

    /// The room of that name.
    pub fn find(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    /// A room.
    pub fn get(&self, id: RoomId) -> Option<&Room> {
        self.rooms.get(id.0 as usize)
    }

    /// Every room.
    pub fn ids(&self) -> Vec<RoomId> {
        self.rooms.iter().map(|(index, _)| RoomId(u32::try_from(index).unwrap_or(u32::MAX))).collect()
    }

    /// The home of a room is lost, with the drafts that it had not completed and what it knew of this shard's
    /// progress.
    pub fn home_lost(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id.0 as usize) else { return };
        room.in_flight = (0, 0);
        (room.received, room.acknowledged) = (0, 0);
        if std::mem::take(&mut room.owes) {
            self.owing.retain(|&owing| owing != id);
        }
    }

    /// How many rooms there are.
    pub fn count(&self) -> usize {
        self.rooms.len()
    }

    /// How many rooms have members.
    pub const fn occupied(&self) -> usize {
        self.occupied
    }

    /// Other rules hold from now on, and another window: what was too little to be acknowledged may be enough
    /// now.
    pub fn reconfigure(&mut self, rules: &RoomRules, window: u64, fanout: &mut Fanout) {
        for (index, room) in &mut self.rooms {
            room.options = Arc::clone(rules.of(&room.name));
            if !room.owes && room.received - room.acknowledged >= grain(window) {
                room.owes = true;
                self.owing.push(RoomId(u32::try_from(index).unwrap_or(u32::MAX)));
            }
            for entry in &room.audiences {
                fanout[entry.audience].options = Arc::clone(&room.options);
            }
        }
    }

    fn intern(&mut self, name: &Arc<str>, rules: &RoomRules) -> RoomId {
        if let Some(id) = self.find(name) {
            return id;
        }
        let room = Room {
            name: Arc::clone(name),
            options: Arc::clone(rules.of(name)),
            audiences: SmallVec::new(),
            in_flight: (0, 0),
            parked: VecDeque::new(),
            received: 0,
            acknowledged: 0,
            owes: false,
        };
        let id = RoomId(u32::try_from(self.rooms.insert(room)).expect("fewer rooms than connections"));
        self.by_name.insert(Arc::clone(name), id);
        id
    }

    /// Counts a client into an audience of the room `name`, both of which begin to exist with the first. The
    /// flag: the room's forms have changed, which its home must learn.
    pub fn add_client(
        &mut self,
        name: &Arc<str>,
        format: WireFormat,
        rules: &RoomRules,
        fanout: &mut Fanout,
    ) -> (RoomId, bool) {
        let id = self.intern(name, rules);
        let room = &mut self.rooms[id.0 as usize];
        if let Some(entry) = room.audiences.iter_mut().find(|entry| entry.format == format) {
            entry.clients += 1;
            return (id, false);
        }
        if room.audiences.is_empty() {
            self.occupied += 1;
            (room.received, room.acknowledged) = (0, 0);
        }
        let audience = fanout.open(id, format, Arc::clone(&room.options));
        room.audiences.push(AudienceEntry { format, audience, clients: 1 });
        (id, true)
    }

    /// Counts a client out of its audience, which is closed after the last one. True: the room's forms have
    /// changed.
    pub fn remove_client(&mut self, id: RoomId, format: WireFormat, fanout: &mut Fanout) -> bool {
        let room = &mut self.rooms[id.0 as usize];
        let index = room.audiences.iter().position(|entry| entry.format == format);
        let index = index.expect("a client leaves an audience that it was counted into");
        let entry = &mut room.audiences[index];
        entry.clients -= 1;
        if entry.clients > 0 {
            return false;
        }
        fanout.close(entry.audience);
        room.audiences.swap_remove(index);
        self.occupied -= usize::from(room.audiences.is_empty());
        true
    }

    /// The audience of a room for `format`.
    pub fn audience(&self, id: RoomId, format: WireFormat) -> Option<AudienceId> {
        let room = self.get(id)?;
        room.audiences().find(|&(of, _)| of == format).map(|(_, audience)| audience)
    }

    /// Forgets the room if nothing is known of it any more.
    pub fn forget_unused(&mut self, id: RoomId) {
        if self.get(id).is_some_and(Room::is_unused) {
            let room = self.rooms.remove(id.0 as usize);
            self.by_name.remove(&room.name);
            if room.owes {
                self.owing.retain(|&owing| owing != id);
            }
        }
    }

    /// A session has a draft for the room `name`. It is returned if it may go to the home at once; else it
    /// waits here, and the session with it, until [`Rooms::draft_completed`] returns it.
    pub fn submit(&mut self, name: &Arc<str>, parked: Parked, rules: &RoomRules) -> Option<Draft> {
        let id = self.intern(name, rules);
        let room = &mut self.rooms[id.0 as usize];
        if room.in_flight.0 > IN_FLIGHT_BYTES_MAX || !room.parked.is_empty() {
            self.parked.0 += 1;
            self.parked.1 += parked.draft.weight() as u64;
            room.parked.push_back(parked);
            return None;
        }
        room.in_flight.0 += parked.draft.weight() as u64;
        room.in_flight.1 += 1;
        Some(parked.draft)
    }

    /// A draft of so many bytes is completed: [`Rooms::next_parked`] may have another.
    pub fn draft_completed(&mut self, name: &str, bytes: u64) -> Option<RoomId> {
        let id = self.find(name)?;
        let room = &mut self.rooms[id.0 as usize];
        debug_assert!(room.in_flight.0 >= bytes && room.in_flight.1 > 0, "a draft is completed once");
        room.in_flight.0 = room.in_flight.0.saturating_sub(bytes);
        room.in_flight.1 = room.in_flight.1.saturating_sub(1);
        Some(id)
    }

    /// The next draft that waits for the room, and may go to its home now.
    pub fn next_parked(&mut self, id: RoomId) -> Option<Parked> {
        let room = self.rooms.get_mut(id.0 as usize)?;
        if room.in_flight.0 > IN_FLIGHT_BYTES_MAX {
            return None;
        }
        let parked = room.parked.pop_front()?;
        let weight = parked.draft.weight() as u64;
        self.parked.0 -= 1;
        self.parked.1 -= weight;
        room.in_flight.0 += weight;
        room.in_flight.1 += 1;
        if room.parked.is_empty() {
            room.parked = VecDeque::new();
        }
        Some(parked)
    }

    /// A publication of so many bytes has come for the members of a room.
    pub fn received(&mut self, id: RoomId, bytes: u64, window: u64) {
        let room = &mut self.rooms[id.0 as usize];
        room.received += bytes;
        if !room.owes && room.received - room.acknowledged >= grain(window) {
            room.owes = true;
            self.owing.push(id);
        }
    }

    /// The next room with swept bytes to report to its home; call until `None`.
    pub fn poll_swept(&mut self, fanout: &Fanout, window: u64) -> Option<(RoomId, u64)> {
        for index in 0..self.owing.len() {
            let id = self.owing[index];
            let room = &mut self.rooms[id.0 as usize];
            let unswept =
                room.audiences.iter().map(|it| fanout.unswept_bytes(it.audience)).max().unwrap_or(0);
            let swept = (room.received - room.acknowledged).saturating_sub(unswept);
            if swept >= grain(window) {
                room.acknowledged += swept;
                if room.received - room.acknowledged < grain(window) {
                    room.owes = false;
                    self.owing.swap_remove(index);
                }
                return Some((id, swept));
            }
        }
        None
    }

    /// Whether rooms owe their homes an acknowledgement.
    pub fn owes(&self) -> bool {
        !self.owing.is_empty()
    }

    /// How many drafts wait, and their bytes.
    pub const fn parked(&self) -> (usize, u64) {
        self.parked
    }

    /// Checks that the directory agrees with itself. For tests and the simulator.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_invariants(&self) {
        assert_eq!(self.rooms.len(), self.by_name.len(), "a name for each room");
        let parked = self.rooms.iter().flat_map(|(_, room)| &room.parked);
        let sum = parked.fold((0, 0), |(count, bytes), it| (count + 1, bytes + it.draft.weight() as u64));
        assert_eq!(sum, self.parked, "drafts that wait");
        let entry = self.rooms.iter().filter(|(_, room)| !room.audiences.is_empty()).count();
        assert_eq!(entry, self.occupied, "rooms that have members");
        for (_, room) in &self.rooms {
            assert!(!room.is_unused(), "a room that nothing is known of is forgotten");
            assert!(
                room.parked.is_empty() || room.in_flight.1 > 0,
                "a draft waits, and nothing will wake it"
            );
        }
    }
}

/// An acknowledgement is worth a message when so many bytes are.
const fn grain(window: u64) -> u64 {
    window / 4
}
