//! Answers: whole ones, and the heads of those that go on.

use ::http::StatusCode;

use super::Date;

/// What an answer depends on beside its content.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerOptions<'a> {
    /// Whether the connection goes on.
    pub keep_alive: bool,
    /// The answer to HTTP/1.0, whose clients do not take it for granted that a connection goes on.
    pub is_old: bool,
    /// The answer to a HEAD (see [`is_head_request`](super::is_head_request)): everything but the content.
    pub head_only: bool,
    /// Further header fields, after the answer's own.
    pub fields: &'a [(&'a str, &'a str)],
    /// Now, when the wall clock is known: "an origin server with a clock MUST generate a Date header field in
    /// all 2xx (Successful), 3xx (Redirection), and 4xx (Client Error) responses" (RFC 9110 §6.6.1).
    pub date: Option<Date>,
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
    /// The rest.
    pub options: AnswerOptions<'a>,
}

impl<'a> Response<'a> {
    /// An answer after which the connection goes on.
    pub const fn new(status: StatusCode, content_type: &'a str, body: &'a [u8]) -> Self {
        let options =
            AnswerOptions { keep_alive: true, is_old: false, head_only: false, fields: &[], date: None };
        Self { status, content_type, fields: &[], body, options }
    }

    /// The same with other options.
    #[must_use]
    pub const fn with(self, options: &AnswerOptions<'a>) -> Self {
        Self { options: *options, ..self }
    }

    /// Appends it to `out`.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let AnswerOptions { keep_alive, is_old, head_only, fields, date } = self.options;
        status_into(out, self.status, date);
        let not_modified = self.status == StatusCode::NOT_MODIFIED;
        // Of the representation's metadata a 304 repeats what caches need, and no more (RFC 9110 §15.4.5).
        if !self.content_type.is_empty() && !not_modified {
            field_into(out, "Content-Type", self.content_type);
            field_into(out, "X-Content-Type-Options", "nosniff");
        }
        for (name, value) in self.fields.iter().chain(fields) {
            // "Upgrade" is a hop-by-hop field and must be named in Connection (RFC 9110 §7.8).
            if name.eq_ignore_ascii_case("Upgrade") {
                field_into(out, "Connection", "Upgrade");
            }
            field_into(out, name, value);
        }
        // "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
        // (Informational) or 204 (No Content)" (RFC 9110 §8.6).
        let has_content = !not_modified && self.status != StatusCode::NO_CONTENT;
        if has_content {
            field_into(out, "Content-Length", &self.body.len().to_string());
        }
        connection_into(out, keep_alive, is_old);
        out.extend_from_slice(b"\r\n");
        if !head_only && has_content {
            out.extend_from_slice(self.body);
        }
    }
}

/// The head of an answer whose content goes on until the connection, or its last chunk, ends it.
#[derive(Clone, Copy, Debug)]
pub struct StreamHead<'a> {
    /// `Content-Type`.
    pub content_type: &'a str,
    /// Whether the content is chunked; else it ends with the connection, as it must in HTTP/1.0.
    pub chunked: bool,
    /// Further header fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// See [`AnswerOptions::date`].
    pub date: Option<Date>,
}

impl StreamHead<'_> {
    /// Appends it to `out`. No cache keeps the content, and no proxy that knows nginx's field collects it.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        status_into(out, StatusCode::OK, self.date);
        field_into(out, "Content-Type", self.content_type);
        field_into(out, "X-Content-Type-Options", "nosniff");
        field_into(out, "Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0");
        field_into(out, "X-Accel-Buffering", "no");
        self.fields.iter().for_each(|(name, value)| field_into(out, name, value));
        if self.chunked {
            field_into(out, "Transfer-Encoding", "chunked");
        }
        // The connection ends with the content (RFC 9112 §9.6): nobody is to send another request on it.
        field_into(out, "Connection", "close");
        out.extend_from_slice(b"\r\n");
    }
}

/// The interim answer for a client that waits for it before it sends content (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn status_into(out: &mut Vec<u8>, status: StatusCode, date: Option<Date>) {
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    field_into(out, "Server", "stentor");
    if let Some(date) = date {
        field_into(out, "Date", &date.to_string());
    }
}

/// Persistence is the default in HTTP/1.1; a client of HTTP/1.0 must see that it has it (RFC 9112 §9.3 and
/// appendix C.2.2).
fn connection_into(out: &mut Vec<u8>, keep_alive: bool, is_old: bool) {
    match (keep_alive, is_old) {
        (false, _) => field_into(out, "Connection", "close"),
        (true, true) => field_into(out, "Connection", "keep-alive"),
        (true, false) => {}
    }
}

fn field_into(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Date = Date::from_unix_s(784_111_777);

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
        let options = AnswerOptions { head_only: true, ..full.options };
        assert_eq!(write(full.with(&options)), whole.strip_suffix("hello").unwrap());
        // A 304 has the fields that a cache needs, and neither content nor a length (RFC 9110 §15.4.5).
        let options = AnswerOptions { date: Some(NOW), ..full.options };
        let known = write(Response { status: StatusCode::NOT_MODIFIED, options, ..full });
        assert_eq!(
            known,
            "HTTP/1.1 304 Not Modified\r\nServer: stentor\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             ETag: \"a\"\r\nCache-Control: no-cache\r\n\r\n"
        );
    }

    #[test]
    fn persistence_is_announced_where_it_is_not_the_default() {
        let write = |keep_alive: bool, is_old: bool| {
            let mut out = Vec::new();
            let options = AnswerOptions { keep_alive, is_old, ..AnswerOptions::default() };
            Response::new(StatusCode::NO_CONTENT, "", b"").with(&options).write_into(&mut out);
            String::from_utf8(out).unwrap()
        };
        let head = "HTTP/1.1 204 No Content\r\nServer: stentor\r\n";
        assert_eq!(write(true, false), format!("{head}\r\n"));
        assert_eq!(write(true, true), format!("{head}Connection: keep-alive\r\n\r\n"));
        assert_eq!(write(false, true), format!("{head}Connection: close\r\n\r\n"));
    }
}
