//! Recovery of missed messages: the position of a client in its room, found in received messages and sent to
//! the server on reconnection.

use memchr::memmem;

use crate::preset::{RecoveredMatch, Recovery, ServerProtocol};
use crate::template::{Part, Template};

/// A position in a room: epoch and offset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The epoch: a server that has lost the history starts another one.
    pub epoch: String,
    /// The offset of the last received message.
    pub offset: u64,
}

impl Position {
    /// Updates the position from `payload`, or advances it by one if every message counts. True if a position
    /// was found.
    pub fn observe(&mut self, recovery: &Recovery, payload: &[u8]) -> bool {
        let mut found = false;
        for pattern in &recovery.position_patterns {
            found |= self.take(pattern, payload);
        }
        if let (false, Some(control_prefix)) = (found, &recovery.control_prefix) {
            self.offset += u64::from(!payload.starts_with(control_prefix.as_bytes()));
        }
        found
    }

    /// Updates the position to the stated one, `EPOCH:OFFSET`. True if it is one.
    pub fn state(&mut self, stated: &str) -> bool {
        let Some((epoch, offset)) = stated.split_once(':') else { return false };
        let Ok(offset) = offset.parse() else { return false };
        if self.epoch != epoch {
            epoch.clone_into(&mut self.epoch);
        }
        self.offset = offset;
        true
    }

    /// Parses the last match of the pattern.
    fn take(&mut self, pattern: &Template, payload: &[u8]) -> bool {
        let Some((Part::Literal(mark), parts)) = pattern.parts().split_first() else { return false };
        let Some(at) = memmem::rfind(payload, mark.as_bytes()) else { return false };
        let mut rest = &payload[at + mark.len()..];
        let (mut epoch, mut offset) = (None, None);
        for part in parts {
            let len = match part {
                Part::Literal(text) if rest.starts_with(text.as_bytes()) => text.len(),
                Part::Epoch => {
                    let found = leading(rest, |byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
                    epoch = Some(found);
                    found.len()
                }
                Part::Offset => {
                    let digits = leading(rest, |byte| byte.is_ascii_digit());
                    let Ok(found) = digits.parse() else { return false };
                    offset = Some(found);
                    digits.len()
                }
                Part::Literal(_) | Part::Name | Part::Room | Part::Token => return false,
                Part::Text | Part::Bytes | Part::Id => return false,
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

/// The prefix of `bytes` for which `belongs` is true. It must be ASCII.
fn leading(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> &str {
    let end = bytes.iter().position(|&byte| !belongs(byte)).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// The state of a recovery, until the client is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecoveryAttempt {
    /// A payload contained the text of [`RecoveredMatch`].
    marked: bool,
    /// The number of recovered messages.
    pub recovered_messages: u64,
}

impl RecoveryAttempt {
    /// Whether no message is missing, according to the server.
    pub const fn is_recovered(self, recovery: &Recovery) -> bool {
        match &recovery.recovered_match {
            RecoveredMatch::Present(_) => self.marked,
            RecoveredMatch::Absent(_) => !self.marked,
        }
    }

    /// Handles a payload that arrives before the client is connected.
    pub fn observe(&mut self, recovery: &Recovery, payload: &[u8]) {
        let (RecoveredMatch::Present(mark) | RecoveredMatch::Absent(mark)) = &recovery.recovered_match;
        self.marked |= memmem::find(payload, mark.as_bytes()).is_some();
    }
}

/// The path and query of a handshake; `position` is the last position of a client that recovers.
pub fn path(protocol: &ServerProtocol, resumes: bool, position: Option<&Position>) -> Template {
    let query = protocol.recovery.as_ref().filter(|_| resumes).and_then(|recovery| {
        if position.is_some() { recovery.recovery_query.as_ref() } else { recovery.query.as_ref() }
    });
    let path = String::from(protocol.path.clone());
    let Some(query) = query else { return path.into() };
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{}", String::from(query.clone())).into()
}

/// The additional header of a request.
pub fn header<'p>(
    protocol: &'p ServerProtocol,
    resumes: bool,
    position: Option<&Position>,
) -> Option<&'p Template> {
    position.filter(|_| resumes)?;
    protocol.recovery.as_ref()?.recovery_header.as_ref()
}

/// The messages after the handshake.
pub fn join(protocol: &ServerProtocol, resumes: bool, reconnects: bool) -> &[Template] {
    let special = protocol
        .recovery
        .as_ref()
        .filter(|_| resumes)
        .map(|recovery| if reconnects { &recovery.recovery_join } else { &recovery.join });
    special.filter(|join| !join.is_empty()).unwrap_or(&protocol.join)
}

/// The substring of a message that marks a client as connected.
pub fn ready_match(protocol: &ServerProtocol, resumes: bool) -> Option<&str> {
    let special =
        protocol.recovery.as_ref().filter(|_| resumes).and_then(|recovery| recovery.ready_match.as_deref());
    special.or(protocol.ready_match.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    fn check(preset: Preset, received: &[&str], epoch: &str, offset: u64) {
        let recovery = preset.protocol().recovery.unwrap();
        let mut position = Position::default();
        for payload in received {
            position.observe(&recovery, payload.as_bytes());
        }
        assert_eq!(position, Position { epoch: epoch.to_owned(), offset }, "{received:?}");
    }

    #[test]
    fn positions_are_found_in_messages_of_each_server() {
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
    fn a_stated_position_is_taken() {
        let mut position = Position::default();
        assert!(position.state("0000002a:7"));
        assert_eq!(position, Position { epoch: "0000002a".to_owned(), offset: 7 });
        assert!(!position.state("b") && !position.state("b:x"));
        assert_eq!(position.offset, 7);
    }

    #[test]
    fn requests_depend_on_the_position() {
        let position = Position { epoch: "e".to_owned(), offset: 3 };
        let protocol = Preset::Stentor.protocol();
        let requested = |resumes, position| String::from(path(&protocol, resumes, position));
        assert_eq!(requested(false, Some(&position)), "/ws/{name}?room={room}");
        assert_eq!(requested(true, None), "/ws/{name}?room={room}&history=0");
        assert_eq!(requested(true, Some(&position)), "/ws/{name}?room={room}&since={epoch}:{offset}");
        let protocol = Preset::Centrifugo.protocol();
        let joins = |resumes, reconnects| String::from(join(&protocol, resumes, reconnects)[0].clone());
        assert!(joins(true, true).contains(r#""recover":true,"epoch":"{epoch}","offset":{offset}"#));
        assert!(
            joins(true, false).contains(r#""recoverable":true"#) && !joins(true, false).contains("epoch")
        );
        assert!(!joins(false, true).contains("recover"));
    }
}
