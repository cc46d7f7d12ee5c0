//! Authentication, through the running server: tokens, and an auth backend.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use support::{SECRET, Server, Tcp, close_code, file, key, text, token};
use tungstenite::{Message, WebSocket};

/// Sends one command of the JSON protocol.
fn connect(server: &Server, command: &str) -> WebSocket<Tcp> {
    let mut client = server.client("/connection/websocket");
    client.send(Message::text(command)).unwrap();
    client
}

#[test]
fn tokens_authenticate_clients() {
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

/// A token whose claims the program's own `token make` would not write.
fn sign(claims: &Value) -> String {
    let secret = std::fs::read_to_string(SECRET).unwrap();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.trim_end().as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn connect_with(server: &Server, claims: &Value) -> WebSocket<Tcp> {
    connect(server, &json!({"id": 1, "connect": {"token": sign(claims)}}).to_string())
}

/// The reply with this id; what comes before it is passed over.
fn reply_to(client: &mut WebSocket<Tcp>, id: u64) -> Value {
    loop {
        let frame = text(client);
        let mut lines = frame.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(reply) = lines.find(|reply| reply["id"] == id) {
            return reply;
        }
    }
}

/// A room that was named twice was entered twice: the process ended when another member left.
#[test]
fn a_room_that_is_named_twice_is_joined_once() {
    let server = Server::start(&["--auth", "token", "--token-hmac-secret-files", SECRET, "--shards", "2"]);
    let mut other = connect_with(&server, &json!({"sub": "8", "channels": ["a"]}));
    reply_to(&mut other, 1);
    let claims = json!({"sub": "7", "channels": ["a", "a"], "subs": {"a": {"info": {"role": "mod"}, "data": {"topic": "tea"}}}});
    let mut client = connect_with(&server, &claims);
    let reply = reply_to(&mut client, 1);
    let subs = reply["connect"]["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(subs["a"]["data"], json!({"topic": "tea"}));
    client.send(Message::text(r#"{"id":2,"presence":{"channel":"a"}}"#)).unwrap();
    let presence = reply_to(&mut client, 2)["presence"]["presence"].clone();
    let present = presence.as_object().unwrap();
    assert_eq!(present.len(), 2, "{presence}");
    let own = present.values().find(|member| member["user"] == "7").unwrap();
    assert_eq!(own["chan_info"], json!({"role": "mod"}));
    other.close(None).unwrap();
    while other.read().is_ok() {}
    client.send(Message::text(r#"{"id":3,"publish":{"channel":"a","data":1}}"#)).unwrap();
    let mut publications = 0;
    client.send(Message::text(r#"{"id":4,"presence_stats":{"channel":"a"}}"#)).unwrap();
    let stats = loop {
        let frame = text(&mut client);
        publications += frame.matches(r#""pub":"#).count();
        if let Some(line) = frame.lines().find(|line| line.contains(r#""id":4"#)) {
            break serde_json::from_str::<Value>(line).unwrap();
        }
    };
    assert_eq!(stats["presence_stats"], json!({"num_clients": 1, "num_users": 1}));
    assert!(publications <= 1, "once");
}

#[test]
fn a_room_token_brings_data() {
    let server = Server::start(&["--auth", "token", "--token-hmac-secret-files", SECRET]);
    let mut client = connect_with(&server, &json!({"sub": "7"}));
    reply_to(&mut client, 1);
    let token = sign(&json!({"sub": "7", "channel": "r", "info": {"role": "mod"}, "data": {"pinned": 3}}));
    client
        .send(Message::text(json!({"id": 2, "subscribe": {"channel": "r", "token": token}}).to_string()))
        .unwrap();
    assert_eq!(reply_to(&mut client, 2)["subscribe"]["data"], json!({"pinned": 3}));
    let token = sign(&json!({"sub": "7", "channel": "s", "override": {"max_rate": {"value": true}}}));
    client
        .send(Message::text(json!({"id": 3, "subscribe": {"channel": "s", "token": token}}).to_string()))
        .unwrap();
    assert_eq!(reply_to(&mut client, 3)["error"]["code"], 103);
}

#[test]
fn token_claims_and_times() {
    let mut server =
        Server::start(&["--auth", "token", "--token-hmac-secret-files", SECRET, "--log", "debug"]);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let many: Vec<_> = (0..129).map(|number| format!("r{number}")).collect();
    for (claims, why) in [
        (json!({"channels": ["a", null]}), "`channels` has an entry that is null"),
        (json!({"channels": many}), "129 rooms are named, and a client may be in 128"),
        (json!({"subs": {"a": {"expire_at": 5}}}), "`expire_at`"),
        (json!({"caps": [{"channels": ["a"]}]}), "`caps`"),
        (json!({"exp": -1}), "`exp` is no point of time"),
    ] {
        assert_eq!(close_code(&mut connect_with(&server, &claims)), 3500, "{claims}");
        let line = server.log_line("invalid token");
        assert!(line.contains(why), "{why}: {line}");
    }
    for early in [json!({"sub": "7", "nbf": now + 60}), json!({"sub": "7", "iat": now + 60})] {
        assert_eq!(reply_to(&mut connect_with(&server, &early), 1)["error"]["code"], 109, "{early}");
    }
    for fine in [
        json!({"sub": "7", "nbf": now + 2, "iat": now + 2}),
        json!({"sub": "7", "info": null, "channels": null, "subs": null, "exp": null}),
        json!({"sub": "7", "exp": (now + 60).to_string()}),
    ] {
        assert!(reply_to(&mut connect_with(&server, &fine), 1)["connect"]["client"].is_string(), "{fine}");
    }
    let far =
        reply_to(&mut connect_with(&server, &json!({"sub": "7", "exp": 1_000_000_000_000_000_000_u64})), 1);
    assert_eq!(far["connect"]["ttl"], 365 * 24 * 60 * 60);
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
    server.log_line("configuration reloaded");
    // The shards take the reload before they take connections that come after that line.
    let reply = text(&mut connect(&server, &command));
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    drop(other);
}

/// An auth backend that gives one answer to every request, and returns the requests. With TLS it has a
/// certificate that only `hook-ca.pem` vouches for.
fn backend(tls: bool, answer: &'static str) -> (String, Receiver<String>) {
    #[expect(clippy::disallowed_types, reason = "a back end for tests")]
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http{}://{}/", if tls { "s" } else { "" }, listener.local_addr().unwrap());
    let (sender, asked) = channel();
    let config = tls.then(certified);
    let serve = move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let auth_request = match &config {
                Some(config) => {
                    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                    let mut stream = StreamOwned::new(connection, stream);
                    let auth_request = answered(&mut stream, answer);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                    auth_request
                }
                None => answered(&mut stream, answer),
            };
            if auth_request.is_ok_and(|auth_request| sender.send(auth_request).is_err()) {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    (url, asked)
}

fn certified() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificate = CertificateDer::from_pem_file(key("hook.pem")).unwrap();
    let private = PrivateKeyDer::from_pem_file(key("hook.key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], private).unwrap())
}

/// Reads one request and answers it; returns its body.
fn answered(stream: &mut (impl Read + Write), answer: &str) -> std::io::Result<String> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let len = stream.read(&mut piece)?;
        request.extend_from_slice(&piece[..len]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if len == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.is_some_and(|length| body.len() >= length.parse().unwrap()) {
            let length = answer.len();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + answer).as_bytes())?;
            return Ok(body.to_owned());
        }
    }
}

#[test]
fn an_auth_backend_authenticates_clients() {
    let (url, asked) =
        backend(false, r#"{"result":{"user":"7","info":{"name":"Ann"},"data":{"since": 2026}}}"#);
    let server = Server::start(&["--auth", "hook", "--hook-url", &url]);
    let mut client = connect(&server, r#"{"id":1,"connect":{"data":{"name":"ann","a":1}}}"#);
    let reply = text(&mut client);
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    assert!(reply.contains(r#""data":{"since":2026}"#), "{reply}");
    let auth_request = asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(
        auth_request.contains(r#""protocol":"json""#) && auth_request.contains(r#""name":"ann""#),
        "{auth_request}"
    );
    assert!(auth_request.ends_with(r#""data":{"name":"ann","a":1}}"#), "{auth_request}");
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

/// On the default listener, which is of both families, an IPv4 peer comes as `::ffff:127.0.0.1`.
#[test]
fn the_auth_backend_receives_the_peer_address() {
    let (url, asked) = backend(false, r#"{"result":{"user":"7"}}"#);
    let mut command = support::stentor();
    command.args([
        "serve",
        "--listen",
        "[::]:0",
        "--log-format",
        "json",
        "--auth",
        "hook",
        "--hook-url",
        &url,
    ]);
    let mut server = Server::from(command);
    server.address = ([127, 0, 0, 1], server.address.port()).into();
    text(&mut connect(&server, r#"{"id":1,"connect":{}}"#));
    let auth_request = asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(auth_request.contains(r#""address":"127.0.0.1""#), "{auth_request}");
}

#[test]
fn clients_rejected_by_the_auth_backend() {
    let (url, _asked) = backend(false, r#"{"disconnect":{"code":4501,"reason":"banned"}}"#);
    let (config, path) = file(&format!("auth = \"hook\"\nhook_url = {url:?}\n"));
    let mut server = Server::start(&["--config", &path]);
    assert_eq!(close_code(&mut connect(&server, r#"{"id":1,"connect":{}}"#)), 4501);
    // Nothing listens at port 1: it is refused at once.
    std::fs::write(config.path(), "auth = \"hook\"\nhook_url = \"http://127.0.0.1:1/\"\n").unwrap();
    server.signal(Signal::HUP);
    server.log_line("configuration reloaded");
    let reply = text(&mut connect(&server, r#"{"id":1,"connect":{}}"#));
    assert!(reply.contains(r#""error":{"code":100,"#) && reply.contains(r#""temporary":true"#), "{reply}");
    server.log_line("hook request failed");
}

/// Over TLS the backend must have the expected certificate.
#[test]
fn the_auth_backends_certificate_is_verified() {
    let (url, asked) = backend(true, r#"{"result":{"user":"7"}}"#);
    let command = r#"{"id":1,"connect":{}}"#;
    let hook = ["--auth", "hook", "--hook-url", &url];
    let server = Server::start(&[&hook[..], &["--hook-ca", &key("hook-ca.pem")]].concat());
    let reply = text(&mut connect(&server, command));
    assert!(reply.starts_with(r#"{"id":1,"connect":{"client":""#), "{reply}");
    assert!(asked.recv_timeout(Duration::from_secs(10)).unwrap().contains(r#""protocol":"json""#));
    // The web's authorities do not.
    let mut server = Server::start(&hook);
    let reply = text(&mut connect(&server, command));
    assert!(reply.contains(r#""error":{"code":100,"#), "{reply}");
    let complaint = server.log_line("hook request failed");
    assert!(complaint.to_lowercase().contains("certificate"), "{complaint}");
    assert!(asked.try_recv().is_err(), "it received nothing");
}
