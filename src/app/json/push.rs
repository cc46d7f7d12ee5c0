//! Pushes: what all members of a room get alike, and how subscriptions and connections end.
//!
//! A client that only listens (a *unidirectional* one) gets them bare, without the member `push` around them.

use bytes::Bytes;
use serde::Serialize;

use super::Unsubscribe;
use super::reply::Connected;
use crate::app::encode::{Raw, Shown, write};
use crate::chat::{Body, ClientId, Member, PresenceEvent, Publication};

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    push: Push<'a>,
}

#[derive(Serialize)]
struct Push<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(flatten)]
    event: Event<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Event<'a> {
    Pub(Raw<'a>),
    Join(Presence<'a>),
    Leave(Presence<'a>),
    Unsubscribe(End<'a>),
    Disconnect(End<'a>),
    Connect(Connected<'a>),
}

#[derive(Serialize)]
struct Presence<'a> {
    info: ClientInfo<'a>,
}

#[derive(Serialize)]
struct End<'a> {
    code: u16,
    reason: &'a str,
}

/// The protocol's `Publication`.
#[derive(Serialize)]
struct PublicationObject<'a> {
    data: Data<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    info: ClientInfo<'a>,
    time: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Json(Raw<'a>),
    Text { name: &'a str, text: &'a str },
}

/// The protocol's `ClientInfo`.
#[derive(Serialize)]
pub(super) struct ClientInfo<'a> {
    user: &'a str,
    client: Shown<ClientId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<Raw<'a>>,
}

impl<'a> From<&'a Member> for ClientInfo<'a> {
    fn from(member: &'a Member) -> Self {
        let person = &member.person;
        Self {
            user: person.user(),
            client: Shown(person.client),
            conn_info: person.info().map(|info| Raw(info.as_bytes())),
            chan_info: member.info().map(|info| Raw(info.as_bytes())),
        }
    }
}

/// One publication as an object. Its offset stands there if the room keeps a history.
pub fn publication(publication: &Publication, positioned: bool) -> Bytes {
    let author = &publication.author;
    let data = match &publication.body {
        Body::Data(data) => Data::Json(Raw(data)),
        // It was checked when it came in.
        Body::Text(text) => {
            Data::Text { name: &author.person.name, text: std::str::from_utf8(text).unwrap_or_default() }
        }
    };
    let object = PublicationObject {
        data,
        offset: positioned.then(|| publication.offset()),
        info: author.into(),
        time: publication.unix_ms,
    };
    let mut out = Vec::with_capacity(publication.body.bytes().len() + 160);
    write(&mut out, &object);
    out.into()
}

/// A publication's push to the members of `channel`: the payload of a frame.
pub fn push(channel: &str, publication: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(channel.len() + publication.len() + 40);
    push_into(&mut out, Some(channel), Event::Pub(Raw(publication)), false);
    out
}

/// The same for a client that only listens.
pub fn bare_push(channel: &str, publication: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(channel.len() + publication.len() + 30);
    push_into(&mut out, Some(channel), Event::Pub(Raw(publication)), true);
    out
}

/// Presence events for the members of `channel`: the payload of a frame, a line each. `is_bare`: for clients
/// that only listen.
pub fn presence_events(channel: &str, presence_events: &[PresenceEvent], is_bare: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(presence_events.len() * (channel.len() + 140));
    for (index, event) in presence_events.iter().enumerate() {
        if index > 0 {
            out.push(b'\n');
        }
        let presence = Presence { info: event.member().into() };
        let event = match event {
            PresenceEvent::Join(_) => Event::Join(presence),
            PresenceEvent::Leave(_) => Event::Leave(presence),
        };
        push_into(&mut out, Some(channel), event, is_bare);
    }
    out
}

/// Appends a line that ends a member's subscription.
pub fn unsubscribe_into(out: &mut Vec<u8>, channel: &str, why: Unsubscribe, is_bare: bool) {
    let (code, reason) = why.parts();
    push_into(out, Some(channel), Event::Unsubscribe(End { code, reason }), is_bare);
}

/// Appends a line that ends a connection which has no Close frame.
pub fn disconnect_into(out: &mut Vec<u8>, code: u16, reason: &str, is_bare: bool) {
    push_into(out, None, Event::Disconnect(End { code, reason }), is_bare);
}

/// Appends the line that a client which only listens gets in place of a reply to `connect`.
pub fn connected_into(out: &mut Vec<u8>, connected: Connected<'_>) {
    push_into(out, None, Event::Connect(connected), true);
}

fn push_into(out: &mut Vec<u8>, channel: Option<&str>, event: Event<'_>, is_bare: bool) {
    let push = Push { channel, event };
    if is_bare { write(out, &push) } else { write(out, &Line { push }) }
}
