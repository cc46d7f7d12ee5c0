//! The shards' threads: what each is given, messages to all of them, and the replacement of one that has
//! panicked.

use signal_hook::iterator::Handle;
use socket2::Socket;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{EXIT_SOFTWARE, Failure, failure};
use crate::base::hash::Seed;
use crate::config::Config;
use crate::driver::{
    AuthCommand, AuthSender, Control, IoBackend, Parts, Passages, Rebuild, RepeatedPanic, Waker,
};
use crate::edge::Edge;
use crate::engine::Memory;
use crate::identity::hook::{Decided, HookClient};
use crate::metrics::Registry;
use crate::shard::mesh::Blueprint;
use crate::shard::{ConnectionLimits, Mesh, Options, Shard};

/// The running shards.
pub(super) struct Fleet {
    threads: Vec<JoinHandle<io::Result<()>>>,
    controls: Vec<Sender<Control>>,
    wakers: Arc<[Waker]>,
    pub(super) hook: Arc<HookClient>,
    /// The options in force, for shards that are built anew.
    current: Arc<Mutex<Arc<Options>>>,
    /// What the hook runs on.
    _edge: Edge,
}

impl Fleet {
    /// Everything that can fail is made before the first thread starts.
    pub(super) fn start(
        config: &Config,
        backends: Vec<IoBackend>,
        listeners: Vec<Vec<Socket>>,
        options: &Arc<Options>,
        registry: &Arc<Registry>,
        watch: &Handle,
    ) -> Result<Self, Failure> {
        let shards = backends.len();
        let wakers = (0..shards).map(|_| IoBackend::waker()).collect::<Result<Arc<[_]>, _>>();
        let wakers = wakers.map_err(|error| failure("eventfd creation failed", &error))?;
        let seed = Seed::new(random());
        let meshes = Mesh::build(shards, &seed);
        #[expect(clippy::disallowed_methods, reason = "the origin of the process's time")]
        let origin = Instant::now();
        let (controls, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel()).unzip();
        let edge = Edge::start().map_err(|error| failure("network runtime startup failed", &error))?;
        let decided = deliver(controls.clone(), Arc::clone(&wakers));
        let hook = Arc::new(HookClient::new(edge.handle().clone(), decided));
        hook.open(config.hook.as_ref(), &config.policy)
            .map_err(|error| failure("hook client setup failed", &error))?;
        let (mut threads, last) = (Vec::new(), Arc::new(CloseOnDrop(watch.clone())));
        let Some(blueprint) = meshes.first().map(Mesh::blueprint) else {
            return Err(failure("no shards", &"at least one is required"));
        };
        let limits = ConnectionLimits::new(&seed);
        let fleet = Shard::fleet(meshes, &limits, options, registry, random);
        let current = Arc::new(Mutex::new(Arc::clone(options)));
        let factory = ShardFactory {
            blueprint,
            limits,
            options: Arc::clone(&current),
            registry: Arc::clone(registry),
            controls: controls.clone(),
            wakers: Arc::clone(&wakers),
        };
        let ways = receivers.into_iter().zip(Passages::between(shards));
        let parts = fleet.into_iter().enumerate().zip(backends).zip(listeners).zip(ways);
        for ((((id, shard), backend), listeners), (control, passages)) in parts {
            let (auth, wakers) = (auth_sender(&hook, id), Arc::clone(&wakers));
            let (metrics, rebuild) = (registry.shard(id), factory.clone().rebuild(id));
            let drained = drop_once(&last);
            let parts = Parts {
                shard,
                id,
                listeners,
                control,
                wakers,
                passages,
                origin,
                auth,
                metrics,
                rebuild,
                drained,
            };
            let ended = Ended { watch: watch.clone(), fine: false };
            threads.push(spawn(backend, parts, ended)?);
        }
        Ok(Self { threads, controls, wakers, hook, current, _edge: edge })
    }

    /// How many shards were started.
    pub(super) fn shards(&self) -> usize {
        self.threads.len()
    }

    /// Other options hold from now on.
    pub(super) fn reconfigure(&self, options: &Arc<Options>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(options);
        self.broadcast(|| Control::Reload(Arc::clone(options)));
    }

    /// Sends a control message to all shards.
    pub(super) fn broadcast(&self, control: impl Fn() -> Control) {
        for (sender, waker) in self.controls.iter().zip(self.wakers.iter()) {
            // A shard that has ended needs no control message.
            let _ = sender.send(control());
            waker.wake();
        }
    }

    /// Waits until all shards have ended.
    ///
    /// # Errors
    /// One has failed.
    pub(super) fn join(self) -> Result<(), Failure> {
        // After one has failed the others are stopped; after a drain they have stopped.
        self.broadcast(|| Control::Stop);
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.get_ref().is_some_and(|error| error.is::<RepeatedPanic>()) => {
                    return Err(Failure(error.to_string(), EXIT_SOFTWARE));
                }
                Ok(Err(error)) => return Err(failure("shard failed", &error)),
                Err(_) => {
                    return Err(Failure("shard panicked; please report this".to_owned(), EXIT_SOFTWARE));
                }
            }
        }
        Ok(())
    }
}

/// Drops a share of what it is given when it is first called.
fn drop_once(shared: &Arc<CloseOnDrop>) -> Box<dyn FnMut() + Send> {
    let mut share = Some(Arc::clone(shared));
    Box::new(move || drop(share.take()))
}

/// Passes the auth requests of shard `id` on to the hook.
fn auth_sender(hook: &Arc<HookClient>, id: usize) -> AuthSender {
    let hook = Arc::clone(hook);
    Box::new(move |command| match command {
        AuthCommand::Request(auth_request) => hook.submit(id, auth_request),
        AuthCommand::Cancel(session) => hook.cancel(id, session),
    })
}

/// Runs a shard on a thread of its own.
fn spawn(backend: IoBackend, parts: Parts, ended: Ended) -> Result<JoinHandle<io::Result<()>>, Failure> {
    std::thread::Builder::new()
        .name(format!("shard-{}", parts.id))
        .spawn(move || {
            let mut ended = ended; // whole: it reports the end when it is dropped, a panic's too
            let outcome = backend.run(parts);
            ended.fine = outcome.is_ok();
            outcome
        })
        .map_err(|error| failure("thread creation failed", &error))
}

/// What it takes to make another shard for one that has panicked.
#[derive(Clone)]
struct ShardFactory {
    blueprint: Blueprint,
    limits: ConnectionLimits,
    /// Those that hold now.
    options: Arc<Mutex<Arc<Options>>>,
    registry: Arc<Registry>,
    controls: Vec<Sender<Control>>,
    wakers: Arc<[Waker]>,
}

impl ShardFactory {
    /// Makes other shards for shard `id`. The others are given new rings to it: what was in the old ones is
    /// lost.
    fn rebuild(self, id: usize) -> Rebuild {
        Box::new(move || {
            let options = Arc::clone(&self.options.lock().unwrap_or_else(PoisonError::into_inner));
            let (mesh, others) = self.blueprint.rebuild(id);
            let memory = Box::new(Memory::default());
            let registry = Arc::clone(&self.registry);
            let shard = Shard::new(mesh, self.limits.clone(), memory, options, registry, random());
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
    Arc::new(move |shard: usize, session, decision| {
        // A shard that has ended has no client left that waits.
        let _ = controls[shard].send(Control::AuthDecided(session, decision));
        wakers[shard].wake();
    })
}

/// Ends the main thread's wait for signals as soon as a shard has failed. When all are drained, or have
/// ended, [`CloseOnDrop`] does.
struct Ended {
    watch: Handle,
    fine: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.fine {
            self.watch.close();
        }
    }
}

/// Held by every shard until it is drained or has ended.
struct CloseOnDrop(Handle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// 64 unpredictable bits: std seeds each of its hashers from the system's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
