//! Why a connection has failed, and what to try: one sentence for each cause that the user can act on.

use rustls::{CertificateError, Error as TlsError};
use std::io::{Error as IoError, ErrorKind};

use super::http::ResponseHead;

/// No response to the opening handshake.
pub const HANDSHAKE_TIMEOUT: &str =
    "the handshake timed out: the server is overloaded, or needs a longer --handshake-timeout";

/// No message, or no position, that marks the client as connected.
pub const fn join_timeout(has_positions: bool) -> &'static str {
    if has_positions {
        "the join timed out: the server has answered the request, and sent no position"
    } else {
        "the join timed out: no message contained --ready-match; try another --preset, or --join and --ready-match"
    }
}

/// The connection has ended without a response to the handshake.
pub const CLOSED_IN_HANDSHAKE: &str =
    "the server closed the connection during the handshake; if it uses TLS on this port, use wss://";

/// A WebSocket has ended without a closing handshake.
pub const CLOSED_WITHOUT_FRAME: &str = "the server closed the connection without a Close frame";

/// The connection of a stream or a poll has ended.
pub const CLOSED_IN_RESPONSE: &str = "the server closed the connection in the middle of a response";

/// The first bytes of a TLS alert (RFC 8446 §5.1), which answers a request without TLS.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// A connection that cannot be opened, or breaks.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors of other crates: those that are not known here are shown as they are"
)]
pub fn connection(error: &IoError) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "the connection was refused: no server listens there, or its queue is full".to_owned()
        }
        ErrorKind::ConnectionReset => "the server reset the connection".to_owned(),
        ErrorKind::TimedOut => "the network does not answer".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("there is no route to the server: {error}")
        }
        _ => error.to_string(),
    }
}

/// A response to the opening handshake with a status other than 101. `body` is the beginning of its body.
pub fn status(code: u16, phrase: &str, location: Option<&str>, body: &[u8]) -> String {
    let advice = match code {
        200..=299 => Some("this is a web page and no WebSocket endpoint: try another path"),
        400 | 405 | 426 => {
            Some("this may be no WebSocket endpoint: try another path, --preset or --subprotocol")
        }
        _ => None,
    };
    with_advice("the handshake", (code, phrase), location, body, advice)
}

/// A response that is not what was requested. `content` is the beginning of its content.
pub fn refused(head: &ResponseHead<'_>, content: &[u8]) -> String {
    with_advice("the request", (head.status, head.phrase), head.location, content, None)
}

fn with_advice(
    what: &str,
    (code, phrase): (u16, &str),
    location: Option<&str>,
    body: &[u8],
    advice: Option<&str>,
) -> String {
    let body = String::from_utf8_lossy(body);
    let why: String =
        body.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(120).collect();
    let colon = if why.is_empty() { "" } else { ": " };
    let advice = match code {
        _ if body.contains("HTTPS port") => "the port uses TLS: use wss://".to_owned(),
        300..=399 => {
            format!("the server redirects to {}: use that URL", location.unwrap_or("an unknown place"))
        }
        401 | 403 | 407 => {
            "try --token-key, --tokens or a --header that authenticates the clients".to_owned()
        }
        404 | 410 => "there is no such endpoint: try another path or --preset".to_owned(),
        429 | 503 => "the server is at a limit of connections, or not ready".to_owned(),
        _ => match advice {
            Some(advice) => advice.to_owned(),
            None => return format!("{what} was refused with {code} {phrase}{colon}{why}"),
        },
    };
    format!("{what} was refused with {code} {phrase}{colon}{why} ({advice})")
}

/// A response that is not HTTP.
pub fn not_http(bytes: &[u8], error: httparse::Error) -> String {
    if bytes.starts_with(&TLS_ALERT) {
        "the server expects TLS on this port: use wss://".to_owned()
    } else {
        format!("the response is not HTTP: {error}")
    }
}

/// A TLS session that has failed.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors of other crates: those that are not known here are shown as they are"
)]
pub fn tls(error: &TlsError) -> String {
    match error {
        TlsError::InvalidMessage(_) => "the server does not use TLS on this port: use ws://".to_owned(),
        TlsError::InvalidCertificate(certificate) => {
            format!("TLS failed: {}", self::certificate(certificate))
        }
        TlsError::AlertReceived(alert) => {
            format!("TLS failed: the server ended the handshake with the alert {alert:?}")
        }
        _ => format!("TLS failed: {error}"),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors of other crates: those that are not known here are shown as they are"
)]
fn certificate(error: &CertificateError) -> String {
    match error {
        // The second: an authority of this name is trusted, but has not signed it.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the authority of the server's certificate is not trusted: give it with --ca FILE, or use --insecure"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the server's certificate is for another name: use that in the URL, or --insecure ({error})")
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid at this time: renew it, or use --insecure ({error})")
        }
        // The verifier has no variant for it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the server uses the certificate of an authority as its own: have the authority issue one for the \
             server, or use --insecure"
                .to_owned()
        }
        other => format!("the server's certificate is not accepted: {other:?}; use --insecure to accept any"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_advice() {
        let check = |code, body: &str, part: &str| {
            let text = status(code, "Phrase", Some("/chat"), body.as_bytes());
            assert!(text.starts_with(&format!("the handshake was refused with {code} Phrase")), "{text}");
            assert!(text.contains(part), "{text}");
        };
        check(404, "nothing here\n<html>", ": nothing here (there is no such endpoint");
        check(403, "bad room", ": bad room (try --token-key");
        check(400, "The plain HTTP request was sent to HTTPS port", "use wss://");
        check(301, "", "redirects to /chat");
        check(200, "<html>", "is a web page");
        check(503, "", "at a limit of connections");
        assert!(!status(500, "Error", None, b"").contains('('));
    }

    #[test]
    fn tls_and_plain_ports_are_distinguished() {
        let alert = [0x15, 0x03, 0x03, 0, 2, 2, 40];
        assert!(not_http(&alert, httparse::Error::Token).contains("use wss://"));
        assert!(not_http(b"SSH-2.0", httparse::Error::Token).contains("is not HTTP"));
        let plain = TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(tls(&plain).contains("use ws://"));
        let unknown = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(tls(&unknown).contains("--ca FILE"));
    }
}
