//! From what a client says to what a room hears: frames in, messages, publications, and the room's home.

use bytes::Bytes;
use std::sync::Arc;

use super::mesh::{Down, Up};
use super::rooms::{Home, Room, RoomId};
use super::{Seat, Shard, Slot};
use crate::app::{Encodings, WireFormat};
use crate::base::ConnKey;
use crate::chat::{Draft, Position};
use crate::conn::{Ending, Endpoint, State};
use crate::metrics::CloseReason;
use crate::ws::{self, CloseCode, Event, Fail, Opcode};

/// Messages taken from one other shard in one turn.
const MESH_BUDGET: usize = 1024;

/// While less than this waits in a connection, every ping is answered; above, only the newest.
const PONG_EACH_BYTES: usize = 4 * 1024;

impl Shard {
    /// Bytes of an open WebSocket.
    pub(super) fn frame_bytes(&mut self, key: ConnKey, mut input: &mut [u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        // Both are small; taken out, they leave the shard free to act on each event.
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut inflater = std::mem::take(&mut self.inflater);
        let limits = self.options.message;
        let failed = loop {
            match decoder.decode(input, &mut inflater, &limits) {
                Ok(ws::Decoded { event: None, .. }) => break None,
                Ok(ws::Decoded { consumed, event: Some(event) }) => {
                    if !self.event(key, &event) {
                        break None;
                    }
                    input = &mut input[consumed..];
                }
                Err(fail) => break Some(fail),
            }
        };
        self.inflater = inflater;
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key)
            && matches!(conn.state, State::Open | State::Closing)
        {
            conn.decoder = decoder;
        }
        if let Some(fail) = failed {
            let reason = match fail {
                Fail::Protocol(_) => CloseReason::Protocol,
                Fail::Limit(_) => CloseReason::TooBig,
            };
            self.fail(key, fail.close_code(), fail.sentence(), reason);
        }
    }

    /// Acts on one event. False when the connection takes nothing more.
    fn event(&mut self, key: ConnKey, event: &Event<'_>) -> bool {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return false };
        let open = conn.state == State::Open;
        match *event {
            Event::Close(ref peer) => {
                let reason = if open {
                    match peer {
                        Some((code, _)) => ws::close_into(conn.outbox.bytes(), *code, ""),
                        None => ws::close_empty_into(conn.outbox.bytes()),
                    }
                    CloseReason::ClosedByPeer
                } else {
                    conn.reason
                };
                self.finish(key, Ending::AtOnce, reason);
                return false;
            }
            Event::Ping(payload) if open => {
                if conn.outbox.len() < PONG_EACH_BYTES {
                    ws::frame_into(conn.outbox.bytes(), Opcode::Pong, &[payload]);
                } else {
                    conn.outbox.pong(payload);
                }
                self.flush_later(key);
            }
            Event::Text(text) if open => match conn.endpoint {
                Some(Endpoint::Echo) => self.echo(key, Opcode::Text, text.as_bytes()),
                Some(Endpoint::Chat) | None => self.say(key, text),
            },
            Event::Binary(payload) if open => match conn.endpoint {
                Some(Endpoint::Chat) | None => {
                    let sentence = "this endpoint takes text only";
                    self.fail(key, CloseCode::Unsupported, sentence, CloseReason::Unsupported);
                    return false;
                }
                Some(Endpoint::Echo) => self.echo(key, Opcode::Binary, payload),
            },
            // What comes after our Close is read only to find the peer's.
            Event::Ping(_) | Event::Text(_) | Event::Binary(_) | Event::Pong(_) => {}
        }
        true
    }

    fn echo(&mut self, key: ConnKey, opcode: Opcode, payload: &[u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        match conn.window {
            Some(window) if payload.len() >= self.encoder.deflate_bytes_min => {
                let compressed = self.encoder.deflate(window, payload);
                ws::deflated_frame_into(conn.outbox.bytes(), opcode, compressed);
            }
            _ => ws::frame_into(conn.outbox.bytes(), opcode, &[payload]),
        }
        self.flush_later(key);
    }

    /// Somebody says something into the room it sits in.
    fn say(&mut self, key: ConnKey, text: &str) {
        let Some(Slot { conn, seat: Some(seat) }) = self.conns.get(key) else { return };
        self.metrics.messages_in.add(1);
        let author = Arc::clone(&conn.name);
        let id = self.fanout[seat.audience].room;
        let room = &self.rooms[id];
        if room.home.is_some() {
            self.publish(id, &author, text);
        } else {
            let draft =
                Draft { room: Arc::clone(&room.name), author, text: Bytes::copy_from_slice(text.as_bytes()) };
            self.mesh.send_up(room.home_shard, Up::Say(draft));
        }
    }

    /// Seats a connection in a room, which begins to exist with its first member.
    pub(super) fn join(&mut self, key: ConnKey, name: &str, format: WireFormat) {
        let id = self.room(name);
        let room = &mut self.rooms[id];
        let audience = match room.audiences[format as usize] {
            Some(audience) => audience,
            None => {
                let audience = self.fanout.open(id, format);
                room.audiences[format as usize] = Some(audience);
                if room.home.is_none() {
                    let enter = Up::Enter { room: Arc::clone(&room.name), format };
                    self.mesh.send_up(room.home_shard, enter);
                }
                audience
            }
        };
        let seat = self.fanout.join(audience, key);
        if let Some(slot) = self.conns.get_mut(key) {
            slot.seat = Some(seat);
            self.metrics.lagging.add(u64::from(slot.conn.blocked));
        }
        self.metrics.members.add(1);
    }

    /// Frees a seat, and forgets what nobody needs any more.
    pub(super) fn vacate(&mut self, seat: Seat) {
        let audience = seat.audience;
        if let Some(moved) = self.fanout.leave(seat) {
            let moved = self.conns.key_at(moved).and_then(|key| self.conns.get_mut(key));
            if let Some(slot) = moved {
                slot.seat = Some(seat);
            }
        }
        if self.fanout.member_count(audience) > 0 {
            return;
        }
        let (id, format) = (self.fanout[audience].room, self.fanout[audience].format);
        self.fanout.close(audience);
        let room = &mut self.rooms[id];
        room.audiences[format as usize] = None;
        if room.home.is_none() {
            let leave = Up::Leave { room: Arc::clone(&room.name), format };
            self.mesh.send_up(room.home_shard, leave);
        }
        self.forget_if_deserted(id);
    }

    /// Takes in what other shards have sent.
    pub(super) fn receive_mesh(&mut self) {
        self.mesh.flush();
        for peer in 0..self.mesh.peer_count() {
            for _ in 0..MESH_BUDGET {
                let (rooms, fanout, limit) = (&self.rooms, &self.fanout, self.options.congestion_bytes());
                let down = self.mesh.receive_down(peer, |down| {
                    rooms.find(&down.room).is_none_or(|id| !rooms[id].is_congested(fanout, limit))
                });
                let Some(down) = down else { break };
                if let Some(id) = self.rooms.find(&down.room) {
                    self.hand_out(id, down.position, &down.encodings);
                }
            }
            for _ in 0..MESH_BUDGET {
                let (rooms, fanout, limit) = (&self.rooms, &self.fanout, self.options.congestion_bytes());
                let up = self.mesh.receive_up(peer, |up| match up {
                    Up::Say(draft) => {
                        rooms.find(&draft.room).is_none_or(|id| !rooms[id].is_congested(fanout, limit))
                    }
                    Up::Enter { .. } | Up::Leave { .. } => true,
                });
                let Some((from, up)) = up else { break };
                self.receive_up(from, up);
            }
        }
    }

    fn receive_up(&mut self, from: usize, up: Up) {
        match up {
            Up::Say(draft) => {
                // A room that has no listener left is gone, and what is said into it is heard by nobody.
                let Some(id) = self.rooms.find(&draft.room) else { return };
                // It was checked on the shard that received it.
                let text = std::str::from_utf8(&draft.text).unwrap_or_default();
                self.publish(id, &draft.author, text);
            }
            Up::Enter { room, format } => {
                let id = self.room(&room);
                if let Some(home) = &mut self.rooms[id].home {
                    home.listen(from, format, true);
                }
            }
            Up::Leave { room, format } => {
                let Some(id) = self.rooms.find(&room) else { return };
                if let Some(home) = &mut self.rooms[id].home {
                    home.listen(from, format, false);
                }
                self.forget_if_deserted(id);
            }
        }
    }

    /// Gives what was said its place in the room's order, encodes it once for each format in use, and sends it to every
    /// shard that has members. Only the room's home does this.
    fn publish(&mut self, id: RoomId, author: &str, text: &str) {
        let room = &mut self.rooms[id];
        let formats = room.formats();
        let Some(home) = &mut room.home else { return };
        let position = home.sequence.next();
        let (shards, formats) = (home.shards(), formats.union(home.formats()));
        let encodings = self.encoder.encode(author, text, formats);
        self.metrics.publications.add(1);
        if !shards.is_empty() {
            let down =
                Down { room: Arc::clone(&room.name), position, encodings: Arc::new(encodings.clone()) };
            self.mesh.send_down(shards, &down);
        }
        self.hand_out(id, position, &encodings);
    }

    /// Gives a publication to the audiences of this shard.
    fn hand_out(&mut self, id: RoomId, _position: Position, encodings: &Encodings) {
        let audiences = self.rooms[id].audiences;
        for (format, audience) in WireFormat::ALL.into_iter().zip(audiences) {
            // A format that is missing: its first member came in while this was on its way, and hears what comes after.
            if let (Some(audience), Some(frame)) = (audience, encodings.get(format)) {
                self.fanout.publish(self.now, audience, frame, self.options.coalesce);
            }
        }
    }

    fn room(&mut self, name: &str) -> RoomId {
        if let Some(id) = self.rooms.find(name) {
            return id;
        }
        let home_shard = self.mesh.home(name);
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let epoch = self.rng.next_u64() as u32;
        let home = (home_shard == self.mesh.me()).then(|| Home::new(epoch));
        let room = Room { name: Arc::from(name), home_shard, audiences: [None; WireFormat::COUNT], home };
        let id = self.rooms.add(room);
        self.metrics.rooms.set(self.rooms.count() as u64);
        id
    }

    fn forget_if_deserted(&mut self, id: RoomId) {
        self.rooms.remove_if_deserted(id);
        self.metrics.rooms.set(self.rooms.count() as u64);
    }
}
