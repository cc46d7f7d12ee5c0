//! Many commands in one frame, which may contradict one another; and how often a client may send any.

use std::fmt::Write as _;
use std::time::Duration;

use stentor_testkit as wire;

use super::checker::Declined;
use super::network::{index_below, one_in};
use super::scenario::{Endpoint, Look};
use super::session::{Circumstances, PendingCommand, Scope, Session, SubStage};
use super::simulation::Simulation;
use crate::base::Time;
use crate::chat::SlowMember;
use crate::ws::Window;

impl Simulation<'_> {
    /// A client of the JSON protocol sends `count` commands in one frame: each gets exactly one reply.
    pub(super) fn batch(&mut self, session: usize, count: usize) {
        let it = &mut self.sessions[session];
        if !it.may_publish() || it.id.is_empty() || !matches!(it.plan.endpoint, Endpoint::Centrifuge(_)) {
            return;
        }
        it.batched = true;
        // A client that must reconnect by itself does not change its subscriptions at the same time.
        let by_itself =
            it.has_rooms && it.plan.server_rooms != 0 || it.brings_tokens && it.plan.room_lifetime.is_some();
        let changes_subscriptions = self.circumstances.policy() != SlowMember::Skip && !by_itself;
        let bytes_max = self.scenario.options.message.message_bytes_max;
        let mut lines = String::new();
        for _ in 0..count {
            let line = self.draw_line(session, changes_subscriptions);
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(&line);
            if lines.len() + 400 > bytes_max {
                break;
            }
        }
        let compressed = self.sessions[session].deflated && one_in(&mut self.rng, 2);
        let binary = u8::from(one_in(&mut self.rng, 3));
        let frame = if compressed {
            wire::frame(0xC1 + binary, self.deflater.deflate(Window::Full, &[lines.as_bytes()]))
        } else {
            wire::frame(0x81 + binary, lines.as_bytes())
        };
        self.send(session, &frame);
    }

    fn draw_line(&mut self, session: usize, changes_subscriptions: bool) -> String {
        let now = self.world.now();
        let kind = index_below(&mut self.rng, if changes_subscriptions { 8 } else { 6 });
        let it = &mut self.sessions[session];
        let index = index_below(&mut self.rng, it.subs.len());
        let room = it.subs[index].receiver.room();
        match kind {
            0 => it.look_line(now, index, Look::Presence),
            1 => it.look_line(now, index, Look::Stats),
            2 => it.look_line(now, index, Look::History(3)),
            3 => it.look_line(now, index, Look::Delivery),
            4 | 5 => {
                let room = if kind == 4 { room } else { index_below(&mut self.rng, self.scenario.rooms) };
                let bytes = index_below(&mut self.rng, 100);
                self.next_message(session, room, bytes).1
            }
            6 => it.unsubscribe(now, index),
            _ => it.subscribe_anew(now, index),
        }
    }

    /// A command was one too many.
    pub(super) fn throttled(&mut self, session: usize, id: u64, command: PendingCommand) {
        let it = &mut self.sessions[session];
        it.note_throttled(id, &self.circumstances);
        match command {
            PendingCommand::Publish(record) => self.checker.decline(record, Declined::TooOften),
            PendingCommand::Subscribe(index) | PendingCommand::SubscribeAnew(index) => {
                let it = &mut self.sessions[session];
                if it.subs[index].stage == SubStage::Requested {
                    it.subs[index].stage = SubStage::Out;
                }
                if !it.batched {
                    self.subscribe_later(session, index, Duration::from_secs(1));
                }
            }
            PendingCommand::Connect => panic!("the first command is too many"),
            PendingCommand::Unsubscribe(_)
            | PendingCommand::Look(..)
            | PendingCommand::Refresh(..)
            | PendingCommand::RoomRefresh(..) => {}
        }
    }
}

impl Session {
    /// The command that subscribes to a room, without a recovery.
    fn subscribe_anew(&mut self, now: Time, index: usize) -> String {
        let (token, room) = (self.room_token(now, index), self.subs[index].receiver.room());
        let id = self.ask(now, PendingCommand::SubscribeAnew(index));
        format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"r{room}\"{token}}}}}")
    }

    /// The command that unsubscribes from a room.
    fn unsubscribe(&mut self, now: Time, index: usize) -> String {
        let id = self.ask(now, PendingCommand::Unsubscribe(index));
        format!("{{\"id\":{id},\"unsubscribe\":{{\"channel\":\"r{}\"}}}}", self.subs[index].receiver.room())
    }

    /// The command that queries a room.
    pub(super) fn look_line(&mut self, now: Time, index: usize, look: Look) -> String {
        let id = self.ask(now, PendingCommand::Look(index, look));
        let receiver = &self.subs[index].receiver;
        let (room, mut line) = (receiver.room(), format!("{{\"id\":{id},"));
        let _ = match look {
            // A member that is null is absent.
            Look::Presence => write!(line, "\"publish\":null,\"presence\":{{\"channel\":\"r{room}\"}}}}"),
            Look::Stats => write!(line, "\"presence_stats\":{{\"channel\":\"r{room}\"}}}}"),
            Look::History(limit) => write!(
                line,
                "\"history\":{{\"channel\":\"r{room}\",\"limit\":{limit},\"reverse\":true,\"since\":null}}}}"
            ),
            Look::Delivery => {
                let offset = receiver.position.as_ref().map_or(0, |&(_, offset)| offset);
                write!(
                    line,
                    "\"rpc\":{{\"method\":\"delivery\",\"data\":{{\"channel\":\"r{room}\",\"offset\":{offset}}}}}}}"
                )
            }
        };
        line
    }

    /// Counts a command against the limit that it falls under.
    pub(super) fn count_command(&mut self, id: u32, scope: Option<Scope>) {
        self.limits_moved |= scope.is_some();
        self.limited.extend(scope.map(|scope| (scope, id, false)));
    }

    pub(super) fn note_throttled(&mut self, id: u64, now: &Circumstances) {
        let entry = self.limited.iter_mut().find(|&&mut (_, of, _)| u64::from(of) == id);
        let (scope, _, throttled) = entry.expect("a command that is counted");
        *throttled = true;
        self.limits_moved = true;
        let scope = *scope;
        assert!(
            self.sent(scope) > now.burst(scope),
            "client {} is within its limit in {scope:?}",
            self.client
        );
    }

    fn sent(&self, scope: Scope) -> usize {
        self.limited.iter().filter(|(of, ..)| *of == scope).count()
    }

    /// Whether it has sent so much that its connection may be ended for it.
    pub(super) fn may_be_flooding(&self, now: &Circumstances) -> bool {
        self.limited.iter().any(|&(scope, ..)| self.sent(scope) > now.burst(scope) + now.refusals_max(scope))
    }

    /// Nothing moves any more: no client keeps exceeding its limit.
    pub(super) fn check_limits(&mut self, now: &Circumstances) {
        if !std::mem::take(&mut self.limits_moved) {
            return;
        }
        let mut scopes: Vec<_> = self.limited.iter().map(|&(scope, ..)| scope).collect();
        scopes.dedup();
        for scope in scopes {
            let of_scope = self.limited.iter().filter(|(of, ..)| *of == scope);
            let (mut run, mut longest) = (0, 0);
            for (.., throttled) in of_scope {
                run = if *throttled { run + 1 } else { 0 };
                longest = longest.max(run);
            }
            // What was sent a moment later may have overtaken a command.
            let max = now.refusals_max(scope) + 8;
            assert!(longest <= max, "client {} was refused {longest} times in a row", self.client);
        }
        let throttled_count = self.too_often as usize;
        assert!(
            throttled_count <= self.limited.len(),
            "client {} gets more errors than it sent messages",
            self.client
        );
    }
}

impl Circumstances {
    /// The limit that counts publications in `room`.
    pub(super) fn publish_scope(&self, room: usize) -> Option<Scope> {
        if self.options.rooms.otherwise.messages_per_second_max > 0 {
            Some(Scope::Room(room))
        } else {
            (self.options.session_messages_per_second_max > 0).then_some(Scope::Session)
        }
    }

    /// The limit of commands other than publish.
    pub(super) fn command_scope(&self) -> Option<Scope> {
        (self.options.session_commands_per_second_max > 0).then_some(Scope::Commands)
    }

    /// Whether publishing may exceed a limit.
    pub(super) fn limits_publishing(&self) -> bool {
        self.publish_scope(0).is_some()
    }

    /// How many are never too many.
    pub(super) fn burst(&self, scope: Scope) -> usize {
        let per_second = match scope {
            Scope::Session => self.options.session_messages_per_second_max,
            Scope::Room(_) => self.options.rooms.otherwise.messages_per_second_max,
            Scope::Commands => self.options.session_commands_per_second_max,
        };
        2 * per_second as usize
    }

    /// How many may be refused one after the other.
    fn refusals_max(&self, scope: Scope) -> usize {
        self.burst(scope).max(10)
    }
}
