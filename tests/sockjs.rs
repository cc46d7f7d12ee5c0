//! SockJS over real sockets: what the public protocol test-suite (sockjs-protocol 0.3.3) asks for, on the
//! services of `--echo`, and what a chat adds. Each request has a connection of its own: it arrives on any
//! shard.

mod support;

#[path = "sockjs/chat.rs"]
mod chat;
#[path = "sockjs/pages.rs"]
mod pages;
#[path = "sockjs/streams.rs"]
mod streams;
#[path = "sockjs/versions.rs"]
mod versions;
#[path = "sockjs/websocket.rs"]
mod websocket;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use support::Server;
use support::http::{Answer, Http, request};

/// Services that give every message back, and one that closes each session at once.
const ECHO: &str = "/sockjs-test/echo";
const NO_WEBSOCKET: &str = "/sockjs-test/disabled_websocket_echo";
const COOKIE: &str = "/sockjs-test/cookie_needed_echo";
const CLOSE: &str = "/sockjs-test/close";

const NO_CACHE: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const GO_AWAY: &str = "c[3000,\"Go away!\"]";
const STILL_OPEN: &str = "c[2010,\"Another connection still open\"]";
const INTERRUPTED: &str = "c[1002,\"Connection interrupted\"]";

/// One request on a connection of its own.
fn ask(server: &Server, line: &str, lines: &str, body: &str) -> Answer {
    Http::connect(server).ask(line, lines, body)
}

/// A session that no other test uses.
struct Session<'a> {
    server: &'a Server,
    path: String,
}

impl<'a> Session<'a> {
    fn new(server: &'a Server, service: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { server, path: format!("{service}/{:03}/session{id}", id % 1000) }
    }

    fn post(&self, transport: &str, lines: &str, body: &str) -> Answer {
        ask(self.server, &format!("POST {}/{transport}", self.path), lines, body)
    }

    fn get(&self, transport: &str, lines: &str) -> Answer {
        ask(self.server, &format!("GET {}/{transport}", self.path), lines, "")
    }

    /// The body of the next answer to a long poll.
    fn poll(&self) -> String {
        let answer = self.post("xhr", "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// A session that is open.
    fn open(server: &'a Server) -> Self {
        let session = Self::new(server, ECHO);
        assert_eq!(session.poll(), "o\n");
        session
    }

    fn send(&self, messages: &str) {
        let answer = self.post("xhr_send", "", messages);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{messages}: {answer:?}");
    }

    /// A streaming response, with its head and its prelude.
    fn stream(&self, method: &str, transport: &str) -> (Http, Answer, String) {
        let mut http = Http::connect(self.server);
        http.send(&request(&format!("{method} {}/{transport}", self.path), "", ""));
        let head = http.head();
        assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")), "{head:?}");
        assert_eq!((head.field("Content-Length"), head.field("Cache-Control")), (None, Some(NO_CACHE)));
        let prelude = http.chunk().expect("a prelude");
        (http, head, prelude)
    }

    fn xhr_stream(&self) -> Http {
        self.stream("POST", "xhr_streaming").0
    }
}

/// Of two connections that wait for an answer, the one that gets it first.
fn first_answered(waiting: &[Http; 2]) -> usize {
    for http in waiting {
        http.stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out");
    }
    let first = (0..2000).map(|turn| turn % 2).find(|index| waiting[*index].stream.peek(&mut [0]).is_ok());
    for http in waiting {
        http.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    }
    first.expect("an answer")
}

fn has_type(answer: &Answer, expected: &str) {
    let found = answer.field("Content-Type").map(|found| found.replace(' ', "").to_lowercase());
    assert_eq!(found.as_deref(), Some(expected), "{answer:?}");
}

fn is_not_cached(answer: &Answer) {
    assert_eq!(answer.field("Cache-Control"), Some(NO_CACHE), "{answer:?}");
    assert_eq!((answer.field("Expires"), answer.field("Last-Modified")), (None, None));
}

fn is_allowed_for(answer: &Answer, origin: &str) {
    assert_eq!(answer.field("Access-Control-Allow-Origin"), Some(origin), "{answer:?}");
    assert_eq!(answer.field("Access-Control-Allow-Credentials"), Some("true"), "{answer:?}");
    assert_eq!(answer.field("Vary"), Some("Origin"), "{answer:?}");
}

fn echo_server() -> Server {
    Server::start(&["--shards", "2", "--echo"])
}

#[test]
fn a_session_is_named_by_its_last_part() {
    let server = echo_server();
    for path in ["/a/a", "/_/_", "/1/", "/abcdefgh_i-j%20/abcdefg_i-j%20"] {
        let answer = ask(&server, &format!("POST {ECHO}{path}1024/xhr"), "", "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "o\n"), "{path}");
    }
    for round in 0..50 {
        let path = |part: &str, transport: &str| format!("POST {ECHO}/{part}/shared{round}/{transport}");
        assert_eq!(ask(&server, &path("000", "xhr"), "", "").body, "o\n");
        assert_eq!(ask(&server, &path("555", "xhr_send"), "", "[\"a\"]").status, 204);
        assert_eq!(ask(&server, &path("999", "xhr"), "", "").body, "a[\"a\"]\n");
    }
}

#[test]
fn long_polling() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let origin = "Origin: test\r\n";
    let answer = session.post("xhr", origin, "");
    assert_eq!((answer.status, answer.body.as_str()), (200, "o\n"), "{answer:?}");
    has_type(&answer, "application/javascript;charset=utf-8");
    is_allowed_for(&answer, "test");
    is_not_cached(&answer);
    let answer = session.post("xhr_send", origin, "[\"x\"]");
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
    // Some browsers take an answer without a type for XML, even one without content.
    has_type(&answer, "text/plain;charset=utf-8");
    is_allowed_for(&answer, "test");
    is_not_cached(&answer);
    assert_eq!(session.poll(), "a[\"x\"]\n");
    session.send("[]");
    session.send("[\"b\",\"c\"]");
    session.send("[\"d\"]");
    assert_eq!(session.poll(), "a[\"b\",\"c\",\"d\"]\n");
    // A poll that waits is answered when there is something.
    let mut waiting = Http::connect(&server);
    waiting.send(&request(&format!("POST {}/xhr", session.path), "", ""));
    session.send("[\"e\"]");
    assert_eq!(waiting.answer().body, "a[\"e\"]\n");
    // A request without a length has no content.
    let mut quirk = Http::connect(&server);
    quirk.send(&format!("POST {ECHO}/000/quirk/xhr HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert_eq!(quirk.answer().body, "o\n");
}

#[test]
fn messages_in_any_content_type() {
    let server = echo_server();
    let session = Session::open(&server);
    let types = [
        "text/plain",
        "T",
        "application/json",
        "application/xml",
        "",
        "application/json; charset=utf-8",
        "text/xml; charset=utf-8",
        "text/xml",
    ];
    for media_type in types {
        let answer = session.post("xhr_send", &format!("Content-Type: {media_type}\r\n"), "[\"a\"]");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{media_type}: {answer:?}");
    }
    assert_eq!(session.poll(), format!("a[{}]\n", ["\"a\""; 8].join(",")));
}

#[test]
fn messages_that_cannot_be_read() {
    let server = echo_server();
    assert_eq!(Session::new(&server, ECHO).post("xhr_send", "", "[\"x\"]").status, 404);
    assert_eq!(Session::new(&server, ECHO).post("jsonp_send", FORM, "d=%5B%5D").status, 404);
    let session = Session::open(&server);
    for (body, sentence) in [
        ("", "Payload expected."),
        ("[\"x", "Broken JSON encoding."),
        ("[\"x\"", "Broken JSON encoding."),
        ("[\"x\"]]", "Broken JSON encoding."),
        ("x", "Broken JSON encoding."),
    ] {
        let answer = session.post("xhr_send", "", body);
        assert_eq!(answer.status, 500, "{body}: {answer:?}");
        assert!(answer.body.contains(sentence), "{body}: {answer:?}");
    }
    for (body, sentence) in [
        ("", "Payload expected."),
        ("d=", "Payload expected."),
        ("p=p", "Payload expected."),
        ("d=%5B%22x", "Broken JSON encoding."),
    ] {
        let answer = session.post("jsonp_send", FORM, body);
        assert_eq!(answer.status, 500, "{body}: {answer:?}");
        assert!(answer.body.contains(sentence), "{body}: {answer:?}");
    }
    session.send("[\"the session goes on\"]");
    assert_eq!(session.poll(), "a[\"the session goes on\"]\n");
}

#[test]
fn one_receiver_at_a_time() {
    let server = echo_server();
    for _ in 0..10 {
        let session = Session::open(&server);
        let poll = request(&format!("POST {}/xhr", session.path), "", "");
        let mut polls = [Http::connect(&server), Http::connect(&server)];
        polls.iter_mut().for_each(|http| http.send(&poll));
        let second = first_answered(&polls);
        let answer = polls[second].answer();
        assert_eq!((answer.status, answer.body), (200, format!("{STILL_OPEN}\n")));
        // The other one is untouched.
        session.send("[\"x\"]");
        assert_eq!(polls[1 - second].answer().body, "a[\"x\"]\n");

        let session = Session::new(&server, ECHO);
        let mut stream = session.xhr_stream();
        assert_eq!(stream.chunk().as_deref(), Some("o\n"));
        let mut other = session.xhr_stream();
        assert_eq!(other.chunk(), Some(format!("{STILL_OPEN}\n")));
        assert_eq!(other.chunk(), None);
        session.send("[\"x\"]");
        assert_eq!(stream.chunk().as_deref(), Some("a[\"x\"]\n"));
    }
}

/// Nobody knows which messages an aborted receiver has read: its session is over.
#[test]
fn an_aborted_receiver_ends_its_session() {
    let server = echo_server();
    for _ in 0..20 {
        let session = Session::new(&server, ECHO);
        let mut stream = session.xhr_stream();
        assert_eq!(stream.chunk().as_deref(), Some("o\n"));
        drop(stream);
        let next = session.xhr_stream().chunk().expect("a frame");
        assert!(next == "o\n" || next == format!("{INTERRUPTED}\n"), "{next}");

        let session = Session::open(&server);
        let poll = request(&format!("POST {}/xhr", session.path), "", "");
        let mut polls = [Http::connect(&server), Http::connect(&server)];
        polls.iter_mut().for_each(|http| http.send(&poll));
        let _still_open = first_answered(&polls);
        drop(polls);
        let next = session.poll();
        assert!(next == "o\n" || next == format!("{INTERRUPTED}\n"), "{next}");
    }
}

#[test]
fn a_session_that_the_server_closes() {
    let server = echo_server();
    let session = Session::new(&server, CLOSE);
    assert_eq!(session.poll(), "o\n");
    for _ in 0..3 {
        assert_eq!(session.poll(), format!("{GO_AWAY}\n"));
    }
    let session = Session::new(&server, CLOSE);
    let mut first = session.xhr_stream();
    assert_eq!(first.chunk().as_deref(), Some("o\n"));
    assert_eq!(first.chunk(), Some(format!("{GO_AWAY}\n")));
    let mut second = session.xhr_stream();
    assert_eq!(second.chunk(), Some(format!("{GO_AWAY}\n")));
    assert_eq!((first.chunk(), second.chunk()), (None, None));
    let (mut events, _, _) = session.stream("GET", "eventsource");
    assert_eq!(events.chunk(), Some(format!("data: {GO_AWAY}\r\n\r\n")));
    assert_eq!(events.chunk(), None);
    let session = Session::new(&server, CLOSE);
    assert_eq!(session.get("jsonp?c=x", "").body, "/**/x(\"o\");\r\n");
    for _ in 0..2 {
        assert_eq!(session.get("jsonp?c=x", "").body, "/**/x(\"c[3000,\\\"Go away!\\\"]\");\r\n");
    }
}

#[test]
fn the_cookie_of_load_balancers() {
    let server = echo_server();
    for (transport, is_get) in [
        ("xhr", false),
        ("xhr_streaming", false),
        ("eventsource", true),
        ("htmlfile?c=x", true),
        ("jsonp?c=x", true),
    ] {
        let method = if is_get { "GET" } else { "POST" };
        for (lines, expected) in [
            ("", "JSESSIONID=dummy"),
            ("Cookie: JSESSIONID=abcdef\r\n", "JSESSIONID=abcdef"),
            ("Cookie: a=b; JSESSIONID=abcdef; c=d\r\n", "JSESSIONID=abcdef"),
        ] {
            let session = Session::new(&server, COOKIE);
            let mut http = Http::connect(&server);
            http.send(&request(&format!("{method} {}/{transport}", session.path), lines, ""));
            let head = http.head();
            let cookie = head.field("Set-Cookie").unwrap_or_default().to_owned();
            let mut parts = cookie.split(';').map(str::trim);
            assert_eq!(parts.next(), Some(expected), "{transport} {lines}: {head:?}");
            assert_eq!(parts.next().map(str::to_lowercase).as_deref(), Some("path=/"), "{cookie}");
        }
        let session = Session::new(&server, ECHO);
        let mut http = Http::connect(&server);
        http.send(&request(&format!("{method} {}/{transport}", session.path), "", ""));
        assert_eq!(http.head().field("Set-Cookie"), None, "{transport}: no other service needs one");
    }
    let session = Session::new(&server, COOKIE);
    assert_eq!(session.poll(), "o\n");
    for answer in
        [session.post("xhr_send", "", "[\"x\"]"), session.post("jsonp_send", FORM, "d=%5B%22x%22%5D")]
    {
        assert_eq!(answer.field("Set-Cookie").map(|it| it.starts_with("JSESSIONID=dummy")), Some(true));
    }
}

/// Characters that browsers or their scripts change on the way are escaped, and no others.
#[test]
fn characters_that_are_escaped() {
    let server = echo_server();
    let session = Session::open(&server);
    let ranges = [0x200C..=0x200F, 0x2028..=0x202F, 0x2060..=0x206F, 0xFFF0..=0xFFFF_u32];
    let (mut message, mut escaped) = (String::new(), String::new());
    for code in ranges.into_iter().flatten() {
        message.push(char::from_u32(code).expect("not a surrogate"));
        write!(escaped, "\\u{code:04x}").unwrap();
    }
    session.send(&format!("[\"{message}\"]"));
    assert_eq!(session.poll(), format!("a[\"{escaped}\"]\n"));
    session.send("[\"Grüße \\u200b\\u2027\\u2070\\uffef\"]");
    assert_eq!(session.poll(), "a[\"Grüße \u{200b}\u{2027}\u{2070}\u{ffef}\"]\n");
    // Clients escape much more, and also as surrogate pairs.
    let (mut sent, mut expected) = (String::new(), String::new());
    for code in (0..0xD800).chain(0xE000..=0xFFFF_u32) {
        write!(sent, "\\u{code:04x}").unwrap();
        expected.push(char::from_u32(code).expect("not a surrogate"));
        if code % 0x1000 == 0xFFF {
            session.send(&format!("[\"{sent}\\ud83d\\ude42\"]"));
            let body = session.poll();
            let received: Vec<String> =
                serde_json::from_str(body.trim_end().trim_start_matches('a')).expect("JSON");
            expected.push('🙂');
            assert_eq!(received, [expected.as_str()]);
            sent.clear();
            expected.clear();
        }
    }
}
