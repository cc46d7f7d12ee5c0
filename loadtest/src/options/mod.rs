//! The options of a run, on the command line or in a file: the same names in both. Checked, they become a plan
//! (`checked`), and the server that it is for (`target`).

mod checked;
mod target;

use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::plan::Scenario;
use crate::preset::Preset;
use crate::threshold::Threshold;
use crate::units::{Away, Rate, Sizes, Span};

/// All options. What is not given depends on the scenario.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// The server, ws:// or wss://; {name} and {room} become each client's own [default: where the preset's servers usually are]
    pub url: Option<String>,

    /// How the server is talked to [default: stentor]
    #[arg(long, value_enum, help_heading = "Server")]
    pub preset: Option<Preset>,
    /// The room's name, for {room} [default: swarm]
    #[arg(long, help_heading = "Server")]
    pub room: Option<String>,
    /// A further header of the handshake, "Name: value"
    #[arg(long = "header", value_name = "HEADER", help_heading = "Server")]
    #[serde(rename = "header")]
    pub headers: Vec<String>,
    /// The subprotocol to offer
    #[arg(long, help_heading = "Server")]
    pub subprotocol: Option<String>,
    /// A message to send after the handshake, instead of the preset's
    #[arg(long, value_name = "MESSAGE", help_heading = "Server")]
    pub join: Vec<String>,
    /// A client is in when it has heard this
    #[arg(long, value_name = "PART", help_heading = "Server")]
    pub joined: Option<String>,
    /// How a message is published; {text} is the message, {bytes} its length, {id} counts up
    #[arg(long, value_name = "TEMPLATE", help_heading = "Server")]
    pub say: Option<String>,
    /// A line that must be answered, and with what: "PING=PONG"
    #[arg(long = "answer", value_name = "LINE=ANSWER", help_heading = "Server")]
    #[serde(rename = "answer")]
    pub answers: Vec<String>,
    /// Whoever hears this has been told of an error
    #[arg(long, value_name = "PART", help_heading = "Server")]
    pub complaint: Option<String>,
    /// With --resume: what those who come back send after the handshake; {epoch} and {offset} are where they were
    #[arg(long, value_name = "MESSAGE", help_heading = "Server")]
    pub rejoin: Vec<String>,
    /// With --resume: how a position looks in what arrives, like "offset":{offset}
    #[arg(long = "position", value_name = "PATTERN", help_heading = "Server")]
    #[serde(rename = "position")]
    pub positions: Vec<String>,
    /// With --resume: what tells those who come back that they have got everything
    #[arg(long, value_name = "PART", help_heading = "Server")]
    pub recovered: Option<String>,
    /// Send binary messages
    #[arg(long, help_heading = "Server")]
    pub binary: bool,
    /// Offer permessage-deflate, and compress
    #[arg(long, help_heading = "Server")]
    pub deflate: bool,
    /// Believe the certificate authorities in this file instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca: Option<PathBuf>,
    /// Believe any certificate
    #[arg(long, help_heading = "Server")]
    pub insecure: bool,

    /// How many clients [default: 1000; echo: 100]
    #[arg(long, help_heading = "Clients")]
    pub clients: Option<u32>,
    /// How many rooms they are dealt out to [default: 1; echo: one each]
    #[arg(long, help_heading = "Clients")]
    pub rooms: Option<u32>,
    /// New connections a second [default: as fast as handshakes are answered]
    #[arg(long, value_name = "RATE", help_heading = "Clients")]
    pub ramp: Option<Rate>,
    /// Handshakes under way at a time [default: 100]
    #[arg(long, help_heading = "Clients")]
    pub handshakes: Option<u32>,
    /// How long a handshake may take [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub handshake_timeout: Option<Span>,
    /// Clients that are lost come back (soak and storm: always)
    #[arg(long, help_heading = "Clients")]
    pub reconnect: bool,
    /// An address of this machine that connections come from; can be given several times when ports run out
    #[arg(long = "source", value_name = "ADDRESS", help_heading = "Clients")]
    #[serde(rename = "source")]
    pub sources: Vec<IpAddr>,

    /// How many clients speak [default: 10; echo: all; connect, idle: none]
    #[arg(long, help_heading = "Messages")]
    pub speakers: Option<u32>,
    /// Messages a second of all speakers together, however fast the server is [default: 100/s]
    #[arg(long, conflicts_with = "window", help_heading = "Messages")]
    pub rate: Option<Rate>,
    /// Instead of a rate: each speaker has so many messages under way, and waits for one to come back [echo: 1]
    #[arg(long, value_name = "COUNT", help_heading = "Messages")]
    pub window: Option<u32>,
    /// Bytes of a message: 96, evenly 48..500, or some more often 64*9,1024*1 [default: 96; slow: 4096, which fills the buffers in between sooner]
    #[arg(long, help_heading = "Messages")]
    pub size: Option<Sizes>,
    /// How long they talk [default: 10s; storm: 20s; soak: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub duration: Option<Span>,
    /// How long the last messages may take to arrive [default: 3s]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub patience: Option<Span>,

    /// Each client that is in closes at once and comes again (for connect)
    #[arg(long, help_heading = "Disturbances")]
    pub close: bool,
    /// Clients that leave and come back each second [churn: a tenth of all]
    #[arg(long, value_name = "RATE", help_heading = "Disturbances")]
    pub churn: Option<Rate>,
    /// How often all clients are cut at once [storm: 1]
    #[arg(long, value_name = "COUNT", help_heading = "Disturbances")]
    pub storms: Option<u32>,
    /// How long all stay away when they are cut: a time, or so many messages of the others [default: 0]
    #[arg(long, value_name = "TIME|MESSAGES", help_heading = "Disturbances")]
    pub away: Option<Away>,
    /// Whoever comes back asks for what it has missed, and must get it; speakers are not cut by storms
    #[arg(long, help_heading = "Disturbances")]
    pub resume: bool,
    /// Clients that never read [slow: a tenth of all]
    #[arg(long, value_name = "CLIENTS", help_heading = "Disturbances")]
    pub never_read: Option<u32>,
    /// Clients that read slowly
    #[arg(long, value_name = "CLIENTS", help_heading = "Disturbances")]
    pub slow_read: Option<u32>,
    /// Bytes a second that each of those reads [default: 1024]
    #[arg(long, value_name = "BYTES", help_heading = "Disturbances")]
    pub read_rate: Option<u32>,

    /// Processes, each with one thread and an event loop [default: a core each, half of them if the server is on this
    /// machine too; more if descriptors need it]
    #[arg(long, help_heading = "Measuring")]
    pub workers: Option<u32>,
    /// Bind the workers to these cores
    #[arg(long, value_name = "CORES", value_delimiter = ',', help_heading = "Measuring")]
    pub pin: Vec<usize>,
    /// The server's process: its CPU and memory are told
    #[arg(long, value_name = "PID", help_heading = "Measuring")]
    pub server_pid: Option<u32>,
    /// What must hold, like "p99 < 50ms" or "lost == 0"; if it does not, the exit code is 1
    #[arg(long = "threshold", value_name = "THRESHOLD", help_heading = "Measuring")]
    #[serde(rename = "threshold")]
    pub thresholds: Vec<Threshold>,

    /// Write the result as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Write the latencies as percentiles (.hgrm)
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub hdr: Option<PathBuf>,
    /// Write a page with the result and its plots
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub html: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(long, short, help_heading = "Results")]
    pub quiet: bool,

    /// What kind of run a file is for.
    #[arg(skip)]
    pub scenario: Option<Scenario>,
    /// Stages are for files.
    #[arg(skip)]
    #[serde(rename = "stage")]
    pub stages: Vec<FileStage>,
}

/// A stage as it stands in a file. What is not given stays as it was at the end of the stage before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStage {
    /// How long.
    pub duration: Span,
    /// How many clients there are at its end.
    pub clients: Option<u32>,
    /// Messages a second at its end.
    pub rate: Option<Rate>,
}

impl Options {
    /// These options, and those of `other` where these say nothing.
    pub fn or(&self, other: &Self) -> Result<Self, String> {
        let fields = |options: &Self| match serde_json::to_value(options) {
            Ok(serde_json::Value::Object(fields)) => Ok(fields),
            _ => Err("options that cannot be written down".to_owned()),
        };
        let mut all = fields(other)?;
        let said = |value: &serde_json::Value| match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => false,
            serde_json::Value::Array(values) => !values.is_empty(),
            serde_json::Value::Bool(true)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_)
            | serde_json::Value::Object(_) => true,
        };
        all.extend(fields(self)?.into_iter().filter(|(_, value)| said(value)));
        serde_json::from_value(all.into()).map_err(|error| error.to_string())
    }

    /// Reads a file, which also names the scenario.
    ///
    /// # Errors
    /// One sentence, and the line in the file.
    pub fn read(path: &Path) -> Result<(Scenario, Self), String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let options: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let reason: Vec<_> = error.message().lines().collect();
            format!("{}:{line}: {}", path.display(), reason.join("; "))
        })?;
        let scenario = options.scenario.ok_or_else(|| {
            format!("{} names no scenario: begin it with scenario = \"chat\"", path.display())
        })?;
        Ok((scenario, options))
    }
}
