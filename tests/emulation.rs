//! The JSON protocol without WebSocket, over real sockets: replies on a stream, commands by
//! `POST /emulation`, and the unidirectional endpoints. Each command has a connection of its own, and so
//! arrives on any shard.

mod support;

use std::fmt::Write as _;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::http::{Answer, Http, request};
use support::json::Client;
use support::{Server, close_code, text};
use tungstenite::Message;

const JSON: &str = "Content-Type: application/json\r\n";

/// How replies travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Lines,
    Events,
}

const BOTH: [Transport; 2] = [Transport::Lines, Transport::Events];

/// `text` as a value in a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "%{byte:02X}").expect("a string takes all");
        all
    })
}

/// The request that opens a stream with these commands.
fn opening(transport: Transport, commands: &str, lines: &str) -> String {
    match transport {
        Transport::Lines => request("POST /connection/http_stream", &format!("{JSON}{lines}"), commands),
        Transport::Events => {
            request(&format!("GET /connection/sse?cf_connect={}", encoded(commands)), lines, "")
        }
    }
}

/// An open stream: a line of JSON for each reply, or an event.
struct Stream {
    http: Http,
    transport: Transport,
    head: Answer,
}

impl Stream {
    fn open(server: &Server, transport: Transport, commands: &str) -> Self {
        let mut http = Http::connect(server);
        http.send(&opening(transport, commands, ""));
        Self::of(http, transport)
    }

    fn of(mut http: Http, transport: Transport) -> Self {
        let head = http.head();
        assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")), "{head:?}");
        Self { http, transport, head }
    }

    /// The next line, pings included.
    fn line(&mut self) -> Value {
        loop {
            let line = self.http.content_until("\n");
            let line = line.trim_end();
            if line.is_empty() {
                continue;
            }
            let json = match self.transport {
                Transport::Lines => line,
                Transport::Events => line.strip_prefix("data: ").unwrap_or_else(|| panic!("{line}")),
            };
            return serde_json::from_str(json).unwrap_or_else(|_| panic!("{line}"));
        }
    }

    /// The next line that is no ping, and no presence event.
    fn next(&mut self) -> Value {
        loop {
            let line = self.line();
            let event = line.get("push").unwrap_or(&line);
            if line != json!({}) && event.get("join").is_none() && event.get("leave").is_none() {
                return line;
            }
        }
    }

    /// Reads on to the next ping.
    fn ping(&mut self) {
        while self.line() != json!({}) {}
    }

    /// The code that the stream ends with.
    fn end(mut self) -> u64 {
        let code = loop {
            let line = self.next();
            if let Some(code) = line["push"]["disconnect"]["code"].as_u64() {
                break code;
            }
        };
        while let Some(chunk) = self.http.chunk() {
            assert_eq!(chunk.trim(), "");
        }
        code
    }
}

/// A connected client.
struct Emulated<'a> {
    server: &'a Server,
    stream: Stream,
    session: String,
    node: String,
}

impl<'a> Emulated<'a> {
    fn connect(server: &'a Server, transport: Transport, name: &str) -> Self {
        let command = json!({"id": 1, "connect": {"data": {"name": name}}}).to_string();
        let mut stream = Stream::open(server, transport, &command);
        let reply = stream.next();
        assert_eq!(reply["id"], 1, "{reply}");
        let part = |key: &str| reply["connect"][key].as_str().unwrap_or_default().to_owned();
        let (session, node) = (part("session"), part("node"));
        assert!(session.len() >= 16 && !node.is_empty(), "{reply}");
        assert_ne!(session, part("client"), "the session is secret, the client's id is not");
        Self { server, stream, session, node }
    }

    /// Sends these commands, on a connection of their own.
    fn send(&self, commands: &str) {
        let answer = emulate(self.server, &self.session, &self.node, commands);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{commands}: {answer:?}");
    }

    /// The reply to a command.
    fn ask(&mut self, id: u64, method: &str, parameters: &Value) -> Value {
        self.send(&json!({"id": id, method: parameters}).to_string());
        loop {
            let line = self.stream.next();
            if line["id"] == id {
                return line;
            }
        }
    }

    fn publication(&mut self) -> Value {
        loop {
            let line = self.stream.next();
            if let Some(publication) = line["push"].get("pub") {
                return publication.clone();
            }
        }
    }
}

fn emulate(server: &Server, session: &str, node: &str, data: &str) -> Answer {
    let body = json!({"session": session, "node": node, "data": data}).to_string();
    Http::connect(server).ask("POST /emulation", JSON, &body)
}

/// Waits until a number of `/metrics` is `value`.
fn wait_for(server: &Server, metric: &str, value: u64) {
    let reached = (0..10_000).any(|_| server.metric(metric) == value);
    assert!(reached, "{metric} never becomes {value}");
}

#[test]
fn streams_have_their_heads() {
    let server = Server::start(&["--shards", "2"]);
    let connect = json!({"id": 1, "connect": {}}).to_string();
    for (transport, media_type) in [
        (Transport::Lines, "text/plain; charset=utf-8"),
        (Transport::Events, "text/event-stream; charset=utf-8"),
    ] {
        let stream = Stream::open(&server, transport, &connect);
        assert_eq!(stream.head.field("Content-Type"), Some(media_type), "{:?}", stream.head);
        assert_eq!(stream.head.field("X-Accel-Buffering"), Some("no"));
        let cache = stream.head.field("Cache-Control").unwrap_or_default();
        assert!(cache.contains("no-store"), "{cache}");
    }
    // HTTP/1.0 has no chunks.
    let mut old = Http::connect(&server);
    old.send(&opening(Transport::Events, &connect, "").replace("HTTP/1.1", "HTTP/1.0"));
    let head = old.head();
    assert_eq!((head.status, head.field("Transfer-Encoding")), (200, None), "{head:?}");
    server.signal(Signal::TERM);
    let rest = old.rest();
    assert!(rest.contains("\"connect\":{") && rest.contains("\"code\":3001"), "{rest}");
}

#[test]
fn commands_arrive_on_any_shard() {
    let server = Server::start(&["--shards", "3"]);
    let mut member = Client::connect(&server, "watcher");
    member.result("subscribe", json!({"channel": "r"}));
    for transport in BOTH {
        let mut client = Emulated::connect(&server, transport, "ann");
        let reply = client.ask(2, "subscribe", &json!({"channel": "r"}));
        assert!(reply["subscribe"]["epoch"].is_string(), "{reply}");
        for number in 0..60 {
            let reply = client.ask(10 + number, "publish", &json!({"channel": "r", "data": {"n": number}}));
            assert_eq!(reply.get("error"), None, "{reply}");
            assert_eq!(member.push("pub")["data"]["n"], number);
        }
        member.publish("r", "line\nand \"line\"");
        let seen = loop {
            let publication = client.publication();
            if publication["data"].is_string() {
                break publication;
            }
        };
        assert_eq!(seen["data"], "line\nand \"line\"");
        assert_eq!(member.push("pub")["data"], seen["data"]);
        // No other client learns the session.
        let presence = member.result("presence", json!({"channel": "r"})).to_string();
        assert!(presence.contains("\"ann\"") && !presence.contains(&client.session), "{presence}");
        let error = client.ask(100, "rpc", &json!({"method": "nothing"}));
        assert_eq!(error["error"]["code"], 104, "{error}");
    }
}

#[test]
fn several_commands_share_a_request() {
    let server = Server::start(&["--shards", "2"]);
    for transport in BOTH {
        let mut client = Emulated::connect(&server, transport, "ann");
        let mut commands = json!({"id": 2, "subscribe": {"channel": "r"}}).to_string() + "\n";
        for id in 3..20 {
            commands += &(json!({"id": id, "publish": {"channel": "r", "data": id}}).to_string() + "\n");
        }
        client.send(&commands);
        let (mut replies, mut publications) = (Vec::new(), Vec::new());
        while replies.len() < 18 || publications.len() < 17 {
            let line = client.stream.next();
            match line["id"].as_u64() {
                Some(id) => replies.push(id),
                None => publications.push(line["push"]["pub"]["data"].as_u64().expect("a publication")),
            }
        }
        assert_eq!(publications, (3..20).collect::<Vec<_>>(), "in the order of the commands");
        replies.sort_unstable();
        assert_eq!(replies, (2..20).collect::<Vec<_>>());
    }
    // The first request may bring more than the connect, too.
    let commands = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"r\"}}";
    for transport in BOTH {
        let mut stream = Stream::open(&server, transport, commands);
        assert_eq!([stream.next()["id"].clone(), stream.next()["id"].clone()], [1, 2]);
    }
}

#[test]
fn what_is_wrong_with_a_request() {
    let server = Server::start(&["--shards", "2"]);
    let client = Emulated::connect(&server, Transport::Lines, "ann");
    let body =
        |session: &str, node: &str| json!({"session": session, "node": node, "data": "{}"}).to_string();
    let long =
        json!({"session": client.session, "node": client.node, "data": "x".repeat(70_000)}).to_string();
    for (line, body, status) in [
        ("GET /connection/sse", String::new(), 400),
        ("GET /connection/http_stream", String::new(), 405),
        ("GET /emulation", String::new(), 405),
        ("PUT /emulation", body(&client.session, &client.node), 405),
        ("POST /emulation", String::new(), 400),
        ("POST /emulation", "session".to_owned(), 400),
        ("POST /emulation", "[]".to_owned(), 400),
        ("POST /emulation", body(&client.session, "another"), 404),
        ("POST /emulation", body("nobody's", &client.node), 404),
        ("POST /emulation", long, 413),
        ("GET /connection/uni_http_stream", String::new(), 405),
        ("POST /connection/unknown", String::new(), 404),
    ] {
        let answer = Http::connect(&server).ask(line, JSON, &body);
        assert_eq!(answer.status, status, "{line} {body:.80}: {answer:?}");
        assert_eq!(answer.field("Allow").is_some(), status == 405, "{line}: {answer:?}");
    }
    // A session lives as long as its stream.
    let (session, node) = (client.session.clone(), client.node.clone());
    drop(client);
    wait_for(&server, "stentor_http_streams", 0);
    assert_eq!(emulate(&server, &session, &node, "{\"id\":2,\"rpc\":{}}").status, 404);
}

#[test]
fn violations_of_the_protocol_end_the_stream() {
    let server = Server::start(&["--shards", "2"]);
    for transport in BOTH {
        for (commands, code) in [
            ("hello", 3501),
            ("{}", 3501),
            ("{\"id\":1,\"connect\":{}}", 3501),
            ("{\"id\":2,\"teleport\":{}}", 3501),
            ("{\"id\":2,\"subscribe\":{}}", 3501),
            ("{\"subscribe\":{\"channel\":\"r\"}}", 3501),
            ("{\"send\":{\"data\":1}}", 3508),
        ] {
            let client = Emulated::connect(&server, transport, "ann");
            client.send(commands);
            assert_eq!(client.stream.end(), code, "{transport:?}: {commands}");
        }
        // The first command.
        for commands in ["hello", "{}", "{\"id\":1,\"subscribe\":{\"channel\":\"r\"}}", "{\"id\":1}"] {
            let mut stream = Stream::open(&server, transport, commands);
            let mut content = String::new();
            while let Some(chunk) = stream.http.chunk() {
                content.push_str(&chunk);
            }
            assert!(!content.contains("\"connect\":"), "{transport:?}: {content}");
        }
        let mut stream =
            Stream::open(&server, transport, "{\"id\":1,\"connect\":{\"data\":{\"name\":\"a\\u0000\"}}}");
        assert_eq!(stream.next()["error"]["code"], 107, "{transport:?}");
    }
    wait_for(&server, "stentor_http_streams", 0);
}

/// A client with a pool of connections takes one for idle after the last chunk of an answer, unless its head
/// says otherwise.
#[test]
fn what_follows_the_end_of_a_stream() {
    let server = Server::start(&["--shards", "2"]);
    for transport in BOTH {
        let mut stream = Stream::open(&server, transport, "{\"id\":1,\"rpc\":{}}");
        while stream.http.chunk().is_some() {}
        if stream.head.field("Connection") == Some("close") {
            assert_eq!(stream.http.rest(), "");
        } else {
            assert_eq!(stream.http.ask("GET /healthz", "", "").status, 200, "{transport:?}");
        }
    }
}

#[test]
fn pings_are_answered_by_request() {
    let server = Server::start(&["--shards", "2", "--ping-interval", "400ms", "--pong-timeout", "300ms"]);
    for transport in BOTH {
        let mut client = Emulated::connect(&server, transport, "ann");
        for _ in 0..4 {
            client.stream.ping();
            client.send("{}");
        }
        let reply = client.ask(2, "subscribe", &json!({"channel": "r"}));
        assert_eq!(reply.get("error"), None, "{reply}");
        assert_eq!(client.stream.end(), 3012, "{transport:?}: without an answer");
    }
}

#[test]
fn a_drain_makes_clients_reconnect() {
    let mut server = Server::start(&["--shards", "2", "--drain", "20s"]);
    let streams: Vec<_> = BOTH.map(|it| Emulated::connect(&server, it, "ann").stream).into_iter().collect();
    server.signal(Signal::TERM);
    for stream in streams {
        assert_eq!(stream.end(), 3001);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_client_recovers_on_another_stream() {
    let server = Server::start(&["--shards", "2"]);
    let mut publisher = Client::connect(&server, "publisher");
    for transport in BOTH {
        let channel = format!("{transport:?}");
        publisher.result("subscribe", json!({"channel": channel}));
        let mut client = Emulated::connect(&server, transport, "ann");
        let epoch = client.ask(2, "subscribe", &json!({"channel": channel}))["subscribe"]["epoch"].clone();
        for number in 1..=3 {
            publisher.publish(&channel, number);
        }
        assert_eq!([1, 2, 3].map(|_| client.publication()["offset"].clone()), [1, 2, 3]);
        drop(client);
        publisher.publish(&channel, 4);
        let mut again = Emulated::connect(&server, transport, "ann");
        let position = json!({"channel": channel, "recover": true, "offset": 2, "epoch": epoch});
        let reply = again.ask(2, "subscribe", &position)["subscribe"].clone();
        assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(2)), "{reply}");
        let offsets: Vec<_> =
            reply["publications"].as_array().unwrap().iter().map(|it| &it["offset"]).collect();
        assert_eq!(offsets, [3, 4]);
        publisher.publish(&channel, 5);
        assert_eq!(again.publication()["offset"], 5);
    }
}

#[test]
fn pages_of_other_origins() {
    let server = Server::start(&["--shards", "2", "--origins", "same-host,https://chat.example"]);
    let connect = json!({"id": 1, "connect": {}}).to_string();
    let listed = "Origin: https://chat.example\r\n";
    for path in ["/connection/http_stream", "/emulation"] {
        let lines = format!(
            "{listed}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
        );
        let answer = Http::connect(&server).ask(&format!("OPTIONS {path}"), &lines, "");
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("https://chat.example"));
        assert!(
            answer.field("Access-Control-Allow-Methods").is_some_and(|it| it.contains("POST")),
            "{answer:?}"
        );
        let headers = answer.field("Access-Control-Allow-Headers").unwrap_or_default().to_lowercase();
        assert!(headers.contains("content-type"), "{answer:?}");
        assert!(answer.field("Access-Control-Max-Age").is_some(), "{answer:?}");
    }
    for transport in BOTH {
        let mut http = Http::connect(&server);
        http.send(&opening(transport, &connect, listed));
        let mut stream = Stream::of(http, transport);
        assert_eq!(stream.head.field("Access-Control-Allow-Origin"), Some("https://chat.example"));
        assert_eq!(stream.head.field("Access-Control-Allow-Credentials"), Some("true"));
        let reply = stream.next();
        let body = json!({"session": reply["connect"]["session"], "node": reply["connect"]["node"], "data": "{\"id\":2,\"rpc\":{\"method\":\"x\"}}"});
        let emulation = |lines: &str| {
            Http::connect(&server).ask("POST /emulation", &format!("{JSON}{lines}"), &body.to_string())
        };
        let answer = emulation(listed);
        assert_eq!(
            (answer.status, answer.field("Access-Control-Allow-Origin")),
            (204, Some("https://chat.example"))
        );
        assert_eq!(stream.next()["id"], 2);
        for foreign in ["Origin: https://evil.example\r\n", "Origin: null\r\n"] {
            assert_eq!(emulation(foreign).status, 403, "{foreign}");
            let mut http = Http::connect(&server);
            http.send(&opening(transport, &connect, foreign));
            let answer = http.answer();
            assert_eq!(
                (answer.status, answer.field("Access-Control-Allow-Origin")),
                (403, None),
                "{answer:?}"
            );
        }
    }
}

/// The request that opens a unidirectional stream, which is the connect request itself.
fn unidirectional(server: &Server, transport: Transport, connect: &Value) -> Stream {
    let mut http = Http::connect(server);
    http.send(&match transport {
        Transport::Lines => request("POST /connection/uni_http_stream", JSON, &connect.to_string()),
        Transport::Events => {
            request(&format!("GET /connection/uni_sse?cf_connect={}", encoded(&connect.to_string())), "", "")
        }
    });
    Stream::of(http, transport)
}

#[test]
fn unidirectional_streams() {
    let server = Server::start(&["--shards", "2", "--ping-interval", "300ms", "--pong-timeout", "200ms"]);
    let publish = |room: &str| {
        let answer = Http::connect(&server).ask(&format!("POST /send/bob?room={room}"), "", "hi");
        assert_eq!(answer.status, 204, "{answer:?}");
    };
    for transport in BOTH {
        let channel = format!("{transport:?}");
        let connect = json!({"data": {"name": "ann"}, "subs": {channel.as_str(): {}}});
        let mut stream = unidirectional(&server, transport, &connect);
        let first = stream.next();
        let reply = &first["connect"];
        assert_eq!((first.get("id"), first.get("push"), reply.get("pong")), (None, None, None), "{first}");
        assert!(reply["client"].is_string() && reply["subs"][&channel]["epoch"].is_string(), "{first}");
        publish(&channel);
        let publication = stream.next();
        assert_eq!(publication["channel"], channel.as_str(), "{publication}");
        assert_eq!(
            (&publication["pub"]["data"]["text"], &publication["pub"]["offset"]),
            (&json!("hi"), &json!(1))
        );
        // Pings, which are not answered, and the stream goes on.
        for _ in 0..4 {
            stream.ping();
        }
        publish(&channel);
        assert_eq!(stream.next()["pub"]["offset"], 2);
    }
    let mut socket = server.client("/connection/uni_websocket");
    socket.send(Message::text(json!({"data": {"name": "ann"}, "subs": {"w": {}}}).to_string())).unwrap();
    let mut line = || -> Value {
        loop {
            let frame: Value = serde_json::from_str(&text(&mut socket)).expect("one line of JSON");
            if frame != json!({}) && frame.get("join").is_none() {
                return frame;
            }
        }
    };
    let first = line();
    assert!(first["connect"]["subs"]["w"]["epoch"].is_string() && first.get("id").is_none(), "{first}");
    publish("w");
    let publication = line();
    assert_eq!((&publication["channel"], &publication["pub"]["data"]["text"]), (&json!("w"), &json!("hi")));
    server.signal(Signal::TERM);
    assert_eq!(close_code(&mut socket), 3001);
}

#[test]
fn a_unidirectional_stream_says_how_it_ends() {
    let mut server = Server::start(&["--shards", "2", "--drain", "20s"]);
    let mut streams = BOTH.map(|it| unidirectional(&server, it, &json!({"subs": {"r": {}}})));
    for stream in &mut streams {
        assert!(stream.next()["connect"].is_object());
    }
    server.signal(Signal::TERM);
    for stream in &mut streams {
        let last = stream.next();
        assert_eq!(last["disconnect"]["code"], 3001, "{last}");
        assert!(last["disconnect"]["reason"].is_string(), "{last}");
        while let Some(chunk) = stream.http.chunk() {
            assert_eq!(chunk.trim(), "");
        }
    }
    drop(streams);
    assert_eq!(server.wait().code(), Some(0));
}
