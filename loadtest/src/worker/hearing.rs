//! What the clients hear: whose message it is, whether it is the one that was due, and how long it took.

use memchr::memmem;

use super::place;
use super::speech::Speech;
use crate::order::{Listener, Order};
use crate::plan::{Plan, Reading as Manner, Speech as Speaking};
use crate::stamp::Finder;
use crate::tally::Tally;

/// The ears of all clients of a worker.
pub struct Hearing {
    /// What was said in each room.
    pub rooms: Vec<Order>,
    finder: Finder,
}

/// Of a complaint so much is told.
const COMPLAINT_CHARS_MAX: usize = 160;

impl Hearing {
    /// Nothing has been heard.
    pub fn new(plan: &Plan) -> Self {
        Self { rooms: (0..plan.rooms).map(|_| Order::default()).collect(), finder: Finder::default() }
    }

    /// `client` has heard a message, which may hold several of ours.
    #[expect(
        clippy::too_many_arguments,
        reason = "the one place where what is heard meets all that it counts for"
    )]
    pub fn heard(
        &mut self,
        plan: &Plan,
        client: u32,
        now: u64,
        payload: &[u8],
        listener: &mut Listener,
        tally: &mut Tally,
        speech: &mut Speech,
    ) {
        let Self { rooms, finder } = self;
        let own_room = plan.room_of(client);
        let at_once = plan.reading(client) == Manner::AtOnce;
        let any = finder.each(payload, |stamp| {
            if stamp.run != plan.run || stamp.speaker >= plan.speakers {
                return; // somebody else's test in the same room
            }
            if plan.room_of(stamp.speaker) != own_room {
                tally.strayed += 1;
                return;
            }
            if !at_once {
                tally.slow_deliveries += 1;
                return;
            }
            let speaker = stamp.speaker / plan.rooms;
            let heard = rooms[own_room as usize].heard(listener, speaker, stamp.sequence, stamp.intended_ns);
            if !tally.hears(heard) {
                return;
            }
            tally.latency.record_ns(now.saturating_sub(stamp.intended_ns));
            if stamp.speaker == client && matches!(plan.speech, Speaking::Window(_)) {
                speech.came_back(client);
            }
        });
        if !any {
            complain(plan, payload, tally);
        }
    }

    /// A client that comes back hears what it had missed; how many messages that was.
    pub fn catches_up(
        &mut self,
        plan: &Plan,
        client: u32,
        payload: &[u8],
        listener: &mut Listener,
        tally: &mut Tally,
    ) -> u64 {
        let Self { rooms, finder } = self;
        let own_room = plan.room_of(client);
        let mut count = 0;
        finder.each(payload, |stamp| {
            if stamp.run != plan.run || stamp.speaker >= plan.speakers {
                return;
            }
            if plan.room_of(stamp.speaker) != own_room {
                tally.strayed += 1;
                return;
            }
            let speaker = stamp.speaker / plan.rooms;
            let heard = rooms[own_room as usize].heard(listener, speaker, stamp.sequence, stamp.intended_ns);
            count += u64::from(tally.hears(heard));
        });
        count
    }

    /// Whether this is what a client waits for after its handshake.
    pub fn tells_joined(&self, plan: &Plan, payload: &[u8], tally: &mut Tally) -> bool {
        complain(plan, payload, tally);
        let joined = place::joined(&plan.target.dialect, plan.resume);
        joined.is_none_or(|joined| memmem::find(payload, joined.as_bytes()).is_some())
    }

    /// How many different messages of each speaker have been heard here.
    pub fn heard_of_all(&self, plan: &Plan) -> Vec<u32> {
        let heard = |speaker| self.rooms[plan.room_of(speaker) as usize].heard_of(speaker / plan.rooms);
        (0..plan.speakers).map(heard).collect()
    }

    /// Messages of a room that nobody here has heard, of `said` for each speaker.
    pub fn unheard_in(&self, plan: &Plan, room: usize, said: &[u32]) -> u64 {
        let in_room = said.iter().skip(room).step_by(plan.rooms as usize);
        self.rooms[room].unheard(in_room.copied())
    }
}

fn complain(plan: &Plan, payload: &[u8], tally: &mut Tally) {
    let Some(complaint) = plan.target.dialect.complaint.as_deref() else { return };
    if memmem::find(payload, complaint.as_bytes()).is_some() {
        let text = String::from_utf8_lossy(payload);
        let text: String = text.chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARS_MAX).collect();
        tally.error(format!("the server says: {text}"));
    }
}
