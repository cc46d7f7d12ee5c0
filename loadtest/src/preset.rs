//! What is said to servers of different kinds: how to come in, how to publish, and what they want answered.

use serde::{Deserialize, Serialize};

use crate::template::Template;

/// How a kind of server is talked to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dialect {
    /// Path and query.
    pub path: Template,
    /// Further headers of the handshake, `Name: value`.
    pub headers: Vec<Template>,
    /// The subprotocol that is offered.
    pub subprotocol: Option<String>,
    /// What is said after the handshake, a message each.
    pub join: Vec<Template>,
    /// A client is in when it has heard this; without it, at once.
    pub joined: Option<String>,
    /// How a message is published.
    pub say: Template,
    /// Lines that must be answered, and with what.
    pub answers: Vec<(String, String)>,
    /// Whoever hears this has been told of an error.
    pub complaint: Option<String>,
    /// Messages are binary.
    pub binary: bool,
    /// How a client that comes back goes on from where it was; `None`: nothing is known of that.
    pub resuming: Option<Resuming>,
}

/// How a client that comes back gets what was said while it was away.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resuming {
    /// Added to the query of those who come for the first time.
    pub query: Option<Template>,
    /// The same of those who come back.
    pub requery: Option<Template>,
    /// What those who come for the first time say after the handshake, if it is not what is said anyway.
    pub join: Vec<Template>,
    /// The same of those who come back.
    pub rejoin: Vec<Template>,
    /// A client is in, and has heard what it had missed, when it has heard this.
    pub joined: Option<String>,
    /// How a position looks in what arrives. The last one in a message holds.
    pub positions: Vec<Template>,
    /// Each message is one offset further that does not begin with this; `None`: positions stand in the messages.
    pub uncounted: Option<String>,
    /// What tells whether nothing is missing.
    pub recovered: Recovered,
}

/// What tells those who come back whether they have got everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Recovered {
    /// This is said if so.
    If(String),
    /// This is said if not.
    Unless(String),
}

/// They are told nothing.
impl Default for Recovered {
    fn default() -> Self {
        Self::If(String::new())
    }
}

/// A kind of server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Stentor's plain text
    #[default]
    Stentor,
    /// Stentor's Centrifuge protocol
    StentorJson,
    /// Centrifugo, with anonymous clients that may publish
    Centrifugo,
    /// NATS over WebSocket
    Nats,
    /// Any server that sends to all what one says; the URL is all it takes to join
    Broadcast,
}

impl Preset {
    /// Where such a server usually is.
    pub const fn usual_origin(self) -> &'static str {
        match self {
            Self::Stentor | Self::StentorJson | Self::Broadcast => "ws://127.0.0.1:8080",
            Self::Centrifugo => "ws://127.0.0.1:8000",
            Self::Nats => "ws://127.0.0.1:9222",
        }
    }

    /// How it is talked to.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Stentor => Dialect {
                path: "/ws/{name}?room={room}".into(),
                resuming: Some(Resuming {
                    query: Some("history=0".into()),
                    requery: Some("since={epoch}:{offset}".into()),
                    join: Vec::new(),
                    rejoin: Vec::new(),
                    joined: Some(": since=".to_owned()),
                    positions: vec![": since={epoch}:{offset}".into()],
                    uncounted: Some(": ".to_owned()),
                    recovered: Recovered::Unless(": messages may be missing here".to_owned()),
                }),
                ..plain()
            },
            Self::Broadcast => plain(),
            Self::StentorJson | Self::Centrifugo => Dialect {
                path: "/connection/websocket".into(),
                // Both in one frame, as the published clients do it.
                join: vec![
                    "{\"id\":1,\"connect\":{\"name\":\"swarm\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"{room}\"}}".into(),
                ],
                joined: Some("\"id\":2,\"subscribe\"".to_owned()),
                say: r#"{"id":{id},"publish":{"channel":"{room}","data":{"name":"{name}","text":"{text}"}}}"#.into(),
                answers: vec![("{}".to_owned(), "{}".to_owned())],
                complaint: Some("\"error\":{".to_owned()),
                resuming: Some(centrifuge_resuming()),
                ..plain()
            },
            Self::Nats => Dialect {
                join: vec![
                    "CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"{name}\",\"lang\":\"swarm\",\"version\":\"1\",\"protocol\":1}\r\nSUB {room} 1\r\nPING\r\n".into(),
                ],
                joined: Some("PONG".to_owned()),
                say: "PUB {room} {bytes}\r\n{text}\r\n".into(),
                answers: vec![("PING".to_owned(), "PONG\r\n".to_owned())],
                complaint: Some("-ERR".to_owned()),
                binary: true,
                ..plain()
            },
        }
    }
}

fn plain() -> Dialect {
    Dialect {
        path: "/".into(),
        headers: Vec::new(),
        subprotocol: None,
        join: Vec::new(),
        joined: None,
        say: "{text}".into(),
        answers: Vec::new(),
        complaint: None,
        binary: false,
        resuming: None,
    }
}

fn centrifuge_resuming() -> Resuming {
    let join = |recovery: &str| {
        let subscribe = format!("{{\"channel\":\"{{room}}\",{recovery}}}");
        let text = format!(
            "{{\"id\":1,\"connect\":{{\"name\":\"swarm\"}}}}\n{{\"id\":2,\"subscribe\":{subscribe}}}"
        );
        vec![Template::from(text)]
    };
    Resuming {
        query: None,
        requery: None,
        join: join(r#""positioned":true,"recoverable":true"#),
        rejoin: join(r#""recoverable":true,"recover":true,"epoch":"{epoch}","offset":{offset}"#),
        joined: None,
        positions: vec![r#""epoch":"{epoch}""#.into(), r#""offset":{offset}"#.into()],
        uncounted: None,
        recovered: Recovered::If(r#""recovered":true"#.to_owned()),
    }
}
