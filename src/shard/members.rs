//! Who sits in which room on this shard: coming in, going out, and what that means for the connection.
//!
//! To come in, a client asks the room's home, which answers with the room's position at that moment and what was asked of the
//! past. The answer travels in the same ring as the room's publications: what was published before it is in it, what is published
//! after it comes behind it. So a member that is seated when the answer arrives misses nothing and hears nothing twice.

use smallvec::SmallVec;

use super::client::{Arriving, Client, Membership};
use super::fanout::{Jump, Seat};
use super::mesh::{Ask, Up};
use super::rooms::{Attended, RoomId};
use super::{Shard, Slot};
use crate::app::WireFormat;
use crate::base::ConnKey;
use crate::chat::{Grant, Member, Past, Wanted};

/// The seats of one connection: almost always one, and then nothing is allocated.
pub(super) type Seats = SmallVec<[Seat; 2]>;

impl Shard {
    /// Has a client go into a room, which begins to exist with its first member.
    pub(super) fn join(
        &mut self,
        key: ConnKey,
        name: &str,
        grant: Grant,
        wanted: Wanted,
        arriving: Arriving,
    ) {
        let id = self.room(name);
        let number = self.next_number();
        let Some(client) = self.client_mut(key) else { return };
        let format = client.format;
        let member = Member { person: client.person.clone(), info: grant.info };
        client.memberships.push(Membership {
            room: id,
            number,
            seat: None,
            granted: arriving.granted,
            by_server: arriving.by_server,
            arriving: Some(Box::new(arriving)),
        });
        self.attend(id, format);
        let room = self.rooms[id].name.clone();
        self.tell_home(id, Up::Join { room, member, wanted, ask: Ask { conn: key, number } });
    }

    /// Whether a client is on its way into a room.
    pub(super) fn is_arriving(&self, key: ConnKey) -> bool {
        let client = self.conns.get(key).and_then(|slot| slot.client.as_ref());
        client.is_some_and(|client| client.is_arriving())
    }

    /// The home has let it in: what is published from now on is for it.
    pub(super) fn joined(&mut self, ask: Ask, past: &Past) {
        let Some(client) = self.client_mut(ask.conn) else { return };
        let format = client.format;
        let Some(index) = client.memberships.iter().position(|it| it.number == ask.number) else { return };
        let arriving = client.memberships[index].arriving.take();
        let (id, shared) = (client.memberships[index].room, client.memberships.len() > 1);
        let Some(Attended { audience, .. }) = self.rooms[id].audiences[format as usize] else { return };
        let seat = self.fanout.join(audience, ask.conn, shared);
        self.metrics.members.add(1);
        let Some(Slot { conn, client: Some(client), .. }) = self.conns.get_mut(ask.conn) else { return };
        client.memberships[index].seat = Some(seat);
        self.metrics.lagging.add(u64::from(conn.blocked));
        if shared {
            for seat in client.seats() {
                self.fanout.share(seat);
            }
        }
        if let Some(arriving) = arriving {
            self.arrived(ask.conn, id, past, &arriving);
        }
        // Its seat is not swept before what is told of the past is out.
        self.flush_later(ask.conn);
    }

    /// Takes a client out of the room of its membership number `index`.
    pub(super) fn part(&mut self, key: ConnKey, index: usize) {
        let Some(client) = self.client_mut(key) else { return };
        let membership = client.memberships.swap_remove(index);
        let (who, format) = (client.person.client, client.format);
        if let Some(seat) = membership.seat {
            self.unseat(key, seat);
        }
        let id = membership.room;
        let room = self.rooms[id].name.clone();
        self.tell_home(id, Up::Part { room, client: who });
        self.unattend(id, format);
    }

    /// Takes a client out of all rooms.
    pub(super) fn leave_rooms(&mut self, key: ConnKey) {
        while let Some(last) = self.client_mut(key).and_then(|client| client.memberships.len().checked_sub(1))
        {
            self.part(key, last);
        }
    }

    /// Frees a seat. The rest of a frame that has begun to go out stays with the connection.
    fn unseat(&mut self, key: ConnKey, seat: Seat) {
        if let Some(Slot { conn, client: Some(client), .. }) = self.conns.get_mut(key) {
            if client.torn == Some(seat.audience) {
                client.torn = None;
                let rest = self.fanout.jump(seat, Jump::Head).rest;
                conn.outbox.prepend(&rest);
            }
            self.metrics.lagging.sub(u64::from(conn.blocked));
        }
        self.metrics.members.sub(1);
        let Some(moved) = self.fanout.leave(seat) else { return };
        let moved = self.conns.key_at(moved).and_then(|key| self.client_mut(key));
        let moved = moved.and_then(|client| client.seat_mut(seat.audience));
        if let Some(place) = moved {
            *place = seat;
        }
    }

    /// Counts a client into its audience, which is opened for the first one.
    fn attend(&mut self, id: RoomId, format: WireFormat) {
        let room = &mut self.rooms[id];
        if let Some(attended) = &mut room.audiences[format as usize] {
            attended.clients += 1;
            return;
        }
        let audience = self.fanout.open(id, format, room.options.clone());
        room.audiences[format as usize] = Some(Attended { audience, clients: 1 });
        if room.home.is_none() {
            let enter = Up::Enter { room: room.name.clone(), format };
            self.tell_home(id, enter);
        }
    }

    /// Counts a client out of its audience, which is closed after the last one.
    fn unattend(&mut self, id: RoomId, format: WireFormat) {
        let room = &mut self.rooms[id];
        let Some(attended) = &mut room.audiences[format as usize] else { return };
        attended.clients -= 1;
        if attended.clients > 0 {
            return;
        }
        self.fanout.close(attended.audience);
        room.audiences[format as usize] = None;
        if room.home.is_none() {
            let leave = Up::Leave { room: room.name.clone(), format };
            self.tell_home(id, leave);
        }
        self.forget_if_deserted(id);
    }

    /// Says something to a room's home, which may be here.
    pub(super) fn tell_home(&mut self, id: RoomId, up: Up) {
        let home_shard = self.rooms[id].home_shard;
        if home_shard == self.mesh.me() {
            self.receive_up(home_shard, up);
        } else {
            self.mesh.send_up(home_shard, up);
        }
    }

    /// A client of this shard.
    pub(super) fn client_mut(&mut self, key: ConnKey) -> Option<&mut Client> {
        self.conns.get_mut(key)?.client.as_deref_mut()
    }

    /// A number that no question of this shard that is still open has.
    pub(super) const fn next_number(&mut self) -> u32 {
        self.numbers = self.numbers.wrapping_add(1);
        self.numbers
    }
}
