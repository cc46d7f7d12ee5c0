//! A chat over SockJS: the plain text protocol inside of sessions that any transport opens.

use tungstenite::Message;

use super::support::http::{Answer, Http, request};
use super::support::{SECRET, Server, text, token};
use super::{ask, is_allowed_for};

/// A member that polls; each of its requests has a connection of its own.
struct Member<'a> {
    server: &'a Server,
    id: &'static str,
    query: &'static str,
}

impl<'a> Member<'a> {
    fn join(server: &'a Server, id: &'static str, query: &'static str) -> Self {
        let member = Self { server, id, query };
        assert_eq!(member.poll(), "o\n", "{id}");
        member
    }

    fn request(&self, transport: &str, lines: &str, body: &str) -> Answer {
        let path = format!("POST /sockjs/000/{}/{transport}?{}", self.id, self.query);
        ask(self.server, &path, lines, body)
    }

    fn poll(&self) -> String {
        let answer = self.request("xhr", "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// The next `count` messages.
    fn receive(&self, count: usize) -> Vec<String> {
        let mut received = Vec::new();
        while received.len() < count {
            let body = self.poll();
            let frame = body.strip_prefix('a').unwrap_or_else(|| panic!("{body}"));
            received.extend(serde_json::from_str::<Vec<String>>(frame).expect("JSON"));
        }
        received
    }

    fn send(&self, messages: &str) {
        assert_eq!(self.request("xhr_send", "", messages).status, 204, "{messages}");
    }
}

/// Waits until a number of `/metrics` is `value`.
fn wait_for(server: &Server, metric: &str, value: u64) {
    let reached = (0..200_000).any(|_| server.metric(metric) == value);
    assert!(reached, "{metric} never becomes {value}");
}

#[test]
fn members_on_any_transport_share_a_room() {
    let server = Server::start(&["--shards", "2"]);
    let ann = Member::join(&server, "ann", "name=ann&room=tea");
    let bob = Member::join(&server, "bob", "name=bob&room=tea");
    let _elsewhere = Member::join(&server, "eve", "name=eve&room=other");
    let mut plain = server.client("/ws/carl?room=tea");
    let mut framed = server.client("/sockjs/000/dora/websocket?name=dora&room=tea");
    assert_eq!(text(&mut framed), "o");
    wait_for(&server, "stentor_members", 5);
    ann.send("[\"hi\",\"100 %\"]");
    assert_eq!(ann.receive(2), ["ann: hi", "ann: 100 %"]);
    assert_eq!(bob.receive(2), ["ann: hi", "ann: 100 %"]);
    assert_eq!([text(&mut plain), text(&mut plain)], ["ann: hi", "ann: 100 %"]);
    let mut received: Vec<String> = Vec::new();
    while received.len() < 2 {
        received
            .extend(serde_json::from_str::<Vec<String>>(text(&mut framed).trim_start_matches('a')).unwrap());
    }
    assert_eq!(received, ["ann: hi", "ann: 100 %"]);
    plain.send(Message::text("from WebSocket")).unwrap();
    assert_eq!(bob.receive(1), ["carl: from WebSocket"]);
    framed.send(Message::text("[\"framed\"]")).unwrap();
    assert_eq!(ann.receive(2), ["carl: from WebSocket", "dora: framed"]);
    assert_eq!(bob.receive(1), ["dora: framed"]);
}

#[test]
fn a_member_without_a_receiver_leaves() {
    let server = Server::start(&["--shards", "2"]);
    let mut plain = server.client("/ws/carl?room=tea");
    let ann = Member::join(&server, "ann", "name=ann&room=tea");
    wait_for(&server, "stentor_members", 2);
    // Nobody reads this; without a receiver the session lasts for five seconds.
    plain.send(Message::text("hi")).unwrap();
    assert_eq!(text(&mut plain), "carl: hi");
    wait_for(&server, "stentor_members", 1);
    // After that, its name is that of a new session, and a message to it has no recipient until then.
    assert_eq!(ann.request("xhr_send", "", "[\"x\"]").status, 404);
    assert_eq!(ann.poll(), "o\n");
    // One that is aborted leaves at once.
    let mut stream = Http::connect(&server);
    stream.send(&request("POST /sockjs/000/bob/xhr_streaming?name=bob&room=tea", "", ""));
    stream.head();
    assert_eq!((stream.chunk().map(|it| it.len()), stream.chunk().as_deref()), (Some(2049), Some("o\n")));
    wait_for(&server, "stentor_members", 3);
    drop(stream);
    wait_for(&server, "stentor_members", 2);
}

#[test]
fn pages_of_other_origins() {
    let server = Server::start(&["--shards", "2", "--origins", "same-host,https://chat.example"]);
    let lines = |origin: &str| format!("Origin: {origin}\r\n");
    let path = |id: &str, transport: &str| format!("POST /sockjs/000/{id}/{transport}?name=ann&room=tea");
    for (number, origin) in ["https://chat.example", "http://h"].into_iter().enumerate() {
        let id = format!("s{number}");
        let answer = ask(&server, &path(&id, "xhr"), &lines(origin), "");
        assert_eq!(answer.body, "o\n", "{origin}: {answer:?}");
        is_allowed_for(&answer, origin);
        let answer =
            ask(&server, &path(&id, "xhr_send"), &(lines(origin) + "Content-Type: T\r\n"), "[\"x\"]");
        assert_eq!(answer.status, 204, "{origin}: {answer:?}");
        let info = ask(&server, "GET /sockjs/info", &lines(origin), "");
        is_allowed_for(&info, origin);
    }
    for origin in ["https://evil.example", "null"] {
        let line = lines(origin);
        for request in
            [path("s0", "xhr"), path("s0", "xhr_streaming"), path("s0", "xhr_send"), path("s0", "jsonp_send")]
        {
            let answer = ask(&server, &request, &line, "[\"x\"]");
            assert_eq!(answer.status, 403, "{origin} {request}: {answer:?}");
            assert_eq!(answer.field("Access-Control-Allow-Origin"), None, "{origin} {request}");
        }
        for transport in ["eventsource", "htmlfile"] {
            let line_of = format!("GET /sockjs/000/s9/{transport}?c=x&name=ann&room=tea");
            assert_eq!(ask(&server, &line_of, &line, "").status, 403, "{origin} {transport}");
        }
        assert_eq!(ask(&server, "GET /sockjs/info", &line, "").field("Access-Control-Allow-Origin"), None);
        let refused = server.try_client("/sockjs/000/s/websocket?name=ann&room=tea", &[("Origin", origin)]);
        assert!(refused.is_err_and(|error| error.contains("403")), "{origin}");
    }
    // A script is read by any page, and requested without an origin.
    for (referer, status) in [
        ("", 403),
        ("Referer: https://evil.example/\r\n", 403),
        ("Referer: https://chat.example/page\r\n", 200),
    ] {
        let lines = format!("Sec-Fetch-Site: cross-site\r\n{referer}");
        let line = format!("GET /sockjs/000/script{status}/jsonp?c=x&name=ann&room=tea");
        assert_eq!(ask(&server, &line, &lines, "").status, status, "{referer}");
    }
    // And the page for iframes sends for the page around it.
    let answer = ask(&server, "GET /sockjs/iframe.html", "", "");
    let policy = answer.field("Content-Security-Policy");
    assert_eq!(policy, Some("frame-ancestors 'self' https://chat.example"), "{answer:?}");
    // What a page sends without its origin.
    let cross_site = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(ask(&server, &path("s0", "xhr_send"), cross_site, "[\"x\"]").status, 403);
}

#[test]
fn tokens_and_limits() {
    let server = Server::start(&["--shards", "2", "--auth", "token", "--token-hmac-secret-files", SECRET]);
    let token = token(&["--user", "ann", "--name", "ann"]);
    let receive =
        |id: &str, query: &str| ask(&server, &format!("POST /sockjs/000/{id}/xhr?{query}"), "", "").body;
    let allowed = format!("name=ann&room=tea&token={token}");
    assert_eq!(receive("ann", &allowed), "o\n");
    let send = |messages: &str| ask(&server, "POST /sockjs/000/ann/xhr_send", "", messages);
    assert_eq!(send("[\"hi\"]").status, 204);
    assert_eq!(receive("ann", ""), "a[\"ann: hi\"]\n");
    assert_eq!(send(&format!("[\"{}\"]", "x".repeat(70_000))).status, 413);
    for (id, query, code) in
        [("none", "name=ann&room=tea", 4401), ("bob", allowed.replace("name=ann", "name=bob").as_str(), 4403)]
    {
        assert_eq!(receive(id, query), "o\n");
        let end = receive(id, query);
        assert!(end.starts_with(&format!("c[{code},")), "{query}: {end}");
    }
}

/// What is published while no request receives is bounded as that of a slow member is.
#[test]
fn a_member_that_does_not_receive_is_disconnected() {
    let server = Server::start(&["--shards", "2", "--room-log", "256KiB"]);
    let ann = Member::join(&server, "ann", "name=ann&room=tea");
    let mut plain = server.client("/ws/bob?room=tea");
    wait_for(&server, "stentor_members", 2);
    let message = "x".repeat(16 * 1024);
    for _ in 0..64 {
        plain.send(Message::text(message.as_str())).unwrap();
        text(&mut plain);
    }
    let end = (0..64).map(|_| ann.poll()).find(|body| body.starts_with('c')).expect("an end");
    assert!(end.starts_with("c[3013,"), "{end}");
    wait_for(&server, "stentor_members", 1);
}
