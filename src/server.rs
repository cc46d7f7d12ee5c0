//! The composition root: listeners, shards, threads, signals and the service manager. It may name every module; no module
//! names it.

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt::{self, Display};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::SHARDS_MAX;
use crate::base::hash::Seed;
use crate::config::{Config, Driver, Problem};
use crate::driver::{Control, Engine, Inquiry, PanickedAgain, Parts, Rebuild, Waker};
use crate::edge::Edge;
use crate::engine::Memory;
use crate::http::HeadLimits;
use crate::identity::hook::{Decided, HookClient};
use crate::logging::{Logging, log_panics};
use crate::metrics::Registry;
use crate::shard::mesh::Blueprint;
use crate::shard::{ConnectionLimits, Mesh, Options, SURPLUS_MAX, Shard};
use crate::ws;

/// Why the server did not start, or stopped: one sentence that says what, and what to do.
#[derive(Debug)]
pub struct Failure(String, u8);

/// The exit code of a process that did not start, or whose kernel refused something.
const EXIT_FAILURE: u8 = 1;

/// The exit code of a process that ends because of a fault of its own (sysexits(3), EX_SOFTWARE).
const EXIT_SOFTWARE: u8 = 70;

impl Failure {
    const fn new(sentence: String) -> Self {
        Self(sentence, EXIT_FAILURE)
    }

    /// The process's exit code.
    pub const fn exit_code(&self) -> u8 {
        self.1
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Connections that the kernel holds for a listener until they are accepted; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How often, and after what time each, a port is asked for again that is in use.
const REBINDS: u32 = 50;

/// See [`REBINDS`].
const REBIND_INTERVAL: Duration = Duration::from_millis(20);

/// Descriptors of a shard's own: its poller, its waker, its listeners, and room for a log and a scrape.
const DESCRIPTORS_PER_SHARD: u64 = 8;

/// Descriptors for what is not a client.
const DESCRIPTORS_RESERVED: u64 = 32;

/// Serves until SIGTERM or SIGINT, then drains. `reload` reads the configuration anew, for SIGHUP.
///
/// # Errors
/// The server cannot start, or a shard has failed.
pub fn run(
    config: Config,
    logging: &Logging,
    reload: impl Fn() -> Result<Config, Vec<Problem>>,
) -> Result<(), Failure> {
    log_panics();
    // Before any thread, so that every thread leaves the signals to this one.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| failure("signals cannot be handled", &error))?;
    let shards = config.shards.unwrap_or_else(available_cpus);
    let (engines, room) = engines(&config, shards)?;
    let connections_max = connections_max(&config, &room)?;
    let listeners = listeners(&config, shards)?;
    let addresses: Vec<_> =
        listeners.first().into_iter().flatten().filter_map(|l| l.local_addr().ok()?.as_socket()).collect();
    let registry = Arc::new(Registry::new(shards));
    let options = Arc::new(options(&config, connections_max));
    let fleet = Fleet::start(&config, engines, listeners, &options, &registry, &signals.handle())?;

    registry.set_ready(true);
    for address in &addresses {
        tracing::info!(%address, shards, driver = room.driver, connections_max, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    tell_manager(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serving on {} shards", fleet.threads.len())),
    ]);
    Process { config, logging, registry, fleet, room }.attend(signals, reload)
}

/// What the main thread holds while the shards run.
struct Process<'a> {
    config: Config,
    logging: &'a Logging,
    registry: Arc<Registry>,
    fleet: Fleet,
    room: Room,
}

impl Process<'_> {
    /// Waits for signals, and for the end.
    fn attend(
        mut self,
        mut signals: Signals,
        reload: impl Fn() -> Result<Config, Vec<Problem>>,
    ) -> Result<(), Failure> {
        let mut draining = false;
        for signal in &mut signals {
            match signal {
                SIGHUP => self.reload(&reload),
                _ if draining => {
                    tracing::warn!("second signal: ending at once");
                    self.fleet.tell(|| Control::Stop);
                }
                _ => {
                    draining = true;
                    let connections = self.registry.connections();
                    tracing::info!(connections, bound = ?self.config.drain, "draining");
                    tell_manager(&[NotifyState::Stopping, NotifyState::Status("draining")]);
                    self.registry.set_ready(false);
                    let bound = self.config.drain;
                    self.fleet.tell(|| Control::Drain(bound));
                }
            }
        }
        let left = self.registry.connections();
        let outcome = self.fleet.join();
        if draining && outcome.is_ok() {
            tracing::info!(left, "ended");
        }
        outcome
    }

    /// Takes over what can be changed in the running server, or says why nothing was.
    fn reload(&mut self, read: &impl Fn() -> Result<Config, Vec<Problem>>) {
        let monotonic = NotifyState::monotonic_usec_now().ok();
        tell_manager(&[NotifyState::Reloading].into_iter().chain(monotonic).collect::<Vec<_>>());
        // What needs more than there is comes to light only here: it is refused like any other mistake.
        let told = |problems: &[&dyn Display]| {
            for problem in problems {
                tracing::error!(%problem, "not reloaded");
            }
        };
        match read().map(|new| (connections_max(&new, &self.room), new)) {
            Ok((Err(failure), _)) => told(&[&failure]),
            Ok((Ok(connections_max), new)) => {
                for name in self.config.needs_restart(&new) {
                    tracing::warn!(setting = name, "has changed, which needs a restart");
                }
                if let Err(error) = self.logging.reload(&new.log) {
                    tracing::warn!(%error, "the log filter stays as it was");
                }
                let options = Arc::new(options(&new, connections_max));
                if (&new.hook, &new.policy) != (&self.config.hook, &self.config.policy)
                    && let Err(error) = self.fleet.hook.open(new.hook.as_ref(), &new.policy)
                {
                    tracing::warn!(%error, "the hook stays as it was");
                }
                *self.fleet.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&options);
                self.fleet.tell(|| Control::Reload(Arc::clone(&options)));
                self.config = self.config.reloaded(new);
                tracing::info!("reloaded");
            }
            Err(problems) => {
                told(&problems.iter().map(|problem| problem as &dyn Display).collect::<Vec<_>>())
            }
        }
        tell_manager(&[NotifyState::Ready]);
    }
}

/// The running shards.
struct Fleet {
    threads: Vec<JoinHandle<io::Result<()>>>,
    controls: Vec<Sender<Control>>,
    wakers: Arc<[Waker]>,
    hook: Arc<HookClient>,
    /// The options in force, for shards that are built anew.
    current: Arc<Mutex<Arc<Options>>>,
    /// What the hook runs on.
    _edge: Edge,
}

impl Fleet {
    /// Everything that can fail is made before the first thread starts.
    fn start(
        config: &Config,
        engines: Vec<Engine>,
        listeners: Vec<Vec<Socket>>,
        options: &Arc<Options>,
        registry: &Arc<Registry>,
        watch: &Handle,
    ) -> Result<Self, Failure> {
        let shards = engines.len();
        let wakers = (0..shards).map(|_| Engine::waker()).collect::<Result<Arc<[_]>, _>>();
        let wakers = wakers.map_err(|error| failure("the kernel gives no eventfd", &error))?;
        let seed = Seed::new(random());
        let meshes = Mesh::build(shards, &seed);
        #[expect(clippy::disallowed_methods, reason = "the origin of the process's time")]
        let origin = Instant::now();
        let (controls, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel()).unzip();
        let edge = Edge::start().map_err(|error| failure("the edge cannot be started", &error))?;
        let decided = deliver(controls.clone(), Arc::clone(&wakers));
        let hook = Arc::new(HookClient::new(edge.handle().clone(), decided));
        hook.open(config.hook.as_ref(), &config.policy)
            .map_err(|error| failure("the hook cannot be asked", &error))?;
        let mut threads = Vec::new();
        let last = Arc::new(CloseOnDrop(watch.clone()));
        let Some(blueprint) = meshes.first().map(Mesh::blueprint) else {
            return Err(failure("no shard is to run", &"at least one is needed"));
        };
        let limits = ConnectionLimits::new(&seed);
        let fleet = Shard::fleet(meshes, &limits, options, registry, random);
        let current = Arc::new(Mutex::new(Arc::clone(options)));
        let spares = Spares {
            blueprint,
            limits,
            options: Arc::clone(&current),
            registry: Arc::clone(registry),
            controls: controls.clone(),
            wakers: Arc::clone(&wakers),
        };
        let parts = fleet.into_iter().enumerate().zip(engines).zip(listeners).zip(receivers);
        for ((((id, shard), engine), listeners), control) in parts {
            let hook_client = Arc::clone(&hook);
            let ask = Box::new(move |inquiry| match inquiry {
                Inquiry::Ask(question) => hook_client.ask(id, question),
                Inquiry::Withdraw(conn) => hook_client.cancel(id, conn),
            });
            let wakers = Arc::clone(&wakers);
            let (metrics, rebuild) = (registry.shard(id), spares.clone().rebuild(id));
            let parts = Parts { shard, id, listeners, control, wakers, origin, ask, metrics, rebuild };
            let ended = Ended { watch: watch.clone(), _last: Arc::clone(&last), fine: false };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || {
                    let mut ended = ended; // whole: it tells of the end when it is dropped, a panic's too
                    let outcome = engine.run(parts);
                    ended.fine = outcome.is_ok();
                    outcome
                })
                .map_err(|error| failure("a thread cannot be started", &error))?;
            threads.push(thread);
        }
        Ok(Self { threads, controls, wakers, hook, current, _edge: edge })
    }

    fn tell(&self, control: impl Fn() -> Control) {
        for (sender, waker) in self.controls.iter().zip(self.wakers.iter()) {
            // A shard that has ended hears nothing any more, which is what it was to be told.
            let _ = sender.send(control());
            waker.wake();
        }
    }

    fn join(self) -> Result<(), Failure> {
        // After one has failed the others are told to stop; after a drain they have stopped.
        self.tell(|| Control::Stop);
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.get_ref().is_some_and(|error| error.is::<PanickedAgain>()) => {
                    return Err(Failure(error.to_string(), EXIT_SOFTWARE));
                }
                Ok(Err(error)) => return Err(failure("a shard has failed", &error)),
                Err(_) => {
                    return Err(Failure(
                        "a shard has panicked; please report this".to_owned(),
                        EXIT_SOFTWARE,
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What it takes to make another shard for one that has panicked.
#[derive(Clone)]
struct Spares {
    blueprint: Blueprint,
    limits: ConnectionLimits,
    /// Those that hold now.
    options: Arc<Mutex<Arc<Options>>>,
    registry: Arc<Registry>,
    controls: Vec<Sender<Control>>,
    wakers: Arc<[Waker]>,
}

impl Spares {
    /// Makes other shards for shard `id`. The others are given new rings to it: what was in the old ones is lost.
    fn rebuild(self, id: usize) -> Rebuild {
        Box::new(move || {
            let options = Arc::clone(&self.options.lock().unwrap_or_else(PoisonError::into_inner));
            let (mesh, others) = self.blueprint.rebuild(id);
            let engine = Box::new(Memory::new(mesh.seed()));
            let registry = Arc::clone(&self.registry);
            let shard = Shard::new(mesh, self.limits.clone(), engine, options, registry, random());
            for (other, ends) in others {
                // A shard that has ended needs no rings.
                let _ = self.controls[other].send(Control::Peer(Box::new(ends)));
                self.wakers[other].wake();
            }
            Some(shard)
        })
    }
}

/// Takes decisions to their shards.
fn deliver(controls: Vec<Sender<Control>>, wakers: Arc<[Waker]>) -> Arc<Decided> {
    Arc::new(move |shard: usize, conn, verdict| {
        // A shard that has ended has no client left that waits.
        let _ = controls[shard].send(Control::Decided(conn, verdict));
        wakers[shard].wake();
    })
}

/// Ends the main thread's wait for signals: when the last shard has ended, or as soon as one has failed.
struct Ended {
    watch: Handle,
    /// Dropped by the last shard that holds it.
    _last: Arc<CloseOnDrop>,
    fine: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.fine {
            self.watch.close();
        }
    }
}

struct CloseOnDrop(Handle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The listeners of every shard: from the service manager when it passed any, else new ones, each shard its own
/// (`SO_REUSEPORT`), so that the kernel spreads the connections.
fn listeners(config: &Config, shards: usize) -> Result<Vec<Vec<Socket>>, Failure> {
    let passed = activated()?;
    (0..shards)
        .map(|_| {
            if passed.is_empty() {
                let own = config.listen.iter().map(|&address| listen(address, config.listen_is_default));
                return own.collect();
            }
            let shared = passed.iter().map(Socket::try_clone).collect::<Result<_, _>>();
            shared.map_err(|error| failure("a socket from the service manager cannot be shared", &error))
        })
        .collect()
}

/// Sockets that systemd opened for us (sd_listen_fds(3)).
fn activated() -> Result<Vec<Socket>, Failure> {
    use std::os::fd::FromRawFd;
    let passed =
        sd_notify::listen_fds().map_err(|error| failure("the passed sockets cannot be taken", &error))?;
    passed
        .map(|descriptor| {
            // SAFETY: the service manager passed this descriptor to this process, and nothing else here owns it:
            // `listen_fds` takes the variables that announce it, and is called once.
            let socket = unsafe { Socket::from_raw_fd(descriptor) };
            let prepared = socket.set_nonblocking(true).and_then(|()| socket.set_tcp_nodelay(true));
            prepared.map_err(|error| failure("a passed socket is no listening TCP socket", &error))?;
            Ok(socket)
        })
        .collect()
}

fn listen(address: SocketAddr, is_default: bool) -> Result<Socket, Failure> {
    match bind(address) {
        // Nobody asked for IPv6: a machine without it serves IPv4.
        Err(error)
            if is_default
                && rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::AFNOSUPPORT) =>
        {
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            bind(address).map_err(|error| cannot_listen(address, &error))
        }
        other => other.map_err(|error| cannot_listen(address, &error)),
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_cloexec(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    probe_port(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by every accepted socket, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    defer_accept(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Has the kernel keep a connection until its first bytes are there, or a second has passed (tcp(7)). A client of HTTP
/// always speaks first: so its request is read when it is accepted, and one wake-up does for both.
fn defer_accept(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of one integer that lives until the call is over, and the descriptor is
    // that of `socket`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size_of_val(&seconds)).unwrap_or(0),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// With `SO_REUSEPORT` two servers of one user would share a port in silence. The first bind of an address in this
/// process is tried without it.
fn probe_port(address: SocketAddr) -> io::Result<()> {
    use std::sync::Mutex;
    static OURS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let Ok(mut ours) = OURS.lock() else { return Ok(()) };
    if address.port() == 0 || ours.contains(&address) {
        return Ok(());
    }
    let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    probe.set_reuse_address(true)?;
    if address.is_ipv6() {
        probe.set_only_v6(false)?;
    }
    bind_patiently(&probe, address)?;
    ours.push(address);
    Ok(())
}

/// The sockets of a killed process that ran on io_uring are closed by the kernel some milliseconds after the process is gone. Its
/// successor, which a supervisor starts at once, waits for that.
fn bind_patiently(probe: &Socket, address: SocketAddr) -> io::Result<()> {
    for _ in 0..REBINDS {
        match probe.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(REBIND_INTERVAL),
            other => return other,
        }
    }
    probe.bind(&address.into())
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    use std::io::ErrorKind;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the errors of bind(2), these have an advice of their own"
    )]
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another process listens there; stop it or choose another port with --listen",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or a socket from systemd; or choose another with --listen"
        }
        ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose another with --listen"
        }
        _ => "choose another address with --listen",
    };
    Failure::new(format!("cannot listen on {address}: {error}; {advice}"))
}

/// What the shards run on, and how many connections that leaves room for.
struct Room {
    driver: &'static str,
    connections: u64,
    /// What of the limit on open files goes to something else.
    reserve: u64,
    files_max: u64,
}

/// One engine for each shard: of the driver that was chosen, or of the best that works here.
fn engines(config: &Config, shards: usize) -> Result<(Vec<Engine>, Room), Failure> {
    let (soft, hard) = raise_descriptor_limit();
    let count = shards as u64;
    if config.driver != Driver::Epoll {
        // Each ring's table is held against the limit for itself.
        let sockets_max = soft.min(config.max_connections.map_or(TABLE_MAX, table_for)).min(TABLE_MAX);
        let table = u32::try_from(sockets_max).unwrap_or(u32::MAX);
        match (0..shards).map(|_| Engine::uring(table)).collect::<io::Result<Vec<_>>>() {
            Ok(engines) => {
                let connections = count * sockets_max.saturating_sub(SURPLUS_MAX);
                let room =
                    Room { driver: "uring", connections, reserve: SURPLUS_MAX * count, files_max: hard };
                return Ok((engines, room));
            }
            Err(error) if config.driver == Driver::Uring => {
                return Err(Failure::new(format!(
                    "io_uring cannot be used: {error}; it needs Linux 6.8, kernel.io_uring_disabled = 0 and a sandbox \
                     that allows it; or choose --driver epoll"
                )));
            }
            Err(error) => tracing::info!(%error, "io_uring cannot be used: epoll serves"),
        }
    }
    let engines = (0..shards).map(|_| Engine::epoll()).collect::<io::Result<Vec<_>>>();
    let engines = engines.map_err(|error| failure("the kernel gives no event poller", &error))?;
    let reserve = DESCRIPTORS_RESERVED + count * DESCRIPTORS_PER_SHARD + SURPLUS_MAX * count;
    Ok((
        engines,
        Room { driver: "epoll", connections: soft.saturating_sub(reserve), reserve, files_max: hard },
    ))
}

/// The largest table that a ring gets unasked, for which the kernel keeps eight bytes a place: 2 MiB.
const TABLE_MAX: u64 = 1 << 18;

/// A table in which one ring can hold all of `connections`, if they all come to it, without being careful.
const fn table_for(connections: u64) -> u64 {
    connections.saturating_add(SURPLUS_MAX + 2 * BACKLOG.cast_unsigned() as u64)
}

/// How many connections may be open: what was chosen, or what there is room for.
fn connections_max(config: &Config, room: &Room) -> Result<u64, Failure> {
    let Room { connections, reserve, files_max, .. } = *room;
    if connections == 0 {
        return Err(Failure::new(format!(
            "only {files_max} files may be open, and {reserve} are needed before the first client; raise LimitNOFILE \
             (ulimit -n)"
        )));
    }
    match config.max_connections {
        Some(wanted) if wanted > connections => Err(Failure::new(format!(
            "max_connections = {wanted}, and there is room for {connections} with {files_max} open files allowed; raise \
             LimitNOFILE (ulimit -n) or lower max_connections"
        ))),
        Some(wanted) => Ok(wanted),
        None => Ok(connections),
    }
}

/// Raises the soft limit on open files to the hard one; returns both.
fn raise_descriptor_limit() -> (u64, u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let soft = if raised.is_ok() { hard } else { limit.current.unwrap_or(hard) };
    (soft, hard)
}

fn options(config: &Config, connections_max: u64) -> Options {
    Options {
        head: HeadLimits { head_bytes_max: config.max_head },
        message: ws::Limits { message_bytes_max: config.max_message },
        name_bytes_max: config.max_name,
        room_bytes_max: config.max_room,
        handshake_timeout: config.handshake_timeout,
        ping_interval: config.ping_interval,
        pong_timeout: config.pong_timeout,
        close_timeout: config.close_timeout,
        connections_max,
        connections_per_user_max: config.max_connections_per_user,
        connections_per_address_max: config.max_connections_per_address,
        room_log_bytes_max: config.room_log,
        rooms: Arc::clone(&config.rooms),
        rooms_per_client_max: config.max_rooms_per_client,
        history_total_bytes_max: config.history_memory,
        session_messages_per_second_max: config.max_session_messages_per_second,
        session_commands_per_second_max: config.max_session_commands_per_second,
        command_timeout: config.command_timeout,
        identification: config.identification(),
        anonymous: config.anonymous,
        origins: config.origins.clone(),
        deflate: config.deflate,
        deflate_bytes_min: config.deflate_min,
        echo: config.echo,
        page: config.page,
    }
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(SHARDS_MAX))
}

/// 64 bits that nobody can guess: std seeds each of its hashers from the system's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Tells systemd, if it listens; nobody else minds.
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

fn failure(what: &str, error: &dyn Display) -> Failure {
    Failure::new(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_defaults_are_the_configurations() {
        let invocation = crate::config::parse(std::iter::once("stentor".into())).unwrap();
        let config = crate::config::load(&invocation).unwrap();
        assert_eq!(options(&config, u64::MAX), Options::default());
    }
}
