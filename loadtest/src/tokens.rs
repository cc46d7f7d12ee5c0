//! Tokens of the clients, for servers that authenticate them: from a file, or signed by each worker with a
//! key.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a signed token is valid.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// The tokens of all clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tokens {
    /// From a file: one for each client, in order.
    Listed(Vec<ListedToken>),
    /// Signed with a key: `sub` and `info.name` are the client's name.
    Signed {
        /// The secret (HS256), or a private key in PEM (ES256, ES384, RS256).
        key: Vec<u8>,
        /// Further claims.
        claims: Map<String, Value>,
    },
}

/// A line of a file of tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedToken {
    /// The token.
    pub token: String,
    /// The name of its client, if the file has names.
    pub name: Option<String>,
}

impl Tokens {
    /// Reads a CSV file. Its first line may name the columns: `token`, and `name` for the names of the
    /// clients. Without such a line the first column has the tokens.
    ///
    /// # Errors
    /// One sentence: the file cannot be read, or has fewer tokens than `clients`.
    pub fn read_list(path: &Path, clients: u32) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("--tokens {} cannot be read: {error}", path.display()))?;
        let listed = list(&text);
        if listed.len() < clients as usize {
            let found = listed.len();
            return Err(format!("--tokens {} has {found} tokens for {clients} clients", path.display()));
        }
        Ok(Self::Listed(listed.into_iter().take(clients as usize).collect()))
    }

    /// Reads a key: a private key in PEM, or a secret, of which line ends at the end of the file are no part.
    /// `claims` is a JSON object.
    ///
    /// # Errors
    /// One sentence: the file or the claims are invalid.
    pub fn read_key(path: &Path, claims: Option<&str>) -> Result<Self, String> {
        let mut key = std::fs::read(path)
            .map_err(|error| format!("--token-key {} cannot be read: {error}", path.display()))?;
        key.truncate(key.trim_ascii_end().len());
        let claims = match claims.map(serde_json::from_str) {
            None => Map::new(),
            Some(Ok(Value::Object(claims))) => claims,
            Some(_) => return Err("--token-claims must be a JSON object".to_owned()),
        };
        let tokens = Self::Signed { key, claims };
        tokens.signed("").map_err(|error| format!("--token-key {}: {error}", path.display()))?;
        Ok(tokens)
    }

    /// The token of a client.
    pub fn token(&self, client: u32, name: &str) -> String {
        match self {
            Self::Listed(listed) => {
                listed.get(client as usize).map_or_else(String::new, |line| line.token.clone())
            }
            Self::Signed { .. } => self.signed(name).unwrap_or_default(),
        }
    }

    /// The name of a client, if the file has names.
    pub fn name(&self, client: u32) -> Option<&str> {
        match self {
            Self::Listed(listed) => listed.get(client as usize)?.name.as_deref(),
            Self::Signed { .. } => None,
        }
    }

    /// The first algorithm that the key fits signs.
    fn signed(&self, name: &str) -> Result<String, String> {
        let Self::Signed { key, claims } = self else { return Ok(String::new()) };
        #[expect(clippy::disallowed_methods, reason = "the date in a token")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut all = Map::new();
        all.insert("sub".to_owned(), json!(name));
        all.insert("info".to_owned(), json!({ "name": name }));
        all.insert("iat".to_owned(), json!(now.as_secs()));
        all.insert("exp".to_owned(), json!((now + VALID).as_secs()));
        all.extend(claims.clone());
        let candidates = if key.starts_with(b"-----BEGIN") {
            vec![
                (Algorithm::ES256, EncodingKey::from_ec_pem(key)),
                (Algorithm::ES384, EncodingKey::from_ec_pem(key)),
                (Algorithm::RS256, EncodingKey::from_rsa_pem(key)),
            ]
        } else {
            vec![(Algorithm::HS256, Ok(EncodingKey::from_secret(key)))]
        };
        let sign = |(algorithm, key): (_, Result<_, _>)| {
            jsonwebtoken::encode(&Header::new(algorithm), &all, &key.ok()?).ok()
        };
        candidates.into_iter().find_map(sign).ok_or_else(|| {
            "neither an RSA nor an ECDSA (P-256, P-384) private key in PEM (PKCS #8)".to_owned()
        })
    }
}

/// The tokens in the text of a CSV file.
fn list(text: &str) -> Vec<ListedToken> {
    let cells =
        |line: &str| line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(cells).peekable();
    let column = |head: &[String], name: &str| head.iter().position(|cell| cell.eq_ignore_ascii_case(name));
    let (mut token, mut name) = (0, None);
    if let Some(head) = lines.peek()
        && let Some(found) = column(head, "token")
    {
        (token, name) = (found, column(head, "name"));
        lines.next();
    }
    let line = |cells: Vec<String>| {
        Some(ListedToken {
            token: cells.get(token)?.clone(),
            name: name.and_then(|name| cells.get(name)).cloned(),
        })
    };
    lines.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_file_has_one_token_for_each_client() {
        let check = |text: &str, expected: &[(&str, Option<&str>)]| {
            let clients = u32::try_from(expected.len()).unwrap();
            let tokens = Tokens::read_list(file(text).path(), clients).unwrap();
            for (client, &(token, name)) in (0..).zip(expected) {
                assert_eq!(
                    (tokens.token(client, "x").as_str(), tokens.name(client)),
                    (token, name),
                    "{text}"
                );
            }
        };
        check("a\nb\n", &[("a", None), ("b", None)]);
        check("a,1\n\nb,2\nc,3", &[("a", None), ("b", None)]);
        check("name,Token\nAnn,\"a\"\nBen,b\n", &[("a", Some("Ann")), ("b", Some("Ben"))]);
        let error = Tokens::read_list(file("token\na\n").path(), 2).unwrap_err();
        assert!(error.ends_with("has 1 tokens for 2 clients"), "{error}");
    }

    #[test]
    fn a_key_signs_a_token_with_the_name_of_each_client() {
        let secret = "0123456789abcdef0123456789abcdef";
        let tokens = Tokens::read_key(file(&format!("{secret}\n")).path(), Some(r#"{"aud":"x"}"#)).unwrap();
        let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
        validation.set_audience(&["x"]);
        let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
        let token = tokens.token(7, "swarm-000007");
        let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims;
        assert_eq!(
            (&claims["sub"], &claims["info"]["name"]),
            (&json!("swarm-000007"), &json!("swarm-000007"))
        );
        let error = |text: &str, claims| Tokens::read_key(file(text).path(), claims).unwrap_err();
        assert!(error("-----BEGIN NOTHING-----", None).contains("private key in PEM"));
        assert!(error(secret, Some("[]")).contains("a JSON object"));
    }
}
