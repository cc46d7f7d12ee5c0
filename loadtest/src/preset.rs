//! Protocols of known servers: how a client joins a room, publishes, and answers keepalive messages.

use serde::{Deserialize, Serialize};

use crate::template::Template;

/// How a client's messages travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket
    #[default]
    Ws,
    /// Server-sent events, and a POST for each published message
    Sse,
    /// A stream of lines of JSON, and a POST for each published message
    Stream,
    /// Long polling, and a POST for each published message
    Poll,
    /// SockJS without WebSocket: xhr_streaming and xhr_send
    Sockjs,
}

impl Transport {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Stream => "stream",
            Self::Poll => "poll",
            Self::Sockjs => "sockjs",
        }
    }

    /// Whether messages are published by requests of their own, over a second connection.
    pub const fn posts(self) -> bool {
        !matches!(self, Self::Ws)
    }

    /// Whether the server sends a client's position when it has joined, which marks it as connected.
    pub const fn has_positions(self) -> bool {
        matches!(self, Self::Sse | Self::Stream | Self::Poll)
    }

    /// The part of a path that receives, and what stands there in the path that publishes.
    pub const fn path_parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Ws => ("", ""),
            Self::Sse => ("/sse/", "/send/"),
            Self::Stream => ("/stream/", "/send/"),
            Self::Poll => ("/poll/", "/send/"),
            Self::Sockjs => ("/xhr_streaming", "/xhr_send"),
        }
    }
}

/// The protocol of a kind of server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerProtocol {
    /// How messages travel.
    pub transport: Transport,
    /// Path and query. `{session}` is a session of `SockJS`, another one for each connection.
    pub path: Template,
    /// Path and query of requests that publish; `None`: messages are published where they are received.
    pub post_path: Option<Template>,
    /// Additional request headers of the handshake, `Name: value`.
    pub headers: Vec<Template>,
    /// The offered subprotocol.
    pub subprotocol: Option<String>,
    /// Messages that a client sends after the handshake.
    pub join: Vec<Template>,
    /// Substring of a message that marks a client as connected; `None`: the handshake does.
    pub ready_match: Option<String>,
    /// Template of a published message.
    pub publish: Template,
    /// Lines that require a reply, and the reply.
    pub auto_replies: Vec<(String, String)>,
    /// Substring that marks a received message as an error.
    pub error_match: Option<String>,
    /// Whether messages are binary.
    pub binary: bool,
    /// How a reconnecting client recovers missed messages; `None`: not supported.
    pub recovery: Option<Recovery>,
}

/// The connect command of the JSON presets, and with a token.
const CONNECT: &str = r#""connect":{"name":"swarm"}"#;
const CONNECT_WITH_TOKEN: &str = r#""connect":{"name":"swarm","token":"{token}"}"#;

impl ServerProtocol {
    /// Adds the clients' tokens where a known protocol has them: in the connect command, otherwise in the
    /// header `Authorization`. False if the protocol has a join without a known place.
    pub fn authenticate(&mut self) -> bool {
        let joins = self
            .recovery
            .iter_mut()
            .flat_map(|recovery| recovery.join.iter_mut().chain(&mut recovery.recovery_join));
        let joins: Vec<_> = self.join.iter_mut().chain(joins).collect();
        if joins.is_empty() {
            self.headers.push("Authorization: Bearer {token}".into());
            return true;
        }
        let mut placed = true;
        for join in joins {
            let text = String::from(join.clone());
            placed &= text.contains(CONNECT);
            *join = text.replace(CONNECT, CONNECT_WITH_TOKEN).into();
        }
        placed
    }
}

/// How a reconnecting client recovers the messages that were published while it was disconnected.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Recovery {
    /// Query parameter of an initial connection.
    pub query: Option<Template>,
    /// Query parameter of a reconnection.
    pub recovery_query: Option<Template>,
    /// Request header of a reconnection.
    pub recovery_header: Option<Template>,
    /// Messages after the handshake of an initial connection; empty: those of [`ServerProtocol::join`].
    pub join: Vec<Template>,
    /// Messages after the handshake of a reconnection; empty: those of [`ServerProtocol::join`].
    pub recovery_join: Vec<Template>,
    /// Substring of the message that follows the recovered messages and marks the client as connected.
    pub ready_match: Option<String>,
    /// Patterns of a position in received messages. The last match in a message counts.
    pub position_patterns: Vec<Template>,
    /// Each message without this prefix advances the offset by one; `None`: messages carry their position.
    pub control_prefix: Option<String>,
    /// Whether recovery was complete.
    pub recovered_match: RecoveredMatch,
}

/// How the server tells a reconnecting client whether recovery was complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RecoveredMatch {
    /// Complete if a message contains this.
    Present(String),
    /// Incomplete if a message contains this.
    Absent(String),
}

impl Default for RecoveredMatch {
    fn default() -> Self {
        Self::Present(String::new())
    }
}

/// A kind of server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Stentor's plain text protocol
    #[default]
    Stentor,
    /// Stentor's JSON protocol (Centrifuge)
    StentorJson,
    /// Centrifugo, with anonymous clients that may publish
    Centrifugo,
    /// NATS over WebSocket
    Nats,
    /// Any server that broadcasts every message to all clients of a URL
    Broadcast,
}

impl Preset {
    /// The usual address of such a server.
    pub const fn default_origin(self) -> &'static str {
        match self {
            Self::Stentor | Self::StentorJson | Self::Broadcast => "ws://127.0.0.1:8080",
            Self::Centrifugo => "ws://127.0.0.1:8000",
            Self::Nats => "ws://127.0.0.1:9222",
        }
    }

    /// Its protocol.
    pub fn protocol(self) -> ServerProtocol {
        match self {
            Self::Stentor => ServerProtocol {
                path: "/ws/{name}?room={room}".into(),
                recovery: Some(text_recovery()),
                ..plain()
            },
            Self::Broadcast => plain(),
            Self::StentorJson | Self::Centrifugo => ServerProtocol {
                path: "/connection/websocket".into(),
                // Both commands in one frame, as the official clients send them.
                join: vec![
                    "{\"id\":1,\"connect\":{\"name\":\"swarm\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"{room}\"}}".into(),
                ],
                ready_match: Some("\"id\":2,\"subscribe\"".to_owned()),
                publish: r#"{"id":{id},"publish":{"channel":"{room}","data":{"name":"{name}","text":"{text}"}}}"#.into(),
                auto_replies: vec![("{}".to_owned(), "{}".to_owned())],
                error_match: Some("\"error\":{".to_owned()),
                recovery: Some(centrifuge_recovery()),
                ..plain()
            },
            Self::Nats => ServerProtocol {
                join: vec![
                    "CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"{name}\",\"lang\":\"swarm\",\"version\":\"1\",\"protocol\":1}\r\nSUB {room} 1\r\nPING\r\n".into(),
                ],
                ready_match: Some("PONG".to_owned()),
                publish: "PUB {room} {bytes}\r\n{text}\r\n".into(),
                auto_replies: vec![("PING".to_owned(), "PONG\r\n".to_owned())],
                error_match: Some("-ERR".to_owned()),
                binary: true,
                ..plain()
            },
        }
    }
}

/// Stentor's plain protocol over a transport that is not WebSocket.
pub fn stentor_over(transport: Transport) -> ServerProtocol {
    let (recovery, gap) = match transport {
        Transport::Sse => (Some(("", "Last-Event-ID: {epoch}:{offset}")), MISSING),
        Transport::Stream => (Some(("since={epoch}:{offset}", "")), MISSING),
        // Its requests have their positions.
        Transport::Poll => (Some(("", "")), "\"gap\":true"),
        Transport::Sockjs | Transport::Ws => (None, ""),
    };
    let template = |text: &str| (!text.is_empty()).then(|| text.into());
    let recovery = match recovery {
        None => text_recovery(),
        Some((query, header)) => Recovery {
            recovery_query: template(query),
            recovery_header: template(header),
            recovered_match: RecoveredMatch::Absent(gap.to_owned()),
            ..Recovery::default()
        },
    };
    let (receives, publishes) = transport.path_parts();
    let is_sockjs = transport == Transport::Sockjs;
    let (path, post_path) = if is_sockjs {
        let session = "/sockjs/000/{session}";
        // The line with the position says that the client has joined.
        (
            format!("{session}{receives}?name={{name}}&room={{room}}&history=0"),
            format!("{session}{publishes}"),
        )
    } else {
        (format!("{receives}{{name}}?room={{room}}"), format!("{publishes}{{name}}?room={{room}}"))
    };
    ServerProtocol {
        transport,
        path: path.into(),
        post_path: Some(post_path.into()),
        ready_match: is_sockjs.then(|| SINCE.to_owned()),
        recovery: Some(recovery),
        ..plain()
    }
}

/// What Stentor says before the room's position, and where messages are missing.
const SINCE: &str = ": since=";
const MISSING: &str = "messages may be missing here";

/// How a client of Stentor's plain text protocol recovers.
fn text_recovery() -> Recovery {
    Recovery {
        query: Some("history=0".into()),
        recovery_query: Some("since={epoch}:{offset}".into()),
        ready_match: Some(SINCE.to_owned()),
        position_patterns: vec![": since={epoch}:{offset}".into()],
        control_prefix: Some(": ".to_owned()),
        recovered_match: RecoveredMatch::Absent(format!(": {MISSING}")),
        ..Recovery::default()
    }
}

fn plain() -> ServerProtocol {
    ServerProtocol {
        transport: Transport::Ws,
        path: "/".into(),
        post_path: None,
        headers: Vec::new(),
        subprotocol: None,
        join: Vec::new(),
        ready_match: None,
        publish: "{text}".into(),
        auto_replies: Vec::new(),
        error_match: None,
        binary: false,
        recovery: None,
    }
}

fn centrifuge_recovery() -> Recovery {
    let join = |recovery: &str| {
        let subscribe = format!("{{\"channel\":\"{{room}}\",{recovery}}}");
        let text = format!(
            "{{\"id\":1,\"connect\":{{\"name\":\"swarm\"}}}}\n{{\"id\":2,\"subscribe\":{subscribe}}}"
        );
        vec![Template::from(text)]
    };
    Recovery {
        join: join(r#""positioned":true,"recoverable":true"#),
        recovery_join: join(r#""recoverable":true,"recover":true,"epoch":"{epoch}","offset":{offset}"#),
        position_patterns: vec![r#""epoch":"{epoch}""#.into(), r#""offset":{offset}"#.into()],
        recovered_match: RecoveredMatch::Present(r#""recovered":true"#.to_owned()),
        ..Recovery::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_place_in_each_protocol() {
        let mut plain = Preset::Stentor.protocol();
        assert!(plain.authenticate());
        assert_eq!(String::from(plain.headers[0].clone()), "Authorization: Bearer {token}");
        for preset in [Preset::StentorJson, Preset::Centrifugo] {
            let mut json = preset.protocol();
            assert!(json.authenticate() && json.headers.is_empty());
            let recovery = json.recovery.unwrap();
            for join in json.join.iter().chain(&recovery.join).chain(&recovery.recovery_join) {
                assert!(String::from(join.clone()).contains(r#""token":"{token}"}"#));
            }
        }
        assert!(!Preset::Nats.protocol().authenticate());
    }
}
