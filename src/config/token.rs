//! The grammar of `stentor token`.

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, ValueHint, value_parser};
use std::path::PathBuf;
use std::time::Duration;

/// What is to be done with a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenCommand {
    /// Make one.
    Make(Order),
    /// Verifies a token and prints its claims, or why it is invalid. `-`: from standard input.
    Check(String),
}

/// The claims of a token to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// `sub`.
    pub user: String,
    /// `channel`: for this room. Without it, for a connection.
    pub room: Option<String>,
    /// `channels`: the rooms that the server joins.
    pub rooms: Vec<String>,
    /// `info`: JSON, as it was written.
    pub info: Option<String>,
    /// From now; `None`: without an end.
    pub expires: Option<Duration>,
    /// A PEM file; without it, the first secret of the configuration signs.
    pub private_key: Option<PathBuf>,
    /// `kid`.
    pub key_id: Option<String>,
    /// `alg`, if not the key's usual one.
    pub algorithm: Option<String>,
}

pub(super) fn grammar(settings: impl Fn() -> Vec<Arg>) -> Command {
    let hidden =
        || settings().into_iter().map(|arg| if arg.get_id() == "config" { arg } else { arg.hide(true) });
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let make = Command::new("make")
        .about("Print a token, signed with the first configured secret or with a private key")
        .arg(text("user", "ID", "User ID (sub); without it, an anonymous user").default_value(""))
        .arg(text("room", "ROOM", "Room of a subscription token (channel); without it, a connection token"))
        .arg(
            text("rooms", "LIST", "Rooms of server-side subscriptions (channels)")
                .action(ArgAction::Append)
                .value_delimiter(','),
        )
        .arg(text("name", "NAME", "Display name: short for --info '{\"name\":NAME}'"))
        .arg(text("info", "JSON", "Public information about the user (info)").value_parser(json))
        .arg(text("expires", "TIME", "Lifetime (exp), or never").default_value("1h").value_parser(expires))
        .arg(
            text("private-key", "FILE", "Private key (PEM: RSA, or ECDSA on P-256 or P-384)")
                .value_parser(value_parser!(PathBuf))
                .value_hint(ValueHint::FilePath),
        )
        .arg(text("key-id", "KID", "Key ID (kid)").requires("private-key"))
        .arg(text("algorithm", "ALG", "Signature algorithm (alg), if not the default of the key"))
        .group(ArgGroup::new("shown").args(["name", "info"]))
        .group(ArgGroup::new("rooms-or-room").args(["rooms", "room"]))
        .args(hidden());
    let check = Command::new("check")
        .about("Verify a token and print its claims, or the reason why it is invalid (exit code 1)")
        .arg(Arg::new("token").required(true).value_name("TOKEN").help("The token; -: from standard input"))
        .args(hidden());
    Command::new("token")
        .about("Sign and verify tokens with the configured keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([make, check])
}

fn json(text: &str) -> Result<String, serde_json::Error> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| text.to_owned())
}

/// How long a token holds.
#[derive(Clone, Copy)]
struct Expires(Option<Duration>);

fn expires(text: &str) -> Result<Expires, humantime::DurationError> {
    if text == "never" {
        Ok(Expires(None))
    } else {
        humantime::parse_duration(text).map(|span| Expires(Some(span)))
    }
}

/// The command, and the matches that have the settings.
pub(super) fn read(matches: &ArgMatches) -> Option<(TokenCommand, &ArgMatches)> {
    let text = |matches: &ArgMatches, name| matches.get_one::<String>(name).cloned();
    match matches.subcommand()? {
        ("make", matches) => {
            let named = text(matches, "name").map(|name| serde_json::json!({ "name": name }).to_string());
            let order = Order {
                user: text(matches, "user").unwrap_or_default(),
                room: text(matches, "room"),
                rooms: matches.get_many("rooms").into_iter().flatten().cloned().collect(),
                info: named.or_else(|| text(matches, "info")),
                expires: matches.get_one::<Expires>("expires").and_then(|expires| expires.0),
                private_key: matches.get_one("private-key").cloned(),
                key_id: text(matches, "key-id"),
                algorithm: text(matches, "algorithm"),
            };
            Some((TokenCommand::Make(order), matches))
        }
        (_, matches) => Some((TokenCommand::Check(text(matches, "token")?), matches)),
    }
}
