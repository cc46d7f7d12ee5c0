//! Reads values: units resolved, words understood, bounds checked, each mistake with its location.

use ::http::uri::Authority;
use std::net::SocketAddr;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::outside;
use super::settings::{self, Kind};
use super::{Entry, Location, Problem, Raw, file};
use crate::http::{OriginRule, OriginRules};

/// Reads settings out of entries; later ones are stronger. What is wrong goes to `problems`.
pub(super) struct Reader<'a> {
    pub(super) entries: &'a [Entry],
    /// Weaker than all of these, and checked already.
    pub(super) defaults: &'a [Entry],
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The strongest value of a setting, or its default.
    pub(super) fn entry(&self, name: &str) -> Entry {
        self.given(name).cloned().unwrap_or_else(|| {
            let default = settings::find(name).map_or("", |setting| setting.default);
            let mut no_problem = Vec::new();
            let mut written = file::parse("default", &format!("{name} = {default}"), &mut no_problem);
            let entry = written.entries.pop().expect("every setting has a default, which a test reads");
            Entry { location: Location::Default, ..entry }
        })
    }

    pub(super) fn given(&self, name: &str) -> Option<&Entry> {
        let named = |entry: &&Entry| entry.name == name;
        self.entries.iter().rev().find(named).or_else(|| self.defaults.iter().rev().find(named))
    }

    /// Whether something other than an empty text or list was written.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given(name).is_some_and(|entry| match &entry.value {
            Raw::Text(text) => !text.is_empty(),
            Raw::List(texts) => !texts.is_empty(),
            Raw::Integer(_) | Raw::Bool(_) => true,
        })
    }

    pub(super) fn wrong(&mut self, name: &str, sentence: &str) {
        let location = self.entry(name).location;
        self.problems.push(Problem::new(location, format!("`{name}` {sentence}")));
    }

    /// The strongest value as `parse` understands it; else `otherwise`, and a problem that lists the valid
    /// values. A weaker one has to be right as well: it comes into force when the stronger one is taken away.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        must_be: &str,
        parse: impl Fn(&Raw) -> Option<T>,
        otherwise: T,
    ) -> T {
        for entry in self.entries.iter().filter(|entry| entry.name == name) {
            if parse(&entry.value).is_none() {
                let sentence = format!("`{name}` must be {must_be}");
                self.problems.push(Problem::new(entry.location.clone(), sentence));
            }
        }
        parse(&self.entry(name).value).unwrap_or(otherwise)
    }

    pub(super) fn switch(&mut self, name: &str) -> bool {
        let parse = |raw: &Raw| match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Text(text) => text.parse().ok(),
            Raw::Integer(_) | Raw::List(_) => None,
        };
        self.read(name, "true or false", parse, false)
    }

    pub(super) fn word(&mut self, name: &str) -> String {
        let Some(Kind::Choice(words)) = settings::find(name).map(|setting| setting.kind) else {
            return String::new();
        };
        let parse = |raw: &Raw| raw.text().filter(|text| words.contains(text)).map(str::to_owned);
        self.read(name, &format!("one of {}", words.join(", ")), parse, String::new())
    }

    pub(super) fn count(&mut self, name: &str, min: usize, max: usize) -> usize {
        let parse = |raw: &Raw| whole(raw).filter(|count| (min..=max).contains(count));
        self.read(name, &format!("a whole number from {min} to {max}"), parse, min)
    }

    /// At most `max`; 0 is fine.
    pub(super) fn count_u32(&mut self, name: &str, max: u32) -> u32 {
        let parse = |raw: &Raw| u32::try_from(whole(raw)?).ok().filter(|count| *count <= max);
        self.read(name, &format!("a whole number from 0 to {max}"), parse, 0)
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let text = self.read(name, "a text", |raw| raw.text().map(str::to_owned), String::new());
        (!text.is_empty()).then_some(text)
    }

    pub(super) fn count_or_auto(&mut self, name: &str, min: usize, max: usize) -> Option<usize> {
        let parse = |raw: &Raw| {
            if raw.text() == Some("auto") {
                return Some(None);
            }
            whole(raw).filter(|count| (min..=max).contains(count)).map(Some)
        };
        let bounds = if max > usize::MAX / 4 { format!("{min} or more") } else { format!("{min} to {max}") };
        self.read(name, &format!("auto, or a whole number: {bounds}"), parse, None)
    }

    pub(super) fn size(&mut self, name: &str, min: usize, max: usize) -> usize {
        let parse = |raw: &Raw| bytes(raw).filter(|size| (min..=max).contains(size));
        let (least, most) = (Size(min), Size(max));
        self.read(name, &format!("a size from {least} to {most}, such as 65536 or \"64KiB\""), parse, min)
    }

    pub(super) fn span(&mut self, name: &str, min: Duration, max: Duration) -> Duration {
        let parse = |raw: &Raw| {
            if *raw == Raw::Integer(0) && min.is_zero() {
                return Some(Duration::ZERO);
            }
            humantime::parse_duration(raw.text()?).ok().filter(|span| (min..=max).contains(span))
        };
        let bounds = format!("{} to {}", humantime::format_duration(min), humantime::format_duration(max));
        self.read(
            name,
            &format!("a time with its unit, such as \"25s\" or \"250ms\", from {bounds}"),
            parse,
            min,
        )
    }

    /// Each element as `parse` understands it; a problem for each that it does not, with `parse`'s reason.
    pub(super) fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Vec<T> {
        let texts = self.read(name, "a list of texts", list, Vec::new());
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(reason) => self.wrong(name, &format!("has {text:?}, which {reason}")),
            }
        }
        values
    }

    pub(super) fn addresses(&mut self, name: &str) -> (Vec<SocketAddr>, bool) {
        let is_default = self.given(name).is_none();
        if self.given(name).and_then(|entry| list(&entry.value)).is_some_and(|texts| texts.is_empty()) {
            self.wrong(name, "must have at least one address");
        }
        let addresses = self.list(name, resolve).concat();
        for address in &addresses {
            if let Some(wider) = addresses.iter().find(|wider| covers(**wider, *address)) {
                self.wrong(name, &format!("has {address}, which {wider} covers already: leave it out"));
            }
        }
        (addresses, is_default)
    }

    pub(super) fn origins(&mut self, name: &str) -> OriginRules {
        OriginRules(self.list(name, origin))
    }

    pub(super) fn directives(&mut self, name: &str) -> String {
        let parse = |raw: &Raw| {
            let text = raw.text().filter(|text| text.split(',').all(is_directive))?;
            EnvFilter::try_new(text).ok().map(|_| text.to_owned())
        };
        self.read(
            name,
            "a level (off, error, warn, info, debug, trace) or a list of directives such as \"info,stentor::driver=debug\"",
            parse,
            String::new(),
        )
    }
}

/// Whether what listens on `wider` takes the connections to `address`, another one: it cannot listen then.
/// What listens on `[::]` accepts IPv4 as well.
fn covers(wider: SocketAddr, address: SocketAddr) -> bool {
    let fits = wider.is_ipv6() || address.is_ipv4();
    wider != address
        && wider.port() == address.port()
        && wider.port() != 0
        && wider.ip().is_unspecified()
        && fits
}

fn whole(raw: &Raw) -> Option<usize> {
    match raw {
        Raw::Integer(number) => usize::try_from(*number).ok(),
        Raw::Text(text) => text.parse().ok(),
        Raw::Bool(_) | Raw::List(_) => None,
    }
}

/// The texts of a list, or those between the commas of one text.
pub(super) fn list(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::List(texts) => Some(texts.clone()),
        Raw::Text(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
        Raw::Integer(_) | Raw::Bool(_) => None,
    }
}

/// No crate is as strict: `bytesize` and `ubyte` saturate and accept `1.5MiB`; `parse-size` accepts that,
/// `64K` and `1e3`.
const UNITS: [(&str, usize); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

fn bytes(raw: &Raw) -> Option<usize> {
    let Raw::Text(text) = raw else { return whole(raw) };
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((strip_suffix_ignoring_case(text, unit)?, *bytes)))
        .unwrap_or((text, 1));
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}

fn strip_suffix_ignoring_case<'t>(text: &'t str, suffix: &str) -> Option<&'t str> {
    let (front, back) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    back.eq_ignore_ascii_case(suffix).then_some(front)
}

/// A number of bytes in the largest unit that divides it.
struct Size(usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit =
            UNITS[..3].iter().rev().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        match unit {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A lone word that is no level would pass for the name of a module, and silence everything else.
fn is_directive(text: &str) -> bool {
    text == env!("CARGO_PKG_NAME") || text.contains(['=', ':', '[']) || text.parse::<LevelFilter>().is_ok()
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            outside::addresses(text).map_err(|_| "has a host that cannot be resolved")
        }
        _ => Err("is no address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\""),
    }
}

fn origin(text: &str) -> Result<OriginRule, &'static str> {
    match text {
        "same-host" => Ok(OriginRule::SameHost),
        "any" | "*" => Ok(OriginRule::Any),
        "null" => Ok(OriginRule::Null),
        exact if is_origin(exact) => Ok(OriginRule::Exact(exact.to_owned())),
        _ => Err(
            "is none of same-host, any, null, and no origin such as \"https://chat.example\" (ASCII, no path)",
        ),
    }
}

/// Whether a browser can send this: a scheme, a host, perhaps a port, and nothing else.
fn is_origin(text: &str) -> bool {
    let Some(("http" | "https", rest)) = text.split_once("://") else { return false };
    let Ok(authority) = rest.parse::<Authority>() else { return false };
    let port = authority.port().map_or_else(String::new, |port| format!(":{port}"));
    !authority.host().is_empty()
        && !authority.host().contains('*')
        && rest == authority.host().to_owned() + &port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64 kib", Some(65_536)),
            ("1MB", Some(1_000_000)),
            ("5B", Some(5)),
            ("1.5MiB", None),
            ("64K", None),
            ("1e3", None),
            ("1_0", None),
            ("", None),
            ("KiB", None),
            ("-1", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(bytes(&Raw::Text(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(resolve("127.0.0.1:80"), Ok(vec![([127, 0, 0, 1], 80).into()]));
        assert_eq!(resolve("[::]:0"), Ok(vec![([0_u16; 8], 0).into()]));
        for wrong in ["8080", ":8080", "localhost", "127.0.0.1:", "127.0.0.1:65536", ""] {
            assert!(resolve(wrong).is_err_and(|reason| reason.starts_with("is no address")), "{wrong}");
        }
    }

    #[test]
    fn addresses_that_cover_others() {
        for (wider, address, expected) in [
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::]:80", "[::]:80", false),
            ("[::]:80", "127.0.0.1:81", false),
            ("[::]:0", "127.0.0.1:0", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
        ] {
            assert_eq!(
                covers(wider.parse().unwrap(), address.parse().unwrap()),
                expected,
                "{wider} {address}"
            );
        }
    }

    #[test]
    fn origins_are_valid_origins() {
        for exact in
            ["https://chat.example", "http://localhost:8080", "https://[::1]:8443", "https://a.b:443"]
        {
            assert_eq!(origin(exact), Ok(OriginRule::Exact(exact.to_owned())));
        }
        for wrong in [
            "chat.example",
            "ftp://chat.example",
            "https://",
            "https://:80",
            "https://chat.example/",
            "https://chat.example:",
            "https://chat.example:65536",
            "https://chat.example:a",
            "https://me@chat.example",
            "https://*.example",
            "https://a b",
            "https://bücher.example",
            "https://[::1",
            "",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_directives() {
        for right in
            ["off", "INFO", "stentor", "warn,stentor::driver=debug", "stentor[turn{shard=1,room=2}]=trace"]
        {
            assert!(right.split(',').all(is_directive), "{right}");
        }
        for wrong in ["inof", "info,debgu", "verbose"] {
            assert!(!wrong.split(',').all(is_directive), "{wrong}");
        }
    }
}
