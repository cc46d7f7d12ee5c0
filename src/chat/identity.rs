//! Authentication: who a client is, by its own claim, by a token, or by a decision of the auth backend.

use core::net::IpAddr;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::base::SessionKey;

/// The authenticated identity of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The user's id: one user may have many connections. Empty: anonymous.
    pub user: Arc<str>,
    /// What plain members see it called. Never empty.
    pub name: Arc<str>,
    /// JSON that others are shown beside the id (`conn_info`), compact.
    pub info: Option<Arc<str>>,
    /// How long this holds; `None`: for as long as the connection does.
    pub expires_in: Option<Duration>,
    /// Rooms that the server joins on the client's behalf, each once.
    pub rooms: Vec<ServerRoom>,
}

/// A room that the server joins on a client's behalf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerRoom {
    /// Its name.
    pub name: Arc<str>,
    /// What the client has there.
    pub grant: Grant,
}

/// What a client has in one room, by a token for it or because the server joins it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// JSON that others in the room are shown (`chan_info`), compact.
    pub info: Option<Arc<str>>,
    /// JSON that the client receives with the subscription (`data`), compact.
    pub data: Option<Arc<str>>,
    /// How long it holds; `None`: for as long as the connection does.
    pub expires_in: Option<Duration>,
    /// Where this subscription differs from the room's options.
    pub overrides: Overrides,
}

/// Where one subscription differs from its room's options; `None`: as the room has it. The `force_` ones only
/// ever repeat what the room does anyway: others are refused before they come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// Whether the client is listed as present.
    pub presence: Option<bool>,
    /// Whether the client's presence events are announced.
    pub join_leave: Option<bool>,
    /// Whether the client receives presence events without a request.
    pub force_push_join_leave: Option<bool>,
    /// Whether the subscription can be recovered, unasked.
    pub force_recovery: Option<bool>,
    /// Whether the subscription has a position, unasked.
    pub force_positioning: Option<bool>,
}

/// Why a token grants nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenError {
    /// It does not hold any more, or not yet: a fresh one will do.
    Expired,
    /// It cannot be read, its signature is wrong, or it is about something else.
    Invalid,
}

/// Reads tokens. Answers at once, from memory: a shard's loop waits for it.
pub trait Authority: Debug + Send + Sync {
    /// The identity of the token's user.
    ///
    /// # Errors
    /// The token is not valid.
    fn identify(&self, token: &str) -> Result<Identity, TokenError>;

    /// What this token grants `user` in `room`.
    ///
    /// # Errors
    /// The token is not valid, or it is for another user or room.
    fn admit(&self, token: &str, user: &str, room: &str) -> Result<Grant, TokenError>;
}

/// How clients are authenticated.
#[derive(Clone, Debug, Default)]
pub enum AuthMode {
    /// Clients choose their names.
    #[default]
    Open,
    /// Signed tokens.
    Token(Arc<dyn Authority>),
    /// The auth backend decides on an [`AuthRequest`].
    Hook,
}

/// Two authorities are the same if they are the same object.
impl PartialEq for AuthMode {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open, Self::Open) | (Self::Hook, Self::Hook) => true,
            (Self::Token(one), Self::Token(two)) => Arc::ptr_eq(one, two),
            (Self::Open | Self::Token(_) | Self::Hook, _) => false,
        }
    }
}

impl Eq for AuthMode {}

/// What the auth backend needs to decide about a client. Texts are the client's own: data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthRequest {
    /// The session, which the decision names again: on one connection many may follow each other.
    pub session: SessionKey,
    /// The client's id, a UUID.
    pub client: Box<str>,
    /// The protocol: `text` or `json`.
    pub protocol: &'static str,
    /// The requested name, if any.
    pub name: Option<Box<str>>,
    /// The token that it brought, if any.
    pub token: Option<Box<str>>,
    /// The client's own data: JSON.
    pub data: Option<Box<str>>,
    /// Where it comes from, if that is known.
    pub address: Option<IpAddr>,
}

/// The auth backend's decision about a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthDecision {
    /// The client is accepted.
    Accept {
        /// As this one.
        identity: Identity,
        /// JSON that a client of the JSON protocol receives with that, compact.
        data: Option<Box<[u8]>>,
    },
    /// It gets this error. A temporary one: it may try again.
    Reject {
        /// 100 to 1999.
        code: u16,
        /// A short text.
        message: Box<str>,
        /// Whether to try again makes sense.
        temporary: bool,
    },
    /// Its connection is closed.
    Disconnect {
        /// 3000 to 4999.
        code: u16,
        /// A short text, at most 123 bytes.
        reason: Box<str>,
    },
}
