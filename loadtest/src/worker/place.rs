//! Where a client is in what its room has said, as the server counts it: found in what arrives, and told to the server when the
//! client comes back.

use memchr::memmem;

use crate::preset::{Dialect, Recovered, Resuming};
use crate::template::{Piece, Template};

/// A client's place in its room's past.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Which past that is: a server that has lost it begins another one.
    pub epoch: String,
    /// How much of it the client has heard.
    pub offset: u64,
}

impl Place {
    /// Moves on by what `payload` says of positions, or by one if each message counts. True if anything was found.
    pub fn hears(&mut self, resuming: &Resuming, payload: &[u8]) -> bool {
        let mut found = false;
        for pattern in &resuming.positions {
            found |= self.take(pattern, payload);
        }
        if let (false, Some(uncounted)) = (found, &resuming.uncounted) {
            self.offset += u64::from(!payload.starts_with(uncounted.as_bytes()));
        }
        found
    }

    /// Reads the last text that has the pattern's form.
    fn take(&mut self, pattern: &Template, payload: &[u8]) -> bool {
        let Some((Piece::Literal(mark), pieces)) = pattern.pieces().split_first() else { return false };
        let Some(at) = memmem::rfind(payload, mark.as_bytes()) else { return false };
        let mut rest = &payload[at + mark.len()..];
        let (mut epoch, mut offset) = (None, None);
        for piece in pieces {
            let len = match piece {
                Piece::Literal(text) if rest.starts_with(text.as_bytes()) => text.len(),
                Piece::Epoch => {
                    let found = leading(rest, |byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
                    epoch = Some(found);
                    found.len()
                }
                Piece::Offset => {
                    let digits = leading(rest, |byte| byte.is_ascii_digit());
                    let Ok(found) = digits.parse() else { return false };
                    offset = Some(found);
                    digits.len()
                }
                Piece::Literal(_) | Piece::Name | Piece::Room | Piece::Text | Piece::Bytes | Piece::Id => {
                    return false;
                }
            };
            rest = &rest[len..];
        }
        if let Some(epoch) = epoch {
            epoch.clone_into(&mut self.epoch);
        }
        self.offset = offset.unwrap_or(self.offset);
        true
    }
}

/// What `bytes` begins with, as long as `belongs` holds. That is ASCII only.
fn leading(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> &str {
    let end = bytes.iter().position(|&byte| !belongs(byte)).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// What a client that comes back is told until it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Return {
    /// The mark of [`Recovered`] was among it.
    marked: bool,
    /// Messages that it had missed.
    pub caught_up: u64,
}

impl Return {
    /// Whether nothing is missing, by what the server says.
    pub const fn is_recovered(self, resuming: &Resuming) -> bool {
        match &resuming.recovered {
            Recovered::If(_) => self.marked,
            Recovered::Unless(_) => !self.marked,
        }
    }

    /// `payload` has come before the client was in.
    pub fn hears(&mut self, resuming: &Resuming, payload: &[u8]) {
        let (Recovered::If(mark) | Recovered::Unless(mark)) = &resuming.recovered;
        self.marked |= memmem::find(payload, mark.as_bytes()).is_some();
    }
}

/// The path and query that a client asks for: `place` is where it was, if it comes back.
pub fn path(dialect: &Dialect, resumes: bool, place: Option<&Place>) -> Template {
    let query = dialect.resuming.as_ref().filter(|_| resumes).and_then(|resuming| {
        if place.is_some() { resuming.requery.as_ref() } else { resuming.query.as_ref() }
    });
    let path = String::from(dialect.path.clone());
    let Some(query) = query else { return path.into() };
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{}", String::from(query.clone())).into()
}

/// What a client says after its handshake.
pub fn join(dialect: &Dialect, resumes: bool, returns: bool) -> &[Template] {
    let special = dialect
        .resuming
        .as_ref()
        .filter(|_| resumes)
        .map(|resuming| if returns { &resuming.rejoin } else { &resuming.join });
    special.filter(|join| !join.is_empty()).unwrap_or(&dialect.join)
}

/// What tells a client that it is in.
pub fn joined(dialect: &Dialect, resumes: bool) -> Option<&str> {
    let special =
        dialect.resuming.as_ref().filter(|_| resumes).and_then(|resuming| resuming.joined.as_deref());
    special.or(dialect.joined.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    fn check(preset: Preset, heard: &[&str], epoch: &str, offset: u64) {
        let resuming = preset.dialect().resuming.unwrap();
        let mut place = Place::default();
        for payload in heard {
            place.hears(&resuming, payload.as_bytes());
        }
        assert_eq!(place, Place { epoch: epoch.to_owned(), offset }, "{heard:?}");
    }

    #[test]
    fn positions_are_found_where_each_server_writes_them() {
        let reply = r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"0000002a","offset":7}}"#;
        let push = r#"{"push":{"channel":"a","pub":{"data":{"text":"x"},"offset":8}}}"#;
        let two = r#"{"push":{"channel":"a","pub":{"data":1,"offset":9}}}
{"push":{"channel":"a","pub":{"data":1,"offset":10}}}"#;
        check(Preset::StentorJson, &[reply], "0000002a", 7);
        check(Preset::StentorJson, &[reply, push, two, "{}"], "0000002a", 10);
        let resumed = r#"{"id":2,"subscribe":{"epoch":"b-_1","offset":3,"recovered":true,"publications":[{"data":1,"offset":4}]}}"#;
        check(Preset::Centrifugo, &[resumed], "b-_1", 4);
        check(Preset::Stentor, &[": since=0000002a:7"], "0000002a", 7);
        check(
            Preset::Stentor,
            &["b: missed", ": since=0000002a:7", "a: text", ": a notice", "a: text"],
            "0000002a",
            9,
        );
    }

    #[test]
    fn what_is_asked_depends_on_whether_one_comes_back() {
        let place = Place { epoch: "e".to_owned(), offset: 3 };
        let dialect = Preset::Stentor.dialect();
        let asked = |resumes, place| String::from(path(&dialect, resumes, place));
        assert_eq!(asked(false, Some(&place)), "/ws/{name}?room={room}");
        assert_eq!(asked(true, None), "/ws/{name}?room={room}&history=0");
        assert_eq!(asked(true, Some(&place)), "/ws/{name}?room={room}&since={epoch}:{offset}");
        let dialect = Preset::Centrifugo.dialect();
        let said = |resumes, returns| String::from(join(&dialect, resumes, returns)[0].clone());
        assert!(said(true, true).contains(r#""recover":true,"epoch":"{epoch}","offset":{offset}"#));
        assert!(said(true, false).contains(r#""recoverable":true"#) && !said(true, false).contains("epoch"));
        assert!(!said(false, true).contains("recover"));
    }
}
