//! Clients of the Centrifuge protocol, in JSON: they subscribe to several rooms, and recover when they
//! reconnect.

use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

use stentor_testkit as wire;

use super::checker::{Declined, PublicationId, Receiver};
use super::engine::Late;
use super::scenario::{Brings, Look, Scenario};
use super::session::{PendingCommand, Scope, Stage, Sub, SubStage};
use super::simulation::{Due, Simulation};
use crate::base::Time;

impl Simulation<'_> {
    /// A client's frame behind its handshake: `connect`, and its subscriptions.
    pub(super) fn introduce(&mut self, session: usize) {
        let now = self.world.now();
        let mut lines = self.connect_line(session);
        let it = &mut self.sessions[session];
        for index in 0..it.subs.len() {
            if it.is_put_into(it.subs[index].receiver.room()) {
                continue;
            }
            lines.push('\n');
            lines.push_str(&it.subscribe(now, index));
        }
        self.send(session, &wire::frame(0x81, lines.as_bytes()));
    }

    /// A text frame of a server: lines, each of them a reply or a push, or an empty object, which is a ping.
    pub(super) fn receive_lines(&mut self, session: usize, text: &str) {
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            if let Some(push) = line.get("push") {
                self.receive_push(session, push);
            } else if let Some(id) = line["id"].as_u64() {
                self.receive_reply(session, id, &line);
            } else {
                assert_eq!(line, Value::Object(serde_json::Map::new()), "a reply, a push or a ping");
                if self.sessions[session].plan.answers {
                    let delay = self.delay();
                    self.later(delay, Due::Send(session, wire::frame(0x81, b"{}")));
                }
            }
        }
    }

    fn receive_push(&mut self, session: usize, push: &Value) {
        let channel = push["channel"].as_str().expect("a channel");
        let Some(index) = self.sessions[session].sub_in(channel) else {
            panic!("session {session} receives a push of {channel}, where it is not");
        };
        let sub = &mut self.sessions[session].subs[index];
        assert_eq!(
            sub.stage,
            SubStage::In,
            "session {session} receives a push of {channel}, where it is not"
        );
        if let Some(publication) = push.get("pub") {
            self.receive_publication(session, index, publication);
        } else if let Some(unsubscribe) = push.get("unsubscribe") {
            let code = unsubscribe["code"].as_u64();
            assert!(matches!(code, Some(2500 | 2501)), "{unsubscribe}");
            self.trace.note(self.now, || format!("session {session} must subscribe to {channel} again"));
            sub.stage = SubStage::Out;
            if code == Some(2501) {
                self.expired(session, index);
            }
            let delay = self.delay();
            self.subscribe_later(session, index, delay);
        } else {
            assert!(push.get("join").or_else(|| push.get("leave")).is_some(), "a push: {push}");
        }
    }

    fn receive_reply(&mut self, session: usize, id: u64, reply: &Value) {
        let it = &mut self.sessions[session];
        let index = it.pending_commands.iter().position(|&(command, ..)| u64::from(command) == id);
        let (_, command, at) =
            it.pending_commands.swap_remove(index.expect("the reply to a pending command"));
        let waited = self.world.now().since(at);
        match (command, reply["error"]["code"].as_u64()) {
            (_, Some(111)) => self.throttled(session, id, command),
            (PendingCommand::Connect, Some(code)) => self.refused_in(session, waited, code),
            (PendingCommand::Refresh(..) | PendingCommand::RoomRefresh(..), _) => {
                self.refreshed(session, command, waited, reply)
            }
            // It was not taken, or its time was up: then what was to be published may be all the same.
            (_, Some(100)) => {
                let fine = self.was_declined(command) || waited >= self.scenario.options.command_timeout;
                assert!(fine, "{command:?} is given up after {waited:?}");
                self.timed_out(session, command);
            }
            (PendingCommand::Look(index, look), _) => self.looked(session, index, look, reply),
            (PendingCommand::Subscribe(index) | PendingCommand::SubscribeAnew(index), Some(109)) => {
                let ends = self.sessions[session].subs[index].requested_ends;
                let is_late = ends.is_some_and(|ends| self.world.now() >= ends);
                assert!(is_late, "a token that has not expired: {reply}");
                self.timed_out(session, command);
            }
            // It is there already, or in flight.
            (PendingCommand::Subscribe(_) | PendingCommand::SubscribeAnew(_), Some(105))
                if self.sessions[session].batched => {}
            (_, Some(_)) => panic!("session {session} sent {command:?}: {reply}"),
            (_, None) => self.completed(session, command, reply),
        }
    }

    /// A command was executed.
    fn completed(&mut self, session: usize, command: PendingCommand, reply: &Value) {
        let declined = self.was_declined(command);
        assert!(!declined, "session {session} gets a success reply for a declined message");
        let it = &mut self.sessions[session];
        match command {
            PendingCommand::Connect => self.connected(session, &reply["connect"]),
            PendingCommand::Publish(_) => assert!(reply["publish"].is_object(), "{reply}"),
            PendingCommand::Subscribe(index) => self.subscribed(session, index, &reply["subscribe"]),
            PendingCommand::SubscribeAnew(index) => {
                it.subs[index].receiver.position = None;
                self.subscribed(session, index, &reply["subscribe"]);
            }
            PendingCommand::Unsubscribe(index) => it.subs[index].stage = SubStage::Out,
            PendingCommand::Refresh(..) | PendingCommand::RoomRefresh(..) | PendingCommand::Look(..) => {}
        }
    }

    /// A client is rejected, so that its commands have no effect.
    fn refused_in(&mut self, session: usize, waited: Duration, code: u64) {
        let it = &mut self.sessions[session];
        it.refused_in = true;
        let expired = it.brings_tokens && it.plan.brings == Brings::Expired;
        let fine = match code {
            109 => expired || it.may_be_too_old(self.world.now()),
            100 => it.has_rooms && waited >= self.scenario.options.command_timeout,
            _ => false,
        };
        assert!(fine, "session {session} is rejected: {code}");
    }

    /// Whether something was to be published that the engine could not take.
    fn was_declined(&self, command: PendingCommand) -> bool {
        matches!(command, PendingCommand::Publish(id) if self.checker.record(id).declined == Some(Declined::Temporary))
    }

    /// The server gave up a command: a subscription is requested again.
    fn timed_out(&mut self, session: usize, command: PendingCommand) {
        let (PendingCommand::Subscribe(index) | PendingCommand::SubscribeAnew(index)) = command else {
            return;
        };
        let it = &mut self.sessions[session];
        it.subs[index].stage = SubStage::Out;
        if !it.batched {
            let delay = self.delay();
            self.subscribe_later(session, index, delay);
        }
    }

    /// A client is in a room: where it left off, with what it missed, or anew.
    pub(super) fn subscribed(&mut self, session: usize, index: usize, result: &Value) {
        assert!(result.is_object(), "the result of subscribe");
        let it = &self.sessions[session];
        let by_token = it.brings_tokens || it.is_put_into(it.subs[index].receiver.room());
        let client = it.client;
        let sub = &mut self.sessions[session].subs[index];
        sub.stage = SubStage::In;
        sub.ends = sub.requested_ends;
        let recovered = result["recovered"] == true;
        let granted = by_token.then(|| format!("c{client}"));
        assert_eq!(result["data"]["user"].as_str(), granted.as_deref(), "{result}");
        self.trace.note(self.now, || {
            format!("session {session} is in r{}, recovered: {recovered}", sub.receiver.room())
        });
        let position = result["epoch"].as_str().zip(result["offset"].as_u64());
        let position = position.map(|(epoch, offset)| (epoch.to_owned(), offset));
        if !recovered {
            let patience = if self.circumstances.disturbed { PAUSES_MAX } else { Duration::from_secs(1) };
            let weight = 2 * self.checker.longest_fill + 600;
            check_lost(
                &sub.receiver,
                position.as_ref(),
                self.world.now() + patience,
                (self.scenario, weight),
            );
        }
        let (received_at, last_published) =
            (self.received_at(session), self.sessions[session].last_published);
        let sub = &mut self.sessions[session].subs[index];
        sub.receiver.position_at = received_at;
        if recovered {
            self.report.recovered += 1;
            assert_eq!(position, sub.receiver.position, "it goes on from where it was");
            sub.receiver.skipped_is_over();
        } else {
            let published_before = last_published[sub.receiver.room()].is_some();
            // Its own numbering goes on; what it receives begins anew.
            let mut anew = Receiver::new(sub.receiver.room());
            (anew.position, anew.published_before) = (position, published_before);
            anew.position_at = sub.receiver.position_at;
            self.report.received += std::mem::replace(&mut sub.receiver, anew).received;
        }
        for publication in result["publications"].as_array().into_iter().flatten() {
            assert!(recovered, "only a former member recovers");
            self.receive_publication(session, index, publication);
        }
    }

    /// Since when a session knows what it receives at this moment; `None`: it was published at some time
    /// before.
    pub(super) fn received_at(&self, session: usize) -> Option<Time> {
        (!self.sessions[session].is_late()).then(|| self.world.now())
    }

    fn receive_publication(&mut self, session: usize, index: usize, publication: &Value) {
        let id = self.recognise_json(session, publication);
        let received_at = self.received_at(session);
        let sub = &mut self.sessions[session].subs[index];
        sub.receiver.position_at = received_at;
        let offset = publication["offset"].as_u64();
        assert_eq!(offset.is_some(), sub.receiver.position.is_some(), "offsets, where there is a history");
        if let Some(offset) = offset {
            self.checker.record_position(&mut sub.receiver, id, offset);
        }
        self.checker.receive(session, &mut sub.receiver, id);
    }

    /// Queries the presence or the history of a room that it is in.
    pub(super) fn look(&mut self, session: usize, look: Look) {
        let now = self.world.now();
        let it = &mut self.sessions[session];
        if !it.may_publish() {
            return;
        }
        let Some(index) = it.subs.iter().position(|sub| sub.stage == SubStage::In && !it.id.is_empty())
        else {
            return;
        };
        let line = it.look_line(now, index, look);
        self.send(session, &wire::frame(0x81, line.as_bytes()));
    }

    fn looked(&mut self, session: usize, index: usize, look: Look, reply: &Value) {
        let sub = &self.sessions[session].subs[index];
        let room = sub.receiver.room();
        let options = &self.scenario.options.rooms.otherwise;
        let is_quiet = self.sessions[session].plan.quiet;
        let sub_may_be_gone = self.sessions[session].batched;
        match (reply["error"]["code"].as_u64(), look) {
            // It was unsubscribed in the meantime, to subscribe again; or it has left by itself.
            (Some(103), _) => {}
            (None, Look::Stats) => {
                let count = |key: &str| reply["presence_stats"][key].as_u64().expect("a number");
                let (clients, users) = (count("num_clients"), count("num_users"));
                assert!(users <= clients && (clients > 0 || sub_may_be_gone || is_quiet), "{reply}");
            }
            (None, Look::Delivery) => {
                let count = |key: &str| reply["rpc"]["data"][key].as_u64().expect("a number");
                let (members, sent, lagging) = (count("members"), count("sent"), count("lagging"));
                assert!(sent <= members && lagging <= members, "{reply}");
                assert!(members > 0 || sub_may_be_gone, "{reply}");
                assert!(members <= self.sessions.len() as u64, "{reply}");
                assert!(!self.exact || sent == members, "at rest: {reply}");
            }
            (Some(108), Look::History(_)) => assert_eq!(options.history_count_max, 0, "{reply}"),
            (None, Look::Presence) => {
                let members = reply["presence"]["presence"].as_object().expect("members");
                let it = &self.sessions[session];
                let by_token = it.brings_tokens || it.is_put_into(room);
                let quiet = by_token && it.plan.quiet;
                let own = members.get(&it.id);
                let seen = own.is_none_or(|own| own["chan_info"].is_object() == by_token);
                assert!(seen, "what others see of it: {reply}");
                assert!(own.is_some() != quiet || sub_may_be_gone, "it is there itself: {reply}");
                for info in members.values() {
                    let user = info["user"].as_str().and_then(|user| user.strip_prefix('c')?.parse().ok());
                    assert!(user.is_some_and(|user: usize| user < self.current.len()), "{reply}");
                }
            }
            (None, Look::History(limit)) => {
                let result = &reply["history"];
                let (epoch, top) = (result["epoch"].as_str().expect("an epoch"), result["offset"].as_u64());
                let publications = result["publications"].as_array().expect("publications");
                assert!(publications.len() <= limit, "{reply}");
                let newest_first = (0..=top.expect("an offset")).rev();
                for (publication, offset) in publications.iter().zip(newest_first) {
                    assert_eq!(publication["offset"].as_u64(), Some(offset), "{reply}");
                    let id = self.recognise_json(session, publication);
                    self.checker.check_position(room, epoch, offset, id);
                }
            }
            _ => panic!("session {session} queried {look:?}: {reply}"),
        }
    }

    fn recognise_json(&self, session: usize, publication: &Value) -> PublicationId {
        let text = publication["data"]["text"].as_str().expect("the published text");
        let name = publication["info"]["user"].as_str().or_else(|| publication["data"]["name"].as_str());
        self.recognise(session, name, text)
    }

    /// Publishes in a room, in JSON.
    pub(super) fn publish_line(
        &mut self,
        session: usize,
        room: usize,
        record: PublicationId,
        text: &str,
    ) -> String {
        let (now, scope) = (self.world.now(), self.circumstances.publish_scope(room));
        let it = &mut self.sessions[session];
        let id = it.ask(now, PendingCommand::Publish(record));
        it.count_command(id, scope);
        format!("{{\"id\":{id},\"publish\":{{\"channel\":\"r{room}\",\"data\":{{\"text\":\"{text}\"}}}}}}")
    }
}

impl super::session::Session {
    /// The command that subscribes to a room, with a recovery if possible.
    pub(super) fn subscribe(&mut self, now: Time, index: usize) -> String {
        let token = self.room_token(now, index);
        let id = self.ask(now, PendingCommand::Subscribe(index));
        let Sub { stage, receiver, .. } = &mut self.subs[index];
        *stage = SubStage::Requested;
        let mut line = format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"r{}\"", receiver.room());
        if let Some((epoch, offset)) = &receiver.position {
            let _ = write!(line, ",\"recover\":true,\"epoch\":\"{epoch}\",\"offset\":{offset}");
        }
        line.push_str(&token);
        line.push_str("}}");
        line
    }

    pub(super) fn ask(&mut self, now: Time, command: PendingCommand) -> u32 {
        self.commands += 1;
        self.pending_commands.push((self.commands, command, now));
        if self.counts_commands && !matches!(command, PendingCommand::Publish(_)) {
            self.count_command(self.commands, Some(Scope::Commands));
        }
        self.commands
    }

    fn sub_in(&self, channel: &str) -> Option<usize> {
        let room: usize = channel.strip_prefix('r')?.parse().ok()?;
        self.subs.iter().position(|sub| sub.receiver.room() == room)
    }

    /// Whether all its commands were answered, so far as they can be.
    pub(super) fn check_replies(&self) {
        let waits = self.stage == Stage::Open && !self.pending_commands.is_empty();
        assert!(!waits, "client {} waits for the answer to {:?}", self.client, self.pending_commands);
    }
}

/// A client is not recovered: that must be justified.
pub(super) fn check_lost(
    receiver: &Receiver,
    top: Option<&(String, u64)>,
    now: Time,
    (scenario, weight): (&Scenario, usize),
) {
    let (Some((epoch, offset)), Some(received_at), Some((epoch_now, top))) =
        (&receiver.position, receiver.position_at, top)
    else {
        return;
    };
    let Scenario { options, engine, .. } = scenario;
    let room = &options.rooms.otherwise;
    let missed = usize::try_from(top.saturating_sub(*offset)).unwrap_or(usize::MAX);
    let many_are_kept = options.history_total_bytes_max >= 1 << 20;
    if let Some(Late { kept_max, unreadable_one_in: 0, .. }) = *engine {
        assert_eq!(epoch, epoch_now, "an engine forgets no room");
        // A tail of a few publications may have moved on before a page that reached it was read, three times.
        let tail_is_long =
            room.history_count_max >= 100 && room.history_bytes_max >= 20 * weight && many_are_kept;
        let too_much = missed * weight > 1 << 20;
        assert!(
            !tail_is_long || missed > kept_max || too_much,
            "{missed} publications were missed, which the engine has"
        );
    }
    if now.since(received_at) >= room.history_age_max {
        return;
    }
    assert_eq!(epoch, epoch_now, "the room was forgotten before its time");
    if !many_are_kept {
        return; // its history may have been evicted for other rooms
    }
    // It is kept twice: as text, or data, and as JSON.
    let bytes_max = missed * weight;
    assert!(
        missed > room.history_count_max || bytes_max > room.history_bytes_max,
        "{missed} publications were missed, which are still there"
    );
}

/// What the shards' clocks may be late by, all in all.
pub(super) const PAUSES_MAX: Duration = Duration::from_secs(20);
