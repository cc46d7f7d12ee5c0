//! `stentor token`: makes tokens with the configured keys, and verifies tokens.

#![forbid(unsafe_code)]

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use crate::chat::Identity;
use crate::config::{Config, Order, TokenCommand};
use crate::identity::jwt::{self, JwtError};
use crate::identity::keys::Signer;
use crate::identity::{Jwt, wall_clock};
use crate::logging::shows_nothing;

/// Bytes of the longest token that is read from standard input.
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;

/// What a command prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Printed {
    /// To standard output.
    pub page: String,
    /// To standard error: a sentence for the user, which is no part of the result.
    pub note: Option<String>,
}

/// Does it; what is returned is to be printed.
///
/// # Errors
/// A sentence: no token can be made, or this one is invalid.
pub fn run(command: &TokenCommand, config: &Config) -> Result<Printed, String> {
    let page = match command {
        TokenCommand::Make(order) => make(order, config),
        TokenCommand::Check(token) if token == "-" => {
            let mut token = String::new();
            io::stdin()
                .take(TOKEN_BYTES_MAX)
                .read_to_string(&mut token)
                .map_err(|error| format!("standard input cannot be read ({error})"))?;
            check(token.trim(), config)
        }
        TokenCommand::Check(token) => check(token, config),
    }?;
    Ok(Printed { page, note: note(command, config) })
}

/// A token without a user is valid, and seldom what was meant.
fn note(command: &TokenCommand, config: &Config) -> Option<String> {
    match command {
        TokenCommand::Make(order) if order.user.is_empty() => {
            let accepted = if config.anonymous {
                "which this configuration accepts (anonymous = true)"
            } else {
                "which a server refuses unless anonymous = true"
            };
            Some(format!("without --user the token is for an anonymous user, {accepted}"))
        }
        TokenCommand::Make(_) | TokenCommand::Check(_) => None,
    }
}

fn make(order: &Order, config: &Config) -> Result<String, String> {
    let mut signer = signer(order, config.authority.as_deref())?;
    if let Some(algorithm) = &order.algorithm {
        signer = signer.with_algorithm(algorithm).ok_or_else(|| {
            format!("the key cannot sign with {algorithm:?}; without --algorithm it signs as usual")
        })?;
    }
    let now = wall_clock();
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    };
    claim("sub", Some(json!(order.user)));
    claim("iat", Some(json!(now.as_secs())));
    claim("exp", order.expires.map(|expires| json!(now.saturating_add(expires).as_secs())));
    claim("channel", order.room.as_ref().map(|room| json!(room)));
    claim("channels", (!order.rooms.is_empty()).then(|| json!(order.rooms)));
    // With what is expected of tokens here, so that this one is valid.
    let expected = &config.expectations;
    claim("aud", expected.audience.as_ref().map(|audience| json!(audience)));
    claim("iss", expected.issuer.as_ref().map(|issuer| json!(issuer)));
    let info = order.info.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
    let claims = WithInfo { claims, info: info.map_err(|error| format!("--info is no JSON ({error})"))? };
    let token = signer.sign(&claims).ok_or("the key cannot sign")?;
    Ok(token + "\n")
}

/// The info as it was written: a number keeps its digits.
#[derive(serde::Serialize)]
struct WithInfo<'a> {
    #[serde(flatten)]
    claims: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
}

fn signer(order: &Order, authority: Option<&Jwt>) -> Result<Signer, String> {
    let Some(path) = &order.private_key else {
        return authority.and_then(Jwt::signer).ok_or_else(|| {
            "there is no secret to sign with: set token_hmac_secret_files in the file that --config names, or name a \
             private key with --private-key"
                .to_owned()
        });
    };
    let path_shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("{path_shown} cannot be read ({error})"))?;
    Signer::private(order.key_id.clone(), &pem).map_err(|fault| format!("{path_shown} {fault}"))
}

fn check(token: &str, config: &Config) -> Result<String, String> {
    let authority = config.authority.as_deref();
    let authority = authority.ok_or(
        "there is no key to check with: set token_hmac_secret_files, token_hmac_secret or token_public_keys",
    )?;
    let now = wall_clock();
    let invalid = |why: JwtError| format!("invalid token: {why}{}", claims_text(token));
    let claims = authority.read(token, now).map_err(invalid)?;
    let (subject, expires_in, rooms) = match claims.room() {
        Some(room) => {
            let grant = authority.admit_at(token, claims.user(), room, now).map_err(invalid)?;
            (format!("lets {} into {}", user(claims.user()), shown(room)), grant.expires_in, Vec::new())
        }
        None => {
            let Identity { user: id, name, expires_in, rooms, .. } =
                authority.identify_at(token, now).map_err(invalid)?;
            (format!("{}, called {}", user(&id), shown(&name)), expires_in, rooms)
        }
    };
    let rooms: Vec<_> = rooms.iter().map(|room| shown(&room.name)).collect();
    let rooms = if rooms.is_empty() { String::new() } else { format!(", in the rooms {}", rooms.join(", ")) };
    let until = expires_in.map_or_else(
        || "without an end".to_owned(),
        |left| {
            let end = SystemTime::UNIX_EPOCH + now + left;
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            format!("until {} (for {left})", humantime::format_rfc3339_seconds(end))
        },
    );
    Ok(format!("{subject}, {until}{rooms}{}\n", claims_text(token)))
}

fn user(id: &str) -> String {
    if id.is_empty() { "an anonymous user".to_owned() } else { shown(id) }
}

/// Its claims, valid or not.
fn claims_text(token: &str) -> String {
    let claims = jwt::claims_of_any(token);
    claims.map_or_else(String::new, |claims| format!("\n{}", harmless(&format!("{claims:#}"))))
}

fn shown(text: &str) -> String {
    harmless(&json!(text).to_string())
}

/// JSON that a terminal shows as it is: what would move its cursor or hide something is escaped, as JSON does
/// it.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && (c.is_control() || shows_nothing(c)) {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_escaped() {
        assert_eq!(shown("a\u{1b}[2J\u{9b}\u{202e}ü\u{e0041}"), r#""a\u001b[2J\u009b\u202eü\udb40\udc41""#);
    }
}
