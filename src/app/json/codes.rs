//! The protocol's numbers: errors of a command, reasons for a connection to end, reasons for a subscription
//! to end. What a client does about each is decided by the ranges that the numbers lie in, so a new one must
//! be put into the right range.

use crate::ws::CloseCode;

/// What is wrong with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// Not our client's fault; it may try again.
    Internal,
    /// Not for this client.
    PermissionDenied,
    /// There is no such thing to call.
    MethodNotFound,
    /// It is in that room already.
    AlreadySubscribed,
    /// One of the server's bounds.
    LimitExceeded,
    /// A command that means nothing.
    BadRequest,
    /// Switched off, here or at all.
    NotAvailable,
    /// A fresh token will do.
    TokenExpired,
    /// The token that a refresh brought has expired already. The same number, but temporary: SDKs know the
    /// number only in the replies to connect and subscribe, and give up on a refresh whose error is not
    /// temporary.
    RefreshTokenExpired,
    /// Later, perhaps.
    TooManyRequests,
    /// The history does not reach back so far.
    UnrecoverablePosition,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Internal,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::RefreshTokenExpired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
    ];

    /// The code, the message, and whether it makes sense to try again.
    pub const fn parts(self) -> (u16, &'static str, bool) {
        match self {
            Self::Internal => (100, "internal server error", true),
            Self::PermissionDenied => (103, "permission denied", false),
            Self::MethodNotFound => (104, "method not found", false),
            Self::AlreadySubscribed => (105, "already subscribed", false),
            Self::LimitExceeded => (106, "limit exceeded", false),
            Self::BadRequest => (107, "bad request", false),
            Self::NotAvailable => (108, "not available", false),
            Self::TokenExpired => (109, "token expired", false),
            Self::RefreshTokenExpired => (109, "token expired", true),
            Self::TooManyRequests => (111, "too many requests", true),
            Self::UnrecoverablePosition => (112, "unrecoverable position", false),
        }
    }
}

/// Why a connection is closed: after 3000 to 3499 and 4000 to 4499 the client reconnects; after 3500 to 3999
/// and 4500 on, not. From 4000 on the numbers are ours. What a client does about each, and why that is right,
/// stands in `docs/codes.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    /// The server is going away.
    Shutdown,
    /// The server could not do what it had to in time.
    Internal,
    /// Its identity has expired, and it brought no fresh token in time.
    Expired,
    /// Its server-side subscription has expired.
    SubscriptionExpired,
    /// It reads too slowly.
    Slow,
    /// Publications are missing in a room that the server had joined for it: it connects anew, and recovers.
    InsufficientState,
    /// It does not answer pings.
    NoPong,
    /// It kept sending after errors 111.
    TooManyRequests,
    /// Its token is none of ours.
    InvalidToken,
    /// It violates the protocol.
    BadRequest,
    /// It did not authenticate in time.
    Stale,
    /// Its user has too many connections. It reconnects: one of these may be its own former one, whose end
    /// was not noticed yet.
    ConnectionLimit,
    /// It is anonymous, and anonymous clients may not connect.
    PermissionDenied,
    /// It requests something that this server does not support.
    NotAvailable,
}

impl Disconnect {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Shutdown,
        Self::Internal,
        Self::Expired,
        Self::SubscriptionExpired,
        Self::Slow,
        Self::InsufficientState,
        Self::NoPong,
        Self::TooManyRequests,
        Self::ConnectionLimit,
        Self::InvalidToken,
        Self::BadRequest,
        Self::Stale,
        Self::PermissionDenied,
        Self::NotAvailable,
    ];

    /// The status code and the reason in the Close frame. A reason is never JSON by itself: the client would
    /// try to read it so.
    pub fn parts(self) -> (CloseCode, &'static str) {
        let (code, reason) = match self {
            Self::Shutdown => (3001, "shutdown"),
            Self::Internal => (3004, "internal server error"),
            Self::Expired => (3005, "connection expired"),
            Self::SubscriptionExpired => (3006, "subscription expired"),
            Self::Slow => (3008, "slow"),
            Self::InsufficientState => (3010, "insufficient state"),
            Self::NoPong => (3012, "no pong"),
            Self::TooManyRequests => (3013, "too many requests"),
            Self::InvalidToken => (3500, "invalid token"),
            Self::BadRequest => (3501, "bad request"),
            Self::Stale => (3502, "stale"),
            Self::ConnectionLimit => (4004, "connection limit"),
            Self::PermissionDenied => (3507, "permission denied"),
            Self::NotAvailable => (3508, "not available"),
        };
        (CloseCode::from(code), reason)
    }
}

/// Why a subscription ends without the client's asking: from 2500 on, it subscribes again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsubscribe {
    /// It lagged and was made to skip: it can recover from its position.
    Insufficient,
    /// It has expired.
    Expired,
}

impl Unsubscribe {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Insufficient, Self::Expired];

    /// The code and the message.
    pub const fn parts(self) -> (u16, &'static str) {
        match self {
            Self::Insufficient => (2500, "insufficient state"),
            Self::Expired => (2501, "subscription expired"),
        }
    }
}

/// Why a command is not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its reply is an error.
    Error(ErrorCode),
    /// The connection ends.
    Disconnect(Disconnect),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<Disconnect> for Refusal {
    fn from(disconnect: Disconnect) -> Self {
        Self::Disconnect(disconnect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_may_be_sent_and_every_reason_fits() {
        for disconnect in Disconnect::ALL {
            let (code, reason) = disconnect.parts();
            assert!(code.is_allowed() && reason.len() <= 123, "{disconnect:?}");
            assert!(serde_json::from_str::<serde_json::Value>(reason).is_err(), "{reason} is JSON");
        }
    }

    /// Its rows are tested with the SDK itself (`tests/clients/codes.mjs`).
    #[test]
    fn the_table_has_a_row_for_every_code() {
        let table = include_str!("../../../docs/codes.md");
        let has = |begin: String| {
            assert!(table.lines().any(|line| line.starts_with(&begin)), "no row begins with {begin}");
        };
        for (code, message, temporary) in ErrorCode::ALL.map(ErrorCode::parts) {
            let temporary = if temporary { "yes" } else { "no" };
            has(format!("| {code} | {message} | {temporary} | "));
        }
        for (code, reason) in Disconnect::ALL.map(Disconnect::parts) {
            has(format!("| {} | {reason} | ", u16::from(code)));
        }
        for (code, reason) in Unsubscribe::ALL.map(Unsubscribe::parts) {
            has(format!("| {code} | {reason} | "));
        }
    }
}
