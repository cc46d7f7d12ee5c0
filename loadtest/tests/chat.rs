//! swarm against a server that misbehaves on purpose, written with tungstenite: each fault is found and counted exactly.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tungstenite::{Message, WebSocket};

#[expect(clippy::disallowed_types, reason = "a blocking server, a thread for each client")]
type Listener = std::net::TcpListener;
#[expect(clippy::disallowed_types, reason = "a blocking server, a thread for each client")]
type Stream = std::net::TcpStream;

/// What the server does with a publication for one client, before it goes out.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// Client 3 does not get the tenth publication.
    Drop,
    /// Client 3 gets the tenth publication twice.
    Duplicate,
    /// Client 3 gets the tenth publication after the eleventh.
    Reorder,
    /// Client 3 is closed with 1013 after the tenth publication.
    Close,
}

const CLIENTS: usize = 5;

/// Serves `CLIENTS` clients, each what any of them says; the address.
fn serve(fault: Fault) -> String {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(move || {
        let (said, hears) = channel::<String>();
        let mut members: Vec<Sender<Message>> = Vec::new();
        for index in 0..CLIENTS {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let socket = tungstenite::accept(stream).unwrap();
            let (sender, receiver) = channel();
            members.push(sender);
            let said = said.clone();
            spawn(move || member(socket, &said, &receiver.into_iter_ready(), index));
        }
        drop(said);
        for (number, text) in hears.iter().enumerate() {
            for (index, member) in members.iter().enumerate() {
                let text = Message::text(format!("someone: {text}"));
                let copies = match fault {
                    Fault::Drop if index == 3 && number == 10 => 0,
                    Fault::Duplicate if index == 3 && number == 10 => 2,
                    Fault::Reorder if index == 3 && number == 10 => 0,
                    Fault::None | Fault::Drop | Fault::Duplicate | Fault::Reorder | Fault::Close => 1,
                };
                for _ in 0..copies {
                    let _ = member.send(text.clone());
                }
            }
            if let (Fault::Reorder, 11) = (fault, number) {
                let _ = members[3].send(Message::text(TENTH.with(|tenth| tenth.borrow().clone())));
            }
            if number == 10 {
                TENTH.with(|tenth| tenth.replace(format!("someone: {text}")));
            }
            if let (Fault::Close, 10) = (fault, number) {
                let _ = members[3].send(Message::Close(None));
            }
        }
    });
    address
}

thread_local! {
    static TENTH: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// A receiver that is asked without waiting.
trait Ready {
    fn into_iter_ready(self) -> Box<dyn Fn() -> Option<Message> + Send>;
}

impl Ready for std::sync::mpsc::Receiver<Message> {
    fn into_iter_ready(self) -> Box<dyn Fn() -> Option<Message> + Send> {
        Box::new(move || self.try_recv().ok())
    }
}

fn member(
    mut socket: WebSocket<Stream>,
    said: &Sender<String>,
    next: &dyn Fn() -> Option<Message>,
    _index: usize,
) {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let _ = said.send(text.to_string());
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        while let Some(message) = next() {
            if socket.send(message).is_err() {
                return;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own threads")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

/// Lost, duplicated, reordered, clients left; and whether swarm was content.
fn swarm(fault: Fault) -> ([u64; 4], bool) {
    let address = serve(fault);
    let folder = std::env::temp_dir().join(format!("swarm-test-{}-{}", std::process::id(), fault as u8));
    let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .args(["chat", &format!("ws://{address}/ws/{{name}}"), "--clients", &CLIENTS.to_string()])
        .args(["--speakers", "1", "--rate", "100", "--duration", "500ms", "--handshakes", "1", "--json"])
        .arg(&folder)
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&folder)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    std::fs::remove_file(&folder).unwrap();
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    let count = |key: &str| result[key].as_u64().unwrap();
    assert!(count("said") >= 15, "{text}");
    ([count("lost"), count("duplicated"), count("reordered"), count("clients")], output.status.success())
}

#[test]
fn a_server_that_behaves() {
    assert_eq!(swarm(Fault::None), ([0, 0, 0, 5], true));
}

#[test]
fn one_lost_message() {
    assert_eq!(swarm(Fault::Drop), ([1, 0, 0, 5], false));
}

#[test]
fn one_doubled_message() {
    assert_eq!(swarm(Fault::Duplicate), ([0, 1, 0, 5], false));
}

#[test]
fn one_late_message() {
    assert_eq!(swarm(Fault::Reorder), ([0, 0, 1, 5], false));
}

#[test]
fn one_lost_client() {
    assert_eq!(swarm(Fault::Close), ([0, 0, 0, 4], false));
}

#[test]
fn mistakes_get_a_sentence() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_swarm")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["chat", "nonsense"]), (Some(2), "swarm: nonsense is no ws:// URL\n".to_owned()));
    let (code, error) = run(&["chat", "ws://127.0.0.1:1/"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("127.0.0.1:1") && error.contains("refused"), "{error}");
    assert_eq!(run(&["chat", "--size", "5"]).0, Some(2));
}
