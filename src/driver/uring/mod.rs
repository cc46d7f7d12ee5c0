//! The io_uring driver: sockets live in the ring's own table, whose size and not the process's limit on open files bounds
//! them; connections and bytes come by themselves once they have been asked for; and what goes out in one slice of the sweep goes
//! to the kernel with one call.
//!
//! Every operation carries a word that says what it is about (`op.rs`). A connection's is its slot and generation, so what completes
//! after the slot has a new owner finds nobody. Bytes that arrive for a connection that the shard does not want to hear now
//! are kept beside it (`Held`), and receiving is cancelled: the rest stays in the kernel and slows the sender down.
//!
//! Writes never wait: the kernel takes what it has room for at once, so every outcome is there when the call returns, and
//! the bytes of the rooms' logs are pinned no longer than that.

mod batch;
mod buffers;
mod doors;
mod op;
mod ring;

pub use ring::Ring;

use rustix::io::Errno;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use super::Parts;
use super::engine::{Station, Wish, is_shortage};
use crate::base::{ConnKey, Time};
use crate::shard::{Admission, Close, HowToClose};
use batch::Batch;
use doors::Doors;
use op::{Op, Owner};
use ring::Completion;

/// Connections that begin to receive, or hear what was kept for them, in one turn: no more than there are buffers, else
/// the others would only learn that there is none.
const READS_PER_TURN: usize = buffers::COUNT as usize;

/// Connections that are made of what was accepted, in one turn.
const OPENS_PER_TURN: usize = 128;

/// Runs a shard until it is told to stop or is drained.
pub(super) fn run(ring: Ring, parts: Parts) -> io::Result<()> {
    ring.enable()?;
    Driver::new(ring, parts)?.run()
}

/// Whether a connection's bytes come by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiving {
    /// No.
    No,
    /// Yes.
    Yes,
    /// They were told not to, and some may still come.
    Stopping,
}

/// One socket, in the slot of its connection.
struct Connected {
    key: ConnKey,
    /// Its place in the ring's table.
    file: u32,
    receiving: Receiving,
    /// Waits for room to write.
    blocked: bool,
    /// Stands in the queue of those to be read from.
    queued: bool,
    held: Option<Box<Held>>,
}

const _: () = assert!(size_of::<Option<Connected>>() <= 24, "an idle connection's share");

/// What has arrived for a connection that is not heard now: at most what the buffers held when it was told to stop, and once more.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    heard: usize,
    end: Option<End>,
}

/// How a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Ended,
    Broken,
}

struct Driver {
    // First, so that it is dropped first: what operations point to outlives it.
    ring: Ring,
    station: Station,
    batch: Batch,
    doors: Doors,
    sockets: Vec<Option<Connected>>,
    /// Sockets in the table, those in `accepted` among them.
    open: usize,
    /// Accepted, and not yet let in.
    accepted: VecDeque<u32>,
    /// What completed while writes were waited for.
    completed: Vec<Completion>,
    /// Connections to be read from: they have something held, or do not receive.
    readable: VecDeque<ConnKey>,
}

impl Driver {
    fn new(mut ring: Ring, parts: Parts) -> io::Result<Self> {
        let (station, listeners) = Station::new(parts);
        ring.watch(station.waker(), Op::Wake)?;
        Ok(Self {
            ring,
            station,
            batch: Batch::default(),
            doors: Doors::new(listeners)?,
            sockets: Vec::new(),
            open: 0,
            accepted: VecDeque::new(),
            completed: Vec::new(),
            readable: VecDeque::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut now = self.station.now();
        self.accept_some(now)?;
        let mut completed = Vec::new();
        loop {
            self.ring.wait(self.time_to_sleep(now))?;
            let begun = self.station.begin_turn();
            match self.station.obey() {
                Wish::Serve => {}
                Wish::Drain => {
                    self.doors.close(&mut self.ring)?;
                    for file in std::mem::take(&mut self.accepted) {
                        self.turn_away(file)?;
                    }
                }
                Wish::Stop => return Ok(()),
            }
            std::mem::swap(&mut completed, &mut self.completed);
            self.ring.completions(|completion| completed.push(completion));
            for completion in completed.drain(..) {
                self.dispatch(begun, completion)?;
            }
            self.accept_some(begun)?;
            self.read_some()?;
            self.station.shard.run();
            self.station.ask_all();
            self.write_all()?;
            self.close_all()?;
            while let Some(key) = self.station.shard.poll_resume() {
                self.queue_read(key);
            }
            match self.station.end_turn(begun) {
                Some(ended) => now = ended,
                // Its last operations are closes, which free the sockets at once instead of when the kernel gets to it.
                None => return self.ring.submit(),
            }
        }
    }

    fn time_to_sleep(&self, now: Time) -> Option<Duration> {
        let opening = self.station.accepts() && !self.accepted.is_empty();
        if opening || !self.readable.is_empty() || !self.completed.is_empty() {
            return Some(Duration::ZERO);
        }
        self.station.time_to_sleep(now)
    }

    fn dispatch(&mut self, now: Time, completion: Completion) -> io::Result<()> {
        match completion.op {
            Op::Receive(owner) => self.received(owner, completion),
            Op::Accept(door) => self.accepted(now, door, completion),
            Op::Writable(owner) => {
                if let Some(socket) = owned(&mut self.sockets, owner) {
                    socket.blocked = false;
                    self.station.shard.writable(socket.key);
                }
                Ok(())
            }
            // Whoever woke us has put something into a ring or a channel, which every turn looks at.
            Op::Wake if completion.more => Ok(()),
            Op::Wake => self.ring.watch(self.station.waker(), Op::Wake),
            Op::Send(_) | Op::Install | Op::Forget => Ok(()),
        }
    }

    fn received(&mut self, owner: Owner, completion: Completion) -> io::Result<()> {
        let Completion { result, more, buffer, .. } = completion;
        let taken = self.hear(owner, result, more, buffer);
        if let Some(buffer) = buffer {
            self.ring.buffers.give_back(buffer);
        }
        taken
    }

    fn hear(
        &mut self,
        owner: Owner,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        let Some(socket) = owned(&mut self.sockets, owner) else { return Ok(()) };
        let key = socket.key;
        if !more {
            socket.receiving = Receiving::No;
        }
        let end = match (result, buffer) {
            (Ok(0), _) => End::Ended,
            (Ok(len), Some(buffer)) => {
                let bytes = self.ring.buffers.filled(buffer, len as usize);
                if socket.held.is_none() && self.station.shard.may_read(key) {
                    self.station.shard.received(key, bytes);
                } else {
                    socket.held.get_or_insert_default().bytes.extend_from_slice(bytes);
                    if socket.receiving == Receiving::Yes {
                        socket.receiving = Receiving::Stopping;
                        return self.ring.cancel(Op::Receive(owner));
                    }
                }
                if !more {
                    self.queue_read(key);
                }
                return Ok(());
            }
            // No buffer was left, or it was told to stop: it begins anew when its turn comes.
            (Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN), _) => {
                self.queue_read(key);
                return Ok(());
            }
            (Ok(_) | Err(_), _) => End::Broken,
        };
        match &mut socket.held {
            Some(held) => held.end = Some(end),
            None => self.end(key, end),
        }
        Ok(())
    }

    fn end(&mut self, key: ConnKey, end: End) {
        match end {
            End::Ended => self.station.shard.ended(key),
            End::Broken => self.station.shard.broken(key),
        }
    }

    fn queue_read(&mut self, key: ConnKey) {
        if let Some(socket) = owned(&mut self.sockets, key.into())
            && !std::mem::replace(&mut socket.queued, true)
        {
            self.readable.push_back(key);
        }
    }

    /// Lets connections hear what was held for them, and receive when nothing is.
    fn read_some(&mut self) -> io::Result<()> {
        for _ in 0..READS_PER_TURN.min(self.readable.len()) {
            let Some(key) = self.readable.pop_front() else { break };
            let Some(socket) = owned(&mut self.sockets, key.into()) else { continue };
            socket.queued = false;
            if !self.station.shard.may_read(key) {
                continue;
            }
            if let Some(mut held) = socket.held.take() {
                let rest = &mut held.bytes[held.heard..];
                let chunk = rest.len().min(buffers::BYTES);
                let is_last = chunk == rest.len();
                self.station.shard.received(key, &mut rest[..chunk]);
                held.heard += chunk;
                match held.end {
                    _ if !is_last => {
                        socket.held = Some(held);
                        self.queue_read(key);
                        continue;
                    }
                    Some(end) => {
                        self.end(key, end);
                        continue;
                    }
                    None => {}
                }
            }
            if socket.receiving == Receiving::No {
                socket.receiving = Receiving::Yes;
                self.ring.receive(socket.file, Op::Receive(key.into()))?;
            }
        }
        Ok(())
    }

    fn accepted(&mut self, now: Time, door: usize, completion: Completion) -> io::Result<()> {
        if !completion.more {
            self.doors.over(door);
        }
        match completion.result {
            Ok(file) => {
                self.open += 1;
                if !self.doors.has(door) {
                    return self.turn_away(file);
                }
                self.accepted.push_back(file);
            }
            Err(Errno::CANCELED) => {}
            Err(error) if is_shortage(error) => self.station.pause_accepting(now, &error.to_string()),
            // The connection was gone before it was accepted; the next one may be fine.
            Err(error) => tracing::debug!(%error, "accept"),
        }
        Ok(())
    }

    /// Lets in who was accepted, and has more accepted as far as there is room.
    fn accept_some(&mut self, now: Time) -> io::Result<()> {
        if !self.station.may_accept(now) {
            return Ok(());
        }
        for _ in 0..OPENS_PER_TURN.min(self.accepted.len()) {
            let admission = self.station.shard.admission();
            if admission == Admission::Later {
                self.station.pause_accepting(now, "the server is full");
                return self.doors.shut(&mut self.ring);
            }
            // What was closed in this turn must have left its slot before it is given away.
            self.close_all()?;
            if let Some(file) = self.accepted.pop_front() {
                self.let_in(file, admission)?;
            }
        }
        let room = if self.accepted.is_empty() { self.ring.sockets_max() - self.open } else { return Ok(()) };
        if !self.doors.open(room, &mut self.ring)? {
            self.station.pause_accepting(now, "the ring's table is full");
        }
        Ok(())
    }

    fn let_in(&mut self, file: u32, admission: Admission) -> io::Result<()> {
        // Many that are accepted with one operation come without their addresses.
        let installed = if self.station.shard.wants_addresses() {
            self.ring.install(file, |completion| self.completed.push(completion))?
        } else {
            None
        };
        let peer = installed.and_then(|socket| Socket::from(socket).peer_addr().ok()?.as_socket());
        let key = self.station.shard.opened(admission, peer.map(|peer| peer.ip()));
        if key.index() >= self.sockets.len() {
            self.sockets.resize_with(key.index() + 1, || None);
        }
        let receiving = Receiving::No;
        self.sockets[key.index()] =
            Some(Connected { key, file, receiving, blocked: false, queued: false, held: None });
        self.queue_read(key);
        Ok(())
    }

    fn turn_away(&mut self, file: u32) -> io::Result<()> {
        self.open -= 1;
        self.ring.close(file)
    }

    fn write_all(&mut self) -> io::Result<()> {
        loop {
            while !self.batch.is_full()
                && let Some(write) = self.station.shard.poll_write()
            {
                let socket = self.sockets.get(write.conn).and_then(Option::as_ref);
                self.batch.add(&write, socket.map(|socket| socket.file));
            }
            if self.batch.is_empty() {
                return Ok(());
            }
            self.batch.perform(&mut self.ring, |completion| self.completed.push(completion))?;
            for written in self.batch.outcomes() {
                let ticket = written.ticket;
                let full = match written.result {
                    Ok(len) => {
                        self.station.shard.wrote(ticket, len as usize, written.offered);
                        (len as usize) < written.offered
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {
                        self.station.shard.refused(ticket);
                        true
                    }
                    Err(_) => {
                        self.station.shard.write_failed(ticket);
                        false
                    }
                };
                if full
                    && let Some(Some(socket)) = self.sockets.get_mut(written.conn)
                    && !std::mem::replace(&mut socket.blocked, true)
                {
                    self.ring.watch_writable(socket.file, Op::Writable(socket.key.into()))?;
                }
            }
        }
    }

    fn close_all(&mut self) -> io::Result<()> {
        while let Some(Close { key, how, reason, name }) = self.station.shard.poll_close() {
            let Some(slot) = self.sockets.get_mut(key.index()) else { continue };
            if how == HowToClose::Shutdown {
                if let Some(socket) = slot {
                    // Not the ring's own shutdown: the kernel leaves it to a worker, which looks the socket up when it comes to it,
                    // and its place in the table may be another connection's by then.
                    let installed =
                        self.ring.install(socket.file, |completion| self.completed.push(completion))?;
                    if let Some(descriptor) = installed {
                        // It fails when the peer is gone already; then its end is an event of its own.
                        let _ = Socket::from(descriptor).shutdown(Shutdown::Write);
                    }
                }
                continue;
            }
            if let Some(socket) = slot.take() {
                self.let_go(&socket, how)?;
            }
            self.station.shard.closed(key);
            self.station.log_close(&name, reason);
        }
        Ok(())
    }

    /// Closes a socket. Operations on it would keep it open, so they end first.
    fn let_go(&mut self, socket: &Connected, how: HowToClose) -> io::Result<()> {
        if how == HowToClose::Reset {
            self.ring.reset_on_close(socket.file)?;
        }
        if socket.receiving == Receiving::Yes {
            self.ring.cancel(Op::Receive(socket.key.into()))?;
        }
        if socket.blocked {
            self.ring.cancel(Op::Writable(socket.key.into()))?;
        }
        self.turn_away(socket.file)
    }
}

/// The socket of `owner`, unless its connection is gone.
fn owned(sockets: &mut [Option<Connected>], owner: Owner) -> Option<&mut Connected> {
    sockets.get_mut(owner.index())?.as_mut().filter(|socket| owner.is(socket.key))
}
