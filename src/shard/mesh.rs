//! The rings between shards. Plain data goes through them; what it means is not known here.
//!
//! Two rings for each ordered pair of shards. *Up* carries what a room's home must order or answer; *down*
//! carries what it has ordered and answered. Down can always be taken, for taking it sends nothing on; up is
//! taken only while every way down has room. So a full ring slows its writers and can never lock two shards
//! up. What a shard sends to itself takes the same two ways, through queues of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::hash::Seed;
use crate::base::spsc::{Doorbell, Receiver, RingLimits, Sender, Weigh, ring};
use crate::base::{SHARDS_MAX, ShardSet};

/// What each ring takes, unless it is built with less.
pub const RING: RingLimits = RingLimits { messages_max: 4096, bytes_max: 1 << 20 };

/// Messages taken from one other shard in one turn, on each way.
const MESSAGES_PER_TURN: usize = 1024;

/// A ring's writing end, with what did not fit yet. Every caller that fills `waiting` checks
/// [`Mesh::is_clear`] before it takes more work in, so it holds one turn's overshoot at most.
#[derive(Debug)]
struct Link<T> {
    ring: Sender<T>,
    waiting: VecDeque<T>,
}

impl<T: Weigh> Link<T> {
    const fn new(ring: Sender<T>) -> Self {
        Self { ring, waiting: VecDeque::new() }
    }

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
struct Peer<U, D> {
    id: usize,
    up: Link<U>,
    down: Link<D>,
    from_up: Receiver<U>,
    from_down: Receiver<D>,
    /// Messages that may still be taken in this turn, up and down.
    left: (usize, usize),
    /// Something was put into its rings since it was last woken.
    touched: bool,
}

/// The ends of the rings to a shard that was built anew, for one of the others.
#[derive(Debug)]
pub struct PeerEnds<U, D>(Peer<U, D>);

impl<U, D> PeerEnds<U, D> {
    /// The shard at the other end.
    pub const fn id(&self) -> usize {
        self.0.id
    }
}

/// What it takes to build the ends of one shard anew.
#[derive(Clone, Debug)]
pub struct Blueprint {
    shards: usize,
    seed: Seed,
    doorbells: Arc<[Doorbell]>,
    rings: RingLimits,
}

/// A rebuilt shard's mesh, and for each other shard (by its number) the ends that it must take.
pub type Rebuilt<U, D> = (Mesh<U, D>, Vec<(usize, PeerEnds<U, D>)>);

impl Blueprint {
    /// New rings between shard `me` and all others: its own ends, and those that the others must take
    /// ([`Mesh::replace_peer`]). What is in the old rings is lost.
    pub fn rebuild<U: Weigh, D: Weigh + Clone>(&self, me: usize) -> Rebuilt<U, D> {
        let mut mesh = Mesh::alone(me, self);
        let mut others = Vec::with_capacity(self.shards - 1);
        for other in (0..self.shards).filter(|&other| other != me) {
            let (mine, theirs) = Peer::pair(me, other, self.rings);
            mesh.peers.push(mine);
            others.push((other, PeerEnds(theirs)));
        }
        (mesh, others)
    }
}

/// One shard's ends of all rings.
#[derive(Debug)]
pub struct Mesh<U, D> {
    me: usize,
    shards: usize,
    seed: Seed,
    /// In the order of their ids, without `me`.
    peers: Vec<Peer<U, D>>,
    own_up: VecDeque<U>,
    own_down: VecDeque<D>,
    doorbells: Arc<[Doorbell]>,
    rings: RingLimits,
}

impl<U: Weigh, D: Weigh + Clone> Mesh<U, D> {
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
        let blueprint = Blueprint { shards, seed: seed.clone(), doorbells, rings };
        let mut meshes: Vec<_> = (0..shards).map(|me| Self::alone(me, &blueprint)).collect();
        for a in 0..shards {
            for b in a + 1..shards {
                let (of_a, of_b) = Peer::pair(a, b, rings);
                meshes[a].peers.push(of_a);
                meshes[b].peers.push(of_b);
            }
        }
        for mesh in &mut meshes {
            mesh.peers.sort_by_key(|peer| peer.id);
        }
        meshes
    }

    /// A shard's end without rings.
    fn alone(me: usize, blueprint: &Blueprint) -> Self {
        Self {
            me,
            shards: blueprint.shards,
            seed: blueprint.seed.clone(),
            peers: Vec::with_capacity(blueprint.shards - 1),
            own_up: VecDeque::new(),
            own_down: VecDeque::new(),
            doorbells: Arc::clone(&blueprint.doorbells),
            rings: blueprint.rings,
        }
    }

    /// What it takes to build a shard's ends anew.
    pub fn blueprint(&self) -> Blueprint {
        let Self { shards, rings, .. } = *self;
        Blueprint { shards, seed: self.seed.clone(), doorbells: Arc::clone(&self.doorbells), rings }
    }

    /// Takes the ends of the rings to a shard that was built anew. What was in flight to and from it is lost.
    pub fn replace_peer(&mut self, ends: PeerEnds<U, D>) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == ends.0.id) {
            *peer = ends.0;
        }
    }

    /// How many shards there are.
    pub const fn shards(&self) -> usize {
        self.shards
    }

    /// This shard's own number.
    pub const fn me(&self) -> usize {
        self.me
    }

    /// Which shard is the home of `room`.
    pub fn home(&self, room: &str) -> usize {
        self.seed.home(room, self.shards)
    }

    /// The seed that all shards share.
    pub const fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Begins a turn: as many messages may be taken again, and what had to wait goes into the rings that have
    /// room now.
    pub fn begin_turn(&mut self) {
        for peer in &mut self.peers {
            peer.left = (MESSAGES_PER_TURN, MESSAGES_PER_TURN);
            if !peer.up.is_clear() || !peer.down.is_clear() {
                peer.touched |= peer.up.flush() | peer.down.flush();
            }
        }
    }

    /// Sends `message` up to shard `to`, which may be this one.
    pub fn send_up(&mut self, to: usize, message: U) {
        match self.index_of(to) {
            None => self.own_up.push_back(message),
            Some(index) => {
                let peer = &mut self.peers[index];
                peer.touched |= peer.up.send(message);
            }
        }
    }

    /// Sends `message` down to shard `to`, which may be this one.
    pub fn send_down(&mut self, to: usize, message: D) {
        match self.index_of(to) {
            None => self.own_down.push_back(message),
            Some(index) => {
                let peer = &mut self.peers[index];
                peer.touched |= peer.down.send(message);
            }
        }
    }

    /// Sends `message` down to all shards in `to`.
    pub fn broadcast_down(&mut self, to: ShardSet, message: D) {
        for peer in &mut self.peers {
            if to.contains(peer.id) {
                peer.touched |= peer.down.send(message.clone());
            }
        }
        if to.contains(self.me) {
            self.own_down.push_back(message);
        }
    }

    /// The next message that has come up, and its sender; `None`: there is none, or a way down is full, or
    /// enough were taken in this turn.
    pub fn receive_up(&mut self) -> Option<(usize, U)> {
        if let Some(own) = self.own_up.pop_front() {
            return Some((self.me, own));
        }
        if self.peers.is_empty() || !self.is_clear_down() {
            return None;
        }
        self.peers.iter_mut().find_map(|peer| {
            peer.left.0 = peer.left.0.checked_sub(1)?;
            Some((peer.id, peer.from_up.receive()?))
        })
    }

    /// The next message that has come down; `None`: there is none, or enough were taken in this turn.
    pub fn receive_down(&mut self) -> Option<D> {
        if let Some(own) = self.own_down.pop_front() {
            return Some(own);
        }
        self.peers.iter_mut().find_map(|peer| {
            peer.left.1 = peer.left.1.checked_sub(1)?;
            peer.from_down.receive()
        })
    }

    /// Whether something that this shard has sent to itself waits to be taken.
    pub fn has_own(&self) -> bool {
        !self.own_up.is_empty() || !self.own_down.is_empty()
    }

    fn is_clear_down(&self) -> bool {
        self.peers.iter().all(|peer| peer.down.is_clear())
    }

    /// Whether nothing waits for room in a ring. While something does, a shard looks again soon instead of
    /// sleeping: the reader of a full ring does not ring back.
    pub fn is_clear(&self) -> bool {
        self.peers.iter().all(|peer| peer.up.is_clear() && peer.down.is_clear())
    }

    /// How many messages wait for room in a ring.
    pub fn waiting(&self) -> usize {
        let own = self.own_up.len() + self.own_down.len();
        self.peers.iter().map(|peer| peer.up.waiting.len() + peer.down.waiting.len()).sum::<usize>() + own
    }

    /// The next shard to be woken, at the end of a turn; call until `None`. At most one wake a turn each, and
    /// only for one that sleeps.
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
    /// What comes up is not taken while a way down is full, so it does not keep the shard awake either: it
    /// looks again soon ([`Mesh::is_clear`]).
    pub fn may_sleep(&self) -> bool {
        self.doorbells[self.me].announce_sleep();
        let takes_up = self.is_clear_down();
        let empty = |peer: &Peer<U, D>| peer.from_down.is_empty() && (peer.from_up.is_empty() || !takes_up);
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

    fn index_of(&self, id: usize) -> Option<usize> {
        match id.cmp(&self.me) {
            std::cmp::Ordering::Less => Some(id),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(id - 1),
        }
    }
}

impl<U: Weigh, D: Weigh> Peer<U, D> {
    /// Both ends of the rings between two shards: those of `a`, then those of `b`.
    fn pair(a: usize, b: usize, rings: RingLimits) -> (Self, Self) {
        let ((a_up, b_from_up), (b_up, a_from_up)) = (ring(rings), ring(rings));
        let ((a_down, b_from_down), (b_down, a_from_down)) = (ring(rings), ring(rings));
        (
            Self::new(b, a_up, a_down, a_from_up, a_from_down),
            Self::new(a, b_up, b_down, b_from_up, b_from_down),
        )
    }

    const fn new(
        id: usize,
        up: Sender<U>,
        down: Sender<D>,
        from_up: Receiver<U>,
        from_down: Receiver<D>,
    ) -> Self {
        Self {
            id,
            up: Link::new(up),
            down: Link::new(down),
            from_up,
            from_down,
            left: (0, 0),
            touched: false,
        }
    }
}
