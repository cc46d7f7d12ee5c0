//! The server that options name, and how it is talked to.

use std::net::ToSocketAddrs;

use super::Options;
use crate::plan::Target;
use crate::preset::{Dialect, Recovered};
use crate::template::{Piece, Template};

impl Options {
    fn dialect(&self) -> Result<Dialect, String> {
        let mut dialect = self.preset.unwrap_or_default().dialect();
        for header in &self.headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                return Err(format!("--header {header:?} is none: write it as \"Name: value\""));
            }
            dialect.headers.push(header.as_str().into());
        }
        if !self.join.is_empty() {
            dialect.join = self.join.iter().map(|message| message.as_str().into()).collect();
        }
        if let Some(say) = &self.say {
            dialect.say = say.as_str().into();
        }
        if !dialect.say.has_text() {
            return Err("--say needs a {text}, which becomes the message".to_owned());
        }
        for answer in &self.answers {
            let Some((line, answer)) = answer.split_once('=') else {
                return Err(format!("--answer {answer:?} is none: write it as LINE=ANSWER"));
            };
            dialect.answers.push((line.to_owned(), answer.to_owned()));
        }
        dialect.subprotocol = self.subprotocol.clone().or(dialect.subprotocol);
        dialect.joined = self.joined.clone().or(dialect.joined);
        dialect.complaint = self.complaint.clone().or(dialect.complaint);
        dialect.binary |= self.binary;
        self.resuming(&mut dialect)?;
        Ok(dialect)
    }

    /// How those who come back go on, where it is not as the preset says.
    fn resuming(&self, dialect: &mut Dialect) -> Result<(), String> {
        let templates = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let said = !self.rejoin.is_empty() || !self.positions.is_empty() || self.recovered.is_some();
        if said && !self.resume {
            return Err("--rejoin, --position and --recovered mean nothing without --resume".to_owned());
        }
        if said {
            let resuming = dialect.resuming.get_or_insert_default();
            if !self.rejoin.is_empty() {
                resuming.rejoin = templates(&self.rejoin);
            }
            if !self.positions.is_empty() {
                resuming.positions = templates(&self.positions);
            }
            if let Some(mark) = &self.recovered {
                resuming.recovered = Recovered::If(mark.clone());
            }
        }
        let begins = |pattern: &Template| matches!(pattern.pieces().first(), Some(Piece::Literal(_)));
        match &dialect.resuming {
            Some(resuming) if !resuming.positions.iter().all(begins) => {
                Err("--position must begin with a text that stands before {epoch} or {offset}".to_owned())
            }
            None if self.resume => Err(
                "how one resumes at such a server is not known: say it with --rejoin, --position and --recovered"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn target(&self) -> Result<Target, String> {
        let mut dialect = self.dialect()?;
        let url = self.url.as_deref().unwrap_or_else(|| self.preset.unwrap_or_default().usual_origin());
        let (tls, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("{url} is no ws:// or wss:// URL")),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if !matches!(path, "" | "/") {
            dialect.path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
        }
        let filled = String::from(dialect.path.clone());
        if filled.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{url} is no URL: there is a space in it"));
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
        let mut addresses =
            with_port.to_socket_addrs().map_err(|error| format!("{authority} is not found: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{authority} has no address"))?;
        Ok(Target {
            url: format!("{}://{authority}{filled}", if tls { "wss" } else { "ws" }),
            address,
            authority: authority.to_owned(),
            host,
            tls,
            ca: self.ca.clone(),
            insecure: self.insecure,
            deflate: self.deflate,
            dialect,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = |url: &str| Options { url: Some(url.to_owned()), ..Options::default() }.target();
        let found = target("ws://127.0.0.1").unwrap();
        assert_eq!(
            (found.address.port(), found.tls, found.url.as_str()),
            (80, false, "ws://127.0.0.1/ws/{name}?room={room}")
        );
        let found = target("wss://[::1]:8443?x=1").unwrap();
        assert_eq!((found.address.port(), found.tls, found.host.as_str()), (8443, true, "[::1]"));
        assert_eq!(String::from(found.dialect.path), "/?x=1");
        for (url, part) in [
            ("http://127.0.0.1", "no ws:// or wss:// URL"),
            ("ws://127.0.0.1/a b", "there is a space in it"),
            ("ws:///a", "names no host"),
        ] {
            let error = target(url).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
