//! Sockets on io_uring: they live in the ring's own table, whose size and not the process's limit on open
//! files bounds them; accepts and receives are multishot operations; and what goes out in one slice of the
//! sweep goes to the kernel with one call.
//!
//! Every operation carries a word that identifies it (`op.rs`). A connection's is its slot and generation, so
//! what completes after the slot has a new owner is dropped. When the shard pauses reading of a connection,
//! receiving is cancelled: what had arrived is still handed to the shard, the rest stays in the kernel and
//! slows the sender down.
//!
//! Writes never wait: the kernel takes what it has room for at once, so every outcome is there when the call
//! returns, and the bytes of the rooms' logs are pinned no longer than that.

mod batch;
mod buffers;
mod listeners;
mod op;
mod ring;

pub use ring::Ring;

use core::net::IpAddr;
use rustix::io::Errno;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Waker, is_shortage};
use super::sockets::{Accept, Event, Input, Opened, Outcome, Sockets, Writing};
use crate::base::ConnKey;
use crate::shard::Write;
use batch::{BATCH, Batch};
use listeners::Listeners;
use op::Op;
use ring::Completion;

/// Connections that begin to receive in one turn: no more than there are buffers, else the others would only
/// learn that there is none.
const READS_PER_TURN: usize = buffers::COUNT as usize;

/// Connections that are made of what was accepted, in one turn.
const ACCEPTS_PER_TURN: usize = 128;

/// Whether a connection's bytes come by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiving {
    /// No.
    No,
    /// Yes.
    Yes,
    /// They are cancelled, and some may still come.
    Stopping,
}

/// A socket of the ring's table.
#[derive(Debug)]
pub(super) struct RingSocket {
    /// Its index there.
    file: u32,
    receiving: Receiving,
    /// Waits for room to write.
    blocked: bool,
}

const _: () =
    assert!(size_of::<Option<super::slots::Slot<RingSocket>>>() <= 12, "an idle connection's share");

/// The sockets of a shard.
pub(super) struct RingSockets {
    // First, so that it is dropped first: what operations point to outlives it.
    ring: Ring,
    batch: Batch,
    listeners: Listeners,
    wakers: Arc<[Waker]>,
    id: usize,
    /// Sockets in the table, those in `accepted` among them.
    open: usize,
    /// Accepted by the kernel, and not yet by the loop.
    accepted: VecDeque<u32>,
    /// Why an accept has failed that another one would not mend.
    shortage: Option<Errno>,
    /// What completed while something else was waited for.
    completed: Vec<Completion>,
}

impl Ring {
    /// Makes this thread the ring's own, and has it watch what wakes shard `id`.
    pub(super) fn sockets(
        mut self,
        listeners: Vec<Socket>,
        wakers: Arc<[Waker]>,
        id: usize,
    ) -> io::Result<RingSockets> {
        self.enable()?;
        self.watch(wakers[id].as_fd(), Op::Wake)?;
        Ok(RingSockets {
            ring: self,
            batch: Batch::default(),
            listeners: Listeners::new(listeners)?,
            wakers,
            id,
            open: 0,
            accepted: VecDeque::new(),
            shortage: None,
            completed: Vec::new(),
        })
    }
}

impl RingSockets {
    /// Takes a completion where it belongs: those of connections are events.
    fn sort(&mut self, completion: Completion, events: &mut Vec<Event<Completion>>) -> io::Result<()> {
        match completion.op {
            Op::Receive(id) | Op::Writable(id) => events.push(Event::Completed(id, completion)),
            Op::Accept(listener) => return self.accepted(listener, completion),
            // Every turn handles control messages and the other shards' messages.
            Op::Wake if !completion.more => return self.ring.watch(self.wakers[self.id].as_fd(), Op::Wake),
            Op::Wake | Op::Send(_) | Op::Install | Op::Forget => {}
        }
        Ok(())
    }

    fn accepted(&mut self, listener: usize, completion: Completion) -> io::Result<()> {
        if !completion.more {
            self.listeners.over(listener);
        }
        match completion.result {
            Ok(file) => {
                self.open += 1;
                if !self.listeners.has(listener) {
                    return self.drop_file(file);
                }
                self.accepted.push_back(file);
            }
            Err(Errno::CANCELED) => {}
            Err(error) if is_shortage(error) => self.shortage = Some(error),
            // The connection was gone before it was accepted; the next one may be fine.
            Err(error) => tracing::debug!(%error, "accept failed"),
        }
        Ok(())
    }

    /// Where the peer of a socket is, for which it needs a descriptor for a moment. `None`: that cannot be
    /// found out, as the process has no descriptor left, or the peer is gone.
    fn address_of(&mut self, file: u32) -> io::Result<Option<IpAddr>> {
        let installed = self.ring.install(file, |completion| self.completed.push(completion))?;
        let peer = installed.and_then(|socket| Socket::from(socket).peer_addr().ok()?.as_socket());
        Ok(peer.map(|peer| peer.ip()))
    }

    fn drop_file(&mut self, file: u32) -> io::Result<()> {
        self.open -= 1;
        self.ring.close(file)
    }
}

impl Sockets for RingSockets {
    type Socket = RingSocket;
    type Completion = Completion;
    type Carrier = OwnedFd;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event<Completion>>) -> io::Result<()> {
        self.ring.wait(if self.completed.is_empty() { timeout } else { Some(Duration::ZERO) })?;
        let mut completed = std::mem::take(&mut self.completed);
        self.ring.completions(|completion| completed.push(completion));
        for completion in completed.drain(..) {
            self.sort(completion, events)?;
        }
        self.completed = completed;
        Ok(())
    }

    fn accepts_per_turn(&self) -> usize {
        ACCEPTS_PER_TURN
    }

    fn has_connection(&self) -> bool {
        !self.accepted.is_empty() || self.shortage.is_some()
    }

    fn accept(&mut self, wants_address: bool) -> io::Result<Accept<RingSocket>> {
        if let Some(error) = self.shortage.take() {
            return Ok(Accept::Shortage(error.into()));
        }
        let Some(file) = self.accepted.pop_front() else { return Ok(Accept::Empty) };
        // Many that are accepted with one operation come without their addresses.
        let address = if wants_address { self.address_of(file)? } else { None };
        Ok(Accept::Connection(RingSocket { file, receiving: Receiving::No, blocked: false }, address))
    }

    fn keep_accepting(&mut self) -> io::Result<bool> {
        if !self.accepted.is_empty() {
            return Ok(true);
        }
        self.listeners.open(self.ring.sockets_max() - self.open, &mut self.ring)
    }

    fn pause_accepting(&mut self) -> io::Result<()> {
        self.listeners.pause(&mut self.ring)
    }

    fn close_listeners(&mut self) -> io::Result<()> {
        self.listeners.close(&mut self.ring)?;
        while let Some(file) = self.accepted.pop_front() {
            self.drop_file(file)?;
        }
        Ok(())
    }

    fn open(&mut self, _key: ConnKey, _socket: &mut RingSocket) -> io::Result<Opened> {
        Ok(Opened::Ready)
    }

    fn peer_address(&mut self, socket: &mut RingSocket) -> io::Result<Option<IpAddr>> {
        self.address_of(socket.file)
    }

    fn reads_per_turn(&self) -> usize {
        READS_PER_TURN
    }

    fn read(&mut self, key: ConnKey, socket: &mut RingSocket) -> io::Result<Input<'_>> {
        if socket.receiving == Receiving::No {
            socket.receiving = Receiving::Yes;
            self.ring.receive(socket.file, Op::Receive(key.into()))?;
        }
        Ok(Input::Later)
    }

    fn complete(&mut self, socket: &mut RingSocket, completion: Completion) -> Input<'_> {
        let Completion { op, result, more, buffer } = completion;
        if matches!(op, Op::Writable(_)) {
            socket.blocked = false;
            return Input::Writable;
        }
        if !more {
            socket.receiving = Receiving::No;
        }
        match (result, buffer) {
            (Ok(0), _) => Input::End,
            (Ok(len), Some(buffer)) => {
                Input::Bytes { bytes: self.ring.buffers.filled(buffer, len as usize), again: !more }
            }
            // No buffer was left, or it was cancelled: it begins anew when its turn comes.
            (Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN), _) => Input::Again,
            (Ok(_) | Err(_), _) => Input::Broken,
        }
    }

    fn release(&mut self, completion: Completion) {
        if let Some(buffer) = completion.buffer {
            self.ring.buffers.give_back(buffer);
        }
    }

    fn stop_reading(&mut self, key: ConnKey, socket: &mut RingSocket) -> io::Result<()> {
        if socket.receiving != Receiving::Yes {
            return Ok(());
        }
        socket.receiving = Receiving::Stopping;
        self.ring.cancel(Op::Receive(key.into()))
    }

    fn is_quiet(&self, socket: &RingSocket) -> bool {
        socket.receiving == Receiving::No && !socket.blocked
    }

    fn detach(&mut self, socket: RingSocket) -> io::Result<Result<OwnedFd, RingSocket>> {
        match self.ring.install(socket.file, |completion| self.completed.push(completion))? {
            Some(descriptor) => {
                self.drop_file(socket.file)?;
                Ok(Ok(descriptor))
            }
            None => Ok(Err(socket)),
        }
    }

    fn adopt(&mut self, carrier: OwnedFd) -> io::Result<Option<RingSocket>> {
        let file = self.ring.take_in(&carrier, |completion| self.completed.push(completion))?;
        self.open += usize::from(file.is_some());
        Ok(file.map(|file| RingSocket { file, receiving: Receiving::No, blocked: false }))
    }

    fn writes_at_once(&mut self) -> usize {
        BATCH
    }

    fn write(&mut self, socket: &mut RingSocket, write: &Write<'_>, write_index: usize) -> Outcome {
        self.batch.add(write, socket.file, write_index)
    }

    fn perform(&mut self, writes: &mut [Writing]) -> io::Result<()> {
        self.batch.perform(&mut self.ring, writes, |completion| self.completed.push(completion))
    }

    fn watch_writable(&mut self, key: ConnKey, socket: &mut RingSocket) -> io::Result<()> {
        if std::mem::replace(&mut socket.blocked, true) {
            return Ok(());
        }
        self.ring.watch_writable(socket.file, Op::Writable(key.into()))
    }

    /// Not the ring's own shutdown: the kernel leaves it to a worker, which looks the socket up later, and
    /// its index in the table may be another connection's by then.
    fn shut_sending(&mut self, socket: &mut RingSocket) -> io::Result<()> {
        let installed = self.ring.install(socket.file, |completion| self.completed.push(completion))?;
        if let Some(descriptor) = installed {
            let _ = Socket::from(descriptor).shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn abandon(&mut self) -> io::Result<()> {
        self.batch.abandon(&mut self.ring, |completion| self.completed.push(completion))?;
        self.completed.retain(|completion| !matches!(completion.op, Op::Receive(_) | Op::Writable(_)));
        self.ring.buffers.reclaim();
        Ok(())
    }

    fn send_last(&mut self, socket: &mut RingSocket, bytes: &'static [u8]) -> io::Result<()> {
        self.ring.send_last(socket.file, bytes)
    }

    /// Operations on a socket would keep it open, so they end first.
    fn close(&mut self, key: ConnKey, socket: RingSocket, reset: bool) -> io::Result<()> {
        if reset {
            self.ring.reset_on_close(socket.file)?;
        }
        if socket.receiving == Receiving::Yes {
            self.ring.cancel(Op::Receive(key.into()))?;
        }
        if socket.blocked {
            self.ring.cancel(Op::Writable(key.into()))?;
        }
        self.drop_file(socket.file)
    }

    /// Its last operations are closes, which free the sockets at once instead of when the kernel gets to it.
    fn finish(&mut self) -> io::Result<()> {
        self.ring.submit()
    }
}
