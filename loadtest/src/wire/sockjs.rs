//! A session of `SockJS`: messages come as frames in one response after the other (`xhr_streaming`), and go
//! out as requests of their own (`xhr_send`).

use std::collections::VecDeque;

use super::cause;
use super::channel::{Ending, Item, Message, Step};
use super::http::{CONTENT_BYTES_MAX, Content, Framing, Piece, response_head};

/// A session, from its first response on. The server ends a response when it is long enough, and the next
/// request goes on with the session.
#[derive(Debug)]
pub struct SockJs {
    /// The request for a response with frames.
    request: Box<str>,
    /// The content of the present response; `None` before its head.
    content: Option<Content>,
    /// The connection ends with the present response.
    closes: bool,
    /// The first response has begun.
    is_accepted: bool,
    /// A frame of which a part has arrived.
    partial: Vec<u8>,
    /// Messages of one frame that are not given out yet.
    messages: VecDeque<String>,
}

impl SockJs {
    /// A new session. The request's target is `path`; `fields` are its fields with their line ends.
    pub fn new(path: &str, fields: &str) -> Self {
        Self {
            request: format!("POST {path} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n").into(),
            content: None,
            closes: false,
            is_accepted: false,
            partial: Vec::new(),
            messages: VecDeque::new(),
        }
    }

    /// The first request of a connection.
    pub fn first_request(&self) -> Vec<u8> {
        self.request.as_bytes().to_vec()
    }

    /// Decodes the next item at the front of `bytes`; appends the next request to `out` when a response has
    /// ended, unless the connection ends with it.
    ///
    /// # Errors
    /// The server has closed the session, or has broken the protocol.
    pub fn next<'b>(&mut self, bytes: &'b [u8], out: &mut Vec<u8>) -> Result<Step<'b>, Ending> {
        let mut used = 0;
        loop {
            if let Some(text) = self.messages.pop_front() {
                let payload = text.into_bytes().into();
                let item = Item::Message(Message { payload, position: None, is_current: false });
                return Ok(Step { used, item });
            }
            let rest = &bytes[used..];
            let Some(content) = &mut self.content else {
                let Some(head) = response_head(rest).map_err(Ending::Failed)? else {
                    return Ok(Step { used, item: Item::NeedMore(0) });
                };
                if head.status != 200 || head.framing == Framing::Length(0) {
                    return Err(Ending::Failed(cause::refused(&head, &rest[head.len..])));
                }
                (self.content, self.closes) = (Some(Content::new(head.framing)), head.closes);
                used += head.len;
                if std::mem::replace(&mut self.is_accepted, true) {
                    continue;
                }
                return Ok(Step { used, item: Item::Accepted });
            };
            match content.next(rest).map_err(Ending::Failed)? {
                Piece::NeedMore => return Ok(Step { used, item: Item::NeedMore(0) }),
                Piece::Coding(len) => used += len,
                Piece::End => {
                    self.content = None;
                    if self.closes {
                        return Err(Ending::Reopen);
                    }
                    out.extend_from_slice(self.request.as_bytes());
                }
                Piece::Data(len) => {
                    let end = memchr::memchr(b'\n', &rest[..len]);
                    let len = end.map_or(len, |end| end + 1);
                    content.take(len);
                    used += len;
                    self.partial.extend_from_slice(&rest[..len]);
                    if end.is_some() {
                        let frame = std::mem::take(&mut self.partial);
                        self.frame(frame.trim_ascii_end())?;
                    } else if self.partial.len() > CONTENT_BYTES_MAX {
                        return Err(Ending::Failed("the server sent a frame of more than 16 MiB".to_owned()));
                    }
                }
            }
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Ending> {
        let wrong = || {
            let text = String::from_utf8_lossy(&frame[..frame.len().min(80)]);
            Ending::Failed(format!("the server sent a frame that SockJS does not have: {text}"))
        };
        match frame {
            // Of the session's beginning, a heartbeat, or what a response is padded with.
            [] | [b'o'] | [b'h', ..] => Ok(()),
            [b'a', array @ ..] => {
                self.messages = serde_json::from_slice(array).map_err(|_| wrong())?;
                Ok(())
            }
            [b'c', array @ ..] => {
                let (code, reason): (u16, String) = serde_json::from_slice(array).map_err(|_| wrong())?;
                Err(Ending::Closed(format!("the server closed with {code} {reason}").trim_end().to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

/// The content of a request that sends `text`.
pub fn content_of(text: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&[String::from_utf8_lossy(text)]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the client of these bytes receives, its further requests, and how it ends.
    fn decoded(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, usize, Option<Ending>) {
        let mut session = SockJs::new("/sockjs/0/a/xhr_streaming", "");
        let (mut seen, mut out, mut tail, mut from) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut ending = None;
        'pieces: for &to in cuts.iter().chain(&[bytes.len()]) {
            tail.extend_from_slice(&bytes[from..to]);
            from = to;
            let mut at = 0;
            loop {
                match session.next(&tail[at..], &mut out) {
                    Ok(Step { used, item }) => {
                        at += used;
                        match item {
                            Item::NeedMore(_) => break,
                            Item::Message(message) => {
                                seen.push(String::from_utf8(message.payload.to_vec()).unwrap());
                            }
                            Item::Accepted | Item::Nothing => {}
                        }
                    }
                    Err(why) => {
                        ending = Some(why);
                        break 'pieces;
                    }
                }
            }
            tail.drain(..at);
        }
        (seen, out.len() / session.first_request().len(), ending)
    }

    fn response(frames: &[String]) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for frame in frames {
            bytes.extend_from_slice(format!("{:x}\r\n{frame}\n\r\n", frame.len() + 1).as_bytes());
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    proptest! {
        #[test]
        fn any_split_equals_the_whole(
            texts in prop::collection::vec(".{0,20}", 1..10),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let frame = |texts: &[String]| format!("a{}", serde_json::to_string(texts).unwrap());
            let (first, second) = texts.split_at(texts.len() / 2);
            let prelude = "h".repeat(2048);
            let bytes = [
                response(&[prelude.clone(), "o".to_owned(), frame(first)]),
                response(&[prelude, frame(second), "h".to_owned()]),
            ]
            .concat();
            cuts.sort_by_key(|cut| cut.index(bytes.len()));
            let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            prop_assert_eq!(decoded(&bytes, &cuts), (texts, 2, None));
        }
    }

    #[test]
    fn the_server_closes() {
        let (_, _, ending) = decoded(&response(&["o".to_owned(), "c[3000,\"Go away!\"]".to_owned()]), &[]);
        assert_eq!(ending, Some(Ending::Closed("the server closed with 3000 Go away!".to_owned())));
        let last = String::from_utf8(response(&["o".to_owned()])).unwrap();
        let last = last.replace("chunked", "chunked\r\nConnection: close");
        assert_eq!(decoded(last.as_bytes(), &[]), (Vec::new(), 0, Some(Ending::Reopen)));
        let (_, _, ending) = decoded(&response(&["x".to_owned()]), &[]);
        assert!(matches!(ending, Some(Ending::Failed(_))), "{ending:?}");
        let (_, _, ending) = decoded(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", &[]);
        assert!(matches!(ending, Some(Ending::Failed(_))), "{ending:?}");
    }

    #[test]
    fn a_text_is_sent_as_an_array() {
        assert_eq!(content_of(b"a \"b\""), br#"["a \"b\""]"#);
    }
}
