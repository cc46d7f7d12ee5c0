//! Runs swarm, and a server with fault injection for it, written with tungstenite: one thread per client.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "tests fail by panicking, and use a part of this module"
)]

pub mod server;

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::{Message, WebSocket};

#[expect(clippy::disallowed_types, reason = "a blocking server, a thread for each client")]
type Listener = std::net::TcpListener;

/// The fault of the tenth publication, for client 3 or for all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Client 3 does not receive it.
    Drop,
    /// Client 3 receives it twice.
    Duplicate,
    /// Client 3 receives it after the eleventh.
    Reorder,
    /// Client 3 receives a Close frame after it.
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
        let (published, messages) = channel::<String>();
        let mut members = Vec::new();
        for _ in 0..CLIENTS {
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
            spawn(move || member(socket, &published, &receiver));
        }
        drop(published);
        deliver(fault, &messages, &members);
    });
    address
}

fn deliver(fault: Fault, messages: &Receiver<String>, members: &[Sender<Message>]) {
    let mut tenth = None;
    for (number, text) in messages.iter().enumerate() {
        let text = Message::text(format!("name: {text}"));
        if number == TENTH && fault == Fault::Stall {
            std::thread::sleep(STALL);
        }
        for (index, member) in members.iter().enumerate() {
            let copies = match fault {
                Fault::Drop | Fault::Reorder if index == 3 && number == TENTH => 0,
                Fault::Swallow if number == TENTH => 0,
                Fault::Duplicate if index == 3 && number == TENTH => 2,
                Fault::None | Fault::Drop | Fault::Duplicate | Fault::Reorder => 1,
                Fault::Close | Fault::Swallow | Fault::Stall => 1,
            };
            for _ in 0..copies {
                let _ = member.send(text.clone());
            }
        }
        match (fault, number) {
            (Fault::Reorder, TENTH) => tenth = Some(text),
            (Fault::Reorder, _) => drop(tenth.take().map(|tenth| members[3].send(tenth))),
            (Fault::Close, TENTH) => drop(members[3].send(Message::Close(None))),
            _ => {}
        }
    }
}

fn member(mut socket: WebSocket<Box<dyn Stream>>, published: &Sender<String>, next: &Receiver<Message>) {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let _ = published.send(text.to_string());
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

/// A self-signed certificate for 127.0.0.1, and its PEM.
pub fn certificate() -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.cert.pem())
}

#[expect(clippy::disallowed_methods, reason = "a test's own threads")]
fn spawn(work: impl FnOnce() + Send + 'static) {
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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let output = swarm(&[arguments, &["--json", path.to_str().unwrap()]].concat());
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
        let table = String::from_utf8(output.stdout).unwrap();
        Self { json: serde_json::from_str(&text).unwrap(), code: output.status.code(), table }
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
