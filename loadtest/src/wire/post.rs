//! Messages that are published by request, on a keep-alive connection of their own. Requests do not wait for
//! the answers to earlier ones, which have the same order (RFC 9112 §9.3.2).

use super::cause;
use super::http::answer;
use super::sockjs;

/// The status with which a server closes an idle connection.
const IDLE: u16 = 408;

/// What the content of a request is made of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostFormat {
    /// The message itself.
    Text,
    /// An array with the message, as `SockJS` has it.
    Array,
}

/// The requests of one publisher.
#[derive(Debug)]
pub struct Posts {
    /// A request up to its length.
    head: Box<str>,
    format: PostFormat,
    /// Requests that are not answered.
    unanswered: u32,
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Posted {
    /// The message is published.
    Accepted,
    /// It is not, for this reason.
    Refused(String),
    /// Nothing was requested, for so long that the server closes the connection (408, RFC 9110 §15.5.9).
    Idle,
}

impl Posts {
    /// No request yet. Their target is `path`; `fields` are their fields with their line ends.
    pub fn new(path: &str, fields: &str, format: PostFormat) -> Self {
        let head = format!("POST {path} HTTP/1.1\r\n{fields}Content-Length: ").into();
        Self { head, format, unanswered: 0 }
    }

    /// Appends a request that publishes `message`.
    pub fn encode(&mut self, out: &mut Vec<u8>, message: &[u8]) {
        let array;
        let content = match self.format {
            PostFormat::Text => message,
            PostFormat::Array => {
                array = sockjs::content_of(message);
                &array
            }
        };
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(content.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(content);
        self.unanswered += 1;
    }

    /// How many requests are not answered.
    pub const fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Decodes the answer at the front of `bytes`, and its length; `None`: it is incomplete.
    ///
    /// # Errors
    /// One sentence: it is no answer.
    pub fn answered(&mut self, bytes: &[u8]) -> Result<Option<(Posted, usize)>, String> {
        let answer = match answer(bytes) {
            Ok(answer) => answer,
            Err(Ok(_)) => return Ok(None),
            Err(Err(why)) => return Err(why),
        };
        if self.unanswered == 0 {
            if answer.head.status == IDLE {
                return Ok(Some((Posted::Idle, answer.len)));
            }
            return Err(cause::refused(&answer.head, &answer.content));
        }
        self.unanswered -= 1;
        let posted = match answer.head.status {
            200..=299 => Posted::Accepted,
            _ => Posted::Refused(cause::refused(&answer.head, &answer.content)),
        };
        Ok(Some((posted, answer.len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_their_answers() {
        let mut posts = Posts::new("/send/n?room=r", "Host: h\r\n", PostFormat::Text);
        let mut out = Vec::new();
        for text in [&b"hi"[..], b"there"] {
            posts.encode(&mut out, text);
        }
        let expected = "POST /send/n?room=r HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi\
                        POST /send/n?room=r HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nthere";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let answers = b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 429 Slow\r\nContent-Length: 3\r\n\r\nno.";
        assert_eq!(posts.answered(&answers[..20]), Ok(None));
        let Ok(Some((Posted::Accepted, len))) = posts.answered(answers) else { panic!("{posts:?}") };
        let Ok(Some((Posted::Refused(why), _))) = posts.answered(&answers[len..]) else {
            panic!("{posts:?}")
        };
        assert!(why.contains("429 Slow: no."), "{why}");
        assert_eq!(posts.unanswered(), 0);
        assert!(posts.answered(answers).is_err(), "nothing was asked");
        let idle = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(posts.answered(idle), Ok(Some((Posted::Idle, idle.len()))));
    }

    #[test]
    fn an_array_of_one_message() {
        let (mut posts, mut out) = (Posts::new("/x", "", PostFormat::Array), Vec::new());
        posts.encode(&mut out, b"hi");
        assert!(out.ends_with(b"Content-Length: 6\r\n\r\n[\"hi\"]"));
    }
}
