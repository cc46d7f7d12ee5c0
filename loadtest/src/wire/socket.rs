//! The socket of a connection: TCP, with or without TLS.

use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::cause;

/// A non-blocking socket.
pub enum Socket {
    /// TCP.
    Plain(TcpStream),
    /// TLS, boxed to keep plain connections small.
    Tls(Box<Tls>),
}

/// A socket and its TLS session.
pub struct Tls {
    socket: TcpStream,
    session: ClientConnection,
}

impl Socket {
    /// Wraps `socket`, with TLS if there is a configuration.
    ///
    /// # Errors
    /// The host name is invalid for TLS.
    pub fn new(socket: TcpStream, tls: Option<&TlsConfig>) -> io::Result<Self> {
        let Some(TlsConfig { config, name }) = tls else { return Ok(Self::Plain(socket)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(Tls { socket, session })))
    }

    /// The socket.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Whether a read that does not fill the buffer has emptied the socket.
    pub const fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Writes pending TLS records.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.push(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => {
                let taken = tls.session.writer().write(bytes)?;
                tls.push()?;
                if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self)
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            let taken = self.session.read_tls(&mut self.socket)?;
            let state = self.session.process_new_packets();
            self.push()?; // sends the alert of a failure
            state.map_err(|error| io::Error::new(ErrorKind::InvalidData, cause::tls(&error)))?;
            if taken == 0 {
                return match self.session.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                    other => other,
                };
            }
        }
    }

    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                other => other?,
            };
        }
        Ok(())
    }
}

/// The TLS configuration and the expected host name.
#[derive(Clone)]
pub struct TlsConfig {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsConfig {
    /// Trusts the system's certificate authorities, or those in the file `ca`, or any certificate if
    /// `insecure`.
    ///
    /// # Errors
    /// One sentence: the host name or the file is invalid.
    pub fn new(host: &str, ca: Option<&Path>, insecure: bool) -> Result<Self, String> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| format!("{host} is not a valid host name for TLS"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = if insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        } else {
            builder.with_root_certificates(root_certificates(ca)?)
        };
        Ok(Self { config: Arc::new(config.with_no_client_auth()), name })
    }
}

fn root_certificates(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err("no certificate authorities were found on this system: use --ca FILE or --insecure"
                .to_owned());
        }
        return Ok(store);
    };
    let wrong = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        store.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if store.is_empty() { Err(wrong(&"the file contains no certificate")) } else { Ok(store) }
}

/// Accepts every certificate; signatures are still verified.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
