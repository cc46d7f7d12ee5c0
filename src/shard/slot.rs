//! What a shard keeps for one connection.

use std::sync::Arc;

use super::http::{Http, Sessions};
use super::limits::PeerAddress;
use crate::base::SessionKey;
use crate::conn::Conn;

/// What a shard keeps for one connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) conn: Conn,
    /// The session behind it, once its WebSocket is open to one and as long as it is.
    pub(super) session: Option<SessionKey>,
    /// Where it comes from, if that matters, what its client was called when its session ended, and what of
    /// HTTP is in progress on it.
    pub(super) details: Option<Box<Details>>,
}

/// What few connections have.
#[derive(Debug, Default)]
pub(super) struct Details {
    pub(super) peer: Option<PeerAddress>,
    pub(super) name: Option<Arc<str>>,
    /// What is in progress of HTTP.
    pub(super) http: Option<Box<Http>>,
}

impl Slot {
    /// A session begins on it. What the former one's client was called is of no interest any more.
    pub(super) fn begin_session(&mut self, session: SessionKey) {
        self.session = Some(session);
        if let Some(details) = &mut self.details {
            details.name = None;
        }
    }

    pub(super) fn http(&self) -> Option<&Http> {
        if self.conn.is_websocket() {
            return None; // known without a look at the details
        }
        self.details.as_ref()?.http.as_deref()
    }

    pub(super) fn http_mut(&mut self) -> Option<&mut Http> {
        self.details.as_mut()?.http.as_deref_mut()
    }

    pub(super) fn http_or_new(&mut self) -> &mut Http {
        self.details.get_or_insert_default().http.get_or_insert_default()
    }

    pub(super) fn sessions(&self) -> Option<&Sessions> {
        self.http()?.sessions.as_deref()
    }

    pub(super) fn sessions_mut(&mut self) -> Option<&mut Sessions> {
        self.http_mut()?.sessions.as_deref_mut()
    }

    pub(super) fn sessions_or_new(&mut self) -> &mut Sessions {
        self.http_or_new().sessions.get_or_insert_default()
    }
}
