//! The options of a run, with the same names on the command line and in a scenario file. `checked` validates
//! them into a plan, `target` resolves the server and its protocol.

mod checked;
mod target;

use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::plan::Scenario;
use crate::preset::{Preset, Transport};
use crate::threshold::Threshold;
use crate::units::{Downtime, Rate, Sizes, Span};

/// All options. Defaults depend on the scenario.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// URL of the server, ws:// or wss://, with other transports http:// or https:// too; {name} and {room}
    /// are replaced for each client [default: the preset's usual address]
    pub url: Option<String>,

    /// Protocol of the server [default: stentor]
    #[arg(long, value_enum, help_heading = "Server")]
    pub preset: Option<Preset>,
    /// How messages travel: all but ws are for the preset stentor [default: ws]
    #[arg(long, value_enum, help_heading = "Server")]
    pub transport: Option<Transport>,
    /// How messages of publishers travel in both directions, if not like those of the others
    #[arg(long, value_enum, value_name = "TRANSPORT", help_heading = "Server")]
    pub publishers_transport: Option<Transport>,
    /// Room name, replaces {room} [default: swarm]
    #[arg(long, help_heading = "Server")]
    pub room: Option<String>,
    /// Additional request header of the handshake, "Name: value"
    #[arg(long = "header", value_name = "HEADER", help_heading = "Server")]
    #[serde(rename = "header")]
    pub headers: Vec<String>,
    /// Subprotocol to offer
    #[arg(long, help_heading = "Server")]
    pub subprotocol: Option<String>,
    /// Message to send after the handshake, replaces the preset's
    #[arg(long, value_name = "MESSAGE", help_heading = "Server")]
    pub join: Vec<String>,
    /// Substring of a message that marks a client as connected; without one, the handshake does
    #[arg(long, value_name = "TEXT", help_heading = "Server")]
    pub ready_match: Option<String>,
    /// Template of a published message; {text} is the message, {bytes} its length, {id} a counter
    #[arg(long, value_name = "TEMPLATE", help_heading = "Server")]
    pub publish: Option<String>,
    /// Line to answer automatically, and the reply: "PING=PONG"
    #[arg(long = "auto-reply", value_name = "LINE=REPLY", help_heading = "Server")]
    #[serde(rename = "auto-reply")]
    pub auto_replies: Vec<String>,
    /// Substring that marks a received message as an error
    #[arg(long, value_name = "TEXT", help_heading = "Server")]
    pub error_match: Option<String>,
    /// With --resume: message to send after the handshake on reconnection; {epoch} and {offset} are the last
    /// position
    #[arg(long, value_name = "MESSAGE", help_heading = "Server")]
    pub rejoin: Vec<String>,
    /// With --resume: pattern of a position in received messages, like "offset":{offset}
    #[arg(long = "position-pattern", value_name = "PATTERN", help_heading = "Server")]
    #[serde(rename = "position-pattern")]
    pub position_patterns: Vec<String>,
    /// With --resume: substring that tells a reconnected client that no message is missing
    #[arg(long, value_name = "TEXT", help_heading = "Server")]
    pub recovered_match: Option<String>,
    /// Send messages as binary
    #[arg(long, help_heading = "Server")]
    pub binary: bool,
    /// Offer permessage-deflate, and compress messages
    #[arg(long, help_heading = "Server")]
    pub deflate: bool,
    /// Trust the certificate authorities in this file instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca: Option<PathBuf>,
    /// Accept any server certificate
    #[arg(long, help_heading = "Server")]
    pub insecure: bool,
    /// CSV file with a token for each client, which replaces {token}; columns "token" and "name", or tokens
    /// alone
    #[arg(long, value_name = "FILE", conflicts_with = "token_key", help_heading = "Server")]
    pub tokens: Option<PathBuf>,
    /// Sign a token for each client, which replaces {token}: with a secret (HS256) or a private key in PEM
    /// (ES256, ES384, RS256)
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub token_key: Option<PathBuf>,
    /// Further claims of signed tokens, a JSON object
    #[arg(long, value_name = "JSON", requires = "token_key", help_heading = "Server")]
    pub token_claims: Option<String>,

    /// Number of clients [default: 1000; echo: 100]
    #[arg(long, help_heading = "Clients")]
    pub clients: Option<u32>,
    /// Number of rooms, filled round-robin [default: 1; echo: one per client]
    #[arg(long, help_heading = "Clients")]
    pub rooms: Option<u32>,
    /// New connections per second [default: limited by --handshakes alone]
    #[arg(long, value_name = "RATE", help_heading = "Clients")]
    pub connect_rate: Option<Rate>,
    /// Maximum concurrent handshakes [default: 100]
    #[arg(long, help_heading = "Clients")]
    pub handshakes: Option<u32>,
    /// Handshake timeout [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub handshake_timeout: Option<Span>,
    /// End the connect phase when no client has connected for this long [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub connect_timeout: Option<Span>,
    /// Reconnect lost clients (soak and storm: always)
    #[arg(long, help_heading = "Clients")]
    pub reconnect: bool,
    /// Local source address of connections; repeatable, for more ports [default: on the loopback
    /// 127.0.0.1 to 127.0.0.254, each when the ports of the one before are taken]
    #[arg(long = "source", value_name = "ADDRESS", help_heading = "Clients")]
    #[serde(rename = "source")]
    pub sources: Vec<IpAddr>,

    /// Number of publishing clients [default: 10; echo: all; connect, idle: 0]
    #[arg(long, help_heading = "Messages")]
    pub publishers: Option<u32>,
    /// Open loop: messages per second of all publishers together, independent of the server [default: 100/s]
    #[arg(long, conflicts_with = "in_flight", help_heading = "Messages")]
    pub rate: Option<Rate>,
    /// Closed loop: messages in flight per publisher, instead of a rate [echo: 1]
    #[arg(long, value_name = "COUNT", help_heading = "Messages")]
    pub in_flight: Option<u32>,
    /// Message size in bytes: 96, uniform 48..500, or weighted 64*9,1024*1 [default: 96; slow: 4096]
    #[arg(long, help_heading = "Messages")]
    pub size: Option<Sizes>,
    /// Duration of publishing [default: 10s; storm: 20s; soak: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub duration: Option<Span>,
    /// Time at the beginning whose messages are checked, but not measured [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub warmup: Option<Span>,
    /// Timeout for messages in flight at the end [default: 3s]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub drain_timeout: Option<Span>,

    /// Disconnect each client as soon as it is connected, and reconnect it (for connect)
    #[arg(long, help_heading = "Disruptions")]
    pub close: bool,
    /// Clients per second that disconnect and reconnect [churn: a tenth of all]
    #[arg(long, value_name = "RATE", help_heading = "Disruptions")]
    pub churn: Option<Rate>,
    /// Number of storms: all clients disconnect at once [storm: 1]
    #[arg(long, value_name = "COUNT", help_heading = "Disruptions")]
    pub storms: Option<u32>,
    /// Downtime of the clients after a storm: a time, or a number of published messages [default: 0]
    #[arg(long, value_name = "TIME|MESSAGES", help_heading = "Disruptions")]
    pub downtime: Option<Downtime>,
    /// Recover missed messages on reconnection; publishers are not disconnected by storms
    #[arg(long, help_heading = "Disruptions")]
    pub resume: bool,
    /// Clients that never read [slow: a tenth of all]
    #[arg(long, value_name = "CLIENTS", help_heading = "Disruptions")]
    pub never_read: Option<u32>,
    /// Clients that read slowly
    #[arg(long, value_name = "CLIENTS", help_heading = "Disruptions")]
    pub slow_read: Option<u32>,
    /// Bytes per second that each slow reader reads [default: 1024]
    #[arg(long, value_name = "BYTES", help_heading = "Disruptions")]
    pub read_rate: Option<u32>,

    /// Worker processes, one event loop each, besides that of the publishers [default: one per core, half of
    /// them for a server on the loopback; more if the descriptor limit requires it]
    #[arg(long, help_heading = "Measurement")]
    pub workers: Option<u32>,
    /// Pin the workers to these cores
    #[arg(long, value_name = "CORES", value_delimiter = ',', help_heading = "Measurement")]
    pub pin: Vec<usize>,
    /// Process ids of the server, to sample the CPU and memory of these processes and their children
    #[arg(long = "server-pid", value_name = "PID", value_delimiter = ',', help_heading = "Measurement")]
    #[serde(rename = "server-pid", deserialize_with = "one_or_many")]
    pub server_pids: Vec<u32>,
    /// Condition on the result, like "p99 < 50ms", "p99.95 < 1s" or "lost == 0"; if one fails, the exit code
    /// is 1
    #[arg(long = "threshold", value_name = "THRESHOLD", help_heading = "Measurement")]
    #[serde(rename = "threshold")]
    pub thresholds: Vec<Threshold>,

    /// Write the result as JSON; - is the standard output, for every kind of file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Write the latency percentiles as .hgrm
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub hdr: Option<PathBuf>,
    /// Write an HTML report with charts
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub html: Option<PathBuf>,
    /// Write the thresholds, or the checks without thresholds, as JUnit test cases
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub junit: Option<PathBuf>,
    /// Write the metrics in Prometheus' text format
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub prometheus: Option<PathBuf>,
    /// Do not show progress
    #[arg(long, short, help_heading = "Results")]
    pub quiet: bool,

    /// The scenario that a file names.
    #[arg(skip)]
    pub scenario: Option<Scenario>,
    /// Stages, in files only.
    #[arg(skip)]
    #[serde(rename = "stage")]
    pub stages: Vec<FileStage>,
}

/// One number, or a list.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// A stage in a scenario file. An omitted value keeps its value from the end of the stage before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStage {
    /// A name for the display.
    pub name: Option<String>,
    /// Duration of the stage.
    pub duration: Span,
    /// Number of clients at its end.
    pub clients: Option<u32>,
    /// Messages per second at its end.
    pub rate: Option<Rate>,
}

impl Options {
    /// These options, with `other` where they are unset.
    pub fn or(&self, other: &Self) -> Result<Self, String> {
        let fields = |options: &Self| match serde_json::to_value(options) {
            Ok(serde_json::Value::Object(fields)) => Ok(fields),
            _ => Err("the options cannot be serialized".to_owned()),
        };
        let mut all = fields(other)?;
        let is_set = |value: &serde_json::Value| match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => false,
            serde_json::Value::Array(values) => !values.is_empty(),
            serde_json::Value::Bool(true)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_)
            | serde_json::Value::Object(_) => true,
        };
        all.extend(fields(self)?.into_iter().filter(|(_, value)| is_set(value)));
        serde_json::from_value(all.into()).map_err(|error| error.to_string())
    }

    /// Reads a scenario file, which also names the scenario.
    ///
    /// # Errors
    /// One sentence, with the line in the file.
    pub fn read(path: &Path) -> Result<(Scenario, Self), String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let options: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let reason: Vec<_> = error.message().lines().collect();
            format!("{}:{line}: {}", path.display(), reason.join("; "))
        })?;
        let scenario = options.scenario.ok_or_else(|| {
            format!("{} names no scenario: add a line like scenario = \"chat\"", path.display())
        })?;
        Ok((scenario, options))
    }
}
