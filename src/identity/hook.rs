//! A back end that is asked over HTTP who somebody is.
//!
//! A few threads ask, one question each at a time, over connections that are kept; a bounded number of questions waits for
//! them. Request and response are those of Centrifugo's connect proxy:
//!
//! ```text
//! {"client":"…","transport":"websocket","protocol":"json","encoding":"json","name":"…","token":"…","address":"…","data":{…}}
//!
//! {"result":{"user":"…","info":{…},"b64info":"…","channels":["…"],"expire_at":0}}
//! {"error":{"code":1000,"message":"…","temporary":true}}
//! {"disconnect":{"code":4501,"reason":"…"}}
//! ```
//!
//! `name`, `token`, `address` and `data` are there if they are known; the first and the last are the client's own words.
//! Whatever else comes back, or nothing in time, refuses the client with a temporary error, so that it comes back; a line in
//! the log, at most one in [`COMPLAINT_INTERVAL`], says why. Other members of the objects are passed over.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::{self, Debug, Display};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{Bounds, NumericDate, Said, wall_clock};
use crate::app::json::compact;
use crate::base::ConnKey;
use crate::chat::{Question, Verdict};
use crate::logging::RateLimit;

/// Bytes of the largest response body.
pub const RESPONSE_BYTES_MAX: u64 = 64 * 1024;

/// Between two lines in the log about a hook that does not answer as it should.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The largest reason of a Close frame (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;

/// Whom to ask, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct HookOptions {
    /// `http://` or `https://`.
    pub url: String,
    /// From the question to the last byte of the answer.
    pub timeout: Duration,
    /// Questions under way, each in a thread.
    pub concurrency: usize,
    /// Questions that may wait for one of these.
    pub waiting_max: usize,
    /// Sent along; often a secret.
    pub headers: Vec<(String, String)>,
    /// PEM certificates of the authorities to trust; empty: those of the web (Mozilla's).
    pub authorities: Vec<Vec<u8>>,
}

impl HookOptions {
    /// Whether `pem` begins with a certificate.
    pub fn is_certificate(pem: &[u8]) -> bool {
        Certificate::from_pem(pem).is_ok()
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

/// Takes a verdict back to the connection of a shard. Called from the hook's threads.
pub type Decided = dyn Fn(usize, ConnKey, Verdict) + Send + Sync;

/// The threads that ask. Dropped, they end as soon as they have asked what is waiting.
#[derive(Debug)]
pub struct Hook {
    waiting: SyncSender<(usize, Question)>,
}

impl Hook {
    /// Starts the threads. `decided` hears every verdict.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(options: &HookOptions, bounds: Bounds, decided: Arc<Decided>) -> io::Result<Self> {
        let (waiting, questions) = sync_channel(options.waiting_max);
        let asker = Arc::new(Asker {
            agent: agent(options),
            options: options.clone(),
            bounds,
            questions: Mutex::new(questions),
            decided,
            complaints: Mutex::new((RateLimit::new(1, COMPLAINT_INTERVAL), clock())),
        });
        for number in 0..options.concurrency {
            let asker = Arc::clone(&asker);
            std::thread::Builder::new().name(format!("hook-{number}")).spawn(move || asker.run())?;
        }
        Ok(Self { waiting })
    }

    /// Asks about a connection of `shard`. Takes no time.
    ///
    /// # Errors
    /// Too many are waiting: the question comes back, and gets no verdict.
    pub fn ask(&self, shard: usize, question: Question) -> Result<(), Box<Question>> {
        self.waiting.try_send((shard, question)).map_err(|full| match full {
            std::sync::mpsc::TrySendError::Full((_, question))
            | std::sync::mpsc::TrySendError::Disconnected((_, question)) => Box::new(question),
        })
    }
}

/// Where the shards bring their questions: to the hook that there is at the moment.
pub struct Reception {
    hook: Mutex<Option<Hook>>,
    decided: Arc<Decided>,
}

impl Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reception").field("hook", &self.hook).finish_non_exhaustive()
    }
}

impl Reception {
    /// Nobody is asked yet.
    pub fn new(decided: Arc<Decided>) -> Self {
        Self { hook: Mutex::new(None), decided }
    }

    /// From now on this hook is asked. The one before still answers what it was asked.
    ///
    /// # Errors
    /// Its threads cannot be started; the one before stays.
    pub fn open(&self, options: Option<&HookOptions>, bounds: Bounds) -> io::Result<()> {
        let hook =
            options.map(|options| Hook::start(options, bounds, Arc::clone(&self.decided))).transpose()?;
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
        Ok(())
    }

    /// Has a question of `shard` asked. It always gets a verdict; where nobody can be asked, that of [`unavailable`].
    pub fn ask(&self, shard: usize, question: Question) {
        let conn = question.conn;
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        if hook.as_ref().is_none_or(|hook| hook.ask(shard, question).is_err()) {
            (self.decided)(shard, conn, unavailable());
        }
    }
}

/// The verdict while nobody can be asked.
pub fn unavailable() -> Verdict {
    Verdict::Refused { code: 100, message: "internal server error".into(), temporary: true }
}

/// What the threads share.
struct Asker {
    agent: ureq::Agent,
    options: HookOptions,
    bounds: Bounds,
    questions: Mutex<Receiver<(usize, Question)>>,
    decided: Arc<Decided>,
    complaints: Mutex<(RateLimit, Instant)>,
}

impl Asker {
    fn run(&self) {
        loop {
            let next = self.questions.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((shard, question)) = next else { return };
            let verdict = self.ask(&question).unwrap_or_else(|fault| {
                self.complain(&fault);
                unavailable()
            });
            (self.decided)(shard, question.conn, verdict);
        }
    }

    fn ask(&self, question: &Question) -> Result<Verdict, Fault> {
        let body = serde_json::to_vec(&Request::from(question)).map_err(|_| Fault::NotTheProtocol)?;
        let mut request = self.agent.post(&self.options.url).content_type("application/json");
        for (name, value) in &self.options.headers {
            request = request.header(name, value);
        }
        let mut response = request.send(&body)?;
        if response.status() != 200 {
            return Err(Fault::Status(response.status().as_u16()));
        }
        let body = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX).read_to_vec()?;
        let response: Response = serde_json::from_slice(&body).map_err(|_| Fault::NotTheProtocol)?;
        response.verdict(&self.bounds, wall_clock())
    }

    fn complain(&self, fault: &Fault) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, since) = &mut *complaints;
        // A limit begins its first interval at the clock's zero.
        let now = since.elapsed() + COMPLAINT_INTERVAL;
        if let Some(suppressed) = limit.allow(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)) {
            tracing::warn!(%fault, suppressed, "the hook does not answer as it should: clients are told to come back");
        }
    }
}

/// Why there is no answer.
enum Fault {
    Http(ureq::Error),
    Status(u16),
    NotTheProtocol,
    Impossible(&'static str),
}

impl From<ureq::Error> for Fault {
    fn from(error: ureq::Error) -> Self {
        Self::Http(error)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => write!(f, "{error}"),
            Self::Status(status) => write!(f, "it answers with status {status}, not 200"),
            Self::NotTheProtocol => f.write_str(
                "its answer is no JSON object with `result`, `error` or `disconnect` as they have to be",
            ),
            Self::Impossible(what) => f.write_str(what),
        }
    }
}

fn agent(options: &HookOptions) -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authorities = options.authorities.iter().filter_map(|pem| Certificate::from_pem(pem).ok());
    let authorities: Vec<_> = authorities.collect();
    let roots =
        if authorities.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&authorities) };
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(roots).build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(options.timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .max_idle_connections(options.concurrency)
        .max_idle_connections_per_host(options.concurrency)
        .user_agent(concat!("stentor/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
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

impl<'a> From<&'a Question> for Request<'a> {
    fn from(question: &'a Question) -> Self {
        Self {
            client: &question.client,
            transport: "websocket",
            protocol: question.protocol,
            encoding: question.protocol,
            name: question.name.as_deref(),
            token: question.token.as_deref(),
            address: question.address,
            data: question.data.as_deref().and_then(|data| serde_json::from_str(data).ok()),
        }
    }
}

/// What comes back: one of the three.
#[derive(Deserialize)]
struct Response {
    result: Option<Welcome>,
    error: Option<Refusal>,
    disconnect: Option<Dismissal>,
}

#[derive(Deserialize)]
struct Welcome {
    #[serde(default)]
    user: String,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    channels: Vec<String>,
    expire_at: Option<NumericDate>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u16,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct Dismissal {
    code: u16,
    #[serde(default)]
    reason: String,
}

impl Response {
    /// What it means at `now`, since 1970.
    fn verdict(self, bounds: &Bounds, now: Duration) -> Result<Verdict, Fault> {
        match (self.result, self.error, self.disconnect) {
            (Some(welcome), None, None) => welcome.verdict(bounds, now),
            (None, Some(Refusal { code: code @ 100..=1999, message, temporary }), None) => {
                let message = shortened(&message, REASON_BYTES_MAX).into();
                Ok(Verdict::Refused { code, message, temporary })
            }
            (None, None, Some(Dismissal { code: code @ 3000..=4999, reason })) => {
                Ok(Verdict::Disconnect { code, reason: reason_phrase(&reason) })
            }
            _ => Err(Fault::NotTheProtocol),
        }
    }
}

impl Welcome {
    fn verdict(self, bounds: &Bounds, now: Duration) -> Result<Verdict, Fault> {
        let expires_in = match self.expire_at {
            None | Some(NumericDate(Duration::ZERO)) => None,
            Some(NumericDate(end)) if end <= now => {
                return Ok(Verdict::Refused { code: 109, message: "token expired".into(), temporary: false });
            }
            Some(NumericDate(end)) => Some(end.saturating_sub(now)),
        };
        let said = Said {
            user: &self.user,
            info: self.info.as_deref(),
            b64info: self.b64info.as_deref(),
            rooms: &self.channels,
            expires_in,
        };
        let identity = said.identity(bounds).map_err(Fault::Impossible)?;
        Ok(Verdict::Welcome { identity, data: self.data.map(|data| compact(data.get()).into()) })
    }
}

/// At most [`REASON_BYTES_MAX`], and never JSON by itself: clients would take that for an older form of reasons.
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
