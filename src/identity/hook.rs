//! The client of the auth backend, which decides over HTTP about each client.
//!
//! The requests are made on the edge's runtime ([`crate::edge`]): a bounded number is in flight over
//! connections that are kept, a bounded number waits, and all together hold a bounded number of bytes
//! ([`QUEUED_BYTES_MAX`]; one of them is bounded by `max_message` and `max_head`, which its texts come from).
//! The time-out of each begins when its client is queued. Request and response are those of Centrifugo's
//! connect proxy:
//!
//! ```text
//! {"client":"…","transport":"websocket","protocol":"json","encoding":"json","name":"…","token":"…","address":"…","data":{…}}
//!
//! {"result":{"user":"…","info":{…},"channels":["…"],"subs":{"…":{"info":{…},"data":{…},"override":{…}}},"data":{…},"expire_at":0}}
//! {"error":{"code":1000,"message":"…","temporary":true}}
//! {"disconnect":{"code":4501,"reason":"…"}}
//! ```
//!
//! `name`, `token`, `address` and `data` are there if they are known; the first and the last are chosen by
//! the client. Any other answer, or no answer in time, refuses the client with a temporary error, so that it
//! retries; a line in the log, at most one in [`FAULT_LOG_INTERVAL`], has the reason. Other members of the
//! objects are ignored.

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::{self, Debug, Display};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

use super::claims::{self, ClaimError, Fields, HasValue, Json, NumericDate, Object, UserClaims};
use super::{Policy, wall_clock};
use crate::base::SessionKey;
use crate::chat::{AuthDecision, AuthRequest};
use crate::edge::http::{Client, ClientOptions, HttpError};
use crate::edge::{Full, Limits, Outcome, Requests, http};
use crate::logging::RateLimit;

/// Bytes of the largest response body.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all requests that are in flight or queued: the clients' own texts, and [`AUTH_REQUEST_BYTES`] for
/// each.
pub const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request takes beside the client's own texts.
pub const AUTH_REQUEST_BYTES: usize = 1024;

/// Between two lines in the log about a hook that does not answer as it should.
pub const FAULT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The largest reason of a Close frame (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;

/// Bytes of an error's description of a body.
const ERROR_BYTES_MAX: usize = 200;

/// The URL and parameters of the hook.
#[derive(Clone, PartialEq, Eq)]
pub struct HookOptions {
    /// `http://` or `https://`.
    pub url: String,
    /// From when a client is queued to the last byte of the answer.
    pub timeout: Duration,
    /// In-flight requests.
    pub concurrency: usize,
    /// Queued requests.
    pub waiting_max: usize,
    /// Sent along; often a secret.
    pub headers: Vec<(String, String)>,
    /// PEM certificates of the authorities to trust; empty: those of the web (Mozilla's).
    pub authorities: Vec<Vec<u8>>,
}

impl HookOptions {
    /// Whether `pem` begins with a certificate.
    pub fn is_certificate(pem: &[u8]) -> bool {
        http::is_certificate(pem)
    }
}

/// The headers' values are secrets.
impl Debug for HookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HookOptions")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .field("concurrency", &self.concurrency)
            .field("waiting_max", &self.waiting_max)
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// Takes a decision back to the session of a shard. Called on the edge's thread.
pub type Decided = dyn Fn(usize, SessionKey, AuthDecision) + Send + Sync;

/// One auth backend and its requests. Dropped, it still answers its in-flight requests.
#[derive(Debug)]
pub struct Hook {
    requests: Requests<(usize, SessionKey)>,
    backend: Arc<Backend>,
    decided: Shared<Decided>,
}

impl Hook {
    /// Sends requests on `edge`. `decided` receives every decision.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn start(
        edge: &Handle,
        options: &HookOptions,
        policy: Policy,
        decided: Arc<Decided>,
    ) -> io::Result<Self> {
        let limits = Limits {
            concurrency: options.concurrency,
            waiting_max: options.waiting_max,
            bytes_max: QUEUED_BYTES_MAX,
            timeout: options.timeout,
        };
        let backend = Arc::new(Backend::new(options, policy)?);
        Ok(Self { requests: Requests::new(edge, limits), backend, decided: Shared(decided) })
    }

    /// Sends a request about a session of `shard`. Does not block.
    ///
    /// # Errors
    /// Too many are waiting: there will be no decision.
    pub fn submit(&self, shard: usize, auth_request: AuthRequest) -> Result<(), Full> {
        let (session, bytes) = (auth_request.session, bytes_of(&auth_request));
        let (backend, judge) = (Arc::clone(&self.backend), Arc::clone(&self.backend));
        let decided = Arc::clone(&self.decided.0);
        let submitted = self.requests.submit(
            (shard, session),
            bytes,
            move || async move { backend.request(&auth_request).await },
            move |outcome| decided(shard, session, judge.decision(outcome)),
        );
        submitted.inspect_err(|full| self.backend.log_fault(&Fault::Full(*full)))
    }

    /// The session has ended, or its client no longer waits: its request is cancelled, and there will be
    /// no decision.
    pub fn cancel(&self, shard: usize, session: SessionKey) {
        self.requests.cancel((shard, session));
    }

    /// Requests that are in flight or queued.
    pub fn count(&self) -> usize {
        self.requests.count()
    }
}

/// Sends the shards' auth requests to the current hook.
#[derive(Debug)]
pub struct HookClient {
    edge: Handle,
    /// The present one, and those before it that have not answered everything yet.
    hooks: Mutex<Hooks>,
    decided: Shared<Decided>,
}

#[derive(Debug, Default)]
struct Hooks {
    present: Option<Hook>,
    former: Vec<Hook>,
}

impl HookClient {
    /// Without a hook.
    pub const fn new(edge: Handle, decided: Arc<Decided>) -> Self {
        let hooks = Mutex::new(Hooks { present: None, former: Vec::new() });
        Self { edge, hooks, decided: Shared(decided) }
    }

    /// Replaces the hook. The previous one still answers its requests.
    ///
    /// # Errors
    /// Its options cannot be used; the one before stays.
    pub fn open(&self, options: Option<&HookOptions>, policy: &Policy) -> io::Result<()> {
        let start = |options| Hook::start(&self.edge, options, policy.clone(), Arc::clone(&self.decided.0));
        let hook = options.map(start).transpose()?;
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut hooks.present, hook);
        hooks.former.extend(before);
        hooks.former.retain(|former| former.count() > 0);
        Ok(())
    }

    /// Sends an auth request of `shard`. It gets a decision, unless it is cancelled; without a hook, that of
    /// [`unavailable`].
    pub fn submit(&self, shard: usize, auth_request: AuthRequest) {
        let session = auth_request.session;
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        if hooks.present.as_ref().is_none_or(|hook| hook.submit(shard, auth_request).is_err()) {
            drop(hooks);
            (self.decided.0)(shard, session, unavailable());
        }
    }

    /// Cancels the auth request for a session of `shard`, if there is one.
    pub fn cancel(&self, shard: usize, session: SessionKey) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for hook in hooks.present.iter().chain(&hooks.former) {
            hook.cancel(shard, session);
        }
    }
}

/// What it points to is nothing that could be shown.
struct Shared<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

fn bytes_of(auth_request: &AuthRequest) -> usize {
    let texts = [&auth_request.name, &auth_request.token, &auth_request.data];
    AUTH_REQUEST_BYTES + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
}

/// The decision while there is no backend.
pub fn unavailable() -> AuthDecision {
    AuthDecision::Reject { code: 100, message: "internal server error".into(), temporary: true }
}

/// The auth backend.
#[derive(Debug)]
struct Backend {
    client: Client,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    policy: Policy,
    complaints: Mutex<(RateLimit, Instant)>,
}

impl Backend {
    fn new(options: &HookOptions, policy: Policy) -> io::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let name = name.parse::<HeaderName>().map_err(io::Error::other)?;
            let mut value = value.parse::<HeaderValue>().map_err(io::Error::other)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let client = Client::new(&ClientOptions {
            authorities: options.authorities.clone(),
            idle_max: options.concurrency,
            response_bytes_max: RESPONSE_BYTES_MAX,
        })?;
        let uri = options.url.parse().map_err(io::Error::other)?;
        let complaints = Mutex::new((RateLimit::new(1, FAULT_LOG_INTERVAL), clock()));
        Ok(Self { client, uri, headers, timeout: options.timeout, policy, complaints })
    }

    async fn request(&self, auth_request: &AuthRequest) -> Result<AuthDecision, Fault> {
        let body =
            serde_json::to_vec(&Request::from(auth_request)).map_err(|_| Fault::NotTheProtocol(None))?;
        let response = self.client.post_json(&self.uri, &self.headers, body.into()).await?;
        if response.status != 200 {
            return Err(Fault::Status(response.status));
        }
        Response::read(&response.body)?.decision(&self.policy, wall_clock())
    }

    /// What an outcome means for the client.
    fn decision(&self, outcome: Outcome<Result<AuthDecision, Fault>>) -> AuthDecision {
        let fault = match outcome {
            Outcome::Done(Ok(decision)) => return decision,
            Outcome::Done(Err(fault)) => fault,
            Outcome::TimedOut => Fault::TimedOut(self.timeout),
            Outcome::Lost => Fault::Lost,
        };
        self.log_fault(&fault);
        unavailable()
    }

    fn log_fault(&self, fault: &Fault) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, since) = &mut *complaints;
        // A limit begins its first interval at the clock's zero.
        let now = since.elapsed() + FAULT_LOG_INTERVAL;
        if let Some(suppressed) = limit.allow(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)) {
            tracing::warn!(%fault, suppressed, "hook request failed: clients get a temporary error");
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Fault {
    Http(HttpError),
    TimedOut(Duration),
    Lost,
    Full(Full),
    Status(u16),
    NotTheProtocol(Option<Box<str>>),
    Impossible(ClaimError),
}

impl From<HttpError> for Fault {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<ClaimError> for Fault {
    fn from(why: ClaimError) -> Self {
        Self::Impossible(why)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => write!(f, "{error}"),
            Self::TimedOut(timeout) => {
                let timeout = humantime::format_duration(*timeout);
                write!(f, "no answer within {timeout} of queueing (hook_timeout)")
            }
            Self::Lost => f.write_str("the request was abandoned"),
            Self::Full(Full::Count) => f.write_str("too many queued requests (hook_waiting)"),
            Self::Full(Full::Bytes) => {
                write!(f, "queued requests exceed {QUEUED_BYTES_MAX} bytes")
            }
            Self::Status(status) => write!(f, "it answers with status {status}, not 200"),
            Self::NotTheProtocol(why) => {
                f.write_str(
                    "its answer is no JSON object with one of `result`, `error` and `disconnect` as they have to be",
                )?;
                why.as_deref().map_or(Ok(()), |why| write!(f, " ({why})"))
            }
            Self::Impossible(why) => write!(f, "its `result` cannot be taken: {why}"),
        }
    }
}

fn clock() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "paces lines of the log")]
    Instant::now()
}

/// What is sent.
#[derive(Serialize)]
struct Request<'a> {
    client: &'a str,
    transport: &'static str,
    protocol: &'static str,
    encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

impl<'a> From<&'a AuthRequest> for Request<'a> {
    fn from(auth_request: &'a AuthRequest) -> Self {
        Self {
            client: &auth_request.client,
            transport: "websocket",
            protocol: auth_request.protocol,
            encoding: auth_request.protocol,
            name: auth_request.name.as_deref(),
            token: auth_request.token.as_deref(),
            address: auth_request.address,
            data: auth_request.data.as_deref().and_then(|data| serde_json::from_str(data).ok()),
        }
    }
}

/// The body of an answer: one of the three.
#[derive(Deserialize)]
struct Response {
    result: Option<Object<AcceptBody>>,
    error: Option<Object<ErrorBody>>,
    disconnect: Option<Object<DisconnectBody>>,
}

#[derive(Deserialize)]
struct AcceptBody {
    user: Option<String>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<Option<String>>>,
    subs: Option<Fields>,
    expire_at: Option<NumericDate>,
    // What limits a client with other servers, and cannot be honoured here.
    #[serde(default)]
    caps: HasValue,
    #[serde(default)]
    allow: HasValue,
    #[serde(default, rename = "override")]
    overrides: HasValue,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u16,
    message: Option<String>,
    temporary: Option<bool>,
}

#[derive(Deserialize)]
struct DisconnectBody {
    code: u16,
    reason: Option<String>,
}

impl Response {
    fn read(body: &[u8]) -> Result<Self, Fault> {
        let response: Object<Self> = serde_json::from_slice(body).map_err(|error| {
            Fault::NotTheProtocol(Some(shortened(&error.to_string(), ERROR_BYTES_MAX).into()))
        })?;
        Ok(response.0)
    }

    /// What it means at `now`, since 1970.
    fn decision(self, policy: &Policy, now: Duration) -> Result<AuthDecision, Fault> {
        match (self.result, self.error, self.disconnect) {
            (Some(Object(accept)), None, None) => accept.decision(policy, now),
            (None, Some(Object(ErrorBody { code: code @ 100..=1999, message, temporary })), None) => {
                let message = shortened(&message.unwrap_or_default(), REASON_BYTES_MAX).into();
                Ok(AuthDecision::Reject { code, message, temporary: temporary.unwrap_or_default() })
            }
            (None, None, Some(Object(DisconnectBody { code: code @ 3000..=4999, reason }))) => {
                Ok(AuthDecision::Disconnect { code, reason: reason_phrase(&reason.unwrap_or_default()) })
            }
            _ => Err(Fault::NotTheProtocol(None)),
        }
    }
}

impl AcceptBody {
    fn decision(self, policy: &Policy, now: Duration) -> Result<AuthDecision, Fault> {
        claims::refuse(&[("caps", self.caps), ("allow", self.allow), ("override", self.overrides)])?;
        let end = self.expire_at.map(|end| end.since_1970("expire_at")).transpose()?;
        let expires_in = match end.filter(|end| !end.is_zero()) {
            None => None,
            Some(end) => match claims::remaining(end, now) {
                None => {
                    return Ok(AuthDecision::Reject {
                        code: 109,
                        message: "token expired".into(),
                        temporary: false,
                    });
                }
                left => left,
            },
        };
        let user_claims = UserClaims {
            user: self.user.as_deref().unwrap_or_default(),
            info: Json { plain: self.info.as_deref(), base64: self.b64info.as_deref() },
            channels: self.channels.as_deref().unwrap_or_default(),
            subs: self.subs.as_ref(),
            expires_in,
        };
        let identity = user_claims.identity(policy)?;
        let data = Json { plain: self.data.as_deref(), base64: self.b64data.as_deref() }.read("b64data")?;
        Ok(AuthDecision::Accept { identity, data: data.map(|data| data.as_bytes().into()) })
    }
}

/// At most [`REASON_BYTES_MAX`], and never JSON by itself: clients would take that for an older form of
/// reasons.
fn reason_phrase(reason: &str) -> Box<str> {
    let reason = shortened(reason, REASON_BYTES_MAX);
    if serde_json::from_str::<serde::de::IgnoredAny>(reason).is_ok() {
        return format!("{}.", shortened(reason, REASON_BYTES_MAX - 1)).into();
    }
    reason.into()
}

fn shortened(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests;
