//! From bytes to messages: the frames of an open WebSocket, and what each endpoint does with what is in them.

use super::{Shard, Slot};
use crate::base::ConnKey;
use crate::conn::{Ending, Endpoint, State};
use crate::metrics::CloseReason;
use crate::ws::{self, CloseCode, Event, Fail, Opcode};

/// While less than this waits in a connection, every ping is answered; above, only the newest.
const PONG_EACH_BYTES: usize = 4 * 1024;

impl Shard {
    /// Bytes of an open WebSocket.
    pub(super) fn frame_bytes(&mut self, key: ConnKey, mut input: &mut [u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        // Both are small; taken out, they leave the shard free to act on each event.
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut inflater = std::mem::take(&mut self.inflater);
        let limits = self.options.message;
        let failed = loop {
            match decoder.decode(input, &mut inflater, &limits) {
                Ok(ws::Decoded { event: None, .. }) => break None,
                Ok(ws::Decoded { consumed, event: Some(event) }) => {
                    if !self.event(key, &event) {
                        break None;
                    }
                    input = &mut input[consumed..];
                }
                Err(fail) => break Some(fail),
            }
        };
        self.inflater = inflater;
        if let Some(Slot { conn, .. }) = self.conns.get_mut(key)
            && matches!(conn.state, State::Open | State::Closing)
        {
            conn.decoder = decoder;
        }
        if let Some(fail) = failed {
            let reason = match fail {
                Fail::Protocol(_) => CloseReason::Protocol,
                Fail::Limit(_) => CloseReason::TooBig,
            };
            self.fail(key, fail.close_code(), fail.sentence(), reason);
        }
    }

    /// Acts on one event. False when the connection takes nothing more.
    fn event(&mut self, key: ConnKey, event: &Event<'_>) -> bool {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return false };
        let open = conn.state == State::Open;
        match *event {
            Event::Close(ref peer) => {
                let reason = if open {
                    match peer {
                        Some((code, _)) => ws::close_into(conn.outbox.last_words(), *code, ""),
                        None => ws::close_empty_into(conn.outbox.last_words()),
                    }
                    CloseReason::ClosedByPeer
                } else {
                    conn.reason
                };
                self.finish(key, Ending::AtOnce, reason);
                return false;
            }
            Event::Ping(payload) if open => {
                if conn.outbox.len() < PONG_EACH_BYTES && !conn.outbox.owes_pong() {
                    ws::frame_into(conn.outbox.bytes(), Opcode::Pong, &[payload]);
                } else {
                    conn.outbox.pong(payload);
                }
                self.flush_later(key);
            }
            Event::Text(text) if open => match conn.endpoint {
                Some(Endpoint::Echo) => self.echo(key, Opcode::Text, text.as_bytes()),
                Some(Endpoint::Centrifuge) => return self.commands(key, text),
                Some(Endpoint::Chat) | None => self.say(key, text),
            },
            Event::Binary(payload) if open => match conn.endpoint {
                Some(Endpoint::Centrifuge) => match std::str::from_utf8(payload) {
                    // Some clients send bytes whatever is in them.
                    Ok(text) => return self.commands(key, text),
                    Err(_) => {
                        let invalid = Fail::Protocol(ws::ProtocolError::InvalidUtf8);
                        self.fail(key, invalid.close_code(), invalid.sentence(), CloseReason::Protocol);
                        return false;
                    }
                },
                Some(Endpoint::Chat) | None => {
                    let sentence = "this endpoint takes text only";
                    self.fail(key, CloseCode::Unsupported, sentence, CloseReason::Unsupported);
                    return false;
                }
                Some(Endpoint::Echo) => self.echo(key, Opcode::Binary, payload),
            },
            Event::Pong(_) if open => {
                self.frame_pong(key);
            }
            // What comes after our Close is read only to find the peer's.
            Event::Ping(_) | Event::Text(_) | Event::Binary(_) | Event::Pong(_) => {}
        }
        true
    }

    fn echo(&mut self, key: ConnKey, opcode: Opcode, payload: &[u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        match conn.window {
            Some(window) if payload.len() >= self.encoder.deflate_bytes_min => {
                let compressed = self.encoder.deflate(window, payload);
                ws::deflated_frame_into(conn.outbox.bytes(), opcode, compressed);
            }
            _ => ws::frame_into(conn.outbox.bytes(), opcode, &[payload]),
        }
        self.flush_later(key);
    }
}
