//! Schedules connections: the number of handshakes in flight, the connect rate, churn, storms and retries. It
//! opens sockets but does not own connections.

use std::collections::VecDeque;
use std::ops::Range;

use super::client::{Client, Phase};
use super::recovery::{self, Position};
use super::sources::{DialError, Sources};
use super::uplink::Uplink;
use crate::clock::{MILLISECOND, SECOND};
use crate::message::Assignment;
use crate::pace::{clients_at, nanos};
use crate::plan::{self, Plan};
use crate::preset::Transport;
use crate::template::{Template, Values};
use crate::units::Rng;
use crate::wire::{
    Channel, HandshakeRequest, Key, Poll, PostFormat, Posts, SockJs, Socket, Stream, StreamFormat, TlsConfig,
    WebSocket,
};

/// Delay before a lost client reconnects.
const RETRY_NS: u64 = 200 * MILLISECOND;

/// A disconnection of all clients at once.
struct Storm {
    at_ns: u64,
    /// The downtime of its clients.
    downtime_ns: u64,
    /// The end of the downtime; `None` before the storm.
    reconnect_ns: Option<u64>,
    /// The recovery time, from the end of the downtime until the last client is connected.
    recovery_ns: Option<u64>,
}

/// Whether and when a client reconnects after its connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reconnect {
    /// It does not reconnect.
    Never,
    /// It reconnects immediately.
    Immediately,
    /// It was dropped by a storm, and reconnects at this time.
    At(u64),
    /// It was lost, and reconnects after a delay.
    Retry,
}

/// The connection schedule of a worker's clients.
pub struct Dialer {
    /// Clients to connect, in order.
    dial_queue: VecDeque<usize>,
    /// Lost clients, and when they reconnect.
    retries: VecDeque<(u64, usize)>,
    /// Clients dropped by a storm, and when they reconnect, in order.
    dropped: VecDeque<(u64, usize)>,
    /// Clients that failed to connect before the first stage; they are retried in it.
    failed: Vec<usize>,
    /// Deadlines of handshakes, in order; a connection is identified by its start time.
    deadlines: VecDeque<(u64, usize, u64)>,
    /// The target number of clients: those below this index connect.
    client_target: usize,
    connected: u32,
    in_flight: u32,
    in_flight_max: u32,
    /// Clients that have sent a Close frame, which is not answered.
    closing: u32,
    /// Nanoseconds between two connections, and the time of the next one.
    interval_ns: u64,
    next_ns: u64,
    timeout_ns: u64,
    /// Nanoseconds between two churned clients, and the time of the next one.
    churn_interval_ns: u64,
    next_churn_ns: u64,
    storms: Vec<Storm>,
    started_ns: Option<u64>,
    /// The stages are over: clients that are away reconnect, unless all connect repeatedly.
    over: bool,
    /// No client connects any more.
    stopped: bool,
    connects_repeatedly: bool,
    follows_stages: bool,
    rng: Rng,
    sources: Sources,
    tls: Option<TlsConfig>,
    headers: Template,
}

/// A rate as an interval.
fn interval(rate: f64) -> u64 {
    if rate > 0.0 { nanos(1.0 / rate) } else { 0 }
}

/// The clients that churn, by local index: all but publishers and slow readers.
fn churned(assignment: &Assignment) -> Range<usize> {
    let plan = &assignment.plan;
    let end = plan.clients - plan.never_read - plan.slow_read;
    assignment.share(plan.publishers) as usize..assignment.share(end) as usize
}

/// The nanoseconds between two churned clients of this worker.
fn churn_interval(assignment: &Assignment) -> u64 {
    let plan = &assignment.plan;
    let all = plan.clients - plan.never_read - plan.slow_read - plan.publishers;
    let own = u32::try_from(churned(assignment).len()).unwrap_or(0);
    interval(plan.churn * f64::from(own) / f64::from(all.max(1)))
}

/// The key of a client's handshake. Each connection has another one.
pub const fn key(plan: &Plan, client: u32, started_ns: u64) -> Key {
    Key((plan.run as u64) << 32 ^ client as u64 ^ started_ns.rotate_left(24))
}

impl Dialer {
    /// Schedules the initial clients.
    ///
    /// # Errors
    /// One sentence: the certificates cannot be read.
    pub fn new(assignment: &Assignment, now: u64) -> Result<Self, String> {
        let Assignment { plan, index, of, .. } = assignment;
        let count = assignment.share(plan.clients) as usize;
        let target = &plan.target;
        let tls = if target.tls {
            Some(TlsConfig::new(&target.host, target.ca.as_deref(), target.insecure)?)
        } else {
            None
        };
        let client_target = if plan.connect_first { count } else { 0 };
        let storm = |&plan::Storm { at, reconnect_at }: &plan::Storm| Storm {
            at_ns: nanos(at),
            downtime_ns: nanos(reconnect_at - at),
            reconnect_ns: None,
            recovery_ns: None,
        };
        Ok(Self {
            dial_queue: (0..client_target).collect(),
            retries: VecDeque::new(),
            dropped: VecDeque::new(),
            failed: Vec::new(),
            deadlines: VecDeque::new(),
            client_target,
            connected: 0,
            in_flight: 0,
            in_flight_max: handshakes_max(assignment),
            closing: 0,
            interval_ns: plan.connect_rate.map_or(0, |rate| interval(assignment.part(rate))),
            next_ns: now,
            timeout_ns: plan.handshake_timeout_ns,
            churn_interval_ns: churn_interval(assignment),
            next_churn_ns: 0,
            storms: plan.storms.iter().map(storm).collect(),
            started_ns: None,
            over: false,
            stopped: false,
            connects_repeatedly: plan.close,
            follows_stages: !plan.connect_first,
            rng: Rng::new(u64::from(plan.run) << 32 | u64::from(*index) | 1 << 31),
            sources: Sources::new(&plan.sources, *index, *of, plan.run),
            tls,
            headers: header_lines(plan),
        })
    }

    /// Starts the first stage.
    pub fn begin(&mut self, at_ns: u64) {
        self.started_ns = Some(at_ns);
        self.next_churn_ns = at_ns + self.churn_interval_ns;
        self.retries.extend(std::mem::take(&mut self.failed).into_iter().map(|local| (at_ns, local)));
        for storm in &mut self.storms {
            storm.at_ns += at_ns;
        }
    }

    /// The stages are over: no more churn, storms and changes of the number of clients.
    pub fn end(&mut self) {
        self.over = true;
        if self.connects_repeatedly {
            self.stop();
        }
    }

    /// No client connects any more.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.dial_queue.clear();
        self.retries.clear();
        self.dropped.clear();
    }

    /// The connect phase ends without the clients that have not begun to connect; returns their number.
    /// With `retry` they connect in the first stage.
    pub fn abandon(&mut self, retry: bool) -> usize {
        let waiting = self.dial_queue.drain(..).chain(self.retries.drain(..).map(|(_, local)| local));
        let waiting: Vec<_> = waiting.collect();
        let count = waiting.len();
        if retry {
            self.failed.extend(waiting);
        }
        count
    }

    /// The number of connected clients.
    pub const fn connected(&self) -> u32 {
        self.connected
    }

    /// The number of clients in the opening handshake or joining.
    pub const fn in_handshake(&self) -> u32 {
        self.in_flight
    }

    /// The number of clients whose Close frame is not answered.
    pub const fn closing(&self) -> u32 {
        self.closing
    }

    /// The number of source addresses in use; 0: the kernel's choice.
    pub fn sources_used(&self) -> u32 {
        self.sources.used()
    }

    /// Whether every initial client has connected or failed.
    pub fn all_connected(&self) -> bool {
        self.dial_queue.is_empty() && self.retries.is_empty() && self.in_flight == 0
    }

    /// Whether clients are disconnected that will reconnect.
    pub fn away(&self) -> bool {
        !self.stopped && (!self.all_connected() || !self.dropped.is_empty() || self.closing > 0)
    }

    /// The recovery time of each storm.
    pub fn storms(&self) -> Vec<Option<u64>> {
        self.storms.iter().map(|storm| storm.recovery_ns).collect()
    }

    /// The next client to connect now. It counts as in flight.
    pub fn due(&mut self, now: u64) -> Option<usize> {
        while let Some((_, local)) = self.retries.pop_front_if(|&mut (at_ns, _)| at_ns <= now) {
            self.dial_queue.push_back(local);
        }
        while let Some((_, local)) = self.dropped.pop_front_if(|&mut (at_ns, _)| at_ns <= now) {
            self.dial_queue.push_back(local);
        }
        if self.in_flight >= self.in_flight_max || self.interval_ns > 0 && now < self.next_ns {
            return None;
        }
        let local = self.dial_queue.pop_front()?;
        if self.interval_ns > 0 {
            // A delay is caught up by at most a tenth of a second.
            self.next_ns = self.next_ns.max(now.saturating_sub(SECOND / 10)) + self.interval_ns;
        }
        self.in_flight += 1;
        self.deadlines.push_back((now + self.timeout_ns, local, now));
        Some(local)
    }

    /// A client whose deadline has passed, and the start time of its connection, which may have made progress
    /// since.
    pub fn next_expired(&mut self, now: u64) -> Option<(usize, u64)> {
        self.deadlines
            .pop_front_if(|&mut (at_ns, ..)| at_ns <= now)
            .map(|(_, local, started_ns)| (local, started_ns))
    }

    /// A client is connected.
    pub fn opened(&mut self, local: usize) {
        self.in_flight -= 1;
        self.connected += 1;
        debug_assert!(local < self.client_target || self.over || self.follows_stages);
    }

    /// A client has sent a Close frame.
    pub fn close_sent(&mut self, local: usize, started_ns: u64, now: u64) {
        self.connected -= 1;
        self.closing += 1;
        self.deadlines.push_back((now + self.timeout_ns, local, started_ns));
    }

    /// A connection has ended in this phase.
    pub fn disconnected(&mut self, local: usize, phase: Phase, next: Reconnect, now: u64) {
        match phase {
            Phase::Handshake | Phase::Joining => self.in_flight -= 1,
            Phase::Open => self.connected -= 1,
            Phase::Closing => self.closing -= 1,
        }
        if self.stopped || local >= self.client_target {
            return;
        }
        match next {
            Reconnect::Never => {}
            Reconnect::Immediately => self.dial_queue.push_back(local),
            Reconnect::At(at_ns) => self.dropped.push_back((at_ns, local)),
            Reconnect::Retry if self.started_ns.is_none() => self.failed.push(local),
            Reconnect::Retry => self.retries.push_back((now + RETRY_NS, local)),
        }
    }

    /// No port was free: the client, which counts as in flight, connects a little later.
    pub fn postpone(&mut self, local: usize, now: u64) {
        self.in_flight -= 1;
        if !self.stopped {
            self.retries.push_back((now + RETRY_NS, local));
        }
    }

    /// If a storm is due, when its clients reconnect.
    pub fn due_storm(&mut self, now: u64) -> Option<u64> {
        let (client_target, connected) = (self.client_target, self.connected);
        for storm in &mut self.storms {
            if let (Some(reconnect_ns), None) = (storm.reconnect_ns, storm.recovery_ns)
                && connected as usize == client_target
            {
                storm.recovery_ns = Some(now.saturating_sub(reconnect_ns));
            }
        }
        let running = self.started_ns.is_some() && !self.over;
        let due = self
            .storms
            .iter_mut()
            .find(|storm| running && storm.reconnect_ns.is_none() && storm.at_ns <= now)?;
        due.reconnect_ns = Some(now + due.downtime_ns);
        due.reconnect_ns
    }

    /// A random client that is to be churned now.
    pub fn next_churn(&mut self, assignment: &Assignment, now: u64) -> Option<usize> {
        if self.churn_interval_ns == 0 || self.started_ns.is_none() || self.over || now < self.next_churn_ns {
            return None;
        }
        self.next_churn_ns += self.churn_interval_ns;
        let churned = churned(assignment);
        Some(churned.start + self.rng.below(u32::try_from(churned.len()).unwrap_or(u32::MAX)) as usize)
    }

    /// Follows the stages: schedules clients up to the target number; returns a client above it.
    pub fn surplus(&mut self, assignment: &Assignment, now: u64) -> Option<usize> {
        let started_ns = self.started_ns.filter(|_| self.follows_stages && !self.over)?;
        #[expect(clippy::cast_precision_loss, reason = "a run takes less than years")]
        let seconds = now.saturating_sub(started_ns) as f64 / 1e9;
        let all = clients_at(&assignment.plan.stages, seconds);
        let own = assignment.share(all) as usize;
        if self.client_target < own {
            self.dial_queue.extend(self.client_target..own);
            self.client_target = own;
        }
        if self.client_target > own {
            self.client_target -= 1;
            self.dial_queue.retain(|&local| local != self.client_target);
            return Some(self.client_target);
        }
        None
    }

    /// Opens a client's connection. `position` is the last position of a client that recovers.
    ///
    /// # Errors
    /// This connection, or every connection, cannot be opened.
    pub fn dial(
        &mut self,
        plan: &Plan,
        client: u32,
        position: Option<&Position>,
        now: u64,
    ) -> Result<Client, DialError> {
        let socket = self.connect(plan, now)?;
        let (channel, request) = self.channel(plan, client, position, now);
        Ok(Client::new(socket, channel, request, now))
    }

    /// Opens a socket to the server.
    ///
    /// # Errors
    /// This connection, or every connection, cannot be opened.
    pub fn connect(&mut self, plan: &Plan, now: u64) -> Result<Socket, DialError> {
        let stream = self.sources.connect(plan.target.address, now)?;
        Socket::new(stream, self.tls.as_ref()).map_err(|error| DialError::Fatal(error.to_string()))
    }

    /// How a client's messages arrive, and its first request.
    fn channel(&self, plan: &Plan, client: u32, position: Option<&Position>, now: u64) -> (Channel, Vec<u8>) {
        let (target, protocol) = (&plan.target, plan.protocol(client));
        let (name, room) = (plan.client_name(client), plan.room_name(plan.room_of(client)));
        let (epoch, offset) = position.map_or(("", 0), |position| (&position.epoch, position.offset));
        let token = plan.token(client);
        let values = Values { name: &name, room: &room, token: &token, epoch, offset, ..Values::default() };
        let path = recovery::path(protocol, plan.resume, position).render(values);
        let mut fields = self.headers.render(values);
        if protocol.transport == Transport::Ws {
            let request = HandshakeRequest {
                key: key(plan, client, now),
                subprotocol: protocol.subprotocol.as_deref(),
                deflate: target.deflate,
            };
            let channel = Channel::WebSocket(WebSocket::default());
            return (channel, request.encode(&target.authority, &path, &fields));
        }
        if let Some(header) = recovery::header(protocol, plan.resume, position) {
            fields.push_str(&format!("{}\r\n", header.render(values)));
        }
        let fields = format!("Host: {}\r\n{fields}", target.authority);
        let get = || format!("GET {path} HTTP/1.1\r\n{fields}\r\n").into_bytes();
        match protocol.transport {
            Transport::Sse | Transport::Ws => (Channel::Stream(Stream::new(StreamFormat::Events)), get()),
            Transport::Stream => (Channel::Stream(Stream::new(StreamFormat::Lines)), get()),
            Transport::Poll => {
                let since = position.filter(|_| plan.resume).map(|it| format!("{}:{}", it.epoch, it.offset));
                let separator = if path.contains('?') { '&' } else { '?' };
                // The same in all polls of a client.
                let path = format!("{path}{separator}session=swarm-{:08x}-{client}", plan.run);
                let poll = Poll::new(&path, &fields, since.as_deref());
                let request = poll.first_request();
                (Channel::Poll(Box::new(poll)), request)
            }
            Transport::Sockjs => {
                let session = SockJs::new(&with_session(&path, plan, client, now), &fields);
                let request = session.first_request();
                (Channel::SockJs(Box::new(session)), request)
            }
        }
    }

    /// Opens a connection over which a client publishes, whose messages arrive over the one that was started
    /// at `started_ns`.
    ///
    /// # Errors
    /// This connection, or every connection, cannot be opened.
    pub fn dial_uplink(
        &mut self,
        plan: &Plan,
        client: u32,
        started_ns: u64,
        now: u64,
    ) -> Result<Uplink, DialError> {
        let socket = self.connect(plan, now)?;
        let (target, protocol) = (&plan.target, plan.protocol(client));
        let (name, room) = (plan.client_name(client), plan.room_name(plan.room_of(client)));
        let token = plan.token(client);
        let values = Values { name: &name, room: &room, token: &token, ..Values::default() };
        let path = protocol.post_path.as_ref().unwrap_or(&protocol.path).render(values);
        let path = with_session(&path, plan, client, started_ns);
        let fields = format!("Host: {}\r\n{}", target.authority, self.headers.render(values));
        let format =
            if protocol.transport == Transport::Sockjs { PostFormat::Array } else { PostFormat::Text };
        Ok(Uplink::new(socket, Posts::new(&path, &fields, format), now))
    }
}

/// A path with the session of this connection, where it has one.
fn with_session(path: &str, plan: &Plan, client: u32, started_ns: u64) -> String {
    path.replace("{session}", &format!("{:016x}", key(plan, client, started_ns).0))
}

/// The handshakes that this worker may have in flight: its part, rounded up.
fn handshakes_max(assignment: &Assignment) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the number itself")]
    let part = assignment.part(assignment.plan.handshakes.into()).ceil() as u32;
    part.max(1)
}

/// The additional headers of a handshake, each with its line end.
fn header_lines(plan: &Plan) -> Template {
    let lines = plan.target.protocol.headers.iter().map(|header| String::from(header.clone()) + "\r\n");
    lines.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    fn assignments(options: &Options, scenario: Scenario, of: u32) -> Vec<Assignment> {
        let plan = options.plan(scenario).unwrap();
        (0..of).map(|index| Assignment { plan: plan.clone(), index, of, epoch_ns: 0 }).collect()
    }

    #[test]
    fn rates_and_limits_of_all_workers_add_up() {
        let options = Options {
            clients: Some(1000),
            connect_rate: Some(crate::units::Rate(500.0)),
            ..Options::default()
        };
        for of in [1, 2, 3] {
            let all = assignments(&options, Scenario::Churn, of);
            #[expect(clippy::cast_precision_loss, reason = "a second in nanoseconds")]
            let rate = |interval_ns: u64| if interval_ns == 0 { 0.0 } else { 1e9 / interval_ns as f64 };
            let dialers: Vec<_> = all.iter().map(|one| Dialer::new(one, 0).unwrap()).collect();
            let connects: f64 = dialers.iter().map(|dialer| rate(dialer.interval_ns)).sum();
            let churns: f64 = dialers.iter().map(|dialer| rate(dialer.churn_interval_ns)).sum();
            assert!((connects - 500.0).abs() < 0.1 && (churns - 100.0).abs() < 0.1, "{connects}, {churns}");
            let handshakes: u32 = dialers.iter().map(|dialer| dialer.in_flight_max).sum();
            assert!((100..=102).contains(&handshakes), "{handshakes}");
        }
    }

    #[test]
    fn only_receivers_churn() {
        let options = Options {
            clients: Some(20),
            publishers: Some(8),
            never_read: Some(2),
            slow_read: Some(1),
            ..Options::default()
        };
        let mut churned = Vec::new();
        for one in assignments(&options, Scenario::Churn, 3) {
            churned.extend(super::churned(&one).map(|local| one.global(local)));
        }
        churned.sort_unstable();
        assert_eq!(churned, (8..17).collect::<Vec<_>>());
    }

    #[test]
    fn clients_that_are_away_reconnect_after_the_stages() {
        let one = &assignments(&Options { clients: Some(2), ..Options::default() }, Scenario::Chat, 1)[0];
        let mut dialer = Dialer::new(one, 0).unwrap();
        for local in [0, 1] {
            assert_eq!(dialer.due(0), Some(local));
            dialer.opened(local);
        }
        dialer.begin(0);
        assert!(!dialer.away());
        dialer.close_sent(1, 0, 5);
        assert!(dialer.away());
        dialer.end();
        dialer.disconnected(1, Phase::Closing, Reconnect::Immediately, 6);
        assert_eq!((dialer.away(), dialer.due(7)), (true, Some(1)));
        dialer.opened(1);
        assert_eq!((dialer.away(), dialer.connected()), (false, 2));
        dialer.stop();
        dialer.disconnected(1, Phase::Open, Reconnect::Immediately, 8);
        assert_eq!((dialer.away(), dialer.due(9)), (false, None));
    }
}
