//! Agreeing on permessage-deflate (RFC 7692 §5 and §7.1).

use super::Window;

/// What was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// How our messages are compressed; `None`: never, which is always allowed (§6).
    pub window: Option<Window>,
    /// The client's bound on our window, to be repeated in the answer (§7.1.2.1).
    server_max_window_bits: Option<u8>,
}

impl Agreed {
    /// Appends the value of the answer's `Sec-WebSocket-Extensions`.
    ///
    /// Neither side keeps context: ours must not (one frame serves a whole room), the client's would cost a window
    /// for each connection. A server may ask for the latter unasked (§7.1.1.2).
    pub fn response_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.server_max_window_bits {
            out.extend_from_slice(format!("; server_max_window_bits={bits}").as_bytes());
        }
    }
}

/// The first offer of permessage-deflate that can be accepted, among all `Sec-WebSocket-Extensions` headers in order.
/// Offers that break a rule, or that we do not know, are declined as if they had not been made (§5.1).
pub fn negotiate<'h>(headers: impl Iterator<Item = &'h [u8]>) -> Option<Agreed> {
    headers
        .filter_map(|header| std::str::from_utf8(header).ok())
        .flat_map(|header| header.split(','))
        .find_map(accept)
}

fn accept(offer: &str) -> Option<Agreed> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen: [bool; 4] = [false; 4];
    let mut server_bits = None;
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start()))),
            None => (parameter, None),
        };
        let (index, valid) = match (name, value) {
            ("server_no_context_takeover", value) => (0, value.is_none()),
            ("client_no_context_takeover", value) => (1, value.is_none()),
            ("server_max_window_bits", value) => {
                server_bits = value.and_then(window_bits);
                (2, server_bits.is_some())
            }
            ("client_max_window_bits", value) => (3, value.is_none_or(|value| window_bits(value).is_some())),
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

/// "a decimal integer value without leading zeroes between 8 to 15" (§7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    value.parse().ok().filter(|bits| plain && (8..=15).contains(bits))
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], expected: Option<(Option<Window>, &str)>) {
        let agreed = negotiate(headers.iter().map(|header| header.as_bytes()));
        let found = agreed.map(|agreed| {
            let mut out = Vec::new();
            agreed.response_into(&mut out);
            (agreed.window, String::from_utf8(out).unwrap())
        });
        let base = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(found, expected.map(|(window, more)| (window, format!("{base}{more}"))), "{headers:?}");
    }

    #[test]
    fn offers() {
        check(&[], None);
        check(&["permessage-deflate"], Some((Some(Window::Full), "")));
        check(&["permessage-deflate; client_max_window_bits"], Some((Some(Window::Full), "")));
        check(&["permessage-deflate;client_max_window_bits=8"], Some((Some(Window::Full), "")));
        check(&["x-webkit-deflate-frame", "Permessage-Deflate"], Some((Some(Window::Full), "")));
        check(
            &["permessage-deflate; server_max_window_bits=10; server_no_context_takeover"],
            Some((Some(Window::Small), "; server_max_window_bits=10")),
        );
        check(
            &["permessage-deflate; server_max_window_bits=\"15\""],
            Some((Some(Window::Full), "; server_max_window_bits=15")),
        );
        check(&["permessage-deflate; server_max_window_bits=8"], Some((None, "; server_max_window_bits=8")));
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
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; mystery",
            "permessage-deflate;",
            "permessage-bzip2",
        ] {
            check(&[bad], None);
            check(&[&format!("{bad}, permessage-deflate")], Some((Some(Window::Full), "")));
        }
    }
}
