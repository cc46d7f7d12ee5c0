//! What a client learns of it that reads too slowly.

use super::{Effect, Effects, Protocol, Session, Skipped};
use crate::app::json::{Disconnect, Unsubscribe};
use crate::app::text;
use crate::base::SubId;
use crate::chat::Position;
use crate::metrics::CloseReason;

impl Session {
    /// It has lost publications in a room: its client is notified and stays where it can recover. `count`
    /// frames are missing after `position`, if that is known.
    pub fn lagged(&mut self, effects: &mut Effects, sub: SubId, count: u64, position: Option<Position>) {
        let Some(index) = self.subscriptions.iter().position(|it| it.sub == Some(sub)) else { return };
        match self.protocol {
            Protocol::Text => {
                let positioned = self.subscriptions[index].options.history_count_max > 0;
                let after = position.filter(|_| positioned);
                let skipped = self.rare().skipped.get_or_insert(Skipped { count: 0, after });
                skipped.count += count;
                effects.push(Effect::Notice);
            }
            // Its client recovers from its position at once.
            Protocol::Json(_) => self.unsubscribe(effects, index, Unsubscribe::Insufficient),
        }
    }

    /// Notifies its client how many publications are missing.
    pub fn notice(&mut self, effects: &mut Effects) {
        if let Some(skipped) = self.rare.as_mut().and_then(|rare| rare.skipped.take()) {
            self.plain_notice(effects, &text::skipped(skipped.count, skipped.after));
        }
    }

    /// It reads too slowly for a room that does not wait.
    pub fn too_slow(&mut self, effects: &mut Effects) {
        match self.protocol {
            Protocol::Text => effects.close(
                1013,
                "this connection reads too slowly for the room",
                CloseReason::SlowConsumer,
            ),
            Protocol::Json(_) => effects.disconnect(Disconnect::Slow),
        }
    }
}
