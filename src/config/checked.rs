//! What the settings mean: units resolved, words understood, relations checked.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tungstenite::http::uri::Authority;

use super::settings::{self, Kind};
use super::{Entry, Problem, Raw, file};
use crate::chat::SlowMember;
use crate::http::{OriginRule, OriginRules};
use crate::logging::LogFormat;
use crate::shard::mesh::SHARDS_MAX;

/// Which driver runs the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// The best that the kernel offers.
    Auto,
    /// epoll.
    Epoll,
}

/// The configuration, valid as a whole. The fields are the settings of the same names.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    /// Nobody chose the addresses: if they cannot be had, others may be tried.
    pub listen_is_default: bool,
    /// `None`: one for each CPU.
    pub shards: Option<usize>,
    pub driver: Driver,
    pub echo: bool,
    pub page: bool,
    pub origins: OriginRules,
    pub max_message: usize,
    pub max_head: usize,
    pub max_name: usize,
    pub max_room: usize,
    /// `None`: what the limit on open files allows.
    pub max_connections: Option<u64>,
    pub room_log: u64,
    pub slow_member: SlowMember,
    pub coalesce: Duration,
    pub deflate: bool,
    pub deflate_min: usize,
    pub handshake_timeout: Duration,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub close_timeout: Duration,
    pub drain: Duration,
    pub log: String,
    pub log_format: LogFormat,
}

impl Config {
    /// The settings that differ in `new` and that only a restart changes.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("listen", self.listen != new.listen),
            ("shards", self.shards != new.shards),
            ("driver", self.driver != new.driver),
            ("log_format", self.log_format != new.log_format),
        ];
        changed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
    }

    /// `new`, but for what needs a restart: that stays what is running.
    pub fn reloaded(&self, new: Self) -> Self {
        let Self { listen_is_default, shards, driver, log_format, .. } = *self;
        Self { listen: self.listen.clone(), listen_is_default, shards, driver, log_format, ..new }
    }
}

/// A message may be as large as memory allows, but its length must fit everywhere.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Makes sense of the entries; later ones are stronger. What is wrong goes to `problems`.
pub(super) fn check(entries: &[Entry], problems: &mut Vec<Problem>) -> Config {
    let mut read = Reader { entries, problems };
    let (listen, listen_is_default) = read.addresses("listen");
    let config = Config {
        listen,
        listen_is_default,
        shards: read.count_or_auto("shards", 1, SHARDS_MAX),
        driver: match &*read.word("driver") {
            "epoll" => Driver::Epoll,
            _ => Driver::Auto,
        },
        echo: read.switch("echo"),
        page: read.switch("page"),
        origins: read.origins("origins"),
        max_message: read.size("max_message", 1, MESSAGE_BYTES_MAX),
        max_head: read.size("max_head", 256, 1 << 20),
        max_name: read.count("max_name", 1, 1024),
        max_room: read.count("max_room", 1, 1024),
        max_connections: read.count_or_auto("max_connections", 1, usize::MAX >> 1).map(|count| count as u64),
        room_log: read.size("room_log", 16 * 1024, 1 << 40) as u64,
        slow_member: match &*read.word("slow_member") {
            "skip" => SlowMember::Skip,
            "conflate" => SlowMember::Conflate,
            _ => SlowMember::Disconnect,
        },
        coalesce: read.span("coalesce", Duration::ZERO, Duration::from_secs(10)),
        deflate: read.switch("deflate"),
        deflate_min: read.size("deflate_min", 0, MESSAGE_BYTES_MAX),
        handshake_timeout: read.span("handshake_timeout", Duration::from_millis(100), DAY),
        ping_interval: read.span("ping_interval", Duration::ZERO, DAY),
        pong_timeout: read.span("pong_timeout", Duration::from_millis(100), DAY),
        close_timeout: read.span("close_timeout", Duration::from_millis(100), DAY),
        drain: read.span("drain", Duration::ZERO, DAY),
        log: read.directives("log"),
        log_format: match &*read.word("log_format") {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
    };
    if !config.ping_interval.is_zero() && config.ping_interval < Duration::from_millis(200) {
        read.wrong("ping_interval", "must be 0s or at least 200ms");
    }
    config
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Reader<'a> {
    entries: &'a [Entry],
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The strongest value of a setting, or its default.
    fn entry(&self, name: &str) -> Entry {
        self.given(name).cloned().unwrap_or_else(|| {
            let default = settings::find(name).map_or("", |setting| setting.default);
            let mut no_problem = Vec::new();
            let mut entries = file::parse("default", &format!("{name} = {default}"), &mut no_problem);
            entries.pop().expect("every setting has a default, which a test reads")
        })
    }

    fn given(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.name == name)
    }

    fn wrong(&mut self, name: &str, sentence: &str) {
        let place = self.entry(name).place;
        self.problems.push(Problem::new(place, format!("`{name}` {sentence}")));
    }

    /// The strongest value as `parse` understands it; else `otherwise`, and a problem that says what it must be. A weaker
    /// one has to be right as well: it comes into force when the stronger one is taken away.
    fn read<T>(&mut self, name: &str, must_be: &str, parse: impl Fn(&Raw) -> Option<T>, otherwise: T) -> T {
        for entry in self.entries.iter().filter(|entry| entry.name == name) {
            if parse(&entry.value).is_none() {
                let sentence = format!("`{name}` must be {must_be}");
                self.problems.push(Problem::new(entry.place.clone(), sentence));
            }
        }
        parse(&self.entry(name).value).unwrap_or(otherwise)
    }

    fn switch(&mut self, name: &str) -> bool {
        let parse = |raw: &Raw| match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Text(text) => text.parse().ok(),
            Raw::Integer(_) | Raw::List(_) => None,
        };
        self.read(name, "true or false", parse, false)
    }

    fn word(&mut self, name: &str) -> String {
        let Some(Kind::Choice(words)) = settings::find(name).map(|setting| setting.kind) else {
            return String::new();
        };
        let parse = |raw: &Raw| raw.text().filter(|text| words.contains(text)).map(str::to_owned);
        self.read(name, &format!("one of {}", words.join(", ")), parse, String::new())
    }

    fn count(&mut self, name: &str, min: usize, max: usize) -> usize {
        let parse = |raw: &Raw| whole(raw).filter(|count| (min..=max).contains(count));
        self.read(name, &format!("a whole number from {min} to {max}"), parse, min)
    }

    fn count_or_auto(&mut self, name: &str, min: usize, max: usize) -> Option<usize> {
        let parse = |raw: &Raw| {
            if raw.text() == Some("auto") {
                return Some(None);
            }
            whole(raw).filter(|count| (min..=max).contains(count)).map(Some)
        };
        let bounds = if max > usize::MAX / 4 { format!("{min} or more") } else { format!("{min} to {max}") };
        self.read(name, &format!("auto, or a whole number: {bounds}"), parse, None)
    }

    fn size(&mut self, name: &str, min: usize, max: usize) -> usize {
        let parse = |raw: &Raw| bytes(raw).filter(|size| (min..=max).contains(size));
        let (least, most) = (Size(min), Size(max));
        self.read(name, &format!("a size from {least} to {most}, such as 65536 or \"64KiB\""), parse, min)
    }

    fn span(&mut self, name: &str, min: Duration, max: Duration) -> Duration {
        let parse = |raw: &Raw| {
            if *raw == Raw::Integer(0) && min.is_zero() {
                return Some(Duration::ZERO);
            }
            humantime::parse_duration(raw.text()?).ok().filter(|span| (min..=max).contains(span))
        };
        let bounds = format!("{} to {}", humantime::format_duration(min), humantime::format_duration(max));
        self.read(
            name,
            &format!("a time with its unit, such as \"25s\" or \"250ms\", from {bounds}"),
            parse,
            min,
        )
    }

    /// Each element as `parse` understands it; a problem for each that it does not, with `parse`'s reason.
    fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Vec<T> {
        let texts = self.read(name, "a list of texts", list, Vec::new());
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(reason) => self.wrong(name, &format!("has {text:?}, which {reason}")),
            }
        }
        values
    }

    fn addresses(&mut self, name: &str) -> (Vec<SocketAddr>, bool) {
        let is_default = self.given(name).is_none();
        if self.given(name).and_then(|entry| list(&entry.value)).is_some_and(|texts| texts.is_empty()) {
            self.wrong(name, "must have at least one address");
        }
        (self.list(name, resolve).concat(), is_default)
    }

    fn origins(&mut self, name: &str) -> OriginRules {
        OriginRules(self.list(name, origin))
    }

    fn directives(&mut self, name: &str) -> String {
        let parse = |raw: &Raw| {
            let text = raw.text().filter(|text| text.split(',').all(is_directive))?;
            EnvFilter::try_new(text).ok().map(|_| text.to_owned())
        };
        self.read(
            name,
            "a level (off, error, warn, info, debug, trace) or a list of directives such as \"info,stentor::driver=debug\"",
            parse,
            String::new(),
        )
    }
}

fn whole(raw: &Raw) -> Option<usize> {
    match raw {
        Raw::Integer(number) => usize::try_from(*number).ok(),
        Raw::Text(text) => text.parse().ok(),
        Raw::Bool(_) | Raw::List(_) => None,
    }
}

fn list(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::List(texts) => Some(texts.clone()),
        Raw::Text(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
        Raw::Integer(_) | Raw::Bool(_) => None,
    }
}

const UNITS: [(&str, usize); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

fn bytes(raw: &Raw) -> Option<usize> {
    let Raw::Text(text) = raw else { return whole(raw) };
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((strip_suffix_ignoring_case(text, unit)?, *bytes)))
        .unwrap_or((text, 1));
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}

fn strip_suffix_ignoring_case<'t>(text: &'t str, suffix: &str) -> Option<&'t str> {
    let (front, back) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    back.eq_ignore_ascii_case(suffix).then_some(front)
}

/// A number of bytes in the largest unit that divides it.
struct Size(usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit =
            UNITS[..3].iter().rev().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        match unit {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A lone word that is no level would pass for the name of a module, and silence everything else.
fn is_directive(text: &str) -> bool {
    text == env!("CARGO_PKG_NAME") || text.contains(['=', ':', '[']) || text.parse::<LevelFilter>().is_ok()
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            let addresses = text.to_socket_addrs().map_err(|_| "has a host that cannot be resolved")?;
            Ok(addresses.collect())
        }
        _ => Err("is no address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\""),
    }
}

fn origin(text: &str) -> Result<OriginRule, &'static str> {
    match text {
        "same-host" => Ok(OriginRule::SameHost),
        "any" | "*" => Ok(OriginRule::Any),
        "null" => Ok(OriginRule::Null),
        exact if is_origin(exact) => Ok(OriginRule::Exact(exact.to_owned())),
        _ => Err(
            "is none of same-host, any, null, and no origin such as \"https://chat.example\" (ASCII, no path)",
        ),
    }
}

/// Whether a browser can send this: a scheme, a host, perhaps a port, and nothing else.
fn is_origin(text: &str) -> bool {
    let Some(("http" | "https", rest)) = text.split_once("://") else { return false };
    let Ok(authority) = rest.parse::<Authority>() else { return false };
    let port = authority.port().map_or_else(String::new, |port| format!(":{port}"));
    !authority.host().is_empty()
        && !authority.host().contains('*')
        && rest == authority.host().to_owned() + &port
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    fn of_file(text: &str) -> (Config, Vec<String>) {
        let mut problems = Vec::new();
        let entries = file::parse("s.toml", text, &mut problems);
        let config = check(&entries, &mut problems);
        problems.sort();
        (config, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let (defaults, problems) = of_file("");
        assert_eq!(problems, Vec::<String>::new());
        let (printed, problems) = of_file(&settings::commented_defaults());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(Config { listen_is_default: true, ..printed }, defaults);
        assert_eq!(defaults.max_message, 65_536);
        assert_eq!(defaults.ping_interval, Duration::from_secs(25));
    }

    #[test]
    fn stronger_entries_win() {
        let mut problems = Vec::new();
        let mut entries = file::parse("s.toml", "max_name = 7\nshards = 3", &mut problems);
        entries.push(Entry {
            name: "max_name".into(),
            value: Raw::Text("9".into()),
            place: Place::flag("max_name"),
        });
        let config = check(&entries, &mut problems);
        assert_eq!((config.max_name, config.shards), (9, Some(3)));
    }

    #[test]
    fn a_weaker_entry_has_to_be_right_as_well() {
        let mut problems = Vec::new();
        let mut entries = file::parse("s.toml", "max_name = 0", &mut problems);
        let value = Raw::Text("9".into());
        entries.push(Entry { name: "max_name".into(), value, place: Place::flag("max_name") });
        let config = check(&entries, &mut problems);
        assert_eq!(config.max_name, 9);
        let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems, ["s.toml:1:12: `max_name` must be a whole number from 1 to 1024"]);
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64 kib", Some(65_536)),
            ("1MB", Some(1_000_000)),
            ("5B", Some(5)),
            ("1.5MiB", None),
            ("KiB", None),
            ("-1", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(bytes(&Raw::Text(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(resolve("127.0.0.1:80"), Ok(vec![([127, 0, 0, 1], 80).into()]));
        assert_eq!(resolve("[::]:0"), Ok(vec![([0_u16; 8], 0).into()]));
        for wrong in ["8080", ":8080", "localhost", "127.0.0.1:", "127.0.0.1:65536", ""] {
            assert!(resolve(wrong).is_err_and(|reason| reason.starts_with("is no address")), "{wrong}");
        }
    }

    #[test]
    fn origins_are_what_a_browser_can_send() {
        for exact in
            ["https://chat.example", "http://localhost:8080", "https://[::1]:8443", "https://a.b:443"]
        {
            assert_eq!(origin(exact), Ok(OriginRule::Exact(exact.to_owned())));
        }
        for wrong in [
            "chat.example",
            "ftp://chat.example",
            "https://",
            "https://:80",
            "https://chat.example/",
            "https://chat.example:",
            "https://chat.example:65536",
            "https://chat.example:a",
            "https://me@chat.example",
            "https://*.example",
            "https://a b",
            "https://bücher.example",
            "https://[::1",
            "",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_directives() {
        for right in
            ["off", "INFO", "stentor", "warn,stentor::driver=debug", "stentor[turn{shard=1,room=2}]=trace"]
        {
            assert!(right.split(',').all(is_directive), "{right}");
        }
        for wrong in ["inof", "info,debgu", "verbose"] {
            assert!(!wrong.split(',').all(is_directive), "{wrong}");
        }
    }

    #[test]
    fn what_the_table_calls_live_needs_no_restart() {
        let (config, _) = of_file("");
        for setting in settings::ALL {
            let other = match setting.kind {
                Kind::Switch if setting.default == "true" => "false",
                Kind::Switch => "true",
                Kind::Count | Kind::CountOrAuto => "7",
                Kind::Size => "\"33KiB\"",
                Kind::Span => "\"7s\"",
                Kind::Text => "\"debug\"",
                Kind::List if setting.name == "listen" => "\"127.0.0.1:7\"",
                Kind::List => "\"any\"",
                Kind::Choice(words) => &format!("{:?}", words[1]),
            };
            let (new, problems) = of_file(&format!("{} = {other}", setting.name));
            assert_eq!(problems, Vec::<String>::new());
            assert_ne!(new, config, "{}", setting.name);
            let needed: &[&str] = if setting.live { &[] } else { &[setting.name] };
            assert_eq!(config.needs_restart(&new), needed, "{}", setting.name);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let (_, problems) = of_file(
            "listen = [\"8080\"]\nmax_message = \"64\"\nmax_name = 0\ndriver = \"kqueue\"\nping_interval = 25\n\
             origins = [\"chat.example/x\"]\nlog = \"a=b=c\"\n",
        );
        assert_eq!(
            problems,
            [
                "s.toml:1:10: `listen` has \"8080\", which is no address with a port, such as \"127.0.0.1:8080\" or \
                 \"[::]:8080\"",
                "s.toml:3:12: `max_name` must be a whole number from 1 to 1024",
                "s.toml:4:10: `driver` must be one of auto, epoll",
                "s.toml:5:17: `ping_interval` must be a time with its unit, such as \"25s\" or \"250ms\", from 0s to 1day",
                "s.toml:6:11: `origins` has \"chat.example/x\", which is none of same-host, any, null, and no origin such \
                 as \"https://chat.example\" (ASCII, no path)",
                "s.toml:7:7: `log` must be a level (off, error, warn, info, debug, trace) or a list of directives such as \
                 \"info,stentor::driver=debug\"",
            ]
        );
    }
}
