//! Keys from secrets and PEM files, each with the algorithms that it can be used with and no others.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use std::fmt::{self, Debug, Display};

/// Bytes of the shortest HMAC secret: those of the shortest of its hashes (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Bytes of the shortest RSA key's DER: 2048 bits (RFC 7518 §3.3), and what stands around them.
const RSA_DER_BYTES_MIN: usize = 256;

/// Why a key is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyFault {
    /// An HMAC secret under [`SECRET_BYTES_MIN`].
    Short,
    /// No PEM, or not of the labelled kind.
    NotPem,
    /// A private key, where the public one is enough.
    Private,
    /// A public key, where one has to sign.
    Public,
    /// A certificate.
    Certificate,
    /// RSA with fewer than 2048 bits.
    Weak,
    /// Neither RSA nor ECDSA on P-256 or P-384.
    Kind,
}

impl Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => {
                "has fewer than 32 bytes (RFC 7518 §3.2); `openssl rand -base64 48` generates one"
            }
            Self::NotPem => "is no key in PEM form",
            Self::Private => "is a private key, which only the signer should have; `openssl pkey -pubout` makes the public one",
            Self::Public => "is a public key, and cannot sign",
            Self::Certificate => "is a certificate; `openssl x509 -pubkey -noout` takes the key out",
            Self::Weak => "is an RSA key of fewer than 2048 bits (RFC 7518 §3.3)",
            Self::Kind => "is neither an RSA key nor an ECDSA key on P-256 or P-384 (PKCS #8, or PKCS #1 for RSA)",
        })
    }
}

/// A key that signatures are checked with.
#[derive(Clone)]
pub struct Key {
    /// What tokens call it (`kid`), if it has a name.
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
    /// Those of the key's own family: a public key is never an HMAC secret.
    pub(super) algorithms: &'static [Algorithm],
}

/// A key's bytes are secret.
impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |key: &Self| key.key.try_get_as_bytes().map(<[u8]>::to_vec).ok();
        (&self.id, self.algorithms, bytes(self)) == (&other.id, other.algorithms, bytes(other))
    }
}

impl Key {
    /// A secret for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// It is too short.
    pub fn hmac(id: Option<String>, secret: &[u8]) -> Result<Self, KeyFault> {
        const ALGORITHMS: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyFault::Short);
        }
        Ok(Self { id, key: DecodingKey::from_secret(secret), algorithms: ALGORITHMS })
    }

    /// A public key: RSA for RS256, RS384 and RS512; ECDSA on P-256 for ES256, on P-384 for ES384.
    ///
    /// # Errors
    /// It is none of these.
    pub fn public(id: Option<String>, pem: &[u8]) -> Result<Self, KeyFault> {
        const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
        match Label::of(pem)? {
            Label::Public => {}
            Label::Private => return Err(KeyFault::Private),
            Label::Certificate => return Err(KeyFault::Certificate),
        }
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            let weak = key.try_get_as_bytes().is_ok_and(|der| der.len() < RSA_DER_BYTES_MIN);
            return if weak { Err(KeyFault::Weak) } else { Ok(Self { id, key, algorithms: RSA }) };
        }
        let key = DecodingKey::from_ec_pem(pem).map_err(|_| KeyFault::Kind)?;
        // An uncompressed point (SEC 1 §2.3.3) has the length that its curve gives it.
        let algorithms: &[_] = match key.try_get_as_bytes() {
            Ok([4, xy @ ..]) if xy.len() == 2 * 32 => &[Algorithm::ES256],
            Ok([4, xy @ ..]) if xy.len() == 2 * 48 => &[Algorithm::ES384],
            _ => return Err(KeyFault::Kind),
        };
        Ok(Self { id, key, algorithms })
    }
}

/// A key that tokens are signed with.
pub struct Signer {
    id: Option<String>,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs with the secret of `key`, if that is what it is.
    pub(super) fn of(key: &Key) -> Option<Self> {
        let (&algorithm, secret) = (key.algorithms.first()?, key.key.try_get_as_bytes().ok()?);
        let secret = (algorithm == Algorithm::HS256).then_some(secret)?;
        Some(Self { id: key.id.clone(), key: EncodingKey::from_secret(secret), algorithm })
    }

    /// Signs with a private key: RSA with RS256, ECDSA with the algorithm of its curve.
    ///
    /// # Errors
    /// It is no such key.
    pub fn private(id: Option<String>, pem: &[u8]) -> Result<Self, KeyFault> {
        match Label::of(pem)? {
            Label::Private => {}
            Label::Public => return Err(KeyFault::Public),
            Label::Certificate => return Err(KeyFault::Certificate),
        }
        let keys = [
            (EncodingKey::from_rsa_pem(pem), Algorithm::RS256),
            (EncodingKey::from_ec_pem(pem), Algorithm::ES256),
            (EncodingKey::from_ec_pem(pem), Algorithm::ES384),
        ];
        let signers = keys
            .into_iter()
            .filter_map(|(key, algorithm)| Some(Self { id: id.clone(), key: key.ok()?, algorithm }));
        // A key does not name its curve; it signs only with that one's algorithm.
        signers.into_iter().find(|signer| signer.sign(&()).is_some()).ok_or(KeyFault::Kind)
    }

    /// Signs with `algorithm` instead, if the key can: another hash of the same family.
    pub fn with_algorithm(mut self, algorithm: &str) -> Option<Self> {
        self.algorithm = algorithm.parse().ok()?;
        self.sign(&()).is_some().then_some(self)
    }

    /// The signed token; `None` if the key and the algorithm do not fit.
    pub fn sign(&self, claims: &impl serde::Serialize) -> Option<String> {
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).ok()
    }
}

/// The label of a PEM file.
enum Label {
    Public,
    Private,
    Certificate,
}

impl Label {
    /// That of the first block (RFC 7468 §2).
    fn of(pem: &[u8]) -> Result<Self, KeyFault> {
        let text = std::str::from_utf8(pem).map_err(|_| KeyFault::NotPem)?;
        let label =
            text.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
        match label {
            Some("PUBLIC KEY" | "RSA PUBLIC KEY") => Ok(Self::Public),
            Some(label) if label.ends_with("PRIVATE KEY") => Ok(Self::Private),
            Some("CERTIFICATE") => Ok(Self::Certificate),
            Some(_) | None => Err(KeyFault::NotPem),
        }
    }
}
