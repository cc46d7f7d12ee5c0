//! Outgoing HTTP: requests that expect a short answer, over connections that are kept. HTTP/1.1, or HTTP/2
//! where TLS agrees on it. No redirect is followed, no proxy of the environment is used, and an answer is
//! bounded while it is read.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::Extensions;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// How long a connection is kept that has nothing to do. Servers' own bounds begin at about five seconds; one
/// that is closed meanwhile costs a second attempt.
const IDLE: Duration = Duration::from_secs(15);

/// Bytes of the largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes that are read at a time.
const READ_BYTES_MAX: usize = 4096;

/// Trusted certificates, and connections to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// PEM certificates of the authorities to trust; empty: those of the web (Mozilla's).
    pub authorities: Vec<Vec<u8>>,
    /// Connections that are kept for each host.
    pub idle_max: usize,
    /// Bytes of the largest body of an answer.
    pub response_bytes_max: usize,
}

/// Makes requests. Cheap to clone: clones share the connections. It needs the edge's runtime around it.
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector, Full<Bytes>>,
    response_bytes_max: usize,
}

impl Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("response_bytes_max", &self.response_bytes_max).finish_non_exhaustive()
    }
}

/// An answer, read to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// There is no connection to the server.
    Connect(PoolError),
    /// The connection broke, or what came over it is not HTTP, before the head was there.
    Head(PoolError),
    /// The body ended too early, or is not HTTP.
    Body(Box<dyn StdError + Send + Sync>),
    /// The body has more bytes than this.
    TooLarge(usize),
}

impl Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = |f: &mut fmt::Formatter<'_>, what: &str, error: &(dyn StdError + 'static)| {
            f.write_str(what)?;
            let mut next = error.source();
            while let Some(cause) = next {
                write!(f, ": {cause}")?;
                next = cause.source();
            }
            Ok(())
        };
        match self {
            Self::Connect(error) => chain(f, "no connection", error),
            Self::Head(error) => chain(f, "no answer", error),
            Self::Body(error) => {
                write!(f, "a broken answer: {error}")?;
                chain(f, "", &**error)
            }
            Self::TooLarge(max) => write!(f, "an answer of more than {max} bytes"),
        }
    }
}

impl StdError for HttpError {}

impl Client {
    /// One that opens no connection yet.
    ///
    /// # Errors
    /// An authority is no certificate, or the TLS library refuses its own settings.
    pub fn new(options: &ClientOptions) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        // The scheme is the TLS connector's business.
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&options.authorities)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(options.idle_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http2_max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .build(Connector(https));
        Ok(Self { pool, response_bytes_max: options.response_bytes_max })
    }

    /// Posts JSON and reads the whole answer, of any status.
    ///
    /// A server may close a connection that was kept just as the request goes out. Then nothing of an answer
    /// comes, and the request is made once more, over another connection.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn post_json(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, HttpError> {
        let head = match self.pool.request(request(uri, headers, body.clone())).await {
            Err(error) if was_kept_and_silent(&error) => self.pool.request(request(uri, headers, body)).await,
            other => other,
        };
        let head = head.map_err(|error| {
            if error.is_connect() { HttpError::Connect(error) } else { HttpError::Head(error) }
        })?;
        let (parts, body) = head.into_parts();
        let body = Limited::new(body, self.response_bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                HttpError::TooLarge(self.response_bytes_max)
            } else {
                HttpError::Body(error)
            }
        })?;
        if let Some(tally) = parts.extensions.get::<Tally>() {
            tally.mark_complete();
        }
        Ok(Response { status: parts.status.as_u16(), body: body.to_bytes() })
    }
}

fn request(uri: &Uri, headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    let own = request.headers_mut();
    own.insert(USER_AGENT, HeaderValue::from_static(concat!("stentor/", env!("CARGO_PKG_VERSION"))));
    own.insert(ACCEPT, HeaderValue::from_static("application/json"));
    own.extend(headers.clone());
    own.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// Whether a connection broke that had brought an answer before, and nothing since.
fn was_kept_and_silent(error: &PoolError) -> bool {
    let mut extensions = Extensions::new();
    let Some(info) = error.connect_info() else { return false };
    info.get_extras(&mut extensions);
    extensions.get::<Tally>().is_some_and(Tally::is_kept_and_silent)
}

/// Whether `pem` begins with the certificate of an authority.
pub fn is_certificate(pem: &[u8]) -> bool {
    root(&mut RootCertStore::empty(), pem).is_ok()
}

fn root(roots: &mut RootCertStore, pem: &[u8]) -> io::Result<()> {
    let certificate = CertificateDer::from_pem_slice(pem).map_err(io::Error::other)?;
    roots.add(certificate).map_err(io::Error::other)
}

fn tls(authorities: &[Vec<u8>]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        root(&mut roots, pem)?;
    }
    if authorities.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Bytes that have come over a connection.
#[derive(Clone, Debug, Default)]
struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    /// What `read` was when the last answer was complete; 0: there was none.
    complete_bytes: AtomicU64,
}

impl Tally {
    fn mark_complete(&self) {
        self.0.complete_bytes.store(self.0.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn is_kept_and_silent(&self) -> bool {
        let complete_bytes = self.0.complete_bytes.load(Ordering::Relaxed);
        complete_bytes > 0 && complete_bytes == self.0.read.load(Ordering::Relaxed)
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Makes connections that count what comes over them.
#[derive(Clone, Debug)]
struct Connector(HttpsConnector<HttpConnector>);

impl Service<Uri> for Connector {
    type Response = Counted;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Counted, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { Ok(Counted { stream: connecting.await?, tally: Tally::default() }) })
    }
}

/// A connection that counts what comes over it: plain text, so that TLS's own messages are none.
struct Counted {
    stream: Stream,
    tally: Tally,
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.tally.clone())
    }
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Through a buffer of our own: what was put into the caller's cannot be counted.
        let mut space = [0; READ_BYTES_MAX];
        let len = buf.remaining().min(space.len());
        let mut own = ReadBuf::new(&mut space[..len]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, own.unfilled()))?;
        self.tally.0.read.fetch_add(own.filled().len() as u64, Ordering::Relaxed);
        buf.put_slice(own.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
