//! From bytes to requests and messages, and those to sessions, one after the other.
//!
//! What arrives is used where it lies, message by message, within the turn's budget. What cannot be used yet
//! (its session waits for something, the budget is spent, too many answers wait to be written) is kept with
//! the connection as it came over the wire, at most what one read brought, and offered again before the next
//! read. Until then the connection is not read from, and TCP slows its sender down.

use super::{OUTBOX_PAUSE_BYTES, Shard, Slot};
use crate::app::sockjs;
use crate::base::{ConnKey, SessionKey, Table};
use crate::conn::{Endpoint, State};
use crate::metrics::CloseReason;
use crate::session::{Context, Session, Taken};
use crate::ws::{self, CloseCode, Event, Fail, Opcode};

/// The outcome of some input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Used {
    /// So many bytes are used up; there may be more in the rest.
    Some(usize),
    /// All of it is used up: what follows needs more input.
    All,
    /// None of it is used up: it is incomplete, and more is needed.
    NeedsMore,
    /// It must wait.
    Later,
    /// So many bytes are used up, and the message in them must wait: its connection's decoder holds it.
    Queued(usize),
}

/// What is to be done with the message that was decoded.
enum Handled {
    /// It was used.
    Used,
    /// It must be offered again.
    Later,
}

impl Shard {
    /// Whether `key` should be read from. When not, [`Shard::poll_resume`] will name it once it should; until
    /// then the driver leaves its bytes in the kernel, which slows the sender down.
    pub fn may_read(&mut self, key: ConnKey) -> bool {
        let Some(slot) = self.conns.get(key) else { return false };
        if slot.conn.paused {
            return false;
        }
        if !slot.conn.has_waiting_input() && self.takes_input(slot) {
            return true;
        }
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
            conn.paused = true;
            self.metrics.pauses.add(1);
        }
        self.offer_later(key);
        false
    }

    /// Bytes have arrived. They are unmasked and used in place, or kept.
    pub fn received(&mut self, key: ConnKey, input: &mut [u8]) {
        self.metrics.received_bytes.add(input.len() as u64);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.record_activity(self.now);
        if conn.has_kept() {
            conn.keep(input, false);
            if !conn.has_waiting_input() {
                self.take_kept(key);
            }
            return;
        }
        let mut used = 0;
        while used < input.len() {
            match self.take(key, &mut input[used..], &mut 0) {
                Used::Some(len) => used += len,
                Used::All => return,
                Used::NeedsMore => return self.keep(key, &input[used..], false),
                Used::Later => return self.keep(key, &input[used..], true),
                Used::Queued(len) => return self.keep(key, &input[used + len..], true),
            }
        }
    }

    fn keep(&mut self, key: ConnKey, input: &[u8], waits: bool) {
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
            conn.keep(input, waits);
            if waits {
                self.offer_later(key);
            }
        }
    }

    /// Uses what a connection has kept, as far as it can be used now.
    fn take_kept(&mut self, key: ConnKey) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let Some(mut kept) = conn.take_kept() else { return };
        kept.waits = false;
        while !kept.is_empty() || self.holds_message(key) {
            let mut scanned = kept.scanned;
            match self.take(key, kept.rest(), &mut scanned) {
                Used::Some(len) => {
                    kept.advance(len);
                    scanned = 0;
                }
                Used::All => {
                    let rest = kept.rest().len();
                    kept.advance(rest);
                }
                Used::NeedsMore => {
                    kept.scanned = scanned;
                    break;
                }
                Used::Later => {
                    kept.waits = true;
                    break;
                }
                Used::Queued(len) => {
                    kept.advance(len);
                    kept.waits = true;
                    break;
                }
            }
            kept.scanned = scanned;
        }
        let waits = kept.waits;
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.put_back(kept);
        if waits {
            self.offer_later(key);
        } else if !self.conns.get(key).is_some_and(Self::awaits_answers)
            && let Some(Slot { conn, .. }) = self.conns.get_mut(key)
        {
            let change = conn.end_of_input(&self.options);
            self.apply(key, change);
        }
    }

    /// Whether a message waits in the decoder of a connection.
    fn holds_message(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|slot| slot.conn.decoder.holds_event())
    }

    /// Uses the first request or message in `input`. `scanned`: how far the beginning of a head was searched
    /// before.
    fn take(&mut self, key: ConnKey, input: &mut [u8], scanned: &mut usize) -> Used {
        let Some(slot) = self.conns.get_mut(key) else { return Used::All };
        match slot.conn.state() {
            State::Waiting => Used::Later,
            State::Open if slot.conn.stream().is_some() => {
                let change = slot.conn.ignored(input.len());
                self.apply(key, change);
                Used::All
            }
            State::Head | State::Body | State::Open if self.budget.is_spent() || !self.mesh.is_clear() => {
                Used::Later
            }
            State::Head | State::Body | State::Open if slot.conn.outbox.len() > OUTBOX_PAUSE_BYTES => {
                Used::Later
            }
            State::Head if Self::is_held(slot) => Used::Later,
            State::Head if slot.session.is_some_and(|it| !can_take(&self.sessions, it)) => Used::Later,
            // Only the peer's Close is looked for, but what comes before it is inflated all the same.
            State::Closing if self.budget.is_spent() => Used::Later,
            State::Head => self.take_request(key, input, scanned),
            State::Body => self.take_content(key, input),
            State::Open | State::Closing => self.take_frame(key, input),
            State::Finishing(_) | State::Lingering | State::Closed => {
                let change = slot.conn.discarded(input.len());
                self.apply(key, change);
                Used::All
            }
        }
    }

    /// Uses the first event of an open WebSocket.
    fn take_frame(&mut self, key: ConnKey, input: &mut [u8]) -> Used {
        let Some(Slot { conn, session, .. }) = self.conns.get_mut(key) else { return Used::All };
        let (session, endpoint, is_open) = (*session, conn.endpoint(), conn.is_open());
        // Both are small; taken out, they leave the shard free to act on the event.
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut inflater = std::mem::take(&mut self.inflater);
        let limits = self.options.message;
        let (consumed, handled, in_place) = match decoder.decode(input, &mut inflater, &limits) {
            Ok(ws::Decoded { event: None, .. }) => (None, Handled::Used, false),
            Ok(ws::Decoded { consumed, event: Some(event), in_place }) => {
                self.budget.messages = self.budget.messages.saturating_sub(1);
                let handled = self.event(key, session, endpoint, is_open, &event);
                (Some(consumed), handled, in_place)
            }
            Err(fail) => {
                self.inflater = inflater;
                self.fail_frames(key, fail);
                return Used::All;
            }
        };
        let inflated = inflater.take_inflated();
        self.budget.inflated_bytes = self.budget.inflated_bytes.saturating_sub(inflated);
        self.inflater = inflater;
        let used = match (consumed, handled) {
            (None, _) => Used::All,
            (Some(consumed), Handled::Used) => Used::Some(consumed),
            (Some(consumed), Handled::Later) if in_place => {
                ws::undo(&mut input[..consumed]);
                Used::Later
            }
            (Some(consumed), Handled::Later) => {
                decoder.keep();
                Used::Queued(consumed)
            }
        };
        decoder.release();
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key)
            && matches!(conn.state(), State::Open | State::Closing)
        {
            conn.decoder = decoder;
        }
        used
    }

    fn fail_frames(&mut self, key: ConnKey, fail: Fail) {
        let reason = match fail {
            Fail::Protocol(_) => CloseReason::ProtocolError,
            Fail::Limit(_) => CloseReason::MessageTooBig,
        };
        self.fail(key, fail.close_code(), fail.sentence(), reason);
    }

    /// Acts on one event.
    fn event(
        &mut self,
        key: ConnKey,
        session: Option<SessionKey>,
        endpoint: Option<Endpoint>,
        is_open: bool,
        event: &Event<'_>,
    ) -> Handled {
        match *event {
            Event::Close(ref peer) => {
                let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return Handled::Used };
                let change = conn.peer_closed(peer.map(|(code, _)| code), &self.options);
                self.apply(key, change);
            }
            Event::Ping(payload) if is_open => {
                if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                    conn.pong(payload);
                    self.flush_later(key);
                }
            }
            Event::Pong(_) if is_open => {
                self.with_session(key, |session, _| session.frame_pong());
            }
            Event::Text(text) if is_open => match (endpoint, session) {
                (_, Some(session)) => return self.message(key, session, text),
                (Some(Endpoint::Echo), None) => self.echo(key, Opcode::Text, text.as_bytes()),
                (Some(Endpoint::SockJs), None) => self.echo_messages(key, text),
                // A stream's input is no frames.
                (Some(_) | None, None) => {}
            },
            Event::Binary(payload) if is_open => match (endpoint, session) {
                (Some(Endpoint::Echo), _) => self.echo(key, Opcode::Binary, payload),
                (Some(Endpoint::Centrifuge), Some(session)) => match std::str::from_utf8(payload) {
                    // Some clients send bytes only.
                    Ok(text) => return self.message(key, session, text),
                    Err(_) => self.fail_frames(key, ws::ProtocolError::InvalidUtf8.into()),
                },
                (Some(_) | None, _) => {
                    let sentence = "this endpoint takes text only";
                    self.fail(key, CloseCode::Unsupported, sentence, CloseReason::UnsupportedData);
                }
            },
            // What comes after our Close is read only to find the peer's.
            Event::Ping(_) | Event::Text(_) | Event::Binary(_) | Event::Pong(_) => {}
        }
        Handled::Used
    }

    /// Offers a message to its session.
    fn message(&mut self, key: ConnKey, session: SessionKey, text: &str) -> Handled {
        let offer = |session: &mut Session, ctx: &mut Context<'_>| session.message(ctx, text);
        let taken = self.call_session(session, offer);
        if taken == Some(Taken::Later) {
            debug_assert!(self.conns.get(key).is_some());
            return Handled::Later;
        }
        Handled::Used
    }

    /// Sends back each message of an array.
    fn echo_messages(&mut self, key: ConnKey, content: &str) {
        let Ok(messages) = sockjs::parse(content) else {
            let sentence = "Broken JSON encoding.";
            return self.fail(key, CloseCode::Invalid, sentence, CloseReason::InvalidCommand);
        };
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        for message in messages {
            let mut frame = Vec::with_capacity(message.len() + 16);
            sockjs::message_into(&mut frame, &message);
            conn.send(Opcode::Text, &frame);
        }
        self.flush_later(key);
    }

    fn echo(&mut self, key: ConnKey, opcode: Opcode, payload: &[u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        match conn.window() {
            Some(window) if payload.len() >= self.encoder.deflate_bytes_min => {
                let compressed = self.encoder.deflate(window, payload);
                ws::deflated_frame_into(conn.outbox.bytes(), opcode, compressed);
            }
            _ => conn.send(opcode, payload),
        }
        self.flush_later(key);
    }

    /// Whether what a connection sends can be used now.
    fn takes_input(&self, slot: &Slot) -> bool {
        if slot.conn.state().is_ending() {
            return true; // nothing comes of it but the end
        }
        let session = slot.session.and_then(|session| self.sessions.get(session));
        slot.conn.outbox.len() <= OUTBOX_PAUSE_BYTES
            && session.is_none_or(Session::can_take)
            && !Self::is_held(slot)
            && !self.budget.is_spent()
            && self.mesh.is_clear()
    }

    /// Something has changed for a connection whose input waits, or that is not read from: its input may go
    /// on, perhaps.
    pub(super) fn offer_later(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.get(key) else { return };
        if !slot.conn.paused && !slot.conn.has_waiting_input() {
            return;
        }
        // Every reason to pause but the turn and the rings reports itself when it no longer holds.
        let session = slot.session.and_then(|session| self.sessions.get(session));
        let is_queued = !slot.conn.state().is_ending()
            && (slot.conn.outbox.len() > OUTBOX_PAUSE_BYTES
                || Self::is_held(slot)
                || session.is_some_and(|session| !session.can_take()));
        if !is_queued
            && let Some(Slot { conn, .. }) = self.conns.get_mut(key)
            && !std::mem::replace(&mut conn.ready, true)
        {
            self.ready.push_back(key);
        }
    }

    /// Lets the input go on that waited, each connection's once.
    pub(super) fn take_ready(&mut self) {
        for _ in 0..self.ready.len() {
            if self.budget.is_spent() || !self.mesh.is_clear() {
                return;
            }
            let Some(key) = self.ready.pop_front() else { return };
            let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { continue };
            conn.ready = false;
            if conn.has_waiting_input() {
                self.take_kept(key);
            }
            let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { continue };
            if conn.has_waiting_input() || !conn.paused {
                continue;
            }
            let takes = self.conns.get(key).is_some_and(|slot| self.takes_input(slot));
            if takes && let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                conn.paused = false;
                self.resumed.push(key);
            } else {
                self.offer_later(key);
            }
        }
    }
}

/// Whether a session takes another message now.
fn can_take(sessions: &Table<SessionKey, Session>, key: SessionKey) -> bool {
    sessions.get(key).is_none_or(Session::can_take)
}
