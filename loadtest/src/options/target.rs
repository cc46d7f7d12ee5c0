//! The server that the options name, and its protocol.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::Options;
use crate::plan::Target;
use crate::preset::{Preset, RecoveredMatch, ServerProtocol, Transport, stentor_over};
use crate::template::{Part, Template};

impl Options {
    fn protocol(&self, transport: Transport, has_tokens: bool) -> Result<ServerProtocol, String> {
        let mut protocol = self.base_protocol(transport)?;
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

    /// The preset's, over this transport.
    fn base_protocol(&self, transport: Transport) -> Result<ServerProtocol, String> {
        let preset = self.preset.unwrap_or_default();
        if transport == Transport::Ws {
            return Ok(preset.protocol());
        }
        let name = transport.name();
        if preset != Preset::Stentor {
            return Err(format!(
                "--transport {name} is for --preset stentor: the other presets use WebSocket"
            ));
        }
        let of_websocket = [
            ("--deflate", self.deflate),
            ("--subprotocol", self.subprotocol.is_some()),
            ("--join", !self.join.is_empty()),
            ("--ready-match", self.ready_match.is_some()),
            ("--auto-reply", !self.auto_replies.is_empty()),
            ("--binary", self.binary),
            ("--rejoin", !self.rejoin.is_empty()),
            ("--position-pattern", !self.position_patterns.is_empty()),
            ("--recovered-match", self.recovered_match.is_some()),
        ];
        match of_websocket.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => {
                Err(format!("{option} is for WebSocket: it cannot be combined with --transport {name}"))
            }
            None => Ok(stentor_over(transport)),
        }
    }

    /// Where messages are published by requests, if the URL has the path where they are received.
    fn post_path(&self, url: &str, path: &str) -> Result<Option<Template>, String> {
        let transport = self.transport.unwrap_or_default();
        if !transport.posts() {
            return Ok(None);
        }
        let (receives, publishes) = transport.path_parts();
        let Some((before, after)) = path.split_once(receives) else {
            return Err(format!(
                "{url}: with --transport {} the path must have {receives}, in whose place {publishes} publishes",
                transport.name()
            ));
        };
        Ok(Some(format!("{before}{publishes}{after}").into()))
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
        let transport = self.transport.unwrap_or_default();
        let mut protocol = self.protocol(transport, has_tokens)?;
        let of_publishers = self.publishers_transport.filter(|&it| it != transport);
        let publishers_protocol =
            of_publishers.map(|transport| self.protocol(transport, has_tokens)).transpose()?;
        let url = self.url.as_deref().unwrap_or_else(|| self.preset.unwrap_or_default().default_origin());
        let (tls, rest) = match url.split_once("://") {
            Some(("ws", rest)) => (false, rest),
            Some(("wss", rest)) => (true, rest),
            Some(("http", rest)) if transport != Transport::Ws => (false, rest),
            Some(("https", rest)) if transport != Transport::Ws => (true, rest),
            _ if transport == Transport::Ws => return Err(format!("{url} is not a ws:// or wss:// URL")),
            _ => return Err(format!("{url} is not a ws://, wss://, http:// or https:// URL")),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if !matches!(path, "" | "/") {
            if publishers_protocol.is_some() {
                return Err(format!("{url}: with --publishers-transport the URL has no path: there are two"));
            }
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            protocol.post_path = self.post_path(url, &path)?;
            protocol.path = path.into();
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
            url: format!("{}://{authority}{rendered}", scheme(transport, tls)),
            address,
            authority: authority.to_owned(),
            host,
            tls,
            ca: self.ca.clone(),
            insecure: self.insecure,
            deflate: self.deflate,
            protocol,
            publishers_protocol,
        })
    }
}

const fn scheme(transport: Transport, tls: bool) -> &'static str {
    match (transport, tls) {
        (Transport::Ws, false) => "ws",
        (Transport::Ws, true) => "wss",
        (Transport::Sse | Transport::Stream | Transport::Poll | Transport::Sockjs, false) => "http",
        (Transport::Sse | Transport::Stream | Transport::Poll | Transport::Sockjs, true) => "https",
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

    fn over(transport: Transport, url: &str) -> Result<Target, String> {
        Options { url: Some(url.to_owned()), transport: Some(transport), ..Options::default() }.target(false)
    }

    #[test]
    fn a_transport_has_its_paths() {
        let path = |template: &Template| String::from(template.clone());
        for (transport, at) in
            [(Transport::Sse, "sse"), (Transport::Stream, "stream"), (Transport::Poll, "poll")]
        {
            for url in ["ws://127.0.0.1:8080", "http://127.0.0.1:8080/"] {
                let found = over(transport, url).unwrap();
                assert_eq!(found.url, format!("http://127.0.0.1:8080/{at}/{{name}}?room={{room}}"));
                assert_eq!(path(found.protocol.post_path.as_ref().unwrap()), "/send/{name}?room={room}");
            }
            let found = over(transport, &format!("https://127.0.0.1/chat/{at}/a?room=b")).unwrap();
            assert_eq!((found.tls, found.address.port()), (true, 443));
            assert_eq!(path(found.protocol.post_path.as_ref().unwrap()), "/chat/send/a?room=b");
            let error = over(transport, "ws://127.0.0.1/chat").unwrap_err();
            assert!(error.contains(&format!("the path must have /{at}/")), "{error}");
        }
        let found = over(Transport::Sockjs, "ws://127.0.0.1").unwrap();
        assert_eq!(path(found.protocol.post_path.as_ref().unwrap()), "/sockjs/000/{session}/xhr_send");
        assert!(over(Transport::Ws, "http://127.0.0.1").is_err());
    }

    #[test]
    fn what_is_for_websocket_alone_is_rejected() {
        let check = |options: Options, part: &str| {
            let error = options.target(false).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        let options = Options { transport: Some(Transport::Sse), ..Options::default() };
        check(
            Options { deflate: true, ..options.clone() },
            "--deflate is for WebSocket: it cannot be combined",
        );
        check(Options { binary: true, ..options.clone() }, "--binary is for WebSocket");
        check(
            Options { preset: Some(Preset::Nats), ..options.clone() },
            "--transport sse is for --preset stentor",
        );
        let mixed = Options { publishers_transport: Some(Transport::Ws), ..options };
        let target = mixed.target(false).unwrap();
        assert_eq!(target.publishers_protocol.unwrap().transport, Transport::Ws);
        check(Options { url: Some("ws://127.0.0.1/sse/a".to_owned()), ..mixed }, "the URL has no path");
    }
}
