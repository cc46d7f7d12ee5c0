//! Where the process talks to others over the network on its own account: one current-thread async runtime on
//! a thread of its own.
//!
//! Nothing here is on the path of a message. Shards use the edge with requests of plain data: bounded in
//! number and in bytes, each with a deadline that begins when it is handed over, and cancelled when its asker
//! is gone ([`requests`]). Outgoing HTTP is [`http`].

#![forbid(unsafe_code)]

pub mod http;
pub mod requests;

pub use requests::{Full, Limits, Outcome, Requests};

use std::io;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads for what has no asynchronous form, such as looking up a host's name.
const BLOCKING_THREADS_MAX: usize = 4;

/// The running runtime. Dropped, it ends, and in-flight work ends with it.
#[derive(Debug)]
pub struct Edge {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Edge {
    /// Starts it, on a thread called `edge`.
    ///
    /// # Errors
    /// The kernel has no thread, or no descriptors, for it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("edge-blocking")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("edge".to_owned()).spawn(move || {
            // Stopped, or dropped by its owner.
            let _ = runtime.block_on(stopped);
            // A look-up that hangs delays nothing else.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// What tasks are spawned with. It may outlive the runtime: then tasks are dropped instead.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
