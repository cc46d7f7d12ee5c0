//! The options of a run, on the command line or in a file: the same names in both. Checked, they become a plan.

use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::clock;
use crate::pace::{self, Pace, Stage};
use crate::plan::{CLIENTS_PER_SOURCE, Plan, Scenario, Speech, Storm, Target};
use crate::preset::{Dialect, Preset, Recovered};
use crate::template::{Piece, Template};
use crate::threshold::Threshold;
use crate::units::{Away, Rate, Sizes, Span};

/// How long messages are.
const SHORT: Sizes = Sizes::Fixed(96);

/// How long they are where buffers are to be filled.
const LONG: Sizes = Sizes::Fixed(4096);

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

    /// The plan, with what was not asked for filled in.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn plan(&self, scenario: Scenario) -> Result<Plan, String> {
        let clients = self.most_clients(scenario)?;
        let quiet = matches!(scenario, Scenario::Connect | Scenario::Idle);
        let echo = scenario == Scenario::Echo;
        let usual = match (quiet, echo) {
            (true, _) => 0,
            (false, true) => clients,
            (false, false) => 10.min(clients),
        };
        let speakers = self.speakers.unwrap_or(usual);
        let rooms = self.rooms.unwrap_or(if echo { clients } else { 1 });
        let never_read = self.never_read.unwrap_or(if scenario == Scenario::Slow { clients / 10 } else { 0 });
        let slow_read = self.slow_read.unwrap_or(0);
        if u64::from(speakers) + u64::from(never_read) + u64::from(slow_read) > u64::from(clients) {
            return Err(format!(
                "{speakers} speakers and {} slow readers are more than {clients} clients",
                never_read + slow_read
            ));
        }
        if rooms == 0 || rooms > clients {
            return Err("--rooms must be at least 1, and not above --clients".to_owned());
        }
        let speech = match (self.window, self.rate) {
            (Some(0), _) => return Err("--window must be at least 1".to_owned()),
            (Some(window), _) => Speech::Window(window),
            (None, None) if echo && self.stages.is_empty() => Speech::Window(1),
            _ => Speech::Paced,
        };
        let stages = self.checked_stages(scenario, clients)?;
        let target = self.target()?;
        Ok(Plan {
            scenario,
            run: run_number(),
            clients,
            speakers,
            only_listen: false,
            rooms,
            room: self.room.clone().unwrap_or_else(|| "swarm".to_owned()),
            speech,
            sizes: self.size.clone().unwrap_or(if scenario == Scenario::Slow { LONG } else { SHORT }),
            gather: self.stages.iter().all(|stage| stage.clients.is_none()) && !self.close,
            handshakes: self.handshakes.unwrap_or(100).max(1),
            ramp: self.ramp.map(|rate| rate.0).filter(|&rate| rate > 0.0),
            handshake_timeout_ns: self.handshake_timeout.unwrap_or(Span::seconds(10)).nanos(),
            patience_ns: self.patience.unwrap_or(Span::seconds(3)).nanos(),
            close: self.close,
            churn: match (self.churn, scenario) {
                (Some(rate), _) => rate.0,
                (None, Scenario::Churn) => f64::from(clients) / 10.0,
                _ => 0.0,
            },
            storms: self.checked_storms(scenario, &stages, speech)?,
            resume: self.resume,
            never_read,
            slow_read,
            read_rate: self.read_rate.unwrap_or(1024).max(1),
            reconnect: self.reconnect || matches!(scenario, Scenario::Soak | Scenario::Storm),
            sources: self.checked_sources(target.address, clients)?,
            pin: self.pin.clone(),
            stages,
            target,
        })
    }

    fn most_clients(&self, scenario: Scenario) -> Result<u32, String> {
        let usual = if scenario == Scenario::Echo { 100 } else { 1000 };
        let staged = self.stages.iter().filter_map(|stage| stage.clients).max();
        match self.clients.max(staged).unwrap_or(usual) {
            0 => Err("--clients must be at least 1".to_owned()),
            clients @ 1..=10_000_000 => Ok(clients),
            clients => Err(format!("{clients} clients are more than one machine has ports for")),
        }
    }

    fn checked_stages(&self, scenario: Scenario, clients: u32) -> Result<Vec<Stage>, String> {
        let rate = self.rate.unwrap_or(Rate(100.0)).0;
        if self.stages.is_empty() {
            let usual = match scenario {
                Scenario::Storm => Span::seconds(20),
                Scenario::Soak => Span::seconds(3600),
                Scenario::Connect if !self.close => Span::default(),
                Scenario::Connect | Scenario::Chat | Scenario::Echo => Span::seconds(10),
                Scenario::Idle | Scenario::Churn | Scenario::Slow => Span::seconds(10),
            };
            let seconds = self.duration.unwrap_or(usual).0.as_secs_f64();
            return Ok(vec![Stage { seconds, rate: (rate, rate), clients: (clients, clients) }]);
        }
        if self.duration.is_some() {
            return Err("a duration beside stages means nothing: each stage has its own".to_owned());
        }
        let all_from_the_start = self.stages.iter().all(|stage| stage.clients.is_none());
        let mut now = (if all_from_the_start { clients } else { 0 }, self.rate.map_or(0.0, |rate| rate.0));
        let stage = |stage: &FileStage| {
            let from = now;
            now = (stage.clients.unwrap_or(from.0), stage.rate.map_or(from.1, |rate| rate.0));
            Stage { seconds: stage.duration.0.as_secs_f64(), clients: (from.0, now.0), rate: (from.1, now.1) }
        };
        Ok(self.stages.iter().map(stage).collect())
    }

    /// When all are cut, evenly over the time, and when they come back.
    fn checked_storms(
        &self,
        scenario: Scenario,
        stages: &[Stage],
        speech: Speech,
    ) -> Result<Vec<Storm>, String> {
        let count = self.storms.unwrap_or(if scenario == Scenario::Storm { 1 } else { 0 });
        let length = pace::length(stages);
        let interval = length / f64::from(count + 1);
        let storm = |number: u32| {
            let at = interval * f64::from(number);
            let back = match self.away.unwrap_or_default() {
                Away::Time(span) => at + span.0.as_secs_f64(),
                Away::Messages(_) if speech != Speech::Paced => {
                    return Err("--away in messages needs a --rate; with --window give a time".to_owned());
                }
                Away::Messages(0) => at,
                Away::Messages(count) => {
                    let later = Pace::new(stages.to_vec()).skip_while(|&moment| moment <= at);
                    later.take(count as usize).last().unwrap_or(length)
                }
            };
            if back > at && back >= at + interval {
                return Err(format!(
                    "clients that are cut {at:.1} s after the begin, with --away {}, are not back before {}: give it a \
                     longer --duration",
                    self.away.unwrap_or_default(),
                    if number < count { "the next storm" } else { "the end" }
                ));
            }
            Ok(Storm { at, back })
        };
        (1..=count).map(storm).collect()
    }

    /// On the loopback there are as many addresses as one needs; elsewhere they must be given.
    fn checked_sources(&self, address: SocketAddr, clients: u32) -> Result<Vec<IpAddr>, String> {
        if let Some(wrong) = self.sources.iter().find(|source| source.is_ipv4() != address.is_ipv4()) {
            return Err(format!("--source {wrong} cannot reach {address}: one is IPv4 and the other IPv6"));
        }
        if !self.sources.is_empty() || !address.ip().is_loopback() || address.is_ipv6() {
            return Ok(self.sources.clone());
        }
        let needed = u8::try_from(clients.div_ceil(CLIENTS_PER_SOURCE)).unwrap_or(u8::MAX).clamp(1, 254);
        // The first ones come from where the kernel wants, which finds a port faster than one that is told the address.
        Ok((1..=needed)
            .map(|last| IpAddr::from(if last == 1 { [0; 4] } else { [127, 0, 0, last] }))
            .collect())
    }

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

    fn target(&self) -> Result<Target, String> {
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

fn run_number() -> u32 {
    let moment = clock::now() ^ u64::from(std::process::id()) << 20;
    u32::try_from(moment.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap_or(1)
}
