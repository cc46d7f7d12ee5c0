//! Long polling: a request for what is behind a position, and when it is answered, the next one.

use std::borrow::Cow;

use super::cause;
use super::channel::{Ending, Item, Message, Step};
use super::http::answer;

/// A position that no room is at: a poll from there is answered at once, with the room's position.
const UNKNOWN: &str = "none:0";

/// A client that polls. One that knows no position asks for the room's first. One that resumes does so too,
/// and only then polls from its own position: so it learns at once that it has missed nothing.
#[derive(Debug)]
pub struct Poll {
    /// The request up to the position, and behind it.
    request: (Box<str>, Box<str>),
    /// Where the next poll begins; empty: unknown.
    since: String,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The request for the room's position is not accepted yet.
    Begun,
    /// The room's position is awaited.
    Asking,
    /// What was missed is awaited.
    Resuming,
    /// Messages are awaited.
    Open,
}

impl Poll {
    /// A client that has received everything up to `since`, if it has been there before. The request's target
    /// is `path`, which has a query; `fields` are its fields with their line ends.
    pub fn new(path: &str, fields: &str, since: Option<&str>) -> Self {
        Self {
            request: (format!("GET {path}&since=").into(), format!(" HTTP/1.1\r\n{fields}\r\n").into()),
            since: since.unwrap_or_default().to_owned(),
            phase: Phase::Begun,
        }
    }

    /// The first request.
    pub fn first_request(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.request_into(&mut out, UNKNOWN);
        out
    }

    fn request_into(&self, out: &mut Vec<u8>, since: &str) {
        let (before, after) = &self.request;
        for part in [before, since, after] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// Decodes the answer at the front of `bytes`; appends the next request to `out`.
    ///
    /// # Errors
    /// The server has refused a poll, or ends the connection.
    pub fn next<'b>(&mut self, bytes: &'b [u8], out: &mut Vec<u8>) -> Result<Step<'b>, Ending> {
        let answer = match answer(bytes) {
            Ok(answer) => answer,
            Err(Ok(needed)) => return Ok(Step { used: 0, item: Item::NeedMore(needed) }),
            Err(Err(why)) => return Err(Ending::Failed(why)),
        };
        if !matches!(answer.head.status, 200 | 204) {
            return Err(Ending::Failed(cause::refused(&answer.head, &answer.content)));
        }
        let Some(position) = answer.head.position else {
            return Err(Ending::Failed("the answer to a poll has no Stentor-Position".to_owned()));
        };
        if self.phase == Phase::Begun {
            // The same bytes are decoded again for what they say.
            self.phase = Phase::Asking;
            return Ok(Step { used: 0, item: Item::Accepted });
        }
        let is_asking = self.phase == Phase::Asking;
        if is_asking && !self.since.is_empty() && self.since != position {
            self.phase = Phase::Resuming;
            self.request_into(out, &self.since);
            return Ok(Step { used: answer.len, item: Item::Nothing });
        }
        self.phase = Phase::Open;
        position.clone_into(&mut self.since);
        if !answer.head.closes {
            self.request_into(out, &self.since);
        }
        let (payload, at) = if is_asking || answer.content.is_empty() {
            (Cow::Borrowed(position.as_bytes()), Some((0, position.len())))
        } else {
            let found = memchr::memmem::find(&answer.content, position.as_bytes());
            (answer.content, found.map(|at| (at, at + position.len())))
        };
        let item = Item::Message(Message { payload, position: at, is_current: true });
        Ok(Step { used: answer.len, item })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Payload and position of each message.
    type Seen = Vec<(String, String)>;

    /// Answers each request of a client with the next of these texts, in pieces of so many bytes.
    /// Returns what it has received, and its requests.
    fn polled(since: Option<&str>, answers: &[&str], piece: usize) -> (Seen, Vec<String>) {
        let mut poll = Poll::new("/poll/n?room=r", "Host: h\r\n", since);
        let (mut out, mut seen, mut requests) = (poll.first_request(), Vec::new(), Vec::new());
        let mut is_accepted = false;
        for text in answers {
            requests.push(String::from_utf8(std::mem::take(&mut out)).unwrap());
            let mut tail = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                tail.extend_from_slice(bytes);
                let mut at = 0;
                loop {
                    let Step { used, item } = poll.next(&tail[at..], &mut out).unwrap();
                    at += used;
                    match item {
                        Item::NeedMore(_) => break,
                        Item::Accepted => assert!(!std::mem::replace(&mut is_accepted, true)),
                        Item::Message(message) => {
                            assert!(message.is_current && is_accepted);
                            let position = message.position().unwrap().to_owned();
                            seen.push((String::from_utf8(message.payload.to_vec()).unwrap(), position));
                        }
                        Item::Nothing => {}
                    }
                }
                tail.drain(..at);
            }
            assert_eq!(tail, b"", "everything is used");
        }
        (seen, requests)
    }

    fn batch(position: &str, messages: &str) -> String {
        let content = format!("{{\"position\":\"{position}\",\"messages\":[{messages}]}}\n");
        format!(
            "HTTP/1.1 200 OK\r\nStentor-Position: {position}\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        )
    }

    fn request(since: &str) -> String {
        format!("GET /poll/n?room=r&since={since} HTTP/1.1\r\nHost: h\r\n\r\n")
    }

    const EMPTY: &str = "HTTP/1.1 204 No Content\r\nStentor-Position: 0a:7\r\n\r\n";

    proptest! {
        #[test]
        fn any_split_equals_the_whole(piece in 1..200_usize) {
            let (gap, more) = (batch("0a:7", ""), batch("0a:9", "{\"text\":\"x\"},{\"text\":\"y\"}"));
            let answers = [&gap[..], EMPTY, &more];
            let whole = polled(None, &answers, usize::MAX);
            prop_assert_eq!(&whole, &polled(None, &answers, piece));
            prop_assert_eq!(&whole.1, &[request("none:0"), request("0a:7"), request("0a:7")]);
            let positions: Vec<_> = whole.0.iter().map(|(_, position)| &position[..]).collect();
            prop_assert_eq!(positions, ["0a:7", "0a:7", "0a:9"]);
            prop_assert!(whole.0[2].0.contains("\"y\"") && !whole.0[0].0.contains("messages"));
        }
    }

    #[test]
    fn a_client_that_resumes_polls_from_its_position() {
        let (now, missed) = (batch("0a:7", ""), batch("0a:7", "{\"text\":\"x\"}"));
        let (seen, requests) = polled(Some("0a:5"), &[&now, &missed, EMPTY], 50);
        assert_eq!(requests, [request("none:0"), request("0a:5"), request("0a:7")]);
        assert_eq!(seen.len(), 2, "the answer to the first poll is no message: {seen:?}");
        assert!(seen[0].0.contains("\"x\""));
    }

    #[test]
    fn a_client_that_has_missed_nothing_knows_it_at_once() {
        let (seen, requests) = polled(Some("0a:7"), &[&batch("0a:7", ""), EMPTY], 50);
        assert_eq!(requests, [request("none:0"), request("0a:7")]);
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn refusals() {
        let mut poll = Poll::new("/poll/n?room=r", "", None);
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno.";
        let ending = poll.next(refusal, &mut Vec::new()).unwrap_err();
        assert!(matches!(&ending, Ending::Failed(why) if why.contains("403 Forbidden: no.")), "{ending:?}");
        let strange = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!(poll.next(strange, &mut Vec::new()).is_err());
    }
}
