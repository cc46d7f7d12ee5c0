//! The opening handshake, the client's half (RFC 6455 §4.1).

use tungstenite::handshake::derive_accept_key;

use crate::units::Dice;

/// More than this is no answer to a handshake.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// What we offer when permessage-deflate is wanted. Without context takeover a connection keeps no window.
const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A client's Sec-WebSocket-Key. It comes again from the same seed, so that nobody has to keep it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(pub u64);

impl Key {
    /// Sixteen bytes in base64 (RFC 6455 §4.1).
    pub fn text(self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut dice = Dice::new(self.0);
        let digits = (0..21).map(|_| char::from(DIGITS[(dice.roll() % 64) as usize]));
        // 128 bits end in the middle of the 22nd digit: its lower half is zero.
        digits.chain("A==".chars()).collect()
    }
}

/// What a client has asked for, as far as the answer must fit it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its key.
    pub key: Key,
    /// The subprotocol that it offers.
    pub subprotocol: Option<&'a str>,
    /// Whether it offers permessage-deflate.
    pub deflate: bool,
}

impl Asked<'_> {
    /// The request as it is sent. `host` has the port; `headers` are further ones, each line with its end.
    pub fn request(&self, host: &str, path: &str, headers: &str) -> Vec<u8> {
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

/// What was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// Both sides may compress.
    pub deflate: bool,
}

/// What came of looking at an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is not all there.
    NeedMore,
    /// The connection is open; so many bytes were the answer.
    Open(Agreed, usize),
    /// It is not, for this reason.
    Refused(String),
}

/// Looks at the front of what the server has sent.
pub fn answer(bytes: &[u8], asked: Asked<'_>) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => {
            return Answer::Refused("the server's answer to the handshake has no end".to_owned());
        }
        Ok(httparse::Status::Partial) => return Answer::NeedMore,
        Err(error) => return Answer::Refused(format!("the server's answer is no HTTP: {error}")),
    };
    let code = response.code.unwrap_or(0);
    if code != 101 {
        let why = String::from_utf8_lossy(&bytes[len..]);
        let why = why.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(120);
        let why: String = why.collect();
        let colon = if why.is_empty() { "" } else { ": " };
        let phrase = response.reason.unwrap_or_default();
        return Answer::Refused(format!("the handshake was refused with {code} {phrase}{colon}{why}"));
    }
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    if !header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Answer::Refused("the server's 101 does not upgrade to websocket".to_owned());
    }
    if header("Sec-WebSocket-Accept") != Some(&derive_accept_key(asked.key.text().as_bytes())) {
        return Answer::Refused("the server's Sec-WebSocket-Accept does not fit the key".to_owned());
    }
    if let Some(chosen) = header("Sec-WebSocket-Protocol")
        && asked.subprotocol != Some(chosen)
    {
        return Answer::Refused(format!("the server chose the subprotocol {chosen}, which was not offered"));
    }
    let Some(extensions) = header("Sec-WebSocket-Extensions") else {
        return Answer::Open(Agreed::default(), len);
    };
    // "If a server accepts an offer with this parameter it MUST include it in the answer" (RFC 7692 §7.1.1.1).
    if asked.deflate
        && extensions.starts_with("permessage-deflate")
        && extensions.contains("server_no_context_takeover")
    {
        return Answer::Open(Agreed { deflate: true }, len);
    }
    Answer::Refused(format!("the server chose the extension {extensions}, which was not offered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked { key: Key(1), subprotocol: Some("chat"), deflate: true };

    fn check(more: &str, expected: Result<bool, &str>) {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n";
        let text = format!("{head}{more}\r\n");
        let found = answer(&[text.as_bytes(), b"\x81\x00"].concat(), ASKED);
        match expected {
            Ok(deflate) => assert_eq!(found, Answer::Open(Agreed { deflate }, text.len())),
            Err(part) => assert!(matches!(&found, Answer::Refused(why) if why.contains(part)), "{found:?}"),
        }
        assert_eq!(answer(&text.as_bytes()[..text.len() - 1], ASKED), Answer::NeedMore);
    }

    #[test]
    fn an_answer_is_believed_only_when_it_fits() {
        let accept = format!("Sec-WebSocket-Accept: {}\r\n", derive_accept_key(Key(1).text().as_bytes()));
        let with = |more: &str| format!("{accept}{more}\r\n");
        check(&accept, Ok(false));
        check(&with("Sec-WebSocket-Protocol: chat"), Ok(false));
        check(&with(&format!("Sec-WebSocket-Extensions: {OFFER}")), Ok(true));
        check("", Err("does not fit"));
        check("Sec-WebSocket-Accept: aaaa\r\n", Err("does not fit"));
        check(&with("Sec-WebSocket-Protocol: other"), Err("other"));
        check(&with("Sec-WebSocket-Extensions: permessage-deflate"), Err("not offered"));
        check(&with("Sec-WebSocket-Extensions: x-other"), Err("x-other"));
    }

    #[test]
    fn another_server_takes_our_request() {
        use tungstenite::handshake::server::create_response;
        let bytes = ASKED.request("h:1", "/ws/a?room=b", "X-Further: 1\r\n");
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
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
    fn a_refusal_tells_why() {
        let bytes = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nbad room\n";
        let why = "the handshake was refused with 403 Forbidden: bad room".to_owned();
        assert_eq!(answer(bytes, ASKED), Answer::Refused(why));
        assert!(matches!(answer(b"SSH-2.0-OpenSSH\r\n", ASKED), Answer::Refused(_)));
        assert!(matches!(answer(&[b'H'; HEAD_BYTES_MAX + 1], ASKED), Answer::Refused(_)));
    }
}
