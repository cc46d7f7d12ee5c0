//! What clients send by requests of their own, for a session that other connections receive for: commands of
//! the Centrifuge protocol, messages of SockJS. The requests of one session go over several connections, to
//! any shard, so that they overtake each other; those on one connection have their order.

use super::checker::{Declined, PublicationId};
use super::network::{index_below, one_in};
use super::post::Sending;
use super::session::{PendingCommand, Stage};
use super::simulation::{Due, Simulation};
use super::transport::{Answer, Asked, Purpose, Request};
use std::time::Duration;

/// Connections of a client that bring something to one session, at a time.
const COURIERS_MAX: usize = 3;

/// Requests of one of them without their answers.
const REQUESTS_MAX: usize = 12;

/// How often a client connects again by itself.
const RETRIES_MAX: u32 = 6;

/// The session that a request brings something to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// The one that has this stream.
    Stream(usize),
    /// The SockJS session of this number.
    SockJs(u32),
}

/// What one request brings.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    client: usize,
    target: Target,
    /// The ids of its commands.
    pub(super) commands: Vec<u32>,
    /// Its messages, where they have no ids.
    pub(super) messages: Vec<PublicationId>,
}

impl Relay {
    pub(super) const fn new(client: usize, target: Target) -> Self {
        Self { client, target, commands: Vec::new(), messages: Vec::new() }
    }
}

impl Simulation<'_> {
    /// Under which session a publication of `session` is numbered.
    pub(super) fn author(&self, session: usize) -> usize {
        let it = &self.sessions[session];
        if it.is_emulated() { self.plain[it.client].courier } else { session }
    }

    /// Whether another request can be sent on a connection.
    pub(super) fn takes_request(&self, session: usize) -> bool {
        let (it, pipe) = (&self.sessions[session], self.world.pipe(self.sessions[session].pipe));
        let is_there = !it.over && it.left.is_none() && pipe.closed.is_none() && !pipe.shut;
        let Some(http) = it.http.as_ref().filter(|_| is_there) else { return false };
        let waits = http.requests.back().is_some_and(|request| request.rest.is_some());
        !http.is_last
            && !waits
            && (!http.is_old || http.requests.is_empty())
            && http.requests.len() < REQUESTS_MAX
    }

    /// Chooses the connection for the next request that brings something. False: there is none.
    pub(super) fn next_courier(&mut self, client: usize) -> bool {
        let mut couriers = std::mem::take(&mut self.plain[client].couriers);
        couriers.retain(|&courier| self.takes_request(courier));
        if couriers.len() < COURIERS_MAX && (couriers.is_empty() || one_in(&mut self.rng, 3)) {
            if self.circumstances.draining.is_some() {
                return false;
            }
            couriers.push(self.connect_plain(client, Some(Purpose::Relay), Vec::new()));
        }
        self.plain[client].courier = couriers[index_below(&mut self.rng, couriers.len())];
        self.plain[client].couriers = couriers;
        true
    }

    /// A client's session is another one from now on: nothing more is sent where it sent to the last one.
    pub(super) fn end_couriers(&mut self, client: usize) {
        for courier in std::mem::take(&mut self.plain[client].couriers) {
            match index_below(&mut self.rng, 3) {
                0 => {} // the server ends it
                how => self.cut_now(courier, how == 1),
            }
        }
    }

    /// Sends a request that brings something, on the connection that was chosen.
    pub(super) fn bring(&mut self, relay: Relay, target: &str, content: &str) {
        let (courier, relay, sending) = self.relay_request(relay, target, content);
        self.report.relayed += 1;
        self.send_request(courier, Asked::Relay(relay), sending, None);
    }

    /// Sends such a request, or its beginning; then its connection ends.
    pub(super) fn bring_and_cut(&mut self, relay: Relay, target: &str, content: &str) {
        let (courier, relay, sending) = self.relay_request(relay, target, content);
        self.cut_request(courier, Asked::Relay(relay), sending, None);
    }

    fn relay_request(&mut self, relay: Relay, target: &str, content: &str) -> (usize, usize, Sending) {
        let courier = self.plain[relay.client].courier;
        self.relays.push(relay);
        let asks_to_close = one_in(&mut self.rng, 12);
        let it = &mut self.sessions[courier];
        it.asked += 1;
        let Some(http) = &mut it.http else { panic!("session {courier} has requests") };
        let is_old = http.is_old;
        http.is_last = asks_to_close || is_old;
        let mut head = format!("POST {target} HTTP/1.{}\r\nHost: h\r\n", u8::from(!is_old));
        if asks_to_close {
            head.push_str("Connection: close\r\n");
        }
        let sending = self.post_content(head, content.as_bytes(), is_old);
        (courier, self.relays.len() - 1, sending)
    }

    /// Whether the session that a relay goes to is there, for all that its client knows.
    fn is_there(&self, relay: &Relay) -> bool {
        match relay.target {
            Target::Stream(session) => {
                let it = &self.sessions[session];
                !it.over && it.left.is_none() && it.stage == Stage::Open
            }
            Target::SockJs(number) => {
                self.plain[relay.client].sockjs.as_ref().is_some_and(|it| it.number == number && it.is_open)
            }
        }
    }

    /// The answer to a request that has brought something.
    pub(super) fn relay_is_answered(
        &mut self,
        courier: usize,
        relay: usize,
        request: &Request,
        answer: &Answer,
    ) {
        let it = self.relays[relay].clone();
        let waited = self.world.now().since(request.at);
        let in_vain = waited >= self.circumstances.options.command_timeout;
        match answer.status {
            // Its session has taken it. A form of a page reads that it is fine.
            200 | 204 => {
                for &id in &it.messages {
                    self.message_is_taken(courier, id);
                }
            }
            // It may be taken later.
            503 if in_vain => self.relay_is_lost(relay),
            // A part of it may have been taken before the session ended.
            404 if it.commands.len() + it.messages.len() > 1 => self.relay_is_lost(relay),
            _ => self.relay_is_refused(relay),
        }
        if answer.status == 404 && self.is_there(&it) {
            match it.target {
                Target::Stream(session) => self.http_of(session).expect("a stream").is_denied = true,
                Target::SockJs(_) => {
                    self.plain[it.client].sockjs.as_mut().expect("a session").is_denied = true;
                }
            }
        }
        let has_more = self.http_of(courier).is_some_and(|http| !http.requests.is_empty());
        if answer.closes && has_more && self.world.pipe(self.sessions[courier].pipe).end.is_none() {
            self.cut_now(courier, false);
        }
    }

    /// A message in plain text has been taken. Whether a limit forbids it is not known.
    fn message_is_taken(&mut self, courier: usize, id: PublicationId) {
        let room = self.checker.record(id).room;
        let it = &mut self.sessions[courier];
        it.unresolved -= 1;
        if self.circumstances.limits_publishing() {
            return self.checker.leave_open(id);
        }
        let last = &mut it.acknowledged[room];
        *last = (*last).max(Some(id));
        self.checker.acknowledge(id);
    }

    /// What a relay brings, as publications that have no outcome yet.
    fn publications_of(&self, relay: &Relay) -> Vec<PublicationId> {
        let Target::Stream(session) = relay.target else { return relay.messages.clone() };
        let it = &self.sessions[session];
        let open = it.http.as_ref().map_or(&[][..], |http| &http.open_commands);
        let pending = it.pending_commands.iter().filter(|(id, ..)| relay.commands.contains(id));
        let publications = pending.filter_map(|&(id, command, _)| {
            let PendingCommand::Publish(record) = command else { return None };
            (!open.contains(&id)).then_some(record)
        });
        publications.collect()
    }

    /// It is not known whether what a request has brought has arrived.
    pub(super) fn relay_is_lost(&mut self, relay: usize) {
        let it = self.relays[relay].clone();
        self.report.cut += 1;
        for id in self.publications_of(&it) {
            self.checker.leave_open(id);
            let courier = self.checker.record(id).session;
            self.sessions[courier].unresolved -= 1;
        }
        let Target::Stream(session) = it.target else { return };
        let changes = |command: PendingCommand| {
            !matches!(command, PendingCommand::Publish(_) | PendingCommand::Look(..))
        };
        let pending = &self.sessions[session].pending_commands;
        let has_changes =
            pending.iter().any(|&(id, command, _)| it.commands.contains(&id) && changes(command));
        if let Some(http) = self.http_of(session) {
            http.open_commands.extend(&it.commands);
        }
        if has_changes && self.is_there(&it) {
            self.connect_anew(session);
        }
    }

    /// What a request has brought was not taken.
    fn relay_is_refused(&mut self, relay: usize) {
        let it = self.relays[relay].clone();
        for id in self.publications_of(&it) {
            self.checker.decline(id, Declined::Refused);
            let courier = self.checker.record(id).session;
            self.sessions[courier].unresolved -= 1;
        }
        if let Target::Stream(session) = it.target {
            // Another request may bring the same command.
            for id in &it.commands {
                let pending = &mut self.sessions[session].pending_commands;
                if let Some(index) = pending.iter().position(|(of, ..)| of == id) {
                    pending.swap_remove(index);
                }
            }
            if self.is_there(&it) {
                self.connect_anew(session);
            }
        }
    }

    /// A client leaves a session with which something is wrong, and connects again.
    pub(super) fn connect_anew(&mut self, session: usize) {
        let client = self.sessions[session].client;
        self.abandon(session);
        self.stream_is_gone(session);
        self.join_later(client);
    }

    /// A client connects again after a while.
    pub(super) fn join_later(&mut self, client: usize) {
        let it = &mut self.plain[client];
        it.retries += 1;
        if it.retries <= RETRIES_MAX && !it.has_left && self.circumstances.draining.is_none() {
            let pause = Duration::from_micros(self.rng.below(2_000_000));
            self.later(pause, Due::Join(client));
        }
    }

    /// The time to connect again has come.
    pub(super) fn join_again(&mut self, client: usize) {
        if !self.plain[client].has_left && self.circumstances.draining.is_none() {
            self.act(client, super::scenario::Act::Join);
        }
    }

    /// Nothing moves any more: a session that an answer calls unknown has ended, and requests may wait only
    /// for one whose client does not read.
    pub(super) fn check_relays(&mut self) {
        for client in 0..self.plain.len() {
            let Some(current) = self.current[client] else { continue };
            let (it, of) = (&self.sessions[current], &self.plain[client]);
            let pipe = self.world.pipe(it.pipe);
            let reads = !pipe.starved && pipe.to_client.is_empty();
            let is_there =
                !it.over && it.left.is_none() && it.stage == Stage::Open && reads && pipe.is_open();
            let waits = it.waits_for_an_answer(&self.circumstances);
            let is_denied = match (&of.sockjs, &it.http) {
                (Some(sockjs), _) => sockjs.is_denied,
                (None, Some(http)) => it.is_emulated() && http.is_denied,
                (None, None) => false,
            };
            assert!(!is_denied || !is_there || waits, "the session of client {client} is unknown, and lives");
            let may_wait = !is_there || waits;
            for courier in self.plain[client].couriers.clone() {
                if let Some(http) = self.http_of(courier) {
                    http.may_wait = may_wait;
                }
            }
        }
    }
}
