//! One worker: a process with one thread and one event loop, which holds its share of the clients. It is told what to do by
//! the parent (`crew`) through its standard input, and tells what it has seen through its standard output, a line of JSON each.

mod arrivals;
mod client;
mod hearing;
mod message;
mod place;
mod slot;
mod speech;

use mio::unix::SourceFd;
use mio::unix::pipe::Receiver;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::AsFd;
use std::io::{self, ErrorKind, Read, Write};

use crate::clock::{self, Alarm, MILLISECOND, SECOND};
use crate::plan::{Plan, Reading as Manner, Speech as Speaking};
use crate::tally::Tally;
use crate::wire::Asked;
use arrivals::{Arrivals, Next, Undialled};
use client::{Event, Gone, Phase, Readiness, Reading};
use hearing::Hearing;
use slot::Slot;
use speech::Speech;

pub use message::{Assignment, Command, End, Notice, Tick};
pub use speech::nanos;

/// Where the run is.
enum Act {
    /// Clients come in.
    Gathering,
    /// They are in; the others' may not be.
    Waiting,
    /// From here to there.
    Talking(u64, u64),
    /// The others may still talk.
    Spoken,
    /// Until then, for what is still on its way.
    Listening(u64),
    /// Over.
    Over,
}

const ALARM: Token = Token(usize::MAX - 1);
const PARENT: Token = Token(usize::MAX - 2);

/// Between two looks at the clock for what is to be said, at most so many clients are read.
const READS_BETWEEN: usize = 32;

/// A client gives way to the others after so many bytes.
const READ_BUDGET: usize = 256 * 1024;

/// What can wait is looked at so often.
const TURN_NS: u64 = 10 * MILLISECOND;

/// Slow readers read so often.
const SLOW_NS: u64 = 100 * MILLISECOND;

struct Worker {
    assignment: Assignment,
    act: Act,
    poll: Poll,
    parent: Receiver,
    /// What has come of a line of the parent's.
    line: Vec<u8>,
    alarm: Alarm,
    slots: Vec<Slot>,
    reading: Reading,
    arrivals: Arrivals,
    speech: Speech,
    hearing: Hearing,
    /// Clients that had more to read than they were allowed to at a time.
    unfinished: Vec<usize>,
    /// Not told yet.
    tally: Tally,
    second: u64,
    next_slow_ns: u64,
    next_check_ns: u64,
    cpu_before: u64,
    memory_before: u64,
    end: End,
    said_by_all: Vec<u32>,
}

/// Does as it is told until it is over.
pub fn run() {
    if let Err(why) = Worker::hired().and_then(|mut worker| worker.work()) {
        tell(&Notice::Failed(why));
    }
}

fn own_memory() -> u64 {
    crate::process::memory(std::process::id()).unwrap_or(0)
}

fn tell(notice: &Notice) {
    let mut line = serde_json::to_vec(notice).unwrap_or_default();
    line.push(b'\n');
    // If nobody listens, the end of the standard input tells.
    let _ = io::stdout().write_all(&line);
}

impl Worker {
    fn hired() -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let descriptor = io::stdin().as_fd().try_clone_to_owned().map_err(text)?;
        let mut parent = Receiver::from(descriptor);
        let mut line = Vec::new();
        // Byte by byte, so that nothing of the next line is taken: that is for the event loop.
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            parent.read_exact(&mut byte).map_err(text)?;
            line.push(byte[0]);
        }
        let assignment: Assignment = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let plan = &assignment.plan;
        if let Some(&core) = plan.pin.get(assignment.index as usize % plan.pin.len().max(1)) {
            let mut cores = rustix::thread::CpuSet::new();
            cores.set(core);
            rustix::thread::sched_setaffinity(None, &cores)
                .map_err(|error| format!("--pin {core}: {error}"))?;
        }
        let poll = Poll::new().map_err(text)?;
        parent.set_nonblocking(true).map_err(text)?;
        poll.registry().register(&mut parent, PARENT, Interest::READABLE).map_err(text)?;
        let alarm = Alarm::new().map_err(text)?;
        poll.registry()
            .register(&mut SourceFd(&alarm.descriptor()), ALARM, Interest::READABLE)
            .map_err(text)?;
        let count = (plan.clients + assignment.of - 1 - assignment.index) / assignment.of;
        let now = clock::now();
        Ok(Self {
            act: Act::Gathering,
            poll,
            parent,
            line: Vec::new(),
            alarm,
            slots: (0..count).map(|_| Slot::default()).collect(),
            reading: Reading::default(),
            arrivals: Arrivals::new(&assignment, now)?,
            speech: Speech::new(&assignment),
            hearing: Hearing::new(plan),
            unfinished: Vec::new(),
            tally: Tally::default(),
            second: (now.saturating_sub(assignment.epoch_ns)) / SECOND,
            next_slow_ns: now,
            next_check_ns: now,
            cpu_before: 0,
            memory_before: own_memory(),
            end: End::default(),
            said_by_all: Vec::new(),
            assignment,
        })
    }

    const fn plan(&self) -> &Plan {
        &self.assignment.plan
    }

    /// The client's number among those of all workers.
    const fn global(&self, local: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "there are no more clients than a u32 counts")]
        let local = local as u32;
        local * self.assignment.of + self.assignment.index
    }

    fn work(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let mut ready = Vec::with_capacity(1024);
        while !matches!(self.act, Act::Over) {
            let now = clock::now();
            self.arrive(now)?;
            // What is due by the end is said before it ends, however late it is.
            self.speak(now);
            self.go_on(now);
            self.read_slowly(now);
            self.tick(now);
            let wake =
                if self.unfinished.is_empty() { self.speech.next_ns().min(now + TURN_NS) } else { now };
            self.alarm.set(wake);
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|error| error.to_string())?,
            }
            let unfinished = std::mem::take(&mut self.unfinished).into_iter();
            ready.extend(
                unfinished.map(|local| (Token(local), Readiness { readable: true, ..Readiness::default() })),
            );
            ready.extend(events.iter().map(|event| (event.token(), Readiness::from(event))));
            for (count, (token, readiness)) in ready.drain(..).enumerate() {
                if count % READS_BETWEEN == READS_BETWEEN - 1 {
                    self.speak(clock::now());
                }
                match token {
                    ALARM => self.alarm.rang(),
                    PARENT => self.obey()?,
                    Token(local) => self.client_ready(local, readiness),
                }
            }
        }
        tell(&Notice::Done(std::mem::take(&mut self.end)));
        Ok(())
    }

    /// Reads what the parent wants.
    fn obey(&mut self) -> Result<(), String> {
        let mut bytes = [0; 4096];
        loop {
            match self.parent.read(&mut bytes) {
                Ok(0) => return Err("the parent is gone".to_owned()),
                Ok(len) => self.line.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            while let Some(end) = memchr::memchr(b'\n', &self.line) {
                let rest = self.line.split_off(end + 1);
                let line = std::mem::replace(&mut self.line, rest);
                let command = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
                self.command(command);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Begin(at_ns) => {
                let length = crate::pace::length(&self.plan().stages);
                self.cpu_before = clock::cpu_used();
                self.speech.begin(at_ns);
                self.arrivals.begin(at_ns);
                for slot in &mut self.slots {
                    slot.from_the_begin =
                        slot.client.as_ref().is_some_and(|client| client.phase == Phase::Open);
                }
                self.act = Act::Talking(at_ns, at_ns + nanos(length));
            }
            Command::Finish(said) => {
                self.said_by_all = said;
                self.settle();
                self.act = Act::Listening(clock::now() + self.plan().patience_ns);
            }
            Command::Stop => match self.act {
                Act::Gathering | Act::Waiting | Act::Talking(..) => self.spoken(clock::now()),
                Act::Spoken | Act::Over => {}
                Act::Listening(_) => self.act = Act::Listening(0),
            },
        }
    }

    /// Nobody comes any more: those who came last get their places.
    fn settle(&mut self) {
        for room in &mut self.hearing.rooms {
            room.close();
        }
        for local in 0..self.slots.len() {
            let room = self.plan().room_of(self.global(local)) as usize;
            self.hearing.rooms[room].settle(&mut self.slots[local].listener);
        }
    }

    /// Begins the next act if this one is over.
    fn go_on(&mut self, now: u64) {
        match self.act {
            Act::Gathering if self.arrivals.all_have_settled() => {
                self.tell_second();
                tell(&Notice::Gathered);
                self.act = Act::Waiting;
            }
            Act::Talking(_, until) if now >= until => self.spoken(now),
            Act::Listening(until) if now >= self.next_check_ns || now >= until => {
                self.next_check_ns = now + 2 * TURN_NS;
                if now >= until || self.everything_is_heard() {
                    self.close_the_books();
                }
            }
            Act::Gathering
            | Act::Waiting
            | Act::Talking(..)
            | Act::Spoken
            | Act::Listening(_)
            | Act::Over => {}
        }
    }

    fn spoken(&mut self, now: u64) {
        if let Act::Talking(from, _) = self.act {
            self.end.cpu_ns = clock::cpu_used().saturating_sub(self.cpu_before);
            self.end.talked_ns = now.saturating_sub(from);
        }
        self.speech.end();
        self.arrivals.end();
        self.tell_second();
        tell(&Notice::Spoken(self.speech.said()));
        self.act = Act::Spoken;
    }

    fn everything_is_heard(&self) -> bool {
        let mut rooms = vec![false; self.hearing.rooms.len()];
        let complete = self.present().all(|(room, slot)| {
            rooms[room] = true;
            self.hearing.rooms[room].is_complete(&slot.listener)
        });
        let known = |room| self.hearing.unheard_in(self.plan(), room, &self.said_by_all) == 0;
        complete && rooms.iter().enumerate().all(|(room, &has_members)| !has_members || known(room))
    }

    /// The clients that are in and read at once, with their rooms.
    fn present(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter_map(|(local, slot)| {
            let global = self.global(local);
            let there =
                slot.client.as_ref()?.phase == Phase::Open && self.plan().reading(global) == Manner::AtOnce;
            there.then_some((self.plan().room_of(global) as usize, slot))
        })
    }

    /// Counts what was missed, tells the last second, and ends.
    fn close_the_books(&mut self) {
        let mut lost = 0;
        for (room, slot) in self.present() {
            lost += self.hearing.rooms[room].missed(&slot.listener);
            if slot.from_the_begin {
                lost += self.hearing.unheard_in(self.plan(), room, &self.said_by_all);
            }
        }
        self.tally.lost += lost;
        self.tally.not_recovered +=
            self.slots.iter().filter(|slot| slot.place.is_some() && slot.cut).count() as u64;
        self.end.heard = self.hearing.heard_of_all(self.plan());
        self.end.storms = self.arrivals.storms();
        self.end.memory = own_memory().saturating_sub(self.memory_before);
        self.tell_second();
        self.act = Act::Over;
    }

    fn tick(&mut self, now: u64) {
        let second = now.saturating_sub(self.assignment.epoch_ns) / SECOND;
        if second > self.second {
            self.tell_second();
            self.second = second;
            self.forget();
            self.speech.unstick(now, self.assignment.plan.patience_ns);
        }
    }

    fn tell_second(&mut self) {
        let mut tally = std::mem::take(&mut self.tally);
        tally.bytes = std::mem::take(&mut self.reading.bytes);
        let tick = Tick { second: self.second, tally, connected: self.arrivals.connected() };
        tell(&Notice::Tick(Box::new(tick)));
    }

    /// What everybody has heard need not be kept. Whoever is about to leave still hears.
    fn forget(&mut self) {
        let mut floors = vec![u64::MAX; self.hearing.rooms.len()];
        for (local, slot) in self.slots.iter().enumerate() {
            let phase = slot.client.as_ref().map(|client| client.phase);
            let global = self.global(local);
            let hears = matches!(phase, Some(Phase::Open | Phase::Leaving));
            // Whoever comes back to its place goes on from there.
            if (hears || slot.place.is_some()) && self.plan().reading(global) == Manner::AtOnce {
                let floor = &mut floors[self.plan().room_of(global) as usize];
                *floor = slot.listener.floor().min(*floor);
            }
        }
        for (room, floor) in self.hearing.rooms.iter_mut().zip(floors) {
            room.forget_before(floor);
        }
    }

    /// Opens, closes and gives up connections as the plan wants it.
    fn arrive(&mut self, now: u64) -> Result<(), String> {
        while let Some(local) = self.arrivals.due(now) {
            if self.slots[local].client.is_some() {
                continue;
            }
            let global = self.global(local);
            let slot = &mut self.slots[local];
            let was_at = slot.place.as_deref();
            slot.returning = was_at.map(|_| place::Return::default());
            let mut client = match self.arrivals.dial(&self.assignment.plan, global, was_at, now) {
                Ok(client) => Box::new(client),
                Err(Undialled::All(why)) => return Err(why),
                Err(Undialled::One(why)) => {
                    self.tally.error(why);
                    let next = if self.plan().reconnect { Next::Retry } else { Next::Never };
                    self.arrivals.gone(local, Phase::Handshake, next, now);
                    continue;
                }
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered =
                self.poll.registry().register(client.transport().socket(), Token(local), interest);
            registered.map_err(|error| error.to_string())?;
            self.slots[local].client = Some(client);
        }
        while let Some((local, begun_ns)) = self.arrivals.overdue(now) {
            let client = self.slots[local].client.as_ref().filter(|client| client.begun_ns == begun_ns);
            let Some(client) = client else { continue };
            match client.phase {
                Phase::Handshake => {
                    self.gone(local, Gone::Lost("the handshake was not answered in time".to_owned()))
                }
                Phase::Joining => self.gone(local, Gone::Lost("joining was not answered in time".to_owned())),
                Phase::Leaving => self.gone(local, Gone::Left),
                Phase::Open => {}
            }
        }
        if let Some(returns_ns) = self.arrivals.storm_is_due(now) {
            for local in 0..self.slots.len() {
                // Somebody must go on talking for there to be something that the others miss.
                if !self.plan().resume || self.global(local) >= self.plan().speakers {
                    self.cut(local, returns_ns);
                }
            }
        }
        while let Some(local) = self.arrivals.leaver(now, self.slots.len()) {
            let global = self.global(local);
            if global >= self.plan().speakers && self.plan().reading(global) == Manner::AtOnce {
                self.leave(local);
            }
        }
        while let Some(local) = self.arrivals.surplus(&self.assignment, now) {
            self.leave(local);
        }
        Ok(())
    }

    /// Ends a connection as a broken network does; the client comes back at `returns_ns`.
    fn cut(&mut self, local: usize, returns_ns: u64) {
        let slot = &mut self.slots[local];
        let Some(client) = &mut slot.client else { return };
        slot.cut = true;
        let _ =
            socket2::SockRef::from(&*client.transport().socket()).set_linger(Some(std::time::Duration::ZERO));
        self.gone(local, Gone::Cut(returns_ns));
    }

    /// Says goodbye; the server closes.
    fn leave(&mut self, local: usize) {
        let key = self.speech.key();
        let Some(client) = &mut self.slots[local].client else { return };
        if client.phase != Phase::Open {
            return;
        }
        client.leave(key);
        self.arrivals.leaves(local, client.begun_ns, clock::now());
        if let Err(gone) = client.flush() {
            self.gone(local, gone);
        }
    }

    fn client_ready(&mut self, local: usize, Readiness { readable, writable, ended }: Readiness) {
        if writable {
            let flushed = self.slots[local].client.as_mut().map_or(Ok(()), |client| client.flush());
            if let Err(gone) = flushed {
                return self.gone(local, gone);
            }
        }
        if self.plan().reading(self.global(local)) == Manner::AtOnce || !self.is_in(local) {
            if readable || ended {
                self.read(local, READ_BUDGET);
            }
        } else if ended {
            // What it has not read will not tell it.
            self.gone(local, Gone::Lost("the server closed the connection".to_owned()));
        }
    }

    fn is_in(&self, local: usize) -> bool {
        self.slots[local].client.as_ref().is_some_and(|client| client.phase == Phase::Open)
    }

    /// Those that read slowly do so whether there is something or not; so they learn, too, that they were closed.
    fn read_slowly(&mut self, now: u64) {
        if now < self.next_slow_ns || self.plan().slow_read == 0 {
            return;
        }
        self.next_slow_ns = now + SLOW_NS;
        let budget = (self.plan().read_rate / 10).max(1) as usize;
        for local in 0..self.slots.len() {
            if self.plan().reading(self.global(local)) == Manner::Slowly && self.is_in(local) {
                self.read(local, budget);
            }
        }
    }

    fn read(&mut self, local: usize, budget: usize) {
        let global = self.global(local);
        let Some(mut client) = self.slots[local].client.take() else { return };
        let plan = &self.assignment.plan;
        let asked = Asked {
            key: arrivals::key(plan, global, client.begun_ns),
            subprotocol: plan.target.dialect.subprotocol.as_deref(),
            deflate: plan.target.deflate,
        };
        let talking = matches!(self.act, Act::Talking(..) | Act::Spoken | Act::Listening(_));
        let (hearing, tally, speech) = (&mut self.hearing, &mut self.tally, &mut self.speech);
        let (slot, arrivals) = (&mut self.slots[local], &mut self.arrivals);
        let mut now = 0;
        let outcome = client.read(budget, asked, &mut self.reading, &mut |client, event| {
            if now == 0 {
                now = clock::now();
            }
            let is_in = match event {
                Event::Upgraded => speech.join(plan, global, client, slot.place.as_deref()),
                Event::Message(payload) if client.phase == Phase::Joining => {
                    speech.answer(plan, client, payload);
                    slot.hears(plan, payload);
                    if let Some(returning) = &mut slot.returning {
                        let listener = &mut slot.listener;
                        returning.caught_up += hearing.catches_up(plan, global, payload, listener, tally);
                    }
                    hearing.tells_joined(plan, payload, tally)
                }
                Event::Message(payload) => {
                    slot.hears(plan, payload);
                    hearing.heard(plan, global, now, payload, &mut slot.listener, tally, speech);
                    speech.answer(plan, client, payload);
                    false
                }
            };
            if is_in {
                client.phase = Phase::Open;
                arrivals.is_in(local);
                tally.handshakes += 1;
                tally.handshake.record_ns(now - client.begun_ns);
                let room = &hearing.rooms[plan.room_of(global) as usize];
                slot.comes_in(plan, room, talking, now, tally);
            }
        });
        let opened_now = client.phase == Phase::Open && now > 0;
        let flushed = client.flush();
        self.slots[local].client = Some(client);
        match outcome.and_then(|more| flushed.map(|()| more)) {
            Ok(true) if self.plan().reading(global) == Manner::AtOnce => self.unfinished.push(local),
            Ok(_) => {}
            Err(gone) => return self.gone(local, gone),
        }
        if opened_now && self.plan().close && !matches!(self.act, Act::Listening(_)) {
            self.leave(local);
        }
        self.speak_again();
    }

    /// Takes a client out, whose connection is gone.
    fn gone(&mut self, local: usize, how: Gone) {
        let Some(client) = self.slots[local].client.take() else { return };
        let was_in = matches!(client.phase, Phase::Open | Phase::Leaving);
        let global = self.global(local);
        let manner = self.plan().reading(global);
        let room = &mut self.hearing.rooms[self.assignment.plan.room_of(global) as usize];
        room.settle(&mut self.slots[local].listener);
        if was_in && manner == Manner::AtOnce && self.slots[local].place.is_none() {
            self.tally.lost += self.slots[local].listener.missing();
        }
        self.speech.cut_off(&self.assignment.plan, global, room);
        let next = match how {
            Gone::Left => Next::AtOnce,
            Gone::Cut(returns_ns) => Next::At(returns_ns),
            Gone::Lost(_) if self.plan().reconnect => Next::Retry,
            Gone::Lost(_) => Next::Never,
        };
        match how {
            Gone::Left | Gone::Cut(_) => {}
            Gone::Lost(_) if was_in && manner != Manner::AtOnce => self.tally.slow_closed += 1,
            Gone::Lost(why) => self.tally.error(why),
        }
        self.arrivals.gone(local, client.phase, next, clock::now());
    }

    /// Says what is due.
    fn speak(&mut self, now: u64) {
        while let Some((speaker, intended_ns)) = self.speech.due(now) {
            self.say(speaker, intended_ns, now);
        }
    }

    /// Says what is due since something was heard.
    fn speak_again(&mut self) {
        while let Some(speaker) = self.speech.again() {
            let now = clock::now();
            self.say(speaker, now, now);
        }
    }

    fn say(&mut self, speaker: u32, intended_ns: u64, now: u64) {
        let local = (speaker / self.assignment.of) as usize;
        let client = self.slots[local].client.as_deref_mut().filter(|client| client.phase == Phase::Open);
        let Some(client) = client else {
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
