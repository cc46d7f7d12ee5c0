//! Who comes and who goes: how many handshakes are under way, how fast new ones begin, who leaves and comes back. It holds no
//! connection; it says which client is to be dialled, and dials.

use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use super::client::{Client, Phase};
use super::place::{self, Place};
use crate::clock::{MILLISECOND, SECOND};
use crate::message::Assignment;
use crate::pace::{clients_at, nanos};
use crate::plan::{self, CLIENTS_PER_SOURCE, Plan};
use crate::template::Filling;
use crate::units::Dice;
use crate::wire::{Asked, Key, Transport, Trust};

/// A client that was lost tries again after this.
const RETRY_NS: u64 = 200 * MILLISECOND;

/// All clients cut at once, and when the last one is back.
struct Storm {
    at_ns: u64,
    /// How long they stay away.
    away_ns: u64,
    /// When they could come back; `None` before it came.
    returns_ns: Option<u64>,
    /// How long it took from then until the last one was back.
    back_ns: Option<u64>,
}

/// What becomes of a client whose connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It stays away.
    Never,
    /// It has left, and comes again at once.
    AtOnce,
    /// It was cut, and comes again at this moment.
    At(u64),
    /// It was lost, and tries again soon.
    Retry,
}

/// The comings and goings of a worker's clients.
pub struct Arrivals {
    /// Clients that are to be dialled, in this order.
    absent: VecDeque<usize>,
    /// Those that try again, and when.
    retries: VecDeque<(u64, usize)>,
    /// Those that were cut, and when they come back, in order.
    away: VecDeque<(u64, usize)>,
    /// Those that could not come in before the first stage; they try again in it.
    failed: Vec<usize>,
    /// When patience with a connection ends, in order; the connection is known by when it was begun.
    deadlines: VecDeque<(u64, usize, u64)>,
    /// Clients below this index are wanted.
    wanted: usize,
    connected: u32,
    under_way: u32,
    under_way_max: u32,
    /// Nanoseconds between two dials, and the next one.
    interval_ns: u64,
    next_ns: u64,
    timeout_ns: u64,
    /// Nanoseconds between two leavings, and the next one.
    churn_ns: u64,
    next_leaver_ns: u64,
    storms: Vec<Storm>,
    begun_ns: Option<u64>,
    over: bool,
    follows_stages: bool,
    dice: Dice,
    trust: Option<Trust>,
    headers: String,
}

/// The share of `rate` that is one worker's, as the time between two events.
fn interval(rate: f64, of: u32) -> u64 {
    if rate > 0.0 { nanos(f64::from(of) / rate) } else { 0 }
}

/// What a client's handshake is asked with. A client that comes again has another key.
pub const fn key(plan: &Plan, client: u32, begun_ns: u64) -> Key {
    Key((plan.run as u64) << 32 ^ client as u64 ^ begun_ns.rotate_left(24))
}

impl Arrivals {
    /// Nobody is there.
    ///
    /// # Errors
    /// One sentence: the certificates cannot be read.
    pub fn new(assignment: &Assignment, now: u64) -> Result<Self, String> {
        let Assignment { plan, index, of, .. } = assignment;
        let count = assignment.share(plan.clients) as usize;
        let target = &plan.target;
        let trust = if target.tls {
            Some(Trust::new(&target.host, target.ca.as_deref(), target.insecure)?)
        } else {
            None
        };
        let wanted = if plan.gather { count } else { 0 };
        let storm = |&plan::Storm { at, back }: &plan::Storm| Storm {
            at_ns: nanos(at),
            away_ns: nanos(back - at),
            returns_ns: None,
            back_ns: None,
        };
        Ok(Self {
            absent: (0..wanted).collect(),
            retries: VecDeque::new(),
            away: VecDeque::new(),
            failed: Vec::new(),
            deadlines: VecDeque::new(),
            wanted,
            connected: 0,
            under_way: 0,
            under_way_max: (plan.handshakes / of).max(1),
            interval_ns: plan.ramp.map_or(0, |ramp| interval(ramp, *of)),
            next_ns: now,
            timeout_ns: plan.handshake_timeout_ns,
            churn_ns: interval(plan.churn, *of),
            next_leaver_ns: 0,
            storms: plan.storms.iter().map(storm).collect(),
            begun_ns: None,
            over: false,
            follows_stages: !plan.gather,
            dice: Dice::new(u64::from(plan.run) << 32 | u64::from(*index) | 1 << 31),
            trust,
            headers: plan
                .target
                .dialect
                .headers
                .iter()
                .map(|header| String::from(header.clone()) + "\r\n")
                .collect(),
        })
    }

    /// The first stage begins.
    pub fn begin(&mut self, at_ns: u64) {
        self.begun_ns = Some(at_ns);
        self.next_leaver_ns = at_ns + self.churn_ns;
        self.retries.extend(std::mem::take(&mut self.failed).into_iter().map(|local| (at_ns, local)));
        for storm in &mut self.storms {
            storm.at_ns += at_ns;
        }
    }

    /// Nobody comes or leaves any more.
    pub fn end(&mut self) {
        self.over = true;
        self.absent.clear();
        self.retries.clear();
        self.away.clear();
    }

    /// Clients that are in.
    pub const fn connected(&self) -> u32 {
        self.connected
    }

    /// Everybody who was wanted at first has come in, or cannot.
    pub fn all_have_settled(&self) -> bool {
        self.absent.is_empty() && self.retries.is_empty() && self.under_way == 0
    }

    /// For each storm, how long it took until the last one was back.
    pub fn storms(&self) -> Vec<Option<u64>> {
        self.storms.iter().map(|storm| storm.back_ns).collect()
    }

    /// A client that is to be dialled now. It counts as under way.
    pub fn due(&mut self, now: u64) -> Option<usize> {
        while let Some((_, local)) = self.retries.pop_front_if(|&mut (at_ns, _)| at_ns <= now) {
            self.absent.push_back(local);
        }
        while let Some((_, local)) = self.away.pop_front_if(|&mut (at_ns, _)| at_ns <= now) {
            self.absent.push_back(local);
        }
        if self.under_way >= self.under_way_max || self.interval_ns > 0 && now < self.next_ns {
            return None;
        }
        let local = self.absent.pop_front()?;
        if self.interval_ns > 0 {
            // Whoever was held up does not make up for more than a tenth of a second.
            self.next_ns = self.next_ns.max(now.saturating_sub(SECOND / 10)) + self.interval_ns;
        }
        self.under_way += 1;
        self.deadlines.push_back((now + self.timeout_ns, local, now));
        Some(local)
    }

    /// A client with which patience has ended, and when the connection was begun that is meant. It may have got on since.
    pub fn overdue(&mut self, now: u64) -> Option<(usize, u64)> {
        self.deadlines
            .pop_front_if(|&mut (at_ns, ..)| at_ns <= now)
            .map(|(_, local, begun_ns)| (local, begun_ns))
    }

    /// A client's handshake is done.
    pub fn is_in(&mut self, local: usize) {
        self.under_way -= 1;
        self.connected += 1;
        debug_assert!(local < self.wanted || self.over || self.follows_stages);
    }

    /// A client has said that it leaves.
    pub fn leaves(&mut self, local: usize, begun_ns: u64, now: u64) {
        self.connected -= 1;
        self.deadlines.push_back((now + self.timeout_ns, local, begun_ns));
    }

    /// A client is gone that was in this phase.
    pub fn gone(&mut self, local: usize, phase: Phase, next: Next, now: u64) {
        match phase {
            Phase::Handshake | Phase::Joining => self.under_way -= 1,
            Phase::Open => self.connected -= 1,
            Phase::Leaving => {}
        }
        if self.over || local >= self.wanted {
            return;
        }
        match next {
            Next::Never => {}
            Next::AtOnce => self.absent.push_back(local),
            Next::At(at_ns) => self.away.push_back((at_ns, local)),
            Next::Retry if self.begun_ns.is_none() => self.failed.push(local),
            Next::Retry => self.retries.push_back((now + RETRY_NS, local)),
        }
    }

    /// When the clients come back that are to be cut now, if they are.
    pub fn storm_is_due(&mut self, now: u64) -> Option<u64> {
        let (wanted, connected) = (self.wanted, self.connected);
        for storm in &mut self.storms {
            if let (Some(returns_ns), None) = (storm.returns_ns, storm.back_ns)
                && connected as usize == wanted
            {
                storm.back_ns = Some(now.saturating_sub(returns_ns));
            }
        }
        let begun = self.begun_ns.is_some() && !self.over;
        let due =
            self.storms.iter_mut().find(|storm| begun && storm.returns_ns.is_none() && storm.at_ns <= now)?;
        due.returns_ns = Some(now + due.away_ns);
        due.returns_ns
    }

    /// A client that is to leave now and come back, drawn by lot from `count`.
    pub fn leaver(&mut self, now: u64, count: usize) -> Option<usize> {
        if self.churn_ns == 0 || self.begun_ns.is_none() || self.over || now < self.next_leaver_ns {
            return None;
        }
        self.next_leaver_ns += self.churn_ns;
        Some(self.dice.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize)
    }

    /// Follows the stages: those that are wanted now are dialled; one that is not wanted any more is returned.
    pub fn surplus(&mut self, assignment: &Assignment, now: u64) -> Option<usize> {
        let begun_ns = self.begun_ns.filter(|_| self.follows_stages && !self.over)?;
        #[expect(clippy::cast_precision_loss, reason = "a run takes less than years")]
        let seconds = now.saturating_sub(begun_ns) as f64 / 1e9;
        let all = clients_at(&assignment.plan.stages, seconds);
        let own = assignment.share(all) as usize;
        if self.wanted < own {
            self.absent.extend(self.wanted..own);
            self.wanted = own;
        }
        if self.wanted > own {
            self.wanted -= 1;
            self.absent.retain(|&local| local != self.wanted);
            return Some(self.wanted);
        }
        None
    }

    /// Begins a client's connection. `was_at` is where it was, if it comes back to there.
    ///
    /// # Errors
    /// This one cannot, or none can.
    pub fn dial(
        &self,
        plan: &Plan,
        client: u32,
        was_at: Option<&Place>,
        now: u64,
    ) -> Result<Client, Undialled> {
        let target = &plan.target;
        let source = plan.sources.get((client / CLIENTS_PER_SOURCE) as usize % plan.sources.len().max(1));
        let stream = connect(target.address, source.copied().map(|ip| SocketAddr::new(ip, 0)))
            .map_err(|error| undialled(&error, target.address, source))?;
        let transport =
            Transport::new(stream, self.trust.as_ref()).map_err(|error| Undialled::All(error.to_string()))?;
        let (name, room) = (plan.client_name(client), plan.room_name(plan.room_of(client)));
        let (epoch, offset) = was_at.map_or(("", 0), |place| (&place.epoch, place.offset));
        let filling = Filling { name: &name, room: &room, epoch, offset, ..Filling::default() };
        let path = place::path(&target.dialect, plan.resume, was_at).fill(filling);
        let asked = Asked {
            key: key(plan, client, now),
            subprotocol: target.dialect.subprotocol.as_deref(),
            deflate: target.deflate,
        };
        Ok(Client::new(transport, asked.request(&target.authority, &path, &self.headers), now))
    }
}

/// Why a connection could not even be begun. One sentence.
pub enum Undialled {
    /// The server does not take this one.
    One(String),
    /// There are no ports, no descriptors, or no way to the server.
    All(String),
}

fn undialled(error: &std::io::Error, to: SocketAddr, from: Option<&IpAddr>) -> Undialled {
    let place = from.map_or_else(String::new, |from| format!(" from {from}"));
    if error.kind() == ErrorKind::ConnectionRefused {
        Undialled::One("the connection was refused".to_owned())
    } else if error.kind() == ErrorKind::AddrNotAvailable {
        Undialled::All(format!(
            "no port is left{place} to {to}: give more addresses of this machine with --source"
        ))
    } else {
        Undialled::All(format!("{to} cannot be reached{place}: {error}"))
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
