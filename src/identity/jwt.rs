//! JSON Web Tokens (RFC 7519): signed, with Centrifugo's claims.
//!
//! A token for a connection has the user (`sub`), public info (`info` or `b64info`), the rooms the server
//! joins for it (`channels`, or `subs` with what it has in each) and how long that holds (`exp`, or apart
//! from it `expire_at`, 0 without end). A token for one room has its user (`sub`), the room (`channel`), what
//! the room's members are shown, what the client gets (`data` or `b64data`), where the subscription differs
//! from the room (`override`) and how long it holds. One kind is not taken for the other. `aud` and `iss` are
//! checked if they are configured.
//!
//! `nbf` and `iat` may lie ahead of this machine's clock by a leeway, `exp` is exact. A claim that limits the
//! client and that this server does not know makes the token invalid. Claims that only describe something are
//! passed over: `meta`, `jti` and others.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt::{self, Display};
use std::time::Duration;

use super::claims::{self, ClaimError, Fields, HasValue, Json, NumericDate, Object, UserClaims};
use super::keys::{Key, Signer};
use super::{Policy, wall_clock};
use crate::chat::{Authority, Grant, Identity, TokenError};

/// What tokens must contain beside the user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expectations {
    /// The required audience (`aud`).
    pub audience: Option<String>,
    /// The required issuer (`iss`).
    pub issuer: Option<String>,
    /// How far ahead of our clock `nbf` and `iat` may lie: the issuer's may be fast.
    pub leeway: Duration,
}

/// Believes tokens that were signed with one of its keys.
#[derive(PartialEq, Debug)]
pub struct Jwt {
    keys: Vec<(Key, Validation)>,
    leeway: Duration,
    policy: Policy,
}

/// Why a token is invalid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JwtError {
    /// Not three parts with a header that can be read, or signed in a way that is unknown.
    Malformed,
    /// Its header has extensions that must be understood (`crit`, RFC 7515 §4.1.11).
    Critical,
    /// No key is configured for its algorithm, or for that and its `kid`.
    NoKey,
    /// The signature is none of any key's.
    Signature,
    /// It is over, since this long.
    Expired(Duration),
    /// It begins (`nbf`), or was issued (`iat`), in this long by our clock.
    TooEarly(&'static str, Duration),
    /// It is for others (`aud`).
    Audience,
    /// Another issuer (`iss`).
    Issuer,
    /// A claim has a value of another kind, or stands twice: which, as far as the library reports it.
    Claims(Box<str>),
    /// Its claims cannot be used.
    Impossible(ClaimError),
    /// For one room, where one for the connection is wanted.
    ForRoom,
    /// Not for this room.
    OtherRoom,
    /// Not for this user.
    OtherUser,
}

impl Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span =
            |time: &Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
        match self {
            Self::Malformed => {
                f.write_str("it is no signed JWT, or not signed with HS256, HS384, HS512, RS256, RS384, RS512, ES256 or ES384")
            }
            Self::Critical => f.write_str("its header has extensions that must be understood (`crit`), and are not"),
            Self::NoKey => f.write_str("no key is configured for its algorithm, or for its `kid`"),
            Self::Signature => f.write_str("its signature is wrong"),
            Self::Expired(ago) => write!(f, "it has expired, {} ago", span(ago)),
            Self::TooEarly(claim, ahead) => write!(f, "it does not hold yet (`{claim}`), but in {}", span(ahead)),
            Self::Audience => f.write_str("wrong audience: `aud` is not token_audience"),
            Self::Issuer => f.write_str("wrong issuer: `iss` is not token_issuer"),
            Self::Claims(why) => {
                write!(f, "its claims are no JSON object, or one of them has a value of the wrong kind ({why})")
            }
            Self::Impossible(why) => write!(f, "{why}"),
            Self::ForRoom => f.write_str("it is for one room (`channel`), not for a connection"),
            Self::OtherRoom => f.write_str("it is not for this room (`channel`)"),
            Self::OtherUser => f.write_str("it is not for this user (`sub`)"),
        }
    }
}

impl From<JwtError> for TokenError {
    fn from(why: JwtError) -> Self {
        match why {
            // Of one that comes too early a later copy will do, or the same one later.
            JwtError::Expired(_) | JwtError::TooEarly(..) => Self::Expired,
            JwtError::Malformed
            | JwtError::Critical
            | JwtError::NoKey
            | JwtError::Signature
            | JwtError::Audience
            | JwtError::Issuer
            | JwtError::Claims(_)
            | JwtError::Impossible(_)
            | JwtError::ForRoom
            | JwtError::OtherRoom
            | JwtError::OtherUser => Self::Invalid,
        }
    }
}

/// The claims of a token that are used here.
#[derive(Debug, Deserialize)]
pub struct Claims {
    sub: Option<String>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    expire_at: Option<NumericDate>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<Option<String>>>,
    subs: Option<Fields>,
    channel: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Box<RawValue>>,
    // What follows limits a client with other servers, or by an RFC, and cannot be honoured here.
    #[serde(default)]
    caps: HasValue,
    #[serde(default)]
    allow: HasValue,
    #[serde(default)]
    client: HasValue,
    #[serde(default)]
    cnf: HasValue,
    #[serde(default)]
    tf: HasValue,
    #[serde(default)]
    tags_filter: HasValue,
    #[serde(default)]
    server_tags_filter: HasValue,
}

impl From<ClaimError> for JwtError {
    fn from(why: ClaimError) -> Self {
        Self::Impossible(why)
    }
}

impl Claims {
    /// The room that it is for, if it is for one.
    pub fn room(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        self.sub.as_deref().unwrap_or_default()
    }

    /// Whether it holds at `now`, since 1970.
    fn hold(&self, now: Duration, leeway: Duration) -> Result<(), JwtError> {
        // "On or after" that time it must not be accepted (RFC 7519 §4.1.4).
        match self.exp.map(|exp| exp.since_1970("exp")).transpose()? {
            Some(exp) if exp <= now => return Err(JwtError::Expired(now.saturating_sub(exp))),
            Some(_) | None => {}
        }
        for (claim, date) in [("nbf", self.nbf), ("iat", self.iat)] {
            match date.map(|date| date.since_1970(claim)).transpose()? {
                Some(begin) if begin > now.saturating_add(leeway) => {
                    return Err(JwtError::TooEarly(claim, begin.saturating_sub(now)));
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// How long the claims hold from `now` on; `None`: for as long as the connection does.
    fn expires_in(&self, now: Duration) -> Result<Option<Duration>, JwtError> {
        let expire_at = self.expire_at.map(|end| end.since_1970("expire_at"));
        let end = expire_at.or_else(|| self.exp.map(|end| end.since_1970("exp"))).transpose()?;
        match end.filter(|end| !end.is_zero()) {
            None => Ok(None),
            Some(end) => match claims::remaining(end, now) {
                None => Err(JwtError::Expired(now.saturating_sub(end))),
                left => Ok(left),
            },
        }
    }

    /// Nothing that limits the client is passed over.
    fn refuse_unknown_limits(&self) -> Result<(), ClaimError> {
        claims::refuse(&[
            ("caps", self.caps),
            ("allow", self.allow),
            ("client", self.client),
            ("cnf", self.cnf),
            ("tf", self.tf),
            ("tags_filter", self.tags_filter),
            ("server_tags_filter", self.server_tags_filter),
        ])
    }

    fn info(&self) -> Json<'_> {
        Json { plain: self.info.as_deref(), base64: self.b64info.as_deref() }
    }
}

impl Jwt {
    /// Believes what is signed with one of `keys`.
    pub fn new(keys: Vec<Key>, expected: &Expectations, policy: Policy) -> Self {
        let keys = keys.into_iter().map(|key| (validation(&key, expected), key));
        let keys = keys.map(|(validation, key)| (key, validation)).collect();
        Self { keys, leeway: expected.leeway, policy }
    }

    /// What signs as the first secret does, if there is one.
    pub fn signer(&self) -> Option<Signer> {
        self.keys.iter().find_map(|(key, _)| Signer::of(key))
    }

    /// The claims of `token`, if it is authentic and holds at `now`, since 1970. The signature is checked
    /// first: of a forged token no further detail is reported.
    ///
    /// # Errors
    /// Why it is invalid.
    pub fn read(&self, token: &str, now: Duration) -> Result<Claims, JwtError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| JwtError::Malformed)?;
        if header.crit.is_some() {
            return Err(JwtError::Critical);
        }
        let mut outcome = Err(JwtError::NoKey);
        for (key, validation) in self.candidates(&header) {
            match jsonwebtoken::decode::<Object<Claims>>(token, &key.key, validation) {
                Ok(data) => {
                    let Object(claims) = data.claims;
                    claims.hold(now, self.leeway)?;
                    claims.refuse_unknown_limits()?;
                    return Ok(claims);
                }
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                    outcome = Err(JwtError::Signature);
                }
                Err(error) => return Err(jwt_error(error.kind())),
            }
        }
        outcome
    }

    /// The keys that may have signed: those with the token's `kid` if there are any, else those without a
    /// name. A token that names none may be of any key.
    fn candidates<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = &'a (Key, Validation)> {
        let fits = move |key: &Key| key.algorithms.contains(&header.alg);
        let named = move |key: &Key| fits(key) && key.id == header.kid;
        let known = header.kid.is_some() && self.keys.iter().any(|(key, _)| named(key));
        self.keys.iter().filter(move |(key, _)| match &header.kid {
            Some(_) if known => named(key),
            Some(_) => fits(key) && key.id.is_none(),
            None => fits(key),
        })
    }

    /// The identity of `token` at `now`, since 1970.
    ///
    /// # Errors
    /// Why it is invalid.
    pub fn identify_at(&self, token: &str, now: Duration) -> Result<Identity, JwtError> {
        let claims = self.read(token, now)?;
        if claims.channel.is_some() {
            return Err(JwtError::ForRoom);
        }
        if claims.overrides.is_some() {
            return Err(ClaimError::Unsupported("override".into()).into());
        }
        let user_claims = UserClaims {
            user: claims.user(),
            info: claims.info(),
            channels: claims.channels.as_deref().unwrap_or_default(),
            subs: claims.subs.as_ref(),
            expires_in: claims.expires_in(now)?,
        };
        Ok(user_claims.identity(&self.policy)?)
    }

    /// What `token` grants `user` in `room` at `now`, since 1970.
    ///
    /// # Errors
    /// Why it is invalid.
    pub fn admit_at(&self, token: &str, user: &str, room: &str, now: Duration) -> Result<Grant, JwtError> {
        let claims = self.read(token, now)?;
        if claims.channel.as_deref() != Some(room) {
            return Err(JwtError::OtherRoom);
        }
        if claims.user() != user {
            return Err(JwtError::OtherUser);
        }
        let data = Json { plain: claims.data.as_deref(), base64: claims.b64data.as_deref() };
        let options = self.policy.rooms.of(room);
        let grant = claims::grant(claims.info(), data, claims.overrides.as_deref(), options)?;
        Ok(Grant { expires_in: claims.expires_in(now)?, ..grant })
    }
}

impl Authority for Jwt {
    fn identify(&self, token: &str) -> Result<Identity, TokenError> {
        self.identify_at(token, wall_clock()).map_err(|why| log_invalid(why, "connection"))
    }

    fn admit(&self, token: &str, user: &str, room: &str) -> Result<Grant, TokenError> {
        self.admit_at(token, user, room, wall_clock()).map_err(|why| log_invalid(why, "room"))
    }
}

/// What `token` claims, with nothing checked: to show it to a human, and for nothing else.
pub fn claims_of_any(token: &str) -> Option<serde_json::Value> {
    jsonwebtoken::dangerous::insecure_decode_claims(token).ok()
}

/// The peer learns only that its token is invalid; the reason is in the log.
fn log_invalid(why: JwtError, purpose: &str) -> TokenError {
    tracing::debug!(%why, purpose, "invalid token");
    why.into()
}

/// What the library checks: the signature with the key's own algorithms, the audience and the issuer. The
/// validity period is checked here, to the second, and by a clock that a test can set.
fn validation(key: &Key, expected: &Expectations) -> Validation {
    let mut validation = Validation::new(key.algorithms[0]);
    validation.algorithms = key.algorithms.to_vec();
    validation.required_spec_claims.clear();
    validation.leeway = 0;
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    validation.validate_aud = expected.audience.is_some();
    if let Some(audience) = &expected.audience {
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    if let Some(issuer) = &expected.issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    validation
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add errors; every one makes the token invalid"
)]
fn jwt_error(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::Json(error) => JwtError::Claims(error.to_string().into()),
        ErrorKind::InvalidClaimFormat(claim) => JwtError::Claims(claim.as_str().into()),
        ErrorKind::InvalidAudience => JwtError::Audience,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => JwtError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => JwtError::Issuer,
        _ => JwtError::Malformed,
    }
}

#[cfg(test)]
mod tests;
