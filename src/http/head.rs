//! The request head, read where it lies (RFC 9112 §2–5).

use std::borrow::Cow;

use super::field::{Comparison, EntityTag, elements, entity_tags, is_token, trim};
use super::target::{Target, parse_target, split_authority};
use super::{Framing, Reject};
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
    /// The requested host, with its port if it has one: the authority of a target in absolute form, else
    /// Host. "When an origin server receives a request with an absolute-form of request-target, the origin
    /// server MUST ignore the received Host header field (if any) and instead use the host information of the
    /// request-target" (RFC 9112 §3.2.2). `None` only in HTTP/1.0.
    pub host: Option<&'b str>,
    /// The path, still percent-encoded.
    pub path: &'b str,
    /// What follows the `?`.
    pub query: Option<&'b str>,
    /// 0 or 1: of HTTP/1.x.
    pub minor_version: u8,
    /// Bytes of the head, with the blank line.
    pub len: usize,
    /// How the end of its content is found.
    pub framing: Framing,
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
        self.fields(name).flat_map(elements).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether the client offers this subprotocol: exactly this, as nothing allows that their names differ in
    /// case and "the value chosen MUST be derived from the client's handshake" (RFC 6455 §4.2.2). Elements
    /// that are no tokens are skipped.
    pub fn offers_subprotocol(&self, name: &str) -> bool {
        let offers = self.fields("Sec-WebSocket-Protocol").flat_map(elements);
        offers.filter(|offer| is_token(offer)).any(|offer| offer == name.as_bytes())
    }

    /// The token of `Authorization: Bearer …`. The scheme is compared in any case (RFC 9110 §11.1), one or
    /// more spaces follow it (§11.4), and what a token is made of is the issuer's affair as long as it is one
    /// word of ASCII. `None` when there is no such field, or more than one.
    pub fn bearer_token(&self) -> Option<&'b str> {
        let credentials = std::str::from_utf8(self.only_field("Authorization")?).ok()?;
        let (scheme, token) = credentials.split_once(' ')?;
        let token = token.trim_start_matches(' ');
        let valid = scheme.eq_ignore_ascii_case("Bearer")
            && !token.is_empty()
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then_some(token)
    }

    /// Whether `If-None-Match` names `etag`, or any with `*` (RFC 9110 §13.1.2, the weak comparison).
    pub fn matches_etag(&self, etag: &str) -> bool {
        self.names_etag("If-None-Match", etag, Comparison::Weak)
    }

    /// The result of the request's preconditions for the representation that has this `etag`, in their order
    /// of precedence (RFC 9110 §13.2.2). Those that compare dates are ignored, as representations here have
    /// none (§13.1.3, §13.1.4).
    pub fn precondition(&self, etag: &str) -> Precondition {
        let has_if_match = self.fields("If-Match").next().is_some();
        if has_if_match && !self.names_etag("If-Match", etag, Comparison::Strong) {
            Precondition::Failed
        } else if self.matches_etag(etag) {
            Precondition::NotModified
        } else {
            Precondition::Holds
        }
    }

    fn names_etag(&self, name: &str, etag: &str, comparison: Comparison) -> bool {
        let Some(etag) = EntityTag::parse(etag.as_bytes()) else { return false };
        self.fields(name).any(|value| {
            trim(value) == b"*" || entity_tags(value).any(|named| named.equals(etag, comparison))
        })
    }

    /// Whether `Accept` names `media_type` itself, and not only a range that it is in (RFC 9110 §12.5.1).
    pub fn accepts(&self, media_type: &str) -> bool {
        self.fields("Accept").flat_map(elements).any(|range| {
            let essence = range.split(|&byte| byte == b';').next().unwrap_or_default();
            trim(essence).eq_ignore_ascii_case(media_type.as_bytes())
        })
    }

    /// Whether the client waits for a 100 (Continue) before it sends the content. HTTP/1.0 has no such thing:
    /// "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
    /// expectation" (RFC 9110 §10.1.1).
    ///
    /// # Errors
    /// [`Reject::Expectation`]: it expects something else.
    pub fn expects_continue(&self) -> Result<bool, Reject> {
        if self.minor_version == 0 {
            return Ok(false);
        }
        let mut expectations = self.fields("Expect").flat_map(elements);
        let mut expects = false;
        match expectations.all(|it| {
            expects = true;
            it.eq_ignore_ascii_case(b"100-continue")
        }) {
            true => Ok(expects),
            false => Err(Reject::Expectation),
        }
    }

    /// Whether the connection goes on after the answer (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        if self.has_token("Connection", "close") {
            return false;
        }
        self.minor_version >= 1 || self.has_token("Connection", "keep-alive")
    }
}

/// Whether a GET or HEAD of a representation is to be answered with it (RFC 9110 §13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precondition {
    /// Yes: 200.
    Holds,
    /// The client has it: 304.
    NotModified,
    /// The client requires another one: 412.
    Failed,
}

/// Whether `bytes` begin with a HEAD request, complete or not: its answer has no content (RFC 9110 §9.3.2).
pub fn is_head_request(bytes: &[u8]) -> bool {
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    bytes[line..].starts_with(b"HEAD ")
}

/// Reads a head from the front of `bytes`. `scanned` is how far earlier calls have looked for its end, so
/// that a head that comes byte by byte costs one pass; it begins with 0.
///
/// # Errors
/// It is too long, not HTTP, has no valid Host, or does not tell in one way where its content ends: to guess
/// that is how requests are smuggled.
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
            Err(too_long(&bytes[..limits.head_bytes_max]))
        } else {
            Ok(Step::NeedMore)
        };
    };
    if end >= limits.head_bytes_max {
        return Err(too_long(&bytes[..limits.head_bytes_max]));
    }
    // "A recipient MAY recognize a single LF as a line terminator" (RFC 9112 §2.2). One that does not may be
    // in front of this server, and take two fields for one.
    let bare = memchr::memchr_iter(b'\n', &bytes[..=end]).any(|at| at == 0 || bytes[at - 1] != b'\r');
    if bare {
        return Err(Reject::Malformed);
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
    let Target { authority, path, query } = parse_target(target)?;
    let framing = Framing::None;
    let mut head = Head { method, host: None, path, query, minor_version, len, framing, fields, field_count };
    let host = check_host(&head)?;
    head.host = authority.or(host);
    head.framing = Framing::of(&head)?;
    Ok(Step::Done(head))
}

/// How much of a head is looked at before its end is there. Enough for a method and the beginning of a
/// target; a bound, so that a head that drips in byte by byte is not parsed again for each of them.
const SNIFFED_BYTES: usize = 64;

/// Refuses at once what cannot become a request: a TLS hello or another protocol does not wait for the
/// time-out.
fn check_beginning(bytes: &[u8]) -> Result<(), Reject> {
    let mut fields = [httparse::EMPTY_HEADER; 0];
    let first_line = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..=end]);
    httparse::Request::new(&mut fields).parse(first_line).map(drop).map_err(|_| Reject::Malformed)
}

/// Why a head is too long whose first bytes, as many as are allowed, are `bytes`: "a server that receives a
/// request-target longer than any URI it wishes to parse MUST respond with a 414" (RFC 9112 §3).
fn too_long(bytes: &[u8]) -> Reject {
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    match memchr::memchr(b'\n', &bytes[line..]) {
        Some(_) => Reject::HeadTooLong,
        None => Reject::TargetTooLong,
    }
}

/// The value of Host. "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
/// message that lacks a Host header field and to any request message that contains more than one Host header
/// field line or a Host header field with an invalid field value" (RFC 9112 §3.2).
fn check_host<'b>(head: &Head<'b>) -> Result<Option<&'b str>, Reject> {
    let mut hosts = head.fields("Host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match std::str::from_utf8(host) {
            Ok(host) if split_authority(host).is_some() => Ok(Some(host)),
            _ => Err(Reject::Host),
        },
        (None, _) if head.minor_version == 0 => Ok(None),
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
mod tests;
