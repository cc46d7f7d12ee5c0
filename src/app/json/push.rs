//! Pushes: what all members of a room get alike, and the end of a subscription.

use bytes::Bytes;
use serde::Serialize;

use super::Unsubscribe;
use crate::app::encode::{Raw, Shown, write};
use crate::chat::{Body, ClientId, Member, PresenceEvent, Publication};

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    push: Push<'a>,
}

#[derive(Serialize)]
struct Push<'a> {
    channel: &'a str,
    #[serde(flatten)]
    event: Event<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Event<'a> {
    Pub(Raw<'a>),
    Join(Presence<'a>),
    Leave(Presence<'a>),
    Unsubscribe(UnsubscribePush),
}

#[derive(Serialize)]
struct Presence<'a> {
    info: ClientInfo<'a>,
}

#[derive(Serialize)]
struct UnsubscribePush {
    code: u16,
    reason: &'static str,
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
    push_into(&mut out, channel, Event::Pub(Raw(publication)));
    out
}

/// Presence events for the members of `channel`: the payload of a frame, a line each.
pub fn presence_events(channel: &str, presence_events: &[PresenceEvent]) -> Vec<u8> {
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
        push_into(&mut out, channel, event);
    }
    out
}

/// Appends a line that ends a member's subscription.
pub fn unsubscribe_into(out: &mut Vec<u8>, channel: &str, why: Unsubscribe) {
    let (code, reason) = why.parts();
    push_into(out, channel, Event::Unsubscribe(UnsubscribePush { code, reason }));
}

fn push_into(out: &mut Vec<u8>, channel: &str, event: Event<'_>) {
    write(out, &Line { push: Push { channel, event } });
}
