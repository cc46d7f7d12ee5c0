//! A connection over which a client publishes by requests, while its messages arrive over another one.

use mio::{Interest, Registry, Token};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};

use super::client::{ReadBuffer, Readiness, write_from};
use super::sources::DialError;
use crate::clock::{self, SECOND};
use crate::stats::Stats;
use crate::wire::{Posted, Posts, Socket, cause};

/// After so long without a request the connection is not used any more: a server closes idle ones.
const IDLE_NS_MAX: u64 = 3 * SECOND;

/// A keep-alive connection for requests.
pub struct Uplink {
    socket: Socket,
    posts: Posts,
    /// Requests that the socket has not accepted yet.
    send_buffer: Vec<u8>,
    /// An incomplete answer.
    tail: Vec<u8>,
    /// When it was last used.
    used_ns: u64,
}

impl Uplink {
    /// A connection in progress, without a request.
    pub const fn new(socket: Socket, posts: Posts, now: u64) -> Self {
        Self { socket, posts, send_buffer: Vec::new(), tail: Vec::new(), used_ns: now }
    }

    /// Whether the server may be about to close it.
    pub const fn is_stale(&self, now: u64) -> bool {
        self.posts.unanswered() == 0 && now.saturating_sub(self.used_ns) > IDLE_NS_MAX
    }

    /// Queues a request that publishes `message`.
    pub fn queue(&mut self, message: &[u8], now: u64) {
        self.used_ns = now;
        self.posts.encode(&mut self.send_buffer, message);
    }

    /// Writes the requests as far as the socket accepts them.
    ///
    /// # Errors
    /// See [`Uplink::read`].
    pub fn flush(&mut self) -> Result<(), Option<String>> {
        write_from(&mut self.send_buffer, &mut self.socket)
            .map_err(|error| self.ended(&cause::connection(&error)))
    }

    /// Reads answers until the socket is empty; passes the reason of each refusal to `refused`.
    ///
    /// # Errors
    /// The connection has ended: one sentence if requests were not answered.
    pub fn read(
        &mut self,
        shared: &mut ReadBuffer,
        now: u64,
        refused: &mut dyn FnMut(String),
    ) -> Result<(), Option<String>> {
        loop {
            let len = match self.socket.read(&mut shared.buffer) {
                Ok(0) => return Err(self.ended("the server closed the connection")),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.ended(&cause::connection(&error))),
            };
            shared.bytes += len as u64;
            self.used_ns = now;
            self.tail.extend_from_slice(&shared.buffer[..len]);
            let mut used = 0;
            while let Some((posted, len)) = self.posts.answered(&self.tail[used..]).map_err(Some)? {
                used += len;
                match posted {
                    Posted::Accepted => {}
                    Posted::Refused(why) => refused(why),
                    Posted::Idle => return Err(None),
                }
            }
            self.tail.drain(..used);
        }
    }

    fn ended(&self, why: &str) -> Option<String> {
        let unanswered = self.posts.unanswered();
        (unanswered > 0).then(|| format!("{why}, with messages whose requests were not answered"))
    }
}

/// Registers a socket for both directions.
///
/// # Errors
/// One sentence.
pub fn register(registry: &Registry, socket: &mut Socket, token: Token) -> Result<(), String> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    registry.register(socket.socket(), token, interest).map_err(|error| error.to_string())
}

/// Marks the token of an uplink; the rest of it is its client's local index.
pub const UPLINK: usize = 1 << (usize::BITS - 2);

/// The uplinks of a worker's publishers, by local index.
#[derive(Default)]
pub struct Uplinks(BTreeMap<usize, Uplink>);

impl Uplinks {
    /// Whether a client has one that can be used. A stale one is closed.
    pub fn is_open(&mut self, local: usize, now: u64) -> bool {
        match self.0.get(&local) {
            Some(uplink) if uplink.is_stale(now) => {
                self.close(local);
                false
            }
            found => found.is_some(),
        }
    }

    /// Takes over a connection of a client that has none.
    ///
    /// # Errors
    /// One sentence: it could not be opened.
    pub fn open(
        &mut self,
        local: usize,
        dialed: Result<Uplink, DialError>,
        registry: &Registry,
    ) -> Result<(), String> {
        let mut uplink = dialed.map_err(DialError::reason)?;
        register(registry, &mut uplink.socket, Token(UPLINK | local))?;
        self.0.insert(local, uplink);
        Ok(())
    }

    /// A client's uplink.
    pub fn get_mut(&mut self, local: usize) -> Option<&mut Uplink> {
        self.0.get_mut(&local)
    }

    /// Closes a client's uplink, if it has one.
    pub fn close(&mut self, local: usize) {
        self.0.remove(&local);
    }

    /// Handles the readiness of an uplink's socket.
    pub fn ready(&mut self, local: usize, readiness: Readiness, shared: &mut ReadBuffer, stats: &mut Stats) {
        let Some(uplink) = self.0.get_mut(&local) else { return };
        let mut outcome = if readiness.writable { uplink.flush() } else { Ok(()) };
        if outcome.is_ok() && (readiness.readable || readiness.ended) {
            outcome = uplink.read(shared, clock::now(), &mut |why| stats.error(why));
        }
        if let Err(why) = outcome {
            self.close(local);
            if let Some(why) = why {
                stats.error(why);
            }
        }
    }
}
