//! Runs swarm, and a server with fault injection for it, written with tungstenite: one thread per client.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "tests fail by panicking, and use a part of this module"
)]

pub mod proxy;
pub mod server;
pub mod sockjs;

use std::io::{BufRead, BufReader, ErrorKind, Lines, Read, Write};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::{Message, WebSocket};

#[expect(clippy::disallowed_types, reason = "a blocking server, a thread for each client")]
pub type Listener = std::net::TcpListener;

/// The fault of the tenth publication, for one client that does not publish or for all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// One client does not receive it.
    Drop,
    /// One client receives it twice.
    Duplicate,
    /// One client receives it after the eleventh.
    Reorder,
    /// One client receives a Close frame after it.
    Close,
    /// No client receives it.
    Swallow,
    /// All clients receive it half a second late.
    Stall,
}

/// The number of clients that the server waits for before it delivers anything.
pub const CLIENTS: usize = 5;

const TENTH: usize = 10;

pub const STALL: Duration = Duration::from_millis(500);

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// Starts a server that broadcasts every message to `CLIENTS` clients, with TLS if there is a certificate.
/// Returns its address.
pub fn serve(fault: Fault, certificate: Option<Arc<ServerConfig>>) -> String {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(move || {
        let (published, messages) = channel();
        let mut members = Vec::new();
        for index in 0..CLIENTS {
            let (socket, _) = listener.accept().unwrap();
            let stream: Box<dyn Stream> = match &certificate {
                None => {
                    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    Box::new(socket)
                }
                Some(config) => {
                    let mut session = ServerConnection::new(Arc::clone(config)).unwrap();
                    let mut socket = socket;
                    while session.is_handshaking() {
                        session.complete_io(&mut socket).unwrap();
                    }
                    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    Box::new(StreamOwned::new(session, socket))
                }
            };
            let (sender, receiver) = channel();
            members.push(sender);
            let published = published.clone();
            // A handshake that does not arrive within the read timeout is continued.
            let mut attempt = tungstenite::accept(stream);
            let socket = loop {
                attempt = match attempt {
                    Ok(socket) => break socket,
                    Err(tungstenite::HandshakeError::Interrupted(middle)) => middle.handshake(),
                    Err(tungstenite::HandshakeError::Failure(error)) => panic!("{error}"),
                };
            };
            spawn(move || member(index, socket, &published, &receiver));
        }
        drop(published);
        deliver(fault, &messages, &members);
    });
    address
}

/// Delivers messages, each with the index of its publisher.
fn deliver(fault: Fault, messages: &Receiver<(usize, String)>, members: &[Sender<Message>]) {
    let mut tenth = None;
    for (number, (publisher, text)) in messages.iter().enumerate() {
        let victim = if publisher == 3 { 2 } else { 3 };
        let text = Message::text(format!("name: {text}"));
        if number == TENTH && fault == Fault::Stall {
            std::thread::sleep(STALL);
        }
        for (index, member) in members.iter().enumerate() {
            let copies = match fault {
                Fault::Drop | Fault::Reorder if index == victim && number == TENTH => 0,
                Fault::Swallow if number == TENTH => 0,
                Fault::Duplicate if index == victim && number == TENTH => 2,
                Fault::None | Fault::Drop | Fault::Duplicate | Fault::Reorder => 1,
                Fault::Close | Fault::Swallow | Fault::Stall => 1,
            };
            for _ in 0..copies {
                let _ = member.send(text.clone());
            }
        }
        match (fault, number) {
            (Fault::Reorder, TENTH) => tenth = Some(text),
            (Fault::Reorder, _) => drop(tenth.take().map(|tenth| members[victim].send(tenth))),
            (Fault::Close, TENTH) => drop(members[victim].send(Message::Close(None))),
            _ => {}
        }
    }
}

fn member(
    index: usize,
    mut socket: WebSocket<Box<dyn Stream>>,
    published: &Sender<(usize, String)>,
    next: &Receiver<Message>,
) {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let _ = published.send((index, text.to_string()));
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        while let Ok(message) = next.try_recv() {
            if socket.send(message).is_err() {
                return;
            }
        }
    }
}

/// Starts a server that accepts `count` clients, and leaves further handshakes without an answer. It reports
/// how each connection has ended: the code of the client's Close frame, or `None`.
pub fn serve_some(count: usize) -> (String, Receiver<Option<u16>>) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ended, ends) = channel();
    spawn(move || {
        for _ in 0..count {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            let ended = ended.clone();
            spawn(move || {
                let end = loop {
                    match socket.read() {
                        Ok(Message::Close(frame)) => break frame.map(|frame| frame.code.into()),
                        Ok(_) => {}
                        Err(_) => break None,
                    }
                };
                let _ = socket.flush();
                let _ = ended.send(end);
            });
        }
        let unanswered: Vec<_> = listener.incoming().collect();
        drop(unanswered);
    });
    (address, ends)
}

/// Starts a server that sends `response` to each request.
pub fn serve_responses(response: &'static [u8]) -> String {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(response);
        }
    });
    address
}

/// A self-signed certificate for 127.0.0.1, and its PEM.
pub fn certificate() -> (Arc<ServerConfig>, String) {
    certificate_of(&rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap())
}

/// A self-signed certificate, and its PEM.
pub fn certificate_of(parameters: &rcgen::CertificateParams) -> (Arc<ServerConfig>, String) {
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let cert = parameters.self_signed(&signing_key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), cert.pem())
}

/// Starts a thread.
#[expect(clippy::disallowed_methods, reason = "a test's own threads")]
pub fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

/// Runs swarm to its end.
pub fn swarm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swarm")).args(arguments).output().unwrap()
}

/// The exit code and the error message.
pub fn rejected(arguments: &[&str]) -> (Option<i32>, String) {
    let output = swarm(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    let sentence = error.lines().find(|line| line.starts_with("swarm: ")).unwrap_or(&error);
    (output.status.code(), sentence.to_owned())
}

/// The result of a run, and its exit code.
pub struct Run {
    pub json: serde_json::Value,
    pub code: Option<i32>,
    pub table: String,
}

impl Run {
    /// Runs swarm with `--json`.
    pub fn new(arguments: &[&str]) -> Self {
        Live::start(arguments).finish()
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        self.json["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {}", self.json["metrics"]))
    }

    /// The values of several metrics.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> [f64; N] {
        names.map(|name| self.metric(name))
    }
}

/// A run of swarm with `--json` that has not ended.
pub struct Live {
    process: Child,
    folder: tempfile::TempDir,
    lines: Lines<BufReader<ChildStderr>>,
    seen: Vec<String>,
}

impl Live {
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .args(arguments)
            .arg("--json")
            .arg(folder.path().join("result.json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, folder, lines, seen: Vec::new() }
    }

    /// Waits for a live line that contains `part`.
    pub fn wait_for(&mut self, part: &str) {
        loop {
            let Some(line) = self.lines.next() else { panic!("no {part:?} in {:?}", self.seen) };
            self.seen.push(line.unwrap());
            if self.seen.last().is_some_and(|line| line.contains(part)) {
                return;
            }
        }
    }

    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Run {
        self.seen.extend(self.lines.map(Result::unwrap));
        let output = self.process.wait_with_output().unwrap();
        let text = std::fs::read_to_string(self.folder.path().join("result.json"))
            .unwrap_or_else(|_| panic!("no result: {:?}", self.seen));
        let table = String::from_utf8(output.stdout).unwrap();
        Run { json: serde_json::from_str(&text).unwrap(), code: output.status.code(), table }
    }
}
