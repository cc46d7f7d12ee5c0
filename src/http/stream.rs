//! Answers that go on: event streams (`text/event-stream`, HTML Standard §9.2.6, "Interpreting an event
//! stream") and streams of lines.

/// The two kinds of streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// Events.
    Events,
    /// Lines.
    Lines,
}

impl StreamKind {
    /// Appends a message, or several with a line each.
    pub fn message_into(self, out: &mut Vec<u8>, message: &[u8]) {
        match self {
            Self::Events => ServerEvent { data: Some(message), ..ServerEvent::default() }.write_into(out),
            Self::Lines => {
                out.extend_from_slice(message);
                out.push(b'\n');
            }
        }
    }
}

/// The media type.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// A comment, which every client ignores: it shows that the connection is alive.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// One event, or what sets the position without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerEvent<'a> {
    /// Its type; `None`: `message`. Has no line end.
    pub event: Option<&'a str>,
    /// What a client sends as `Last-Event-ID` when it reconnects. Has neither a line end nor NUL.
    pub id: Option<&'a str>,
    /// Its data; `None`: no event is dispatched, but the id is kept.
    pub data: Option<&'a [u8]>,
}

impl ServerEvent<'_> {
    /// Appends it. Data of several lines becomes a field for each: CR, LF and CR LF are all line ends, and
    /// arrive as LF.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let mut field = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.push(b'\n');
        };
        if let Some(event) = self.event {
            field("event", event.as_bytes());
        }
        if let Some(id) = self.id {
            field("id", id.as_bytes());
        }
        let mut rest = self.data;
        while let Some(data) = rest {
            let end = memchr::memchr2(b'\r', b'\n', data).unwrap_or(data.len());
            field("data", &data[..end]);
            rest = match &data[end..] {
                [] => None,
                [b'\r', b'\n', after @ ..] | [_, after @ ..] => Some(after),
            };
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: ServerEvent<'_>, expected: &str) {
        let mut out = Vec::new();
        event.write_into(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn messages() {
        let message = |kind: StreamKind, message: &[u8]| {
            let mut out = Vec::new();
            kind.message_into(&mut out, message);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(message(StreamKind::Lines, b"{}\n[]"), "{}\n[]\n");
        assert_eq!(message(StreamKind::Events, b"{}\n[]"), "data: {}\ndata: []\n\n");
    }

    #[test]
    fn events() {
        let data = |data: &'static str| ServerEvent { data: Some(data.as_bytes()), ..ServerEvent::default() };
        check(data("hi"), "data: hi\n\n");
        check(data(""), "data: \n\n");
        check(data(" a"), "data:  a\n\n");
        check(data("a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
        let whole = ServerEvent { event: Some("notice"), id: Some("e:1"), ..data("{}") };
        check(whole, "event: notice\nid: e:1\ndata: {}\n\n");
        check(ServerEvent { id: Some("e:0"), ..ServerEvent::default() }, "id: e:0\n\n");
    }
}
