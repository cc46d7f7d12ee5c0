//! Every setting: its name, kind, default and description.

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// Whether its value is secret: it is never printed, and has no flag, because command lines are visible
    /// to other users.
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

/// Access rules of a room.
const WHO: Kind = Kind::Choice(&["anyone", "members", "users", "token", "nobody"]);

/// All settings, in the order in which they are printed.
pub const ALL: &[Setting] = &[
    fixed("listen", Kind::List, r#"["[::]:8080"]"#, "Listen addresses. [::] accepts IPv4 as well."),
    fixed(
        "shards",
        Kind::CountOrAuto,
        r#""auto""#,
        "Number of event loops, each with its own thread; auto: one per CPU.",
    ),
    fixed(
        "driver",
        Kind::Choice(&["auto", "uring", "epoll"]),
        r#""auto""#,
        "I/O backend: uring (io_uring, Linux 6.8 or later), epoll, or auto (io_uring where available, else epoll).",
    ),
    live("echo", Kind::Switch, "false", "Serve /echo, which sends every message back, for tests."),
    live("page", Kind::Switch, "true", "Serve the chat page at /."),
    live(
        "sockjs_script",
        Kind::Text,
        r#""https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js""#,
        "Address of SockJS's client script, which /sockjs/iframe.html loads for pages of other origins in old browsers.",
    ),
    live(
        "origins",
        Kind::List,
        r#"["same-host"]"#,
        "Allowed origins of WebSocket handshakes and of the HTTP transports: same-host, any, null, or scheme://host[:port]. \
         Requests without an Origin header are allowed, unless their browser says that another site sends a message.",
    ),
    room(
        "max_message",
        Kind::Size,
        r#""64KiB""#,
        "Maximum size of a client's message, reassembled and decompressed. A room may have a lower limit for texts and \
         data.",
    ),
    live("max_head", Kind::Size, r#""8KiB""#, "Maximum size of an HTTP request head."),
    live("max_name", Kind::Count, "64", "Maximum length of a display name in bytes."),
    live("max_room", Kind::Count, "255", "Maximum length of a room name in bytes."),
    live(
        "max_connections",
        Kind::CountOrAuto,
        r#""auto""#,
        "Maximum number of open connections; further ones get status 503. auto: the limit on open files minus a reserve; \
         with io_uring, also the size of each shard's socket table.",
    ),
    live(
        "room_log",
        Kind::Size,
        r#""1MiB""#,
        "Maximum backlog of a member in its room's log, per shard; at least twice max_message.",
    ),
    live(
        "max_connections_per_user",
        Kind::Count,
        "0",
        "Maximum number of connections per authenticated user; 0: unlimited.",
    ),
    live(
        "max_connections_per_address",
        Kind::Count,
        "0",
        "Maximum number of connections per IPv4 address or IPv6 /64 network; 0: unlimited. Behind a proxy, all clients \
         share the proxy's address.",
    ),
    live("max_rooms_per_client", Kind::Count, "128", "Maximum number of rooms per client."),
    live(
        "max_session_messages_per_second",
        Kind::Count,
        "20",
        "Maximum publish rate of one client in all rooms without a limit of their own, per second; bursts may be twice as \
         large; 0: unlimited.",
    ),
    live(
        "max_session_commands_per_second",
        Kind::Count,
        "100",
        "Maximum rate of one client's commands other than publish, per second; bursts may be twice as large; 0: unlimited.",
    ),
    live(
        "command_timeout",
        Kind::Span,
        r#""10s""#,
        "Timeout of a command that waits for a room or an engine; the reply is a temporary error.",
    ),
    live(
        "history_memory",
        Kind::Size,
        r#""256MiB""#,
        "Maximum size of all histories together; above it, the histories of the least recently used rooms are evicted.",
    ),
    room(
        "max_messages_per_second",
        Kind::Count,
        "0",
        "Maximum publish rate of one client in one room, per second; bursts may be twice as large; 0: \
         max_session_messages_per_second applies.",
    ),
    room("history", Kind::Count, "100", "Maximum number of publications in a room's history; 0: no history."),
    room("history_bytes", Kind::Size, r#""64KiB""#, "Maximum size of a room's history."),
    room("history_age", Kind::Span, r#""10m""#, "Maximum age of publications in a room's history."),
    room("presence", Kind::Switch, "true", "Whether clients can query the members of a room."),
    room("join_leave", Kind::Switch, "true", "Whether members receive presence events (join and leave)."),
    room("join_leave_max", Kind::Count, "500", "Maximum number of members of a room with presence events."),
    room(
        "subscribe",
        WHO,
        r#""anyone""#,
        "Who may subscribe to a room: anyone; users (authenticated clients); token (clients with a token for the room); \
         nobody (server-side subscriptions only). members means anyone here.",
    ),
    room(
        "publish",
        WHO,
        r#""members""#,
        "Who may publish in a room: anyone; members (of the room); users (authenticated clients); token (members with a token \
         for the room); nobody (no client).",
    ),
    room(
        "slow_member",
        Kind::Choice(&["disconnect", "skip", "conflate"]),
        r#""disconnect""#,
        "Slow-consumer policy of members that exceed room_log: disconnect closes with 1013; skip moves to the newest \
         publication and announces the gap; conflate delivers only the newest publication.",
    ),
    room(
        "coalesce",
        Kind::Span,
        r#""0ms""#,
        "How long a room collects publications before it sends them, to save writes; 0ms: not at all.",
    ),
    live(
        "auth",
        Kind::Choice(&["open", "token", "hook"]),
        r#""open""#,
        "Authentication: open (clients choose their names), token (signed JSON Web Tokens), or hook (HTTP requests to an \
         auth backend).",
    ),
    live(
        "anonymous",
        Kind::Switch,
        "false",
        "With auth = \"token\": whether clients without a token may connect as anonymous users.",
    ),
    secret(
        "token_hmac_secret",
        Kind::Text,
        r#""""#,
        "HMAC secret of tokens (HS256, HS384, HS512), at least 32 bytes; token_hmac_secret_files is safer.",
    ),
    live(
        "token_hmac_secret_files",
        Kind::List,
        "[]",
        "Files with HMAC secrets, each as PATH or KID=PATH. Every secret verifies tokens; the first one signs them.",
    ),
    live(
        "token_public_keys",
        Kind::List,
        "[]",
        "Files with public keys (PEM), each as PATH or KID=PATH: RSA (RS256, RS384, RS512), ECDSA on P-256 (ES256) or \
         P-384 (ES384).",
    ),
    live("token_audience", Kind::Text, r#""""#, "Required `aud` claim of tokens; empty: any."),
    live("token_issuer", Kind::Text, r#""""#, "Required `iss` claim of tokens; empty: any."),
    live(
        "token_leeway",
        Kind::Span,
        r#""5s""#,
        "Clock skew allowed for the `nbf` and `iat` claims of tokens; none for `exp`.",
    ),
    live(
        "hook_url",
        Kind::Text,
        r#""""#,
        "URL of the auth backend's hook, requested with POST: http:// or https://.",
    ),
    live(
        "hook_timeout",
        Kind::Span,
        r#""2s""#,
        "Timeout of a hook request, including its time in the queue; the client gets a temporary error.",
    ),
    live("hook_concurrency", Kind::Count, "16", "Maximum number of in-flight hook requests."),
    live(
        "hook_waiting",
        Kind::Count,
        "4096",
        "Maximum number of queued hook requests; further clients get a temporary error.",
    ),
    secret(
        "hook_headers",
        Kind::List,
        "[]",
        "Headers of hook requests, each as \"Name: value\", such as a shared secret.",
    ),
    live(
        "hook_ca",
        Kind::Text,
        r#""""#,
        "File with the CA certificates (PEM) of the auth backend; empty: the public CAs.",
    ),
    live("deflate", Kind::Switch, "true", "Whether to accept permessage-deflate."),
    live("deflate_min", Kind::Size, "128", "Minimum size of messages that are compressed."),
    live(
        "handshake_timeout",
        Kind::Span,
        r#""15s""#,
        "Timeout of a request head, of a request's content, of an idle HTTP connection, and of the first command.",
    ),
    live("ping_interval", Kind::Span, r#""25s""#, "Interval of pings to idle clients; 0s: never."),
    live("pong_timeout", Kind::Span, r#""8s""#, "Timeout of the answer to a ping."),
    live(
        "poll_timeout",
        Kind::Span,
        r#""25s""#,
        "How long a long poll waits for a message before it is answered with 204.",
    ),
    live("close_timeout", Kind::Span, r#""5s""#, "Timeout of the closing handshake and of the final flush."),
    live(
        "shutdown_delay",
        Kind::Span,
        r#""5s""#,
        "How long the server keeps serving while /readyz answers 503, from SIGTERM to the beginning of the drain, so that load \
         balancers notice; 0s: not at all.",
    ),
    live(
        "drain",
        Kind::Span,
        r#""10s""#,
        "Timeout of the drain, which closes every connection; the remaining ones are cut.",
    ),
    live(
        "log",
        Kind::Text,
        r#""info""#,
        "Log level: off, error, warn, info, debug, trace, or directives such as \"info,stentor::driver=debug\".",
    ),
    fixed(
        "log_format",
        Kind::Choice(&["auto", "human", "json"]),
        r#""auto""#,
        "Log format: human, json, or auto (human on a terminal, else json).",
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
         # (STENTOR_MAX_MESSAGE); flags override variables, variables override this file.\n\
         # Secrets have no flag, because command lines are visible to other users.\n\
         # Settings marked * change with a reload (SIGHUP), the others with a restart.\n",
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
# Options of rooms by a pattern of their names; * stands for any characters, ? for one. The first pattern that matches
# applies. These tables come last in the file.
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
