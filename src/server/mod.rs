//! The composition root: listeners, shards, threads, signals and the service manager. It may name every
//! module; no module names it.

mod allocator;
mod capacity;
mod fleet;
mod listeners;
mod process;
mod refusals;
mod shutdown;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::base::SHARDS_MAX;
use crate::config::{Config, Effective, Loaded, Problem};
use crate::driver::Control;
use crate::http::HeadLimits;
use crate::logging::{Logging, log_panics};
use crate::metrics::Registry;
use crate::shard::Options;
use crate::ws;
use capacity::{Capacity, connections_max};
use fleet::Fleet;
use refusals::Summary;
use shutdown::Phase;

/// Why the server did not start, or stopped: one sentence with the cause and the remedy.
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

/// Serves until SIGTERM or SIGINT, then drains. `reload` reads the configuration anew, for SIGHUP.
///
/// # Errors
/// The server cannot start, or a shard has failed.
pub fn run(
    loaded: Loaded,
    logging: &Logging,
    reload: impl Fn() -> Result<Loaded, Vec<Problem>>,
) -> Result<(), Failure> {
    log_panics();
    process::begin();
    allocator::map_large_allocations();
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| failure("signal handler setup failed", &error))?;
    let Loaded { config, effective, warnings } = loaded;
    log_warnings(&warnings);
    let shards = config.shards.unwrap_or_else(available_cpus);
    let (backends, capacity) = capacity::backends(&config, shards)?;
    let connections_max = connections_max(&config, &capacity)?;
    let listeners = listeners::open(&config, shards)?;
    let addresses: Vec<_> = listeners
        .of_shards
        .iter()
        .take(1)
        .flatten()
        .filter_map(|l| l.local_addr().ok()?.as_socket())
        .collect();
    let registry = Arc::new(Registry::new(shards));
    registry.set_process(process::stats);
    registry.set_connections_max(connections_max);
    registry.reloads.started(process::unix_time());
    let options = Arc::new(options(&config, connections_max));
    let watch = signals.handle();
    let fleet = Fleet::start(&config, backends, listeners.of_shards, &options, &registry, &watch)?;

    registry.set_ready(true);
    for address in &addresses {
        tracing::info!(%address, shards, driver = capacity.driver, connections_max, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    notify_manager(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serving on {} shards", fleet.shards())),
    ]);
    let process = Process {
        config,
        effective,
        logging,
        registry,
        fleet,
        capacity,
        keeps_listeners: !listeners.are_passed,
        phase: Phase::Serving,
        refusals: Summary::new(),
    };
    process.handle_signals(forward(signals)?, reload)
}

/// Waits for signals in a thread of its own, which ends when the last shard has, or is drained.
fn forward(mut signals: Signals) -> Result<Receiver<i32>, Failure> {
    let (sender, receiver) = channel();
    let forward = move || {
        for signal in &mut signals {
            // The main thread receives until this one ends.
            let _ = sender.send(signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(forward);
    thread.map(|_| receiver).map_err(|error| failure("thread creation failed", &error))
}

/// How often the main thread looks whether there is something to log.
const TICK: Duration = Duration::from_secs(1);

/// What the main thread holds while the shards run.
struct Process<'a> {
    config: Config,
    /// What holds, and where it is written.
    effective: Effective,
    logging: &'a Logging,
    registry: Arc<Registry>,
    fleet: Fleet,
    capacity: Capacity,
    /// Whether the listeners stay open in a drain, to answer health checks and metrics. Those that the
    /// service manager passed do not: its connections wait for the next process.
    keeps_listeners: bool,
    phase: Phase,
    refusals: Summary,
}

impl Process<'_> {
    /// Waits for signals, and for the end.
    fn handle_signals(
        mut self,
        signals: Receiver<i32>,
        reload: impl Fn() -> Result<Loaded, Vec<Problem>>,
    ) -> Result<(), Failure> {
        loop {
            match signals.recv_timeout(self.phase.timeout(now(), TICK)) {
                Ok(SIGHUP) if self.phase == Phase::Serving => self.reload(&reload),
                Ok(SIGHUP) => tracing::warn!("reload ignored: the server is shutting down"),
                Ok(signal) if self.phase == Phase::Serving => self.shut_down(signal),
                Ok(_) => {
                    tracing::warn!("second signal: stopping immediately");
                    self.phase = Phase::Draining;
                    self.fleet.broadcast(|| Control::Stop);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.refusals.log(now(), &self.registry);
            if self.phase.is_over(now()) {
                self.drain();
            }
        }
        let remaining = self.registry.connections();
        let outcome = self.fleet.join();
        if self.phase == Phase::Draining && outcome.is_ok() {
            tracing::info!(remaining, "shutdown complete");
        }
        outcome
    }

    /// Is not ready any more. A process that is asked from a terminal (SIGINT) has no load balancer that must
    /// learn of it first.
    fn shut_down(&mut self, signal: i32) {
        self.registry.set_ready(false);
        let delay = if signal == SIGINT { Duration::ZERO } else { self.config.shutdown_delay };
        let most = delay + self.config.drain + STOP_RESERVE;
        let extend = NotifyState::ExtendTimeoutUsec(u32::try_from(most.as_micros()).unwrap_or(u32::MAX));
        notify_manager(&[NotifyState::Stopping, extend, NotifyState::Status("not ready, still serving")]);
        if !delay.is_zero() {
            let connections = self.registry.connections();
            tracing::info!(connections, ?delay, "shutting down: not ready, still serving");
        }
        self.phase = Phase::NotReady { drain_at: now() + delay };
    }

    fn drain(&mut self) {
        self.phase = Phase::Draining;
        let (connections, timeout) = (self.registry.connections(), self.config.drain);
        tracing::info!(connections, ?timeout, "draining");
        notify_manager(&[NotifyState::Status("draining")]);
        let close_listeners = !self.keeps_listeners;
        self.fleet.broadcast(|| Control::Drain { timeout, close_listeners });
    }

    /// Applies what can be changed in the running server, or logs why nothing was.
    fn reload(&mut self, read: &impl Fn() -> Result<Loaded, Vec<Problem>>) {
        let monotonic = NotifyState::monotonic_usec_now().ok();
        notify_manager(&[NotifyState::Reloading].into_iter().chain(monotonic).collect::<Vec<_>>());
        // What needs more than there is comes to light only here: it is refused like any other mistake.
        let outcome = read().and_then(|new| match connections_max(&new.config, &self.capacity) {
            Ok(connections_max) => Ok((new, connections_max)),
            Err(failure) => {
                let location = new.effective.location("max_connections");
                Err(vec![Problem::new(location, failure.to_string())])
            }
        });
        match outcome {
            Ok((new, connections_max)) => self.apply(new, connections_max),
            Err(problems) => {
                self.registry.reloads.failed();
                for problem in problems {
                    tracing::error!(%problem, "reload failed: nothing has changed");
                }
            }
        }
        notify_manager(&[NotifyState::Ready]);
    }

    fn apply(&mut self, new: Loaded, connections_max: u64) {
        let Loaded { config: new, effective, warnings } = new;
        log_warnings(&warnings);
        for name in self.config.needs_restart(&new) {
            let (running, configured) = (self.effective.value(name), effective.value(name));
            tracing::warn!(setting = name, running, configured, "setting changed: restart required");
        }
        if let Err(error) = self.logging.reload(&new.log) {
            tracing::warn!(%error, "log filter unchanged");
        }
        let options = Arc::new(options(&new, connections_max));
        if (&new.hook, &new.policy) != (&self.config.hook, &self.config.policy)
            && let Err(error) = self.fleet.hook.open(new.hook.as_ref(), &new.policy)
        {
            tracing::warn!(%error, "hook unchanged: the server goes on with the previous hook settings");
        }
        self.fleet.reconfigure(&options);
        self.registry.set_connections_max(connections_max);
        self.registry.reloads.succeeded(process::unix_time());
        let mut changed = self.effective.changes(&effective);
        if self.config.authority != new.authority
            && !changed.iter().any(|change| change.starts_with("token_"))
        {
            changed.push("the content of key files".to_owned());
        }
        let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join("; ") };
        self.effective = effective.keeping(&self.effective);
        self.config = self.config.reloaded(new);
        tracing::info!(changed, "configuration reloaded");
    }
}

/// What ending takes beside the time of the drain.
const STOP_RESERVE: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "the main thread's own clock, beside those of the shards")]
fn now() -> Instant {
    Instant::now()
}

fn log_warnings(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
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
        poll_timeout: config.poll_timeout,
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
        auth_mode: config.auth_mode(),
        anonymous: config.anonymous,
        origins: config.origins.clone(),
        deflate: config.deflate,
        deflate_bytes_min: config.deflate_min,
        echo: config.echo,
        page: config.page,
        sockjs_script: config.sockjs_script.as_str().into(),
    }
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(SHARDS_MAX))
}

/// Notifies systemd, if it listens; an error has no consequence.
fn notify_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager not notified");
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
        let config = crate::config::load(&invocation).unwrap().config;
        assert_eq!(options(&config, u64::MAX), Options::default());
    }
}
