//! Validates options into a plan, with the defaults of the scenario.

use std::net::{IpAddr, SocketAddr};

use super::{FileStage, Options};
use crate::clock;
use crate::pace::{self, Pace, Stage};
use crate::plan::{LoadModel, Plan, Scenario, Storm};
use crate::preset::Transport;
use crate::tokens::Tokens;
use crate::units::{Downtime, Rate, Sizes, Span};

/// Default message size.
const SHORT: Sizes = Sizes::Fixed(96);

/// Default message size of `slow`: larger, to fill the buffers between server and client sooner.
const LONG: Sizes = Sizes::Fixed(4096);

/// Numbers of clients with a role other than to receive immediately.
struct Roles {
    publishers: u32,
    never_read: u32,
    slow_read: u32,
}

impl Options {
    /// The plan, with defaults for unset options.
    ///
    /// # Errors
    /// One sentence that names the invalid option.
    pub fn plan(&self, scenario: Scenario) -> Result<Plan, String> {
        let clients = self.max_clients(scenario)?;
        let Roles { publishers, never_read, slow_read } = self.roles(scenario, clients)?;
        let rooms = self.rooms.unwrap_or(if scenario == Scenario::Echo { clients } else { 1 });
        if rooms == 0 || rooms > clients {
            return Err("--rooms must be at least 1, and not above --clients".to_owned());
        }
        let load_model = self.load_model(scenario)?;
        let stages = self.checked_stages(scenario, clients)?;
        let tokens = self.checked_tokens(clients)?;
        let target = self.target(tokens.is_some())?;
        if target.protocol.transport == Transport::Poll && never_read + slow_read > 0 {
            return Err(
                "--transport poll has no slow readers: a client that polls gets what it asks for".to_owned()
            );
        }
        let warmup = self.checked_warmup(&stages)?;
        Ok(Plan {
            scenario,
            run: run_number(),
            tokens,
            clients,
            publishers,
            receive_only: false,
            rooms,
            room: self.room.clone().unwrap_or_else(|| "swarm".to_owned()),
            load_model,
            sizes: self.size.clone().unwrap_or(if scenario == Scenario::Slow { LONG } else { SHORT }),
            connect_first: self.stages.iter().all(|stage| stage.clients.is_none()) && !self.close,
            handshakes: self.handshakes.unwrap_or(100).max(1),
            connect_rate: self.connect_rate.map(|rate| rate.0).filter(|&rate| rate > 0.0),
            handshake_timeout_ns: self.handshake_timeout.unwrap_or(Span::seconds(10)).nanos(),
            connect_timeout_ns: self.checked_connect_timeout().nanos(),
            warmup_ns: warmup.nanos(),
            drain_timeout_ns: self.drain_timeout.unwrap_or(Span::seconds(3)).nanos(),
            close: self.close,
            churn: match (self.churn, scenario) {
                (Some(rate), _) => rate.0,
                (None, Scenario::Churn) => f64::from(clients) / 10.0,
                _ => 0.0,
            },
            storms: self.checked_storms(scenario, &stages, load_model)?,
            resume: self.resume,
            never_read,
            slow_read,
            read_rate: self.read_rate.unwrap_or(1024).max(1),
            reconnect: self.reconnect || matches!(scenario, Scenario::Soak | Scenario::Storm),
            sources: self.checked_sources(target.address)?,
            pin: self.pin.clone(),
            stages,
            target,
        })
    }

    /// How many clients publish, and how many read slowly or never.
    fn roles(&self, scenario: Scenario, clients: u32) -> Result<Roles, String> {
        let default = match scenario {
            Scenario::Connect | Scenario::Idle => 0,
            Scenario::Echo => clients,
            Scenario::Chat | Scenario::Churn | Scenario::Storm | Scenario::Slow | Scenario::Soak => {
                10.min(clients)
            }
        };
        let publishers = self.publishers.unwrap_or(default);
        let never_read = self.never_read.unwrap_or(if scenario == Scenario::Slow { clients / 10 } else { 0 });
        let slow_read = self.slow_read.unwrap_or(0);
        if u64::from(publishers) + u64::from(never_read) + u64::from(slow_read) > u64::from(clients) {
            return Err(format!(
                "{publishers} publishers and {} slow readers are more than {clients} clients",
                never_read + slow_read
            ));
        }
        Ok(Roles { publishers, never_read, slow_read })
    }

    fn load_model(&self, scenario: Scenario) -> Result<LoadModel, String> {
        match (self.in_flight, self.rate) {
            (Some(0), _) => Err("--in-flight must be at least 1".to_owned()),
            (Some(in_flight), _) => Ok(LoadModel::ClosedLoop(in_flight)),
            (None, None) if scenario == Scenario::Echo && self.stages.is_empty() => {
                Ok(LoadModel::ClosedLoop(1))
            }
            _ => Ok(LoadModel::OpenLoop),
        }
    }

    fn max_clients(&self, scenario: Scenario) -> Result<u32, String> {
        let default = if scenario == Scenario::Echo { 100 } else { 1000 };
        let staged = self.stages.iter().filter_map(|stage| stage.clients).max();
        match self.clients.max(staged).unwrap_or(default) {
            0 => Err("--clients must be at least 1".to_owned()),
            clients @ 1..=10_000_000 => Ok(clients),
            clients => Err(format!("{clients} clients exceed the ports of one machine")),
        }
    }

    fn checked_stages(&self, scenario: Scenario, clients: u32) -> Result<Vec<Stage>, String> {
        let rate = self.rate.unwrap_or(Rate(100.0)).0;
        if self.stages.is_empty() {
            let default = match scenario {
                Scenario::Storm => Span::seconds(20),
                Scenario::Soak => Span::seconds(3600),
                Scenario::Connect if !self.close => Span::default(),
                Scenario::Connect | Scenario::Chat | Scenario::Echo => Span::seconds(10),
                Scenario::Idle | Scenario::Churn | Scenario::Slow => Span::seconds(10),
            };
            let seconds = self.duration.unwrap_or(default).0.as_secs_f64();
            return Ok(vec![Stage { name: None, seconds, rate: (rate, rate), clients: (clients, clients) }]);
        }
        if self.duration.is_some() {
            return Err(
                "--duration cannot be combined with stages: each stage has its own duration".to_owned()
            );
        }
        let connect_first = self.stages.iter().all(|stage| stage.clients.is_none());
        let mut now = (if connect_first { clients } else { 0 }, self.rate.map_or(0.0, |rate| rate.0));
        let stage = |stage: &FileStage| {
            let from = now;
            now = (stage.clients.unwrap_or(from.0), stage.rate.map_or(from.1, |rate| rate.0));
            Stage {
                name: stage.name.clone(),
                seconds: stage.duration.0.as_secs_f64(),
                clients: (from.0, now.0),
                rate: (from.1, now.1),
            }
        };
        Ok(self.stages.iter().map(stage).collect())
    }

    /// The storms, evenly spaced over the run, each with the moment at which its clients reconnect.
    fn checked_storms(
        &self,
        scenario: Scenario,
        stages: &[Stage],
        load_model: LoadModel,
    ) -> Result<Vec<Storm>, String> {
        let count = self.storms.unwrap_or(if scenario == Scenario::Storm { 1 } else { 0 });
        let length = pace::length(stages);
        let interval = length / f64::from(count + 1);
        let storm = |number: u32| {
            let at = interval * f64::from(number);
            let reconnect_at = match self.downtime.unwrap_or_default() {
                Downtime::Time(span) => at + span.0.as_secs_f64(),
                Downtime::Messages(_) if load_model != LoadModel::OpenLoop => {
                    return Err(
                        "--downtime in messages requires --rate; with --in-flight give a time".to_owned()
                    );
                }
                Downtime::Messages(0) => at,
                Downtime::Messages(count) => {
                    let later = Pace::new(stages.to_vec()).skip_while(|&moment| moment <= at);
                    later.take(count as usize).last().unwrap_or(length)
                }
            };
            if reconnect_at > at && reconnect_at >= at + interval {
                return Err(format!(
                    "the storm at {at:.1} s with --downtime {} does not end before {}: use a longer --duration",
                    self.downtime.unwrap_or_default(),
                    if number < count { "the next storm" } else { "the end of the run" }
                ));
            }
            Ok(Storm { at, reconnect_at })
        };
        (1..=count).map(storm).collect()
    }

    fn checked_tokens(&self, clients: u32) -> Result<Option<Tokens>, String> {
        match (&self.tokens, &self.token_key) {
            (Some(_), Some(_)) => Err("--tokens and --token-key exclude each other".to_owned()),
            (Some(list), None) => Tokens::read_list(list, clients).map(Some),
            (None, Some(key)) => Tokens::read_key(key, self.token_claims.as_deref()).map(Some),
            (None, None) if self.token_claims.is_some() => {
                Err("--token-claims requires --token-key".to_owned())
            }
            (None, None) => Ok(None),
        }
    }

    /// At least twice the time between two connections.
    fn checked_connect_timeout(&self) -> Span {
        let rate = self.connect_rate.map(|rate| rate.0).filter(|&rate| rate > 0.0);
        let between = rate.map_or(0.0, |rate| (2.0 / rate).min(1e9));
        let at_least = Span(std::time::Duration::from_secs_f64(between));
        let timeout = self.connect_timeout.unwrap_or(Span::seconds(30));
        if timeout > at_least { timeout } else { at_least }
    }

    fn checked_warmup(&self, stages: &[Stage]) -> Result<Span, String> {
        let warmup = self.warmup.unwrap_or_default();
        let length = pace::length(stages);
        if self.warmup.is_some() && warmup.0.as_secs_f64() >= length {
            return Err(format!("--warmup {warmup} leaves nothing of the {length} s to measure"));
        }
        Ok(warmup)
    }

    /// On the loopback every address can be used; elsewhere others than the kernel's choice must be given.
    fn checked_sources(&self, address: SocketAddr) -> Result<Vec<IpAddr>, String> {
        if let Some(wrong) = self.sources.iter().find(|source| source.is_ipv4() != address.is_ipv4()) {
            return Err(format!("--source {wrong} cannot reach {address}: one is IPv4 and the other IPv6"));
        }
        Ok(match address.ip() {
            _ if !self.sources.is_empty() => self.sources.clone(),
            IpAddr::V4(ip) if ip.is_loopback() => (1..=254).map(|last| [127, 0, 0, last].into()).collect(),
            IpAddr::V6(ip) if ip.is_loopback() => vec![IpAddr::V6(ip)],
            IpAddr::V4(_) | IpAddr::V6(_) => Vec::new(),
        })
    }
}

fn run_number() -> u32 {
    let moment = clock::now() ^ u64::from(std::process::id()) << 20;
    u32::try_from(moment.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &Options, scenario: Scenario, part: &str) {
        let error = options.plan(scenario).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn scenarios_have_their_defaults() {
        let plan = |scenario| Options::default().plan(scenario).unwrap();
        let numbers = |plan: &Plan| (plan.clients, plan.publishers, plan.rooms, plan.never_read);
        assert_eq!(numbers(&plan(Scenario::Chat)), (1000, 10, 1, 0));
        assert_eq!(numbers(&plan(Scenario::Echo)), (100, 100, 100, 0));
        assert_eq!(numbers(&plan(Scenario::Idle)), (1000, 0, 1, 0));
        assert_eq!(numbers(&plan(Scenario::Slow)), (1000, 10, 1, 100));
        assert_eq!((plan(Scenario::Churn).churn, plan(Scenario::Storm).storms.len()), (100.0, 1));
        assert_eq!(plan(Scenario::Echo).load_model, LoadModel::ClosedLoop(1));
    }

    #[test]
    fn invalid_options_are_rejected() {
        let some = |clients| Options { clients: Some(clients), ..Options::default() };
        check(&some(0), Scenario::Chat, "--clients must be at least 1");
        check(&Options { publishers: Some(6), ..some(5) }, Scenario::Chat, "6 publishers and 0 slow readers");
        check(&Options { rooms: Some(6), ..some(5) }, Scenario::Chat, "--rooms must be at least 1");
        check(&Options { in_flight: Some(0), ..some(5) }, Scenario::Chat, "--in-flight must be at least 1");
        let stage = FileStage { name: None, duration: Span::seconds(1), clients: None, rate: None };
        let both = Options { stages: vec![stage], duration: Some(Span::seconds(1)), ..some(5) };
        check(&both, Scenario::Chat, "--duration cannot be combined with stages");
        check(&Options { warmup: Some(Span::seconds(10)), ..some(5) }, Scenario::Chat, "leaves nothing");
        let claims = Options { token_claims: Some("{}".to_owned()), ..some(5) };
        check(&claims, Scenario::Chat, "--token-claims requires --token-key");
        let polls = Options { transport: Some(Transport::Poll), ..Options::default() };
        check(&polls, Scenario::Slow, "--transport poll has no slow readers");
        assert!(polls.plan(Scenario::Storm).is_ok());
    }
}
