//! The loop of a shard: accepting, reading, closing, resuming, writing and sleeping, written once for every
//! kernel interface ([`Sockets`]) and every process around it ([`Host`]). The contract that it keeps with the
//! shard is on [`super`]'s page.

mod containment;

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use super::context::{ControlAction, Due, LoopContext};
use super::host::{AcceptProblem, Host};
use super::passing::Leaving;
use super::slots::{Slots, SocketId};
use super::sockets::{Accept, Event, Input, Opened, Outcome, Sockets, Writing};
use crate::base::{ConnKey, Time};
use crate::shard::{Admission, Close, CloseMethod, Shard};

/// Stands for the address of connections whose address cannot be found out: together they are one client, to
/// all bounds.
const UNKNOWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One shard, its sockets and the process around it.
#[derive(Debug)]
pub(super) struct Loop<S: Sockets, H> {
    // First, so that it is dropped first: what operations of the kernel point to outlives it.
    pub(super) sockets: S,
    pub(super) context: LoopContext<H>,
    pub(super) slots: Slots<S::Socket>,
    /// What the last wait has brought.
    events: Vec<Event<S::Completion>>,
    /// Connections that are to be read from.
    readable: VecDeque<ConnKey>,
    /// Writes in flight.
    writes: Vec<Writing>,
    /// Connections that are about to go to other shards.
    pub(super) leaving: Leaving,
    /// More have come from other shards than one turn takes over.
    pub(super) takes_over_again: bool,
}

impl<S: Sockets, H: Host<Carrier = S::Carrier>> Loop<S, H> {
    pub(super) fn new(sockets: S, shard: Shard, host: H) -> Self {
        Self {
            sockets,
            context: LoopContext::new(shard, host),
            slots: Slots::new(),
            events: Vec::new(),
            readable: VecDeque::new(),
            writes: Vec::new(),
            leaving: Leaving::new(),
            takes_over_again: false,
        }
    }

    /// Turns until the process stops it, or a drain ends.
    ///
    /// # Errors
    /// The kernel refuses to wait, which it has no reason to.
    pub(super) fn run(mut self) -> io::Result<()> {
        // The first turn waits for nothing: in it the listeners begin to accept.
        let mut timeout = Some(Duration::ZERO);
        while let ControlFlow::Continue(next) = self.contained_turn(timeout)? {
            timeout = next;
        }
        self.sockets.finish()
    }

    /// The shard.
    #[cfg(feature = "sim")]
    pub(super) const fn shard(&self) -> &Shard {
        &self.context.shard
    }

    /// The shard, between two turns.
    #[cfg(feature = "sim")]
    pub(super) const fn shard_mut(&mut self) -> &mut Shard {
        &mut self.context.shard
    }

    /// The sockets.
    #[cfg(feature = "sim")]
    pub(super) const fn sockets(&self) -> &S {
        &self.sockets
    }

    /// The sockets, between two turns.
    #[cfg(feature = "sim")]
    pub(super) const fn sockets_mut(&mut self) -> &mut S {
        &mut self.sockets
    }

    /// The process around it.
    #[cfg(feature = "sim")]
    pub(super) const fn host(&self) -> &H {
        &self.context.host
    }

    /// The process around it, between two turns.
    #[cfg(feature = "sim")]
    pub(super) const fn host_mut(&mut self) -> &mut H {
        &mut self.context.host
    }

    /// Whether a connection waits that may be accepted.
    pub(super) fn has_connection(&self) -> bool {
        self.context.accepts() && self.sockets.has_connection()
    }

    /// When the next turn is due even if the kernel has no event.
    pub(super) fn due(&self) -> Due {
        let has_more = !self.readable.is_empty() || self.takes_over_again;
        if self.has_connection() || has_more { Due::Now } else { self.context.due() }
    }

    /// One turn, after a wait of at most `timeout`: all events go into the shard, all its outputs come out.
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<ControlFlow<()>> {
        self.sockets.wait(timeout, &mut self.events)?;
        let begun = self.context.begin_turn();
        match self.context.handle_control() {
            ControlAction::Serve => {}
            ControlAction::CloseListeners => self.sockets.close_listeners()?,
            ControlAction::Stop => return Ok(ControlFlow::Break(())),
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.dispatch(event)?;
        }
        self.events = events;
        self.accept_some(begun)?;
        self.takes_over_again = false;
        self.take_over()?;
        self.read_some()?;
        self.context.shard.run();
        self.context.ask_all();
        self.report_refusals()?;
        self.write_all()?;
        self.close_all()?;
        self.pass_on()?;
        while let Some(key) = self.context.shard.poll_resume() {
            self.queue_read(key);
        }
        let goes_on = self.context.end_turn();
        Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn dispatch(&mut self, event: Event<S::Completion>) -> io::Result<()> {
        match event {
            Event::Ready { id, readable, writable, read_closed } => {
                let Some((key, slot)) = self.slots.find(id) else { return Ok(()) };
                if read_closed {
                    slot.set_read_closed();
                }
                if writable {
                    self.context.shard.writable(key);
                }
                if readable || read_closed {
                    self.queue_read(key);
                }
                Ok(())
            }
            Event::Completed(id, completion) => {
                let taken = self.complete(id, completion);
                self.sockets.release(completion);
                taken
            }
        }
    }

    /// What a kernel has received for a connection by itself. The shard takes all that arrives; when it
    /// pauses, no more comes.
    fn complete(&mut self, id: SocketId, completion: S::Completion) -> io::Result<()> {
        let Some((key, slot)) = self.slots.find(id) else { return Ok(()) };
        let shard = &mut self.context.shard;
        match self.sockets.complete(&mut slot.socket, completion) {
            Input::Bytes { bytes, again } => {
                self.context.host.before_input(bytes);
                shard.received(key, bytes);
                if !shard.may_read(key) {
                    return self.sockets.stop_reading(key, &mut slot.socket);
                }
                if again {
                    self.queue_read(key);
                }
            }
            Input::Again => self.queue_read(key),
            Input::Later => {}
            Input::Writable => shard.writable(key),
            Input::End => shard.ended(key),
            Input::Broken => shard.broken(key),
        }
        Ok(())
    }

    pub(super) fn queue_read(&mut self, key: ConnKey) {
        if self.slots.get_mut(key).is_some_and(|slot| slot.enqueue()) {
            self.readable.push_back(key);
        }
    }

    fn read_some(&mut self) -> io::Result<()> {
        for _ in 0..self.sockets.reads_per_turn().min(self.readable.len()) {
            let Some(key) = self.readable.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.dequeue();
            if self.context.shard.may_read(key) {
                self.read(key)?;
            }
        }
        Ok(())
    }

    /// Reads from a connection, and to its end when that is known to be there.
    fn read(&mut self, key: ConnKey) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(key) else { return Ok(()) };
        // One event reported the bytes and the end behind them, and no other one will come: one more read
        // sees it.
        for _ in 0..=usize::from(slot.is_read_closed()) {
            match self.sockets.read(key, &mut slot.socket)? {
                Input::Bytes { bytes, again } => {
                    self.context.host.before_input(bytes);
                    self.context.shard.received(key, bytes);
                    if again {
                        self.queue_read(key);
                        return Ok(());
                    }
                }
                Input::Again => {
                    self.queue_read(key);
                    return Ok(());
                }
                Input::Later | Input::Writable => return Ok(()),
                Input::End => {
                    self.context.shard.ended(key);
                    return Ok(());
                }
                Input::Broken => {
                    self.context.shard.broken(key);
                    return Ok(());
                }
            }
        }
        if slot.is_read_closed() {
            self.queue_read(key);
        }
        Ok(())
    }

    /// Accepts the connections that wait, and requests more as far as there is room.
    fn accept_some(&mut self, now: Time) -> io::Result<()> {
        if !self.context.may_accept(now) {
            return Ok(());
        }
        for _ in 0..self.sockets.accepts_per_turn() {
            if !self.sockets.has_connection() {
                break;
            }
            let admission = self.context.shard.admission();
            if admission == Admission::Wait {
                self.context.wait_for_surplus(now);
                return self.sockets.pause_accepting();
            }
            if admission == Admission::OverLimit {
                self.context.host.cannot_accept(now, &AcceptProblem::LimitReached);
            }
            // What was closed in this turn must have left its slot before it is given away.
            self.close_all()?;
            match self.sockets.accept(self.context.shard.needs_addresses())? {
                Accept::Connection(socket, address) => self.open(socket, address, admission)?,
                Accept::Gone => {}
                Accept::Empty => break,
                Accept::Shortage(error) => {
                    self.context.pause_accepting(now, &AcceptProblem::Shortage(error));
                    return Ok(());
                }
            }
        }
        if !self.sockets.keep_accepting()? {
            self.context.pause_accepting(now, &AcceptProblem::TableFull);
        }
        Ok(())
    }

    /// Accepts a connection. Its address is passed in its canonical form: what comes over IPv4 to a listener
    /// for both is IPv4.
    fn open(&mut self, socket: S::Socket, address: Option<IpAddr>, admission: Admission) -> io::Result<()> {
        let address = address.unwrap_or(UNKNOWN_ADDRESS).to_canonical();
        let key = self.context.shard.opened(admission, Some(address));
        self.serve(key, socket)
    }

    /// Begins to serve a connection that the shard has taken in.
    pub(super) fn serve(&mut self, key: ConnKey, mut socket: S::Socket) -> io::Result<()> {
        let opened = self.sockets.open(key, &mut socket)?;
        self.slots.insert(key, socket);
        match opened {
            // Its first bytes are most likely there: the listener hands none out before (`TCP_DEFER_ACCEPT`).
            Opened::Ready => self.queue_read(key),
            Opened::Failed => self.context.shard.broken(key),
        }
        Ok(())
    }

    /// Performs all writes of the shard: one by one, or as many at a time as the kernel takes together.
    fn write_all(&mut self) -> io::Result<()> {
        loop {
            for write_index in 0..self.sockets.writes_at_once() {
                let Some(write) = self.context.shard.poll_write() else { break };
                if let Some(upcoming) = write.upcoming {
                    self.slots.prefetch(upcoming);
                }
                let outcome = match self.slots.at(write.conn) {
                    Some((_, slot)) => self.sockets.write(&mut slot.socket, &write, write_index),
                    None => Outcome::Full,
                };
                self.writes.push(Writing { write_id: write.write_id, conn: write.conn, outcome });
            }
            if self.writes.is_empty() {
                return Ok(());
            }
            self.sockets.perform(&mut self.writes)?;
            for &Writing { write_id, conn, outcome } in &self.writes {
                match outcome {
                    Outcome::Took { len, offered } => self.context.shard.wrote(write_id, len, offered),
                    Outcome::Full | Outcome::InFlight { .. } => self.context.shard.refused(write_id),
                    Outcome::Failed => self.context.shard.write_failed(write_id),
                }
                if outcome.is_full()
                    && let Some((key, slot)) = self.slots.at(conn)
                {
                    self.sockets.watch_writable(key, &mut slot.socket)?;
                }
            }
            self.writes.clear();
        }
    }

    /// Reports the requests that were refused in this turn. Their connections are still open: the answers
    /// have not been written.
    fn report_refusals(&mut self) -> io::Result<()> {
        while let Some(refusal) = self.context.shard.poll_refusal() {
            if self.context.host.logs_connections() {
                let address = self.address_for_log(refusal.conn, refusal.address)?;
                self.context.host.request_refused(&refusal, address);
            }
        }
        Ok(())
    }

    /// Where a connection comes from, if that is logged: as it is known, or as the kernel knows it.
    fn address_for_log(&mut self, key: ConnKey, known: Option<IpAddr>) -> io::Result<Option<IpAddr>> {
        if known.is_some() || !self.context.host.logs_connections() {
            return Ok(known);
        }
        let Some(slot) = self.slots.get_mut(key) else { return Ok(None) };
        Ok(self.sockets.peer_address(&mut slot.socket)?.map(|address| address.to_canonical()))
    }

    pub(super) fn close_all(&mut self) -> io::Result<()> {
        while let Some(Close { key, how, reason, name }) = self.context.shard.poll_close() {
            if how == CloseMethod::Shutdown {
                if let Some(slot) = self.slots.get_mut(key) {
                    self.sockets.shut_sending(&mut slot.socket)?;
                }
                continue;
            }
            let address = self.address_for_log(key, None)?;
            let socket = self.slots.remove(key);
            debug_assert!(socket.is_some(), "a connection is closed once");
            if let Some(socket) = socket {
                self.sockets.close(key, socket, how == CloseMethod::Reset)?;
            }
            self.context.shard.closed(key);
            self.context.host.connection_closed(&name, reason, address);
        }
        Ok(())
    }
}
