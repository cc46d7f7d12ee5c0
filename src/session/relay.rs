//! Sessions whose commands come by requests of their own, because their connection is a stream on which a
//! client can send nothing: whichever shard such a request arrives on, its content is relayed to the session.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::{Context, Session, Taken};
use crate::base::hash::Seed;
use crate::base::{ConnKey, SHARDS_MAX, SessionKey};

/// Messages that have been relayed to one session and that it has not taken yet. SDKs send each command by a
/// request of its own, all at once, and take a refusal for the end of their session.
const INBOX_MESSAGES_MAX: usize = 256;

/// Bytes of those messages. One message alone may have as many as the content of a request.
const INBOX_BYTES_MAX: usize = 256 * 1024;

/// What a client names its session by in other requests. Only this process can make one, and a client learns
/// its own only: who has it may send for the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionId {
    /// The shard that has the session.
    pub shard: usize,
    /// The session there.
    pub key: SessionKey,
}

impl SessionId {
    /// The id as a text: 50 hexadecimal digits, of the shard, of the key, and of a code over both.
    pub fn to_text(self, seed: &Seed) -> String {
        let mut text = format!("{:02x}{:016x}", self.shard, self.key.to_bits());
        let mac = seed.mac(text.as_bytes());
        let _ = write!(text, "{mac:032x}");
        text
    }

    /// The session that `text` names; `None`: this process has not made it.
    pub fn parse(text: &str, seed: &Seed) -> Option<Self> {
        let (name, mac) = text.split_at_checked(18)?;
        let is_hex = |part: &str| part.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it));
        if mac.len() != 32 || !is_hex(text) || u128::from_str_radix(mac, 16) != Ok(seed.mac(name.as_bytes()))
        {
            return None;
        }
        let shard = usize::from_str_radix(&name[..2], 16).ok().filter(|&shard| shard < SHARDS_MAX)?;
        let key = SessionKey::from_bits(u64::from_str_radix(&name[2..], 16).ok()?)?;
        Some(Self { shard, key })
    }
}

/// What names this process to clients: a session of another one is not known here.
pub fn node(seed: &Seed) -> String {
    format!("{:032x}", seed.mac(b"node"))
}

/// The request that has brought a message: where its answer goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The shard of its connection.
    pub shard: usize,
    /// Its connection.
    pub conn: ConnKey,
    /// The request, among those of the connection.
    pub number: u32,
}

/// The outcome of a message that was relayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relayed {
    /// Its session has taken it.
    Taken,
    /// There is no such session.
    Unknown,
    /// Too many wait already: it is lost.
    Full,
}

/// Messages that wait until their session takes them, in the order in which they have arrived.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The session's own name.
    id: Box<str>,
    waiting: VecDeque<(Box<str>, Option<RequestId>)>,
    bytes: usize,
}

impl Session {
    /// Its commands come by request, which name it `id`.
    pub fn take_relayed(&mut self, id: String) {
        let inbox = Inbox { id: id.into(), waiting: VecDeque::new(), bytes: 0 };
        self.rare().inbox = Some(Box::new(inbox));
    }

    fn inbox(&mut self) -> Option<&mut Inbox> {
        self.rare.as_mut()?.inbox.as_deref_mut()
    }

    /// What requests name it by.
    pub fn session_id(&self) -> Option<&str> {
        Some(&self.rare.as_ref()?.inbox.as_ref()?.id)
    }

    /// Bytes of relayed messages that wait, as they are allocated, with their list.
    pub fn inbox_bytes(&self) -> usize {
        let inbox = self.rare.as_ref().and_then(|rare| rare.inbox.as_ref());
        inbox.map_or(0, |it| it.bytes + it.waiting.capacity() * size_of::<(Box<str>, Option<RequestId>)>())
    }

    /// A message has been relayed to it. It waits for its turn.
    ///
    /// # Errors
    /// What the request is to be answered at once.
    pub fn relayed(&mut self, message: Box<str>, request: Option<RequestId>) -> Result<(), Relayed> {
        let inbox = self.inbox().ok_or(Relayed::Unknown)?;
        let is_full = inbox.waiting.len() >= INBOX_MESSAGES_MAX
            || (!inbox.waiting.is_empty() && inbox.bytes + message.len() > INBOX_BYTES_MAX);
        if is_full {
            return Err(Relayed::Full);
        }
        inbox.bytes += message.len();
        inbox.waiting.push_back((message, request));
        Ok(())
    }

    /// Whether a relayed message waits that it can take now.
    pub fn takes_relayed(&self) -> bool {
        let inbox = self.rare.as_ref().and_then(|rare| rare.inbox.as_ref());
        inbox.is_some_and(|inbox| !inbox.waiting.is_empty()) && self.can_take()
    }

    /// Takes the message that has waited longest, or a part of it. Returns the request that has brought it,
    /// once it is taken whole.
    pub fn take_next(&mut self, ctx: &mut Context<'_>) -> Option<RequestId> {
        let (message, request) = self.inbox()?.waiting.pop_front()?;
        let taken = self.message(ctx, &message);
        let inbox = self.inbox()?;
        if taken == Taken::Later {
            inbox.waiting.push_front((message, request));
            return None;
        }
        inbox.bytes -= message.len();
        if inbox.waiting.is_empty() {
            inbox.waiting = VecDeque::new();
        }
        request
    }

    /// It ends: the requests whose messages it does not take any more.
    pub fn give_up_relayed(&mut self) -> impl Iterator<Item = RequestId> + use<> {
        let waiting = self.inbox().map(|inbox| std::mem::take(&mut inbox.waiting)).unwrap_or_default();
        waiting.into_iter().filter_map(|(_, request)| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognized_and_cannot_be_made_up() {
        let (seed, other) = (Seed::new(1), Seed::new(2));
        let id = SessionId { shard: 3, key: SessionKey::from_bits(0x12_0000_0007).unwrap() };
        let text = id.to_text(&seed);
        assert_eq!(text.len(), 50);
        assert_eq!(SessionId::parse(&text, &seed), Some(id));
        assert_eq!(SessionId::parse(&text, &other), None);
        assert_ne!(node(&seed), node(&other));
        for index in 0..text.len() {
            for replacement in ["", "0", "1", "+", "A", "ä", "00"] {
                let mut changed = text.clone();
                changed.replace_range(index..=index, replacement);
                if changed != text {
                    assert_eq!(SessionId::parse(&changed, &seed), None, "{changed}");
                }
            }
        }
        for garbage in ["", "x", &"f".repeat(50), &"0".repeat(50), &text[..49], &format!("{text}0")] {
            assert_eq!(SessionId::parse(garbage, &seed), None, "{garbage}");
        }
    }
}
