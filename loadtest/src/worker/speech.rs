//! What the clients say: on joining, as answers, and the messages of those that speak.

use std::collections::VecDeque;

use super::client::{Client, Phase};
use super::place::{self, Place};
use crate::message::Assignment;
use crate::order::Order;
use crate::pace::{Pace, nanos};
use crate::plan::{Plan, Speech as Speaking};
use crate::stamp::Stamp;
use crate::template::{Filling, Template};
use crate::units::Dice;
use crate::wire::Opcode;
use stentor::ws::{Deflater, Window};

/// One of this worker's speakers.
#[derive(Clone, Copy, Debug, Default)]
struct Speaker {
    /// Messages that it has said.
    said: u32,
    /// Those of them that may have been lost when its own connection was.
    excused: u32,
    /// With a window: when it said something last.
    progress_ns: u64,
}

/// The mouths of all clients of a worker.
pub struct Speech {
    index: u32,
    of: u32,
    speaking: Speaking,
    speakers: Vec<Speaker>,
    /// The moments of all workers' messages; ours are picked out.
    pace: std::iter::Enumerate<Pace>,
    speaker_count: u32,
    begun_ns: Option<u64>,
    /// The next message of ours: who, and when.
    next: Option<(u32, u64)>,
    /// Speakers whose message has come back.
    again: VecDeque<u32>,
    dice: Dice,
    deflater: Deflater,
    text: Vec<u8>,
    filled: Vec<u8>,
}

impl Speech {
    /// Nobody has said anything.
    pub fn new(assignment: &Assignment) -> Self {
        let Assignment { plan, index, of, .. } = assignment;
        let own = if plan.only_listen { 0 } else { assignment.share(plan.speakers) };
        Self {
            index: *index,
            of: *of,
            speaking: plan.speech,
            speakers: vec![Speaker::default(); own as usize],
            pace: Pace::new(plan.stages.clone()).enumerate(),
            speaker_count: plan.speakers,
            begun_ns: None,
            next: None,
            again: VecDeque::new(),
            dice: Dice::new(u64::from(plan.run) << 32 | u64::from(*index)),
            deflater: Deflater::default(),
            text: Vec::new(),
            filled: Vec::new(),
        }
    }

    /// The first stage begins.
    pub fn begin(&mut self, at_ns: u64) {
        self.begun_ns = Some(at_ns);
        match self.speaking {
            Speaking::Paced => self.plan_next(),
            Speaking::Window(window) => {
                for local in 0..self.speakers.len() {
                    self.speakers[local].progress_ns = at_ns;
                    let speaker = self.global(local);
                    self.again.extend(std::iter::repeat_n(speaker, window as usize));
                }
                // Somebody must speak first; the rest follows from what comes back.
                self.next = self.again.pop_front().map(|speaker| (speaker, at_ns));
            }
        }
    }

    /// Nobody says anything more.
    pub fn end(&mut self) {
        self.begun_ns = None;
        self.next = None;
        self.again.clear();
    }

    fn global(&self, local: usize) -> u32 {
        u32::try_from(local).unwrap_or(u32::MAX) * self.of + self.index
    }

    /// All speakers speak in turn, over all workers.
    fn plan_next(&mut self) {
        let begun_ns = self.begun_ns.unwrap_or(0);
        self.next = None;
        if self.speakers.is_empty() {
            return;
        }
        for (count, seconds) in self.pace.by_ref() {
            let speaker = u32::try_from(count % self.speaker_count as usize).unwrap_or(0);
            if speaker % self.of == self.index {
                self.next = Some((speaker, begun_ns + nanos(seconds)));
                return;
            }
        }
    }

    /// When there is something to say next.
    pub fn next_ns(&self) -> u64 {
        self.next.map_or(u64::MAX, |(_, at_ns)| at_ns)
    }

    /// Who is to speak now, and since when.
    pub fn due(&mut self, now: u64) -> Option<(u32, u64)> {
        let (speaker, at_ns) = self.next.filter(|&(_, at_ns)| at_ns <= now)?;
        match self.speaking {
            Speaking::Paced => self.plan_next(),
            Speaking::Window(_) => self.next = self.again.pop_front().map(|speaker| (speaker, now)),
        }
        Some((speaker, at_ns))
    }

    /// Who is to speak since its message has come back.
    pub fn again(&mut self) -> Option<u32> {
        if self.begun_ns.is_some() { self.again.pop_front() } else { None }
    }

    /// A speaker with a window has heard itself.
    pub fn came_back(&mut self, client: u32) {
        if self.begun_ns.is_some() {
            self.again.push_back(client);
        }
    }

    /// Whoever waits in vain for its own message speaks on after `patience_ns`: the message is lost, the test is not.
    pub fn unstick(&mut self, now: u64, patience_ns: u64) {
        let Speaking::Window(window) = self.speaking else { return };
        if self.begun_ns.is_none() {
            return;
        }
        for local in 0..self.speakers.len() {
            let speaker = &mut self.speakers[local];
            if now.saturating_sub(speaker.progress_ns) > patience_ns {
                speaker.progress_ns = now;
                let global = self.global(local);
                self.again.extend(std::iter::repeat_n(global, window as usize));
            }
        }
        if self.next.is_none() {
            self.next = self.again.pop_front().map(|speaker| (speaker, now));
        }
    }

    /// Queues one message.
    pub fn say(&mut self, plan: &Plan, speaker: u32, intended_ns: u64, client: &mut Client) {
        let key = self.key();
        let state = &mut self.speakers[(speaker / self.of) as usize];
        let stamp = Stamp { run: plan.run, speaker, sequence: state.said, intended_ns };
        state.said += 1;
        state.progress_ns = intended_ns;
        self.text.clear();
        stamp.text_into(plan.sizes.pick(self.dice.roll()), &mut self.text);
        let text = std::mem::take(&mut self.text);
        let filling = Filling { text: &text, ..Filling::default() };
        self.fill(plan, speaker, &plan.target.dialect.say, filling, client, key);
        self.text = text;
    }

    fn fill(
        &mut self,
        plan: &Plan,
        global: u32,
        what: &Template,
        filling: Filling<'_>,
        client: &mut Client,
        key: [u8; 4],
    ) {
        let (name, room) = (plan.client_name(global), plan.room_name(plan.room_of(global)));
        client.said += 1;
        self.filled.clear();
        what.fill_into(Filling { name: &name, room: &room, id: client.said, ..filling }, &mut self.filled);
        let opcode = if plan.target.dialect.binary { Opcode::Binary } else { Opcode::Text };
        if client.compresses() {
            let payload = self.deflater.deflate(Window::Full, &[&self.filled]);
            client.queue(opcode, true, payload, key);
        } else {
            client.queue(opcode, false, &self.filled, key);
        }
    }

    /// Says what must be said after the handshake; `was_at` is where the client was, if it comes back to there. True if that
    /// is all there is to coming in.
    pub fn join(&mut self, plan: &Plan, global: u32, client: &mut Client, was_at: Option<&Place>) -> bool {
        let dialect = &plan.target.dialect;
        let (epoch, offset) = was_at.map_or(("", 0), |place| (&place.epoch, place.offset));
        let filling = Filling { epoch, offset, ..Filling::default() };
        for message in place::join(dialect, plan.resume, was_at.is_some()) {
            let key = self.key();
            self.fill(plan, global, message, filling, client, key);
        }
        // The ids of what is said later begin above those that a template of joining has used itself.
        client.said += JOIN_IDS;
        place::joined(dialect, plan.resume).is_none()
    }

    /// Answers the lines that want an answer.
    pub fn answer(&mut self, plan: &Plan, client: &mut Client, payload: &[u8]) {
        let dialect = &plan.target.dialect;
        if dialect.answers.is_empty() || client.phase == Phase::Leaving {
            return;
        }
        for line in payload.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some((_, answer)) = dialect.answers.iter().find(|(wanted, _)| wanted.as_bytes() == line) {
                let opcode = if dialect.binary { Opcode::Binary } else { Opcode::Text };
                client.queue(opcode, false, answer.as_bytes(), self.key());
            }
        }
    }

    /// A client's connection is gone, and with it perhaps what it said last: `room` knows what has been heard of it.
    pub fn cut_off(&mut self, plan: &Plan, client: u32, room: &Order) {
        if client >= plan.speakers || plan.only_listen {
            return;
        }
        let speaker = &mut self.speakers[(client / self.of) as usize];
        speaker.excused = speaker.said.saturating_sub(room.heard_of(client / plan.rooms));
    }

    /// Our speakers, and how much each of them has said that must have been heard.
    pub fn said(&self) -> Vec<(u32, u32)> {
        let said = |(local, speaker): (usize, &Speaker)| (self.global(local), speaker.said - speaker.excused);
        self.speakers.iter().enumerate().map(said).collect()
    }

    /// A masking key.
    pub fn key(&mut self) -> [u8; 4] {
        self.dice.roll().to_be_bytes()
    }
}

/// Room for the ids that a template of joining has in itself.
const JOIN_IDS: u32 = 10;
