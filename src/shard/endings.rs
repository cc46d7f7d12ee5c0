//! How connections end: by a refusal, a failure, a closing handshake or a drain.

use super::{DRAINS_PER_TURN, Shard, Slot};
use crate::app::json::Disconnect;
use crate::base::ConnKey;
use crate::conn::{Ending, State};
use crate::http::Reject;
use crate::metrics::CloseReason;
use crate::shard::HowToClose;
use crate::ws::{self, CloseCode};

impl Shard {
    pub(super) fn drain_some(&mut self) {
        let Some(first) = self.draining else { return };
        let next = self.conns.slots().min(first + DRAINS_PER_TURN);
        for index in first..next {
            let Some(key) = self.conns.key_at(index) else { continue };
            let Some(Slot { conn, client, .. }) = self.conns.get(key) else { continue };
            match conn.state {
                State::Open => {
                    let is_json = client.as_ref().is_some_and(|client| client.session.is_some());
                    let (code, sentence) = match is_json {
                        true => Disconnect::Shutdown.parts(),
                        false => (CloseCode::Away, "server is going away"),
                    };
                    self.close_handshake(key, code, sentence, CloseReason::Shutdown);
                }
                State::Head => self.finish(key, Ending::AtOnce, CloseReason::Shutdown),
                State::Closing | State::Finishing(_) | State::Lingering | State::Closed => {}
            }
        }
        self.draining = Some(next);
    }

    /// Answers a request that cannot be served, and ends the connection.
    pub(super) fn reject(&mut self, key: ConnKey, reject: Reject, reason: CloseReason) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        reject.response_into(conn.outbox.bytes());
        self.metrics.requests.add(1);
        self.finish(key, Ending::Linger, reason);
    }

    /// Fails a WebSocket: says why, and takes nothing more (RFC 6455 §7.1.7).
    pub(super) fn fail(&mut self, key: ConnKey, code: CloseCode, sentence: &str, reason: CloseReason) {
        self.leave_rooms(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state == State::Open {
            ws::close_into(conn.outbox.last_words(), code, sentence);
        }
        self.finish(key, Ending::Linger, reason);
    }

    /// Ends the connection of a client of the JSON protocol.
    pub(super) fn disconnect(&mut self, key: ConnKey, why: Disconnect) {
        let (code, sentence) = why.parts();
        let reason = match why {
            Disconnect::Shutdown => CloseReason::Shutdown,
            Disconnect::Expired | Disconnect::SubscriptionExpired => CloseReason::Expired,
            Disconnect::Slow => CloseReason::TooSlow,
            Disconnect::NoPong => CloseReason::Silent,
            Disconnect::TooManyRequests => CloseReason::Flood,
            Disconnect::Stale | Disconnect::Internal => CloseReason::HeadTimeout,
            Disconnect::BadRequest | Disconnect::NotAvailable => CloseReason::Protocol,
            Disconnect::InvalidToken | Disconnect::ConnectionLimit | Disconnect::PermissionDenied => {
                CloseReason::Denied
            }
        };
        self.fail(key, code, sentence, reason);
    }

    /// Begins the closing handshake from our side (RFC 6455 §7.1.2).
    pub(super) fn close_handshake(
        &mut self,
        key: ConnKey,
        code: CloseCode,
        sentence: &str,
        reason: CloseReason,
    ) {
        self.leave_rooms(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        ws::close_into(conn.outbox.last_words(), code, sentence);
        conn.state = State::Closing;
        conn.reason = reason;
        self.wheel.set(key.index(), self.now + self.options.close_timeout);
        self.flush_later(key);
    }

    /// Takes nothing more in; ends when everything is out.
    pub(super) fn finish(&mut self, key: ConnKey, ending: Ending, reason: CloseReason) {
        self.leave_rooms(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        conn.reason = reason;
        conn.state = State::Finishing(if conn.ended { Ending::AtOnce } else { ending });
        conn.head = None;
        conn.decoder = ws::Decoder::default();
        self.wheel.set(key.index(), self.now + self.options.close_timeout);
        self.flush_later(key);
    }

    /// Hands the connection to the driver to be closed.
    pub(super) fn close(&mut self, key: ConnKey, how: HowToClose, reason: CloseReason) {
        self.leave_rooms(key);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if conn.state == State::Closed {
            return;
        }
        conn.state = State::Closed;
        conn.reason = reason;
        conn.outbox.clear();
        self.wheel.cancel(key.index());
        self.closing.push_back((key, how));
    }
}
