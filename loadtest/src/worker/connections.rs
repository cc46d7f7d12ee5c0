//! A worker's clients with their connections: connecting, reading, publishing, disconnecting, and counting.

use mio::{Registry, Token};

use super::client::{Disconnect, Phase, ReadBuffer, Readiness};
use super::dialer::{self, Dialer, Reconnect};
use super::events::EventHandler;
use super::progress::Observed;
use super::publishers::Publishers;
use super::receivers::Receivers;
use super::recovery;
use super::sources::DialError;
use super::uplink::{Uplinks, register};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::message::Assignment;
use crate::plan::{LoadModel, Plan, ReadMode};
use crate::stats::Stats;
use crate::wire::{HandshakeRequest, cause};

/// Bytes read from one client before the others have their turn.
const READ_BUDGET: usize = 256 * 1024;

/// The interval of slow reads.
const SLOW_NS: u64 = 100 * MILLISECOND;

/// The time that a server which was started together with the run has until it listens.
const START_NS: u64 = SECOND;

/// The progress of the run, as far as clients depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing has been published.
    Before,
    /// Publishing has started.
    Running,
    /// Messages in flight are drained.
    Draining,
    /// The results are known; the clients leave.
    Closing,
}

/// The clients of a worker.
pub struct Connections {
    assignment: Assignment,
    registry: Registry,
    receivers: Receivers,
    read_buffer: ReadBuffer,
    dialer: Dialer,
    publishers: Publishers,
    uplinks: Uplinks,
    stage: Stage,
    /// Until this time a refused connection is tried again: the server may just have been started.
    retry_refused_until_ns: u64,
    /// Messages that are due before this time belong to the warm-up.
    measured_from_ns: u64,
    /// Clients whose last read used up its budget.
    unfinished: Vec<usize>,
    /// Statistics that are not reported yet.
    stats: Stats,
    next_slow_ns: u64,
}

impl Connections {
    /// No client is connected yet. Clients are registered under their local index.
    ///
    /// # Errors
    /// One sentence: the certificates cannot be read.
    pub fn new(assignment: Assignment, registry: Registry, now: u64) -> Result<Self, String> {
        Ok(Self {
            registry,
            receivers: Receivers::new(&assignment),
            read_buffer: ReadBuffer::default(),
            dialer: Dialer::new(&assignment, now)?,
            publishers: Publishers::new(&assignment),
            uplinks: Uplinks::default(),
            stage: Stage::Before,
            retry_refused_until_ns: now + START_NS,
            measured_from_ns: 0,
            unfinished: Vec::new(),
            stats: Stats::default(),
            next_slow_ns: now,
            assignment,
        })
    }

    /// The plan of the run.
    pub const fn plan(&self) -> &Plan {
        &self.assignment.plan
    }

    /// The number of connected clients.
    pub const fn connected(&self) -> u32 {
        self.dialer.connected()
    }

    /// The number of clients in the opening handshake or joining.
    pub const fn in_handshake(&self) -> u32 {
        self.dialer.in_handshake()
    }

    /// What the phases of the run depend on.
    pub fn observed(&self) -> Observed {
        Observed {
            all_connected: self.dialer.all_connected(),
            connected: self.dialer.connected(),
            away: self.dialer.away(),
            closing: self.dialer.closing() > 0,
        }
    }

    /// The connect phase ends without the clients that are not connected.
    pub fn abandon_connecting(&mut self) {
        let why = "no client had connected for the time of --connect-timeout";
        let retry = self.plan().reconnect;
        let waiting = self.dialer.abandon(retry);
        self.stats.errors_of(format!("not connected: {why}"), waiting as u64);
        for local in 0..self.receivers.len() {
            let phase = self.receivers.slot(local).client.as_ref().map(|client| client.phase);
            if matches!(phase, Some(Phase::Handshake | Phase::Joining)) {
                let answered = if phase == Some(Phase::Joining) { "to the join" } else { "to the handshake" };
                self.disconnected(local, Disconnect::Failed(format!("no answer {answered}: {why}")));
            }
        }
    }

    /// The user has interrupted the run: no client connects any more.
    pub fn stop_connecting(&mut self) {
        self.dialer.stop();
    }

    /// Starts the first stage.
    pub fn begin(&mut self, at_ns: u64) {
        self.stage = Stage::Running;
        self.measured_from_ns = at_ns + self.plan().warmup_ns;
        self.publishers.begin(at_ns);
        self.dialer.begin(at_ns);
        self.receivers.begin(self.measured_from_ns);
    }

    /// Ends the stages: no more messages; clients that are away reconnect. Returns this worker's publishers
    /// and their message counts.
    pub fn end_stages(&mut self) -> Vec<(u32, u32)> {
        self.stage = Stage::Running;
        self.publishers.end();
        self.dialer.end();
        self.publishers.published()
    }

    /// Starts draining: no worker publishes any more, and these are the message counts of all publishers.
    pub fn drain(&mut self, published_by_all: Vec<u32>) {
        self.stage = Stage::Draining;
        self.receivers.begin_drain(&self.assignment, published_by_all);
    }

    /// Whether no message is in flight.
    pub fn is_complete(&self) -> bool {
        self.receivers.is_complete(&self.assignment)
    }

    /// Counts the lost messages. Returns the received count per publisher, and the recovery time per storm.
    pub fn finish(&mut self) -> (Vec<u32>, Vec<Option<u64>>) {
        self.stats.lost += self.receivers.lost(&self.assignment);
        self.stats.not_recovered += self.receivers.not_recovered();
        (self.receivers.received_from_all(&self.assignment), self.dialer.storms())
    }

    /// All clients leave: each sends a Close frame, and the server closes its connection. Slow readers do not
    /// wait for that, as they would have to read everything before it; and a sink does not read.
    pub fn close_all(&mut self) {
        self.stage = Stage::Closing;
        self.dialer.stop();
        for local in 0..self.receivers.len() {
            self.close_client(local);
            let phase = self.receivers.slot(local).client.as_ref().map(|client| client.phase);
            let mode = self.plan().read_mode(self.assignment.global(local));
            let reads = mode == ReadMode::Immediate && !self.plan().receive_only;
            if matches!(phase, Some(Phase::Handshake | Phase::Joining)) || phase.is_some() && !reads {
                self.disconnected(local, Disconnect::Closed);
            }
        }
    }

    /// The number of clients whose Close frame is not answered.
    pub const fn unanswered_closes(&self) -> u32 {
        self.dialer.closing()
    }

    /// The number of source addresses in use.
    pub fn sources_used(&self) -> u32 {
        self.dialer.sources_used()
    }

    /// Takes the statistics since the last call.
    pub fn take_stats(&mut self) -> Stats {
        let mut stats = std::mem::take(&mut self.stats);
        stats.bytes = std::mem::take(&mut self.read_buffer.bytes);
        stats
    }

    /// Periodic work, once per second.
    pub fn each_second(&mut self, now: u64) {
        self.receivers.trim(&self.assignment);
        self.publishers.retry_stalled(now, self.assignment.plan.drain_timeout_ns);
    }

    /// Takes the clients that must be read again before the next poll.
    pub fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    /// When the next message is due.
    pub fn next_ns(&self, now: u64) -> u64 {
        if self.unfinished.is_empty() { self.publishers.next_ns() } else { now }
    }

    /// Opens, closes and times out connections according to the plan.
    ///
    /// # Errors
    /// One sentence: no client can connect.
    pub fn update_connections(&mut self, now: u64) -> Result<(), String> {
        while let Some(local) = self.dialer.due(now) {
            self.dial(local, now)?;
        }
        while let Some((local, started_ns)) = self.dialer.next_expired(now) {
            self.timed_out(local, started_ns);
        }
        if let Some(reconnect_ns) = self.dialer.due_storm(now) {
            for local in 0..self.receivers.len() {
                // Publishers stay connected, so that there are messages to recover.
                if !self.plan().resume || self.assignment.global(local) >= self.plan().publishers {
                    self.drop_connection(local, reconnect_ns);
                }
            }
        }
        while let Some(local) = self.dialer.next_churn(&self.assignment, now) {
            self.close_client(local);
        }
        while let Some(local) = self.dialer.surplus(&self.assignment, now) {
            self.close_client(local);
        }
        Ok(())
    }

    fn dial(&mut self, local: usize, now: u64) -> Result<(), String> {
        let slot = self.receivers.slot_mut(local);
        if slot.client.is_some() {
            return Ok(());
        }
        let position = slot.position.as_deref();
        slot.recovering = position.map(|_| recovery::RecoveryAttempt::default());
        let plan = &self.assignment.plan;
        let mut client = match self.dialer.dial(plan, self.assignment.global(local), position, now) {
            Ok(client) => Box::new(client),
            Err(DialError::Fatal(why)) => return Err(why),
            Err(DialError::NoPort) => {
                self.stats.no_port += 1;
                self.dialer.postpone(local, now);
                return Ok(());
            }
            Err(DialError::Refused(_))
                if self.stage == Stage::Before && now < self.retry_refused_until_ns =>
            {
                self.dialer.postpone(local, now);
                return Ok(());
            }
            Err(DialError::Refused(why)) => {
                self.stats.error(why);
                let next = if plan.reconnect { Reconnect::Retry } else { Reconnect::Never };
                self.dialer.disconnected(local, Phase::Handshake, next, now);
                return Ok(());
            }
        };
        register(&self.registry, client.socket(), Token(local))?;
        slot.client = Some(client);
        // If it cannot be opened now, the first message tries it again.
        let _ = self.open_uplink(local, now);
        Ok(())
    }

    /// Opens the connection over which a client publishes, if it has one of its own, and it is not open.
    fn open_uplink(&mut self, local: usize, now: u64) -> Result<(), String> {
        let (plan, global) = (&self.assignment.plan, self.assignment.global(local));
        let Some(client) = &self.receivers.slot(local).client else { return Ok(()) };
        if global >= plan.publishers || !plan.has_uplinks() || self.uplinks.is_open(local, now) {
            return Ok(());
        }
        let dialed = self.dialer.dial_uplink(plan, global, client.started_ns, now);
        self.uplinks.open(local, dialed, &self.registry)
    }

    /// Handles the readiness of an uplink's socket.
    pub fn uplink_ready(&mut self, local: usize, readiness: Readiness) {
        self.uplinks.ready(local, readiness, &mut self.read_buffer, &mut self.stats);
    }

    /// Handles the timeout of the connection that was started at `started_ns`.
    fn timed_out(&mut self, local: usize, started_ns: u64) {
        let client =
            self.receivers.slot(local).client.as_ref().filter(|client| client.started_ns == started_ns);
        let Some(client) = client else { return };
        match client.phase {
            Phase::Handshake => {
                self.disconnected(local, Disconnect::Failed(cause::HANDSHAKE_TIMEOUT.to_owned()))
            }
            Phase::Joining => {
                let protocol = self.plan().protocol(self.assignment.global(local));
                let why = cause::join_timeout(protocol.transport.has_positions());
                self.disconnected(local, Disconnect::Failed(why.to_owned()));
            }
            Phase::Closing => self.disconnected(local, Disconnect::Closed),
            Phase::Open => {}
        }
    }

    /// Drops a connection as a network failure does; the client reconnects at `reconnect_ns`.
    fn drop_connection(&mut self, local: usize, reconnect_ns: u64) {
        let slot = self.receivers.slot_mut(local);
        let Some(client) = &mut slot.client else { return };
        slot.dropped = true;
        let _ =
            socket2::SockRef::from(&*client.socket().socket()).set_linger(Some(std::time::Duration::ZERO));
        self.disconnected(local, Disconnect::Dropped(reconnect_ns));
    }

    /// Sends a Close frame, or ends its side; the server closes the connection.
    fn close_client(&mut self, local: usize) {
        let key = self.publishers.key();
        let Some(client) = &mut self.receivers.slot_mut(local).client else { return };
        if client.phase != Phase::Open {
            return;
        }
        client.close(key);
        self.dialer.close_sent(local, client.started_ns, clock::now());
        if let Err(reason) = client.flush() {
            self.disconnected(local, reason);
        }
    }

    /// Handles the readiness of a client's socket.
    pub fn ready(&mut self, local: usize, Readiness { readable, writable, ended }: Readiness) {
        if writable {
            let client = self.receivers.slot_mut(local).client.as_mut();
            if let Err(reason) = client.map_or(Ok(()), |client| client.flush()) {
                return self.disconnected(local, reason);
            }
        }
        let mode = self.plan().read_mode(self.assignment.global(local));
        if mode == ReadMode::Immediate || !self.is_open(local) {
            if readable || ended {
                self.read(local, READ_BUDGET);
            }
        } else if ended {
            // The client does not read, so it does not see the Close frame.
            self.disconnected(local, Disconnect::Failed("the server closed the connection".to_owned()));
        }
    }

    fn is_open(&self, local: usize) -> bool {
        self.receivers.slot(local).client.as_ref().is_some_and(|client| client.phase == Phase::Open)
    }

    /// Reads slow readers at a fixed rate, ready or not, which also detects closed connections.
    pub fn read_slowly(&mut self, now: u64) {
        if now < self.next_slow_ns || self.plan().slow_read == 0 {
            return;
        }
        self.next_slow_ns = now + SLOW_NS;
        let budget = (self.plan().read_rate / 10).max(1) as usize;
        for local in 0..self.receivers.len() {
            let mode = self.plan().read_mode(self.assignment.global(local));
            if mode == ReadMode::Throttled && self.is_open(local) {
                self.read(local, budget);
            }
        }
    }

    fn read(&mut self, local: usize, budget: usize) {
        let global = self.assignment.global(local);
        let (slot, deliveries) = self.receivers.slot_and_deliveries(local);
        let Some(mut client) = slot.client.take() else { return };
        let plan = &self.assignment.plan;
        let request = HandshakeRequest {
            key: dialer::key(plan, global, client.started_ns),
            subprotocol: plan.protocol(global).subprotocol.as_deref(),
            deflate: plan.target.deflate,
        };
        let mut handler = EventHandler {
            plan,
            local,
            global,
            running: self.stage != Stage::Before,
            closing: self.stage == Stage::Closing,
            slot,
            deliveries,
            dialer: &mut self.dialer,
            publishers: &mut self.publishers,
            stats: &mut self.stats,
            now: None,
        };
        let outcome = client
            .read(budget, request, &mut self.read_buffer, &mut |client, event| handler.event(client, event));
        let opened_now = client.phase == Phase::Open && handler.now.is_some();
        let flushed = client.flush();
        self.receivers.slot_mut(local).client = Some(client);
        match outcome.and_then(|more| flushed.map(|()| more)) {
            Ok(true) if self.plan().read_mode(global) == ReadMode::Immediate => self.unfinished.push(local),
            Ok(_) => {}
            Err(reason) => return self.disconnected(local, reason),
        }
        if opened_now && self.plan().close && self.stage != Stage::Closing {
            self.close_client(local);
        }
        self.publish_again();
    }

    /// Goes on with a client's session over another connection.
    fn reopen(&mut self, local: usize) -> Result<(), String> {
        let Some(client) = &mut self.receivers.slot_mut(local).client else { return Ok(()) };
        let dialed = self.dialer.connect(&self.assignment.plan, clock::now());
        client.reopen(dialed.map_err(DialError::reason)?);
        register(&self.registry, client.socket(), Token(local))
    }

    /// Removes a connection that has ended.
    fn disconnected(&mut self, local: usize, mut reason: Disconnect) {
        if let Disconnect::Reopen = reason {
            let Err(why) = self.reopen(local) else { return };
            reason = Disconnect::Failed(why);
        }
        let (slot, deliveries) = self.receivers.slot_and_deliveries(local);
        let Some(client) = slot.client.take() else { return };
        self.uplinks.close(local);
        if self.stage == Stage::Closing {
            return self.dialer.disconnected(local, client.phase, Reconnect::Never, 0);
        }
        let plan = &self.assignment.plan;
        let was_open = matches!(client.phase, Phase::Open | Phase::Closing);
        let global = self.assignment.global(local);
        let reads_immediately = plan.read_mode(global) == ReadMode::Immediate;
        let room = &mut deliveries.rooms[plan.room_of(global) as usize];
        room.flush_pending(&mut slot.cursor);
        if was_open && reads_immediately && slot.position.is_none() {
            self.stats.lost += slot.cursor.missing();
        }
        self.publishers.disconnected(plan, global, room);
        let next = match reason {
            Disconnect::Closed | Disconnect::Reopen => Reconnect::Immediately,
            Disconnect::Dropped(reconnect_ns) => Reconnect::At(reconnect_ns),
            Disconnect::Failed(_) if plan.reconnect => Reconnect::Retry,
            Disconnect::Failed(_) => Reconnect::Never,
        };
        match reason {
            Disconnect::Closed | Disconnect::Reopen | Disconnect::Dropped(_) => {}
            Disconnect::Failed(_) if was_open && !reads_immediately => self.stats.slow_closed += 1,
            Disconnect::Failed(why) => self.stats.error(why),
        }
        self.dialer.disconnected(local, client.phase, next, clock::now());
    }

    /// Publishes the messages that are due.
    pub fn publish(&mut self, now: u64) {
        while let Some((publisher, intended_ns)) = self.publishers.due(now) {
            self.publish_one(publisher, intended_ns, now);
        }
    }

    /// Publishes the messages that are due because others were received.
    fn publish_again(&mut self) {
        while let Some(publisher) = self.publishers.next_ready() {
            let now = clock::now();
            self.publish_one(publisher, now, now);
        }
    }

    fn publish_one(&mut self, publisher: u32, intended_ns: u64, now: u64) {
        let local = self.assignment.local(publisher);
        if !self.is_open(local) {
            self.stats.skipped += 1;
            return;
        }
        if let Err(why) = self.open_uplink(local, now) {
            self.stats.error(why);
            self.stats.skipped += 1;
            return;
        }
        let Some(client) = self.receivers.slot_mut(local).client.as_deref_mut() else { return };
        let uplink = self.uplinks.get_mut(local);
        self.publishers.publish(&self.assignment.plan, publisher, intended_ns, client, uplink, now);
        self.stats.published += 1;
        if intended_ns < self.measured_from_ns {
            self.stats.warmup_published += 1;
        } else if matches!(self.assignment.plan.load_model, LoadModel::OpenLoop) {
            self.stats.send_lag.record_ns(now.saturating_sub(intended_ns));
        }
        if let Err(reason) = client.flush() {
            return self.disconnected(local, reason);
        }
        self.uplink_ready(local, Readiness { writable: true, ..Readiness::default() });
    }
}
