//! Request targets and authorities (RFC 9112 §3.2, RFC 3986 §3.2).

use super::Reject;

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target<'b> {
    /// The authority, when the target is in absolute form.
    pub(super) authority: Option<&'b str>,
    /// The path, still percent-encoded; begins with a slash.
    pub(super) path: &'b str,
    /// What follows the `?`.
    pub(super) query: Option<&'b str>,
}

/// Reads the origin form, or the absolute form that every server must accept (RFC 9112 §3.2.2).
///
/// # Errors
/// It has another form or another scheme than HTTP's and WebSocket's; a fragment, which is no part of any
/// form; an authority that is empty ("MUST reject it as invalid", RFC 9110 §4.2.1) or names a user, which is
/// to be treated as an error (§4.2.4).
pub(super) fn parse_target(target: &str) -> Result<Target<'_>, Reject> {
    if target.contains('#') {
        return Err(Reject::Malformed);
    }
    let (authority, local) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(Reject::Malformed)?;
        let known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, _) = split_authority(authority).ok_or(Reject::Malformed)?;
        if !known || host.is_empty() {
            return Err(Reject::Malformed);
        }
        (Some(authority), local)
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    // "If the target URI's path component is empty, the client MUST send "/"": in absolute form it may be
    // empty.
    Ok(Target { authority, path: if path.is_empty() { "/" } else { path }, query })
}

/// The host and the port of `uri-host [ ":" port ]` (RFC 9110 §7.2). `None`: it is none. Both may be empty. A
/// comma, which the grammar allows in a name, is refused: it is how an intermediary would join two Host
/// fields.
pub(super) fn split_authority(text: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, rest) = bracketed.split_once(']')?;
        if inside.is_empty() || !inside.bytes().all(|byte| byte == b':' || is_name_byte(byte)) {
            return None;
        }
        let host = &text[..inside.len() + 2];
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !is_name(host) {
            return None;
        }
        (host, port)
    };
    port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit())).then_some((host, port))
}

/// A registered name or an IPv4 address: `*( unreserved / pct-encoded / sub-delims )` (RFC 3986 §3.2.2).
fn is_name(host: &str) -> bool {
    let escaped = host.split('%').skip(1).all(|after| {
        after.as_bytes().first_chunk::<2>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    escaped && host.bytes().all(|byte| byte == b'%' || is_name_byte(byte))
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Option<(Option<&str>, &str, Option<&str>)>) {
        let expected = expected
            .map(|(authority, path, query)| Target { authority, path, query })
            .ok_or(Reject::Malformed);
        assert_eq!(parse_target(target), expected, "{target}");
    }

    #[test]
    fn origin_form() {
        check("/", Some((None, "/", None)));
        check("/a%20b?c=d?e", Some((None, "/a%20b", Some("c=d?e"))));
        check("/?", Some((None, "/", Some(""))));
        check("//h/x", Some((None, "//h/x", None)));
        check("/a://b", Some((None, "/a://b", None)));
        check("?q", None);
        check("", None);
        check("/a#b", None);
        check("/?a#b", None);
    }

    #[test]
    fn absolute_form() {
        check("http://h/x?y", Some((Some("h"), "/x", Some("y"))));
        check("HTTP://h:80/x", Some((Some("h:80"), "/x", None)));
        check("Wss://h", Some((Some("h"), "/", None)));
        check("http://h?q", Some((Some("h"), "/", Some("q"))));
        check("http://h?a/b://c", Some((Some("h"), "/", Some("a/b://c"))));
        check("ws://[::1]:80?", Some((Some("[::1]:80"), "/", Some(""))));
        check("https://h:", Some((Some("h:"), "/", None)));
        for bad in [
            "http:///x",
            "http://",
            "http://:80/x",
            "http://u@h/",
            "http://u:p@h/x",
            "http://@h/",
            "http://h/#f",
            "http://h#f",
            "http://h:x/",
            "http://h:1:2/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[]/",
            "http://h%4/",
            "http://h,i/",
            "ftp://h/",
            "http:/h/",
            "http:h",
            "*",
            "h:80",
            "://h/",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("h", Some(("h", None))),
            ("a-b.example:8080", Some(("a-b.example", Some("8080")))),
            ("127.0.0.1", Some(("127.0.0.1", None))),
            ("[2001:db8::1]:443", Some(("[2001:db8::1]", Some("443")))),
            ("[v1.a:b]", Some(("[v1.a:b]", None))),
            ("h%C3%BC", Some(("h%C3%BC", None))),
            ("", Some(("", None))),
            (":80", Some(("", Some("80")))),
            ("h:", Some(("h", Some("")))),
            ("a b", None),
            ("a,b", None),
            ("h/x", None),
            ("u@h", None),
            ("h:8o", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("h\u{fc}", None),
            ("h%zz", None),
        ] {
            assert_eq!(split_authority(text), expected, "{text:?}");
        }
    }
}
