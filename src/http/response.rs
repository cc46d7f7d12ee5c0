//! Answers: the few good ones, and every refusal with its status and one plain sentence.

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    /// The head is not HTTP.
    Malformed,
    /// The head is longer than the bound, or has too many fields.
    HeadTooLong,
    /// The head did not come in time.
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
    /// A WebSocket endpoint, asked for without an upgrade.
    UpgradeRequired,
    /// `Connection` without the token `Upgrade`.
    Connection,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    Key,
    /// `Sec-WebSocket-Version` is not 13.
    WebSocketVersion,
    /// The origin is not on the list.
    Origin,
    /// A name, or a room's name, that is refused, and the sentence that says why.
    Name(&'static str),
    /// Percent-encoding that is none, or not of UTF-8.
    Encoding,
    /// `history` or `since` in the query cannot be read.
    Query,
    /// Only a subprotocol that is not spoken here is offered.
    Subprotocol,
    /// No token, or one that is not believed.
    Token,
    /// The token is somebody else's, or this room is not for its bearer.
    Forbidden,
    /// Too many connections from one address, or of one user.
    TooMany,
    /// No room for one more connection.
    Overloaded,
    /// Not ready: starting, or going away.
    NotReady,
}

/// How long a client that finds the server full should wait.
const RETRY_AFTER_S: &str = "5";

impl Reject {
    /// The status (RFC 9110 §15).
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed
            | Self::Version
            | Self::Host
            | Self::Body
            | Self::Connection
            | Self::Key
            | Self::Name(_)
            | Self::Encoding
            | Self::Query
            | Self::Subprotocol => 400,
            Self::Token => 401,
            Self::Origin | Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::HeadTimeout => 408,
            Self::UpgradeRequired | Self::WebSocketVersion => 426,
            Self::TooMany => 429,
            Self::HeadTooLong => 431,
            Self::Overloaded | Self::NotReady => 503,
        }
    }

    /// What is wrong, for the one who reads the answer.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "This is not an HTTP/1.1 request.",
            Self::HeadTooLong => "The request head is too long.",
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
            Self::Origin => "Pages of this origin may not connect here.",
            Self::Name(sentence) => sentence,
            Self::Encoding => "The path or the query is not percent-encoded UTF-8.",
            Self::Query => "The query is history=COUNT or since=EPOCH:OFFSET.",
            Self::Subprotocol => "Only JSON is spoken here: offer centrifuge-json, or no subprotocol.",
            Self::Token => "A valid token is needed: ?token=… or Authorization: Bearer ….",
            Self::Forbidden => "That is not for you.",
            Self::TooMany => "There are too many connections of yours: close one, or try again later.",
            Self::Overloaded => "The server is full: try again later.",
            Self::NotReady => "The server is not ready.",
        }
    }

    /// Appends the whole answer. Afterwards the connection must be closed, so that nothing that follows can be taken for
    /// a second request.
    pub fn response_into(self, out: &mut Vec<u8>) {
        let mut body = self.sentence().as_bytes().to_vec();
        body.push(b'\n');
        let fields: &[(&str, &str)] = match self {
            Self::UpgradeRequired | Self::WebSocketVersion => {
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            Self::Method => &[("Allow", "GET, HEAD")],
            Self::Overloaded | Self::NotReady | Self::TooMany => &[("Retry-After", RETRY_AFTER_S)],
            Self::Token => &[("WWW-Authenticate", "Bearer")],
            Self::Malformed
            | Self::HeadTooLong
            | Self::HeadTimeout
            | Self::Version
            | Self::Host
            | Self::Body
            | Self::NotFound
            | Self::Connection
            | Self::Key
            | Self::Origin
            | Self::Name(_)
            | Self::Encoding
            | Self::Query
            | Self::Subprotocol
            | Self::Forbidden => &[],
        };
        Response {
            fields,
            keep_alive: false,
            ..Response::new(self.status(), "text/plain; charset=utf-8", &body)
        }
        .write_into(out);
    }
}

/// A complete answer.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
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
}

impl<'a> Response<'a> {
    /// An answer after which the connection goes on.
    pub const fn new(status: u16, content_type: &'a str, body: &'a [u8]) -> Self {
        Self { status, content_type, fields: &[], body, keep_alive: true, head_only: false }
    }

    /// Appends it to `out`.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        };
        field(&format!("HTTP/1.1 {} {}\r\nServer", self.status, reason_phrase(self.status)), "stentor");
        if !self.content_type.is_empty() {
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
        if self.status != 304 {
            field("Content-Length", &self.body.len().to_string());
        }
        if !self.keep_alive {
            field("Connection", "close");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(self.body);
        }
    }
}

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    }
}
