//! The simulation itself: one agenda of what is to happen, and whose turn it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::checker::{Checker, Declined, OTHER_NODE, PublicationId};
use super::identity::SimAuthority;
use super::network::index_below;
use super::plain::PlainClient;
use super::scenario::{Act, Ending, Event, Leave, Look, Reading, Scenario, What};
use super::session::{Circumstances, ROOMS_MAX, Session};
use super::texts::published_text;
use super::world::World;
use super::{Report, Trace};
use crate::base::rng::Rng;
use crate::base::{SessionKey, Time};
use crate::chat::{AuthMode, Authority};
use crate::engine::PublishOutcome;
use crate::ws::{Deflater, Inflater};

/// When nothing has moved for so long, nothing will before the next timer: a multiple of the time after which
/// a shard looks again at what could not go on, and of the longest delay.
const REST: Duration = Duration::from_millis(25);

/// Longer than every timeout of the server: by then, every connection that is to be closed is.
const AFTERMATH: Duration = Duration::from_secs(120);

/// Turns without any movement that a shard may take, one directly after the other.
const IDLE_TURNS_MAX: u32 = 1_000;

/// What is on the agenda beside the scenario's events.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Due {
    /// A session sends.
    Send(usize, Vec<u8>),
    /// A session ends its stream.
    Fin(usize),
    /// A session reads.
    Read(usize),
    /// A socket that took less than it could takes more.
    Relieve(usize),
    /// The auth backend answers for a session. Nothing rests before.
    Decide(usize, SessionKey),
    /// A session polls again.
    Poll(usize),
    /// A client repeats messages without answers.
    Repeat(usize),
    /// A session's connection is reset, or its stream ended.
    Cut(usize, bool),
}

/// A running scenario.
pub(super) struct Simulation<'a> {
    pub(super) scenario: &'a Scenario,
    /// What reads the tokens.
    authority: Arc<SimAuthority>,
    pub(super) world: World,
    pub(super) checker: Checker,
    /// Nothing moves but queries: their answers must be exact.
    pub(super) exact: bool,
    pub(super) sessions: Vec<Session>,
    /// The session that each client has now.
    pub(super) current: Vec<Option<usize>>,
    /// What is known of clients of the plain protocol; one entry for each client.
    pub(super) plain: Vec<PlainClient>,
    pub(super) circumstances: Circumstances,
    pub(super) rng: Rng,
    pub(super) inflater: Inflater,
    pub(super) deflater: Deflater,
    pub(super) trace: Trace,
    /// The time without the clock's jumps, which only the server sees.
    pub(super) now: Time,
    jumped: Duration,
    agenda: BinaryHeap<Reverse<(Time, u64, Due)>>,
    noted: u64,
    /// Sessions without a decision of the auth backend.
    undecided: usize,
    next_event: usize,
    /// What another node has published last, by room.
    pub(super) elsewhere: [Option<PublicationId>; ROOMS_MAX],
    /// For each shard, when its next turn is due, and until when its thread stands still.
    turns: Vec<Time>,
    paused_until: Vec<Time>,
    idle_turns: Vec<u32>,
    moved_at: Time,
    rested: bool,
    pub(super) report: Report,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(scenario: &'a Scenario, trace: Trace) -> Self {
        let mut this = Self::idle(scenario, trace);
        this.checker.limited = this.circumstances.limits_publishing();
        this
    }

    fn idle(scenario: &'a Scenario, trace: Trace) -> Self {
        let authority = Arc::new(SimAuthority::default());
        let mut options = scenario.options.clone();
        if scenario.tokens {
            options.auth_mode = AuthMode::Token(Arc::clone(&authority) as Arc<dyn Authority>);
        }
        let world = {
            let Scenario { shards, seed, faults, engine, .. } = scenario;
            World::new(*shards, *seed, *faults, *engine, options.clone())
        };
        Self {
            scenario,
            authority,
            world,
            checker: Checker::default(),
            exact: false,
            sessions: Vec::new(),
            current: vec![None; scenario.clients.len()],
            plain: scenario.clients.iter().map(PlainClient::new).collect(),
            circumstances: Circumstances {
                pings: !options.ping_interval.is_zero(),
                room_log_bytes_max: options.room_log_bytes_max,
                options,
                changed: Time::ZERO,
                disturbed: false,
                jumped: false,
                paused: Duration::ZERO,
                engine_is_slow: scenario
                    .engine
                    .is_some_and(|late| late.completion_delay_max > Duration::from_millis(20)),
                draining: None,
            },
            rng: Rng::new(scenario.seed ^ 0x5349_4d00),
            inflater: Inflater::default(),
            deflater: Deflater::default(),
            trace,
            now: Time::ZERO,
            jumped: Duration::ZERO,
            agenda: BinaryHeap::new(),
            noted: 0,
            undecided: 0,
            next_event: 0,
            elsewhere: [None; ROOMS_MAX],
            turns: vec![Time::ZERO; scenario.shards],
            paused_until: vec![Time::ZERO; scenario.shards],
            idle_turns: vec![0; scenario.shards],
            moved_at: Time::ZERO,
            rested: false,
            report: Report::default(),
        }
    }

    /// Everything that the scenario holds, then its end.
    pub(super) fn run(mut self) -> Report {
        self.run_until(Time::NEVER, |sim| sim.next_event == sim.scenario.events.len());
        self.quiesce();
        self.report.gaps = self.checker.check_gaps();
        match self.scenario.ending {
            Ending::Leave => self.all_leave(),
            Ending::Drain => self.drain(),
        }
        self.run_until(self.now + AFTERMATH, |_| false);
        self.check_aftermath();
        self.report.simulated = self.now.since(Time::ZERO);
        self.report.published = u64::from(self.checker.count());
        let receivers = self.sessions.iter().flat_map(|session| &session.subs).map(|sub| &sub.receiver);
        self.report.received += receivers.clone().map(|receiver| receiver.received).sum::<u64>();
        self.report.missed = receivers.map(|receiver| receiver.missed).sum();
        self.report.sessions = self.sessions.len();
        self.report
    }

    /// Goes on to `end`, or until `enough`.
    fn run_until(&mut self, end: Time, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let event = self.scenario.events.get(self.next_event).map(|event| Time::ZERO + event.at);
            let due = self.agenda.peek().map(|Reverse((at, ..))| *at);
            let turn = (0..self.turns.len()).map(|id| (self.turns[id].max(self.paused_until[id]), id)).min();
            let (turn_at, id) = turn.unwrap_or((Time::NEVER, 0));
            let next = [event, due].into_iter().flatten().fold(turn_at, Time::min);
            let quiet_since = self.longest_pause().max(self.moved_at);
            if !self.rested
                && self.undecided == 0
                && !self.world.engine_waits()
                && next.since(quiet_since) > REST
            {
                self.rested = true;
                self.at_rest();
                if enough(self) {
                    return; // what comes next, a ping perhaps, would be the end of the rest
                }
            }
            if next >= end {
                self.pass_to(end);
                return;
            }
            self.pass_to(next);
            if turn_at == next {
                self.turn(id);
            } else if due == Some(next) {
                let Some(Reverse((_, _, due))) = self.agenda.pop() else { continue };
                self.fulfil(due);
            } else {
                let Event { what, .. } = self.scenario.events[self.next_event];
                self.next_event += 1;
                self.happen(what);
            }
        }
    }

    fn longest_pause(&self) -> Time {
        self.paused_until.iter().copied().fold(Time::ZERO, Time::max)
    }

    fn pass_to(&mut self, now: Time) {
        self.now = self.now.max(now);
        let now = self.now + self.jumped;
        self.world.set_now(now);
        self.authority.set_now(now);
    }

    pub(super) fn later(&mut self, after: Duration, due: Due) {
        if matches!(due, Due::Send(..) | Due::Fin(_) | Due::Decide(..) | Due::Cut(..)) {
            // What is in flight is no rest.
            (self.moved_at, self.rested) = (self.now, false);
        }
        self.noted += 1;
        self.agenda.push(Reverse((self.now + after, self.noted, due)));
    }

    /// A random delay.
    pub(super) fn delay(&mut self) -> Duration {
        let most = u64::try_from(self.scenario.faults.delay_max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(1 + self.rng.below(most))
    }

    /// Something has happened to a shard: its turn comes soon.
    pub(super) fn stir(&mut self, id: usize) {
        self.moved_at = self.now;
        self.rested = false;
        let soon = self.now + self.delay();
        self.turns[id] = self.turns[id].min(soon);
    }

    fn turn(&mut self, id: usize) {
        let turn = self.world.turn(id);
        self.report.turns += 1;
        self.idle_turns[id] = if turn.moved || !turn.busy { 0 } else { self.idle_turns[id] + 1 };
        assert!(self.idle_turns[id] < IDLE_TURNS_MAX, "shard {id} spins");
        if turn.moved {
            (self.moved_at, self.rested) = (self.now, false);
        }
        let jumped = self.jumped;
        let deadline = turn.deadline.map_or(Time::NEVER, |at| Time::ZERO + at.since(Time::ZERO + jumped));
        let soon = self.now + self.delay();
        self.turns[id] = if turn.busy { soon } else { deadline.max(soon) };
        for woken in turn.woken {
            self.stir(woken);
        }
        for auth_request in turn.auth_requests {
            let mut ours = self.world.pipes().iter();
            let conn = self.world.shard(id).connection_of(auth_request.session);
            let Some(conn) = conn else { continue }; // its client has left in this turn
            let session = ours.rposition(|pipe| pipe.shard == id && pipe.key == Some(conn));
            let session = session.expect("an auth request of a known connection");
            let name = auth_request.name.as_deref().expect("a name");
            assert_eq!(name, format!("c{}", self.sessions[session].client));
            if self.sessions[session].plan.unanswered {
                continue;
            }
            let patient = self.rng.below(3) == 0;
            let delay = if patient { Duration::from_millis(self.rng.below(2_000)) } else { self.delay() };
            self.undecided += 1;
            self.later(delay, Due::Decide(session, auth_request.session));
        }
        self.poll_engines();
        if self.report.turns.is_multiple_of(AUDIT_EVERY) {
            self.audit(id);
        }
        for pipe in self.world.take_news() {
            let it = self.world.pipe(pipe);
            let session = pipe; // every session has one connection, and they are made together
            self.sessions[session].was_full |= it.starved;
            if it.starved && it.to_client.len() < it.capacity {
                let delay = self.delay();
                self.later(delay, Due::Relieve(pipe));
            }
            self.news(session);
        }
    }

    /// Notes what the engines have declined.
    fn poll_engines(&mut self) {
        for (body, outcome) in self.world.take_declined() {
            let digits = body.bytes().iter().skip_while(|byte| !byte.is_ascii_digit());
            let digits = digits.take_while(|byte| byte.is_ascii_digit());
            let id = digits.fold(0, |id, digit| id * 10 + PublicationId::from(digit - b'0'));
            self.trace.note(self.now, || format!("{id} is declined: {outcome:?}"));
            let temporary = outcome == PublishOutcome::Temporary;
            self.checker.decline(id, if temporary { Declined::Temporary } else { Declined::Known });
            self.report.declined += 1;
            if temporary {
                let session = self.checker.record(id).session;
                self.sessions[session].refused += 1;
            }
        }
    }

    /// Another node publishes.
    fn publish_elsewhere(&mut self, room: usize, bytes: usize) {
        let name = format!("r{room}");
        let (count, before) = (self.checker.count(), self.elsewhere[room]);
        if self.world.publish_elsewhere(&name, published_text(count, bytes)) {
            self.elsewhere[room] = Some(self.checker.publish(OTHER_NODE, room, before, bytes));
            self.stir(self.world.home(&name));
        }
    }

    fn fulfil(&mut self, due: Due) {
        match due {
            Due::Send(session, bytes) => self.send(session, &bytes),
            Due::Fin(session) => self.fin(session),
            Due::Read(session) => {
                self.sessions[session].will_read = false;
                self.read(session);
            }
            Due::Decide(session, key) => {
                self.undecided -= 1;
                self.decide(session, key);
            }
            Due::Poll(session) => self.poll_again(session),
            Due::Repeat(client) => self.repeat(client),
            Due::Cut(session, reset) => self.cut_now(session, reset),
            Due::Relieve(pipe) => {
                if self.world.relieve(pipe) {
                    self.stir(self.world.pipe(pipe).shard);
                }
            }
        }
    }

    fn happen(&mut self, what: What) {
        self.trace.note(self.now, || format!("{what:?}"));
        match what {
            What::Client(client, act) => self.act(client, act),
            What::Pause(shard, length) => {
                let until = self.now + length;
                self.circumstances.paused += length;
                self.paused_until[shard] = self.paused_until[shard].max(until);
                self.circumstances.changed = self.circumstances.changed.max(until + self.jumped);
                self.circumstances.disturbed = true;
            }
            What::Jump(by) => {
                self.jumped += by;
                self.circumstances.jumped = true;
                self.circumstances.changed = self.now + self.jumped;
                self.circumstances.disturbed = true;
                for id in 0..self.turns.len() {
                    self.stir(id);
                }
            }
            What::Elsewhere(room, bytes) => self.publish_elsewhere(room, bytes),
            What::Reload(reload) => {
                let now = self.world.now();
                let it = &mut self.circumstances;
                reload.apply(&mut it.options);
                it.pings |= !it.options.ping_interval.is_zero();
                it.changed = now;
                it.room_log_bytes_max = it.room_log_bytes_max.max(it.options.room_log_bytes_max);
                let options = Arc::new(it.options.clone());
                for id in 0..self.turns.len() {
                    self.world.shard_mut(id).reconfigure(now, Arc::clone(&options));
                    self.stir(id);
                }
            }
        }
    }

    /// No more faults: every client reads everything, until nothing moves.
    fn quiesce(&mut self) {
        self.trace.note(self.now, || "calm".to_owned());
        self.world.calm_down();
        self.paused_until.fill(Time::ZERO);
        for session in 0..self.sessions.len() {
            self.sessions[session].stalled_until = Time::ZERO;
            self.sessions[session].plan.reading = Reading::AtOnce;
            self.read(session);
        }
        for id in 0..self.turns.len() {
            self.stir(id);
        }
        self.run_until(self.now + AFTERMATH, |sim| sim.rested);
        assert!(self.rested, "it does not come to rest");
        // Every member has everything: the server must report the same.
        self.exact = true;
        for session in 0..self.sessions.len() {
            self.look(session, Look::Delivery);
        }
        self.run_until(self.now + AFTERMATH, |sim| sim.rested);
        self.exact = false;
        assert!(self.rested, "it does not come to rest after the last auth requests");
    }

    fn all_leave(&mut self) {
        for client in 0..self.current.len() {
            self.plain[client].has_left = true;
            if let Some(session) = self.plain[client].publisher {
                let reset = index_below(&mut self.rng, 2) == 0;
                self.cut_now(session, reset);
            }
            let silent = self.current[client].is_some_and(|it| !self.sessions[it].plan.answers);
            if silent && !self.circumstances.options.ping_interval.is_zero() {
                continue; // the server will find out
            }
            let leave = match index_below(&mut self.rng, 3) {
                _ if silent => Leave::Reset,
                0 => Leave::Close(1000),
                1 => Leave::HalfClose,
                _ => Leave::Reset,
            };
            self.act(client, Act::Leave(leave));
        }
    }

    /// The server is not ready for a while, and serves all the same; then it drains.
    fn drain(&mut self) {
        self.world.registry().set_ready(false);
        self.run_until(self.now + REST * 40, |_| false);
        self.circumstances.draining = Some(self.world.now());
        for id in 0..self.turns.len() {
            self.world.drain(id);
            self.stir(id);
        }
    }
}

/// Turns between two looks inside.
const AUDIT_EVERY: u64 = 61;
