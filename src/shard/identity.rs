//! How it is found out who somebody is: by what it says, by its token, or by asking somebody outside.

use std::borrow::Cow;
use std::sync::Arc;

use super::client::{Entrance, Held};
use super::{Shard, Slot};
use crate::base::ConnKey;
use crate::chat::{Grant, Identification, Identity, Person, Question, TokenError, Wanted};
use crate::http::Reject;

/// Who comes with a plain client's request, and where to.
pub(super) struct Visitor<'a> {
    /// What it wants to be called.
    pub(super) name: Cow<'a, str>,
    /// Where it wants to go.
    pub(super) room: Cow<'a, str>,
    /// What it wants of the past.
    pub(super) wanted: Wanted,
    /// Its token, if it brought one.
    pub(super) token: Option<Cow<'a, str>>,
}

impl Shard {
    /// Who a plain visitor is, and what lets it into its room; `None`: somebody outside must be asked.
    pub(super) fn pass(&self, visitor: &Visitor<'_>) -> Result<Option<(Identity, Option<Grant>)>, Reject> {
        let name: Arc<str> = Arc::from(&*visitor.name);
        let named = |user: &Arc<str>| Identity {
            user: Arc::clone(user),
            name: Arc::clone(&name),
            info: None,
            expires_in: None,
            rooms: Vec::new(),
        };
        let identity = match (&self.options.identification, &visitor.token) {
            (Identification::Open, _) => named(&name),
            (Identification::Asked, _) => return Ok(None),
            (Identification::Token(_), None) if self.options.anonymous => named(&self.nameless),
            (Identification::Token(_), None) => return Err(Reject::Token),
            (Identification::Token(authority), Some(token)) => {
                let identity = authority.identify(token);
                let identity = identity.map_err(|_: TokenError| Reject::Token)?;
                // The path is only a wish: it must not say another name than the token does.
                if *identity.name != *visitor.name || identity.user.is_empty() && !self.options.anonymous {
                    return Err(Reject::Forbidden);
                }
                identity
            }
        };
        let grant = self.grant_plain(&identity, &visitor.room).ok_or(Reject::Forbidden)?;
        Ok(Some((identity, grant)))
    }

    /// What lets a plain client into its room. A token that names the room is a grant; `None`: the room is not for it.
    pub(super) fn grant_plain(&self, identity: &Identity, room: &str) -> Option<Option<Grant>> {
        if let Some(joined) = identity.rooms.iter().find(|joined| *joined.name == *room) {
            return Some(Some(joined.grant.clone()));
        }
        self.grant(self.options.rooms.of(room), &identity.user, room, "").ok()
    }

    /// Who comes to an open server: whoever it says. Without a name it is a guest.
    pub(super) fn open_identity(&self, key: ConnKey, name: Option<&str>) -> Identity {
        let guest = || {
            let id = self.conns.get(key).and_then(|slot| Some(slot.client.as_ref()?.person.client));
            id.map_or_else(|| "guest".to_owned(), |id| format!("guest-{}", &id.to_string()[..4]))
        };
        let called: Arc<str> = name.map_or_else(|| Arc::from(guest()), Arc::from);
        let user = if name.is_some() { Arc::clone(&called) } else { Arc::clone(&self.nameless) };
        Identity { user, name: called, info: None, expires_in: None, rooms: Vec::new() }
    }

    /// Has somebody outside asked who a plain client is. What it says meanwhile waits.
    pub(super) fn ask_who(&mut self, key: ConnKey, visitor: &Visitor<'_>, entrance: Entrance) {
        if let Some(client) = self.client_mut(key) {
            client.held = Some(Box::new(Held { entrance: Some(entrance), ..Held::default() }));
        }
        self.question(key, "text", Some(&visitor.name), visitor.token.as_deref(), None);
    }

    /// Has somebody outside asked who this is.
    pub(super) fn question(
        &mut self,
        key: ConnKey,
        protocol: &'static str,
        name: Option<&str>,
        token: Option<&str>,
        data: Option<&str>,
    ) {
        let Some(Slot { client: Some(client), provenance, .. }) = self.conns.get(key) else { return };
        let Person { client, .. } = *client.person;
        self.questions.push_back(Question {
            conn: key,
            client: client.to_string().into(),
            protocol,
            name: name.map(Box::from),
            token: token.map(Box::from),
            data: data.map(Box::from),
            address: provenance.as_ref().map(|provenance| provenance.address),
        });
    }
}
