//! Queries of a room: presence and history.

use std::time::Duration;

use super::home::Home;
use super::{Answer, Homes, Query, QueryError};
use crate::base::{HomeKey, Time};
use crate::chat::Page;

/// Members in an answer, at most.
pub(super) const PRESENCE_MAX: usize = 500;

/// Publications in an answer, at most.
pub(super) const PAGE_MAX: usize = 300;

/// The users of a room with more members than this are counted once a second at most.
const COUNTED_AT_ONCE_MAX: usize = 100;

impl Homes {
    pub(super) fn answer(&mut self, key: HomeKey, now: Time, query: Query) -> Result<Answer, QueryError> {
        self.forget_old(key, now);
        let Some(home) = self.homes.get_mut(key) else { return Err(QueryError::NotAvailable) };
        match query {
            Query::Presence | Query::PresenceStats if !home.options.presence => Err(QueryError::NotAvailable),
            Query::Presence => {
                let members = home.presence.members().take(PRESENCE_MAX).cloned().collect();
                Ok(Answer::Presence(members, home.presence.len()))
            }
            Query::PresenceStats => {
                let (clients, users) = count(home, now);
                Ok(Answer::PresenceStats { clients, users })
            }
            Query::History(_) if home.options.history_count_max == 0 => Err(QueryError::NotAvailable),
            Query::History(page) => {
                let page = Page { limit: page.limit.min(PAGE_MAX), ..page };
                let publications = home.history.page(page).map_err(QueryError::PageError)?;
                Ok(Answer::History(publications, home.history.top()))
            }
        }
    }
}

/// How many clients and users are in a room. Users are counted anew for each query only where that costs
/// nothing.
fn count(home: &mut Home, now: Time) -> (usize, usize) {
    let clients = home.presence.len();
    if let Some((at, clients, users)) = home.counted
        && clients > COUNTED_AT_ONCE_MAX
        && now.since(at) < Duration::from_secs(1)
    {
        return (clients, users);
    }
    let users = home.presence.users();
    home.counted = Some((now, clients, users));
    (clients, users)
}
