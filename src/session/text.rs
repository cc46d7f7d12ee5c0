//! The plain text protocol: one room, named by the request; a message is a text.

use bytes::Bytes;
use std::sync::Arc;

use super::identity::{may_publish, plain_grant};
use super::{Client, Context, Effect, Effects, Join, Joining, Protocol, Session, Taken};
use crate::app::json::ErrorCode;
use crate::app::{Framing, WireFormat, plain};
use crate::base::Time;
use crate::base::connection_counter::ConnectionCounter;
use crate::chat::{
    AuthDecision, Body, ClientId, Draft, Grant, Identity, Member, Person, RateDecision, Recovered,
    RecoveryRequest,
};
use crate::engine::PublishOutcome;
use crate::metrics::CloseReason;
use crate::options::Options;

/// What a plain client requests once it is authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingJoin {
    /// The room.
    pub room: Arc<str>,
    /// What of its history.
    pub recovery_request: RecoveryRequest,
}

impl Session {
    /// A plain client of which nothing is known yet.
    pub fn text(client: ClientId, format: WireFormat) -> Self {
        let nameless: Arc<str> = Arc::from("");
        let person = Person::anonymous(client, nameless);
        Self::new(person, format, Protocol::Text)
    }

    /// It is authenticated: it joins its room. `counted`: among the connections of its user.
    pub fn authenticated(
        &mut self,
        ctx: &mut Context<'_>,
        identity: Identity,
        grant: Option<Grant>,
        pending_join: &PendingJoin,
    ) {
        let Identity { user, name, info, expires_in, .. } = identity;
        let client = self.poll_client(ctx.seed, &user, &name, &pending_join.room);
        self.person = Arc::new(Person::new(client, user, name, info));
        let granted = grant.is_some();
        let ends = [expires_in, grant.as_ref().and_then(|grant| grant.expires_in)];
        self.expire_at(ends.into_iter().flatten().min().map_or(Time::NEVER, |time| ctx.now + time));
        if self.is_publisher() {
            return self.admitted(ctx, granted);
        }
        let requested_offset = match pending_join.recovery_request {
            RecoveryRequest::None => None,
            RecoveryRequest::Last(_) | RecoveryRequest::Since(_) | RecoveryRequest::Unrecoverable => Some(0),
        };
        let how = Join { requested_offset, granted, ..Join::default() };
        self.join(ctx, &pending_join.room, grant.unwrap_or_default(), pending_join.recovery_request, how);
    }

    /// Sends an auth request. What its client sends meanwhile waits.
    pub fn request_auth(
        &mut self,
        ctx: &mut Context<'_>,
        name: &str,
        token: Option<&str>,
        pending_join: PendingJoin,
    ) {
        self.rare().pending_join = Some(pending_join);
        // It is authenticated until then, or never.
        self.expire_at(ctx.now + ctx.options.command_timeout);
        let (name, token) = (Some(Box::from(name)), token.map(Box::from));
        ctx.effects.push(Effect::Authenticate(Client { protocol: "text", name, token, data: None }));
    }

    /// Counts it among the connections of `user`. False: there are too many.
    pub fn count_user(
        &mut self,
        options: &Options,
        users: &Arc<ConnectionCounter<Arc<str>>>,
        user: &Arc<str>,
    ) -> bool {
        let max = options.connections_per_user_max;
        if max == 0 || user.is_empty() {
            return true;
        }
        let permit = users.acquire(user, max);
        let is_counted = permit.is_some();
        self.rare().user = permit;
        is_counted
    }

    pub(super) fn text_decided(&mut self, ctx: &mut Context<'_>, decision: AuthDecision) {
        let Some(pending_join) = self.rare.as_mut().and_then(|rare| rare.pending_join.take()) else { return };
        let denied = CloseReason::Unauthorized;
        match decision {
            AuthDecision::Accept { identity, .. }
                if !self.count_user(ctx.options, ctx.users, &identity.user) =>
            {
                ctx.effects.close(1008, "too many connections", CloseReason::ConnectionLimit);
            }
            AuthDecision::Accept { identity, .. } => {
                match plain_grant(ctx.options, &identity, &pending_join.room) {
                    Some(grant) => self.authenticated(ctx, identity, grant, &pending_join),
                    None => ctx.effects.close(1008, "permission denied", denied),
                }
            }
            AuthDecision::Reject { message, temporary, .. } => {
                let code = if temporary { 1013 } else { 1008 };
                ctx.effects.close(code, message.into_string(), denied);
            }
            AuthDecision::Disconnect { code, reason } => {
                ctx.effects.close(code, reason.into_string(), denied)
            }
        }
    }

    pub(super) fn text_message(&mut self, ctx: &mut Context<'_>, message: &str) -> Taken {
        let Some(subscription) = self.subscriptions.first() else { return Taken::All };
        let (room, options) = (Arc::clone(&subscription.room), Arc::clone(&subscription.options));
        if message.len() > options.message_bytes_max {
            ctx.effects.close(1009, "the message is too big for this room", CloseReason::MessageTooBig);
            return Taken::All;
        }
        if !may_publish(&options, self.person.user(), true, subscription.granted) {
            self.plain_notice(ctx.effects, "publishing is not permitted in this room");
            return Taken::All;
        }
        match self.spend(ctx.now, ctx.options, &room, &options) {
            RateDecision::Allow => {}
            RateDecision::Throttle => {
                self.plain_notice(ctx.effects, "message not sent: rate limit exceeded");
                ctx.effects.count_error(ErrorCode::TooManyRequests.parts().0);
                return Taken::All;
            }
            RateDecision::Disconnect => {
                ctx.effects.close(1008, "too many messages", CloseReason::RateLimited);
                return Taken::All;
            }
        }
        let author = Member::new(Arc::clone(&self.person), None);
        let draft = Draft::new(author, Body::Text(Bytes::copy_from_slice(message.as_bytes())));
        ctx.effects.push(Effect::Publish { command: 0, room, draft });
        Taken::All
    }

    /// It has joined. If it requested the history it gets that, and the room's position: from there on, each
    /// message is one offset.
    pub(super) fn text_joined(&mut self, ctx: &mut Context<'_>, recovery: &Recovered, joining: &Joining) {
        // SockJS's frames are made where they go out.
        let framing = if self.is_quoted() { Framing::Frames(None) } else { self.format.framing() };
        match framing {
            Framing::Entries => return self.poll_joined(ctx, recovery),
            Framing::Stream(kind, _) => Self::begin_stream(ctx, kind),
            Framing::Frames(_) => {}
        }
        if joining.requested_offset.is_some() || matches!(framing, Framing::Stream(..)) {
            if recovery.recovered == Some(false) {
                self.plain_notice(ctx.effects, "messages may be missing here");
            }
            for publication in &recovery.publications {
                ctx.effects.send(|out| plain::publication_into(out, framing, publication));
            }
            ctx.effects.send(|out| plain::position_into(out, framing, recovery.top));
        }
        ctx.effects.push(Effect::Confirmed);
    }

    /// Sends a server notice.
    pub(super) fn plain_notice(&self, effects: &mut Effects, notice: &str) {
        let framing = if self.is_quoted() { Framing::Frames(None) } else { self.format.framing() };
        if framing != Framing::Entries {
            effects.send(|out| plain::notice_into(out, framing, notice));
        }
    }

    /// The home of its room is lost: it joins anew, and is notified that messages may be missing.
    pub(super) fn rejoin(&mut self, ctx: &mut Context<'_>, index: usize) {
        let subscription = &self.subscriptions[index];
        let (room, granted) = (Arc::clone(&subscription.room), subscription.granted);
        self.leave(ctx.effects, index);
        let how = Join { requested_offset: Some(0), granted, ..Join::default() };
        self.join(ctx, &room, Grant::default(), RecoveryRequest::Unrecoverable, how);
    }

    /// One of its messages is completed.
    pub(super) fn text_publish_completed(&self, ctx: &mut Context<'_>, outcome: PublishOutcome) {
        match outcome {
            PublishOutcome::Ordered | PublishOutcome::Duplicate | PublishOutcome::Superseded => {}
            PublishOutcome::Temporary => self.plain_notice(ctx.effects, "message not sent: try again"),
        }
    }
}
