//! The opening handshake: any split of the input gives the whole's result; httparse reads the same head;
//! tungstenite accepts what we accept, with the same key.
//!
//! The first byte of the input is where the rest is cut; so the rest can be read, and written, as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::http::{
    Framing, Head, HeadLimits, OriginRule, OriginRules, Reject, accept_into, check_upgrade, is_upgrade,
    parse_head, percent_decode, query_value,
};
use stentor::ws::Step;
use tungstenite::handshake::server::create_response;
use tungstenite::http::{Request, Version};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 2048 };

/// What the tests compare of a head.
type Parts = (String, String, Option<String>, u8, usize);

fn parts(step: Result<Step<Head<'_>>, Reject>) -> Result<Option<Parts>, Reject> {
    Ok(match step? {
        Step::NeedMore => None,
        Step::Done(head) => Some((
            head.method.to_owned(),
            head.path.to_owned(),
            head.query.map(str::to_owned),
            head.minor_version,
            head.len,
        )),
    })
}

/// Pieces of 1 to 16 bytes, or one piece and the rest.
fn in_pieces(bytes: &[u8], cut: u8) -> Result<Option<Parts>, Reject> {
    let (mut scanned, mut end) = (0, 0);
    loop {
        end = match (cut, end) {
            (0..16, _) => end + 1 + usize::from(cut),
            (_, 0) => usize::from(cut),
            _ => bytes.len(),
        }
        .min(bytes.len());
        let step = parts(parse_head(&bytes[..end], &mut scanned, &LIMITS));
        if step != Ok(None) || end == bytes.len() {
            return step;
        }
    }
}

fn agrees_with_httparse(bytes: &[u8], head: &Head<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(head.len)));
    assert_eq!((request.method, request.version), (Some(head.method), Some(head.minor_version)));
    assert!(
        request
            .path
            .is_some_and(|target| target.contains(head.path) || head.path == "/" || head.path.is_empty())
    );
    for field in request.headers.iter() {
        assert!(head.fields(field.name).any(|value| value == field.value));
    }
    // What could hide another request behind this one.
    let lengths = head.fields("Content-Length").count() + head.fields("Transfer-Encoding").count();
    assert!(lengths <= 1 && (lengths == 1 || head.framing == Framing::None));
    assert!(head.framing != Framing::Chunked || head.minor_version == 1);
    assert!(head.only_field("Host").is_some() || head.minor_version == 0);
}

fn agrees_with_tungstenite(head: &Head<'_>, answer: &[u8]) {
    let version = if head.minor_version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request = Request::builder().method(head.method).uri("/").version(version);
    let names = ["Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key"];
    for name in names {
        for value in head.fields(name) {
            request = request.header(name, value);
        }
    }
    // It knows one word in Upgrade, and one Connection, of ASCII; we take the lists of RFC 9110.
    let plain = |value: &[u8]| value.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic());
    if !head.only_field("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        || !head.only_field("Connection").is_some_and(plain)
    {
        return;
    }
    // It refuses a key whose last bits are not zero, like the one of the example in RFC 6455 §4.1; we take
    // what decodes to 16 bytes.
    if !head
        .only_field("Sec-WebSocket-Key")
        .is_some_and(|key| key.get(21).is_some_and(|last| b"AQgw".contains(last)))
    {
        return;
    }
    let expected = create_response(&request.body(()).expect("fields that httparse took"))
        .expect("it accepts what we accept");
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(response.parse(answer), Ok(httparse::Status::Complete(answer.len())));
    assert_eq!(response.code, Some(101));
    let key = response.headers.iter().find(|field| field.name == "Sec-WebSocket-Accept").expect("a key");
    assert_eq!(key.value, expected.headers()["Sec-WebSocket-Accept"].as_bytes());
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = parse_head(bytes, &mut 0, &LIMITS);
    assert_eq!(in_pieces(bytes, cut), parts(parse_head(bytes, &mut 0, &LIMITS)));
    let Ok(Step::Done(head)) = whole else { return };
    assert!(head.len <= LIMITS.head_bytes_max);
    agrees_with_httparse(bytes, &head);
    let _ = (percent_decode(head.path), query_value(head.query, "room"));
    for rules in [
        vec![OriginRule::SameHost],
        vec![OriginRule::Any],
        vec![OriginRule::Exact("https://a.example".into())],
    ] {
        let open = rules == [OriginRule::Any];
        let Ok(upgrade) = check_upgrade(&head, &OriginRules(rules), true) else { continue };
        let mut answer = Vec::new();
        accept_into(&mut answer, &upgrade, head.offers_subprotocol("chat").then_some("chat"));
        if open && is_upgrade(&head) {
            agrees_with_tungstenite(&head, &answer);
        }
    }
});
