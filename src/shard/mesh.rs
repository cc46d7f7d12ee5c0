//! The messages between shards, and the rings they travel in.
//!
//! Two rings for each ordered pair of shards. *Up* carries what a room's home must order; *down* carries
//! what it has ordered. Down can always be taken, for taking it sends nothing on; up is taken only
//! while every way down has room. So a full ring slows its writers and can never lock two shards up.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

use super::crowd::Crowd;
use super::fanout::Backlog;
use crate::app::json::ErrorCode;
use crate::app::{Encodings, WireFormat};
use crate::base::ConnKey;
use crate::base::hash::Seed;
use crate::base::spsc::{Doorbell, Receiver, RingLimits, Sender, Weigh, ring};
use crate::chat::{ClientId, Draft, Member, Page, Past, Position, Wanted};

/// Who is waiting for an answer. The shard that asked finds it again; nobody else looks inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The connection.
    pub conn: ConnKey,
    /// Which of its questions it was.
    pub number: u32,
}

/// To a room's home.
#[derive(Debug)]
pub enum Up {
    /// Somebody said something.
    Say {
        /// Where.
        room: Arc<str>,
        /// What.
        draft: Draft,
        /// Who wants to know that it has its place.
        ask: Option<Ask>,
    },
    /// This shard will have its first member of the room in that format.
    Enter {
        /// The room.
        room: Arc<str>,
        /// The format.
        format: WireFormat,
    },
    /// This shard has no member of the room in that format any more.
    Leave {
        /// The room.
        room: Arc<str>,
        /// The format.
        format: WireFormat,
    },
    /// Somebody comes into the room: [`Down::Joined`] is the answer. An `Enter` has gone before, so that everything that is
    /// published after the answer will reach this shard after it.
    Join {
        /// The room.
        room: Arc<str>,
        /// Who.
        member: Member,
        /// What of the past.
        wanted: Wanted,
        /// Who waits.
        ask: Ask,
    },
    /// Somebody goes out of it.
    Part {
        /// The room.
        room: Arc<str>,
        /// Who.
        client: ClientId,
    },
    /// Somebody wants to know something of the room: [`Down::Answer`].
    Ask {
        /// The room.
        room: Arc<str>,
        /// What.
        question: Question,
        /// Who.
        ask: Ask,
    },
    /// How far has a publication come on your shard? [`Down::Counted`].
    Count {
        /// The room.
        room: Arc<str>,
        /// The publication.
        offset: u64,
        /// Who wants to know.
        ask: Ask,
    },
}

/// What can be asked of a room's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Who is there.
    Presence,
    /// How many are.
    PresenceStats,
    /// What was said.
    History(Page),
}

/// From a room's home, or in answer to a question.
#[derive(Clone, Debug)]
pub enum Down {
    /// One publication, in every format in use.
    Publication {
        /// The room.
        room: Arc<str>,
        /// Its place in the room's order.
        position: Position,
        /// Its frames.
        encodings: Arc<Encodings>,
    },
    /// Who has come and gone.
    Moves {
        /// The room.
        room: Arc<str>,
        /// The frames that say so.
        encodings: Arc<Encodings>,
    },
    /// Somebody is in: what comes behind this is for it.
    Joined {
        /// Who.
        ask: Ask,
        /// What it gets of the past.
        past: Past,
    },
    /// The answer to a command.
    Answer {
        /// Whose.
        ask: Ask,
        /// What.
        answer: Answer,
    },
    /// How far a publication has come on one shard.
    Counted {
        /// Who asked.
        ask: Ask,
        /// How far.
        backlog: Backlog,
    },
}

/// The answer to a command of the JSON protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What the command was called.
    pub method: &'static str,
    /// An object, or what is wrong.
    pub result: Result<Bytes, ErrorCode>,
}

impl Weigh for Up {
    fn weight(&self) -> usize {
        let more = match self {
            Self::Say { draft, .. } => draft.body.bytes().len(),
            Self::Enter { .. }
            | Self::Leave { .. }
            | Self::Join { .. }
            | Self::Part { .. }
            | Self::Ask { .. }
            | Self::Count { .. } => 0,
        };
        size_of::<Self>() + more
    }
}

impl Weigh for Down {
    fn weight(&self) -> usize {
        let more = match self {
            Self::Publication { encodings, .. } | Self::Moves { encodings, .. } => encodings.weight(),
            Self::Joined { past, .. } => past.weight(),
            Self::Answer { answer, .. } => answer.result.as_ref().map_or(0, Bytes::len),
            Self::Counted { .. } => 0,
        };
        size_of::<Self>() + more
    }
}

/// What each ring takes, unless it is built with less.
pub const RING: RingLimits = RingLimits { messages_max: 4096, bytes_max: 1 << 20 };

/// A ring's writing end, with what did not fit yet. Whoever fills `waiting` looks at [`Link::is_clear`] before
/// it takes more work in, so it holds one turn's overshoot at most.
#[derive(Debug)]
struct Link<T> {
    ring: Sender<T>,
    waiting: VecDeque<T>,
}

impl<T: Weigh> Link<T> {
    fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True when something went into the ring.
    fn send(&mut self, message: T) -> bool {
        if !self.waiting.is_empty() {
            self.waiting.push_back(message);
            return false;
        }
        match self.ring.send(message) {
            Ok(()) => true,
            Err(message) => {
                self.waiting.push_back(message);
                false
            }
        }
    }

    fn flush(&mut self) -> bool {
        let mut sent = false;
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.ring.send(message) {
                self.waiting.push_front(message);
                break;
            }
            sent = true;
        }
        sent
    }
}

/// What goes between this shard and one other.
#[derive(Debug)]
struct Peer {
    id: usize,
    up: Link<Up>,
    down: Link<Down>,
    from_up: Receiver<Up>,
    from_down: Receiver<Down>,
    /// Something was put into its rings since it was last woken.
    touched: bool,
}

/// One shard's ends of all rings.
#[derive(Debug)]
pub struct Mesh {
    me: usize,
    shards: usize,
    seed: Seed,
    /// In the order of their ids, without `me`.
    peers: Vec<Peer>,
    doorbells: Arc<[Doorbell]>,
    crowd: Crowd,
}

impl Mesh {
    /// The ends of `shards` shards that are all connected with each other.
    ///
    /// # Panics
    /// With more shards than [`SHARDS_MAX`].
    pub fn build(shards: usize, seed: &Seed) -> Vec<Self> {
        Self::build_with(shards, seed, RING)
    }

    /// The same, with rings of another size.
    ///
    /// # Panics
    /// With more shards than [`SHARDS_MAX`].
    pub fn build_with(shards: usize, seed: &Seed, rings: RingLimits) -> Vec<Self> {
        assert!((1..=SHARDS_MAX).contains(&shards), "1 to {SHARDS_MAX} shards");
        let doorbells: Arc<[Doorbell]> = (0..shards).map(|_| Doorbell::default()).collect();
        let crowd = Crowd::new(seed);
        let mut meshes: Vec<_> = (0..shards)
            .map(|me| Self {
                me,
                shards,
                seed: seed.clone(),
                peers: Vec::with_capacity(shards - 1),
                doorbells: Arc::clone(&doorbells),
                crowd: crowd.clone(),
            })
            .collect();
        for a in 0..shards {
            for b in a + 1..shards {
                let ((a_up, b_from_up), (b_up, a_from_up)) = (ring(rings), ring(rings));
                let ((a_down, b_from_down), (b_down, a_from_down)) = (ring(rings), ring(rings));
                meshes[a].peers.push(Peer::new(b, a_up, a_down, a_from_up, a_from_down));
                meshes[b].peers.push(Peer::new(a, b_up, b_down, b_from_up, b_from_down));
            }
        }
        for mesh in &mut meshes {
            mesh.peers.sort_by_key(|peer| peer.id);
        }
        meshes
    }

    /// How many shards there are.
    pub const fn shards(&self) -> usize {
        self.shards
    }

    /// This shard's own number.
    pub const fn me(&self) -> usize {
        self.me
    }

    /// Which shard orders what is said in `room`.
    pub fn home(&self, room: &str) -> usize {
        self.seed.home(room, self.shards)
    }

    /// The counts that all shards share.
    pub const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// The seed that all shards share.
    pub const fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Sends `message` to the home shard `to`, which is not this one.
    pub fn send_up(&mut self, to: usize, message: Up) {
        let index = self.index_of(to);
        let peer = &mut self.peers[index];
        peer.touched |= peer.up.send(message);
    }

    /// Sends `message` to the shards in `to`, without this one.
    pub fn send_down(&mut self, to: ShardSet, message: &Down) {
        for peer in &mut self.peers {
            if to.contains(peer.id) {
                peer.touched |= peer.down.send(message.clone());
            }
        }
    }

    /// Whether the way up to `to` has room.
    pub fn is_clear_up(&self, to: usize) -> bool {
        to == self.me || self.peers[self.index_of(to)].up.is_clear()
    }

    /// Whether every way up has room.
    pub fn is_clear_to_all(&self) -> bool {
        self.peers.iter().all(|peer| peer.up.is_clear())
    }

    /// Whether every way down has room.
    pub fn is_clear_down(&self) -> bool {
        self.peers.iter().all(|peer| peer.down.is_clear())
    }

    /// The oldest message for this home from peer number `peer` (0 to [`Mesh::peer_count`]), and who sent it, if `takes` says
    /// that its room has space for it. `None` too while a way down is full.
    pub fn receive_up(&mut self, peer: usize, takes: impl Fn(&Up) -> bool) -> Option<(usize, Up)> {
        if !self.is_clear_down() {
            return None;
        }
        let peer = &mut self.peers[peer];
        if !takes(peer.from_up.peek()?) {
            return None;
        }
        Some((peer.id, peer.from_up.receive()?))
    }

    /// The oldest of what has come down from peer number `peer`, if `takes` says that its room has space for it.
    pub fn receive_down(&mut self, peer: usize, takes: impl Fn(&Down) -> bool) -> Option<Down> {
        let peer = &mut self.peers[peer];
        if !takes(peer.from_down.peek()?) {
            return None;
        }
        peer.from_down.receive()
    }

    /// Whether nothing waits for room in a ring. While something does, a shard looks again soon instead of
    /// sleeping: the reader of a full ring does not ring back.
    pub fn is_clear(&self) -> bool {
        self.peers.iter().all(|peer| peer.up.is_clear() && peer.down.is_clear())
    }

    /// How many messages wait for room in a ring.
    pub fn waiting(&self) -> usize {
        self.peers.iter().map(|peer| peer.up.waiting.len() + peer.down.waiting.len()).sum()
    }

    /// How many other shards there are.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Puts what had to wait into the rings. True when that made any way clear.
    pub fn flush(&mut self) -> bool {
        let mut cleared = false;
        for peer in &mut self.peers {
            let was_clear = peer.up.is_clear() && peer.down.is_clear();
            let sent = peer.up.flush() | peer.down.flush();
            peer.touched |= sent;
            cleared |= !was_clear && peer.up.is_clear() && peer.down.is_clear();
        }
        cleared
    }

    /// The next shard to be woken, at the end of a turn; call until `None`. At most one wake a turn each, and only
    /// for one that sleeps.
    pub fn poll_wake(&mut self) -> Option<usize> {
        for peer in &mut self.peers {
            if std::mem::take(&mut peer.touched) && self.doorbells[peer.id].ring() {
                return Some(peer.id);
            }
        }
        None
    }

    /// Announces that this shard is about to sleep. False when something has arrived: then it must not.
    ///
    /// What comes up is not taken while a way down is full, so it does not keep the shard awake either: it looks again soon
    /// ([`Mesh::is_clear`]).
    pub fn may_sleep(&self) -> bool {
        self.doorbells[self.me].announce_sleep();
        let takes_up = self.is_clear_down();
        let empty = |peer: &Peer| peer.from_down.is_empty() && (peer.from_up.is_empty() || !takes_up);
        let empty = self.peers.iter().all(empty);
        if !empty {
            self.announce_awake();
        }
        empty
    }

    /// After the sleep.
    pub fn announce_awake(&self) {
        self.doorbells[self.me].announce_awake();
    }

    fn index_of(&self, id: usize) -> usize {
        debug_assert_ne!(id, self.me);
        if id < self.me { id } else { id - 1 }
    }
}

impl Peer {
    fn new(
        id: usize,
        up: Sender<Up>,
        down: Sender<Down>,
        from_up: Receiver<Up>,
        from_down: Receiver<Down>,
    ) -> Self {
        let (up, down) =
            (Link { ring: up, waiting: VecDeque::new() }, Link { ring: down, waiting: VecDeque::new() });
        Self { id, up, down, from_up, from_down, touched: false }
    }
}

/// More cores than any machine that this is run on; a [`ShardSet`] is one word.
pub const SHARDS_MAX: usize = 128;

/// Some of the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardSet(u128);

impl ShardSet {
    /// This one.
    pub const fn one(shard: usize) -> Self {
        Self(1 << shard)
    }

    /// All but `me` of `shards` shards.
    pub const fn others(me: usize, shards: usize) -> Self {
        Self(u128::MAX >> (SHARDS_MAX - shards) & !(1 << me))
    }

    /// Adds `shard`.
    pub const fn insert(&mut self, shard: usize) {
        self.0 |= 1 << shard;
    }

    /// Removes `shard`.
    pub const fn remove(&mut self, shard: usize) {
        self.0 &= !(1 << shard);
    }

    /// Whether `shard` is in it.
    pub const fn contains(self, shard: usize) -> bool {
        self.0 & (1 << shard) != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
