//! What a connection has to say for itself: answers, echoes, control frames. What rooms say never passes here.

use crate::ws::{self, Opcode};

/// Bytes of a connection's own that wait to be written. Empty, it is one null pointer.
///
/// Bounded by its users: a connection is not read from while more than a bound waits here, and what arrives
/// without being asked for (pings to answer, notices of skipped messages) is kept as one value that the
/// next one replaces.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Content>>);

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    sent: usize,
    /// The newest ping that is not answered; older ones need no answer (RFC 6455 §5.5.3).
    pong: Option<Box<[u8]>>,
    /// Publications skipped and not yet told of.
    skipped: u64,
}

impl Outbox {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |content| content.bytes.len() - content.sent)
    }

    /// The place to append whole frames or responses to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.content().bytes
    }

    /// Puts `rest`, the end of a frame that has begun to go out, before everything else.
    pub fn prepend(&mut self, rest: &[u8]) {
        let content = self.content();
        content.bytes.splice(..content.sent, rest.iter().copied());
        content.sent = 0;
    }

    /// Answers a ping as soon as possible; only the newest one.
    pub fn pong(&mut self, payload: &[u8]) {
        self.content().pong = Some(payload.into());
    }

    /// Tells of `count` more skipped publications as soon as possible, in one sum.
    pub fn skipped(&mut self, count: u64) {
        self.content().skipped += count;
    }

    /// What to write next. Turns what waits as a value into frames; `tell_skipped` is the protocol's word for skips.
    pub fn unsent(&mut self, tell_skipped: fn(&mut Vec<u8>, u64)) -> &[u8] {
        let Some(content) = &mut self.0 else { return &[] };
        if content.sent == content.bytes.len() {
            content.bytes.clear();
            content.sent = 0;
            if let Some(payload) = content.pong.take() {
                ws::frame_into(&mut content.bytes, Opcode::Pong, &[&payload]);
            }
            if content.skipped > 0 {
                tell_skipped(&mut content.bytes, std::mem::take(&mut content.skipped));
            }
        }
        &content.bytes[content.sent..]
    }

    /// The kernel took `len` bytes. Empty again, it frees its memory.
    pub fn wrote(&mut self, len: usize) {
        let Some(content) = &mut self.0 else { return };
        content.sent += len;
        debug_assert!(content.sent <= content.bytes.len());
        if content.sent == content.bytes.len() && content.pong.is_none() && content.skipped == 0 {
            self.0 = None;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    fn content(&mut self) -> &mut Content {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(out: &mut Vec<u8>, count: u64) {
        ws::frame_into(out, Opcode::Text, &[count.to_string().as_bytes()]);
    }

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let unsent = outbox.unsent(tell);
            let take = unsent.len().min(step);
            out.extend_from_slice(&unsent[..take]);
            outbox.wrote(take);
        }
        out
    }

    #[test]
    fn only_the_newest_ping_is_answered_and_only_between_frames() {
        let mut outbox = Outbox::default();
        outbox.bytes().extend_from_slice(b"frame");
        assert_eq!(outbox.unsent(tell), b"frame");
        outbox.wrote(2);
        outbox.pong(b"old");
        outbox.pong(b"new");
        assert_eq!(drain(&mut outbox, 1), b"ame\x8a\x03new");
        assert!(outbox.is_empty());
    }

    #[test]
    fn skips_add_up_to_one_notice() {
        let mut outbox = Outbox::default();
        outbox.skipped(40);
        outbox.skipped(2);
        assert_eq!(drain(&mut outbox, 3), b"\x81\x0242");
    }
}
