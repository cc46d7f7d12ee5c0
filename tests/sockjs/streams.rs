//! The streaming transports, and polling with scripts.

use super::support::http::{Answer, Http, request};
use super::{ECHO, FORM, Session, ask, echo_server, has_type, is_allowed_for, is_not_cached};

/// What a streaming response of these services holds before it ends.
const RESPONSE_LIMIT: usize = 4096;

#[test]
fn streaming() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let (mut stream, head, prelude) = session.stream("POST", "xhr_streaming");
    has_type(&head, "application/javascript;charset=utf-8");
    is_not_cached(&head);
    assert_eq!(prelude, format!("{}\n", "h".repeat(2048)));
    assert_eq!(stream.chunk().as_deref(), Some("o\n"));
    session.send("[\"x\"]");
    assert_eq!(stream.chunk().as_deref(), Some("a[\"x\"]\n"));
    let answer = Session::new(&server, ECHO).stream_for("test");
    is_allowed_for(&answer, "test");
}

impl Session<'_> {
    /// The head of a streaming response to a page of `origin`.
    fn stream_for(&self, origin: &str) -> Answer {
        let mut http = Http::connect(self.server);
        let lines = format!("Origin: {origin}\r\n");
        http.send(&request(&format!("POST {}/xhr_streaming", self.path), &lines, ""));
        http.head()
    }
}

/// A browser keeps a response as long as it lasts: it ends after a while, and the next one continues the
/// session.
#[test]
fn streaming_responses_are_bounded() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let message = format!("\"{}\"", "x".repeat(128));
    let frame = format!("a[{message}]\n");
    let mut http = session.xhr_stream();
    let mut received = http.chunk().expect("a frame").len();
    for round in 0..3 {
        while received < RESPONSE_LIMIT {
            session.send(&format!("[{message}]"));
            assert_eq!(http.chunk(), Some(frame.clone()), "response {round}, after {received} bytes");
            received += frame.len();
        }
        assert_eq!(http.chunk(), None, "after {received} bytes");
        // What is sent between two responses waits for the next one.
        session.send("[\"between\"]");
        http = Http::connect(&server);
        http.send(&request(&format!("POST {}/xhr_streaming", session.path), "", ""));
        assert_eq!(http.head().status, 200);
        assert_eq!(http.chunk().map(|prelude| prelude.len()), Some(2049), "not counted");
        let between = http.chunk().expect("a frame");
        assert_eq!(between, "a[\"between\"]\n");
        received = between.len();
    }
    let long = "x".repeat(RESPONSE_LIMIT);
    for (transport, open, frame) in [
        ("eventsource", "data: o\r\n\r\n".to_owned(), format!("data: a[\"{long}\"]\r\n\r\n")),
        ("htmlfile?c=callback", script("o"), script(&format!("a[\\\"{long}\\\"]"))),
    ] {
        let session = Session::new(&server, ECHO);
        let (mut http, _, _) = session.stream("GET", transport);
        assert_eq!(http.chunk(), Some(open));
        session.send(&format!("[\"{long}\"]"));
        assert_eq!(http.chunk(), Some(frame));
        assert_eq!(http.chunk(), None);
    }
}

/// A frame on the htmlfile transport.
fn script(frame: &str) -> String {
    format!("<script>\np(\"{frame}\");\n</script>\r\n")
}

#[test]
fn events() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let (mut events, head, prelude) = session.stream("GET", "eventsource");
    // Without a charset, which is UTF-8 in any case, as the public suite asks.
    has_type(&head, "text/event-stream");
    is_not_cached(&head);
    assert_eq!(prelude, "\r\n");
    assert_eq!(events.chunk().as_deref(), Some("data: o\r\n\r\n"));
    for (message, data) in [
        (r#""x""#, r#""x""#),
        (r#""  \u0000\n\r ""#, r#""  \u0000\n\r ""#),
        // The client decodes percent-encoding in what it reads.
        (r#""100 % of %41""#, r#""100 %25 of %2541""#),
    ] {
        session.send(&format!("[{message}]"));
        assert_eq!(events.chunk(), Some(format!("data: a[{data}]\r\n\r\n")), "{message}");
    }
}

#[test]
fn the_page_of_the_htmlfile_transport() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let (mut page, head, prelude) = session.stream("GET", "htmlfile?c=%63allback");
    has_type(&head, "text/html;charset=utf-8");
    is_not_cached(&head);
    assert!(prelude.len() > 1024, "browsers show nothing before that");
    let lines: Vec<_> = prelude.trim().lines().collect();
    assert_eq!(lines, HTMLFILE.lines().collect::<Vec<_>>());
    assert_eq!(page.chunk(), Some(script("o")));
    session.send("[\"x\"]");
    assert_eq!(page.chunk(), Some(script("a[\\\"x\\\"]")));
    // No message ends the script.
    session.send("[\"</script><script>alert(1)</script>\"]");
    let frame = page.chunk().expect("a frame");
    assert_eq!(frame.matches("</script>").count(), 1, "{frame}");
    assert_eq!(frame.matches("<script>").count(), 1, "{frame}");
}

const HTMLFILE: &str = r#"<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.callback;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>"#;

#[test]
fn callbacks_are_names() {
    let server = echo_server();
    for transport in ["htmlfile", "jsonp"] {
        for (query, sentence) in [
            ("", "\"callback\" parameter required"),
            ("?c=", "\"callback\" parameter"),
            ("?d=x", "\"callback\" parameter required"),
            ("?c=%20", "invalid \"callback\" parameter"),
            ("?c=*", "invalid \"callback\" parameter"),
            ("?c=abc(", "invalid \"callback\" parameter"),
            ("?c=abc%28", "invalid \"callback\" parameter"),
            ("?c=%3C%2Fscript%3E", "invalid \"callback\" parameter"),
        ] {
            let answer = ask(&server, &format!("GET {ECHO}/a/a/{transport}{query}"), "", "");
            assert_eq!(answer.status, 500, "{transport}{query}: {answer:?}");
            assert!(answer.body.contains(sentence), "{transport}{query}: {answer:?}");
        }
    }
    // None of these has opened a session.
    assert_eq!(
        ask(&server, &format!("GET {ECHO}/a/a/jsonp?c=A-b_c.9"), "", "").body,
        "/**/A-b_c.9(\"o\");\r\n"
    );
}

#[test]
fn polling_with_scripts() {
    let server = echo_server();
    let session = Session::new(&server, ECHO);
    let answer = session.get("jsonp?c=%63allback", "");
    assert_eq!((answer.status, answer.body.as_str()), (200, "/**/callback(\"o\");\r\n"), "{answer:?}");
    has_type(&answer, "application/javascript;charset=utf-8");
    is_not_cached(&answer);
    let answer = session.post("jsonp_send", FORM, "d=%5B%22x%22%5D");
    // Not 204: some browsers do nothing with it.
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{answer:?}");
    has_type(&answer, "text/plain;charset=utf-8");
    is_not_cached(&answer);
    assert_eq!(session.get("jsonp?c=x", "").body, "/**/x(\"a[\\\"x\\\"]\");\r\n");
    assert_eq!(session.post("jsonp_send", FORM, "d=%5B%5D").body, "ok");
    assert_eq!(session.post("jsonp_send", FORM, "a=b&d=%5B%22one+two%22%5D").body, "ok");
    assert_eq!(session.post("jsonp_send", "Content-Type: text/plain\r\n", "[\"%61+b\"]").body, "ok");
    assert_eq!(session.get("jsonp?c=x", "").body, "/**/x(\"a[\\\"one two\\\",\\\"%61+b\\\"]\");\r\n");
}
