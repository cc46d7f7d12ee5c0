//! What a shard does as the home of rooms: it gives what is said its place in the room's order, keeps the past, knows who is
//! there, and answers what it is asked.

use bytes::Bytes;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::mesh::{Answer, Ask, Down, Question, ShardSet, Up};
use super::rooms::{Home, Room, RoomId};
use crate::app::json::{self, ErrorCode};
use crate::app::{Encodings, Protocol, WireFormat};
use crate::base::Time;
use crate::chat::{Draft, Epoch, Member, NoPage, Page, Position, Wanted};

/// Between two tellings of who came and went: at most ten a second.
const MOVES_INTERVAL: Duration = Duration::from_millis(100);

/// People in the answer to `presence`, at most.
const PRESENCE_MAX: usize = 500;

/// Publications in the answer to `history`, at most.
const PAGE_MAX: usize = 300;

/// The people of a room with more than this many are counted once a second at most.
const COUNTED_AT_ONCE_MAX: usize = 100;

/// Rooms without members that are kept for those who come back. Above it, those go first that would go first anyway.
const KEPT_ROOMS_MAX: usize = 10_000;

/// As long as all that a shard's rooms keep of their pasts is more than this, none without members is kept.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// How often, and how many rooms at a time, are looked through for what has become too old.
const AGING_INTERVAL: Duration = Duration::from_secs(1);
const AGED_PER_TURN: u32 = 1000;

impl Shard {
    /// Takes what is for a home here.
    pub(super) fn receive_up(&mut self, from: usize, up: Up) {
        match up {
            Up::Say { room, draft, ask } => {
                let id = self.room(&room);
                self.publish(id, draft);
                self.forget_if_deserted(id);
                if let Some(ask) = ask {
                    self.reply(from, ask, "publish", Ok(Bytes::from_static(b"{}")));
                }
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
            Up::Join { room, member, wanted, ask } => self.let_in(from, &room, member, wanted, ask),
            Up::Part { room, client } => {
                let Some(id) = self.rooms.find(&room) else { return };
                let Room { home: Some(home), options, .. } = &mut self.rooms[id] else { return };
                let told = options.join_leave && home.presence.len() <= options.join_leave_members_max;
                home.presence.leave(client, told);
                self.tell_moves_soon(id);
            }
            Up::Ask { room, question, ask } => {
                let id = self.room(&room);
                let Answer { method, result } = self.look_up(id, question);
                self.forget_if_deserted(id);
                self.reply(from, ask, method, result);
            }
            Up::Count { room, offset, ask } => {
                let backlog = self.backlog(&room, offset);
                self.send_down(from, Down::Counted { ask, backlog });
            }
        }
    }

    /// Somebody comes in: from now on its shard gets everything, and this is what came before.
    fn let_in(&mut self, from: usize, room: &str, member: Member, wanted: Wanted, ask: Ask) {
        let id = self.room(room);
        self.forget_old(id);
        let Room { home: Some(home), options, .. } = &mut self.rooms[id] else { return };
        let past = home.history.past(wanted);
        if options.presence {
            let told = options.join_leave && home.presence.len() < options.join_leave_members_max;
            home.presence.join(member, told);
        }
        match past.recovered {
            Some(true) => self.metrics.recovered.add(1),
            Some(false) => self.metrics.unrecovered.add(1),
            None => {}
        }
        self.tell_moves_soon(id);
        self.send_down(from, Down::Joined { ask, past });
    }

    /// Gives what was said its place in the room's order, encodes it once for each format in use, and sends it to every
    /// shard that has members. Only the room's home does this.
    pub(super) fn publish(&mut self, id: RoomId, draft: Draft) {
        let now = self.now;
        let unix_ms = self.unix_ms();
        let room = &mut self.rooms[id];
        let formats = room.formats();
        let options = Arc::clone(&room.options);
        let Some(home) = &mut room.home else { return };
        let positioned = options.history_count_max > 0;
        let wanted = positioned || !formats.of(Protocol::Json).is_empty();
        let kept_before = home.history.kept().1;
        let publication = home.history.push(draft, now, unix_ms, &options, |publication| {
            if wanted { json::publication(publication, positioned) } else { Bytes::new() }
        });
        self.metrics.history_bytes.replace(kept_before, home.history.kept().1);
        let shards = home.shards();
        let encodings = self.encoder.publication(&room.name, &publication, formats);
        let position = publication.position;
        self.metrics.publications.add(1);
        if !shards.is_empty() {
            let (room, encodings) = (Arc::clone(&room.name), Arc::new(encodings.clone()));
            self.mesh.send_down(shards, &Down::Publication { room, position, encodings });
        }
        self.hand_out(id, position, &encodings);
    }

    /// Gives a publication to the audiences of this shard.
    pub(super) fn hand_out(&mut self, id: RoomId, position: Position, encodings: &Encodings) {
        self.hand_out_at(id, Some(position), encodings);
    }

    /// Gives what tells of people to the audiences of this shard.
    pub(super) fn hand_out_moves(&mut self, id: RoomId, encodings: &Encodings) {
        self.hand_out_at(id, None, encodings);
    }

    fn hand_out_at(&mut self, id: RoomId, position: Option<Position>, encodings: &Encodings) {
        for (format, audience) in self.rooms[id].attended() {
            // A format that is missing: its first member came in while this was on its way, and hears what comes after.
            if let Some(frame) = encodings.get(format) {
                self.fanout.publish(self.now, audience, frame, position);
            }
        }
    }

    /// Has the members of a room told of who came and went, after a moment in which others may do so too.
    fn tell_moves_soon(&mut self, id: RoomId) {
        let Some(home) = &mut self.rooms[id].home else { return };
        if home.tells_at.is_none() && home.presence.has_untold() {
            let due = self.now + MOVES_INTERVAL;
            home.tells_at = Some(due);
            self.tellings.push_back((due, id));
        }
    }

    /// Tells the members of rooms whose time has come who came and went.
    pub(super) fn tell_moves(&mut self) {
        while let Some(&(due, id)) = self.tellings.front()
            && due <= self.now
        {
            self.tellings.pop_front();
            let Some(Room { home: Some(home), name, options, .. }) = self.rooms.get_mut(id) else { continue };
            if home.tells_at != Some(due) {
                continue; // the number belongs to another room now
            }
            home.tells_at = None;
            let moves = home.presence.take_untold();
            // The room may have become too large for that since they came.
            if moves.is_empty() || home.presence.len() > options.join_leave_members_max {
                continue;
            }
            let (name, shards) = (Arc::clone(name), home.shards());
            let formats = self.rooms[id].formats().of(Protocol::Json);
            let encodings = self.encoder.moves(&name, &moves, formats);
            if !shards.is_empty() && !formats.is_empty() {
                let down = Down::Moves { room: name, encodings: Arc::new(encodings.clone()) };
                self.mesh.send_down(shards, &down);
            }
            self.hand_out_moves(id, &encodings);
        }
    }

    /// What somebody wants to know of a room.
    fn look_up(&mut self, id: RoomId, question: Question) -> Answer {
        self.forget_old(id);
        let now = self.now;
        let Room { home: Some(home), options, .. } = &mut self.rooms[id] else {
            return Answer { method: "", result: Err(ErrorCode::Internal) };
        };
        match question {
            Question::Presence => {
                let people = home.presence.people();
                let count = home.presence.len();
                let result = || json::presence(people, count, PRESENCE_MAX).into();
                Answer { method: "presence", result: available(options.presence, result) }
            }
            Question::PresenceStats => {
                let result = || {
                    let (clients, users) = count_people(home, now);
                    json::presence_stats(clients, users).into()
                };
                Answer { method: "presence_stats", result: available(options.presence, result) }
            }
            Question::History(page) => {
                let page = Page { limit: page.limit.min(PAGE_MAX), ..page };
                let top = home.history.top();
                let result = home.history.page(page).map_err(|no_page| match no_page {
                    NoPage::OtherEpoch => ErrorCode::UnrecoverablePosition,
                    NoPage::BeforeTheFirst => ErrorCode::BadRequest,
                });
                let result = result.map(|publications| {
                    let objects = publications.iter().map(|publication| &publication.json);
                    json::history(top.epoch, top.offset, objects).into()
                });
                let result =
                    if options.history_count_max > 0 { result } else { Err(ErrorCode::NotAvailable) };
                Answer { method: "history", result }
            }
        }
    }

    fn reply(&mut self, to: usize, ask: Ask, method: &'static str, result: Result<Bytes, ErrorCode>) {
        self.send_down(to, Down::Answer { ask, answer: Answer { method, result } });
    }

    fn send_down(&mut self, to: usize, down: Down) {
        if to == self.mesh.me() {
            self.receive_down(down);
        } else {
            self.mesh.send_down(ShardSet::one(to), &down);
        }
    }

    /// The room of that name, which begins to exist if it did not.
    pub(super) fn room(&mut self, name: &str) -> RoomId {
        if let Some(id) = self.rooms.find(name) {
            return id;
        }
        let home_shard = self.mesh.home(name);
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits")]
        let epoch = Epoch(self.rng.next_u64() as u32);
        let is_here = home_shard == self.mesh.me();
        let home = is_here.then(|| Box::new(Home::new(epoch, self.mesh.seed())));
        let options = Arc::clone(self.options.rooms.of(name));
        let audiences = [None; WireFormat::COUNT];
        let id = self.rooms.add(Room { name: Arc::from(name), options, home_shard, audiences, home });
        self.metrics.rooms.set(self.rooms.count() as u64);
        id
    }

    /// Forgets a room that nobody is in. One with a history is kept for as long as a message of now would be: whoever was cut off
    /// finds the room as it was, even if nothing was ever said in it.
    pub(super) fn forget_if_deserted(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        if !room.is_deserted() {
            return;
        }
        match &mut room.home {
            Some(home) if room.options.history_count_max > 0 => {
                let until = self.now + room.options.history_age_max;
                home.kept_until = Some(until);
                if home.queued_until.is_none() {
                    home.queued_until = Some(until);
                    self.kept_rooms.push(Reverse((until, id)));
                }
            }
            _ => self.forget_room(id),
        }
    }

    fn forget_room(&mut self, id: RoomId) {
        if let Some(home) = &self.rooms[id].home {
            self.metrics.history_bytes.replace(home.history.kept().1, 0);
        }
        self.rooms.remove(id);
        self.metrics.rooms.set(self.rooms.count() as u64);
    }

    /// Forgets what is too old: the rooms that were kept for their past alone, and a part of the past of all others.
    pub(super) fn age(&mut self) {
        while let Some(&Reverse((queued_until, id))) = self.kept_rooms.peek()
            && (queued_until <= self.now
                || self.kept_rooms.len() > KEPT_ROOMS_MAX
                || self.metrics.history_bytes.value() > KEPT_BYTES_MAX)
        {
            self.kept_rooms.pop();
            let Some(room) = self.rooms.get_mut(id) else { continue };
            let is_deserted = room.is_deserted();
            let Some(home) = &mut room.home else { continue };
            if home.queued_until != Some(queued_until) {
                continue; // the number has a new owner
            }
            home.queued_until = None;
            match home.kept_until {
                _ if !is_deserted => {}
                // Somebody was there in the meantime.
                Some(until) if until > queued_until => {
                    home.queued_until = Some(until);
                    self.kept_rooms.push(Reverse((until, id)));
                }
                _ => self.forget_room(id),
            }
        }
        if self.now < self.ages_at {
            return;
        }
        self.ages_at = self.now + AGING_INTERVAL;
        for _ in 0..AGED_PER_TURN.min(self.rooms.numbers()) {
            let id = RoomId(self.next_aged);
            self.next_aged = if id.0 + 1 >= self.rooms.numbers() { 0 } else { id.0 + 1 };
            if self.rooms.get_mut(id).is_some() {
                self.forget_old(id);
            }
        }
    }

    /// When something will have become too old; `None`: there is nothing that could.
    pub(super) fn next_aging(&self) -> Option<Time> {
        let room = self.kept_rooms.peek().map(|&Reverse((until, _))| until);
        let past = (self.metrics.history_bytes.value() > 0).then_some(self.ages_at);
        room.into_iter().chain(past).min()
    }

    fn forget_old(&mut self, id: RoomId) {
        let Room { home: Some(home), options, .. } = &mut self.rooms[id] else { return };
        let before = home.history.kept().1;
        home.history.forget(self.now, options);
        self.metrics.history_bytes.replace(before, home.history.kept().1);
    }
}

fn available(is_on: bool, result: impl FnOnce() -> Bytes) -> Result<Bytes, ErrorCode> {
    if is_on { Ok(result()) } else { Err(ErrorCode::NotAvailable) }
}

/// How many clients and users are in a room. Users are counted anew for each that asks only where that costs nothing.
fn count_people(home: &mut Home, now: Time) -> (usize, usize) {
    let clients = home.presence.len();
    if let Some((at, clients, users)) = home.counted
        && clients > COUNTED_AT_ONCE_MAX
        && now.since(at) < Duration::from_secs(1)
    {
        return (clients, users);
    }
    let users = home.presence.users();
    home.counted = Some((now, clients, users));
    (clients, users)
}
