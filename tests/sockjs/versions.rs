//! Keep-alive, chunks, and where an answer ends, in both versions of HTTP/1.

use super::support::http::{Http, request};
use super::{CLOSE, ECHO, GO_AWAY, Session, echo_server};

const KEEP_ALIVE: &str = "Connection: Keep-Alive\r\n";

#[test]
fn a_greeting_in_http_1_1_keeps_the_connection() {
    let server = echo_server();
    let mut http = Http::connect(&server);
    for _ in 0..3 {
        let answer = http.ask(&format!("GET {ECHO}"), KEEP_ALIVE, "");
        assert!(answer.head.starts_with("HTTP/1.1 200 "), "{answer:?}");
        assert_eq!((answer.field("Content-Length"), answer.field("Transfer-Encoding")), (Some("19"), None));
        let connection = answer.field("Connection").unwrap_or_default().to_lowercase();
        assert!(["", "keep-alive"].contains(&connection.as_str()), "{answer:?}");
    }
}

#[test]
fn a_greeting_in_http_1_0() {
    let server = echo_server();
    let mut http = Http::connect(&server);
    for _ in 0..2 {
        http.send(&format!("GET {ECHO} HTTP/1.0\r\n{KEEP_ALIVE}\r\n"));
        let answer = http.answer();
        assert_eq!((answer.status, answer.body.len()), (200, 19), "{answer:?}");
        assert_eq!(answer.field("Transfer-Encoding"), None);
        assert_eq!(answer.field("Connection").map(str::to_lowercase).as_deref(), Some("keep-alive"));
    }
    http.send(&format!("GET {ECHO} HTTP/1.0\r\n\r\n"));
    assert_eq!(http.answer().field("Connection"), Some("close"));
    assert_eq!(http.rest(), "");
}

#[test]
fn a_stream_in_http_1_0_ends_with_the_connection() {
    let server = echo_server();
    let session = Session::new(&server, CLOSE);
    let mut http = Http::connect(&server);
    http.send(&format!(
        "POST {}/xhr_streaming HTTP/1.0\r\n{KEEP_ALIVE}Content-Length: 0\r\n\r\n",
        session.path
    ));
    let head = http.head();
    assert_eq!(head.status, 200, "{head:?}");
    assert_eq!((head.field("Transfer-Encoding"), head.field("Content-Length")), (None, None), "{head:?}");
    assert_eq!(http.rest(), format!("{}\no\n{GO_AWAY}\n", "h".repeat(2048)));
}

/// The end of a stream is not that of its connection, nor is the end of a session.
#[test]
fn requests_of_many_sessions_share_a_connection() {
    let server = echo_server();
    let mut http = Http::connect(&server);
    for _ in 0..20 {
        let session = Session::new(&server, CLOSE);
        http.send(&request(&format!("POST {}/xhr_streaming", session.path), "", ""));
        let head = http.head();
        assert_eq!(head.status, 200);
        let mut content = String::new();
        while let Some(chunk) = http.chunk() {
            content.push_str(&chunk);
        }
        if head.field("Connection") == Some("close") {
            http = Http::connect(&server);
        }
        assert!(content.ends_with(&format!("h\no\n{GO_AWAY}\n")), "{content}");
        let session = Session::new(&server, ECHO);
        assert_eq!(http.ask(&format!("POST {}/xhr", session.path), "", "").body, "o\n");
        // Pipelined: sent before the first of them is answered.
        let send = |message: &str| request(&format!("POST {}/xhr_send", session.path), "", message);
        let poll = request(&format!("POST {}/xhr", session.path), "", "");
        http.send(&(send("[\"a\"]") + &send("[\"b\"]") + &poll + &send("[\"c\"]") + &poll));
        let answers: Vec<_> = (0..5).map(|_| http.answer()).collect();
        assert_eq!(answers.iter().map(|it| it.status).collect::<Vec<_>>(), [204, 204, 200, 204, 200]);
        let received: Vec<String> = [&answers[2].body, &answers[4].body]
            .iter()
            .flat_map(|body| serde_json::from_str::<Vec<String>>(body.trim_start_matches('a')).expect("JSON"))
            .collect();
        assert_eq!(received[..2], ["a", "b"]);
    }
}
