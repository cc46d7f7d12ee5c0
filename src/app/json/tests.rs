//! The lines of the protocol, byte for byte.

use super::*;
use crate::base::Time;
use crate::chat::{Body, ClientId, Epoch, Member, Person, Position, PresenceEvent, Publication, Recovered};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What [`member`] has as its client's id.
const CLIENT: &str = "00000000-0000-8000-8000-000000000000";

fn member(info: Option<&str>) -> Member {
    let person = Person::new(ClientId::new(0, 5), "u\"1".into(), "An\nn".into(), info.map(Arc::from));
    Member::new(Arc::new(person), None)
}

fn publication_of(body: Body, info: Option<&str>) -> Publication {
    Publication {
        position: Some(Position { epoch: Epoch::from_random(1), offset: 7 }),
        accepted: Time::ZERO,
        unix_ms: 1000,
        author: member(info),
        body,
        json: std::sync::OnceLock::new(),
    }
}

fn data(json: &'static str) -> Arc<Publication> {
    Arc::new(publication_of(Body::Data(Bytes::from_static(json.as_bytes())), None))
}

fn read(bytes: &[u8]) -> Value {
    assert!(!bytes.contains(&b'\n'), "a line is a line");
    serde_json::from_slice(bytes).unwrap()
}

/// A line is `expected`, with [`member`] for `AUTHOR` and its client's id for `CLIENT`.
fn check(line: &[u8], expected: &str) {
    let expected =
        expected.replace("AUTHOR", r#"{"user":"u\"1","client":"CLIENT"}"#).replace("CLIENT", CLIENT);
    assert_eq!(std::str::from_utf8(line).unwrap(), expected);
    read(line);
}

fn check_reply(reply: Reply<'_>, expected: &str) {
    let mut line = Vec::new();
    reply_into(&mut line, 3, &reply);
    check(&line, &format!("{{\"id\":3,{expected}}}"));
}

#[test]
fn a_plain_text_is_an_object_with_name_and_text() {
    let text = publication_of(Body::Text(Bytes::from_static("hi \"you\"\n\u{2028}".as_bytes())), None);
    check(
        &push("a\"b", &publication(&text, true)),
        "{\"push\":{\"channel\":\"a\\\"b\",\"pub\":{\"data\":{\"name\":\"An\\nn\",\"text\":\"hi \\\"you\\\"\\n\u{2028}\"},\
         \"offset\":7,\"info\":AUTHOR,\"time\":1000}}}",
    );
}

#[test]
fn published_json_is_unchanged() {
    let data = Bytes::from(compact("{ \"a\" : [1.50, \"x y\\\" \\\\\" ,\n 3] }"));
    assert_eq!(&data[..], br#"{"a":[1.50,"x y\" \\",3]}"#);
    let mut kept = publication_of(Body::Data(data), Some("{\"n\":1.0}"));
    check(
        &publication(&kept, false),
        r#"{"data":{"a":[1.50,"x y\" \\",3]},"info":{"user":"u\"1","client":"CLIENT","conn_info":{"n":1.0}},"time":1000}"#,
    );
    kept.author = Member::new(Arc::clone(&kept.author.person), Some("[ ]".into()));
    kept.body = Body::Data(Bytes::from_static(b"null"));
    check(
        &publication(&kept, true),
        r#"{"data":null,"offset":7,"info":{"user":"u\"1","client":"CLIENT","conn_info":{"n":1.0},"chan_info":[ ]},"time":1000}"#,
    );
    // By an anonymous client, without a position.
    kept.position = None;
    kept.author = Member::new(Arc::new(Person::anonymous(ClientId::new(0, 5), "x".into())), None);
    check(
        &publication(&kept, true),
        r#"{"data":null,"offset":0,"info":{"user":"","client":"CLIENT"},"time":1000}"#,
    );
}

#[test]
fn json_for_plain_members() {
    for (data, expected) in [
        (r#"{"name":"x","text":"a\nb"}"#, "a\nb"),
        (r#""hello""#, "hello"),
        ("5", "5"),
        (r#"{"text":5}"#, r#"{"text":5}"#),
        (r#"{"text":null}"#, r#"{"text":null}"#),
        (r#"{"text":"a","text":"b"}"#, r#"{"text":"a","text":"b"}"#),
        (r#"["a"]"#, r#"["a"]"#),
        ("null", "null"),
        ("[1]", "[1]"),
    ] {
        assert_eq!(plain_text(data.as_bytes()), expected);
    }
}

#[test]
fn presence_events_are_a_line_each() {
    let events = [PresenceEvent::Join(member(Some("5"))), PresenceEvent::Leave(member(None))];
    let lines = presence_events("r", &events, false);
    let lines: Vec<_> = lines.split(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len(), 2);
    check(
        lines[0],
        r#"{"push":{"channel":"r","join":{"info":{"user":"u\"1","client":"CLIENT","conn_info":5}}}}"#,
    );
    check(lines[1], r#"{"push":{"channel":"r","leave":{"info":AUTHOR}}}"#);
    assert!(presence_events("r", &[], false).is_empty());
}

#[test]
fn the_end_of_a_subscription_has_its_reason() {
    let mut line = Vec::new();
    unsubscribe_into(&mut line, "r", Unsubscribe::Insufficient, false);
    check(&line, r#"{"push":{"channel":"r","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#);
}

#[test]
fn clients_that_only_listen_get_pushes_without_the_envelope() {
    let bare = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    };
    assert_eq!(bare_push("r", b"{}"), br#"{"channel":"r","pub":{}}"#);
    let left = PresenceEvent::Leave(member(None));
    check(&presence_events("r", &[left], true), r#"{"channel":"r","leave":{"info":AUTHOR}}"#);
    let end = bare(&|out| unsubscribe_into(out, "r", Unsubscribe::Expired, true));
    assert_eq!(end, r#"{"channel":"r","unsubscribe":{"code":2501,"reason":"subscription expired"}}"#);
    let end = bare(&|out| disconnect_into(out, 3001, "shutdown", true));
    assert_eq!(end, r#"{"disconnect":{"code":3001,"reason":"shutdown"}}"#);
    let end = bare(&|out| disconnect_into(out, 3001, "shutdown", false));
    assert_eq!(end, r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#);
}

#[test]
fn subscriptions_echo_the_offset_only_when_recovered() {
    let recovery = |recovered| Recovered {
        top: Position { epoch: Epoch::from_random(255), offset: 9 },
        publications: Vec::new(),
        recovered,
    };
    let subscribed = |recovered, positioned, expected: &str| {
        let recovery = recovery(recovered);
        let result = Subscribed::new(&recovery, positioned, Some(4), None, None);
        check(&result.to_json(), expected);
        check_reply(Reply::Subscribe(result), &format!("\"subscribe\":{expected}"));
    };
    let base = r#""recoverable":true,"positioned":true,"epoch":"000000ff""#;
    subscribed(None, true, &format!("{{{base},\"offset\":9}}"));
    subscribed(
        Some(true),
        true,
        &format!("{{{base},\"offset\":4,\"was_recovering\":true,\"recovered\":true}}"),
    );
    subscribed(Some(false), true, &format!("{{{base},\"offset\":9,\"was_recovering\":true}}"));
    subscribed(None, false, "{}");
    subscribed(Some(true), false, r#"{"was_recovering":true,"recovered":true}"#);
}

#[test]
fn subscriptions_have_publications_an_expiry_and_data() {
    let recovery = Recovered {
        top: Position { epoch: Epoch::from_random(255), offset: 9 },
        publications: vec![data("1"), data("{\"a\":2}")],
        recovered: None,
    };
    let expires_in = Some(Duration::from_millis(1500));
    let object = |data| format!(r#"{{"data":{data},"offset":7,"info":AUTHOR,"time":1000}}"#);
    let (one, other) = (object("1"), object("{\"a\":2}"));
    check(
        &Subscribed::new(&recovery, false, None, expires_in, Some("[1 ]")).to_json(),
        &format!(r#"{{"publications":[{one},{other}],"expires":true,"ttl":2,"data":[1 ]}}"#),
    );
}

#[test]
fn the_reply_to_connect_lists_the_joined_rooms() {
    let connected = |ping, expires_in, data, subs: &[ServerSubscription], expected: &str| {
        let result = Connected::new(ClientId::new(0, 5), ping, expires_in, data, subs);
        let version = env!("CARGO_PKG_VERSION");
        let expected =
            format!("\"connect\":{{\"client\":\"CLIENT\",\"version\":\"stentor {version}\"{expected}}}");
        check_reply(Reply::Connect(result), &expected);
    };
    connected(Duration::ZERO, None, None, &[], "");
    let subs = [("a\"b".into(), b"{\"offset\":1}".as_slice().into()), ("c".into(), b"{}".as_slice().into())];
    connected(
        Duration::from_millis(24_500),
        Some(Duration::MAX),
        Some(b"{\"x\":1 }"),
        &subs,
        r#","ping":25,"pong":true,"expires":true,"ttl":31536000,"data":{"x":1 },"subs":{"a\"b":{"offset":1},"c":{}}"#,
    );
}

#[test]
fn an_expiry_is_at_most_a_year() {
    const YEAR: u64 = 31_536_000;
    // 0 would be none.
    for (expires_in, ttl) in [(0, 1), (1, 1), (YEAR, YEAR), (YEAR + 1, YEAR), (u64::MAX, YEAR)] {
        let expiry = Expiry::from(Some(Duration::from_secs(expires_in)));
        check_reply(Reply::Refresh(expiry), &format!("\"refresh\":{{\"expires\":true,\"ttl\":{ttl}}}"));
    }
    check_reply(Reply::SubRefresh(None.into()), r#""sub_refresh":{}"#);
}

#[test]
fn a_truncated_presence_is_marked() {
    let members = [member(None), member(Some("{}"))];
    check_reply(
        Reply::Presence(PresencePage::new(&members, 2)),
        r#""presence":{"presence":{"CLIENT":AUTHOR,"CLIENT":{"user":"u\"1","client":"CLIENT","conn_info":{}}}}"#,
    );
    check_reply(
        Reply::Presence(PresencePage::new(&members[..1], 2)),
        r#""presence":{"presence":{"CLIENT":AUTHOR},"truncated":true,"num_clients":2}"#,
    );
    check_reply(Reply::Presence(PresencePage::new(&[], 0)), r#""presence":{"presence":{}}"#);
}

#[test]
fn results_of_queries() {
    let top = Position { epoch: Epoch::from_random(255), offset: 9 };
    check_reply(
        Reply::History(HistoryPage::new(&[data("[]")], &top)),
        r#""history":{"publications":[{"data":[],"offset":7,"info":AUTHOR,"time":1000}],"offset":9,"epoch":"000000ff"}"#,
    );
    check_reply(
        Reply::History(HistoryPage::new(&[], &top)),
        r#""history":{"publications":[],"offset":9,"epoch":"000000ff"}"#,
    );
    check_reply(
        Reply::PresenceStats(PresenceStats { num_clients: 3, num_users: 0 }),
        r#""presence_stats":{"num_clients":3,"num_users":0}"#,
    );
    let delivery = Delivery { members: 3, sent: 2, lagging: 0 };
    check_reply(
        Reply::Rpc(RpcResult { data: delivery }),
        r#""rpc":{"data":{"members":3,"sent":2,"lagging":0}}"#,
    );
    check_reply(Reply::Publish(Empty {}), r#""publish":{}"#);
    check_reply(Reply::Unsubscribe(Empty {}), r#""unsubscribe":{}"#);
}

#[test]
fn errors_have_a_temporary_flag() {
    let (code, message, temporary) = ErrorCode::TooManyRequests.parts();
    check_reply(
        Reply::Error(ErrorReply { code, message, temporary }),
        r#""error":{"code":111,"message":"too many requests","temporary":true}"#,
    );
    check_reply(
        Reply::Error(ErrorReply { code: 1999, message: "\"no\"\n", temporary: false }),
        r#""error":{"code":1999,"message":"\"no\"\n"}"#,
    );
}

proptest! {
    /// What a history counts before the JSON is made covers it.
    #[test]
    fn json_is_no_longer_than_it_is_counted(
        text in "[\\x00-\\x7F\u{e9}\u{2028}]{0,60}",
        user in "[\\x00-\\x7F]{0,20}",
        name in "[\\x00-\\x7F]{1,20}",
        info in proptest::option::of(Just("{\"a\":1}")),
        is_data: bool,
    ) {
        let body = if is_data {
            Body::Data(serde_json::to_vec(&text).unwrap().into())
        } else {
            Body::Text(text.into())
        };
        let person = Person::new(ClientId::new(0, 5), user.into(), name.into(), info.map(Arc::from));
        let author = Member::new(Arc::new(person), info.map(Arc::from));
        let position = Position { epoch: Epoch::from_random(1), offset: (1 << 53) - 1 };
        let whole = Publication { author, position: Some(position), unix_ms: u64::MAX, ..publication_of(body, None) };
        let counted = whole.json_bytes_max();
        let made = publication(&whole, true).len();
        prop_assert!(made <= counted && counted <= made + 120, "{made} bytes, counted as {counted}");
    }
}
