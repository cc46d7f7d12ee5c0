//! Refused requests, each with what an operator needs to find its cause. They leave the shard as values; the
//! driver knows where their connections come from, and logs them.

use core::net::IpAddr;

use super::Shard;
use crate::base::ConnKey;
use crate::http::{Head, Reject};

/// Refused requests of one turn that are described; further ones are only counted.
const REFUSALS_MAX: usize = 1024;

/// Bytes of each text of a refusal.
const TEXT_BYTES_MAX: usize = 200;

/// A refused request. Its texts are the client's, cut to 200 bytes and not escaped; empty where there is
/// none, or where the head could not be read. The query is left out, because it may hold a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Its connection, which is still open.
    pub conn: ConnKey,
    /// Where it comes from, if the shard knows: see [`Shard::needs_addresses`].
    pub address: Option<IpAddr>,
    /// The method.
    pub method: Box<str>,
    /// The path, percent-encoded as it came.
    pub path: Box<str>,
    /// The requested host.
    pub host: Box<str>,
    /// The page's origin, as the browser sent it.
    pub origin: Box<str>,
    /// The status of the answer.
    pub status: u16,
    /// The cause, as the metrics name it.
    pub cause: &'static str,
}

impl Shard {
    /// The next refused request of this turn. Those that are not taken are gone with the next turn.
    pub fn poll_refusal(&mut self) -> Option<Refusal> {
        self.refusals.pop_front()
    }

    /// Counts a refused request, and keeps its description until the end of the turn.
    pub(super) fn note_refusal(&mut self, conn: ConnKey, head: Option<&Head<'_>>, reject: Reject) {
        let status = reject.status().as_u16();
        self.metrics.requests.add(1);
        self.metrics.count_refusal(status, reject.cause());
        if self.refusals.len() == REFUSALS_MAX {
            return;
        }
        let details = self.conns.get(conn).and_then(|slot| slot.details.as_ref());
        let address = details.and_then(|details| details.peer.as_ref()).map(|peer| peer.address);
        let text = |pick: fn(&Head<'_>) -> Box<str>| head.map_or_else(Box::default, pick);
        self.refusals.push_back(Refusal {
            conn,
            address,
            method: text(|head| cut(head.method)),
            path: text(|head| cut(head.path)),
            host: text(|head| cut(head.host.unwrap_or(""))),
            origin: text(|head| {
                let origin = head.fields("Origin").next().unwrap_or_default();
                cut(&String::from_utf8_lossy(&origin[..origin.len().min(TEXT_BYTES_MAX)]))
            }),
            status,
            cause: reject.cause(),
        });
    }
}

fn cut(text: &str) -> Box<str> {
    Box::from(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::REFUSALS;

    #[test]
    fn every_refusal_is_a_row_of_the_metrics_table() {
        let rows: Vec<_> = Reject::ALL.iter().map(|it| (it.status().as_u16(), it.cause())).collect();
        assert_eq!(rows, REFUSALS);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("/ws/a").len(), 5);
        assert_eq!(cut(&"ü".repeat(300)).len(), 200);
        assert_eq!(cut(&format!("a{}", "ü".repeat(300))).len(), 199);
    }
}
