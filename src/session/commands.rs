//! What each command of the Centrifuge protocol does.

use serde_json::value::RawValue;
use std::sync::Arc;

use super::identity::{grant, may_join, may_publish};
use super::json::{Connecting, Outcome, Phase};
use super::{Client, Context, EXPIRY_GRACE, Effect, Join, Session};
use crate::app::json::command::{
    Connect, DeliveryQuery, HistoryQuery, Introduction, Publish, Rpc, SubRefresh, Subscribe,
};
use crate::app::json::{self, Disconnect, Empty, ErrorCode, Refusal, Reply};
use crate::base::Time;
use crate::chat::{
    self, AuthMode, Body, Draft, Grant, Identity, Member, Person, RateDecision, RecoveryRequest, ServerRoom,
    TokenError,
};
use crate::options::Options;
use crate::room::Query;

impl Session {
    /// Accepts a client, or sends an auth request.
    pub(super) fn connect(
        &mut self,
        ctx: &mut Context<'_>,
        id: u32,
        connect: &Connect<'_>,
    ) -> Result<Outcome, Refusal> {
        if connect.subs.len() > ctx.options.rooms_per_client_max {
            self.set_phase(Phase::Refused);
            return Err(ErrorCode::LimitExceeded.into());
        }
        let positions = connect
            .subs
            .iter()
            .map(|(room, recovery)| (Box::from(&**room), recovery.recovery_request(), recovery.offset));
        let connecting = Connecting { command: id, positions: positions.collect(), ..Connecting::default() };
        let identity = match &ctx.options.auth_mode {
            AuthMode::Open => {
                let name = Introduction::read(connect.data).name;
                let name = name.as_deref().map(|name| chat::display_name(name, ctx.options.name_bytes_max));
                let Ok(name) = name.transpose() else {
                    self.set_phase(Phase::Refused);
                    return Err(ErrorCode::BadRequest.into());
                };
                self.open_identity(name.as_deref())
            }
            AuthMode::Token(_) if connect.token.is_empty() && ctx.options.anonymous => {
                self.open_identity(None)
            }
            AuthMode::Token(_) if connect.token.is_empty() => return Err(Disconnect::BadRequest.into()),
            AuthMode::Token(authority) => {
                ctx.budget.signatures = ctx.budget.signatures.saturating_sub(1);
                match authority.identify(&connect.token) {
                    Ok(identity) if identity.user.is_empty() && !ctx.options.anonymous => {
                        return Err(Disconnect::PermissionDenied.into());
                    }
                    Ok(identity) => identity,
                    Err(TokenError::Expired) => {
                        self.set_phase(Phase::Refused);
                        return Err(ErrorCode::TokenExpired.into());
                    }
                    Err(TokenError::Invalid) => return Err(Disconnect::InvalidToken.into()),
                }
            }
            AuthMode::Hook => {
                self.set_phase(Phase::Authenticating(Box::new(connecting)));
                let name = Introduction::read(connect.data).name.map(Box::from);
                let token = (!connect.token.is_empty()).then(|| Box::from(&*connect.token));
                let data = connect.data.map(|data| Box::from(RawValue::get(data)));
                ctx.effects.push(Effect::Authenticate(Client { protocol: "json", name, token, data }));
                return Ok(Outcome::Nothing);
            }
        };
        self.identified(ctx, identity, connecting);
        Ok(Outcome::Nothing)
    }

    /// A client is authenticated: its server-side rooms are joined, and then `connect` is answered.
    pub(super) fn identified(
        &mut self,
        ctx: &mut Context<'_>,
        identity: Identity,
        mut connecting: Connecting,
    ) {
        if !self.count_user(ctx.options, ctx.users, &identity.user) {
            return ctx.effects.disconnect(Disconnect::ConnectionLimit);
        }
        let Identity { user, name, info, expires_in, rooms } = identity;
        if rooms.len() > ctx.options.rooms_per_client_max {
            self.set_phase(Phase::Refused);
            return self.error(ctx.effects, connecting.command, ErrorCode::LimitExceeded);
        }
        let requested = match self.requested_rooms(ctx.options, &user, &rooms, &connecting) {
            Ok(requested) => requested,
            Err(why) => return ctx.effects.disconnect(why),
        };
        self.person = Arc::new(Person::new(self.person.client, user, name, info));
        self.expire_at(expires_in.map_or(Time::NEVER, |time| ctx.now + time + EXPIRY_GRACE));
        let positions = std::mem::take(&mut connecting.positions);
        connecting.missing = rooms.len() + requested.len();
        self.set_phase(Phase::Entering(Box::new(connecting)));
        let granted_count = rooms.len();
        for (index, room) in rooms.into_iter().chain(requested).enumerate() {
            if self.index_of(&room.name).is_some() {
                debug_assert!(false, "an identity names each room once");
                self.room_entered();
                continue;
            }
            let position = positions.iter().find(|(name, ..)| **name == *room.name);
            let (recovery_request, requested_offset) = position
                .map_or((RecoveryRequest::None, None), |(_, recovery_request, offset)| {
                    (*recovery_request, Some(*offset))
                });
            let granted = index < granted_count;
            let how = Join { requested_offset, by_server: true, granted, ..Join::default() };
            self.join(ctx, &room.name, room.grant, recovery_request, how);
        }
        self.confirm_if_complete(ctx);
    }

    /// The rooms beside `rooms` into which a client that only listens asks to be put: those to whose
    /// positions it refers. All must be open to it.
    fn requested_rooms(
        &self,
        options: &Options,
        user: &str,
        rooms: &[ServerRoom],
        connecting: &Connecting,
    ) -> Result<Vec<ServerRoom>, Disconnect> {
        if !self.is_push() {
            return Ok(Vec::new()); // it subscribes by itself
        }
        let mut requested = Vec::new();
        for (name, ..) in &connecting.positions {
            if rooms.iter().any(|room| *room.name == **name) {
                continue;
            }
            if chat::check_room(name, options.room_bytes_max).is_err() {
                return Err(Disconnect::BadRequest);
            }
            if !may_join(options.rooms.of(name), user) {
                return Err(Disconnect::PermissionDenied);
            }
            requested.push(ServerRoom { name: Arc::from(&**name), grant: Grant::default() });
        }
        if rooms.len() + requested.len() > options.rooms_per_client_max {
            return Err(Disconnect::BadRequest);
        }
        Ok(requested)
    }

    pub(super) fn subscribe(
        &mut self,
        ctx: &mut Context<'_>,
        id: u32,
        subscribe: &Subscribe<'_>,
    ) -> Result<Outcome, Refusal> {
        let name = &*subscribe.channel;
        if chat::check_room(name, ctx.options.room_bytes_max).is_err() {
            return Err(ErrorCode::BadRequest.into());
        }
        if self.index_of(name).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.subscriptions.len() >= ctx.options.rooms_per_client_max {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let room_options = Arc::clone(ctx.options.rooms.of(name));
        if !subscribe.token.is_empty() {
            ctx.budget.signatures = ctx.budget.signatures.saturating_sub(1);
        }
        let grant =
            grant(ctx.options, &room_options, self.person.user(), name, &subscribe.token).map_err(|why| {
                match why {
                    TokenError::Expired => ErrorCode::TokenExpired,
                    TokenError::Invalid => ErrorCode::PermissionDenied,
                }
            })?;
        let how = Join {
            command: id,
            requested_offset: Some(subscribe.offset),
            or_nothing: subscribe.or_nothing(),
            granted: grant.is_some(),
            by_server: false,
        };
        self.join(ctx, &Arc::from(name), grant.unwrap_or_default(), subscribe.recovery_request(), how);
        Ok(Outcome::Nothing)
    }

    pub(super) fn unsubscribe_command(
        &mut self,
        ctx: &mut Context<'_>,
        channel: &str,
    ) -> Result<Outcome, Refusal> {
        if let Some(index) = self.index_of(channel) {
            self.leave(ctx.effects, index);
        }
        Ok(Outcome::Reply(Reply::Unsubscribe(Empty {})))
    }

    pub(super) fn publish(
        &mut self,
        ctx: &mut Context<'_>,
        id: u32,
        publish: &Publish<'_>,
    ) -> Result<Outcome, Refusal> {
        let name = &*publish.channel;
        let subscription = self.index_of(name).map(|index| &self.subscriptions[index]);
        let (room, options) = match subscription {
            Some(subscription) => (Arc::clone(&subscription.room), Arc::clone(&subscription.options)),
            None if chat::check_room(name, ctx.options.room_bytes_max).is_err() => {
                return Err(ErrorCode::BadRequest.into());
            }
            None => (Arc::from(name), Arc::clone(ctx.options.rooms.of(name))),
        };
        let granted = subscription.is_some_and(|subscription| subscription.granted);
        if !may_publish(&options, self.person.user(), subscription.is_some(), granted) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        // After the permission: so a client can ask for it without publishing, as the chat page does.
        let Some(data) = publish.data else { return Err(ErrorCode::BadRequest.into()) };
        match self.spend(ctx.now, ctx.options, &room, &options) {
            RateDecision::Allow => {}
            RateDecision::Throttle => return Err(ErrorCode::TooManyRequests.into()),
            RateDecision::Disconnect => return Err(Disconnect::TooManyRequests.into()),
        }
        let data = json::compact(data.get());
        if data.len() > options.message_bytes_max {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let author = Member::new(Arc::clone(&self.person), None);
        let command = self.wait(ctx, id, &room);
        ctx.effects.push(Effect::Publish {
            command,
            room,
            draft: Draft::new(author, Body::Data(data.into())),
        });
        Ok(Outcome::Nothing)
    }

    /// Sends a query to a room's home, for a client that is in the room.
    pub(super) fn query(
        &mut self,
        ctx: &mut Context<'_>,
        id: u32,
        channel: &str,
        query: Query,
    ) -> Result<Outcome, Refusal> {
        let Some(index) = self.index_of(channel) else { return Err(ErrorCode::PermissionDenied.into()) };
        ctx.budget.scans = ctx.budget.scans.saturating_sub(1);
        let room = Arc::clone(&self.subscriptions[index].room);
        let command = self.wait(ctx, id, &room);
        ctx.effects.push(Effect::Query { command, room, query });
        Ok(Outcome::Nothing)
    }

    pub(super) fn history(
        &mut self,
        ctx: &mut Context<'_>,
        id: u32,
        history: &HistoryQuery<'_>,
    ) -> Result<Outcome, Refusal> {
        let page = history.page()?;
        self.query(ctx, id, &history.channel, Query::History(page))
    }

    /// How far a publication has come is the one method that can be called. Every shard is queried.
    pub(super) fn call(&mut self, ctx: &mut Context<'_>, id: u32, rpc: &Rpc<'_>) -> Result<Outcome, Refusal> {
        let DeliveryQuery { channel, offset } = rpc.delivery()?;
        let Some(index) = self.index_of(&channel) else { return Err(ErrorCode::PermissionDenied.into()) };
        ctx.budget.scans = ctx.budget.scans.saturating_sub(1);
        let room = Arc::clone(&self.subscriptions[index].room);
        let command = self.wait(ctx, id, &room);
        ctx.effects.push(Effect::CountDelivery { command, room, offset });
        Ok(Outcome::Nothing)
    }

    pub(super) fn refresh(&mut self, ctx: &mut Context<'_>, token: &str) -> Result<Outcome, Refusal> {
        let AuthMode::Token(authority) = &ctx.options.auth_mode else {
            return Err(ErrorCode::NotAvailable.into());
        };
        ctx.budget.signatures = ctx.budget.signatures.saturating_sub(1);
        let identity = match authority.identify(token) {
            Ok(identity) => identity,
            Err(TokenError::Expired) => return Err(Disconnect::Expired.into()),
            Err(TokenError::Invalid) => return Err(Disconnect::InvalidToken.into()),
        };
        if *identity.user != *self.person.user() {
            return Err(Disconnect::InvalidToken.into());
        }
        self.expire_at(identity.expires_in.map_or(Time::NEVER, |time| ctx.now + time + EXPIRY_GRACE));
        Ok(Outcome::Reply(Reply::Refresh(identity.expires_in.into())))
    }

    pub(super) fn refresh_subscription(
        &mut self,
        ctx: &mut Context<'_>,
        refresh: &SubRefresh<'_>,
    ) -> Result<Outcome, Refusal> {
        let Some(index) = self.index_of(&refresh.channel) else {
            return Err(ErrorCode::PermissionDenied.into());
        };
        let AuthMode::Token(authority) = &ctx.options.auth_mode else {
            return Err(ErrorCode::NotAvailable.into());
        };
        ctx.budget.signatures = ctx.budget.signatures.saturating_sub(1);
        match authority.admit(&refresh.token, self.person.user(), &refresh.channel) {
            Ok(grant) => {
                self.expire_subscription(ctx.now, index, grant.expires_in);
                Ok(Outcome::Reply(Reply::SubRefresh(grant.expires_in.into())))
            }
            Err(TokenError::Expired) => Err(ErrorCode::RefreshTokenExpired.into()),
            Err(TokenError::Invalid) => Err(Disconnect::InvalidToken.into()),
        }
    }
}
