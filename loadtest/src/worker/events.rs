//! What a client's events change: its slot, the received messages, the connection schedule and the
//! statistics.

use super::client::{Client, Event, Phase};
use super::deliveries::Deliveries;
use super::dialer::Dialer;
use super::publishers::Publishers;
use super::slot::Slot;
use crate::clock;
use crate::plan::Plan;
use crate::stats::Stats;

/// The context of one client while its events are handled.
pub struct EventHandler<'w> {
    /// The plan of the run.
    pub plan: &'w Plan,
    /// The client's local index.
    pub local: usize,
    /// Its global index.
    pub global: u32,
    /// Publishing has started.
    pub running: bool,
    /// The results are known: what arrives is not counted.
    pub closing: bool,
    /// The state that outlives the connection.
    pub slot: &'w mut Slot,
    /// The received messages of all clients.
    pub deliveries: &'w mut Deliveries,
    /// The connection schedule.
    pub dialer: &'w mut Dialer,
    /// What the clients send.
    pub publishers: &'w mut Publishers,
    /// Statistics that are not reported yet.
    pub stats: &'w mut Stats,
    /// The time of the first event of this read.
    pub now: Option<u64>,
}

impl EventHandler<'_> {
    /// Handles an event of the connection.
    pub fn event(&mut self, client: &mut Client, event: Event<'_>) {
        if self.closing {
            return;
        }
        let now = *self.now.get_or_insert_with(clock::now);
        let Self { plan, slot, deliveries, publishers, stats, .. } = self;
        let protocol = plan.protocol(self.global);
        let recovery = protocol.recovery.as_ref().filter(|_| plan.resume);
        let is_ready = match event {
            Event::Accepted => {
                publishers.join(plan, self.global, client, slot.position.as_deref())
                    && !protocol.transport.has_positions()
            }
            Event::Message(message) if client.phase == Phase::Joining => {
                let payload = &message.payload;
                publishers.auto_reply(protocol, client, payload);
                slot.observe(recovery, message);
                if let Some(recovering) = &mut slot.recovering {
                    let cursor = &mut slot.cursor;
                    recovering.recovered_messages +=
                        deliveries.received_in_recovery(plan, self.global, payload, cursor, stats);
                }
                if protocol.transport.has_positions() {
                    message.is_current
                } else {
                    deliveries.is_ready_message(plan, self.global, payload, stats)
                }
            }
            Event::Message(message) => {
                let payload = &message.payload;
                slot.observe(recovery, message);
                deliveries.received(plan, self.global, now, payload, &mut slot.cursor, stats, publishers);
                publishers.auto_reply(protocol, client, payload);
                false
            }
        };
        if is_ready {
            client.phase = Phase::Open;
            self.dialer.opened(self.local);
            self.stats.handshakes += 1;
            self.stats.handshake.record_ns(now - client.started_ns);
            let room = &self.deliveries.rooms[self.plan.room_of(self.global) as usize];
            self.slot.opened(recovery, room, self.running, now, self.stats);
        }
    }
}
