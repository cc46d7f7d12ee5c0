//! Authentication: keys that are read from their files, and the hook.

use ::http::{HeaderName, HeaderValue, Uri};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::checked::Auth;
use super::reader::{Reader, list};
use super::{Entry, Raw, outside};
use crate::chat::{Access, RoomRules};
use crate::identity::jwt::Expectations;
use crate::identity::keys::Key;
use crate::identity::{HookOptions, Jwt, KeyFault, Policy};

/// The keys; `None`: there are none.
pub(super) fn authority(read: &mut Reader<'_>, expected: &Expectations, policy: Policy) -> Option<Arc<Jwt>> {
    let mut keys = Vec::new();
    let secret = read.text("token_hmac_secret");
    if let Some(secret) = &secret {
        match Key::hmac(None, secret.as_bytes()) {
            Ok(key) => keys.push(key),
            Err(fault) => read.wrong("token_hmac_secret", &fault.to_string()),
        }
    }
    keys.extend(key_files(read, "token_hmac_secret_files", |id, secret| {
        // An editor, or `openssl rand`, ends the line.
        let end = secret.trim_ascii_end().len();
        Key::hmac(id, &secret[..end])
    }));
    keys.extend(key_files(read, "token_public_keys", Key::public));
    (!keys.is_empty()).then(|| Arc::new(Jwt::new(keys, expected, policy)))
}

/// Required claims.
pub(super) fn expectations(read: &mut Reader<'_>) -> Expectations {
    Expectations {
        audience: read.text("token_audience"),
        issuer: read.text("token_issuer"),
        leeway: read.span("token_leeway", Duration::ZERO, LEEWAY_MAX),
    }
}

/// More would accept tokens that are not meant to hold yet.
const LEEWAY_MAX: Duration = Duration::from_secs(5 * 60);

fn key_files(
    read: &mut Reader<'_>,
    name: &str,
    key: impl Fn(Option<String>, &[u8]) -> Result<Key, KeyFault>,
) -> Vec<Key> {
    let mut keys = Vec::new();
    for file in read.list(name, |text| Ok(text.to_owned())) {
        let (id, path) = id_and_path(&file);
        match outside::read(path) {
            Ok(bytes) => match key(id, &bytes) {
                Ok(key) => keys.push(key),
                Err(fault) => read.wrong(name, &format!("has {path:?}, which {fault}")),
            },
            Err(error) => read.wrong(name, &format!("has {path:?}, which {}", unreadable(&error))),
        }
    }
    keys
}

/// `KID=PATH`, or a path alone. A `=` behind a slash is the path's.
fn id_and_path(file: &str) -> (Option<String>, &str) {
    match file.split_once('=') {
        Some((id, path)) if !id.is_empty() && !id.contains('/') => (Some(id.to_owned()), path),
        _ => (None, file),
    }
}

/// Why a file cannot be read, and what helps.
fn unreadable(error: &io::Error) -> String {
    let advice = if error.kind() == io::ErrorKind::PermissionDenied {
        "; this user may not read it: change its owner or mode, or pass it with LoadCredential= of systemd"
    } else if error.kind() == io::ErrorKind::NotFound {
        "; paths in a file are relative to that file, those of flags and variables to the working directory"
    } else {
        ""
    };
    format!("cannot be read ({error}){advice}")
}

/// The settings that hold a path, or a list of paths.
const PATHS: [&str; 3] = ["token_hmac_secret_files", "token_public_keys", "hook_ca"];

/// Makes relative paths of a file relative to the folder that it is in.
pub(super) fn resolve_paths(entries: &mut [Entry], folder: &Path) {
    for entry in entries.iter_mut().filter(|entry| PATHS.contains(&entry.name.as_str())) {
        let resolved = |text: &str| {
            let (id, path) = id_and_path(text);
            if path.is_empty() {
                return text.to_owned();
            }
            let path = folder.join(path).display().to_string();
            id.map_or_else(|| path.clone(), |id| format!("{id}={path}"))
        };
        let resolved = match &entry.value {
            Raw::Text(text) if entry.name == "hook_ca" => {
                (!text.is_empty()).then(|| Raw::Text(folder.join(text).display().to_string()))
            }
            Raw::Text(_) | Raw::List(_) | Raw::Integer(_) | Raw::Bool(_) => {
                list(&entry.value).map(|texts| Raw::List(texts.iter().map(|text| resolved(text)).collect()))
            }
        };
        if let Some(resolved) = resolved {
            entry.value = resolved;
        }
    }
}

/// The hook; `None`: there is none.
pub(super) fn hook(read: &mut Reader<'_>) -> Option<HookOptions> {
    let url = read.text("hook_url");
    if url.as_deref().is_some_and(|url| !is_url(url)) {
        read.wrong(
            "hook_url",
            "must be a URL such as \"http://127.0.0.1:9000/connect\" (http or https; credentials go into hook_headers)",
        );
    }
    let options = HookOptions {
        url: url.clone().unwrap_or_default(),
        timeout: read.span("hook_timeout", Duration::from_millis(10), Duration::from_secs(60)),
        concurrency: read.count("hook_concurrency", 1, 256),
        waiting_max: read.count("hook_waiting", 1, 1_000_000),
        headers: headers(read),
        authorities: authorities(read),
    };
    url.map(|_| options)
}

fn is_url(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
    })
}

/// Headers that HTTP itself sets.
const NOT_OURS: [&str; 5] = ["host", "connection", "content-length", "content-type", "transfer-encoding"];

/// Its problems do not repeat what was written.
fn headers(read: &mut Reader<'_>) -> Vec<(String, String)> {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let name: HeaderName = name.trim().parse().ok()?;
        let value = value.trim();
        HeaderValue::from_str(value).ok()?;
        (!NOT_OURS.contains(&name.as_str())).then(|| (name.as_str().to_owned(), value.to_owned()))
    };
    let parse = |raw: &Raw| list(raw)?.iter().map(|line| header(line)).collect::<Option<Vec<_>>>();
    read.read(
        "hook_headers",
        "a list of headers, each as \"Name: value\", none of which HTTP itself sets",
        parse,
        Vec::new(),
    )
}

/// The certificates of `hook_ca`, one PEM each.
fn authorities(read: &mut Reader<'_>) -> Vec<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let Some(path) = read.text("hook_ca") else { return Vec::new() };
    let text = match outside::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            read.wrong("hook_ca", &format!("names {path:?}, which {}", unreadable(&error)));
            return Vec::new();
        }
    };
    let pems = text.split_inclusive(END).filter(|pem| pem.contains(END)).map(|pem| pem.as_bytes().to_vec());
    let pems: Vec<_> = pems.collect();
    if pems.is_empty() || pems.iter().any(|pem| !HookOptions::is_certificate(pem)) {
        read.wrong("hook_ca", &format!("names {path:?}, which has no certificates in PEM form"));
    }
    pems
}

/// The settings that hold keys.
const KEYS: [&str; 3] = ["token_hmac_secret", "token_hmac_secret_files", "token_public_keys"];

/// Whether what was chosen can be done.
pub(super) fn relations(
    read: &mut Reader<'_>,
    auth: Auth,
    authority: Option<&Arc<Jwt>>,
    hook: Option<&HookOptions>,
    rooms: &RoomRules,
) {
    // A key that cannot be used is a problem of its own: another one is not missing.
    if auth == Auth::Token && authority.is_none() && !KEYS.iter().any(|name| read.is_given(name)) {
        read.wrong(
            "auth",
            "= \"token\" needs a key: token_hmac_secret_files, token_hmac_secret or token_public_keys",
        );
    }
    if auth == Auth::Hook && hook.is_none() {
        read.wrong("auth", "= \"hook\" needs hook_url");
    }
    let wants_token = |who| who == Access::Token;
    let mut options = rooms.patterns.iter().map(|(_, options)| options).chain([&rooms.otherwise]);
    if auth != Auth::Token
        && options.any(|options| wants_token(options.subscribe) || wants_token(options.publish))
    {
        read.wrong("auth", "must be \"token\", because a room requires a token to subscribe or publish");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_have_a_name() {
        assert_eq!(id_and_path("a=/b/c"), (Some("a".to_owned()), "/b/c"));
        assert_eq!(id_and_path("/b/c"), (None, "/b/c"));
        assert_eq!(id_and_path("/b=1/c"), (None, "/b=1/c"));
        assert_eq!(id_and_path("a=b=c"), (Some("a".to_owned()), "b=c"));
    }

    #[test]
    fn paths_of_a_file_are_relative_to_it() {
        let entry = |name: &str, value| Entry {
            name: name.to_owned(),
            value,
            location: super::super::Location::Default,
        };
        let texts = |texts: &[&str]| Raw::List(texts.iter().map(|text| (*text).to_owned()).collect());
        let mut entries = [
            entry("token_hmac_secret_files", texts(&["a", "k=b", "/c", "k=/d"])),
            entry("token_public_keys", Raw::Text("e, f".to_owned())),
            entry("hook_ca", Raw::Text("g,h".to_owned())),
            entry("hook_url", Raw::Text("i".to_owned())),
        ];
        resolve_paths(&mut entries, Path::new("/etc/s"));
        let values = entries.map(|entry| entry.value);
        let expected = [
            texts(&["/etc/s/a", "k=/etc/s/b", "/c", "k=/d"]),
            texts(&["/etc/s/e", "/etc/s/f"]),
            Raw::Text("/etc/s/g,h".to_owned()),
            Raw::Text("i".to_owned()),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn urls() {
        for right in ["http://127.0.0.1:9000/connect", "https://app.example/a?b=c"] {
            assert!(is_url(right), "{right}");
        }
        for wrong in ["", "/connect", "ftp://a/", "http://", "http://me:secret@a/", "a.example"] {
            assert!(!is_url(wrong), "{wrong}");
        }
    }
}
