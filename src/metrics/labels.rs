//! The labels of counters: why connections end, which errors are sent, why requests are refused.

/// Why a connection ended: the `reason` of `stentor_connections_closed_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer began the closing handshake and had its answer.
    ClosedByPeer,
    /// The stream ended, or broke, without a closing handshake.
    Disconnected,
    /// The peer broke RFC 6455 or 7692.
    ProtocolError,
    /// A message over the bound.
    MessageTooBig,
    /// Data of a kind that the endpoint does not take.
    UnsupportedData,
    /// No answer to a ping.
    PingTimeout,
    /// A member that read too slowly for its room.
    SlowConsumer,
    /// The server is going away.
    Shutdown,
    /// The request head took too long, or a kept-alive connection had no further request.
    RequestTimeout,
    /// The request was refused.
    RequestRejected,
    /// An HTTP exchange that ended as it should.
    RequestComplete,
    /// The client is not authorized, or no longer.
    Unauthorized,
    /// Its token has expired, or was not sent in time.
    Expired,
    /// Its user has too many connections.
    ConnectionLimit,
    /// The auth backend did not decide about it in time.
    AuthTimeout,
    /// The room that it was joining did not answer in time.
    RoomTimeout,
    /// What it sent is no command, or is not allowed at that point.
    InvalidCommand,
    /// It exceeded a rate limit repeatedly.
    RateLimited,
    /// Its shard panicked.
    ShardPanic,
}

impl CloseReason {
    /// Every reason, in the order of its discriminant.
    pub const ALL: [Self; 19] = [
        Self::ClosedByPeer,
        Self::Disconnected,
        Self::ProtocolError,
        Self::MessageTooBig,
        Self::UnsupportedData,
        Self::PingTimeout,
        Self::SlowConsumer,
        Self::Shutdown,
        Self::RequestTimeout,
        Self::RequestRejected,
        Self::RequestComplete,
        Self::Unauthorized,
        Self::Expired,
        Self::ConnectionLimit,
        Self::AuthTimeout,
        Self::RoomTimeout,
        Self::InvalidCommand,
        Self::RateLimited,
        Self::ShardPanic,
    ];

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClosedByPeer => "closed_by_peer",
            Self::Disconnected => "disconnected",
            Self::ProtocolError => "protocol_error",
            Self::MessageTooBig => "message_too_big",
            Self::UnsupportedData => "unsupported_data",
            Self::PingTimeout => "ping_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::Shutdown => "shutdown",
            Self::RequestTimeout => "request_timeout",
            Self::RequestRejected => "request_rejected",
            Self::RequestComplete => "request_complete",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "expired",
            Self::ConnectionLimit => "connection_limit",
            Self::AuthTimeout => "auth_timeout",
            Self::RoomTimeout => "room_timeout",
            Self::InvalidCommand => "invalid_command",
            Self::RateLimited => "rate_limited",
            Self::ShardPanic => "shard_panic",
        }
    }
}

/// The protocol's error codes: the `code` of `stentor_errors_total`. An auth backend may send others, which
/// are counted together.
pub const ERROR_CODES: [u16; 10] = [100, 103, 104, 105, 106, 107, 108, 109, 111, 112];

/// Why a request is refused, as `(status, cause)`: the labels of `stentor_http_refusals_total`.
pub const REFUSALS: [(u16, &str); 48] = [
    (400, "malformed"),
    (431, "head_too_long"),
    (414, "target_too_long"),
    (408, "head_timeout"),
    (400, "version"),
    (400, "host"),
    (400, "body"),
    (400, "framing"),
    (501, "transfer_coding"),
    (417, "expectation"),
    (413, "body_too_long"),
    (408, "body_timeout"),
    (415, "media_type"),
    (400, "body_encoding"),
    (400, "json"),
    (400, "idempotency_key"),
    (400, "session"),
    (400, "commands"),
    (404, "unknown_session"),
    (503, "session_full"),
    (400, "no_upgrade"),
    (500, "payload"),
    (500, "messages"),
    (500, "no_callback"),
    (500, "callback"),
    (405, "method"),
    (404, "not_found"),
    (426, "upgrade_required"),
    (400, "connection"),
    (400, "key"),
    (426, "websocket_version"),
    (400, "extensions"),
    (412, "precondition"),
    (403, "origin"),
    (400, "name"),
    (400, "encoding"),
    (400, "query"),
    (400, "subprotocol"),
    (401, "token"),
    (403, "other_user"),
    (403, "room"),
    (403, "publish"),
    (403, "denied"),
    (429, "rate_limit"),
    (503, "try_again"),
    (429, "too_many_connections"),
    (503, "connection_limit"),
    (503, "shutting_down"),
];
