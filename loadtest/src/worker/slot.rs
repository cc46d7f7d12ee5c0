//! The slot of a client: its current connection, and the state that outlives it.

use super::client::Client;
use super::recovery::{Position, RecoveryAttempt};
use crate::order::{Cursor, Order};
use crate::preset::Recovery;
use crate::stats::Stats;
use crate::wire::Message;

/// The state of a client.
#[derive(Default)]
pub struct Slot {
    /// Its current connection.
    pub client: Option<Box<Client>>,
    /// What it has received.
    pub cursor: Cursor,
    /// It was connected from the first message on, or has recovered from there.
    pub present_from_start: bool,
    /// Its position according to the server, if clients recover and the server has sent one.
    pub position: Option<Box<Position>>,
    /// It was dropped by a storm, and has not reconnected.
    pub dropped: bool,
    /// The recovery in progress.
    pub recovering: Option<RecoveryAttempt>,
}

impl Slot {
    /// Updates the position from a received message, if clients recover.
    pub fn observe(&mut self, recovery: Option<&Recovery>, message: &Message<'_>) {
        let Some(recovery) = recovery else { return };
        let payload = &message.payload;
        let observe = |position: &mut Position| match message.position() {
            Some(stated) => position.state(stated),
            None => position.observe(recovery, payload),
        };
        match &mut self.position {
            Some(position) => {
                observe(position);
            }
            None => {
                let mut position = Position::default();
                if observe(&mut position) {
                    self.position = Some(Box::new(position));
                }
            }
        }
        if let Some(recovering) = &mut self.recovering {
            recovering.observe(recovery, payload);
        }
    }

    /// The client is connected at `now`, for the first time or again.
    pub fn opened(
        &mut self,
        recovery: Option<&Recovery>,
        room: &Order,
        running: bool,
        now: u64,
        stats: &mut Stats,
    ) {
        self.dropped = false;
        if let (Some(recovering), Some(recovery)) = (self.recovering.take(), recovery) {
            if recovering.is_recovered(recovery) {
                stats.recovered += 1;
                stats.recovered_messages += recovering.recovered_messages;
                return;
            }
            stats.not_recovered += 1;
            stats.lost += self.cursor.missing();
        }
        self.cursor = if running { room.cursor_from(now) } else { room.cursor_from_start() };
        self.present_from_start = false;
    }
}
