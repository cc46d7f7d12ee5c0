//! What the settings mean: units resolved, words understood, relations checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::file::Table;
use super::reader::Reader;
use super::{Entry, Problem, identity, rooms};
use crate::base::SHARDS_MAX;
use crate::chat::{AuthMode, RoomRules};
use crate::http::OriginRules;
use crate::identity::jwt::Expectations;
use crate::identity::{Bounds, HookOptions, Jwt, Policy};
use crate::logging::LogFormat;

/// Which driver runs the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// The best that the kernel offers.
    Auto,
    /// io_uring, or none.
    Uring,
    /// epoll.
    Epoll,
}

/// How clients are authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// The client.
    Open,
    /// A token.
    Token,
    /// An auth backend.
    Hook,
}

/// The configuration, valid as a whole. The fields are the settings of the same names.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    /// The addresses are defaults: if they cannot be had, others may be tried.
    pub listen_is_default: bool,
    /// `None`: one for each CPU.
    pub shards: Option<usize>,
    pub driver: Driver,
    pub echo: bool,
    pub page: bool,
    pub sockjs_script: String,
    pub origins: OriginRules,
    pub max_message: usize,
    pub max_head: usize,
    pub max_name: usize,
    pub max_room: usize,
    /// `None`: what the limit on open files allows.
    pub max_connections: Option<u64>,
    pub room_log: u64,
    pub max_connections_per_user: u32,
    pub max_connections_per_address: u32,
    pub max_rooms_per_client: usize,
    /// Bytes of history that all rooms keep together.
    pub history_memory: u64,
    /// Messages that a session may publish in a second; 0: any number.
    pub max_session_messages_per_second: u32,
    /// Commands that a session may send in a second; 0: any number.
    pub max_session_commands_per_second: u32,
    /// How long a command may wait for an answer.
    pub command_timeout: Duration,
    /// The settings of rooms, with all `[[room]]` tables.
    pub rooms: Arc<RoomRules>,
    pub auth: Auth,
    pub anonymous: bool,
    /// All keys of tokens; `None`: there are none. They may be there without being what clients are known by.
    pub authority: Option<Arc<Jwt>>,
    /// Required claims: `token_audience`, `token_issuer`, `token_leeway`.
    pub expectations: Expectations,
    /// Bounds of tokens and hook answers: what `max_name`, `max_room`, `max_rooms_per_client` and the rooms'
    /// settings come to.
    pub policy: Policy,
    /// All of the hook's settings; `None`: it has no URL.
    pub hook: Option<HookOptions>,
    pub deflate: bool,
    pub deflate_min: usize,
    pub handshake_timeout: Duration,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub poll_timeout: Duration,
    pub close_timeout: Duration,
    pub shutdown_delay: Duration,
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

    /// How clients are authenticated.
    pub fn auth_mode(&self) -> AuthMode {
        match (self.auth, &self.authority) {
            (Auth::Token, Some(authority)) => AuthMode::Token(Arc::clone(authority) as _),
            (Auth::Hook, _) => AuthMode::Hook,
            (Auth::Token | Auth::Open, _) => AuthMode::Open,
        }
    }
}

/// A message may be as large as memory allows, but its length must fit everywhere.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Makes sense of the entries, later ones are stronger, and of the rooms' tables. What is wrong goes to
/// `problems`.
pub(super) fn check(entries: &[Entry], tables: &[Table], problems: &mut Vec<Problem>) -> Config {
    let rooms = Arc::new(rooms::check(entries, tables, problems));
    let mut read = Reader { entries, defaults: &[], problems };
    let max_name = read.count("max_name", 1, 1024);
    let max_room = read.count("max_room", 1, 1024);
    let max_rooms_per_client = read.count("max_rooms_per_client", 1, 100_000);
    let expectations = identity::expectations(&mut read);
    let bounds = Bounds {
        name_bytes_max: max_name,
        room_bytes_max: max_room,
        rooms_per_client_max: max_rooms_per_client,
    };
    let policy = Policy { bounds, rooms: Arc::clone(&rooms) };
    let (listen, listen_is_default) = read.addresses("listen");
    let config = Config {
        listen,
        listen_is_default,
        shards: read.count_or_auto("shards", 1, SHARDS_MAX),
        driver: match &*read.word("driver") {
            "uring" => Driver::Uring,
            "epoll" => Driver::Epoll,
            _ => Driver::Auto,
        },
        echo: read.switch("echo"),
        page: read.switch("page"),
        sockjs_script: read.text("sockjs_script").unwrap_or_default(),
        origins: read.origins("origins"),
        max_message: rooms.otherwise.message_bytes_max,
        max_head: read.size("max_head", 256, 1 << 20),
        max_name,
        max_room,
        max_connections: read.count_or_auto("max_connections", 1, usize::MAX >> 1).map(|count| count as u64),
        room_log: read.size("room_log", 16 * 1024, 1 << 40) as u64,
        max_connections_per_user: read.count_u32("max_connections_per_user", u32::MAX),
        max_connections_per_address: read.count_u32("max_connections_per_address", u32::MAX),
        max_rooms_per_client,
        history_memory: read.size("history_memory", 0, 1 << 50) as u64,
        max_session_messages_per_second: read.count_u32("max_session_messages_per_second", 1_000_000),
        max_session_commands_per_second: read.count_u32("max_session_commands_per_second", 1_000_000),
        command_timeout: read.span("command_timeout", Duration::from_millis(100), Duration::from_secs(600)),
        auth: match &*read.word("auth") {
            "token" => Auth::Token,
            "hook" => Auth::Hook,
            _ => Auth::Open,
        },
        anonymous: read.switch("anonymous"),
        authority: identity::authority(&mut read, &expectations, policy.clone()),
        expectations,
        policy,
        hook: identity::hook(&mut read),
        rooms,
        deflate: read.switch("deflate"),
        deflate_min: read.size("deflate_min", 0, MESSAGE_BYTES_MAX),
        handshake_timeout: read.span("handshake_timeout", Duration::from_millis(100), DAY),
        ping_interval: read.span("ping_interval", Duration::ZERO, DAY),
        pong_timeout: read.span("pong_timeout", Duration::from_millis(100), DAY),
        poll_timeout: read.span("poll_timeout", Duration::from_millis(100), Duration::from_secs(600)),
        close_timeout: read.span("close_timeout", Duration::from_millis(100), DAY),
        shutdown_delay: read.span("shutdown_delay", Duration::ZERO, DAY),
        drain: read.span("drain", Duration::ZERO, DAY),
        log: read.directives("log"),
        log_format: match &*read.word("log_format") {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
    };
    identity::relations(
        &mut read,
        config.auth,
        config.authority.as_ref(),
        config.hook.as_ref(),
        &config.rooms,
    );
    if !config.ping_interval.is_zero() && config.ping_interval < Duration::from_millis(200) {
        read.wrong("ping_interval", "must be 0s or at least 200ms");
    }
    config
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::super::settings::{self, Kind};
    use super::super::{Location, Raw, file};
    use super::*;

    fn of_file(text: &str) -> (Config, Vec<String>) {
        let mut problems = Vec::new();
        let written = file::parse("s.toml", text, &mut problems);
        let config = check(&written.entries, &written.rooms, &mut problems);
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
        let mut entries = file::parse("s.toml", "max_name = 7\nshards = 3", &mut problems).entries;
        entries.push(Entry {
            name: "max_name".into(),
            value: Raw::Text("9".into()),
            location: Location::flag("max_name"),
        });
        let config = check(&entries, &[], &mut problems);
        assert_eq!((config.max_name, config.shards), (9, Some(3)));
    }

    #[test]
    fn a_weaker_entry_has_to_be_right_as_well() {
        let mut problems = Vec::new();
        let mut entries = file::parse("s.toml", "max_name = 0", &mut problems).entries;
        let value = Raw::Text("9".into());
        entries.push(Entry { name: "max_name".into(), value, location: Location::flag("max_name") });
        let config = check(&entries, &[], &mut problems);
        assert_eq!(config.max_name, 9);
        let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems, ["s.toml:1:12: `max_name` must be a whole number from 1 to 1024"]);
    }

    /// Another value than the default, as TOML.
    fn other(setting: &settings::Setting) -> String {
        match (setting.name, setting.kind) {
            ("listen", _) => "\"127.0.0.1:7\"".to_owned(),
            ("token_hmac_secret", _) => format!("{:?}", "s".repeat(33)),
            ("token_hmac_secret_files", _) => "\"tests/keys/secret\"".to_owned(),
            ("token_public_keys", _) => "\"tests/keys/rsa.pub.pem\"".to_owned(),
            ("hook_url", _) => "\"http://127.0.0.1:7/\"".to_owned(),
            ("hook_headers", _) => "\"X-Key: 7\"".to_owned(),
            ("hook_ca", _) => "\"tests/keys/certificate.pem\"".to_owned(),
            (_, Kind::Switch) if setting.default == "true" => "false".to_owned(),
            (_, Kind::Switch) => "true".to_owned(),
            (_, Kind::Count | Kind::CountOrAuto) => "7".to_owned(),
            (_, Kind::Size) => "\"33KiB\"".to_owned(),
            (_, Kind::Span) => "\"7s\"".to_owned(),
            (_, Kind::Text) => "\"debug\"".to_owned(),
            (_, Kind::List) => "\"any\"".to_owned(),
            (_, Kind::Choice(words)) => {
                let other = words.iter().find(|word| !setting.default.contains(*word));
                format!("{:?}", other.expect("a choice"))
            }
        }
    }

    #[test]
    fn live_settings_need_no_restart() {
        // With a key and a hook, so that their settings make a difference.
        let keys = [
            ("token_hmac_secret", format!("{:?}", "k".repeat(32))),
            ("hook_url", "\"http://127.0.0.1:1/\"".into()),
        ];
        let with = |name: &str, value: &str| {
            let others = keys.iter().filter(|(key, _)| *key != name);
            let others: String = others.map(|(key, value)| format!("{key} = {value}\n")).collect();
            of_file(&format!("{others}{name} = {value}"))
        };
        let (config, _) = with("echo", "false");
        for setting in settings::ALL {
            let (new, problems) = with(setting.name, &other(setting));
            assert_eq!(problems, Vec::<String>::new());
            assert_ne!(new, config, "{}", setting.name);
            let needed: &[&str] = if setting.live { &[] } else { &[setting.name] };
            assert_eq!(config.needs_restart(&new), needed, "{}", setting.name);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "a secret of thirty-two characters";
        let (config, _) = of_file(&format!(
            "token_hmac_secret = {secret:?}\nhook_url = \"http://a/\"\nhook_headers = [\"X: {secret}\"]"
        ));
        assert!(config.authority.is_some() && config.hook.is_some());
        assert!(!format!("{config:?}").contains("secret of"), "{config:?}");
        let bytes: Vec<_> = secret.bytes().take(4).map(|byte| byte.to_string()).collect();
        assert!(!format!("{config:?}").contains(&bytes.join(", ")), "{config:?}");
        let mut problems = Vec::new();
        let written = file::parse("s.toml", &format!("token_hmac_secret = {secret:?}"), &mut problems);
        assert!(!format!("{:?}", written.entries).contains("secret of"));
        let (_, problems) = of_file("token_hmac_secret = \"secret of\"\nhook_headers = [\"secret of\"]");
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|problem| !problem.contains("secret of")), "{problems:?}");
    }

    #[test]
    fn authentication_needs_its_settings() {
        let check = |text: &str, expected: &str| assert_eq!(of_file(text).1, [expected]);
        check(
            "auth = \"token\"",
            "s.toml:1:8: `auth` = \"token\" needs a key: token_hmac_secret_files, token_hmac_secret or token_public_keys",
        );
        check("auth = \"hook\"", "s.toml:1:8: `auth` = \"hook\" needs hook_url");
        check(
            "auth = \"open\"\n[[room]]\npattern = \"a\"\nsubscribe = \"token\"",
            "s.toml:1:8: `auth` must be \"token\", because a room requires a token to subscribe or publish",
        );
        for (file, fault) in [
            (
                "p521.pub.pem",
                "is neither an RSA key nor an ECDSA key on P-256 or P-384 (PKCS #8, or PKCS #1 for RSA)",
            ),
            ("weak.pub.pem", "is an RSA key of fewer than 2048 bits (RFC 7518 §3.3)"),
            (
                "rsa.pem",
                "is a private key, which only the signer should have; `openssl pkey -pubout` makes the public one",
            ),
            ("certificate.pem", "is a certificate; `openssl x509 -pubkey -noout` takes the key out"),
            ("secret", "is no key in PEM form"),
            (
                "none",
                "cannot be read (No such file or directory (os error 2)); paths in a file are relative to that file, those \
                 of flags and variables to the working directory",
            ),
        ] {
            let path = format!("tests/keys/{file}");
            check(
                &format!("token_public_keys = [\"tests/keys/p384.pub.pem\", \"{path}\"]"),
                &format!("s.toml:1:21: `token_public_keys` has {path:?}, which {fault}"),
            );
        }
    }

    /// A key that cannot be read, or is too short, is one mistake: no other key is missing.
    #[test]
    fn a_wrong_key_is_not_a_missing_one() {
        for keys in ["token_hmac_secret = \"short\"", "token_hmac_secret_files = [\"tests/keys/none\"]"] {
            let (_, problems) = of_file(&format!("auth = \"token\"\n{keys}"));
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("s.toml:2:"), "{problems:?}");
        }
        for none in ["token_hmac_secret = \"\"", "token_public_keys = []"] {
            let (_, problems) = of_file(&format!("auth = \"token\"\n{none}"));
            assert!(problems.len() == 1 && problems[0].contains("needs a key"), "{problems:?}");
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_location() {
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
                "s.toml:4:10: `driver` must be one of auto, uring, epoll",
                "s.toml:5:17: `ping_interval` must be a time with its unit, such as \"25s\" or \"250ms\", from 0s to 1day",
                "s.toml:6:11: `origins` has \"chat.example/x\", which is none of same-host, any, null, and no origin such \
                 as \"https://chat.example\" (ASCII, no path)",
                "s.toml:7:7: `log` must be a level (off, error, warn, info, debug, trace) or a list of directives such as \
                 \"info,stentor::driver=debug\"",
            ]
        );
    }
}
