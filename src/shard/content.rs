//! The content of requests, while it arrives: it is collected up to a bound, and then used whole.

use super::emulation::Commands;
use super::http::Exchange;
use super::input::Used;
use super::publish::Publication;
use super::sockjs::{Receive, Sending};
use super::{Shard, Slot};
use crate::base::ConnKey;
use crate::http::{BodyReader, CONTINUE, Head, Reject};

/// A request whose content is being read.
#[derive(Debug)]
pub(super) struct Receiving {
    reader: BodyReader,
    purpose: Purpose,
}

/// What the content is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To be published.
    Publish(Publication),
    /// Commands for a session.
    Commands(Commands),
    /// Messages for a SockJS session.
    Sending(Sending),
    /// Nothing: the request receives for a SockJS session.
    Receive(Box<Receive>),
}

impl Receiving {
    /// Bytes on the heap.
    pub(super) const fn capacity(&self) -> usize {
        self.reader.capacity()
    }
}

impl Shard {
    /// Reads what has arrived of a request's content already; `Err`: how much of the request is used, as
    /// there is more to come, or it is refused.
    pub(super) fn begin_content(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        exchange: &Exchange,
        rest: &[u8],
        purpose: impl FnOnce() -> Purpose,
    ) -> Result<(Vec<u8>, usize), Used> {
        let bytes_max = self.options.message.message_bytes_max;
        let begun = head.expects_continue().and_then(|expects_continue| {
            let mut reader = BodyReader::new(head.framing, bytes_max)?;
            let (used, is_complete) = reader.read(rest)?;
            Ok((reader, used, is_complete, expects_continue))
        });
        let (reader, used, is_complete, expects_continue) = match begun {
            Ok(begun) => begun,
            Err(reject) => return Err(self.refuse_request(key, head, reject, exchange)),
        };
        if is_complete {
            return Ok((reader.into_bytes(), head.len + used));
        }
        let Some(slot) = self.conns.get_mut(key) else { return Err(Used::All) };
        if expects_continue && rest.is_empty() {
            slot.conn.outbox.bytes().extend_from_slice(CONTINUE);
        }
        slot.conn.expect_body();
        slot.http_or_new().receiving = Some(Box::new(Receiving { reader, purpose: purpose() }));
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        self.flush_later(key);
        Err(Used::Some(head.len + used))
    }

    /// Uses a part of a request's content.
    pub(super) fn take_content(&mut self, key: ConnKey, input: &[u8]) -> Used {
        let Some(slot) = self.conns.get_mut(key) else { return Used::All };
        let receiving = slot.http_mut().and_then(|http| http.receiving.as_mut());
        let Some(receiving) = receiving else { return Used::All };
        let read = receiving.reader.read(input);
        if matches!(read, Ok((_, false))) {
            return Used::All;
        }
        let receiving = slot.http_mut().and_then(|http| http.receiving.take());
        let Some(receiving) = receiving else { return Used::All };
        let Receiving { reader, purpose } = *receiving;
        slot.conn.next_request();
        self.budget.messages = self.budget.messages.saturating_sub(1);
        let (content, used) = match read {
            Ok((used, _)) => (Ok(reader.into_bytes()), Used::Some(used)),
            // Where it ends, and the next request begins, is not known.
            Err(reject) => (Err(reject), Used::All),
        };
        match purpose {
            Purpose::Publish(publication) => self.publish_content(key, publication, content),
            Purpose::Commands(commands) => self.use_commands(key, commands, content),
            Purpose::Sending(sending) => self.use_sending(key, sending, content),
            Purpose::Receive(receive) => self.use_receive(key, *receive, content),
        }
        used
    }

    /// Refuses a request whose content cannot be read to its end.
    pub(super) fn refuse_content(&mut self, key: ConnKey, exchange: &Exchange, reject: Reject) {
        self.note_refusal(key, None, reject);
        self.respond(key, exchange, false, |out, options| reject.response_into(out, options));
    }
}

/// Clears what a connection was reading.
impl Slot {
    /// It becomes something else: nothing of HTTP is in progress any more.
    pub(super) fn end_http(&mut self) {
        if let Some(known) = &mut self.details {
            known.http = None;
            if known.peer.is_none() && known.name.is_none() {
                self.details = None;
            }
        }
    }
}
