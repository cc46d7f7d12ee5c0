//! A client of HTTP/1.1 that reads answers one by one, and streams piece by piece.

use std::io::{Read, Write};

use super::{Server, Tcp};

/// One connection.
pub struct Http {
    pub stream: Tcp,
    buffer: Vec<u8>,
    /// The decoded content of a stream that is not consumed yet.
    content: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Http {
    pub fn connect(server: &Server) -> Self {
        Self { stream: server.raw(), buffer: Vec::new(), content: String::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("it reads");
    }

    /// Sends a request with these further lines, and reads the answer.
    pub fn ask(&mut self, line: &str, lines: &str, body: &str) -> Answer {
        self.send(&request(line, lines, body));
        self.answer()
    }

    /// Reads on. False: the server has closed the connection.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 4096];
        let len = self.stream.read(&mut piece).expect("an answer in time");
        self.buffer.extend_from_slice(&piece[..len]);
        len > 0
    }

    fn take(&mut self, len: usize) -> String {
        while self.buffer.len() < len {
            assert!(self.fill(), "the connection ended early");
        }
        String::from_utf8(self.buffer.drain(..len).collect()).expect("text")
    }

    /// What comes up to and with `end`.
    fn take_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|found| found == end.as_bytes()) {
                return self.take(at + end.len());
            }
            assert!(self.fill(), "the connection ended before {end:?}: {:?}", self.buffer);
        }
    }

    /// The head of the next answer.
    pub fn head(&mut self) -> Answer {
        let head = self.take_until("\r\n\r\n");
        let status = head[9..12].parse().expect("a status");
        Answer { status, head, body: String::new() }
    }

    /// The next answer, which has a length.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let len = answer.field("Content-Length").map_or(0, |len| len.parse().expect("a number"));
        if answer.status >= 200 && answer.status != 204 && answer.status != 304 {
            assert!(answer.field("Content-Length").is_some(), "{answer:?}");
        }
        answer.body = self.take(len);
        answer
    }

    /// The next chunk of a stream; `None`: it was the last one.
    pub fn chunk(&mut self) -> Option<String> {
        let line = self.take_until("\r\n");
        let len = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
        let chunk = self.take(len);
        assert_eq!(self.take(2), "\r\n");
        (len > 0).then_some(chunk)
    }

    /// The content of a chunked stream up to and with `end`.
    pub fn content_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.content.find(end) {
                return self.content.drain(..at + end.len()).collect();
            }
            let chunk = self.chunk().unwrap_or_else(|| panic!("it ended before {end:?}: {}", self.content));
            self.content.push_str(&chunk);
        }
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        while self.fill() {}
        let len = self.buffer.len();
        self.take(len)
    }
}

/// A request with these further lines. One with content has its length.
pub fn request(line: &str, lines: &str, body: &str) -> String {
    let has_length = !body.is_empty() || line.starts_with("POST");
    let length = if has_length { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    format!("{line} HTTP/1.1\r\nHost: h\r\n{lines}{length}\r\n{body}")
}
