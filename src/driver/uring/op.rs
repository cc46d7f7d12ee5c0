//! What a completion is about: a word that goes through the kernel with each operation.

use crate::base::ConnKey;

/// What was asked of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Connections of a listener, by its number.
    Accept(usize),
    /// Whatever a connection receives.
    Receive(Owner),
    /// That a connection's socket takes bytes again.
    Writable(Owner),
    /// A send, by its place in the batch.
    Send(usize),
    /// That somebody wants to be heard: the process through the eventfd, or another shard.
    Wake,
    /// A descriptor for a socket of the table.
    Install,
    /// Something whose outcome nobody waits for.
    Forget,
}

/// A connection, as far as it fits into the word: the slot, and the lower bits of its generation. A slot would have to be given
/// away 2²⁸ times between an operation and its completion to be mistaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(u64);

const OWNER_BITS: u32 = 60;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;

impl Owner {
    /// The slot.
    pub(super) const fn index(self) -> usize {
        (self.0 & 0xFFFF_FFFF) as usize
    }

    /// Whether `key` is meant.
    pub(super) const fn is(self, key: ConnKey) -> bool {
        key.to_bits() & OWNER_MASK == self.0
    }
}

impl From<ConnKey> for Owner {
    fn from(key: ConnKey) -> Self {
        Self(key.to_bits() & OWNER_MASK)
    }
}

impl Op {
    /// As the kernel carries it.
    pub(super) const fn to_bits(self) -> u64 {
        let (kind, rest) = match self {
            Self::Forget => (0, 0),
            Self::Accept(listener) => (1, listener as u64),
            Self::Receive(owner) => (2, owner.0),
            Self::Writable(owner) => (3, owner.0),
            Self::Send(place) => (4, place as u64),
            Self::Wake => (5, 0),
            Self::Install => (6, 0),
        };
        (kind << OWNER_BITS) | rest
    }

    /// The reverse.
    pub(super) fn from_bits(bits: u64) -> Self {
        let rest = bits & OWNER_MASK;
        let number = usize::try_from(rest).unwrap_or(usize::MAX);
        match bits >> OWNER_BITS {
            1 => Self::Accept(number),
            2 => Self::Receive(Owner(rest)),
            3 => Self::Writable(Owner(rest)),
            4 => Self::Send(number),
            5 => Self::Wake,
            6 => Self::Install,
            _ => Self::Forget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_asked_and_for_whom() {
        let key = ConnKey::from_bits(0x1234_5678_0000_0007);
        let owner = Owner::from(key);
        for op in
            [Op::Accept(3), Op::Receive(owner), Op::Writable(owner), Op::Send(127), Op::Wake, Op::Forget]
        {
            assert_eq!(Op::from_bits(op.to_bits()), op);
        }
        assert!(owner.is(key) && owner.index() == 7);
        assert!(!owner.is(ConnKey::from_bits(0x1234_5679_0000_0007)), "the slot has a new owner");
        assert!(!owner.is(ConnKey::from_bits(0x1234_5678_0000_0008)));
    }
}
