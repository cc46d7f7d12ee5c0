//! What comes up and down the mesh: requests for the homes of rooms, publications for the fan-out, replies
//! for sessions.

use std::sync::Arc;

use super::Shard;
use super::fanout::Backlog;
use super::messages::{Down, Up};
use crate::app::{Encodings, Framing};
use crate::chat::{Position, Recovered};
use crate::engine::ReplyTo;
use crate::room::{Counts, Output, Reply, Request};
use crate::session::{Delivery, Session};

impl Shard {
    /// Takes what has come, this shard's own messages among it, until there is no more or the turn's share is
    /// taken.
    pub(super) fn exchange(&mut self) {
        loop {
            self.deliver_outputs();
            if let Some(down) = self.mesh.receive_down() {
                self.receive_down(down);
            } else if let Some((from, up)) = self.mesh.receive_up() {
                self.receive_up(from, up);
            } else {
                return;
            }
        }
    }

    /// Carries the homes' outputs to the shards: a publication is encoded once for all of them.
    fn deliver_outputs(&mut self) {
        let (now, unix_ms) = (self.now, self.unix_ms());
        while let Some(output) = self.homes.poll(now, unix_ms) {
            match output {
                Output::Publication { home, room, publication, positioned, listeners, forms } => {
                    let encodings = self.encoder.publication(&room, &publication, positioned, forms);
                    self.homes.sent(home, encodings.longest() as u64);
                    let (position, encodings) = (publication.position, Arc::new(encodings));
                    self.mesh.broadcast_down(listeners, Down::Publication { room, position, encodings });
                }
                Output::Presence { room, events, listeners, forms } => {
                    let encodings = Arc::new(self.encoder.presence_events(&room, &events, forms));
                    if encodings.longest() > 0 {
                        self.mesh.broadcast_down(listeners, Down::Presence { room, encodings });
                    }
                }
                Output::Reply(shard, reply) => self.mesh.send_down(shard, Down::Reply(reply)),
            }
        }
    }

    fn receive_up(&mut self, from: usize, up: Up) {
        match up {
            Up::Room { room, request } => {
                let (now, unix_ms) = (self.now, self.unix_ms());
                self.homes.handle(now, unix_ms, from, &room, request);
            }
            Up::Count { room, offset, reply_to } => {
                let backlog = self.backlog(&room, offset);
                self.mesh.send_down(from, Down::Counted { reply_to, backlog });
            }
            Up::Sent { outlet, message, request } => self.receive_sent(&outlet, message, request),
            Up::Relay { session, message, request } => self.receive_relayed(session, message, request),
        }
    }

    fn receive_down(&mut self, down: Down) {
        match down {
            Down::Publication { room, position, encodings } => {
                if let Some(id) = self.rooms.find(&room) {
                    self.distribute(id, position, &encodings);
                    let window = self.options.congestion_bytes();
                    self.rooms.received(id, encodings.longest() as u64, window);
                }
            }
            Down::Presence { room, encodings } => {
                if let Some(id) = self.rooms.find(&room) {
                    self.distribute(id, None, &encodings);
                }
            }
            Down::Reply(Reply::Joined { reply_to, recovery }) => self.joined(reply_to, &recovery),
            Down::Reply(Reply::Completed { reply_to, room, outcome, position, weight }) => {
                self.call_session(reply_to.session, |session, ctx| {
                    session.draft_completed(ctx, reply_to.command, outcome, position)
                });
                self.draft_completed(&room, weight);
            }
            Down::Reply(Reply::Answer { reply_to, answer }) => {
                let answered = |session: &mut Session, ctx: &mut crate::session::Context<'_>| {
                    session.query_answered(ctx.effects, reply_to.command, &answer);
                };
                self.call_session(reply_to.session, answered);
            }
            Down::Counted { reply_to, backlog } => self.counted(reply_to, backlog),
            Down::Relayed { request, outcome } => self.relayed(request, outcome),
        }
    }

    /// Gives a frame to the audiences of a room on this shard. A form that is missing: its first member came
    /// in while this was in flight, and gets what comes after.
    fn distribute(&mut self, id: crate::base::RoomId, position: Option<Position>, encodings: &Encodings) {
        let Some(room) = self.rooms.get(id) else { return };
        let mut received = smallvec::SmallVec::<[_; 2]>::new();
        for (format, audience) in room.audiences() {
            if let Some(frame) = encodings.get(format) {
                self.fanout.publish(self.now, audience, frame, position);
                if format.framing() == Framing::Entries {
                    received.push(audience);
                }
            }
        }
        received.into_iter().for_each(|audience| self.poll_later(audience));
    }

    /// A room's home has let a client in: what is published from now on is for it.
    fn joined(&mut self, reply_to: ReplyTo, recovery: &Recovered) {
        let Some(session) = self.sessions.get(reply_to.session) else { return };
        let Some((id, format)) = session.wants(reply_to.command) else { return };
        let (conn, shared) = (session.conn, session.is_shared());
        let others: smallvec::SmallVec<[_; 8]> = session.subs().collect();
        let Some(audience) = self.rooms.audience(id, format) else { return };
        let outlet = session.outlet();
        let sub = self.fanout.subscribe(audience, conn, shared);
        if let Some(outlet) = outlet {
            self.fanout.set_slot(sub, outlet.index());
        }
        if shared {
            others.into_iter().for_each(|other| self.fanout.share(other));
        }
        self.metrics.members.add(1);
        if let Some(slot) = conn.and_then(|key| self.conns.get(key)) {
            self.metrics.lagging.add(u64::from(slot.conn.blocked));
        }
        self.call_session(reply_to.session, |session, ctx| {
            session.joined(ctx, reply_to.command, sub, recovery)
        });
        // The member is not swept before its history is sent.
        if let Some(conn) = conn {
            self.flush_later(conn);
        }
    }

    /// A draft is completed: others that wait for the same room may go.
    fn draft_completed(&mut self, room: &str, weight: u64) {
        let Some(id) = self.rooms.draft_completed(room, weight) else { return };
        while let Some(parked) = self.rooms.next_parked(id) {
            let Some(name) = self.rooms.get(id).map(|room| Arc::clone(&room.name)) else { break };
            let reply_to = self.reply_to(parked.session, parked.command);
            self.request_home(&name, Request::Publish { draft: parked.draft, reply_to });
            self.call_session(parked.session, |session, _| session.unparked());
        }
        self.forget_unused(id);
    }

    /// Reports to the homes of rooms how far their publications have been swept here.
    pub(super) fn acknowledge_swept(&mut self) {
        let window = self.options.congestion_bytes();
        while let Some((id, bytes)) = self.rooms.poll_swept(&self.fanout, window) {
            let Some(room) = self.rooms.get(id).map(|room| Arc::clone(&room.name)) else { continue };
            self.request_home(&room, Request::Swept { bytes });
        }
    }

    /// One shard's count; the last one completes the answer.
    fn counted(&mut self, reply_to: ReplyTo, backlog: Backlog) {
        let Some(index) = self.countings.iter().position(|counting| counting.reply_to == reply_to) else {
            return;
        };
        let counting = &mut self.countings[index];
        counting.sum.members += backlog.members;
        counting.sum.unsent += backlog.unsent;
        counting.sum.lagging += backlog.lagging;
        counting.missing -= 1;
        if counting.missing > 0 {
            return;
        }
        let Backlog { members, unsent, lagging } = self.countings.swap_remove(index).sum;
        let counts = Delivery { members, sent: members - unsent, lagging };
        self.call_session(reply_to.session, |session, ctx| {
            session.delivery_counted(ctx.effects, reply_to.command, counts);
        });
    }

    /// How far a publication has come among the members on this shard.
    fn backlog(&self, room: &str, offset: u64) -> Backlog {
        let audiences = self.rooms.find(room).and_then(|id| self.rooms.get(id)).into_iter();
        let here = audiences.flat_map(super::rooms::Room::audiences);
        here.fold(Backlog::default(), |sum, (_, audience)| {
            let one = self.fanout.backlog(audience, offset);
            Backlog {
                members: sum.members + one.members,
                unsent: sum.unsent + one.unsent,
                lagging: sum.lagging + one.lagging,
            }
        })
    }

    pub(super) fn count_homes(&mut self) {
        let Counts { recovered, unrecovered, ordered, evicted, delayed } = self.homes.take_counts();
        self.metrics.recovered.add(recovered);
        self.metrics.unrecovered.add(unrecovered);
        self.metrics.publications.add(ordered);
        self.metrics.evicted.add(evicted);
        self.metrics.delayed.add(delayed);
        self.metrics.history_bytes.set(self.homes.history_bytes());
        self.metrics.homes.set(self.homes.len() as u64);
        self.metrics.outlets.set(self.outlets.len() as u64);
        self.metrics.leases.set(self.homes.leases() as u64);
        self.metrics.idempotency_keys.set(self.homes.idempotency_keys() as u64);
        self.metrics.parked_bytes.set(self.rooms.parked().1);
    }
}
