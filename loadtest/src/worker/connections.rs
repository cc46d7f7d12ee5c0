//! A worker's clients with their connections: who connects, reads, publishes and goes, and what that counts for.

use mio::{Interest, Registry, Token};

use super::arrivals::{self, Arrivals, Next, Undialled};
use super::client::{Client, Event, Gone, Phase, Readiness, Reading};
use super::hearing::Hearing;
use super::place;
use super::receivers::Receivers;
use super::slot::Slot;
use super::speech::Speech;
use crate::clock::{self, MILLISECOND};
use crate::message::Assignment;
use crate::plan::{Plan, Reading as Manner, Speech as Speaking};
use crate::tally::Tally;
use crate::wire::Asked;

/// A client gives way to the others after so many bytes.
const READ_BUDGET: usize = 256 * 1024;

/// Slow readers read so often.
const SLOW_NS: u64 = 100 * MILLISECOND;

/// How far the run is, as far as the clients need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing has been published.
    Before,
    /// Messages are published, or were.
    Running,
    /// What is in flight is waited for.
    Draining,
}

/// The clients of a worker.
pub struct Connections {
    assignment: Assignment,
    registry: Registry,
    receivers: Receivers,
    reading: Reading,
    arrivals: Arrivals,
    speech: Speech,
    stage: Stage,
    /// Clients that had more to read than they were allowed to at a time.
    unfinished: Vec<usize>,
    /// Not told yet.
    tally: Tally,
    next_slow_ns: u64,
}

impl Connections {
    /// Nobody is connected yet. Clients are registered under their numbers, from 0.
    ///
    /// # Errors
    /// One sentence: the certificates cannot be read.
    pub fn new(assignment: Assignment, registry: Registry, now: u64) -> Result<Self, String> {
        Ok(Self {
            registry,
            receivers: Receivers::new(&assignment),
            reading: Reading::default(),
            arrivals: Arrivals::new(&assignment, now)?,
            speech: Speech::new(&assignment),
            stage: Stage::Before,
            unfinished: Vec::new(),
            tally: Tally::default(),
            next_slow_ns: now,
            assignment,
        })
    }

    /// What is to be done.
    pub const fn plan(&self) -> &Plan {
        &self.assignment.plan
    }

    /// Clients that are connected.
    pub const fn connected(&self) -> u32 {
        self.arrivals.connected()
    }

    /// Everybody who was wanted at first is connected, or cannot be.
    pub fn all_have_settled(&self) -> bool {
        self.arrivals.all_have_settled()
    }

    /// The first stage begins.
    pub fn begin(&mut self, at_ns: u64) {
        self.stage = Stage::Running;
        self.speech.begin(at_ns);
        self.arrivals.begin(at_ns);
        self.receivers.begin();
    }

    /// Nothing more is published here, and nobody connects any more. Our speakers, and what each of them has published.
    pub fn end_stages(&mut self) -> Vec<(u32, u32)> {
        self.stage = Stage::Running;
        self.speech.end();
        self.arrivals.end();
        self.speech.said()
    }

    /// No worker publishes anything more: so many messages of each speaker there were.
    pub fn drain(&mut self, said_by_all: Vec<u32>) {
        self.stage = Stage::Draining;
        self.receivers.settle(&self.assignment, said_by_all);
    }

    /// Whether nothing is in flight any more.
    pub fn is_complete(&self) -> bool {
        self.receivers.is_complete(&self.assignment)
    }

    /// Counts what was missed. Returns how many messages of each speaker were heard, and how long each storm took.
    pub fn close(&mut self) -> (Vec<u32>, Vec<Option<u64>>) {
        self.tally.lost += self.receivers.lost(&self.assignment);
        self.tally.not_recovered += self.receivers.not_recovered();
        (self.receivers.heard_of_all(&self.assignment), self.arrivals.storms())
    }

    /// What was counted since the last time.
    pub fn take_tally(&mut self) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        tally.bytes = std::mem::take(&mut self.reading.bytes);
        tally
    }

    /// What is to be done once a second.
    pub fn each_second(&mut self, now: u64) {
        self.receivers.forget(&self.assignment);
        self.speech.unstick(now, self.assignment.plan.patience_ns);
    }

    /// Clients that are to be read again before anything is waited for.
    pub fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    /// When something is due next, of what can be due at any moment.
    pub fn next_ns(&self, now: u64) -> u64 {
        if self.unfinished.is_empty() { self.speech.next_ns() } else { now }
    }

    /// Opens, closes and gives up connections as the plan wants it.
    ///
    /// # Errors
    /// One sentence: no client can connect.
    pub fn arrive(&mut self, now: u64) -> Result<(), String> {
        while let Some(local) = self.arrivals.due(now) {
            self.dial(local, now)?;
        }
        while let Some((local, begun_ns)) = self.arrivals.overdue(now) {
            self.give_up(local, begun_ns);
        }
        if let Some(returns_ns) = self.arrivals.storm_is_due(now) {
            for local in 0..self.receivers.len() {
                // Somebody must go on talking for there to be something that the others miss.
                if !self.plan().resume || self.assignment.global(local) >= self.plan().speakers {
                    self.cut(local, returns_ns);
                }
            }
        }
        while let Some(local) = self.arrivals.leaver(now, self.receivers.len()) {
            let global = self.assignment.global(local);
            if global >= self.plan().speakers && self.plan().reading(global) == Manner::AtOnce {
                self.leave(local);
            }
        }
        while let Some(local) = self.arrivals.surplus(&self.assignment, now) {
            self.leave(local);
        }
        Ok(())
    }

    fn dial(&mut self, local: usize, now: u64) -> Result<(), String> {
        let slot = self.receivers.slot_mut(local);
        if slot.client.is_some() {
            return Ok(());
        }
        let was_at = slot.place.as_deref();
        slot.returning = was_at.map(|_| place::Return::default());
        let plan = &self.assignment.plan;
        let mut client = match self.arrivals.dial(plan, self.assignment.global(local), was_at, now) {
            Ok(client) => Box::new(client),
            Err(Undialled::All(why)) => return Err(why),
            Err(Undialled::One(why)) => {
                self.tally.error(why);
                let next = if plan.reconnect { Next::Retry } else { Next::Never };
                self.arrivals.gone(local, Phase::Handshake, next, now);
                return Ok(());
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.registry.register(client.transport().socket(), Token(local), interest);
        registered.map_err(|error| error.to_string())?;
        slot.client = Some(client);
        Ok(())
    }

    /// Patience has ended with the connection that was begun then.
    fn give_up(&mut self, local: usize, begun_ns: u64) {
        let client = self.receivers.slot(local).client.as_ref().filter(|client| client.begun_ns == begun_ns);
        let Some(client) = client else { return };
        match client.phase {
            Phase::Handshake => {
                self.gone(local, Gone::Lost("the handshake was not answered in time".to_owned()))
            }
            Phase::Joining => self.gone(local, Gone::Lost("joining was not answered in time".to_owned())),
            Phase::Leaving => self.gone(local, Gone::Left),
            Phase::Open => {}
        }
    }

    /// Ends a connection as a broken network does; the client comes back at `returns_ns`.
    fn cut(&mut self, local: usize, returns_ns: u64) {
        let slot = self.receivers.slot_mut(local);
        let Some(client) = &mut slot.client else { return };
        slot.cut = true;
        let _ =
            socket2::SockRef::from(&*client.transport().socket()).set_linger(Some(std::time::Duration::ZERO));
        self.gone(local, Gone::Cut(returns_ns));
    }

    /// Sends a Close; the server closes the connection.
    fn leave(&mut self, local: usize) {
        let key = self.speech.key();
        let Some(client) = &mut self.receivers.slot_mut(local).client else { return };
        if client.phase != Phase::Open {
            return;
        }
        client.leave(key);
        self.arrivals.leaves(local, client.begun_ns, clock::now());
        if let Err(gone) = client.flush() {
            self.gone(local, gone);
        }
    }

    /// The kernel says something of a client's socket.
    pub fn ready(&mut self, local: usize, Readiness { readable, writable, ended }: Readiness) {
        if writable {
            let client = self.receivers.slot_mut(local).client.as_mut();
            if let Err(gone) = client.map_or(Ok(()), |client| client.flush()) {
                return self.gone(local, gone);
            }
        }
        let manner = self.plan().reading(self.assignment.global(local));
        if manner == Manner::AtOnce || !self.is_in(local) {
            if readable || ended {
                self.read(local, READ_BUDGET);
            }
        } else if ended {
            // What it has not read will not tell it.
            self.gone(local, Gone::Lost("the server closed the connection".to_owned()));
        }
    }

    fn is_in(&self, local: usize) -> bool {
        self.receivers.slot(local).client.as_ref().is_some_and(|client| client.phase == Phase::Open)
    }

    /// Those that read slowly do so whether there is something or not; so they learn, too, that they were closed.
    pub fn read_slowly(&mut self, now: u64) {
        if now < self.next_slow_ns || self.plan().slow_read == 0 {
            return;
        }
        self.next_slow_ns = now + SLOW_NS;
        let budget = (self.plan().read_rate / 10).max(1) as usize;
        for local in 0..self.receivers.len() {
            let manner = self.plan().reading(self.assignment.global(local));
            if manner == Manner::Slowly && self.is_in(local) {
                self.read(local, budget);
            }
        }
    }

    fn read(&mut self, local: usize, budget: usize) {
        let global = self.assignment.global(local);
        let (slot, hearing) = self.receivers.slot_and_hearing(local);
        let Some(mut client) = slot.client.take() else { return };
        let plan = &self.assignment.plan;
        let asked = Asked {
            key: arrivals::key(plan, global, client.begun_ns),
            subprotocol: plan.target.dialect.subprotocol.as_deref(),
            deflate: plan.target.deflate,
        };
        let mut receiver = Receiver {
            plan,
            local,
            global,
            running: self.stage != Stage::Before,
            slot,
            hearing,
            arrivals: &mut self.arrivals,
            speech: &mut self.speech,
            tally: &mut self.tally,
            now: None,
        };
        let outcome =
            client.read(budget, asked, &mut self.reading, &mut |client, event| receiver.event(client, event));
        let opened_now = client.phase == Phase::Open && receiver.now.is_some();
        let flushed = client.flush();
        self.receivers.slot_mut(local).client = Some(client);
        match outcome.and_then(|more| flushed.map(|()| more)) {
            Ok(true) if self.plan().reading(global) == Manner::AtOnce => self.unfinished.push(local),
            Ok(_) => {}
            Err(gone) => return self.gone(local, gone),
        }
        if opened_now && self.plan().close && self.stage != Stage::Draining {
            self.leave(local);
        }
        self.publish_again();
    }

    /// Takes a client out, whose connection is gone.
    fn gone(&mut self, local: usize, how: Gone) {
        let (slot, hearing) = self.receivers.slot_and_hearing(local);
        let Some(client) = slot.client.take() else { return };
        let plan = &self.assignment.plan;
        let was_in = matches!(client.phase, Phase::Open | Phase::Leaving);
        let global = self.assignment.global(local);
        let at_once = plan.reading(global) == Manner::AtOnce;
        let room = &mut hearing.rooms[plan.room_of(global) as usize];
        room.settle(&mut slot.listener);
        if was_in && at_once && slot.place.is_none() {
            self.tally.lost += slot.listener.missing();
        }
        self.speech.cut_off(plan, global, room);
        let next = match how {
            Gone::Left => Next::AtOnce,
            Gone::Cut(returns_ns) => Next::At(returns_ns),
            Gone::Lost(_) if plan.reconnect => Next::Retry,
            Gone::Lost(_) => Next::Never,
        };
        match how {
            Gone::Left | Gone::Cut(_) => {}
            Gone::Lost(_) if was_in && !at_once => self.tally.slow_closed += 1,
            Gone::Lost(why) => self.tally.error(why),
        }
        self.arrivals.gone(local, client.phase, next, clock::now());
    }

    /// Publishes what is due.
    pub fn publish(&mut self, now: u64) {
        while let Some((speaker, intended_ns)) = self.speech.due(now) {
            self.say(speaker, intended_ns, now);
        }
    }

    /// Publishes what is due since something was received.
    fn publish_again(&mut self) {
        while let Some(speaker) = self.speech.again() {
            let now = clock::now();
            self.say(speaker, now, now);
        }
    }

    fn say(&mut self, speaker: u32, intended_ns: u64, now: u64) {
        let local = self.assignment.local(speaker);
        let client = self.receivers.slot_mut(local).client.as_deref_mut();
        let Some(client) = client.filter(|client| client.phase == Phase::Open) else {
            self.tally.unsaid += 1;
            return;
        };
        self.speech.say(&self.assignment.plan, speaker, intended_ns, client);
        self.tally.said += 1;
        if matches!(self.assignment.plan.speech, Speaking::Paced) {
            self.tally.lateness.record_ns(now.saturating_sub(intended_ns));
        }
        if let Err(gone) = client.flush() {
            self.gone(local, gone);
        }
    }
}

/// What one client's bytes act on while they are read.
struct Receiver<'w> {
    plan: &'w Plan,
    local: usize,
    global: u32,
    /// Messages are published, or were.
    running: bool,
    slot: &'w mut Slot,
    hearing: &'w mut Hearing,
    arrivals: &'w mut Arrivals,
    speech: &'w mut Speech,
    tally: &'w mut Tally,
    /// When the first of these bytes were looked at.
    now: Option<u64>,
}

impl Receiver<'_> {
    fn event(&mut self, client: &mut Client, event: Event<'_>) {
        let now = *self.now.get_or_insert_with(clock::now);
        let Self { plan, slot, hearing, speech, tally, .. } = self;
        let is_in = match event {
            Event::Upgraded => speech.join(plan, self.global, client, slot.place.as_deref()),
            Event::Message(payload) if client.phase == Phase::Joining => {
                speech.answer(plan, client, payload);
                slot.hears(plan, payload);
                if let Some(returning) = &mut slot.returning {
                    let listener = &mut slot.listener;
                    returning.caught_up += hearing.catches_up(plan, self.global, payload, listener, tally);
                }
                hearing.tells_joined(plan, payload, tally)
            }
            Event::Message(payload) => {
                slot.hears(plan, payload);
                hearing.heard(plan, self.global, now, payload, &mut slot.listener, tally, speech);
                speech.answer(plan, client, payload);
                false
            }
        };
        if is_in {
            client.phase = Phase::Open;
            self.arrivals.is_in(self.local);
            self.tally.handshakes += 1;
            self.tally.handshake.record_ns(now - client.begun_ns);
            let room = &self.hearing.rooms[self.plan.room_of(self.global) as usize];
            self.slot.comes_in(self.plan, room, self.running, now, self.tally);
        }
    }
}
