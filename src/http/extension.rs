//! Agreeing on permessage-deflate (RFC 6455 §9.1, RFC 7692 §5 and §7.1).
//!
//! Names of extensions and of their parameters are compared exactly. RFC 6455 has "ASCII case-insensitive"
//! where it means it, of `Upgrade` and `Connection` (§4.2.1), and nothing of the kind for extensions; a
//! client that compares exactly would take an answer in another case for an extension that it has not
//! offered, and fail. To decline an offer is always allowed.

use std::borrow::Cow;

use super::Reject;
use super::field::{elements, is_token, is_token_byte, trim};
use crate::ws::Window;

/// What was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// How our messages are compressed; `None`: never, which is always allowed (RFC 7692 §6).
    pub window: Option<Window>,
    /// The client's bound on our window, to be repeated in the answer (RFC 7692 §7.1.2.1).
    server_max_window_bits: Option<u8>,
}

impl Agreed {
    /// Appends the value of the answer's `Sec-WebSocket-Extensions`.
    ///
    /// Neither side keeps context: ours must not (one frame serves a whole room), the client's would cost a
    /// window for each connection. A server may use the latter without a request (RFC 7692 §7.1.1.2).
    pub fn response_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.server_max_window_bits {
            out.extend_from_slice(format!("; server_max_window_bits={bits}").as_bytes());
        }
    }
}

/// The first offer of permessage-deflate that can be accepted, among all `Sec-WebSocket-Extensions` headers
/// in order. Offers of other extensions, with parameters that are not defined or values that are not valid,
/// are declined (RFC 7692 §5.1).
///
/// # Errors
/// A value does not conform to the grammar, anywhere: "the recipient of such malformed data MUST immediately
/// _Fail the WebSocket Connection_" (RFC 6455 §9.1).
pub fn negotiate<'h>(headers: impl Iterator<Item = &'h [u8]>) -> Result<Option<Agreed>, Reject> {
    let mut agreed = None;
    for offer in headers.flat_map(elements) {
        let offer = Offer::parse(offer).ok_or(Reject::Extensions)?;
        agreed = agreed.or_else(|| offer.accept());
    }
    Ok(agreed)
}

/// `extension = extension-token *( ";" extension-param )` (RFC 6455 §9.1).
#[derive(PartialEq, Eq, Debug)]
struct Offer<'h> {
    name: &'h [u8],
    parameters: Vec<Parameter<'h>>,
}

/// `extension-param = token [ "=" (token | quoted-string) ]`, where a quoted string holds a token.
#[derive(PartialEq, Eq, Debug)]
struct Parameter<'h> {
    name: &'h [u8],
    value: Option<Cow<'h, [u8]>>,
}

impl<'h> Offer<'h> {
    /// `None`: it does not conform to the grammar.
    fn parse(offer: &'h [u8]) -> Option<Self> {
        let (name, mut rest) = take_token(offer)?;
        let mut parameters = Vec::new();
        loop {
            rest = trim(rest);
            if rest.is_empty() {
                return Some(Self { name, parameters });
            }
            let (name, after) = take_token(trim(rest.strip_prefix(b";")?))?;
            let (value, after) = match trim(after).strip_prefix(b"=") {
                Some(after) => {
                    let (value, after) = take_value(trim(after))?;
                    (Some(value), after)
                }
                None => (None, after),
            };
            parameters.push(Parameter { name, value });
            rest = after;
        }
    }

    /// What is agreed on if this offer is accepted; `None`: it is declined.
    fn accept(&self) -> Option<Agreed> {
        if self.name != b"permessage-deflate" {
            return None;
        }
        let mut seen: [bool; 4] = [false; 4];
        let mut server_bits = None;
        for Parameter { name, value } in &self.parameters {
            let value = value.as_deref();
            let (index, valid) = match *name {
                b"server_no_context_takeover" => (0, value.is_none()),
                b"client_no_context_takeover" => (1, value.is_none()),
                b"server_max_window_bits" => {
                    server_bits = value.and_then(window_bits);
                    (2, server_bits.is_some())
                }
                b"client_max_window_bits" => (3, value.is_none_or(|value| window_bits(value).is_some())),
                _ => return None,
            };
            if !valid || std::mem::replace(&mut seen[index], true) {
                return None;
            }
        }
        let window = match server_bits {
            None | Some(15) => Some(Window::Full),
            Some(9..=14) => Some(Window::Small),
            Some(_) => None, // zlib has no window of 256 bytes: agreed, but never used
        };
        Some(Agreed { window, server_max_window_bits: server_bits })
    }
}

/// The token at the front of `text`, and what follows it.
fn take_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The token or the quoted string at the front of `text`, without quotes and escapes, and what follows it.
/// "When using the quoted-string syntax variant, the value after quoted-string unescaping MUST conform to the
/// 'token' ABNF."
fn take_value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return take_token(text).map(|(token, rest)| (Cow::Borrowed(token), rest));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return is_token(&value).then_some((Cow::Owned(value), rest)),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                value.push(*byte);
                rest
            }
            [] => return None,
        };
    }
}

/// "a decimal integer value without leading zeroes between 8 to 15" (RFC 7692 §7.1.2.1).
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], expected: Result<Option<(Option<Window>, &str)>, Reject>) {
        let agreed = negotiate(headers.iter().map(|header| header.as_bytes()));
        let found = agreed.map(|agreed| {
            agreed.map(|agreed| {
                let mut out = Vec::new();
                agreed.response_into(&mut out);
                (agreed.window, String::from_utf8(out).unwrap())
            })
        });
        let base = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        let expected = expected.map(|agreed| agreed.map(|(window, more)| (window, format!("{base}{more}"))));
        assert_eq!(found, expected, "{headers:?}");
    }

    const PLAIN: Result<Option<(Option<Window>, &str)>, Reject> = Ok(Some((Some(Window::Full), "")));

    #[test]
    fn offers() {
        check(&[], Ok(None));
        check(&[""], Ok(None));
        check(&["permessage-deflate"], PLAIN);
        check(&["permessage-deflate; client_max_window_bits"], PLAIN);
        check(&["permessage-deflate;client_max_window_bits=8"], PLAIN);
        check(&["permessage-deflate ;\tclient_max_window_bits = 12 "], PLAIN);
        check(&["x-webkit-deflate-frame", "permessage-deflate"], PLAIN);
        check(&[", ,permessage-deflate,,"], PLAIN);
        check(
            &["permessage-deflate; server_max_window_bits=10; server_no_context_takeover"],
            Ok(Some((Some(Window::Small), "; server_max_window_bits=10"))),
        );
        check(
            &["permessage-deflate; server_max_window_bits=\"15\""],
            Ok(Some((Some(Window::Full), "; server_max_window_bits=15"))),
        );
        check(
            &[r#"permessage-deflate; server_max_window_bits="\1\5""#],
            Ok(Some((Some(Window::Full), "; server_max_window_bits=15"))),
        );
        check(
            &["permessage-deflate; server_max_window_bits=8"],
            Ok(Some((None, "; server_max_window_bits=8"))),
        );
    }

    #[test]
    fn bad_offers_are_declined_and_the_next_one_is_looked_at() {
        for bad in [
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=99",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover=\"1\"",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; mystery",
            "permessage-deflate; Server_No_Context_Takeover",
            "Permessage-Deflate",
            "permessage-bzip2",
        ] {
            check(&[bad], Ok(None));
            check(&[&format!("{bad}, permessage-deflate")], PLAIN);
            check(&[bad, "permessage-deflate"], PLAIN);
        }
    }

    /// None of these may be taken for an offer of permessage-deflate, which some of them have in a quoted
    /// string.
    #[test]
    fn grammar_violations_fail_the_handshake() {
        for bad in [
            "permessage-deflate;",
            "permessage-deflate; ; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"12",
            "permessage-deflate; client_max_window_bits=\"12\"3",
            "permessage-deflate; client_max_window_bits=\"\"",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate; =12",
            "x; y=\"a, permessage-deflate",
            "x; y=\"a, permessage-deflate\"",
            "x; y=\"a; b\"",
            r#"x; y="a\", permessage-deflate, ""#,
            r#"x; y="\"#,
            "\"permessage-deflate\"",
            "; x",
            "a/b",
            "p\u{e9}",
        ] {
            check(&[bad], Err(Reject::Extensions));
            check(&["permessage-deflate", bad], Err(Reject::Extensions));
        }
    }
}
