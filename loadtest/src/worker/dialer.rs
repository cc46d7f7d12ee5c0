//! Schedules connections: the number of handshakes in flight, the connect rate, churn, storms and retries. It
//! opens sockets but does not own connections.

use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use super::client::{Client, Phase};
use super::recovery::{self, Position};
use crate::clock::{MILLISECOND, SECOND};
use crate::message::Assignment;
use crate::pace::{clients_at, nanos};
use crate::plan::{self, CLIENTS_PER_SOURCE, Plan};
use crate::template::Values;
use crate::units::Rng;
use crate::wire::{HandshakeRequest, Key, TlsConfig, Transport};

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
    /// Nanoseconds between two connections, and the time of the next one.
    interval_ns: u64,
    next_ns: u64,
    timeout_ns: u64,
    /// Nanoseconds between two churned clients, and the time of the next one.
    churn_interval_ns: u64,
    next_churn_ns: u64,
    storms: Vec<Storm>,
    started_ns: Option<u64>,
    over: bool,
    follows_stages: bool,
    rng: Rng,
    tls: Option<TlsConfig>,
    headers: String,
}

/// This worker's share of `rate`, as an interval.
fn interval(rate: f64, of: u32) -> u64 {
    if rate > 0.0 { nanos(f64::from(of) / rate) } else { 0 }
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
            in_flight_max: (plan.handshakes / of).max(1),
            interval_ns: plan.connect_rate.map_or(0, |connect_rate| interval(connect_rate, *of)),
            next_ns: now,
            timeout_ns: plan.handshake_timeout_ns,
            churn_interval_ns: interval(plan.churn, *of),
            next_churn_ns: 0,
            storms: plan.storms.iter().map(storm).collect(),
            started_ns: None,
            over: false,
            follows_stages: !plan.connect_first,
            rng: Rng::new(u64::from(plan.run) << 32 | u64::from(*index) | 1 << 31),
            tls,
            headers: plan
                .target
                .protocol
                .headers
                .iter()
                .map(|header| String::from(header.clone()) + "\r\n")
                .collect(),
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

    /// Stops all scheduling.
    pub fn end(&mut self) {
        self.over = true;
        self.dial_queue.clear();
        self.retries.clear();
        self.dropped.clear();
    }

    /// The number of connected clients.
    pub const fn connected(&self) -> u32 {
        self.connected
    }

    /// Whether every initial client has connected or failed.
    pub fn all_connected(&self) -> bool {
        self.dial_queue.is_empty() && self.retries.is_empty() && self.in_flight == 0
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
    pub fn closing(&mut self, local: usize, started_ns: u64, now: u64) {
        self.connected -= 1;
        self.deadlines.push_back((now + self.timeout_ns, local, started_ns));
    }

    /// A connection has ended in this phase.
    pub fn disconnected(&mut self, local: usize, phase: Phase, next: Reconnect, now: u64) {
        match phase {
            Phase::Handshake | Phase::Joining => self.in_flight -= 1,
            Phase::Open => self.connected -= 1,
            Phase::Closing => {}
        }
        if self.over || local >= self.client_target {
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

    /// A random client of `count` that is to be churned now.
    pub fn next_churn(&mut self, now: u64, count: usize) -> Option<usize> {
        if self.churn_interval_ns == 0 || self.started_ns.is_none() || self.over || now < self.next_churn_ns {
            return None;
        }
        self.next_churn_ns += self.churn_interval_ns;
        Some(self.rng.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize)
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
        &self,
        plan: &Plan,
        client: u32,
        position: Option<&Position>,
        now: u64,
    ) -> Result<Client, DialError> {
        let target = &plan.target;
        let source = plan.sources.get((client / CLIENTS_PER_SOURCE) as usize % plan.sources.len().max(1));
        let stream = connect(target.address, source.copied().map(|ip| SocketAddr::new(ip, 0)))
            .map_err(|error| dial_error(&error, target.address, source))?;
        let transport =
            Transport::new(stream, self.tls.as_ref()).map_err(|error| DialError::Fatal(error.to_string()))?;
        let (name, room) = (plan.client_name(client), plan.room_name(plan.room_of(client)));
        let (epoch, offset) = position.map_or(("", 0), |position| (&position.epoch, position.offset));
        let values = Values { name: &name, room: &room, epoch, offset, ..Values::default() };
        let path = recovery::path(&target.protocol, plan.resume, position).render(values);
        let request = HandshakeRequest {
            key: key(plan, client, now),
            subprotocol: target.protocol.subprotocol.as_deref(),
            deflate: target.deflate,
        };
        Ok(Client::new(transport, request.encode(&target.authority, &path, &self.headers), now))
    }
}

/// Why a connection cannot be opened. One sentence.
pub enum DialError {
    /// The server refused this one.
    Refused(String),
    /// No ports, no file descriptors, or no route to the server.
    Fatal(String),
}

fn dial_error(error: &std::io::Error, to: SocketAddr, from: Option<&IpAddr>) -> DialError {
    let source_text = from.map_or_else(String::new, |from| format!(" from {from}"));
    if error.kind() == ErrorKind::ConnectionRefused {
        DialError::Refused("the connection was refused".to_owned())
    } else if error.kind() == ErrorKind::AddrNotAvailable {
        DialError::Fatal(format!(
            "no free port is left{source_text} to {to}: add local addresses with --source"
        ))
    } else {
        DialError::Fatal(format!("cannot connect to {to}{source_text}: {error}"))
    }
}

fn connect(to: SocketAddr, from: Option<SocketAddr>) -> std::io::Result<TcpStream> {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from.filter(|from| !from.ip().is_unspecified()) {
        socket.bind(&from.into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
