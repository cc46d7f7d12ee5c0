//! A server of `SockJS` sessions without WebSocket, with one room in which the plain text protocol is spoken:
//! a thread for each connection. A response is ended after so many bytes, and a session goes on in the next
//! one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Listener, spawn};

#[expect(clippy::disallowed_types, reason = "a blocking server, a thread for each connection")]
type Stream = std::net::TcpStream;

/// After so many bytes of frames a response ends.
const RESPONSE_BYTES: usize = 4096;

/// How often a connection that waits is checked.
const CHECK: Duration = Duration::from_millis(10);

const EPOCH: &str = "0000002a";

/// A session.
struct Session {
    name: String,
    /// The messages that it has been sent.
    cursor: usize,
}

#[derive(Default)]
struct Room {
    messages: Vec<String>,
    sessions: BTreeMap<String, Session>,
    /// Responses that were ended because they were long enough.
    ended: usize,
}

/// A running server.
pub struct SockJsServer {
    pub url: String,
    shared: Arc<(Mutex<Room>, Condvar)>,
}

impl SockJsServer {
    /// `closes`: a connection ends with its response.
    pub fn start(closes: bool) -> Self {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<(Mutex<Room>, Condvar)>::default();
        let rooms = Arc::clone(&shared);
        spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&rooms);
                spawn(move || serve(&socket, &shared, closes));
            }
        });
        Self { url, shared }
    }

    /// How many responses were ended because they were long enough.
    pub fn ended(&self) -> usize {
        self.shared.0.lock().unwrap().ended
    }
}

/// The value of a parameter in a query.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Serves the requests of one connection.
fn serve(socket: &Stream, shared: &(Mutex<Room>, Condvar), closes: bool) {
    socket.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut own = None;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(1..)) {
                own.map(|session: String| shared.0.lock().unwrap().sessions.remove(&session));
                return;
            }
        }
        let target = head.split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let [_, "sockjs", "000", session, kind] = path.split('/').collect::<Vec<_>>()[..] else { return };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut content = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut content).unwrap();
        let is_alive = if kind == "xhr_send" {
            post(socket, shared, session, &content).is_ok()
        } else {
            own = Some(session.to_owned());
            stream(socket, shared, session, query, closes).is_ok()
        };
        if is_alive && closes && kind != "xhr_send" {
            return;
        }
        if !is_alive {
            own.map(|session| shared.0.lock().unwrap().sessions.remove(&session));
            return;
        }
    }
}

fn post(
    mut socket: &Stream,
    (room, changed): &(Mutex<Room>, Condvar),
    session: &str,
    content: &[u8],
) -> std::io::Result<()> {
    let texts: Vec<String> = serde_json::from_slice(content).unwrap();
    let mut room = room.lock().unwrap();
    let Some(Session { name, .. }) = room.sessions.get(session) else {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let name = name.clone();
    room.messages.extend(texts.iter().map(|text| format!("{name}: {text}")));
    changed.notify_all();
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
}

/// Sends frames until the response is long enough, or the client has gone.
fn stream(
    socket: &Stream,
    (room, changed): &(Mutex<Room>, Condvar),
    session: &str,
    query: &str,
    closes: bool,
) -> std::io::Result<()> {
    let mut chunks = socket.try_clone()?;
    let mut chunk = |frame: &str| {
        let bytes = format!("{:x}\r\n{frame}\n\r\n", frame.len() + 1);
        chunks.write_all(bytes.as_bytes()).map(|()| bytes.len())
    };
    let connection = if closes { "close" } else { "keep-alive" };
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: {connection}\r\n\r\n");
    let mut out = socket.try_clone()?;
    out.write_all(head.as_bytes())?;
    chunk(&"h".repeat(2048))?;
    let mut room = room.lock().unwrap();
    if !room.sessions.contains_key(session) {
        chunk("o")?;
        let end = room.messages.len();
        let since = parameter(query, "since").and_then(|since| since.split_once(':'));
        let cursor =
            since.map_or(end, |(epoch, offset)| if epoch == EPOCH { offset.parse().unwrap() } else { end });
        let mut texts = room.messages[cursor..].to_vec();
        texts.push(format!(": since={EPOCH}:{end}"));
        chunk(&format!("a{}", serde_json::to_string(&texts).unwrap()))?;
        let name = parameter(query, "name").unwrap().to_owned();
        room.sessions.insert(session.to_owned(), Session { name, cursor: end });
    }
    let mut sent = 0;
    while sent < RESPONSE_BYTES {
        let cursor = room.sessions[session].cursor;
        if cursor < room.messages.len() {
            let frame = format!("a{}", serde_json::to_string(&room.messages[cursor..]).unwrap());
            let end = room.messages.len();
            room.sessions.get_mut(session).unwrap().cursor = end;
            sent += chunk(&frame)?;
            continue;
        }
        room = changed.wait_timeout(room, CHECK).unwrap().0;
        out.set_nonblocking(true)?;
        let found = out.peek(&mut [0]);
        out.set_nonblocking(false)?;
        match found {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return Err(ErrorKind::ConnectionReset.into()),
        }
    }
    room.ended += 1;
    out.write_all(b"0\r\n\r\n")
}
