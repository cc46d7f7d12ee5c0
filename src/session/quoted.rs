//! Plain text sessions over SockJS: what a client sends is an array of texts, each of which is a message.

use super::{Context, Session, Taken};
use crate::app::{Protocol as Wire, sockjs};
use crate::base::OutletKey;
use crate::metrics::CloseReason;

impl Session {
    /// Has what it sends go to an outlet, which has a connection now and then.
    pub fn set_outlet(&mut self, outlet: OutletKey) {
        self.rare().outlet = Some(outlet);
        self.take_relayed(String::new());
    }

    /// Where what it sends goes, if it has no connection of its own.
    pub fn outlet(&self) -> Option<OutletKey> {
        self.rare.as_ref()?.outlet
    }

    /// Whether its client uses SockJS.
    pub(super) fn is_quoted(&self) -> bool {
        self.format.protocol() == Wire::Quoted
    }

    /// Takes the messages of an array. It is offered again from its beginning when one of them must wait.
    pub(super) fn quoted_message(&mut self, ctx: &mut Context<'_>, content: &str) -> Taken {
        let Ok(messages) = sockjs::parse(content) else {
            ctx.effects.close(1007, "Broken JSON encoding.", CloseReason::InvalidCommand);
            return Taken::All;
        };
        let taken = self.rare.as_ref().map_or(0, |rare| rare.quoted_taken);
        for (index, message) in messages.iter().enumerate().skip(taken) {
            if ctx.budget.is_spent() || !self.can_take() || self.text_message(ctx, message) == Taken::Later {
                self.rare().quoted_taken = index;
                return Taken::Later;
            }
            ctx.budget.messages = ctx.budget.messages.saturating_sub(1);
            if ctx.effects.closes() {
                break;
            }
        }
        if taken > 0 {
            self.rare().quoted_taken = 0;
        }
        Taken::All
    }
}
