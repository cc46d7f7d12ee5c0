//! Heads that are right, and heads that are not.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1024 };

fn parse(bytes: &[u8]) -> Result<Step<(String, Option<String>, usize)>, Reject> {
    parse_head(bytes, &mut 0, &LIMITS).map(|step| match step {
        Step::NeedMore => Step::NeedMore,
        Step::Done(head) => Step::Done((head.path.to_owned(), head.query.map(str::to_owned), head.len)),
    })
}

fn check(request: &str, expected: Result<(&str, Option<&str>), Reject>) {
    let expected =
        expected.map(|(path, query)| Step::Done((path.to_owned(), query.map(str::to_owned), request.len())));
    assert_eq!(parse(request.as_bytes()), expected, "{request:?}");
}

#[test]
fn targets() {
    check("GET /a%20b?c=d?e HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/a%20b", Some("c=d?e"))));
    check("GET HTTP://h:80/x?y HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/x", Some("y"))));
    check("GET ws://h HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/", None)));
    check("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/", Some("q"))));
    check("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
    check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.0\r\n\r\n", Ok(("/", None)));
    for bare in [
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        check(bare, Err(Reject::Malformed));
    }
}

/// The result of `of` for a request with these further lines.
fn parsed<T>(lines: &str, of: impl Fn(&Head<'_>) -> T) -> T {
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let Ok(Step::Done(head)) = parse_head(request.as_bytes(), &mut 0, &LIMITS) else { panic!("{lines}") };
    of(&head)
}

#[test]
fn the_host_is_that_of_an_absolute_target() {
    for (line, host) in [
        ("GET / HTTP/1.1", Some("a:1")),
        ("GET http://b/ HTTP/1.1", Some("b")),
        ("GET WSS://b:2?q HTTP/1.1", Some("b:2")),
    ] {
        let request = format!("{line}\r\nHost: a:1\r\n\r\n");
        let Ok(Step::Done(head)) = parse_head(request.as_bytes(), &mut 0, &LIMITS) else { panic!("{line}") };
        assert_eq!(head.host, host, "{line}");
    }
    check("GET http://b/ HTTP/1.1\r\n\r\n", Err(Reject::Host));
    check("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", Err(Reject::Host));
}

#[test]
fn hosts() {
    for valid in ["", "h", "h:80", "[::1]:8080", "127.0.0.1", "a-b.example"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {valid}\r\n\r\n"), Ok(("/", None)));
    }
    for invalid in
        ["a b", "a,b", "u@h", "h/x", "h?", "h#", "h\\x", "h:x", "h:1:2", "[::1", "::1", "[::1]x", "h%"]
    {
        check(&format!("GET / HTTP/1.1\r\nHost: {invalid}\r\n\r\n"), Err(Reject::Host));
    }
    check("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Err(Reject::Host));
    check("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", Err(Reject::Host));
}

#[test]
fn bearer_tokens() {
    for (lines, token) in [
        ("", None),
        ("Authorization: Bearer a.b-c_d~+/==\r\n", Some("a.b-c_d~+/==")),
        ("Authorization: bearer x\r\n", Some("x")),
        ("authorization: BEARER    x \r\n", Some("x")),
        ("Authorization: Bearer\r\n", None),
        ("Authorization: Bearer \r\n", None),
        ("Authorization: Bearerx\r\n", None),
        ("Authorization: Basic x\r\n", None),
        ("Authorization: Bearer x y\r\n", None),
        ("Authorization: Bearer \u{fc}\r\n", None),
        ("Authorization: Bearer\tx\r\n", None),
        ("Authorization: Bearer x\r\nAuthorization: Bearer x\r\n", None),
        ("Authorization: Basic x\r\nAuthorization: Bearer x\r\n", None),
    ] {
        assert_eq!(parsed(lines, |head| head.bearer_token().map(str::to_owned)).as_deref(), token, "{lines}");
    }
}

#[test]
fn subprotocols_are_compared_exactly() {
    for (lines, offered) in [
        ("", false),
        ("Sec-WebSocket-Protocol: chat\r\n", true),
        ("Sec-WebSocket-Protocol: soap,,\tchat ,\r\n", true),
        ("Sec-WebSocket-Protocol: soap\r\nsec-websocket-protocol: chat\r\n", true),
        ("Sec-WebSocket-Protocol: a b, chat\r\n", true),
        ("Sec-WebSocket-Protocol: CHAT\r\n", false),
        ("Sec-WebSocket-Protocol: chat2, superchat\r\n", false),
        ("Sec-WebSocket-Protocol: \"chat\"\r\n", false),
        ("Sec-WebSocket-Protocol: \"a, chat\r\n", false),
        ("Sec-WebSocket-Protocol: chat;q=1\r\n", false),
    ] {
        assert_eq!(parsed(lines, |head| head.offers_subprotocol("chat")), offered, "{lines}");
    }
    assert!(!parsed("Sec-WebSocket-Protocol: ,\r\n", |head| head.offers_subprotocol("")));
}

#[test]
fn preconditions() {
    use Precondition::{Failed, Holds, NotModified};
    for (lines, expected) in [
        ("", Holds),
        ("If-None-Match: \"a\"\r\n", NotModified),
        ("If-None-Match: W/\"a\"\r\n", NotModified),
        ("If-None-Match: \"b\", \"a\"\r\n", NotModified),
        ("If-None-Match: \"b\"\r\nIf-None-Match: \"c,\", W/\"a\"\r\n", NotModified),
        ("If-None-Match: *\r\n", NotModified),
        ("If-None-Match: \"*\"\r\n", Holds),
        ("If-None-Match: a\r\n", Holds),
        ("If-None-Match: \"A\"\r\n", Holds),
        ("If-None-Match: \"b\", \"a\r\n", Holds),
        ("If-Match: \"a\"\r\n", Holds),
        ("If-Match: *\r\n", Holds),
        ("If-Match: \"b\", \"a\"\r\nIf-None-Match: \"a\"\r\n", NotModified),
        ("If-Match: W/\"a\"\r\n", Failed),
        ("If-Match: \"b\"\r\nIf-None-Match: \"a\"\r\n", Failed),
        ("If-Match: \r\n", Failed),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", Holds),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", Holds),
    ] {
        assert_eq!(parsed(lines, |head| head.precondition("\"a\"")), expected, "{lines}");
        assert_eq!(
            parsed(lines, |head| head.matches_etag("\"a\"")),
            expected == NotModified || lines.contains("If-None-Match: \"a\""),
            "{lines}"
        );
    }
    assert_eq!(parsed("If-None-Match: \"a\"\r\n", |head| head.precondition("W/\"a\"")), NotModified);
}

#[test]
fn whether_a_connection_goes_on() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: CLOSE\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x\r\nConnection: y,close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: \"x, close\"\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
    ] {
        let Ok(Step::Done(head)) = parse_head(request.as_bytes(), &mut 0, &LIMITS) else {
            panic!("{request}")
        };
        assert_eq!(head.keep_alive(), expected, "{request}");
    }
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    check("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("/", None)));
    assert!(is_head_request(b"HEAD / HTTP/1.1") && is_head_request(b"\r\nHEAD /"));
    assert!(!is_head_request(b"GET /") && !is_head_request(b"HEADER /") && !is_head_request(b""));
}

#[test]
fn expectations_and_accepted_types() {
    for (lines, expected) in [
        ("", Ok(false)),
        ("Expect: 100-continue\r\n", Ok(true)),
        ("Expect: 100-Continue, 100-continue\r\n", Ok(true)),
        ("Expect: \r\n", Ok(false)),
        ("Expect: 100-continue, magic\r\n", Err(Reject::Expectation)),
        ("Expect: 100\r\n", Err(Reject::Expectation)),
    ] {
        assert_eq!(parsed(lines, |head| head.expects_continue()), expected, "{lines}");
    }
    for (lines, expected) in [
        ("", false),
        ("Accept: */*\r\n", false),
        ("Accept: application/*\r\n", false),
        ("Accept: application/json\r\n", true),
        ("Accept: text/plain, Application/JSON ;q=0.5\r\n", true),
        ("Accept: application/jsonp\r\n", false),
    ] {
        assert_eq!(parsed(lines, |head| head.accepts("application/json")), expected, "{lines}");
    }
}

#[test]
fn request_smuggling() {
    check("GET / HTTP/1.1\r\n\r\n", Err(Reject::Host));
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Err(Reject::Host));
    check("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(Reject::Host));
    check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", Ok(("/", None)));
    check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", Ok(("/", None)));
    check("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(("/", None)));
    check("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\nHost: h\r\nX\t: a\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\n Host: h\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 5\r\n\r\n", Err(Reject::Framing));
    check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -0\r\n\r\n", Err(Reject::Framing));
    check(
        "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: x\r\nContent-Length: 0\r\n\r\n",
        Err(Reject::Framing),
    );
    check("GET /\r HTTP/1.1\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
    check("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", Err(Reject::Malformed));
    check("GET / HTTP/2.0\r\nHost: h\r\n\r\n", Err(Reject::Malformed));
}

#[test]
fn other_protocols_are_refused_before_the_end() {
    assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01"), Err(Reject::Malformed));
    assert_eq!(parse(b"SSH-2.0-OpenSSH_9.2\r\n"), Err(Reject::Malformed));
    assert_eq!(parse(b"GET / HTTP/1.1\r\nHo"), Ok(Step::NeedMore));
}

#[test]
fn garbage_is_garbage_however_much_comes_at_once() {
    let garbage = [0x16; 3000];
    assert_eq!(parse(&garbage[..10]), Err(Reject::Malformed));
    assert_eq!(parse(&garbage), Err(Reject::Malformed));
}

#[test]
fn floods_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(1024));
    assert_eq!(parse(long.as_bytes()), Err(Reject::HeadTooLong));
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(1024));
    assert_eq!(parse(target.as_bytes()), Err(Reject::TargetTooLong));
    assert_eq!(parse(&target.as_bytes()[..1024]), Err(Reject::TargetTooLong));
    assert_eq!(parse(&target.as_bytes()[..1023]), Ok(Step::NeedMore));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A:\r\n".repeat(64));
    assert_eq!(parse(many.as_bytes()), Err(Reject::HeadTooLong));
}

#[test]
fn percent_encoding() {
    assert_eq!(percent_decode("a%20b+c").as_deref(), Ok("a b+c"));
    assert_eq!(percent_decode("%f0%9F%99%82").as_deref(), Ok("🙂"));
    for bad in ["%", "%2", "%zz", "a%", "%ff", "%c3"] {
        assert_eq!(percent_decode(bad), Err(Reject::Encoding), "{bad}");
    }
    assert_eq!(query_value(Some("x=1&room=a+b%2B&room=z"), "room"), Ok(Some("a b+".into())));
    assert_eq!(query_value(Some("rooms=1"), "room"), Ok(None));
    assert_eq!(query_value(Some("room"), "room"), Ok(Some("".into())));
}

proptest! {
    #[test]
    fn any_split_equals_the_whole(
        request in prop_oneof![
            Just("GET /ws/a?room=b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\nrest".to_owned()),
            Just("GET / HTTP/1.1\nHost: h\n\n".to_owned()),
            "GET /[a-z]{0,5} HTTP/1\\.[01](\r\n|\n)(Host: h\r\n)?([A-Za-z-]{1,5}: ?[ -~]{0,9}\r?\n){0,4}\r?\n?[ -~]{0,9}",
        ],
        cuts in prop::collection::vec(1usize..20, 0..40),
    ) {
        let whole = parse(request.as_bytes());
        let (mut end, mut scanned, mut cuts) = (0, 0, cuts.into_iter());
        let in_pieces = loop {
            end = (end + cuts.next().unwrap_or(request.len())).min(request.len());
            let step = parse_head(&request.as_bytes()[..end], &mut scanned, &LIMITS);
            match step {
                Ok(Step::NeedMore) if end < request.len() => {}
                Ok(Step::NeedMore) => break Ok(Step::NeedMore),
                Ok(Step::Done(head)) => {
                    break Ok(Step::Done((head.path.to_owned(), head.query.map(str::to_owned), head.len)));
                }
                Err(reject) => break Err(reject),
            }
        };
        prop_assert_eq!(in_pieces, whole);
    }
}
