//! The opening handshake, the server's half (RFC 6455 §4.2).

use tungstenite::handshake::derive_accept_key;

use super::target::split_authority;
use super::{Agreed, Head, Reject, negotiate};

/// Which origins may open a WebSocket here. Browsers send the origin of the page; other clients may send
/// anything, so this protects users of browsers, not the server (§10.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OriginRule {
    /// Pages that came from the same host and port.
    SameHost,
    /// All.
    Any,
    /// Pages without an origin of their own: sandboxed frames, local files.
    Null,
    /// This one: `scheme://host[:port]`.
    Exact(String),
}

/// A request passes if any of these lets it. Requests without an Origin pass always.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginRules(pub Vec<OriginRule>);

impl Default for OriginRules {
    fn default() -> Self {
        Self(vec![OriginRule::SameHost])
    }
}

/// The kind of rule that lets an origin pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OriginMatch {
    /// It stands on the list, or is the server's own.
    Listed,
    /// It is none, and such ones may.
    Null,
    /// All may.
    Any,
}

impl OriginRules {
    fn allow(&self, origin: &[u8], host: Option<&str>) -> bool {
        self.find(origin, host).is_some()
    }

    /// Whether every origin passes.
    pub(super) fn allow_any(&self) -> bool {
        self.0.contains(&OriginRule::Any)
    }

    /// Which pages may show a page of this server in a frame: the directive of a Content-Security-Policy (CSP
    /// Level 3 §6.4.2). `None`: all may.
    pub fn frame_ancestors(&self) -> Option<String> {
        let mut directive = "frame-ancestors".to_owned();
        for rule in &self.0 {
            let source = match rule {
                OriginRule::Any => return None,
                OriginRule::SameHost => "'self'",
                OriginRule::Exact(origin) => origin,
                OriginRule::Null => continue, // no source stands for such pages
            };
            directive.push(' ');
            directive.push_str(source);
        }
        if !directive.contains(' ') {
            directive.push_str(" 'none'");
        }
        Some(directive)
    }

    /// The narrowest kind of rule that lets `origin` pass.
    pub(super) fn find(&self, origin: &[u8], host: Option<&str>) -> Option<OriginMatch> {
        let origin = std::str::from_utf8(origin).ok()?;
        let kind = |rule: &OriginRule| match rule {
            OriginRule::Any => Some(OriginMatch::Any),
            OriginRule::Null => (origin == "null").then_some(OriginMatch::Null),
            OriginRule::Exact(allowed) => match (split_origin(origin), split_origin(allowed)) {
                (Some(origin), Some(allowed)) if origin == allowed => Some(OriginMatch::Listed),
                _ => None,
            },
            OriginRule::SameHost => match (split_origin(origin), host.and_then(split_host)) {
                // The scheme in front of a proxy is unknown: its default port is the one that fits.
                (Some((scheme, name, port)), Some((host, host_port))) => {
                    let same = name.eq_ignore_ascii_case(host)
                        && host_port.or_else(|| default_port(&scheme)) == Some(port);
                    same.then_some(OriginMatch::Listed)
                }
                _ => None,
            },
        };
        self.0.iter().filter_map(kind).min_by_key(|kind| *kind as u8)
    }
}

/// `scheme://host[:port]` in lower case, with the port that the scheme implies.
fn split_origin(origin: &str) -> Option<(String, String, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let (host, port) = split_host(rest).filter(|(host, _)| !host.is_empty())?;
    let scheme = scheme.to_ascii_lowercase();
    let port = port.or_else(|| default_port(&scheme))?;
    Some((scheme, host.to_ascii_lowercase(), port))
}

/// A host and its port; an empty port is none (RFC 3986 §3.2.3).
fn split_host(authority: &str) -> Option<(&str, Option<u16>)> {
    match split_authority(authority)? {
        (host, None | Some("")) => Some((host, None)),
        (host, Some(port)) => Some((host, Some(port.parse().ok()?))),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Whether a request is a WebSocket handshake at all.
pub fn is_upgrade(head: &Head<'_>) -> bool {
    head.has_token("Upgrade", "websocket")
}

/// A handshake that may be answered with 101.
#[derive(Debug)]
pub struct Upgrade<'b> {
    key: &'b [u8],
    /// What was agreed on about compression.
    pub deflate: Option<Agreed>,
}

/// Checks everything that §4.2.1 requires of the client's handshake, and the origin.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_upgrade<'b>(
    head: &Head<'b>,
    origins: &OriginRules,
    deflate: bool,
) -> Result<Upgrade<'b>, Reject> {
    if head.method != "GET" {
        return Err(Reject::Method("GET"));
    }
    if head.minor_version < 1 {
        return Err(Reject::Version);
    }
    if !head.has_token("Connection", "upgrade") {
        return Err(Reject::Connection);
    }
    if head.only_field("Sec-WebSocket-Version") != Some(b"13") {
        return Err(Reject::WebSocketVersion);
    }
    let key = head.only_field("Sec-WebSocket-Key").filter(|key| is_key(key)).ok_or(Reject::Key)?;
    let mut origin = head.fields("Origin");
    if let Some(first) = origin.next()
        && (origin.next().is_some() || !origins.allow(first, head.host))
    {
        return Err(Reject::Origin);
    }
    let agreed = negotiate(head.fields("Sec-WebSocket-Extensions"))?;
    Ok(Upgrade { key, deflate: agreed.filter(|_| deflate) })
}

/// "a base64-encoded value that, when decoded, is 16 bytes in length": 22 digits and `==`. The last digit has
/// four unused bits, which need not be 0: in the example of §4.1, "AQIDBAUGBwgJCgsMDQ4PEC==", they are not.
/// The key is only hashed, as text.
fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else { return false };
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.len() == 22 && digits.iter().all(base64)
}

/// Appends the answer (§4.2.2).
pub fn accept_into(out: &mut Vec<u8>, upgrade: &Upgrade<'_>, subprotocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    let mut field = |name: &str, value: &dyn Fn(&mut Vec<u8>)| {
        out.extend_from_slice(name.as_bytes());
        value(out);
        out.extend_from_slice(b"\r\n");
    };
    let key = derive_accept_key(upgrade.key);
    field("Sec-WebSocket-Accept: ", &|out| out.extend_from_slice(key.as_bytes()));
    if let Some(subprotocol) = subprotocol {
        field("Sec-WebSocket-Protocol: ", &|out| out.extend_from_slice(subprotocol.as_bytes()));
    }
    if let Some(agreed) = upgrade.deflate {
        field("Sec-WebSocket-Extensions: ", &|out| agreed.response_into(out));
    }
    field("", &|_| {});
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HeadLimits, parse_head};
    use crate::ws::Step;

    /// The example of RFC 6455 §1.3, with one line replaced or added.
    fn handshake(change: &str) -> Result<String, Reject> {
        handshake_with(change, &OriginRules(vec![OriginRule::Any]))
    }

    fn handshake_with(change: &str, origins: &OriginRules) -> Result<String, Reject> {
        let mut lines = vec![
            "GET /chat HTTP/1.1",
            "Host: server.example.com",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Origin: http://example.com",
            "Sec-WebSocket-Protocol: chat, superchat",
            "Sec-WebSocket-Version: 13",
        ];
        let name = |line: &str| match line.split_once(": ") {
            Some((name, _)) => name.to_ascii_lowercase(),
            None => "the request line".to_owned(),
        };
        match lines.iter().position(|line| name(line) == name(change)) {
            Some(at) => lines[at] = change,
            None => lines.push(change),
        }
        let request = lines.join("\r\n") + "\r\n\r\n";
        let Step::Done(head) = parse_head(request.as_bytes(), &mut 0, &HeadLimits { head_bytes_max: 8192 })?
        else {
            panic!("incomplete")
        };
        assert!(is_upgrade(&head));
        let upgrade = check_upgrade(&head, origins, true)?;
        let mut out = Vec::new();
        accept_into(&mut out, &upgrade, head.offers_subprotocol("chat").then_some("chat"));
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_rfcs_own_example() {
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        assert_eq!(handshake("Accept: */*").as_deref(), Ok(expected));
    }

    /// The example of §4.1, whose last digit has unused bits; the accept key is made from the text as it
    /// came.
    #[test]
    fn the_key_of_the_rfcs_other_example() {
        let answer = handshake("Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==").unwrap();
        assert!(answer.contains("\r\nSec-WebSocket-Accept: OfS0wDaT5NoxF2gqm7Zj2YtetzM=\r\n"), "{answer}");
        let other = handshake("Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==").unwrap();
        assert_ne!(answer, other);
    }

    #[test]
    fn only_offered_subprotocols_are_selected() {
        for (offer, selected) in
            [("chat", true), ("CHAT", false), ("chatter", false), ("\"chat\"", false), ("x", false)]
        {
            let answer = handshake(&format!("Sec-WebSocket-Protocol: {offer}")).unwrap();
            assert_eq!(
                answer.contains("\r\nSec-WebSocket-Protocol: chat\r\n"),
                selected,
                "{offer}: {answer}"
            );
            assert_eq!(answer.contains("Sec-WebSocket-Protocol"), selected, "{offer}: {answer}");
        }
    }

    /// An answer with a status of 1xx has neither content nor a length (RFC 9110 §8.6, RFC 9112 §6.1).
    #[test]
    fn the_answer_is_a_head_and_nothing_more() {
        let answer = handshake("Sec-WebSocket-Extensions: permessage-deflate").unwrap();
        assert!(!answer.contains("Content-Length") && !answer.contains("Transfer-Encoding"));
        assert!(answer.ends_with("\r\n\r\n") && answer.matches("\r\n\r\n").count() == 1);
        assert!(answer.contains("\r\nSec-WebSocket-Extensions: permessage-deflate; "));
        let plain = handshake("Accept: */*").unwrap();
        assert!(!plain.contains("Sec-WebSocket-Extensions"), "{plain}");
    }

    /// Where the target is in absolute form its authority is the host, not the Host field (RFC 9112 §3.2.2).
    #[test]
    fn an_absolute_target_decides_which_origin_is_the_same() {
        for (target, origin, fine) in [
            ("GET http://example.com/chat HTTP/1.1", "http://example.com", true),
            ("GET WS://Example.com:80/chat HTTP/1.1", "http://example.com", true),
            ("GET http://example.com:81/chat HTTP/1.1", "http://example.com", false),
            ("GET http://example.com/chat HTTP/1.1", "http://server.example.com", false),
            ("GET /chat HTTP/1.1", "http://server.example.com", true),
        ] {
            let request = format!(
                "{target}\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n\r\n"
            );
            let limits = HeadLimits { head_bytes_max: 8192 };
            let Ok(Step::Done(head)) = parse_head(request.as_bytes(), &mut 0, &limits) else {
                panic!("{target}")
            };
            let upgrade = check_upgrade(&head, &OriginRules::default(), false);
            assert_eq!(
                upgrade.map(drop),
                if fine { Ok(()) } else { Err(Reject::Origin) },
                "{target} {origin}"
            );
        }
    }

    #[test]
    fn accepted_variants() {
        for fine in [
            "Connection: keep-alive, uPgrade",
            "Upgrade: h2c, WebSocket",
            "Sec-WebSocket-Protocol: other",
            "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
            "Sec-WebSocket-Extensions: x, permessage-deflate; mystery",
            "GET http://other.example:81/chat HTTP/1.1",
        ] {
            assert!(handshake(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn invalid_requests_get_their_status() {
        for (change, expected) in [
            ("POST /chat HTTP/1.1", Reject::Method("GET")),
            ("GET /chat HTTP/1.0", Reject::Version),
            ("Connection: keep-alive", Reject::Connection),
            ("Sec-WebSocket-Version: 8", Reject::WebSocketVersion),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=", Reject::Key),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ===", Reject::Key),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ-==", Reject::Key),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA", Reject::Key),
            ("Sec-WebSocket-Extensions: permessage-deflate; x=\"", Reject::Extensions),
            ("Sec-WebSocket-Key: c2hvcnQ=", Reject::Key),
            ("Sec-WebSocket-Key: ", Reject::Key),
        ] {
            assert_eq!(handshake(change), Err(expected), "{change}");
        }
    }

    #[test]
    fn origins() {
        let check = |rules: &[OriginRule], origin: &str, host: &str| {
            OriginRules(rules.to_vec()).allow(origin.as_bytes(), Some(host))
        };
        let same = [OriginRule::SameHost];
        assert!(check(&same, "http://chat.example", "chat.example"));
        assert!(check(&same, "https://Chat.example", "chat.example:443"));
        assert!(check(&same, "http://localhost:8080", "localhost:8080"));
        assert!(check(&same, "http://[::1]:8080", "[::1]:8080"));
        assert!(check(&same, "https://chat.example", "chat.example:"));
        for other in [
            "http://evil.example",
            "http://chat.example.evil.example",
            "http://chat.example:81",
            "http://chat.example:99999",
            "http://chat.example:80:80",
            "http://chat.example@evil.example",
            "null",
            "chat.example",
            "",
        ] {
            assert!(!check(&same, other, "chat.example"), "{other}");
        }
        let exact = [OriginRule::Exact("https://a.example".into()), OriginRule::Null];
        assert!(check(&exact, "https://A.example:443", "x"));
        assert!(check(&exact, "null", "x"));
        assert!(!check(&exact, "http://a.example", "x"));
        assert_eq!(
            handshake_with("Origin: http://example.com", &OriginRules::default()),
            Err(Reject::Origin)
        );
    }
}
