//! Every refusal, with its status and one plain sentence.

use ::http::StatusCode;
use smallvec::SmallVec;

use super::response::{AnswerOptions, Response};

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    /// The head is not HTTP.
    Malformed,
    /// The head is longer than the bound, or has too many fields.
    HeadTooLong,
    /// The target alone is longer than the bound.
    TargetTooLong,
    /// The head did not arrive in time.
    HeadTimeout,
    /// HTTP/1.0 where 1.1 is needed (RFC 6455 §4.2.1).
    Version,
    /// No Host, two, or one that is none (RFC 9112 §3.2).
    Host,
    /// Content where none is taken.
    Body,
    /// Where the content ends can be read in two ways, or in none.
    Framing,
    /// A transfer coding beside `chunked`.
    Coding,
    /// An expectation beside `100-continue`.
    Expectation,
    /// The content is longer than the bound.
    BodyTooLong,
    /// The content did not arrive in time.
    BodyTimeout,
    /// Content of a kind that is not taken, or in another character set or coding.
    MediaType,
    /// The content is not UTF-8.
    BodyEncoding,
    /// The content is not JSON.
    Json,
    /// `Idempotency-Key` cannot be read.
    IdempotencyKey,
    /// `session` in the query is none of this server's.
    Session,
    /// There are no commands where they should be.
    Commands,
    /// The session for which commands are meant is not on this server, or has ended.
    UnknownSession,
    /// As many commands wait for the session as may.
    Full,
    /// A WebSocket of SockJS, without `Upgrade`.
    NoUpgrade,
    /// A request of SockJS has no content.
    Payload,
    /// Its content is no array of texts.
    Messages,
    /// It does not name the page's function.
    NoCallback,
    /// What it names is none.
    Callback,
    /// Another method than these, which `Allow` lists.
    Method(&'static str),
    /// Nothing is there.
    NotFound,
    /// A WebSocket endpoint, requested without an upgrade.
    UpgradeRequired,
    /// `Connection` without the token `Upgrade`.
    Connection,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    Key,
    /// `Sec-WebSocket-Version` is not 13.
    WebSocketVersion,
    /// `Sec-WebSocket-Extensions` is against its grammar (RFC 6455 §9.1).
    Extensions,
    /// `If-Match` names another representation.
    Precondition,
    /// The origin is not on the list.
    Origin,
    /// A name, or a room's name, that is invalid, and the sentence with the reason.
    Name(&'static str),
    /// Percent-encoding that is none, or not of UTF-8.
    Encoding,
    /// `history` or `since` in the query cannot be read.
    Query,
    /// Only unsupported subprotocols are offered.
    Subprotocol,
    /// No token, or an invalid one.
    Token,
    /// The name in the path is not the token's, or the token is anonymous where that is not allowed.
    OtherUser,
    /// This room is not open to this client.
    Room,
    /// The client may not publish in this room.
    Publish,
    /// The auth backend has refused the client.
    Denied,
    /// Too many messages.
    RateLimit,
    /// Another server could not do it in time: the room's home, or the auth backend.
    TryAgain,
    /// Too many connections from one address, or of one user.
    TooMany,
    /// No room for one more connection.
    Overloaded,
    /// The server is shutting down.
    ShuttingDown,
}

/// How long a client that finds the server full should wait.
const RETRY_AFTER_S: &str = "5";

/// How long a client that publishes too fast should wait.
const RATE_RETRY_AFTER_S: &str = "1";

impl Reject {
    /// Every refusal; the name's with a sentence that stands for all of them.
    pub const ALL: [Self; 48] = [
        Self::Malformed,
        Self::HeadTooLong,
        Self::TargetTooLong,
        Self::HeadTimeout,
        Self::Version,
        Self::Host,
        Self::Body,
        Self::Framing,
        Self::Coding,
        Self::Expectation,
        Self::BodyTooLong,
        Self::BodyTimeout,
        Self::MediaType,
        Self::BodyEncoding,
        Self::Json,
        Self::IdempotencyKey,
        Self::Session,
        Self::Commands,
        Self::UnknownSession,
        Self::Full,
        Self::NoUpgrade,
        Self::Payload,
        Self::Messages,
        Self::NoCallback,
        Self::Callback,
        Self::Method("GET, HEAD"),
        Self::NotFound,
        Self::UpgradeRequired,
        Self::Connection,
        Self::Key,
        Self::WebSocketVersion,
        Self::Extensions,
        Self::Precondition,
        Self::Origin,
        Self::Name("the name is invalid"),
        Self::Encoding,
        Self::Query,
        Self::Subprotocol,
        Self::Token,
        Self::OtherUser,
        Self::Room,
        Self::Publish,
        Self::Denied,
        Self::RateLimit,
        Self::TryAgain,
        Self::TooMany,
        Self::Overloaded,
        Self::ShuttingDown,
    ];

    /// The status (RFC 9110 §15).
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::Version
            | Self::Host
            | Self::Body
            | Self::Framing
            | Self::BodyEncoding
            | Self::Json
            | Self::IdempotencyKey
            | Self::Session
            | Self::Commands
            | Self::NoUpgrade
            | Self::Connection
            | Self::Key
            | Self::Name(_)
            | Self::Extensions
            | Self::Encoding
            | Self::Query
            | Self::Subprotocol => StatusCode::BAD_REQUEST,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Origin | Self::OtherUser | Self::Room | Self::Publish | Self::Denied => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound | Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            // As the clients of SockJS expect it.
            Self::Payload | Self::Messages | Self::NoCallback | Self::Callback => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::UpgradeRequired | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::TooMany | Self::RateLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Overloaded | Self::ShuttingDown | Self::TryAgain | Self::Full => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The cause, as logs and metrics name it; `metrics::REFUSALS` lists every one with its status.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadTooLong => "head_too_long",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTimeout => "head_timeout",
            Self::Version => "version",
            Self::Host => "host",
            Self::Body => "body",
            Self::Framing => "framing",
            Self::Coding => "transfer_coding",
            Self::Expectation => "expectation",
            Self::BodyTooLong => "body_too_long",
            Self::BodyTimeout => "body_timeout",
            Self::MediaType => "media_type",
            Self::BodyEncoding => "body_encoding",
            Self::Json => "json",
            Self::IdempotencyKey => "idempotency_key",
            Self::Commands => "commands",
            Self::UnknownSession => "unknown_session",
            Self::Full => "session_full",
            Self::NoUpgrade => "no_upgrade",
            Self::Payload => "payload",
            Self::Messages => "messages",
            Self::NoCallback => "no_callback",
            Self::Callback => "callback",
            Self::Session => "session",
            Self::Method(_) => "method",
            Self::NotFound => "not_found",
            Self::UpgradeRequired => "upgrade_required",
            Self::Connection => "connection",
            Self::Key => "key",
            Self::WebSocketVersion => "websocket_version",
            Self::Extensions => "extensions",
            Self::Precondition => "precondition",
            Self::Origin => "origin",
            Self::Name(_) => "name",
            Self::Encoding => "encoding",
            Self::Query => "query",
            Self::Subprotocol => "subprotocol",
            Self::Token => "token",
            Self::OtherUser => "other_user",
            Self::Room => "room",
            Self::Publish => "publish",
            Self::Denied => "denied",
            Self::RateLimit => "rate_limit",
            Self::TryAgain => "try_again",
            Self::TooMany => "too_many_connections",
            Self::Overloaded => "connection_limit",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The reason, as a sentence for readers.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "This is not an HTTP/1.1 request.",
            Self::HeadTooLong => "The request head is too long.",
            Self::TargetTooLong => "The request target is too long.",
            Self::HeadTimeout => "The request head did not arrive in time.",
            Self::Version => "A WebSocket needs HTTP/1.1.",
            Self::Host => "The request needs exactly one Host header.",
            Self::Body => "A request of this kind has no content.",
            Self::Framing => "The content must have one Content-Length, or be chunked in HTTP/1.1 alone.",
            Self::Coding => "The only transfer coding is chunked.",
            Self::Expectation => "The only expectation is 100-continue.",
            Self::BodyTooLong => "The message is too long.",
            Self::BodyTimeout => "The content did not arrive in time.",
            Self::MediaType => {
                "The content must be text in UTF-8, or application/json, without a content coding."
            }
            Self::BodyEncoding => "The content is not UTF-8.",
            Self::Json => "The content is not JSON.",
            Self::IdempotencyKey => "An Idempotency-Key is 1 to 128 visible ASCII characters, once.",
            Self::Session => "The session is not one that this server has named.",
            Self::Commands => "Commands are lines of JSON: the content, cf_connect, or `data` of /emulation.",
            Self::UnknownSession => "There is no such session here: connect again.",
            Self::NoUpgrade => "Can \"Upgrade\" only to \"WebSocket\".",
            Self::Payload => "Payload expected.",
            Self::Messages => "Broken JSON encoding.",
            Self::NoCallback => "\"callback\" parameter required",
            Self::Callback => "invalid \"callback\" parameter",
            Self::Full => "Too many commands of this session wait: connect again.",
            Self::Method(_) => "This method is not served here: see Allow.",
            Self::NotFound => "There is nothing here.",
            Self::UpgradeRequired => "This is a WebSocket endpoint: connect with ws:// or wss://.",
            Self::Connection => "The Connection header must list Upgrade.",
            Self::Key => "The Sec-WebSocket-Key header must be 16 bytes in base64, once.",
            Self::WebSocketVersion => "The Sec-WebSocket-Version header must be 13.",
            Self::Extensions => "The Sec-WebSocket-Extensions header cannot be parsed.",
            Self::Precondition => "The file is not the one that If-Match names.",
            Self::Origin => {
                "Pages of this origin may not connect: it differs from Host, and `origins` does not list it."
            }
            Self::Name(sentence) => sentence,
            Self::Encoding => "The path or the query is not percent-encoded UTF-8.",
            Self::Query => "The position is history=COUNT, or since=EPOCH:OFFSET or Last-Event-ID.",
            Self::Subprotocol => "Only JSON is supported: offer centrifuge-json, or no subprotocol.",
            Self::Token => "A valid token is needed: ?token=… or Authorization: Bearer ….",
            Self::OtherUser => "The name in the path must be the token's display name.",
            Self::Room => "This room is not open to this client.",
            Self::Publish => "Publishing is not permitted in this room.",
            Self::Denied => "The client is not permitted.",
            Self::RateLimit => "Too many messages: wait, then go on more slowly.",
            Self::TryAgain => {
                "This could not be done in time: try again, with the same Idempotency-Key if there is one."
            }
            Self::TooMany => "Too many connections of this user or address: close one, or try again later.",
            Self::Overloaded => "The server is full: try again later.",
            Self::ShuttingDown => "The server is shutting down: connect again.",
        }
    }

    /// Whether the client is not served at all for now: its connection makes room for others.
    pub const fn ends_connection(self) -> bool {
        matches!(self, Self::TooMany | Self::Overloaded | Self::ShuttingDown)
    }

    /// Appends the whole answer. Unless it [`keeps`](AnswerOptions::keep_alive) the connection, that must be
    /// closed afterwards, so that nothing that follows can be taken for a second request.
    pub fn response_into(self, out: &mut Vec<u8>, options: &AnswerOptions<'_>) {
        self.explained_into(out, self.sentence(), options);
    }

    /// The same, with another sentence: the auth backend's reason.
    pub fn explained_into(self, out: &mut Vec<u8>, sentence: &str, options: &AnswerOptions<'_>) {
        let mut body = sentence.as_bytes().to_vec();
        body.push(b'\n');
        let mut fields: SmallVec<[(&str, &str); 8]> = SmallVec::new();
        let own: &[(&str, &str)] = match self.status() {
            StatusCode::UPGRADE_REQUIRED => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            StatusCode::TOO_MANY_REQUESTS if self == Self::RateLimit => {
                &[("Retry-After", RATE_RETRY_AFTER_S)]
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                &[("Retry-After", RETRY_AFTER_S)]
            }
            StatusCode::UNAUTHORIZED => &[("WWW-Authenticate", "Bearer")],
            _ => &[],
        };
        fields.extend_from_slice(own);
        if let Self::Method(allow) = self {
            fields.push(("Allow", allow));
        }
        fields.extend_from_slice(options.fields);
        let options = AnswerOptions { fields: &fields, ..*options };
        Response::new(self.status(), "text/plain; charset=utf-8", &body).with(&options).write_into(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Date;
    use super::*;

    const NOW: Date = Date::from_unix_s(784_111_777);

    fn answer(reject: Reject, head_only: bool) -> String {
        let mut out = Vec::new();
        reject.response_into(
            &mut out,
            &AnswerOptions { head_only, date: Some(NOW), ..AnswerOptions::default() },
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_refusal_is_a_whole_answer() {
        for reject in Reject::ALL {
            let text = answer(reject, false);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let status = reject.status();
            let reason = status.canonical_reason().expect("every status that is sent has a reason phrase");
            assert!(head.starts_with(&format!("HTTP/1.1 {} {reason}\r\n", status.as_u16())), "{text}");
            assert_eq!(body, format!("{}\n", reject.sentence()));
            for field in [
                &format!("Content-Length: {}", body.len()),
                "Connection: close",
                "Date: Sun, 06 Nov 1994 08:49:37 GMT",
            ] {
                assert_eq!(head.split("\r\n").filter(|line| *line == field).count(), 1, "{field} in {text}");
            }
            // To a HEAD the same, without the content (RFC 9110 §9.3.2).
            assert_eq!(answer(reject, true), format!("{head}\r\n\r\n"));
        }
    }

    /// What RFC 9110 §15.5 and RFC 6455 §4.4 require of an answer with these statuses.
    #[test]
    fn statuses_have_their_fields() {
        for reject in Reject::ALL {
            let text = answer(reject, false);
            let has = |field: &str| text.contains(&format!("\r\n{field}\r\n"));
            let status = reject.status();
            assert_eq!(has("WWW-Authenticate: Bearer"), status == StatusCode::UNAUTHORIZED, "{text}");
            assert_eq!(has("Allow: GET, HEAD"), status == StatusCode::METHOD_NOT_ALLOWED, "{text}");
            for field in ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"] {
                assert_eq!(has(field), status == StatusCode::UPGRADE_REQUIRED, "{text}");
            }
        }
    }
}
