//! Replies for commands that waited.

use std::sync::Arc;

use super::json::Phase;
use super::{Context, EXPIRY_GRACE, Effect, Effects, JoinRequest, Joining, Protocol, Session};
use crate::app::json::{
    self, Connected, Delivery, Disconnect, Empty, ErrorCode, HistoryPage, PresencePage, PresenceStats, Reply,
    RpcResult, Subscribed, Unsubscribe,
};
use crate::base::Time;
use crate::chat::{AuthDecision, Member, PageError, Position, Recovered, RecoveryRequest};
use crate::engine::PublishOutcome;
use crate::metrics::CloseReason;
use crate::room::{Answer, QueryError};
use crate::session::json::Connecting;

impl Session {
    /// One of its messages is completed.
    pub fn draft_completed(
        &mut self,
        ctx: &mut Context<'_>,
        command: u32,
        outcome: PublishOutcome,
        position: Option<Position>,
    ) {
        if matches!(self.protocol, Protocol::Text) {
            // A WebSocket's messages are no commands: nothing waits for them.
            return match command {
                0 => self.text_publish_completed(ctx, outcome),
                command => ctx.effects.push(Effect::Published { command, outcome, position }),
            };
        }
        let Some(id) = self.answered(command) else { return };
        match outcome {
            PublishOutcome::Ordered | PublishOutcome::Duplicate | PublishOutcome::Superseded => {
                ctx.effects.reply(id, &Reply::Publish(Empty {}));
            }
            PublishOutcome::Temporary => ctx.effects.error(id, ErrorCode::Internal),
        }
    }

    /// A room's home has answered.
    pub fn query_answered(
        &mut self,
        effects: &mut Effects,
        command: u32,
        answer: &Result<Answer, QueryError>,
    ) {
        let Some(id) = self.answered(command) else { return };
        let reply = match answer {
            Ok(Answer::Presence(members, count)) => Reply::Presence(PresencePage::new(members, *count)),
            Ok(Answer::PresenceStats { clients, users }) => {
                Reply::PresenceStats(PresenceStats { num_clients: *clients, num_users: *users })
            }
            Ok(Answer::History(publications, top)) => Reply::History(HistoryPage::new(publications, top)),
            Err(why) => {
                let code = match why {
                    QueryError::NotAvailable => ErrorCode::NotAvailable,
                    QueryError::PageError(PageError::OtherEpoch) => ErrorCode::UnrecoverablePosition,
                    QueryError::PageError(PageError::BeforeFirst) => ErrorCode::BadRequest,
                    QueryError::Lost => ErrorCode::Internal,
                };
                return effects.error(id, code);
            }
        };
        effects.reply(id, &reply);
    }

    /// All shards have reported how far a publication has come.
    pub fn delivery_counted(&mut self, effects: &mut Effects, command: u32, counts: Delivery) {
        let Some(id) = self.answered(command) else { return };
        effects.reply(id, &Reply::Rpc(RpcResult { data: counts }));
    }

    pub(super) fn json_decided(&mut self, ctx: &mut Context<'_>, decision: AuthDecision) {
        let Some(state) = self.json_state() else { return };
        if !matches!(state.phase, Phase::Authenticating(_)) {
            return;
        }
        let Phase::Authenticating(connecting) = std::mem::replace(&mut state.phase, Phase::Refused) else {
            return;
        };
        match decision {
            AuthDecision::Accept { identity, data } => {
                self.identified(ctx, identity, Connecting { data, ..*connecting });
            }
            AuthDecision::Reject { code, message, temporary } => {
                self.other_error(ctx.effects, connecting.command, code, &message, temporary);
            }
            AuthDecision::Disconnect { code, reason } => {
                ctx.effects.close(code, reason.into_string(), CloseReason::Unauthorized);
            }
        }
    }

    /// A client has come into a room that it subscribed to, or that the server has put it into.
    pub(super) fn json_joined(
        &mut self,
        ctx: &mut Context<'_>,
        index: usize,
        recovery: &Recovered,
        joining: &Joining,
    ) {
        let subscription = &self.subscriptions[index];
        let positioned = subscription.options.history_count_max > 0;
        let (room, by_server) = (Arc::clone(&subscription.room), subscription.by_server);
        let Joining { command, requested_offset, expires_in, .. } = *joining;
        if joining.or_nothing && recovery.recovered == Some(false) {
            self.leave(ctx.effects, index);
            return ctx.effects.error(command, ErrorCode::UnrecoverablePosition);
        }
        let result =
            Subscribed::new(recovery, positioned, requested_offset, expires_in, joining.data.as_deref());
        if expires_in.is_some() {
            self.expire_subscription(ctx.now, index, expires_in);
        }
        if !by_server {
            return ctx.effects.reply(command, &Reply::Subscribe(result));
        }
        if let Some(Phase::Entering(connecting)) = self.json_state().map(|state| &mut state.phase) {
            connecting.subs.push((room, result.to_json()));
            connecting.missing -= 1;
        }
        self.confirm_if_complete(ctx);
    }

    /// A room that the server puts it into needs no entering: it counts as entered.
    pub(super) fn room_entered(&mut self) {
        if let Some(Phase::Entering(connecting)) = self.json_state().map(|state| &mut state.phase) {
            connecting.missing -= 1;
        }
    }

    /// Answers `connect` once no room is missing.
    pub(super) fn confirm_if_complete(&mut self, ctx: &mut Context<'_>) {
        let (client, expires, is_push) = (self.person.client, self.expires(), self.is_push());
        let Some(state) = self.json_state() else { return };
        if !matches!(&state.phase, Phase::Entering(connecting) if connecting.missing == 0) {
            return;
        }
        let Phase::Entering(connecting) = std::mem::replace(&mut state.phase, Phase::Open) else { return };
        let ping = if state.frame_pings { std::time::Duration::ZERO } else { ctx.options.ping_interval };
        let left = (expires != Time::NEVER).then(|| expires.since(ctx.now).saturating_sub(EXPIRY_GRACE));
        let node = super::node(ctx.seed);
        let mut result = Connected::new(client, ping, left, connecting.data.as_deref(), &connecting.subs);
        result.pong &= !is_push;
        result.session = self.session_id();
        result.node = result.session.map(|_| node.as_str());
        if is_push {
            ctx.effects.send(|out| json::connected_into(out, result));
        } else {
            ctx.effects.reply(connecting.command, &Reply::Connect(result));
        }
        ctx.effects.push(Effect::Confirmed);
        self.begin_pings(ctx);
    }

    /// The homes of some rooms are lost. Its client must recover the rooms that it is in, which are joined
    /// anew; what it has requested of them gets an error that may be tried again.
    pub fn home_lost(&mut self, ctx: &mut Context<'_>, is_lost: impl Fn(&str) -> bool) {
        let affected = |session: &Self| {
            session.subscriptions.iter().position(|it| it.sub.is_some() && is_lost(&it.room))
        };
        self.join_again(ctx, &is_lost);
        match &mut self.protocol {
            Protocol::Text => {
                if let Some(index) = affected(self) {
                    self.rejoin(ctx, index);
                }
            }
            Protocol::Json(state) => {
                while let Some(index) = state.pending.iter().position(|pending| is_lost(&pending.room)) {
                    let id = state.pending.remove(index).id;
                    ctx.effects.error(id, ErrorCode::Internal);
                }
                while !ctx.effects.closes()
                    && let Some(index) = affected(self)
                {
                    self.unsubscribe(ctx.effects, index, Unsubscribe::Insufficient);
                }
            }
        }
    }

    /// Sends the requests again for rooms that it is joining.
    fn join_again(&self, ctx: &mut Context<'_>, is_lost: &impl Fn(&str) -> bool) {
        for subscription in &self.subscriptions {
            let joining = subscription.more.as_ref().and_then(|more| more.joining.as_ref());
            let Some(joining) = joining.filter(|_| is_lost(&subscription.room)) else { continue };
            let member = Member::new(Arc::clone(&self.person), joining.info.clone());
            // What it was to recover from is lost with the home.
            let recovery_request = RecoveryRequest::Unrecoverable;
            ctx.effects.push(Effect::JoinAgain(JoinRequest {
                number: subscription.number,
                room: Arc::clone(&subscription.room),
                member,
                recovery_request,
                overrides: joining.overrides,
                lease: self.poll().map(|_| ctx.options.poll_timeout + super::http::POLL_PAUSE_MAX),
            }));
        }
    }

    /// Unsubscribes a client from a room without a request, and notifies it of the reason.
    pub(super) fn unsubscribe(&mut self, effects: &mut Effects, index: usize, why: Unsubscribe) {
        let room = Arc::clone(&self.subscriptions[index].room);
        let by_server = self.subscriptions[index].by_server;
        self.leave(effects, index);
        if by_server && why == Unsubscribe::Insufficient {
            // A client cannot resubscribe to what the server has joined for it: it connects anew, with its
            // positions.
            return effects.disconnect(Disconnect::InsufficientState);
        }
        let is_bare = self.is_push();
        effects.send(|out| json::unsubscribe_into(out, &room, why, is_bare));
    }
}
