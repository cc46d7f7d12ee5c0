//! Answers: the few good ones, and every refusal with its status and one plain sentence.

use super::Date;
use ::http::StatusCode;

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
    /// A request with a body, or that pretends to have one.
    Body,
    /// Not GET, nor HEAD where that is taken.
    Method,
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
    /// Too many connections from one address, or of one user.
    TooMany,
    /// No room for one more connection.
    Overloaded,
    /// The server is shutting down.
    ShuttingDown,
}

/// How long a client that finds the server full should wait.
const RETRY_AFTER_S: &str = "5";

impl Reject {
    /// Every refusal; the name's with a sentence that stands for all of them.
    pub const ALL: [Self; 26] = [
        Self::Malformed,
        Self::HeadTooLong,
        Self::TargetTooLong,
        Self::HeadTimeout,
        Self::Version,
        Self::Host,
        Self::Body,
        Self::Method,
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
            | Self::Connection
            | Self::Key
            | Self::Name(_)
            | Self::Extensions
            | Self::Encoding
            | Self::Query
            | Self::Subprotocol => StatusCode::BAD_REQUEST,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Origin | Self::OtherUser | Self::Room => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::UpgradeRequired | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Overloaded | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
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
            Self::Method => "method",
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
            Self::Body => "A request to this server has no body.",
            Self::Method => "Only GET is served here.",
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
            Self::Query => "The query is history=COUNT or since=EPOCH:OFFSET.",
            Self::Subprotocol => "Only JSON is supported: offer centrifuge-json, or no subprotocol.",
            Self::Token => "A valid token is needed: ?token=… or Authorization: Bearer ….",
            Self::OtherUser => "The name in the path must be the token's display name.",
            Self::Room => "This room is not open to this client.",
            Self::TooMany => "Too many connections of this user or address: close one, or try again later.",
            Self::Overloaded => "The server is full: try again later.",
            Self::ShuttingDown => "The server is shutting down: connect again.",
        }
    }

    /// Appends the whole answer; `head_only` when the request is a HEAD (see
    /// [`is_head_request`](super::is_head_request)). Afterwards the connection must be closed, so that
    /// nothing that follows can be taken for a second request.
    pub fn response_into(self, out: &mut Vec<u8>, head_only: bool, date: Option<Date>) {
        let mut body = self.sentence().as_bytes().to_vec();
        body.push(b'\n');
        let fields: &[(&str, &str)] = match self {
            Self::UpgradeRequired | Self::WebSocketVersion => {
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            Self::Method => &[("Allow", "GET, HEAD")],
            Self::Overloaded | Self::ShuttingDown | Self::TooMany => &[("Retry-After", RETRY_AFTER_S)],
            Self::Token => &[("WWW-Authenticate", "Bearer")],
            Self::Malformed
            | Self::HeadTooLong
            | Self::TargetTooLong
            | Self::HeadTimeout
            | Self::Version
            | Self::Host
            | Self::Body
            | Self::NotFound
            | Self::Connection
            | Self::Key
            | Self::Extensions
            | Self::Precondition
            | Self::Origin
            | Self::Name(_)
            | Self::Encoding
            | Self::Query
            | Self::Subprotocol
            | Self::OtherUser
            | Self::Room => &[],
        };
        Response {
            fields,
            keep_alive: false,
            head_only,
            date,
            ..Response::new(self.status(), "text/plain; charset=utf-8", &body)
        }
        .write_into(out);
    }
}

/// A complete answer.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`; none when empty.
    pub content_type: &'a str,
    /// Further header fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// The content.
    pub body: &'a [u8],
    /// Whether the connection goes on.
    pub keep_alive: bool,
    /// The answer to a HEAD: everything but the content.
    pub head_only: bool,
    /// Now, when the wall clock is known: "an origin server with a clock MUST generate a Date header field in
    /// all 2xx (Successful), 3xx (Redirection), and 4xx (Client Error) responses" (RFC 9110 §6.6.1).
    pub date: Option<Date>,
}

impl<'a> Response<'a> {
    /// An answer after which the connection goes on.
    pub const fn new(status: StatusCode, content_type: &'a str, body: &'a [u8]) -> Self {
        Self { status, content_type, fields: &[], body, keep_alive: true, head_only: false, date: None }
    }

    /// Appends it to `out`.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        };
        let not_modified = self.status == StatusCode::NOT_MODIFIED;
        // It displays as its number and its reason phrase.
        field(&format!("HTTP/1.1 {}\r\nServer", self.status), "stentor");
        if let Some(date) = self.date {
            field("Date", &date.to_string());
        }
        // Of the representation's metadata a 304 repeats what caches need, and no more (RFC 9110 §15.4.5).
        if !self.content_type.is_empty() && !not_modified {
            field("Content-Type", self.content_type);
            field("X-Content-Type-Options", "nosniff");
        }
        for (name, value) in self.fields {
            // "Upgrade" is a hop-by-hop field and must be named in Connection (RFC 9110 §7.8).
            if name.eq_ignore_ascii_case("Upgrade") {
                field("Connection", "Upgrade");
            }
            field(name, value);
        }
        if !not_modified {
            field("Content-Length", &self.body.len().to_string());
        }
        if !self.keep_alive {
            field("Connection", "close");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only && !not_modified {
            out.extend_from_slice(self.body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Date = Date::from_unix_s(784_111_777);

    fn answer(reject: Reject, head_only: bool) -> String {
        let mut out = Vec::new();
        reject.response_into(&mut out, head_only, Some(NOW));
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

    #[test]
    fn answers_without_content() {
        let write = |response: Response<'_>| {
            let mut out = Vec::new();
            response.write_into(&mut out);
            String::from_utf8(out).unwrap()
        };
        let fields = [("ETag", "\"a\""), ("Cache-Control", "no-cache")];
        let full = Response { fields: &fields, ..Response::new(StatusCode::OK, "text/plain", b"hello") };
        let whole = write(full);
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\nServer: stentor\r\n"), "{whole}");
        assert!(whole.ends_with("\r\nContent-Length: 5\r\n\r\nhello") && !whole.contains("Date"), "{whole}");
        // The length is that of the content that a GET would have (RFC 9110 §8.6).
        assert_eq!(write(Response { head_only: true, ..full }), whole.strip_suffix("hello").unwrap());
        // A 304 has the fields that a cache needs, and neither content nor a length (RFC 9110 §15.4.5).
        let known = write(Response { status: StatusCode::NOT_MODIFIED, date: Some(NOW), ..full });
        assert_eq!(
            known,
            "HTTP/1.1 304 Not Modified\r\nServer: stentor\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             ETag: \"a\"\r\nCache-Control: no-cache\r\n\r\n"
        );
    }
}
