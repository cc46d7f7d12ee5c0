//! Every setting: its name, its kind, its default, and what it does.

/// What a setting's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Count,
    /// A whole number, or `auto`.
    CountOrAuto,
    /// Bytes: `65536` or `"64KiB"`.
    Size,
    /// A time: `"25s"`, `"250ms"`.
    Span,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text.
    Text,
    /// A list of texts; in the environment and on the command line, separated by commas.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the file; in upper case behind `STENTOR_`, and with dashes behind `--`, it is the same.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its default, as TOML.
    pub default: &'static str,
    /// Whether a reload (SIGHUP) changes it in the running server.
    pub live: bool,
    /// Whether it is a key of `[[room]]` too; the setting itself is for the rooms that no pattern fits.
    pub of_rooms: bool,
    /// Whether its value is nobody's business: it is not shown anywhere, and there is no flag, which others would see.
    pub secret: bool,
    /// What it does.
    pub doc: &'static str,
}

const fn live(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, kind, default, live: true, of_rooms: false, secret: false, doc }
}

const fn fixed(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { live: false, ..live(name, kind, default, doc) }
}

const fn room(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { of_rooms: true, ..live(name, kind, default, doc) }
}

const fn secret(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { secret: true, ..live(name, kind, default, doc) }
}

/// Who may do something in a room.
const WHO: Kind = Kind::Choice(&["anyone", "members", "users", "token", "nobody"]);

/// All settings, in the order in which they are printed.
pub const ALL: &[Setting] = &[
    fixed("listen", Kind::List, r#"["[::]:8080"]"#, "Addresses to listen on. [::] takes IPv4 as well."),
    fixed(
        "shards",
        Kind::CountOrAuto,
        r#""auto""#,
        "Event loops, each with its own thread; auto: one for each CPU.",
    ),
    fixed(
        "driver",
        Kind::Choice(&["auto", "uring", "epoll"]),
        r#""auto""#,
        "How the kernel is asked: through io_uring (Linux 6.8), through epoll, or through the ring where the kernel has it.",
    ),
    live("echo", Kind::Switch, "false", "Serve /echo, which sends every message back. For tests."),
    live("page", Kind::Switch, "true", "Serve the chat page at /."),
    live(
        "origins",
        Kind::List,
        r#"["same-host"]"#,
        "Pages that may connect: same-host, any, null, or scheme://host[:port]. Clients that are no browsers always may.",
    ),
    room(
        "max_message",
        Kind::Size,
        r#""64KiB""#,
        "The largest message taken from a client, put together and inflated. A room may have a lower bound for texts and \
         data.",
    ),
    live("max_head", Kind::Size, r#""8KiB""#, "The largest request head."),
    live("max_name", Kind::Count, "64", "Bytes of the longest name."),
    live("max_room", Kind::Count, "255", "Bytes of the longest room name."),
    live(
        "max_connections",
        Kind::CountOrAuto,
        r#""auto""#,
        "Connections at a time; further ones get 503. auto: the limit on open files, less a reserve; with io_uring each \
         shard has a table of that size.",
    ),
    live(
        "room_log",
        Kind::Size,
        r#""1MiB""#,
        "How far a member may fall behind its room, on each shard. At least twice max_message is used.",
    ),
    live(
        "max_connections_per_user",
        Kind::Count,
        "0",
        "Connections of one user at a time, where a token or the hook says who that is; 0: any number.",
    ),
    live(
        "max_connections_per_address",
        Kind::Count,
        "0",
        "Connections from one IPv4 address or IPv6 network (/64) at a time; 0: any number. Behind a proxy all clients \
         have its address.",
    ),
    live("max_rooms_per_client", Kind::Count, "128", "Rooms that one client is in at a time."),
    live(
        "max_session_messages_per_second",
        Kind::Count,
        "20",
        "Messages of one client in a second, in all rooms that have no limit of their own, with twice as many in a \
         burst; 0: any number.",
    ),
    live(
        "max_session_commands_per_second",
        Kind::Count,
        "100",
        "Commands of one client in a second, other than publishing, with twice as many in a burst; 0: any number.",
    ),
    live(
        "command_timeout",
        Kind::Span,
        r#""10s""#,
        "How long a command may wait for its room or for an engine; then it gets a temporary error.",
    ),
    live(
        "history_memory",
        Kind::Size,
        r#""256MiB""#,
        "Bytes of history that all rooms keep together; above it the least recently used rooms lose theirs.",
    ),
    room(
        "max_messages_per_second",
        Kind::Count,
        "0",
        "Messages of one client in a second in one room, with twice as many in a burst, instead of the bound for all its \
         rooms; 0: that bound.",
    ),
    room("history", Kind::Count, "100", "Messages that a room keeps for those who come later; 0: none."),
    room("history_bytes", Kind::Size, r#""64KiB""#, "Bytes of these, at most."),
    room("history_age", Kind::Span, r#""10m""#, "How long one is kept."),
    room("presence", Kind::Switch, "true", "Whether clients can ask who is in a room."),
    room("join_leave", Kind::Switch, "true", "Whether members are told who comes and goes."),
    room("join_leave_max", Kind::Count, "500", "In rooms with more members nobody is told."),
    room(
        "subscribe",
        WHO,
        r#""anyone""#,
        "Who may join a room: anyone; users, of whom a token or the hook says who they are; those with a token for the \
         room; nobody but whom the server joins. members means anyone here.",
    ),
    room("publish", WHO, r#""members""#, "Who may speak in a room: the same, or those who are in it."),
    room(
        "slow_member",
        Kind::Choice(&["disconnect", "skip", "conflate"]),
        r#""disconnect""#,
        "What becomes of a member that falls behind by more: closed with 1013; moved to the newest and told how much \
         it missed; or given only the newest message whenever it can take one.",
    ),
    room(
        "coalesce",
        Kind::Span,
        r#""0ms""#,
        "How long a room waits for more messages before it sends, to save sends.",
    ),
    live(
        "auth",
        Kind::Choice(&["open", "token", "hook"]),
        r#""open""#,
        "Who says who a client is: itself; a signed token (JWT); or a back end that is asked over HTTP.",
    ),
    live(
        "anonymous",
        Kind::Switch,
        "false",
        "With auth = \"token\": whether clients without a token are let in, as nobody in particular.",
    ),
    secret(
        "token_hmac_secret",
        Kind::Text,
        r#""""#,
        "The secret that tokens are signed with (HS256, HS384, HS512), at least 32 bytes. A file is safer.",
    ),
    live(
        "token_hmac_secret_files",
        Kind::List,
        "[]",
        "Files with such secrets, each as PATH or KID=PATH. Tokens may be signed with any; the first makes them.",
    ),
    live(
        "token_public_keys",
        Kind::List,
        "[]",
        "Files with public keys in PEM form, each as PATH or KID=PATH: RSA (RS256, RS384, RS512), or ECDSA on P-256 \
         (ES256) or P-384 (ES384).",
    ),
    live("token_audience", Kind::Text, r#""""#, "What tokens must have as `aud`; empty: anything."),
    live("token_issuer", Kind::Text, r#""""#, "What tokens must have as `iss`; empty: anything."),
    live(
        "token_leeway",
        Kind::Span,
        r#""5s""#,
        "How far ahead of this machine's clock a token's `nbf` and `iat` may be. `exp` has none.",
    ),
    live("hook_url", Kind::Text, r#""""#, "Where the back end is asked, with POST: http:// or https://."),
    live(
        "hook_timeout",
        Kind::Span,
        r#""2s""#,
        "How long it may take; then the client is told to come back.",
    ),
    live("hook_concurrency", Kind::Count, "16", "Questions under way at a time."),
    live(
        "hook_waiting",
        Kind::Count,
        "4096",
        "Questions that wait for that; further clients are told to come back.",
    ),
    secret(
        "hook_headers",
        Kind::List,
        "[]",
        "Headers that are sent along, each as \"Name: value\", such as one with a shared secret.",
    ),
    live(
        "hook_ca",
        Kind::Text,
        r#""""#,
        "A file with the certificates (PEM) of the authority that the back end's is from; empty: the web's.",
    ),
    live("deflate", Kind::Switch, "true", "Agree to permessage-deflate when a client offers it."),
    live("deflate_min", Kind::Size, "128", "Messages shorter than this are not compressed."),
    live(
        "handshake_timeout",
        Kind::Span,
        r#""15s""#,
        "Time for a request head, and for an idle HTTP connection.",
    ),
    live(
        "ping_interval",
        Kind::Span,
        r#""25s""#,
        "A client that is silent for up to this long is pinged; 0s: never.",
    ),
    live("pong_timeout", Kind::Span, r#""8s""#, "How long it then has to show life."),
    live("close_timeout", Kind::Span, r#""5s""#, "Time for the closing handshake, and for last words."),
    live("drain", Kind::Span, r#""10s""#, "How long a shutdown waits for clients to leave."),
    live(
        "log",
        Kind::Text,
        r#""info""#,
        "What is logged: off, error, warn, info, debug, trace, or tracing's directives.",
    ),
    fixed(
        "log_format",
        Kind::Choice(&["auto", "human", "json"]),
        r#""auto""#,
        "How it is logged; auto: text on a terminal, else JSON.",
    ),
];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.name == name)
}

/// The commented defaults, as a file that can be used as it is.
pub fn commented_defaults() -> String {
    let mut page = String::from(
        "# Stentor's settings and their defaults. Every key is also a flag (--max-message) and a variable\n\
         # (STENTOR_MAX_MESSAGE); a flag is stronger than a variable, a variable stronger than this file.\n\
         # Secrets have no flag, because others see a command line.\n\
         # Those marked * are taken over by a reload (SIGHUP), the others need a restart.\n",
    );
    for setting in ALL {
        page.push('\n');
        for line in wrapped(setting.doc, 98) {
            page.push_str("# ");
            page.push_str(&line);
            page.push('\n');
        }
        if let Kind::Choice(words) = setting.kind {
            page.push_str(&format!("# One of: {}.\n", words.join(", ")));
        }
        let star = if setting.live { " # *" } else { "" };
        page.push_str(&format!("{} = {}{star}\n", setting.name, setting.default));
    }
    page.push_str(ROOMS);
    let of_rooms: Vec<_> =
        ALL.iter().filter(|setting| setting.of_rooms).map(|setting| setting.name).collect();
    for line in wrapped(&format!("Keys of [[room]]: pattern, {}.", of_rooms.join(", ")), 98) {
        page.push_str(&format!("# {line}\n"));
    }
    page
}

const ROOMS: &str = r#"
# Rooms whose names fit a pattern may differ, in what is said of them; * stands for any characters, ? for one. The first
# pattern that fits holds. These tables come last in the file.
#
# [[room]]
# pattern = "news:*"
# history = 1000
# history_age = "1d"
# presence = false
# join_leave = false
# publish = "nobody"
#
# [[room]]
# pattern = "typing:*"
# history = 0
# slow_member = "conflate"
# coalesce = "50ms"
#
"#;

fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
