//! The Centrifuge protocol in JSON: a frame holds commands, or replies and pushes, one JSON object a line.
//!
//! What all members of a room get alike (publications, presence events) is a frame of its own, made once. Replies are made for
//! the client that sent the command.

mod check;
pub mod codes;
pub mod command;
mod field;

use bytes::Bytes;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use self::field::{Object, Text};
use crate::chat::{Body, Member, Position, PresenceEvent, Publication, Recovered};
pub use codes::{Disconnect, ErrorCode, Refusal, Unsubscribe};
pub use command::{Command, Method};

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "centrifuge-json";

/// The subprotocol of the same protocol's other encoding, which is not supported.
pub const OTHER_SUBPROTOCOL: &str = "centrifuge-protobuf";

/// A ping, and the answer to it.
pub const PING: &[u8] = b"{}";

/// `data` without white space between its tokens, as one line holds one object. `data` is valid JSON.
pub fn compact(data: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let (mut quoted, mut escaped) = (false, false);
    for &byte in data.as_bytes() {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            quoted = byte == b'"';
        }
        out.push(byte);
    }
    out
}

/// One publication as an object. Its offset stands there if the room keeps a history.
pub fn publication(publication: &Publication, positioned: bool) -> Bytes {
    let author = &publication.author;
    let mut out = Vec::with_capacity(publication.body.bytes().len() + 160);
    out.extend_from_slice(b"{\"data\":");
    match &publication.body {
        Body::Data(data) => out.extend_from_slice(data),
        Body::Text(text) => {
            out.extend_from_slice(b"{\"name\":");
            string_into(&mut out, &author.person.name);
            out.extend_from_slice(b",\"text\":");
            // It was checked when it came in.
            string_into(&mut out, std::str::from_utf8(text).unwrap_or_default());
            out.push(b'}');
        }
    }
    if positioned {
        append(&mut out, format_args!(",\"offset\":{}", publication.offset()));
    }
    out.extend_from_slice(b",\"info\":");
    info_into(&mut out, author);
    append(&mut out, format_args!(",\"time\":{}}}", publication.unix_ms));
    out.into()
}

/// A publication's push to the members of `channel`: the payload of a frame.
pub fn push(channel: &str, publication: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(channel.len() + publication.len() + 40);
    push_head_into(&mut out, channel);
    out.extend_from_slice(b"\"pub\":");
    out.extend_from_slice(publication);
    out.extend_from_slice(b"}}");
    out
}

/// Presence events for the members of `channel`: the payload of a frame, a line each.
pub fn presence_events(channel: &str, presence_events: &[PresenceEvent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(presence_events.len() * (channel.len() + 140));
    for (index, event) in presence_events.iter().enumerate() {
        if index > 0 {
            out.push(b'\n');
        }
        push_head_into(&mut out, channel);
        out.extend_from_slice(match event {
            PresenceEvent::Join(_) => b"\"join\":{\"info\":",
            PresenceEvent::Leave(_) => b"\"leave\":{\"info\":",
        });
        info_into(&mut out, event.member());
        out.extend_from_slice(b"}}}");
    }
    out
}

/// Appends a line that ends a member's subscription.
pub fn unsubscribe_into(out: &mut Vec<u8>, channel: &str, why: Unsubscribe) {
    let (code, reason) = why.parts();
    push_head_into(out, channel);
    append(out, format_args!("\"unsubscribe\":{{\"code\":{code},\"reason\":\"{reason}\"}}}}}}"));
}

/// Appends a line with the reply to command `id`: the `result` of `method`, an object.
pub fn reply_into(out: &mut Vec<u8>, id: u32, method: &str, result: &[u8]) {
    append(out, format_args!("{{\"id\":{id},\"{method}\":"));
    out.extend_from_slice(result);
    out.push(b'}');
}

/// Appends a line with the reply to command `id`: something is wrong.
pub fn error_into(out: &mut Vec<u8>, id: u32, code: u16, message: &str, temporary: bool) {
    append(out, format_args!("{{\"id\":{id},\"error\":{{\"code\":{code},\"message\":"));
    string_into(out, message);
    out.extend_from_slice(if temporary { b",\"temporary\":true}}" } else { b"}}" });
}

/// Heartbeats, identity and server in the answer to `connect`.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// The client's id.
    pub client: crate::chat::ClientId,
    /// Between two pings; zero: none are sent.
    pub ping: Duration,
    /// How long the identity holds.
    pub expires_in: Option<Duration>,
    /// Data of the auth backend for the client: JSON.
    pub data: Option<&'a [u8]>,
    /// The server-side subscriptions, with what [`subscribed`] has of each: JSON members, without braces.
    pub subs: &'a [u8],
}

/// The result of `connect`.
pub fn connected(welcome: &Welcome<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 + welcome.subs.len());
    let version = env!("CARGO_PKG_VERSION");
    append(&mut out, format_args!("{{\"client\":\"{}\",\"version\":\"stentor {version}\"", welcome.client));
    if !welcome.ping.is_zero() {
        append(&mut out, format_args!(",\"ping\":{},\"pong\":true", seconds(welcome.ping)));
    }
    expiry_into(&mut out, welcome.expires_in);
    if let Some(data) = welcome.data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
    }
    if !welcome.subs.is_empty() {
        out.extend_from_slice(b",\"subs\":{");
        out.extend_from_slice(welcome.subs);
        out.push(b'}');
    }
    out.push(b'}');
    out
}

/// The result of `subscribe`. `positioned`: the room keeps a history, so that one can resume. `requested_offset`: the
/// offset from which the client requested to recover. `data`: the data of its grant, compact JSON.
pub fn subscribed(
    recovery: &Recovered,
    positioned: bool,
    requested_offset: Option<u64>,
    expires_in: Option<Duration>,
    data: Option<&str>,
) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(140 + recovery.publications.iter().map(|it| object(it).len() + 1).sum::<usize>());
    out.push(b'{');
    if positioned {
        // A recovered client starts at its requested offset: each publication's own offset moves it forward.
        let offset = if recovery.recovered == Some(true) { requested_offset } else { None }
            .unwrap_or(recovery.top.offset);
        append(
            &mut out,
            format_args!(
                "\"recoverable\":true,\"positioned\":true,\"epoch\":\"{}\",\"offset\":{offset}",
                recovery.top.epoch
            ),
        );
    }
    if let Some(recovered) = recovery.recovered {
        separate(&mut out);
        out.extend_from_slice(b"\"was_recovering\":true");
        if recovered {
            out.extend_from_slice(b",\"recovered\":true");
        }
    }
    if !recovery.publications.is_empty() {
        separate(&mut out);
        publications_into(&mut out, &recovery.publications);
    }
    expiry_into(&mut out, expires_in);
    if let Some(data) = data {
        separate(&mut out);
        append(&mut out, format_args!("\"data\":{data}"));
    }
    out.push(b'}');
    out
}

/// A room and its [`subscribed`] result, as a member of an object.
pub fn named_into(out: &mut Vec<u8>, channel: &str, value: &[u8]) {
    if !out.is_empty() {
        out.push(b',');
    }
    string_into(out, channel);
    out.push(b':');
    out.extend_from_slice(value);
}

/// The result of `refresh` and `sub_refresh`.
pub fn refreshed(expires_in: Option<Duration>) -> Vec<u8> {
    let mut out = vec![b'{'];
    expiry_into(&mut out, expires_in);
    out.push(b'}');
    out
}

/// The result of `history`.
pub fn history(top: Position, publications: &[Arc<Publication>]) -> Vec<u8> {
    let mut out = vec![b'{'];
    publications_into(&mut out, publications);
    let Position { epoch, offset } = top;
    append(&mut out, format_args!(",\"offset\":{offset},\"epoch\":\"{epoch}\"}}"));
    out
}

/// The result of `presence`: the members, of `count`. If there are more, it is marked as truncated, with their number.
pub fn presence(members: &[Member], count: usize) -> Vec<u8> {
    let mut out = b"{\"presence\":{".to_vec();
    for (index, member) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        append(&mut out, format_args!("\"{}\":", member.person.client));
        info_into(&mut out, member);
    }
    out.push(b'}');
    if count > members.len() {
        append(&mut out, format_args!(",\"truncated\":true,\"num_clients\":{count}"));
    }
    out.push(b'}');
    out
}

/// The result of `presence_stats`.
pub fn presence_stats(clients: usize, users: usize) -> Vec<u8> {
    format!("{{\"num_clients\":{clients},\"num_users\":{users}}}").into_bytes()
}

/// What a plain member sees of JSON that was published: its member `text` if it has one, the text if it is one, else all of it.
pub fn plain_text(data: &[u8]) -> Cow<'_, str> {
    // It was checked when it came in.
    let data = std::str::from_utf8(data).unwrap_or_default();
    #[derive(Deserialize)]
    struct WithText<'a> {
        #[serde(borrow)]
        text: Text<'a>,
    }
    let text = match data.as_bytes().first() {
        Some(b'{') => serde_json::from_str(data).ok().map(|Object(WithText { text })| text),
        Some(b'"') => serde_json::from_str(data).ok(),
        _ => None,
    };
    text.map_or(Cow::Borrowed(data), |Text(text)| text)
}

/// A publication that a history keeps, as an object.
fn object(kept: &Publication) -> &[u8] {
    kept.json.get_or_init(|| publication(kept, true))
}

fn publications_into(out: &mut Vec<u8>, publications: &[Arc<Publication>]) {
    out.extend_from_slice(b"\"publications\":[");
    for (index, publication) in publications.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(object(publication));
    }
    out.push(b']');
}

fn push_head_into(out: &mut Vec<u8>, channel: &str) {
    out.extend_from_slice(b"{\"push\":{\"channel\":");
    string_into(out, channel);
    out.push(b',');
}

/// The protocol's `ClientInfo`.
fn info_into(out: &mut Vec<u8>, member: &Member) {
    let person = &member.person;
    out.extend_from_slice(b"{\"user\":");
    string_into(out, person.user());
    append(out, format_args!(",\"client\":\"{}\"", person.client));
    for (key, value) in [("conn_info", person.info()), ("chan_info", member.info())] {
        if let Some(value) = value {
            append(out, format_args!(",\"{key}\":{value}"));
        }
    }
    out.push(b'}');
}

/// The longest expiry in a reply. SDKs set a timer to it, some of at most 24 days, some of 32 bits of seconds; an
/// expiry that is further away is sent again when that one is over.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn expiry_into(out: &mut Vec<u8>, expires_in: Option<Duration>) {
    if let Some(expires_in) = expires_in {
        separate(out);
        append(out, format_args!("\"expires\":true,\"ttl\":{}", seconds(expires_in.min(TTL_MAX))));
    }
}

/// Between two members of an object; not before the first.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// Whole seconds, and at least one: less would read as none.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

fn string_into(out: &mut Vec<u8>, text: &str) {
    // Into memory it cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Into memory it cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Time;
    use crate::chat::{ClientId, Epoch, Person};
    use serde_json::{Value, json};

    fn member(info: Option<&str>) -> Member {
        let client = ClientId::new(0, 5);
        let person = Person::new(client, "u\"1".into(), "An\nn".into(), info.map(Arc::from));
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

    fn read(bytes: &[u8]) -> Value {
        assert!(!bytes.contains(&b'\n'), "a line is a line");
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_plain_text_is_an_object_with_name_and_text() {
        let text = publication_of(Body::Text(Bytes::from_static("hi \"you\"\n\u{2028}".as_bytes())), None);
        let client = ClientId::new(0, 5).to_string();
        assert_eq!(
            read(&push("a\"b", &publication(&text, true))),
            json!({"push": {"channel": "a\"b", "pub": {
                "data": {"name": "An\nn", "text": "hi \"you\"\n\u{2028}"}, "offset": 7,
                "info": {"user": "u\"1", "client": client}, "time": 1000,
            }}})
        );
    }

    #[test]
    fn published_json_is_unchanged() {
        let data = Bytes::from(compact("{ \"a\" : [1.50, \"x y\\\" \\\\\" ,\n 3] }"));
        assert_eq!(&data[..], br#"{"a":[1.50,"x y\" \\",3]}"#);
        let push = push("r", &publication(&publication_of(Body::Data(data), Some("{\"n\":1}")), false));
        let read = read(&push);
        assert_eq!(read["push"]["pub"]["data"], json!({"a": [1.5, "x y\" \\", 3]}));
        assert_eq!(read["push"]["pub"]["info"]["conn_info"], json!({"n": 1}));
        assert_eq!(read["push"]["pub"].get("offset"), None);
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
        let lines =
            presence_events("r", &[PresenceEvent::Join(member(None)), PresenceEvent::Leave(member(None))]);
        let lines: Vec<_> = lines.split(|&byte| byte == b'\n').map(read).collect();
        assert_eq!(lines[0]["push"]["join"]["info"]["user"], "u\"1");
        assert_eq!(lines[1]["push"]["leave"]["info"]["client"], ClientId::new(0, 5).to_string());
    }

    #[test]
    fn subscriptions_echo_the_offset_only_when_recovered() {
        let recovery = |recovered| Recovered {
            top: Position { epoch: Epoch::from_random(255), offset: 9 },
            publications: Vec::new(),
            recovered,
        };
        let check = |recovered, expected: Value| {
            assert_eq!(read(&subscribed(&recovery(recovered), true, Some(4), None, None)), expected);
        };
        let base = json!({"recoverable": true, "positioned": true, "epoch": "000000ff", "offset": 9});
        let with = |more: Value| {
            let mut base = base.clone();
            base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            base
        };
        check(None, base.clone());
        check(Some(true), with(json!({"was_recovering": true, "recovered": true, "offset": 4})));
        check(Some(false), with(json!({"was_recovering": true})));
        assert_eq!(read(&subscribed(&recovery(None), false, None, None, None)), json!({}));
        let ttl = Some(Duration::from_millis(1500));
        assert_eq!(
            read(&subscribed(&recovery(Some(true)), false, None, ttl, None)),
            json!({"was_recovering": true, "recovered": true, "expires": true, "ttl": 2})
        );
    }

    #[test]
    fn an_expiry_is_at_most_a_year() {
        const YEAR: u64 = 31_536_000;
        for (expires_in, ttl) in [(1, 1), (YEAR, YEAR), (YEAR + 1, YEAR), (u64::MAX, YEAR)] {
            let reply = read(&refreshed(Some(Duration::from_secs(expires_in))));
            assert_eq!(reply, json!({"expires": true, "ttl": ttl}));
        }
        assert_eq!(read(&refreshed(Some(Duration::ZERO)))["ttl"], 1, "0 would be none");
        assert_eq!(read(&refreshed(None)), json!({}));
        let welcome = Welcome {
            client: ClientId::new(0, 1),
            ping: Duration::ZERO,
            expires_in: Some(Duration::MAX),
            data: None,
            subs: b"",
        };
        assert_eq!(read(&connected(&welcome))["ttl"], YEAR);
    }

    #[test]
    fn a_truncated_presence_is_marked() {
        let members = [member(None), member(None)];
        assert_eq!(read(&presence(&members, 2))["truncated"], Value::Null);
        let cut = read(&presence(&members[..1], 2));
        assert_eq!((&cut["truncated"], &cut["num_clients"]), (&json!(true), &json!(2)));
        assert_eq!(read(&presence(&[], 0)), json!({"presence": {}}));
    }

    #[test]
    fn errors_have_a_temporary_flag() {
        let mut out = Vec::new();
        let (code, message, temporary) = ErrorCode::TooManyRequests.parts();
        error_into(&mut out, 3, code, message, temporary);
        assert_eq!(
            read(&out),
            json!({"id": 3, "error": {"code": 111, "message": "too many requests", "temporary": true}})
        );
    }
}
