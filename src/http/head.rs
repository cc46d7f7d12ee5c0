//! The request head, read where it lies (RFC 9112 §2–5).

use std::borrow::Cow;

use super::Reject;
use crate::ws::Step;

/// Bounds of a request head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes, with the blank line.
    pub head_bytes_max: usize,
}

/// Header fields that a head may have.
const FIELDS_MAX: usize = 64;

/// A request head.
#[derive(Debug)]
pub struct Head<'b> {
    /// The method.
    pub method: &'b str,
    /// The path, still percent-encoded.
    pub path: &'b str,
    /// What follows the `?`.
    pub query: Option<&'b str>,
    /// 0 or 1: of HTTP/1.x.
    pub minor_version: u8,
    /// Bytes of the head, with the blank line.
    pub len: usize,
    fields: [httparse::Header<'b>; FIELDS_MAX],
    field_count: usize,
}

impl<'b> Head<'b> {
    /// The values of every field of that name, in order.
    pub fn fields<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        let fields = self.fields[..self.field_count].iter();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of the field of that name when there is exactly one.
    pub fn only_field(&self, name: &str) -> Option<&'b [u8]> {
        let mut values = self.fields(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a field that is a list has `token` in it, in any case (RFC 9110 §5.6.1).
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.fields(name).any(|value| {
            value
                .split(|&byte| byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    }

    /// Whether the connection goes on after the answer (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        if self.has_token("Connection", "close") {
            return false;
        }
        self.minor_version >= 1 || self.has_token("Connection", "keep-alive")
    }
}

/// Reads a head from the front of `bytes`. `scanned` is how far earlier calls have looked for its end, so that a head that
/// comes byte by byte costs one pass; it begins with 0.
///
/// # Errors
/// It is too long, not HTTP, has no valid Host, or is followed by a body: nothing that is served here has one, and to
/// guess where it ends is how requests are smuggled.
pub fn parse_head<'b>(
    bytes: &'b [u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Step<Head<'b>>, Reject> {
    if *scanned < SNIFFED_BYTES {
        check_beginning(&bytes[..bytes.len().min(SNIFFED_BYTES)])?;
    }
    // The end is an empty line. Its two line feeds are at most one byte apart.
    let from = scanned.saturating_sub(3);
    let end = memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at).find(|&at| {
        let before = bytes[..at].strip_suffix(b"\r").unwrap_or(&bytes[..at]);
        before.ends_with(b"\n")
    });
    *scanned = bytes.len();
    let Some(end) = end else {
        return if bytes.len() >= limits.head_bytes_max {
            Err(Reject::HeadTooLong)
        } else {
            Ok(Step::NeedMore)
        };
    };
    if end >= limits.head_bytes_max {
        return Err(Reject::HeadTooLong);
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(&bytes[..=end]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Err(Reject::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Reject::HeadTooLong),
        Err(_) => return Err(Reject::Malformed),
    };
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version)
    else {
        return Err(Reject::Malformed);
    };
    let field_count = request.headers.len();
    let (path, query) = origin_form(target)?;
    let head = Head { method, path, query, minor_version, len, fields, field_count };
    check_host(&head)?;
    let has_length = head.fields("Content-Length").any(|value| value != b"0");
    if has_length || head.fields("Transfer-Encoding").next().is_some() {
        return Err(Reject::Body);
    }
    Ok(Step::Done(head))
}

/// How much of a head is looked at before its end is there. Enough for a method and the beginning of a target; a bound, so that
/// a head that drips in byte by byte is not parsed again for each of them.
const SNIFFED_BYTES: usize = 64;

/// Refuses at once what cannot become a request: a TLS hello or another protocol does not wait for the time-out.
fn check_beginning(bytes: &[u8]) -> Result<(), Reject> {
    let mut fields = [httparse::EMPTY_HEADER; 0];
    let first_line = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..=end]);
    httparse::Request::new(&mut fields).parse(first_line).map(drop).map_err(|_| Reject::Malformed)
}

/// The path and the query of a request target: "/path?query", or the absolute form that every server must accept
/// (RFC 9112 §3.2.2).
fn origin_form(target: &str) -> Result<(&str, Option<&str>), Reject> {
    let local = match target.split_once("://") {
        Some(("http" | "https" | "ws" | "wss", rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    if path.starts_with('/') || (path.is_empty() && query.is_some()) {
        Ok((path, query))
    } else {
        Err(Reject::Malformed)
    }
}

fn check_host(head: &Head<'_>) -> Result<(), Reject> {
    let valid = |host: &[u8]| host.iter().all(|&byte| byte.is_ascii_graphic() && !b",/?#@\\".contains(&byte));
    match head.only_field("Host") {
        Some(host) if valid(host) => Ok(()),
        None if head.minor_version == 0 && head.fields("Host").next().is_none() => Ok(()),
        _ => Err(Reject::Host),
    }
}

/// Undoes percent-encoding (RFC 3986 §2.1).
///
/// # Errors
/// What comes out is not UTF-8, or a `%` has no two hexadecimal digits behind it.
pub fn percent_decode(text: &str) -> Result<Cow<'_, str>, Reject> {
    let well_formed = text.split('%').skip(1).all(|after| {
        after.as_bytes().first_chunk::<2>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !well_formed {
        return Err(Reject::Encoding);
    }
    percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| Reject::Encoding)
}

/// The value of `key` in a query, decoded; a `+` is a space there.
///
/// # Errors
/// As [`percent_decode`].
pub fn query_value<'q>(query: Option<&'q str>, key: &str) -> Result<Option<Cow<'q, str>>, Reject> {
    let Some(query) = query else { return Ok(None) };
    let value = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then_some(value)
    });
    let Some(value) = value else { return Ok(None) };
    if value.contains('+') {
        return Ok(Some(Cow::Owned(percent_decode(&value.replace('+', " "))?.into_owned())));
    }
    percent_decode(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1024 };

    fn parse(bytes: &[u8]) -> Result<Step<(String, Option<String>, usize)>, Reject> {
        parse_head(bytes, &mut 0, &LIMITS).map(|step| match step {
            Step::NeedMore => Step::NeedMore,
            Step::Done(head) => Step::Done((head.path.to_owned(), head.query.map(str::to_owned), head.len)),
        })
    }

    fn check(request: &str, expected: Result<(&str, Option<&str>), Reject>) {
        let expected = expected
            .map(|(path, query)| Step::Done((path.to_owned(), query.map(str::to_owned), request.len())));
        assert_eq!(parse(request.as_bytes()), expected, "{request:?}");
    }

    #[test]
    fn targets() {
        check("GET /a%20b?c=d?e HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/a%20b", Some("c=d?e"))));
        check("GET http://h:80/x?y HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/x", Some("y"))));
        check("GET ws://h HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/", None)));
        check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
        check("GET / HTTP/1.0\r\n\r\n", Ok(("/", None)));
        check("GET / HTTP/1.1\nHost: h\n\n", Ok(("/", None)));
    }

    #[test]
    fn what_smugglers_try() {
        check("GET / HTTP/1.1\r\n\r\n", Err(Reject::Host));
        check("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Err(Reject::Host));
        check("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(Reject::Host));
        check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", Err(Reject::Body));
        check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", Ok(("/", None)));
        check("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Reject::Body));
        check("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", Err(Reject::Malformed));
        check("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Err(Reject::Malformed));
        check("GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n", Err(Reject::Malformed));
        check("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", Err(Reject::Malformed));
        check("GET / HTTP/2.0\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
    }

    #[test]
    fn other_protocols_are_refused_before_the_end() {
        assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01"), Err(Reject::Malformed));
        assert_eq!(parse(b"SSH-2.0-OpenSSH_9.2\r\n"), Err(Reject::Malformed));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHo"), Ok(Step::NeedMore));
    }

    #[test]
    fn garbage_is_garbage_however_much_comes_at_once() {
        let garbage = [0x16; 3000];
        assert_eq!(parse(&garbage[..10]), Err(Reject::Malformed));
        assert_eq!(parse(&garbage), Err(Reject::Malformed));
    }

    #[test]
    fn floods_are_bounded() {
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(1024));
        assert_eq!(parse(long.as_bytes()), Err(Reject::HeadTooLong));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A:\r\n".repeat(64));
        assert_eq!(parse(many.as_bytes()), Err(Reject::HeadTooLong));
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(percent_decode("a%20b+c").as_deref(), Ok("a b+c"));
        assert_eq!(percent_decode("%f0%9F%99%82").as_deref(), Ok("🙂"));
        for bad in ["%", "%2", "%zz", "a%", "%ff", "%c3"] {
            assert_eq!(percent_decode(bad), Err(Reject::Encoding), "{bad}");
        }
        assert_eq!(query_value(Some("x=1&room=a+b%2B&room=z"), "room"), Ok(Some("a b+".into())));
        assert_eq!(query_value(Some("rooms=1"), "room"), Ok(None));
        assert_eq!(query_value(Some("room"), "room"), Ok(Some("".into())));
    }

    proptest! {
        #[test]
        fn any_split_equals_the_whole(
            request in prop_oneof![
                Just("GET /ws/a?room=b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\nrest".to_owned()),
                Just("GET / HTTP/1.1\nHost: h\n\n".to_owned()),
                "GET /[a-z]{0,5} HTTP/1\\.[01](\r\n|\n)(Host: h\r\n)?([A-Za-z-]{1,5}: ?[ -~]{0,9}\r?\n){0,4}\r?\n?[ -~]{0,9}",
            ],
            cuts in prop::collection::vec(1usize..20, 0..40),
        ) {
            let whole = parse(request.as_bytes());
            let (mut end, mut scanned, mut cuts) = (0, 0, cuts.into_iter());
            let in_pieces = loop {
                end = (end + cuts.next().unwrap_or(request.len())).min(request.len());
                let step = parse_head(&request.as_bytes()[..end], &mut scanned, &LIMITS);
                match step {
                    Ok(Step::NeedMore) if end < request.len() => {}
                    Ok(Step::NeedMore) => break Ok(Step::NeedMore),
                    Ok(Step::Done(head)) => {
                        break Ok(Step::Done((head.path.to_owned(), head.query.map(str::to_owned), head.len)));
                    }
                    Err(reject) => break Err(reject),
                }
            };
            prop_assert_eq!(in_pieces, whole);
        }
    }
}
