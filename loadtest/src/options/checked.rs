//! The plan that options come to, with what was not asked for filled in.

use std::net::{IpAddr, SocketAddr};

use super::{FileStage, Options};
use crate::clock;
use crate::pace::{self, Pace, Stage};
use crate::plan::{CLIENTS_PER_SOURCE, Plan, Scenario, Speech, Storm};
use crate::units::{Away, Rate, Sizes, Span};

/// How long messages are.
const SHORT: Sizes = Sizes::Fixed(96);

/// How long they are where buffers are to be filled.
const LONG: Sizes = Sizes::Fixed(4096);

/// How many clients publish, and how many read late or never.
struct Roles {
    speakers: u32,
    never_read: u32,
    slow_read: u32,
}

impl Options {
    /// The plan, with what was not asked for filled in.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn plan(&self, scenario: Scenario) -> Result<Plan, String> {
        let clients = self.most_clients(scenario)?;
        let Roles { speakers, never_read, slow_read } = self.roles(scenario, clients)?;
        let rooms = self.rooms.unwrap_or(if scenario == Scenario::Echo { clients } else { 1 });
        if rooms == 0 || rooms > clients {
            return Err("--rooms must be at least 1, and not above --clients".to_owned());
        }
        let speech = self.speech(scenario)?;
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

    /// How many clients do something else than to listen at once.
    fn roles(&self, scenario: Scenario, clients: u32) -> Result<Roles, String> {
        let usual = match scenario {
            Scenario::Connect | Scenario::Idle => 0,
            Scenario::Echo => clients,
            Scenario::Chat | Scenario::Churn | Scenario::Storm | Scenario::Slow | Scenario::Soak => {
                10.min(clients)
            }
        };
        let speakers = self.speakers.unwrap_or(usual);
        let never_read = self.never_read.unwrap_or(if scenario == Scenario::Slow { clients / 10 } else { 0 });
        let slow_read = self.slow_read.unwrap_or(0);
        if u64::from(speakers) + u64::from(never_read) + u64::from(slow_read) > u64::from(clients) {
            return Err(format!(
                "{speakers} speakers and {} slow readers are more than {clients} clients",
                never_read + slow_read
            ));
        }
        Ok(Roles { speakers, never_read, slow_read })
    }

    fn speech(&self, scenario: Scenario) -> Result<Speech, String> {
        match (self.window, self.rate) {
            (Some(0), _) => Err("--window must be at least 1".to_owned()),
            (Some(window), _) => Ok(Speech::Window(window)),
            (None, None) if scenario == Scenario::Echo && self.stages.is_empty() => Ok(Speech::Window(1)),
            _ => Ok(Speech::Paced),
        }
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
        let numbers = |plan: &Plan| (plan.clients, plan.speakers, plan.rooms, plan.never_read);
        assert_eq!(numbers(&plan(Scenario::Chat)), (1000, 10, 1, 0));
        assert_eq!(numbers(&plan(Scenario::Echo)), (100, 100, 100, 0));
        assert_eq!(numbers(&plan(Scenario::Idle)), (1000, 0, 1, 0));
        assert_eq!(numbers(&plan(Scenario::Slow)), (1000, 10, 1, 100));
        assert_eq!((plan(Scenario::Churn).churn, plan(Scenario::Storm).storms.len()), (100.0, 1));
        assert_eq!(plan(Scenario::Echo).speech, Speech::Window(1));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let some = |clients| Options { clients: Some(clients), ..Options::default() };
        check(&some(0), Scenario::Chat, "--clients must be at least 1");
        check(&Options { speakers: Some(6), ..some(5) }, Scenario::Chat, "6 speakers and 0 slow readers");
        check(&Options { rooms: Some(6), ..some(5) }, Scenario::Chat, "--rooms must be at least 1");
        check(&Options { window: Some(0), ..some(5) }, Scenario::Chat, "--window must be at least 1");
        let stage = FileStage { duration: Span::seconds(1), clients: None, rate: None };
        let both = Options { stages: vec![stage], duration: Some(Span::seconds(1)), ..some(5) };
        check(&both, Scenario::Chat, "a duration beside stages");
    }
}
