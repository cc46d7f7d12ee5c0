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
    /// What was skipped and is not yet told of.
    skipped: Option<Skipped>,
}

/// Publications that a member will not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The last one before them, as epoch and offset, if one can go back to there.
    pub after: Option<(u32, u64)>,
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

    /// Whether a part of the bytes that wait has gone out, so that perhaps only a part of a frame has.
    pub fn is_partly_sent(&self) -> bool {
        self.0.as_ref().is_some_and(|content| (1..content.bytes.len()).contains(&content.sent))
    }

    /// The place to append whole frames or responses to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.content().bytes
    }

    /// The place to append a Close frame to. After that nothing may be sent (RFC 6455 §5.5.1): what is not a frame yet never
    /// becomes one.
    pub fn last_words(&mut self) -> &mut Vec<u8> {
        let content = self.content();
        (content.pong, content.skipped) = (None, None);
        &mut content.bytes
    }

    /// Puts `rest`, the end of a frame that has begun to go out, before everything else.
    pub fn prepend(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let content = self.content();
        content.bytes.splice(..content.sent, rest.iter().copied());
        content.sent = 0;
    }

    /// Answers a ping as soon as possible; only the newest one.
    pub fn pong(&mut self, payload: &[u8]) {
        self.content().pong = Some(payload.into());
    }

    /// Whether a pong waits until what is before it has gone out.
    pub fn owes_pong(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.pong.is_some())
    }

    /// Whether all of it is bytes already, with nothing that becomes a frame when they have gone out.
    pub fn is_all_bytes(&self) -> bool {
        self.0.as_ref().is_none_or(|content| content.pong.is_none() && content.skipped.is_none())
    }

    /// Tells of skipped publications as soon as possible, in one sum with those that it has not been told of yet.
    pub fn skipped(&mut self, more: Skipped) {
        let skipped = self.content().skipped.get_or_insert(Skipped { count: 0, ..more });
        skipped.count += more.count;
    }

    /// What to write next. Turns what waits as a value into frames; `tell_skipped` is the protocol's word for skips.
    pub fn unsent(&mut self, tell_skipped: fn(&mut Vec<u8>, Skipped)) -> &[u8] {
        let Some(content) = &mut self.0 else { return &[] };
        if content.sent == content.bytes.len() {
            content.bytes.clear();
            content.sent = 0;
            if let Some(payload) = content.pong.take() {
                ws::frame_into(&mut content.bytes, Opcode::Pong, &[&payload]);
            }
            if let Some(skipped) = content.skipped.take() {
                tell_skipped(&mut content.bytes, skipped);
            }
        }
        &content.bytes[content.sent..]
    }

    /// The kernel took `len` bytes. Empty again, it frees its memory.
    pub fn wrote(&mut self, len: usize) {
        let Some(content) = &mut self.0 else { return };
        content.sent += len;
        debug_assert!(content.sent <= content.bytes.len());
        if content.sent == content.bytes.len() && content.pong.is_none() && content.skipped.is_none() {
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

    fn tell(out: &mut Vec<u8>, skipped: Skipped) {
        ws::frame_into(
            out,
            Opcode::Text,
            &[format!("{} after {:?}", skipped.count, skipped.after).as_bytes()],
        );
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
    fn nothing_comes_after_the_last_words() {
        let mut outbox = Outbox::default();
        outbox.bytes().extend_from_slice(b"frame");
        outbox.pong(b"ping");
        outbox.skipped(Skipped { count: 1, after: None });
        outbox.last_words().extend_from_slice(b"close");
        assert_eq!(drain(&mut outbox, 4), b"frameclose");
    }

    #[test]
    fn skips_add_up_to_one_notice() {
        let mut outbox = Outbox::default();
        outbox.skipped(Skipped { count: 40, after: Some((1, 7)) });
        outbox.skipped(Skipped { count: 2, after: Some((1, 50)) });
        assert_eq!(drain(&mut outbox, 3), b"\x81\x1542 after Some((1, 7))");
    }
}
