//! What a connection has to send for itself: answers, echoes, control frames. What rooms publish never passes
//! here.

use crate::ws::{self, Opcode};

/// Bytes of a connection's own that wait to be written. Empty, it is one null pointer.
///
/// Bounded by its users: a connection's input waits while more than a bound stands here, and what arrives
/// without being required (pings to answer, notices) is kept as one value that the next one replaces.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Content>>);

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    sent: usize,
    /// The newest ping that is not answered; older ones need no answer (RFC 6455 §5.5.3).
    pong: Option<Box<[u8]>>,
    /// A notice waits until what is before it has gone out: [`Outbox::take_notice_due`] takes it.
    notice: bool,
}

/// Bytes that have been sent and are still kept, at most, while more waits behind them.
const SENT_KEPT_MAX: usize = 16 * 1024;

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

    /// The buffer to append whole frames or responses to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.content().bytes
    }

    /// The buffer to append a Close frame to. After that nothing may be sent (RFC 6455 §5.5.1): what is not a
    /// frame yet never becomes one.
    pub fn close_frame(&mut self) -> &mut Vec<u8> {
        let content = self.content();
        (content.pong, content.notice) = (None, false);
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
    pub fn has_pending_pong(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.pong.is_some())
    }

    /// Whether all of it is bytes already, with nothing that becomes a frame when they have gone out.
    pub fn is_all_bytes(&self) -> bool {
        self.0.as_ref().is_none_or(|content| content.pong.is_none() && !content.notice)
    }

    /// A notice is to be sent as soon as everything before it has gone out.
    pub fn notice_later(&mut self) {
        self.content().notice = true;
    }

    /// Whether a notice is to be appended now: everything before it has gone out.
    pub fn take_notice_due(&mut self) -> bool {
        let Some(content) = &mut self.0 else { return false };
        content.sent == content.bytes.len() && std::mem::take(&mut content.notice)
    }

    /// What to write next. Turns a pong that waits into a frame.
    pub fn unsent(&mut self) -> &[u8] {
        let Some(content) = &mut self.0 else { return &[] };
        if content.sent == content.bytes.len() {
            content.bytes.clear();
            content.sent = 0;
        }
        if content.sent == 0
            && content.bytes.is_empty()
            && let Some(payload) = content.pong.take()
        {
            ws::frame_into(&mut content.bytes, Opcode::Pong, &[&payload]);
        }
        &content.bytes[content.sent..]
    }

    /// The kernel took `len` bytes. Empty again, it frees its memory.
    pub fn wrote(&mut self, len: usize) {
        let Some(content) = &mut self.0 else { return };
        content.sent += len;
        debug_assert!(content.sent <= content.bytes.len());
        if content.sent == content.bytes.len() && content.pong.is_none() && !content.notice {
            self.0 = None;
        } else if content.sent > SENT_KEPT_MAX {
            // It may never be empty: what is sent goes all the same.
            content.bytes.drain(..content.sent);
            content.sent = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Bytes on the heap.
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |content| content.bytes.capacity())
    }

    fn content(&mut self) -> &mut Content {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that goes out, `step` bytes at a time; a notice is `note`.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            if outbox.take_notice_due() {
                outbox.bytes().extend_from_slice(b"note");
            }
            let unsent = outbox.unsent();
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
        assert_eq!(outbox.unsent(), b"frame");
        outbox.wrote(2);
        outbox.pong(b"old");
        outbox.pong(b"new");
        assert_eq!(drain(&mut outbox, 1), b"ame\x8a\x03new");
        assert!(outbox.is_empty());
    }

    #[test]
    fn nothing_comes_after_the_close_frame() {
        let mut outbox = Outbox::default();
        outbox.bytes().extend_from_slice(b"frame");
        outbox.pong(b"ping");
        outbox.notice_later();
        outbox.close_frame().extend_from_slice(b"close");
        assert_eq!(drain(&mut outbox, 4), b"frameclose");
    }

    #[test]
    fn a_notice_comes_once_and_between_frames() {
        let mut outbox = Outbox::default();
        outbox.bytes().extend_from_slice(b"frame");
        outbox.notice_later();
        outbox.notice_later();
        assert!(!outbox.take_notice_due(), "the frame goes first");
        assert_eq!(drain(&mut outbox, 3), b"framenote");
    }

    #[test]
    fn sent_bytes_are_released_even_if_the_outbox_is_never_empty() {
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.bytes().extend_from_slice(&[b'x'; 1000]);
            let unsent = outbox.unsent().len();
            outbox.wrote(unsent - 1);
        }
        assert_eq!(outbox.len(), 1);
        assert!(outbox.capacity() < 64 * 1024, "{} bytes", outbox.capacity());
    }
}
