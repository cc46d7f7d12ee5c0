//! The summary of refused requests in the log: which, how many, and what may help.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::metrics::{REFUSALS, Registry};

/// A summary is logged at most so often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Compares the counters of refusals with those of the last summary.
#[derive(Debug)]
pub(super) struct Summary {
    counted: [u64; REFUSALS.len()],
    logged_at: Option<Instant>,
}

impl Summary {
    /// Nothing was refused yet.
    pub(super) const fn new() -> Self {
        Self { counted: [0; REFUSALS.len()], logged_at: None }
    }

    /// Logs what was refused since the last summary, if anything was and enough time has passed.
    pub(super) fn log(&mut self, now: Instant, registry: &Registry) {
        if self.logged_at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            return;
        }
        let counts = registry.refusals();
        let new: [u64; REFUSALS.len()] = std::array::from_fn(|index| counts[index] - self.counted[index]);
        if let Some((total, causes, advice)) = describe(&new) {
            (self.counted, self.logged_at) = (counts, Some(now));
            tracing::info!(refused = total, causes, advice, "requests refused (log = \"debug\" shows each)");
        }
    }
}

/// How many were refused, by cause, and what to do about the most frequent one; `None`: none was.
fn describe(new: &[u64; REFUSALS.len()]) -> Option<(u64, String, &'static str)> {
    let mut by_cause: Vec<_> = REFUSALS
        .iter()
        .zip(new)
        .filter(|(_, count)| **count > 0)
        .map(|(row, count)| (*count, *row))
        .collect();
    by_cause.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let (_, (_, most_frequent)) = by_cause.first()?;
    let mut causes = String::new();
    for (index, (count, (status, cause))) in by_cause.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(causes, "{comma}{status} {cause}: {count}");
    }
    Some((new.iter().sum(), causes, advice(most_frequent)))
}

/// What an operator can do about a cause.
fn advice(cause: &str) -> &'static str {
    match cause {
        "origin" => {
            "the page's Origin differs from Host and is not in `origins`: have the proxy pass Host on, or add the origin"
        }
        "upgrade_required" | "connection" | "key" | "version" => {
            "WebSocket requests arrive without their headers: have the proxy pass Upgrade and Connection over HTTP/1.1"
        }
        "websocket_version" | "extensions" | "subprotocol" => "the client library does not fit this server",
        "token" => "`stentor token check` says why a token is invalid; is its key configured here?",
        "other_user" => "the name in the path must be the display name of the token",
        "room" => "the room's `subscribe` does not permit it; see the [[room]] tables",
        "publish" => "the room's `publish` does not permit it; see the [[room]] tables",
        "denied" => "the auth backend refuses the clients; its log has the reason",
        "commands" => "the content of /emulation, or cf_connect, is of no Centrifuge client",
        "unknown_session" => {
            "POST /emulation reaches another server than the client's stream, or comes after its end: is the load balancer sticky?"
        }
        "no_upgrade" | "payload" | "messages" | "no_callback" | "callback" => {
            "the client at /sockjs is none of SockJS, or a proxy has changed what it sends"
        }
        "session_full" => {
            "a client sends commands faster than they are done, or a room's home does not answer"
        }
        "rate_limit" => "max_session_messages_per_second, or max_messages_per_second of the room",
        "try_again" => "a shard or the auth backend does not answer in time: command_timeout, hook_timeout",
        "too_many_connections" => {
            "max_connections_per_user or max_connections_per_address; behind a proxy all clients share its address"
        }
        "connection_limit" => {
            "max_connections is reached: raise it (with auto: LimitNOFILE), or add a server"
        }
        "shutting_down" => {
            "the load balancer still sends clients: let it probe /readyz, or raise shutdown_delay"
        }
        "head_timeout" => "clients or proxies open connections and send no request within handshake_timeout",
        "body_timeout" => "clients or proxies begin requests and do not finish them within handshake_timeout",
        "body_too_long" => "max_message",
        "framing" | "transfer_coding" => "a proxy or a client sends requests whose end is ambiguous",
        "head_too_long" | "target_too_long" => "max_head; cookies and tokens make heads long",
        "not_found" | "method" | "body" | "precondition" => "paths and methods that the server does not have",
        "name" | "encoding" | "query" | "expectation" | "media_type" | "body_encoding" | "json"
        | "idempotency_key" | "session" => "the clients' own mistakes; the answer has the reason",
        _ => "what arrives is not HTTP/1.1; is it TLS, or HTTP/2, on the plain port?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> [u64; REFUSALS.len()] {
        let count = |cause| of.iter().find(|(name, _)| *name == cause).map_or(0, |(_, count)| *count);
        std::array::from_fn(|index| count(REFUSALS[index].1))
    }

    #[test]
    fn the_most_frequent_cause_is_first_and_has_the_advice() {
        let (total, causes, advice) = describe(&counts(&[("not_found", 2), ("origin", 40)])).unwrap();
        assert_eq!((total, causes.as_str()), (42, "403 origin: 40, 404 not_found: 2"));
        assert!(advice.contains("Host"), "{advice}");
        assert_eq!(describe(&counts(&[])), None);
    }

    #[test]
    fn every_cause_but_two_has_advice_of_its_own() {
        let rest = REFUSALS.iter().filter(|(_, cause)| advice(cause).starts_with("what arrives"));
        assert_eq!(rest.map(|(_, cause)| *cause).collect::<Vec<_>>(), ["malformed", "host"]);
    }
}
