//! The third kernel interface: sockets without a kernel. In some simulations they are as epoll has them:
//! readiness is reported once, however much has come together since the last report, and what a read leaves
//! is not reported again. In the others bytes arrive by themselves, as on a ring: in pieces, some of them
//! after the connection was paused.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use super::network::{End, Pipe, Receiving, index_below, one_in};
use super::scenario::Faults;
use crate::base::rng::Rng;
use crate::base::{ConnKey, SessionKey, Time};
use crate::chat::AuthRequest;
use crate::driver::Control;
use crate::driver::host::{AcceptProblem, Host, Replacement};
use crate::driver::passing::Passing;
use crate::driver::sockets::{Accept, Event, Input, Opened, Outcome, Sockets, Writing};
use crate::metrics::CloseReason;
use crate::shard::{Refusal, SLICES_MAX, Write};

/// The wall clock at the beginning, in milliseconds of Unix time.
const UNIX_ORIGIN_MS: u64 = 1_700_000_000_000;

/// The wall clock at `now`.
pub(super) const fn unix_ms(now: Time) -> u64 {
    UNIX_ORIGIN_MS + now.as_nanos() / 1_000_000
}

/// What all shards of a simulation have in common, and what each is lent for its turn.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Every connection that was ever made.
    pub(super) pipes: Vec<Pipe>,
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    /// Connections on which something has reached the client.
    pub(super) news: Vec<usize>,
    /// Whether anything has moved in this turn.
    pub(super) moved: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new(0, Faults::default())
    }
}

impl Kernel {
    /// Without connections.
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let (pipes, news) = (Vec::new(), Vec::new());
        Self { pipes, now: Time::ZERO, rng: Rng::new(seed), faults, news, moved: false }
    }
}

/// What has completed, where bytes arrive by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// The next bytes that the client has sent, so many.
    Bytes(usize),
    /// Nothing more comes before it is asked for again.
    Stopped,
    /// The client has ended the connection so.
    End(End),
}

/// Pieces that one wait brings of a connection, before the server's buffers are used up.
pub(super) const PIECES_MAX: usize = 3;

/// The sockets of one shard.
#[derive(Debug, Default)]
pub(super) struct SimSockets {
    /// The shard.
    id: usize,
    /// The kernel, during a turn.
    pub(super) kernel: Kernel,
    /// Connections that wait to be accepted.
    pub(super) backlog: VecDeque<usize>,
    /// Sockets with events to report, each once: epoll's list.
    ready: Vec<usize>,
    /// Those that a write of the batch goes to.
    written: Vec<usize>,
    /// Those that were closed in this turn.
    pub(super) closed: Vec<usize>,
    /// The buffer for reads.
    buffer: Vec<u8>,
}

impl SimSockets {
    /// The sockets of shard `id`: none.
    pub(super) fn new(id: usize) -> Self {
        Self { id, ..Self::default() }
    }

    /// A socket has an event. It is reported with the next wait, together with all that happens until then.
    pub(super) fn mark_ready(&mut self, pipes: &mut [Pipe], pipe: usize) {
        mark_ready(&mut self.ready, &mut pipes[pipe], pipe);
    }

    /// Whether a wait would bring anything.
    pub(super) fn has_edges(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reports a socket: its state now, and not what has caused it.
    fn report(&mut self, pipe: usize, events: &mut Vec<Event<Done>>) {
        let Kernel { pipes, rng, faults, .. } = &mut self.kernel;
        let it = &mut pipes[pipe];
        let Some(key) = it.key.filter(|_| it.closed.is_none()) else { return };
        events.push(Event::Ready {
            id: key.into(),
            readable: !faults.completes && (!it.to_server.is_empty() || it.end.is_some()),
            // What is written after a reset fails at once, so a full socket takes it (EPOLLOUT beside
            // EPOLLHUP).
            writable: it.to_client.len() < it.capacity || it.end == Some(End::Reset),
            read_closed: !faults.completes && it.end.is_some(),
        });
        if faults.completes {
            complete(it, rng, faults, |done| events.push(Event::Completed(key.into(), done)));
        }
    }
}

impl Sockets for SimSockets {
    type Socket = usize;
    type Completion = Done;
    type Carrier = usize;

    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event<Done>>) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        let Kernel { pipes, rng, faults, .. } = &mut self.kernel;
        if faults.reorder {
            for index in 1..ready.len() {
                ready.swap(index, index_below(rng, index + 1));
            }
        }
        for &pipe in &ready {
            pipes[pipe].ready = false;
        }
        if one_in(rng, faults.spurious_one_in) && !pipes.is_empty() {
            // epoll(7) may report what is no longer so.
            let it = &pipes[index_below(rng, pipes.len())];
            let key = it.key.filter(|_| it.closed.is_none() && it.shard == self.id);
            events.extend(key.map(|key| Event::Ready {
                id: key.into(),
                readable: !faults.completes,
                writable: true,
                read_closed: false,
            }));
        }
        for pipe in ready.drain(..) {
            self.report(pipe, events);
        }
        self.kernel.moved |= !events.is_empty();
        self.ready = ready;
        Ok(())
    }

    fn accepts_per_turn(&self) -> usize {
        self.kernel.faults.accepts_per_turn
    }

    fn has_connection(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn accept(&mut self, _wants_address: bool) -> io::Result<Accept<usize>> {
        let Some(pipe) = self.backlog.pop_front() else { return Ok(Accept::Empty) };
        self.kernel.moved = true;
        Ok(Accept::Connection(pipe, Some(IpAddr::V4(Ipv4Addr::LOCALHOST))))
    }

    fn keep_accepting(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn pause_accepting(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn close_listeners(&mut self) -> io::Result<()> {
        self.backlog.clear();
        Ok(())
    }

    fn open(&mut self, key: ConnKey, pipe: &mut usize) -> io::Result<Opened> {
        let it = &mut self.kernel.pipes[*pipe];
        (it.key, it.opened, it.received) = (Some(key), self.kernel.now, self.kernel.now);
        // A socket that is registered with epoll is reported as it is: it is writable, if nothing else.
        mark_ready(&mut self.ready, it, *pipe);
        Ok(Opened::Ready)
    }

    fn peer_address(&mut self, _pipe: &mut usize) -> io::Result<Option<IpAddr>> {
        Ok(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    fn reads_per_turn(&self) -> usize {
        self.kernel.faults.reads_per_turn
    }

    fn read(&mut self, _key: ConnKey, pipe: &mut usize) -> io::Result<Input<'_>> {
        let Kernel { pipes, now, rng, faults, moved, .. } = &mut self.kernel;
        let it = &mut pipes[*pipe];
        if faults.completes {
            if it.receiving == Receiving::No {
                it.receiving = Receiving::Yes;
                mark_ready(&mut self.ready, it, *pipe);
            }
            return Ok(Input::Later);
        }
        if it.to_server.is_empty() {
            *moved |= it.end.is_some();
            return Ok(match it.end {
                None => Input::Later,
                Some(End::Fin) => Input::End,
                Some(End::Reset) => Input::Broken,
            });
        }
        // The length of the server's buffer varies. A read that does not fill it has emptied the socket.
        let most = 1 + index_below(rng, faults.read_bytes_max);
        let len = it.to_server.len().min(most);
        receive(it, *now, len, &mut self.buffer);
        *moved = true;
        Ok(Input::Bytes { bytes: &mut self.buffer, again: len == most })
    }

    fn complete(&mut self, pipe: &mut usize, done: Done) -> Input<'_> {
        let it = &mut self.kernel.pipes[*pipe];
        match done {
            Done::Bytes(len) => {
                receive(it, self.kernel.now, len, &mut self.buffer);
                Input::Bytes { bytes: &mut self.buffer, again: false }
            }
            Done::Stopped => {
                it.receiving = Receiving::No;
                Input::Again
            }
            Done::End(end) => {
                it.receiving = Receiving::No;
                match end {
                    End::Fin => Input::End,
                    End::Reset => Input::Broken,
                }
            }
        }
    }

    fn release(&mut self, _done: Done) {}

    fn stop_reading(&mut self, _key: ConnKey, pipe: &mut usize) -> io::Result<()> {
        let it = &mut self.kernel.pipes[*pipe];
        if it.receiving == Receiving::Yes {
            it.receiving = Receiving::Stopping;
            mark_ready(&mut self.ready, it, *pipe);
        }
        Ok(())
    }

    fn is_quiet(&self, pipe: &usize) -> bool {
        self.kernel.pipes[*pipe].receiving == Receiving::No
    }

    /// What is not reported yet is not lost: where it is taken in, a socket is reported as it is.
    fn detach(&mut self, pipe: usize) -> io::Result<Result<usize, usize>> {
        let Kernel { pipes, rng, faults, moved, .. } = &mut self.kernel;
        if one_in(rng, faults.refused_one_in) {
            return Ok(Err(pipe)); // there is no descriptor for it
        }
        self.ready.retain(|&other| other != pipe);
        let it = &mut pipes[pipe];
        (it.key, it.ready) = (None, false);
        *moved = true;
        Ok(Ok(pipe))
    }

    fn adopt(&mut self, pipe: usize) -> io::Result<Option<usize>> {
        self.kernel.pipes[pipe].shard = self.id;
        self.kernel.moved = true;
        Ok(Some(pipe))
    }

    /// One, as epoll has it, or several, as a ring has.
    fn writes_at_once(&mut self) -> usize {
        1 + index_below(&mut self.kernel.rng, self.kernel.faults.writes_at_once)
    }

    fn write(&mut self, pipe: &mut usize, write: &Write<'_>, _write_index: usize) -> Outcome {
        let Kernel { pipes, rng, faults, news, moved, .. } = &mut self.kernel;
        let it = &mut pipes[*pipe];
        assert!(!self.written.contains(pipe), "two writes to one connection");
        self.written.push(*pipe);
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = write.gather(&mut slices);
        if let Some(contiguous) = write.contiguous() {
            assert!(count == 1 && *contiguous == *slices[0], "a write's two forms differ");
        }
        news.push(*pipe);
        *moved = true;
        it.write(&slices[..count], faults, rng)
    }

    /// The outcomes of a ring's writes arrive in any order.
    fn perform(&mut self, writes: &mut [Writing]) -> io::Result<()> {
        self.written.clear();
        for index in 1..writes.len() {
            writes.swap(index, index_below(&mut self.kernel.rng, index + 1));
        }
        Ok(())
    }

    fn watch_writable(&mut self, _key: ConnKey, _pipe: &mut usize) -> io::Result<()> {
        Ok(())
    }

    fn shut_sending(&mut self, pipe: &mut usize) -> io::Result<()> {
        self.kernel.pipes[*pipe].shut = true;
        self.kernel.news.push(*pipe);
        self.kernel.moved = true;
        Ok(())
    }

    fn abandon(&mut self) -> io::Result<()> {
        self.written.clear();
        Ok(())
    }

    fn send_last(&mut self, pipe: &mut usize, bytes: &'static [u8]) -> io::Result<()> {
        let Kernel { pipes, news, .. } = &mut self.kernel;
        pipes[*pipe].to_client.extend_from_slice(bytes);
        news.push(*pipe);
        Ok(())
    }

    fn close(&mut self, _key: ConnKey, pipe: usize, _reset: bool) -> io::Result<()> {
        let Kernel { pipes, news, moved, .. } = &mut self.kernel;
        *moved = true;
        news.push(pipe);
        // The reason is what the host receives.
        pipes[pipe].closed = Some(CloseReason::Disconnected);
        self.closed.push(pipe);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts a socket into the list of those that are to be reported.
fn mark_ready(ready: &mut Vec<usize>, it: &mut Pipe, pipe: usize) {
    if it.key.is_some() && it.closed.is_none() && !std::mem::replace(&mut it.ready, true) {
        ready.push(pipe);
    }
}

/// The server takes the first `len` bytes of what the client has sent.
fn receive(it: &mut Pipe, now: Time, len: usize, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend(it.to_server.drain(..len));
    it.silence = it.silence.max(now.since(it.received));
    it.received = now;
}

/// What a kernel does by itself for a connection that receives: bytes in pieces, while there are buffers, and
/// then its end. A receive that is being cancelled may still bring a piece.
fn complete(it: &Pipe, rng: &mut Rng, faults: &Faults, mut done: impl FnMut(Done)) {
    let pieces = match it.receiving {
        Receiving::No => return,
        Receiving::Yes => PIECES_MAX,
        Receiving::Stopping => index_below(rng, 2),
    };
    let mut rest = it.to_server.len();
    for _ in 0..pieces {
        if rest > 0 {
            let len = rest.min(1 + index_below(rng, faults.read_bytes_max));
            done(Done::Bytes(len));
            rest -= len;
        }
    }
    if rest > 0 || it.receiving == Receiving::Stopping {
        done(Done::Stopped);
    } else if let Some(end) = it.end {
        // Nothing more comes, and it need not be asked for.
        done(Done::End(end));
    }
}

/// The process around one shard.
#[derive(Debug, Default)]
pub(super) struct SimHost {
    pub(super) now: Time,
    /// Its pending control messages.
    pub(super) controls: VecDeque<Control>,
    /// Connections that other shards have passed on to it.
    pub(super) arrivals: VecDeque<Passing<usize>>,
    /// Those that it has passed on in this turn, and to which shards.
    pub(super) passed: Vec<(usize, Passing<usize>)>,
    /// The shards that the shard has woken in this turn.
    pub(super) woken: Vec<usize>,
    /// Its auth requests in this turn.
    pub(super) auth_requests: Vec<AuthRequest>,
    /// Why it has closed connections in this turn.
    pub(super) closed: Vec<CloseReason>,
    /// Requests that it has refused.
    pub(super) refused: u64,
    /// Whether a drain has closed every connection that it waits for.
    pub(super) drained: bool,
}

impl Host for SimHost {
    type Carrier = usize;

    fn now(&self) -> Time {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        unix_ms(self.now)
    }

    fn next_control(&mut self) -> Option<Control> {
        self.controls.pop_front()
    }

    fn wake(&mut self, shard: usize) {
        self.woken.push(shard);
    }

    fn pass(&mut self, shard: usize, passing: Passing<usize>) -> Result<(), Passing<usize>> {
        if self.passed.len() > 2 {
            return Err(passing); // the way there is full
        }
        self.passed.push((shard, passing));
        Ok(())
    }

    fn next_arrival(&mut self) -> Option<Passing<usize>> {
        self.arrivals.pop_front()
    }

    fn request_auth(&mut self, auth_request: AuthRequest) {
        self.auth_requests.push(auth_request);
    }

    fn cancel_auth(&mut self, _session: SessionKey) {
        // A backend that has begun to decide may be too late to be cancelled: the decision comes all the
        // same.
    }

    fn cannot_accept(&mut self, _now: Time, _why: &AcceptProblem) {}

    fn drained(&mut self) {
        self.drained = true;
    }

    fn logs_connections(&self) -> bool {
        true
    }

    fn request_refused(&mut self, refusal: &Refusal, _address: Option<IpAddr>) {
        assert!((400..600).contains(&refusal.status), "{refusal:?}");
        self.refused += 1;
    }

    /// In the simulation a panic is what it looks for.
    fn replacement(&mut self, _begun: Time) -> Replacement {
        Replacement::None
    }

    fn shard_failed(&mut self) {}

    fn connection_closed(&mut self, _name: &str, reason: CloseReason, _address: Option<IpAddr>) {
        self.closed.push(reason);
    }
}
