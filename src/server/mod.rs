//! The composition root: listeners, shards, threads, signals and the service manager. It may name every
//! module; no module names it.

mod allocator;
mod capacity;
mod fleet;
mod listeners;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt::{self, Display};
use std::sync::Arc;

use crate::base::SHARDS_MAX;
use crate::config::{Config, Problem};
use crate::driver::Control;
use crate::http::HeadLimits;
use crate::logging::{Logging, log_panics};
use crate::metrics::Registry;
use crate::shard::Options;
use crate::ws;
use capacity::{Capacity, connections_max};
use fleet::Fleet;

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
    config: Config,
    logging: &Logging,
    reload: impl Fn() -> Result<Config, Vec<Problem>>,
) -> Result<(), Failure> {
    log_panics();
    allocator::map_large_allocations();
    // Before any thread, so that every thread leaves the signals to this one.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| failure("signal handler setup failed", &error))?;
    let shards = config.shards.unwrap_or_else(available_cpus);
    let (backends, capacity) = capacity::backends(&config, shards)?;
    let connections_max = connections_max(&config, &capacity)?;
    let listeners = listeners::open(&config, shards)?;
    let addresses: Vec<_> =
        listeners.first().into_iter().flatten().filter_map(|l| l.local_addr().ok()?.as_socket()).collect();
    let registry = Arc::new(Registry::new(shards));
    let options = Arc::new(options(&config, connections_max));
    let fleet = Fleet::start(&config, backends, listeners, &options, &registry, &signals.handle())?;

    registry.set_ready(true);
    for address in &addresses {
        tracing::info!(%address, shards, driver = capacity.driver, connections_max, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    notify_manager(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serving on {} shards", fleet.shards())),
    ]);
    Process { config, logging, registry, fleet, capacity }.handle_signals(signals, reload)
}

/// What the main thread holds while the shards run.
struct Process<'a> {
    config: Config,
    logging: &'a Logging,
    registry: Arc<Registry>,
    fleet: Fleet,
    capacity: Capacity,
}

impl Process<'_> {
    /// Waits for signals, and for the end.
    fn handle_signals(
        mut self,
        mut signals: Signals,
        reload: impl Fn() -> Result<Config, Vec<Problem>>,
    ) -> Result<(), Failure> {
        let mut draining = false;
        for signal in &mut signals {
            match signal {
                SIGHUP => self.reload(&reload),
                _ if draining => {
                    tracing::warn!("second signal: stopping immediately");
                    self.fleet.broadcast(|| Control::Stop);
                }
                _ => {
                    draining = true;
                    let connections = self.registry.connections();
                    tracing::info!(connections, timeout = ?self.config.drain, "draining");
                    notify_manager(&[NotifyState::Stopping, NotifyState::Status("draining")]);
                    self.registry.set_ready(false);
                    let timeout = self.config.drain;
                    self.fleet.broadcast(|| Control::Drain(timeout));
                }
            }
        }
        let remaining = self.registry.connections();
        let outcome = self.fleet.join();
        if draining && outcome.is_ok() {
            tracing::info!(remaining, "shutdown complete");
        }
        outcome
    }

    /// Applies what can be changed in the running server, or logs why nothing was.
    fn reload(&mut self, read: &impl Fn() -> Result<Config, Vec<Problem>>) {
        let monotonic = NotifyState::monotonic_usec_now().ok();
        notify_manager(&[NotifyState::Reloading].into_iter().chain(monotonic).collect::<Vec<_>>());
        // What needs more than there is comes to light only here: it is refused like any other mistake.
        let log_problems = |problems: &[&dyn Display]| {
            for problem in problems {
                tracing::error!(%problem, "reload failed");
            }
        };
        match read().map(|new| (connections_max(&new, &self.capacity), new)) {
            Ok((Err(failure), _)) => log_problems(&[&failure]),
            Ok((Ok(connections_max), new)) => {
                for name in self.config.needs_restart(&new) {
                    tracing::warn!(setting = name, "setting changed: restart required");
                }
                if let Err(error) = self.logging.reload(&new.log) {
                    tracing::warn!(%error, "log filter unchanged");
                }
                let options = Arc::new(options(&new, connections_max));
                if (&new.hook, &new.policy) != (&self.config.hook, &self.config.policy)
                    && let Err(error) = self.fleet.hook.open(new.hook.as_ref(), &new.policy)
                {
                    tracing::warn!(%error, "hook unchanged");
                }
                self.fleet.reconfigure(&options);
                self.config = self.config.reloaded(new);
                tracing::info!("configuration reloaded");
            }
            Err(problems) => {
                log_problems(&problems.iter().map(|problem| problem as &dyn Display).collect::<Vec<_>>())
            }
        }
        notify_manager(&[NotifyState::Ready]);
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
        let config = crate::config::load(&invocation).unwrap();
        assert_eq!(options(&config, u64::MAX), Options::default());
    }
}
