//! What the clients send: joins, automatic replies, and published messages.

use std::collections::VecDeque;

use super::client::{Client, Phase};
use super::recovery::{self, Position};
use super::uplink::Uplink;
use crate::message::{Assignment, Division};
use crate::order::Order;
use crate::pace::{Pace, nanos};
use crate::plan::{LoadModel, Plan};
use crate::preset::ServerProtocol;
use crate::stamp::Stamp;
use crate::template::{Template, Values};
use crate::units::Rng;
use crate::wire::Opcode;
use stentor::ws::{Deflater, Window};

/// The state of one publisher.
#[derive(Clone, Copy, Debug, Default)]
struct Publisher {
    /// The number of published messages.
    published: u32,
    /// Those that may have been lost with the publisher's own connection.
    unconfirmed: u32,
    /// In a closed loop: the time of the last published message.
    progress_ns: u64,
}

/// The publishers of a worker.
pub struct Publishers {
    division: Division,
    load_model: LoadModel,
    publishers: Vec<Publisher>,
    /// The send times of all workers' messages, from which this worker's are picked.
    pace: std::iter::Enumerate<Pace>,
    publisher_count: u32,
    started_ns: Option<u64>,
    /// The next message: publisher and send time.
    next: Option<(u32, u64)>,
    /// Publishers whose message has returned.
    ready: VecDeque<u32>,
    rng: Rng,
    deflater: Deflater,
    text: Vec<u8>,
    rendered: Vec<u8>,
}

impl Publishers {
    /// Nothing has been published.
    pub fn new(assignment: &Assignment) -> Self {
        let Assignment { plan, index, .. } = assignment;
        let own = if plan.receive_only { 0 } else { assignment.share(plan.publishers) };
        Self {
            division: assignment.division(),
            load_model: plan.load_model,
            publishers: vec![Publisher::default(); own as usize],
            pace: Pace::new(plan.stages.clone()).enumerate(),
            publisher_count: plan.publishers,
            started_ns: None,
            next: None,
            ready: VecDeque::new(),
            rng: Rng::new(u64::from(plan.run) << 32 | u64::from(*index)),
            deflater: Deflater::default(),
            text: Vec::new(),
            rendered: Vec::new(),
        }
    }

    /// Starts the first stage.
    pub fn begin(&mut self, at_ns: u64) {
        self.started_ns = Some(at_ns);
        match self.load_model {
            LoadModel::OpenLoop => self.plan_next(),
            LoadModel::ClosedLoop(in_flight) => {
                for local in 0..self.publishers.len() {
                    self.publishers[local].progress_ns = at_ns;
                    let publisher = self.global(local);
                    self.ready.extend(std::iter::repeat_n(publisher, in_flight as usize));
                }
                // The first message starts the loop; the following ones are triggered by received messages.
                self.next = self.ready.pop_front().map(|publisher| (publisher, at_ns));
            }
        }
    }

    /// Stops publishing.
    pub fn end(&mut self) {
        self.started_ns = None;
        self.next = None;
        self.ready.clear();
    }

    fn global(&self, local: usize) -> u32 {
        self.division.global(local)
    }

    /// Publishers take turns, over all workers.
    fn plan_next(&mut self) {
        let started_ns = self.started_ns.unwrap_or(0);
        self.next = None;
        if self.publishers.is_empty() {
            return;
        }
        for (count, seconds) in self.pace.by_ref() {
            let publisher = u32::try_from(count % self.publisher_count as usize).unwrap_or(0);
            if self.division.has(publisher) {
                self.next = Some((publisher, started_ns + nanos(seconds)));
                return;
            }
        }
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> u64 {
        self.next.map_or(u64::MAX, |(_, at_ns)| at_ns)
    }

    /// The publisher of the next due message, and its intended send time.
    pub fn due(&mut self, now: u64) -> Option<(u32, u64)> {
        let (publisher, at_ns) = self.next.filter(|&(_, at_ns)| at_ns <= now)?;
        match self.load_model {
            LoadModel::OpenLoop => self.plan_next(),
            LoadModel::ClosedLoop(_) => self.next = self.ready.pop_front().map(|publisher| (publisher, now)),
        }
        Some((publisher, at_ns))
    }

    /// The next publisher whose message has returned.
    pub fn next_ready(&mut self) -> Option<u32> {
        if self.started_ns.is_some() { self.ready.pop_front() } else { None }
    }

    /// A publisher in a closed loop has received its own message.
    pub fn own_message_received(&mut self, client: u32) {
        if self.started_ns.is_some() {
            self.ready.push_back(client);
        }
    }

    /// Resumes publishers that have waited for their own message longer than `drain_timeout_ns`: the message
    /// counts as lost.
    pub fn retry_stalled(&mut self, now: u64, drain_timeout_ns: u64) {
        let LoadModel::ClosedLoop(in_flight) = self.load_model else { return };
        if self.started_ns.is_none() {
            return;
        }
        for local in 0..self.publishers.len() {
            let publisher = &mut self.publishers[local];
            if now.saturating_sub(publisher.progress_ns) > drain_timeout_ns {
                publisher.progress_ns = now;
                let global = self.global(local);
                self.ready.extend(std::iter::repeat_n(global, in_flight as usize));
            }
        }
        if self.next.is_none() {
            self.next = self.ready.pop_front().map(|publisher| (publisher, now));
        }
    }

    /// Queues one message: for `uplink`, or without one for the client's own connection.
    pub fn publish(
        &mut self,
        plan: &Plan,
        publisher: u32,
        intended_ns: u64,
        client: &mut Client,
        uplink: Option<&mut Uplink>,
        now: u64,
    ) {
        let state = &mut self.publishers[self.division.local(publisher)];
        let stamp = Stamp { run: plan.run, publisher, sequence: state.published, intended_ns };
        state.published += 1;
        state.progress_ns = intended_ns;
        self.text.clear();
        stamp.text_into(plan.sizes.sample(self.rng.next_u32()), &mut self.text);
        let text = std::mem::take(&mut self.text);
        let values = Values { text: &text, ..Values::default() };
        self.render(plan, publisher, &plan.protocol(publisher).publish, values, client);
        match uplink {
            Some(uplink) => uplink.queue(&self.rendered, now),
            None => self.send_rendered(plan.protocol(publisher).binary, client),
        }
        self.text = text;
    }

    fn render(
        &mut self,
        plan: &Plan,
        global: u32,
        template: &Template,
        values: Values<'_>,
        client: &mut Client,
    ) {
        let (name, room) = (plan.client_name(global), plan.room_name(plan.room_of(global)));
        client.message_id += 1;
        self.rendered.clear();
        let values = Values { name: &name, room: &room, id: client.message_id, ..values };
        template.render_into(values, &mut self.rendered);
    }

    fn send_rendered(&mut self, is_binary: bool, client: &mut Client) {
        let key = self.key();
        let opcode = if is_binary { Opcode::Binary } else { Opcode::Text };
        if client.compresses() {
            let payload = self.deflater.deflate(Window::Full, &[&self.rendered]);
            client.queue(opcode, true, payload, key);
        } else {
            client.queue(opcode, false, &self.rendered, key);
        }
    }

    /// Queues the messages after the handshake; `position` is the last position of a client that recovers.
    /// True if no message marks the client as connected.
    pub fn join(
        &mut self,
        plan: &Plan,
        global: u32,
        client: &mut Client,
        position: Option<&Position>,
    ) -> bool {
        let protocol = plan.protocol(global);
        let (epoch, offset) = position.map_or(("", 0), |position| (&position.epoch, position.offset));
        let token = plan.token(global);
        let values = Values { epoch, offset, token: &token, ..Values::default() };
        for message in recovery::join(protocol, plan.resume, position.is_some()) {
            self.render(plan, global, message, values, client);
            self.send_rendered(protocol.binary, client);
        }
        // Ids of later messages start above those that the template of the join contains.
        client.message_id += JOIN_IDS;
        recovery::ready_match(protocol, plan.resume).is_none()
    }

    /// Queues the replies that received lines require.
    pub fn auto_reply(&mut self, protocol: &ServerProtocol, client: &mut Client, payload: &[u8]) {
        if protocol.auto_replies.is_empty() || client.phase == Phase::Closing {
            return;
        }
        for line in payload.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some((_, reply)) =
                protocol.auto_replies.iter().find(|(expected, _)| expected.as_bytes() == line)
            {
                let opcode = if protocol.binary { Opcode::Binary } else { Opcode::Text };
                client.queue(opcode, false, reply.as_bytes(), self.key());
            }
        }
    }

    /// A publisher's connection has ended: messages that `room` has not received are unconfirmed.
    pub fn disconnected(&mut self, plan: &Plan, client: u32, room: &Order) {
        if client >= plan.publishers || plan.receive_only {
            return;
        }
        let publisher = &mut self.publishers[self.division.local(client)];
        publisher.unconfirmed = publisher.published.saturating_sub(room.received_from(client / plan.rooms));
    }

    /// This worker's publishers, and the number of messages of each that must be received.
    pub fn published(&self) -> Vec<(u32, u32)> {
        let published = |(local, publisher): (usize, &Publisher)| {
            (self.global(local), publisher.published - publisher.unconfirmed)
        };
        self.publishers.iter().enumerate().map(published).collect()
    }

    /// A random masking key.
    pub fn key(&mut self) -> [u8; 4] {
        self.rng.next_u32().to_be_bytes()
    }
}

/// Ids that the template of a join may contain.
const JOIN_IDS: u32 = 10;
