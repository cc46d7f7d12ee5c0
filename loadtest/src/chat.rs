//! The scenario `chat`: clients in one room, some of which speak at a pace that the server cannot slow down. Latency is
//! counted from the moment at which a message was *meant* to be said, so that a stall is not hidden by the silence it causes.

use clap::Args;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Outcome};
use crate::ledger::{Faults, Ledger};
use crate::report::{Summary, live, live_end};
use crate::stamp::{STAMP_BYTES, Stamp};

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The server; {name} becomes each client's own name.
    #[arg(default_value = "ws://127.0.0.1:8080/ws/{name}?room=swarm")]
    url: String,
    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// How many of them speak.
    #[arg(long, default_value_t = 10)]
    speakers: u16,
    /// Messages a second, of all speakers together.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Bytes of each message's text.
    #[arg(long, default_value_t = 96)]
    size: usize,
    /// How long they talk.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Handshakes under way at a time.
    #[arg(long, default_value_t = 100)]
    handshakes: usize,
    /// The server's process: its CPU and memory are told.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Write the result here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How long the last messages may take to arrive.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// Clients from one source address, which has some 28,000 ports.
const CLIENTS_PER_SOURCE: usize = 20_000;

/// Runs it. True when everybody heard everything once and in order.
///
/// # Errors
/// One sentence that says why it could not be done, and what to do.
pub fn run(plan: &Plan) -> Result<bool, String> {
    let target = Target::parse(&plan.url)?;
    if plan.size < STAMP_BYTES {
        return Err(format!("--size must be at least {STAMP_BYTES}: each message carries a stamp"));
    }
    if usize::from(plan.speakers) > plan.clients || plan.speakers == 0 {
        return Err("there must be at least one speaker, and no more speakers than clients".to_owned());
    }
    raise_descriptor_limit(plan.clients)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .map_err(|error| error.to_string())?;
    let mut swarm = Swarm::new(plan.clone(), target, interrupted)?;
    swarm.connect()?;
    let cpu = plan.server_pid.map(server_cpu).transpose()?;
    swarm.talk()?;
    let mut summary = swarm.summary();
    if let (Some(pid), Some(before)) = (plan.server_pid, cpu) {
        summary.server_cpu = Some(server_cpu(pid)?.saturating_sub(before));
        summary.server_rss = Some(server_rss(pid)?);
    }
    live_end();
    summary.print();
    if let Some(path) = &plan.json {
        let text = format!("{:#}\n", summary.json());
        std::fs::write(path, text)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    Ok(summary.is_clean())
}

/// Where to connect, and what to ask for.
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("ws://").ok_or_else(|| format!("{url} is no ws:// URL"))?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let with_port = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses =
            with_port.to_socket_addrs().map_err(|error| format!("{host} is not found: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host} has no address"))?;
        Ok(Self { address, host: host.to_owned(), path: path.to_owned() })
    }

    fn request(&self, index: usize) -> Vec<u8> {
        let path = self.path.replace("{name}", &format!("swarm-{index}"));
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.host
        )
        .into_bytes()
    }

    /// On the loopback, each 20,000 clients have an address of their own: ports would run out.
    fn connect(&self, index: usize) -> std::io::Result<TcpStream> {
        let source = u8::try_from(1 + index / CLIENTS_PER_SOURCE).unwrap_or(1);
        if !(self.address.is_ipv4() && self.address.ip().is_loopback()) {
            return TcpStream::connect(self.address);
        }
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::new(IpAddr::from([127, 0, 0, source]), 0).into())?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                Err(error)
            }
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }
}

struct Swarm {
    plan: Plan,
    target: Target,
    poll: Poll,
    events: Events,
    clients: Vec<Option<Client>>,
    /// One for each client and speaker, client by client.
    ledgers: Vec<Ledger>,
    /// Messages of each speaker.
    said: Vec<u32>,
    faults: Faults,
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    buffer: Vec<u8>,
    run: u32,
    origin: Instant,
    open: usize,
    deliveries: u64,
    late_max: Duration,
    elapsed: Duration,
    interrupted: Arc<AtomicBool>,
}

impl Swarm {
    fn new(plan: Plan, target: Target, interrupted: Arc<AtomicBool>) -> Result<Self, String> {
        let speakers = usize::from(plan.speakers);
        Ok(Self {
            poll: Poll::new().map_err(|error| format!("the kernel gives no event poller: {error}"))?,
            events: Events::with_capacity(1024),
            clients: (0..plan.clients).map(|_| None).collect(),
            ledgers: vec![Ledger::default(); plan.clients * speakers],
            said: vec![0; speakers],
            faults: Faults::default(),
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?,
            errors: BTreeMap::new(),
            buffer: vec![0; 1 << 20],
            run: std::process::id(),
            origin: now(),
            open: 0,
            deliveries: 0,
            late_max: Duration::ZERO,
            elapsed: Duration::ZERO,
            interrupted,
            plan,
            target,
        })
    }

    /// Opens all clients, so many at a time.
    fn connect(&mut self) -> Result<(), String> {
        let (mut begun, mut last_progress, mut settled) = (0, now(), 0);
        while settled < self.plan.clients && !self.interrupted.load(Ordering::Relaxed) {
            while begun < self.plan.clients && begun - settled < self.plan.handshakes {
                let stream = self.target.connect(begun).map_err(|error| self.unreachable(&error))?;
                let mut client = Client::new(stream, self.target.request(begun));
                self.poll
                    .registry()
                    .register(client.stream(), Token(begun), Interest::READABLE | Interest::WRITABLE)
                    .map_err(|error| error.to_string())?;
                self.clients[begun] = Some(client);
                begun += 1;
            }
            self.turn(Duration::from_millis(50))?;
            let settled_now = self.open
                + self.errors.values().map(|&count| usize::try_from(count).unwrap_or(0)).sum::<usize>();
            if settled_now > settled {
                (settled, last_progress) = (settled_now, now());
            } else if last_progress.elapsed() > Duration::from_secs(10) {
                return Err(format!(
                    "{} accepts no more connections after {} of them",
                    self.target.host, self.open
                ));
            }
        }
        if self.open == 0 {
            let why = self.errors.keys().next().cloned().unwrap_or_default();
            return Err(format!("no client came in at {}: {why}", self.target.host));
        }
        Ok(())
    }

    fn unreachable(&self, error: &std::io::Error) -> String {
        format!("{} cannot be reached: {error}; is the server running there?", self.target.address)
    }

    /// Speaks for the planned time, then listens for what is still on its way.
    fn talk(&mut self) -> Result<(), String> {
        let speakers = u64::from(self.plan.speakers);
        let interval = Duration::from_nanos(1_000_000_000 / u64::from(self.plan.rate.max(1)));
        let begun = self.origin.elapsed();
        let end = begun + self.plan.duration;
        let (mut next, mut count) = (begun, 0_u64);
        let (mut shown, mut shown_deliveries) = (begun, 0);
        loop {
            let time = self.origin.elapsed();
            if time >= end || self.interrupted.load(Ordering::Relaxed) {
                break;
            }
            while next <= time {
                self.late_max = self.late_max.max(time - next);
                self.say(usize::try_from(count % speakers).unwrap_or(0), next);
                count += 1;
                next += interval;
            }
            self.turn(next.saturating_sub(self.origin.elapsed()).min(Duration::from_millis(100)))?;
            if time - shown >= Duration::from_secs(1) {
                live(self.open, self.deliveries - shown_deliveries, &self.latency_us);
                (shown, shown_deliveries) = (time, self.deliveries);
            }
        }
        self.elapsed = self.origin.elapsed() - begun;
        let last_call = now();
        while last_call.elapsed() < AFTERWARDS && !self.everything_is_heard() {
            self.turn(Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn everything_is_heard(&self) -> bool {
        let members = self.clients.iter().zip(self.ledgers.chunks(self.said.len()));
        let mut open = members.filter(|(client, _)| client.as_ref().is_some_and(Client::is_open));
        open.all(|(_, ledgers)| {
            ledgers.iter().zip(&self.said).all(|(ledger, &said)| ledger.is_complete(said))
        })
    }

    fn say(&mut self, speaker: usize, intended: Duration) {
        let stamp = Stamp {
            run: self.run,
            speaker: u16::try_from(speaker).unwrap_or(0),
            sequence: self.said[speaker],
            intended_ns: u64::try_from(intended.as_nanos()).unwrap_or(0),
        };
        let Some(client) = &mut self.clients[speaker] else { return };
        match client.say(&stamp.text(self.plan.size)) {
            Ok(()) => self.said[speaker] += 1,
            Err(error) => self.lose(speaker, error.to_string()),
        }
    }

    /// Takes in what has happened, waiting for it at most `wait`.
    fn turn(&mut self, wait: Duration) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        }
        let mut gone = Vec::new();
        for event in &self.events {
            let index = event.token().0;
            let Some(client) = &mut self.clients[index] else { continue };
            if event.is_writable()
                && let Err(error) = client.flush()
            {
                gone.push((index, error.to_string()));
                continue;
            }
            if !event.is_readable() && !event.is_read_closed() {
                continue;
            }
            let speakers = usize::from(self.plan.speakers);
            let ledgers = &mut self.ledgers[index * speakers..][..speakers];
            let now_ns = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(0);
            let mut heard = |payload: &[u8]| {
                let Some(stamp) = Stamp::find(payload).filter(|stamp| stamp.run == self.run) else { return };
                let Some(ledger) = ledgers.get_mut(usize::from(stamp.speaker)) else { return };
                ledger.heard(stamp.sequence, &mut self.faults);
                self.deliveries += 1;
                self.latency_us.saturating_record(now_ns.saturating_sub(stamp.intended_ns) / 1000);
            };
            match client.read(&mut self.buffer, &mut heard) {
                Outcome::Alive => {}
                Outcome::Opened => self.open += 1,
                Outcome::Gone(why) => gone.push((index, why)),
            }
        }
        for (index, why) in gone {
            self.lose(index, why);
        }
        Ok(())
    }

    fn lose(&mut self, index: usize, why: String) {
        if self.clients[index].take().is_some_and(|client| client.is_open()) {
            self.open -= 1;
        }
        *self.errors.entry(why).or_default() += 1;
    }

    fn summary(&mut self) -> Summary {
        let mut faults = self.faults;
        let speakers = usize::from(self.plan.speakers);
        for (client, ledgers) in self.clients.iter().zip(self.ledgers.chunks(speakers)) {
            // What a client that was lost did not hear is told as the error that it was lost by.
            if client.as_ref().is_some_and(Client::is_open) {
                for (ledger, &said) in ledgers.iter().zip(&self.said) {
                    ledger.close(said, &mut faults);
                }
            }
        }
        Summary {
            connected: self.open,
            wanted: self.plan.clients,
            said: self.said.iter().map(|&said| u64::from(said)).sum(),
            deliveries: self.deliveries,
            faults,
            latency_us: self.latency_us.clone(),
            elapsed: self.elapsed,
            errors: std::mem::take(&mut self.errors),
            late_max: self.late_max,
            server_cpu: None,
            server_rss: None,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a load tester is all edges: this is its clock")]
fn now() -> Instant {
    Instant::now()
}

/// The clients need a descriptor each.
fn raise_descriptor_limit(clients: usize) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    match allowed {
        Some(allowed) if (clients + 16) as u64 > allowed => Err(format!(
            "{clients} clients need {} open files, and {allowed} are allowed; use fewer --clients or raise ulimit -n",
            clients + 16
        )),
        _ => Ok(()),
    }
}

/// CPU that all threads of a process have used.
fn server_cpu(pid: u32) -> Result<Duration, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("--server-pid {pid}: {error}"))?;
    let nanos = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_nanos(nanos))
}

fn server_rss(pid: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("--server-pid {pid}: {error}"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}
