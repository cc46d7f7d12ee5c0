//! The server that the options name, and its protocol.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::Options;
use crate::plan::Target;
use crate::preset::{RecoveredMatch, ServerProtocol};
use crate::template::{Part, Template};

impl Options {
    fn protocol(&self, has_tokens: bool) -> Result<ServerProtocol, String> {
        let mut protocol = self.preset.unwrap_or_default().protocol();
        for header in &self.headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                return Err(format!("--header {header:?} is not of the form \"Name: value\""));
            }
            protocol.headers.push(header.as_str().into());
        }
        if !self.join.is_empty() {
            protocol.join = self.join.iter().map(|message| message.as_str().into()).collect();
        }
        if let Some(publish) = &self.publish {
            protocol.publish = publish.as_str().into();
        }
        if !protocol.publish.has(&Part::Text) {
            return Err("--publish requires {text}, the placeholder of the message".to_owned());
        }
        for auto_reply in &self.auto_replies {
            let Some((line, reply)) = auto_reply.split_once('=') else {
                return Err(format!("--auto-reply {auto_reply:?} is not of the form LINE=REPLY"));
            };
            protocol.auto_replies.push((line.to_owned(), reply.to_owned()));
        }
        protocol.subprotocol = self.subprotocol.clone().or(protocol.subprotocol);
        protocol.ready_match = self.ready_match.clone().or(protocol.ready_match);
        protocol.error_match = self.error_match.clone().or(protocol.error_match);
        protocol.binary |= self.binary;
        self.recovery(&mut protocol)?;
        if has_tokens {
            self.place_token(&mut protocol)?;
        }
        Ok(protocol)
    }

    /// Adds `{token}` where the preset has it, unless an option does.
    fn place_token(&self, protocol: &mut ServerProtocol) -> Result<(), String> {
        let in_url = self.url.as_deref().is_some_and(|url| url.contains("{token}"));
        let in_options = self.headers.iter().chain(&self.join).any(|text| text.contains("{token}"));
        if in_url || in_options || protocol.authenticate() {
            return Ok(());
        }
        Err("set the place of {token} in the URL, --header or --join: this preset has none for it".to_owned())
    }

    /// The recovery options, applied over those of the preset.
    fn recovery(&self, protocol: &mut ServerProtocol) -> Result<(), String> {
        let templates = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let given =
            !self.rejoin.is_empty() || !self.position_patterns.is_empty() || self.recovered_match.is_some();
        if given && !self.resume {
            return Err("--rejoin, --position-pattern and --recovered-match require --resume".to_owned());
        }
        if given {
            let recovery = protocol.recovery.get_or_insert_default();
            if !self.rejoin.is_empty() {
                recovery.recovery_join = templates(&self.rejoin);
            }
            if !self.position_patterns.is_empty() {
                recovery.position_patterns = templates(&self.position_patterns);
            }
            if let Some(mark) = &self.recovered_match {
                recovery.recovered_match = RecoveredMatch::Present(mark.clone());
            }
        }
        let begins = |pattern: &Template| matches!(pattern.parts().first(), Some(Part::Literal(_)));
        match &protocol.recovery {
            Some(recovery) if !recovery.position_patterns.iter().all(begins) => {
                Err("--position-pattern must begin with literal text before {epoch} or {offset}".to_owned())
            }
            None if self.resume => {
                Err("this preset has no recovery: set --rejoin, --position-pattern and --recovered-match"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn target(&self, has_tokens: bool) -> Result<Target, String> {
        let mut protocol = self.protocol(has_tokens)?;
        let url = self.url.as_deref().unwrap_or_else(|| self.preset.unwrap_or_default().default_origin());
        let (tls, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("{url} is not a ws:// or wss:// URL")),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if !matches!(path, "" | "/") {
            protocol.path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
        }
        let rendered = String::from(protocol.path.clone());
        if rendered.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{url} is not a URL: it contains a space"));
        }
        let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let with_port = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:{}", if tls { 443 } else { 80 })
        };
        let host = with_port.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
        if host.is_empty() {
            return Err(format!("{url} names no host"));
        }
        let addresses: Vec<_> = with_port
            .to_socket_addrs()
            .map_err(|error| format!("{authority} is not found: {error}"))?
            .collect();
        let address = first_that_accepts(&addresses).ok_or_else(|| format!("{authority} has no address"))?;
        Ok(Target {
            url: format!("{}://{authority}{rendered}", if tls { "wss" } else { "ws" }),
            address,
            authority: authority.to_owned(),
            host,
            tls,
            ca: self.ca.clone(),
            insecure: self.insecure,
            deflate: self.deflate,
            protocol,
        })
    }
}

/// How long an address of several may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address that the load goes to, of those that a name has: `localhost` is often `::1` first, where the
/// server may not listen. The first one, if none accepts: its failure is then the reported one. `None`: there
/// is none.
#[expect(clippy::disallowed_types, reason = "the connection is closed before the load begins")]
fn first_that_accepts(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let [first, _, ..] = addresses else { return addresses.first().copied() };
    let accepts =
        |address: &&SocketAddr| std::net::TcpStream::connect_timeout(address, PROBE_TIMEOUT).is_ok();
    addresses.iter().find(accepts).or(Some(first)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_types, reason = "a test's own listener")]
    fn of_several_addresses_one_that_accepts_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 9], open.port()));
        assert_eq!(first_that_accepts(&[closed, open]), Some(open));
        assert_eq!(first_that_accepts(&[closed, closed]), Some(closed));
        assert_eq!(first_that_accepts(&[closed]), Some(closed));
        assert_eq!(first_that_accepts(&[]), None);
    }

    #[test]
    fn urls_are_taken_apart() {
        let target = |url: &str| Options { url: Some(url.to_owned()), ..Options::default() }.target(false);
        let found = target("ws://127.0.0.1").unwrap();
        assert_eq!(
            (found.address.port(), found.tls, found.url.as_str()),
            (80, false, "ws://127.0.0.1/ws/{name}?room={room}")
        );
        let found = target("wss://[::1]:8443?x=1").unwrap();
        assert_eq!((found.address.port(), found.tls, found.host.as_str()), (8443, true, "[::1]"));
        assert_eq!(String::from(found.protocol.path), "/?x=1");
        for (url, part) in [
            ("http://127.0.0.1", "not a ws:// or wss:// URL"),
            ("ws://127.0.0.1/a b", "it contains a space"),
            ("ws:///a", "names no host"),
        ] {
            let error = target(url).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
