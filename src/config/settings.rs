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
    /// What it does.
    pub doc: &'static str,
}

const fn live(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, kind, default, live: true, doc }
}

const fn fixed(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, kind, default, live: false, doc }
}

/// All settings, in the order in which they are printed.
pub const ALL: &[Setting] = &[
    fixed("listen", Kind::List, r#"["[::]:8080"]"#, "Addresses to listen on. [::] takes IPv4 as well."),
    fixed(
        "shards",
        Kind::CountOrAuto,
        r#""auto""#,
        "Event loops, each with its own thread; auto: one for each CPU.",
    ),
    fixed("driver", Kind::Choice(&["auto", "epoll"]), r#""auto""#, "How the kernel is asked for events."),
    live("echo", Kind::Switch, "false", "Serve /echo, which sends every message back. For tests."),
    live("page", Kind::Switch, "true", "Serve the chat page at /."),
    live(
        "origins",
        Kind::List,
        r#"["same-host"]"#,
        "Pages that may connect: same-host, any, null, or scheme://host[:port]. Clients that are no browsers always may.",
    ),
    live(
        "max_message",
        Kind::Size,
        r#""64KiB""#,
        "The largest message taken from a client, put together and inflated.",
    ),
    live("max_head", Kind::Size, r#""8KiB""#, "The largest request head."),
    live("max_name", Kind::Count, "64", "Bytes of the longest name."),
    live("max_room", Kind::Count, "255", "Bytes of the longest room name."),
    live(
        "max_connections",
        Kind::CountOrAuto,
        r#""auto""#,
        "Connections at a time; further ones get 503. auto: the limit on open files, less a reserve.",
    ),
    live(
        "room_log",
        Kind::Size,
        r#""1MiB""#,
        "How far a member may fall behind its room, on each shard. At least twice max_message is used.",
    ),
    live(
        "slow_member",
        Kind::Choice(&["disconnect", "skip", "conflate"]),
        r#""disconnect""#,
        "What becomes of a member that falls behind by more: closed with 1013; moved to the newest and told how much \
         it missed; or given only the newest message whenever it can take one.",
    ),
    live(
        "coalesce",
        Kind::Span,
        r#""0ms""#,
        "How long a room waits for more messages before it sends, to save sends.",
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
    page
}

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
