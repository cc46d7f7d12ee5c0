//! Who somebody is, through the running server: tokens, and a back end that is asked.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::Signal;
use support::{Server, Tcp, close_code, stentor, text};
use tungstenite::{Message, WebSocket};

const SECRET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/secret");

fn file(content: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let path = file.path().display().to_string();
    (file, path)
}

fn token(arguments: &[&str]) -> String {
    let make = ["token", "make", "--token-hmac-secret-files", SECRET];
    let output = stentor().args(make).args(arguments).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Sends one command of the JSON protocol.
fn connect(server: &Server, command: &str) -> WebSocket<Tcp> {
    let mut client = server.client("/connection/websocket");
    client.send(Message::text(command)).unwrap();
    client
}

#[test]
fn tokens_open_the_door() {
    let settings = ["--auth", "token", "--token-hmac-secret-files", SECRET];
    let server = Server::start(&settings);
    let with = |token: &str| connect(&server, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#));
    let reply = text(&mut with(&token(&["--user", "7", "--name", "Ann"])));
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    assert!(reply.contains(r#""expires":true,"ttl":3"#), "{reply}");
    let reply = text(&mut with(&token(&["--user", "7", "--expires", "0s"])));
    assert!(reply.contains(r#""error":{"code":109,"#), "{reply}");
    assert_eq!(close_code(&mut with("a.b.c")), 3500);
    assert_eq!(
        close_code(&mut with(&token(&["--user", "7", "--room", "r"]))),
        3500,
        "one for a room opens no door"
    );
    assert_eq!(close_code(&mut connect(&server, r#"{"id":1,"connect":{}}"#)), 3501);
}

#[test]
fn a_reload_changes_the_keys() {
    let (other, other_path) = file(&"another secret ".repeat(3));
    let (config, path) = file(&format!("auth = \"token\"\ntoken_hmac_secret_files = [{other_path:?}]\n"));
    let mut server = Server::start(&["--config", &path]);
    let command = format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, token(&["--user", "7"]));
    assert_eq!(close_code(&mut connect(&server, &command)), 3500);
    std::fs::write(config.path(), format!("auth = \"token\"\ntoken_hmac_secret_files = [{SECRET:?}]\n"))
        .unwrap();
    server.signal(Signal::HUP);
    server.log_line("\"reloaded\"");
    // The shards hear of it before they hear of whoever comes after that line.
    let reply = text(&mut connect(&server, &command));
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    drop(other);
}

/// A back end that gives one answer to everybody, and says what it was asked.
fn backend(answer: &'static str) -> (String, Receiver<String>) {
    #[expect(clippy::disallowed_types, reason = "a back end for tests")]
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, asked) = channel();
    let serve = move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.write_all((head + answer).as_bytes()).unwrap();
            if sender.send(String::from_utf8(body).unwrap()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    (url, asked)
}

#[test]
fn a_back_end_says_who_somebody_is() {
    let (url, asked) = backend(r#"{"result":{"user":"7","info":{"name":"Ann"}}}"#);
    let server = Server::start(&["--auth", "hook", "--hook-url", &url]);
    let mut client = connect(&server, r#"{"id":1,"connect":{"data":{"name":"ann","a":1}}}"#);
    let reply = text(&mut client);
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    let question = asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(question.contains(r#""protocol":"json""#) && question.contains(r#""name":"ann""#), "{question}");
    assert!(question.ends_with(r#""data":{"name":"ann","a":1}}"#), "{question}");
    client.send(Message::text(r#"{"id":2,"subscribe":{"channel":"r"}}"#)).unwrap();
    text(&mut client);
    client.send(Message::text(r#"{"id":3,"presence":{"channel":"r"}}"#)).unwrap();
    let present = loop {
        let text = text(&mut client);
        if text.contains(r#""id":3"#) {
            break text;
        }
    };
    assert!(present.contains(r#""user":"7""#) && present.contains(r#"{"name":"Ann"}"#), "{present}");
}

#[test]
fn whom_the_back_end_turns_away() {
    let (url, _asked) = backend(r#"{"disconnect":{"code":4501,"reason":"banned"}}"#);
    let (config, path) = file(&format!("auth = \"hook\"\nhook_url = {url:?}\n"));
    let mut server = Server::start(&["--config", &path]);
    assert_eq!(close_code(&mut connect(&server, r#"{"id":1,"connect":{}}"#)), 4501);
    // Nobody listens at port 1: it is refused at once.
    std::fs::write(config.path(), "auth = \"hook\"\nhook_url = \"http://127.0.0.1:1/\"\n").unwrap();
    server.signal(Signal::HUP);
    server.log_line("\"reloaded\"");
    let reply = text(&mut connect(&server, r#"{"id":1,"connect":{}}"#));
    assert!(reply.contains(r#""error":{"code":100,"#) && reply.contains(r#""temporary":true"#), "{reply}");
    server.log_line("the hook does not answer as it should");
}
