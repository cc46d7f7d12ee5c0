//! What clients of the plain text protocol say, and what they are told.

use bytes::Bytes;
use std::sync::Arc;

use super::Shard;
use super::client::{Arriving, Entrance};
use super::json::may_publish;
use super::mesh::Up;
use super::rooms::{Room, RoomId};
use crate::app::text;
use crate::base::{ConnKey, Time};
use crate::chat::{
    Body, Draft, Grant, Identity, Member, Past, Person, RateDecision, RateLimit, Verdict, Wanted,
};
use crate::metrics::CloseReason;
use crate::ws::CloseCode;

impl Shard {
    /// A text of somebody who sits in a room.
    pub(super) fn say(&mut self, key: ConnKey, said: &str) {
        if self.must_hold(key) {
            if let Some(client) = self.client_mut(key) {
                client.hold(said.as_bytes());
            }
            return self.pause(key);
        }
        let now = self.now;
        let Some(client) = self.conns.get_mut(key).and_then(|slot| slot.client.as_deref_mut()) else {
            return;
        };
        let Some(membership) = client.memberships.first() else { return };
        let (id, granted) = (membership.room, membership.granted);
        let Room { name, options, home, .. } = &self.rooms[id];
        if said.len() > options.message_bytes_max {
            let sentence = "the message is too big for this room";
            return self.fail(key, CloseCode::Size, sentence, CloseReason::TooBig);
        }
        if !may_publish(options, &client.person, true, granted) {
            return self.tell(key, |out| text::notice_into(out, "you may not speak in this room"));
        }
        match client.rate.check(now, RateLimit::of(options.messages_per_second_max)) {
            RateDecision::Allow => {}
            RateDecision::Throttle => {
                let notice = "that was not sent: you speak too often";
                return self.tell(key, |out| text::notice_into(out, notice));
            }
            RateDecision::Disconnect => {
                return self.fail(key, CloseCode::Policy, "too many messages", CloseReason::Flood);
            }
        }
        self.metrics.messages_in.add(1);
        let author = Member { person: Arc::clone(&client.person), info: None };
        let draft = Draft { author, body: Body::Text(Bytes::copy_from_slice(said.as_bytes())) };
        if home.is_some() {
            self.publish(id, draft);
        } else {
            let room = Arc::clone(name);
            self.tell_home(id, Up::Say { room, draft, ask: None });
        }
    }

    /// It is known who a plain client is: it goes into the room that it asked for.
    pub(super) fn enter_plain(
        &mut self,
        key: ConnKey,
        identity: Identity,
        grant: Option<Grant>,
        entrance: &Entrance,
    ) {
        let Identity { user, name, info, expires_in, .. } = identity;
        let now = self.now;
        let Some(client) = self.client_mut(key) else { return };
        client.person = Arc::new(Person { client: client.person.client, user, name, info });
        let granted = grant.is_some();
        let until = [expires_in, grant.as_ref().and_then(|grant| grant.expires_in)];
        client.expires = until.into_iter().flatten().min().map_or(Time::NEVER, |time| now + time);
        let asked = match entrance.wanted {
            Wanted::Nothing => None,
            Wanted::Last(_) | Wanted::Since(_) | Wanted::Lost => Some(0),
        };
        let arriving = Arriving { asked, granted, ..Arriving::default() };
        self.join(key, &entrance.room, grant.unwrap_or_default(), entrance.wanted, arriving);
    }

    /// A plain client has come in. If it asked for the past it gets that, and is told where the room stands: from there on, each
    /// message is one offset.
    pub(super) fn arrived_plain(&mut self, key: ConnKey, past: &Past, arriving: &Arriving) {
        if arriving.asked.is_none() {
            return;
        }
        self.tell(key, |out| {
            if past.recovered == Some(false) {
                text::notice_into(out, "messages may be missing here");
            }
            for publication in &past.publications {
                text::frame_into(out, publication);
            }
            text::position_into(out, past.top);
        });
    }

    /// What somebody outside says of a plain client.
    pub(super) fn verdict_of_entrance(&mut self, key: ConnKey, entrance: &Entrance, verdict: Verdict) {
        match verdict {
            Verdict::Welcome { identity, .. } if !self.count_user(key, &identity.user) => {
                self.fail(key, CloseCode::Policy, "too many connections", CloseReason::Denied);
            }
            Verdict::Welcome { identity, .. } => match self.grant_plain(&identity, &entrance.room) {
                Some(grant) => self.enter_plain(key, identity, grant, entrance),
                None => self.fail(key, CloseCode::Policy, "this room is not for you", CloseReason::Denied),
            },
            Verdict::Refused { message, temporary, .. } => {
                let code = if temporary { CloseCode::Again } else { CloseCode::Policy };
                self.fail(key, code, &message, CloseReason::Denied);
            }
            Verdict::Disconnect { code, reason } => self.fail(key, code.into(), &reason, CloseReason::Denied),
        }
    }

    /// Whether an open client's next message must wait.
    pub(super) fn must_hold(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|slot| {
            slot.conn.outbox.len() > super::OUTBOX_PAUSE_BYTES
                || slot.client.as_ref().is_some_and(|client| client.is_holding())
        })
    }

    /// Has what was held looked at, until it must wait again.
    pub(super) fn release_held(&mut self, key: ConnKey) {
        let Some(client) = self.client_mut(key) else { return };
        let is_json = client.session.is_some();
        let Some(held) = client.held.take_if(|held| held.entrance.is_none()) else { return };
        let mut begin = 0;
        for &end in &held.ends {
            // They were checked when they came in.
            let message = std::str::from_utf8(&held.bytes[begin..end]).unwrap_or_default();
            begin = end;
            if !self.is_open(key) {
                return;
            }
            if is_json {
                self.commands(key, message);
            } else {
                self.say(key, message);
            }
        }
    }

    /// Looks at what was held once the room that its sender goes into is known.
    pub(super) fn arrived(&mut self, key: ConnKey, id: RoomId, past: &Past, arriving: &Arriving) {
        if self.client_mut(key).is_some_and(|client| client.session.is_some()) {
            self.arrived_json(key, id, past, arriving);
        } else {
            self.arrived_plain(key, past, arriving);
        }
    }
}
