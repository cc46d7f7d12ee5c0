//! The identity of a connection, and access to rooms: by its own claim, its token, or the auth backend.

use std::borrow::Cow;
use std::sync::Arc;

use super::Session;
use crate::chat::{Access, AuthMode, Grant, Identity, RecoveryRequest, RoomOptions, TokenError};
use crate::options::Options;

/// A plain client's handshake: its identity and its room.
#[derive(Clone, Debug)]
pub struct TextHandshake<'a> {
    /// The requested name.
    pub name: Cow<'a, str>,
    /// The requested room.
    pub room: Cow<'a, str>,
    /// What it requests of the history.
    pub recovery_request: RecoveryRequest,
    /// Its token, if it brought one.
    pub token: Option<Cow<'a, str>>,
}

/// The result of a plain client's authentication before its WebSocket opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthOutcome {
    /// It has this identity; a grant if a token names the room.
    Known(Identity, Option<Grant>),
    /// The auth backend decides.
    Pending,
    /// No token, or one that is not valid.
    NoToken,
    /// The requested name is not the token's, or the token is anonymous and such clients may not connect.
    OtherUser,
    /// The room is not open to it.
    NoAccess,
}

impl TextHandshake<'_> {
    /// What is known of it.
    pub fn authenticate(&self, options: &Options) -> AuthOutcome {
        let name: Arc<str> = Arc::from(&*self.name);
        let named = |user: &Arc<str>| Identity {
            user: Arc::clone(user),
            name: Arc::clone(&name),
            info: None,
            expires_in: None,
            rooms: Vec::new(),
        };
        let identity = match (&options.auth_mode, &self.token) {
            (AuthMode::Open, _) => named(&name),
            (AuthMode::Hook, _) => return AuthOutcome::Pending,
            (AuthMode::Token(_), None) if options.anonymous => named(&Arc::from("")),
            (AuthMode::Token(_), None) => return AuthOutcome::NoToken,
            (AuthMode::Token(authority), Some(token)) => {
                let Ok(identity) = authority.identify(token) else { return AuthOutcome::NoToken };
                // The path is only a request: it must not contradict the token's name.
                if *identity.name != *self.name || identity.user.is_empty() && !options.anonymous {
                    return AuthOutcome::OtherUser;
                }
                identity
            }
        };
        match plain_grant(options, &identity, &self.room) {
            Some(grant) => AuthOutcome::Known(identity, grant),
            None => AuthOutcome::NoAccess,
        }
    }
}

/// What lets a plain client into its room: its token names the room, which is a grant, or the room is open to
/// it. `None`: the room is not for it.
pub(super) fn plain_grant(options: &Options, identity: &Identity, room: &str) -> Option<Option<Grant>> {
    if let Some(server_room) = identity.rooms.iter().find(|server_room| *server_room.name == *room) {
        return Some(Some(server_room.grant.clone()));
    }
    may_join(options.rooms.of(room), &identity.user).then_some(None)
}

/// Whether a room is open to a user without a token for it.
pub(super) const fn may_join(options: &RoomOptions, user: &str) -> bool {
    match options.subscribe {
        Access::Anyone | Access::Members => true,
        Access::Users => !user.is_empty(),
        Access::Token | Access::Nobody => false,
    }
}

/// Whether a client may publish in a room.
pub(super) const fn may_publish(options: &RoomOptions, user: &str, is_member: bool, granted: bool) -> bool {
    match options.publish {
        Access::Anyone => true,
        Access::Members => is_member,
        Access::Users => !user.is_empty(),
        Access::Token => is_member && granted,
        Access::Nobody => false,
    }
}

/// What a token grants `user` in `room`; without a token, or where none is read, whether the room is open to
/// it.
pub(super) fn grant(
    options: &Options,
    room_options: &RoomOptions,
    user: &str,
    room: &str,
    token: &str,
) -> Result<Option<Grant>, TokenError> {
    match &options.auth_mode {
        AuthMode::Token(authority) if !token.is_empty() => authority.admit(token, user, room).map(Some),
        AuthMode::Token(_) | AuthMode::Open | AuthMode::Hook => {
            if may_join(room_options, user) {
                Ok(None)
            } else {
                Err(TokenError::Invalid)
            }
        }
    }
}

impl Session {
    /// The identity on an open server: the client's own claim. Without a name it is a guest.
    pub(super) fn open_identity(&self, name: Option<&str>) -> Identity {
        let guest = || format!("guest-{}", &self.person.client.to_string()[..4]);
        let called: Arc<str> = name.map_or_else(|| Arc::from(guest()), Arc::from);
        let user = if name.is_some() { Arc::clone(&called) } else { Arc::from("") };
        Identity { user, name: called, info: None, expires_in: None, rooms: Vec::new() }
    }
}
