//! The opening handshake, the client's half (RFC 6455 §4.1).

use tungstenite::handshake::derive_accept_key;

use super::cause;
use super::http::{FIELDS_MAX, HEAD_BYTES_MAX};
use crate::units::Rng;

/// The offer of permessage-deflate. Without context takeover a connection keeps no compression window.
const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The seed of a client's Sec-WebSocket-Key, from which the key is derived again when the response arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(pub u64);

impl Key {
    /// Sixteen bytes in base64 (RFC 6455 §4.1).
    pub fn text(self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut rng = Rng::new(self.0);
        let digits = (0..21).map(|_| char::from(DIGITS[(rng.next_u32() % 64) as usize]));
        // 128 bits end in the middle of the 22nd digit: its lower half is zero.
        digits.chain("A==".chars()).collect()
    }
}

/// The request of a client, as far as the response must match it.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeRequest<'a> {
    /// Its key.
    pub key: Key,
    /// The offered subprotocol.
    pub subprotocol: Option<&'a str>,
    /// Whether permessage-deflate is offered.
    pub deflate: bool,
}

impl HandshakeRequest<'_> {
    /// Encodes the request. `host` includes the port; `headers` are additional header lines with their line
    /// ends.
    pub fn encode(&self, host: &str, path: &str, headers: &str) -> Vec<u8> {
        let key = self.key.text();
        let mut text = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}"
        );
        if let Some(subprotocol) = self.subprotocol {
            text.push_str(&format!("Sec-WebSocket-Protocol: {subprotocol}\r\n"));
        }
        if self.deflate {
            text.push_str(&format!("Sec-WebSocket-Extensions: {OFFER}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// The negotiated extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Negotiated {
    /// Both sides may compress.
    pub deflate: bool,
}

/// The outcome of parsing a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HandshakeResponse {
    /// The response is incomplete.
    NeedMore,
    /// The connection is open; the response had this length.
    Accepted(Negotiated, usize),
    /// The handshake failed, for this reason.
    Rejected(String),
}

/// Parses the response at the front of `bytes` and checks it against the request.
pub fn parse_response(bytes: &[u8], request: HandshakeRequest<'_>) -> HandshakeResponse {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => {
            return HandshakeResponse::Rejected("the response to the handshake exceeds 16 KiB".to_owned());
        }
        Ok(httparse::Status::Partial) => return HandshakeResponse::NeedMore,
        Err(error) => {
            return HandshakeResponse::Rejected(cause::not_http(bytes, error));
        }
    };
    let code = response.code.unwrap_or(0);
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    if code != 101 {
        let phrase = response.reason.unwrap_or_default();
        let why = cause::status(code, phrase, header("Location"), &bytes[len..]);
        return HandshakeResponse::Rejected(why);
    }
    if !header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return HandshakeResponse::Rejected("the server's 101 does not upgrade to websocket".to_owned());
    }
    if header("Sec-WebSocket-Accept") != Some(&derive_accept_key(request.key.text().as_bytes())) {
        return HandshakeResponse::Rejected(
            "the server's Sec-WebSocket-Accept does not match the key".to_owned(),
        );
    }
    if let Some(chosen) = header("Sec-WebSocket-Protocol")
        && request.subprotocol != Some(chosen)
    {
        return HandshakeResponse::Rejected(format!(
            "the server chose the subprotocol {chosen}, which was not offered"
        ));
    }
    let Some(extensions) = header("Sec-WebSocket-Extensions") else {
        return HandshakeResponse::Accepted(Negotiated::default(), len);
    };
    // A server accepts the offer of this parameter by including it in its response (RFC 7692 §7.1.1.1).
    if request.deflate
        && extensions.starts_with("permessage-deflate")
        && extensions.contains("server_no_context_takeover")
    {
        return HandshakeResponse::Accepted(Negotiated { deflate: true }, len);
    }
    HandshakeResponse::Rejected(format!("the server chose the extension {extensions}, which was not offered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: HandshakeRequest<'_> =
        HandshakeRequest { key: Key(1), subprotocol: Some("chat"), deflate: true };

    fn check(more: &str, expected: Result<bool, &str>) {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n";
        let text = format!("{head}{more}\r\n");
        let found = parse_response(&[text.as_bytes(), b"\x81\x00"].concat(), REQUEST);
        match expected {
            Ok(deflate) => assert_eq!(found, HandshakeResponse::Accepted(Negotiated { deflate }, text.len())),
            Err(part) => {
                assert!(matches!(&found, HandshakeResponse::Rejected(why) if why.contains(part)), "{found:?}")
            }
        }
        assert_eq!(parse_response(&text.as_bytes()[..text.len() - 1], REQUEST), HandshakeResponse::NeedMore);
    }

    #[test]
    fn a_response_must_match_the_request() {
        let accept = format!("Sec-WebSocket-Accept: {}\r\n", derive_accept_key(Key(1).text().as_bytes()));
        let with = |more: &str| format!("{accept}{more}\r\n");
        check(&accept, Ok(false));
        check(&with("Sec-WebSocket-Protocol: chat"), Ok(false));
        check(&with(&format!("Sec-WebSocket-Extensions: {OFFER}")), Ok(true));
        check("", Err("does not match"));
        check("Sec-WebSocket-Accept: aaaa\r\n", Err("does not match"));
        check(&with("Sec-WebSocket-Protocol: other"), Err("other"));
        check(&with("Sec-WebSocket-Extensions: permessage-deflate"), Err("not offered"));
        check(&with("Sec-WebSocket-Extensions: x-other"), Err("x-other"));
    }

    #[test]
    fn tungstenite_accepts_the_request() {
        use tungstenite::handshake::server::create_response;
        let bytes = REQUEST.encode("h:1", "/ws/a?room=b", "X-Further: 1\r\n");
        let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        assert!(parsed.parse(&bytes).unwrap().is_complete());
        let mut request = tungstenite::http::Request::builder().uri(parsed.path.unwrap());
        for header in parsed.headers {
            request = request.header(header.name, header.value);
        }
        let response = create_response(&request.body(()).unwrap()).unwrap();
        let accept = response.headers()["Sec-WebSocket-Accept"].to_str().unwrap();
        assert_eq!(accept, derive_accept_key(Key(1).text().as_bytes()));
        assert_eq!(Key(1).text().len(), 24);
        assert_ne!(Key(1).text(), Key(2).text());
    }

    #[test]
    fn a_rejection_includes_the_reason() {
        let bytes = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nbad room\n";
        let why = "the handshake was refused with 403 Forbidden: bad room";
        let found = parse_response(bytes, REQUEST);
        assert!(matches!(&found, HandshakeResponse::Rejected(text) if text.starts_with(why)), "{found:?}");
        assert!(matches!(parse_response(b"SSH-2.0-OpenSSH\r\n", REQUEST), HandshakeResponse::Rejected(_)));
        assert!(matches!(
            parse_response(&[b'H'; HEAD_BYTES_MAX + 1], REQUEST),
            HandshakeResponse::Rejected(_)
        ));
    }
}
