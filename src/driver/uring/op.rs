//! What a completion is about: a word that goes through the kernel with each operation.

use crate::driver::slots::{ID_BITS, SocketId};

/// An operation of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Connections of a listener, by its number.
    Accept(usize),
    /// What a connection receives.
    Receive(SocketId),
    /// That a connection's socket takes bytes again.
    Writable(SocketId),
    /// A send, by its index in the batch.
    Send(usize),
    /// A wake-up of the process, through the eventfd, or of another shard.
    Wake,
    /// A descriptor for a socket of the table.
    Install,
    /// Something whose outcome nothing depends on.
    Forget,
}

const REST_MASK: u64 = (1 << ID_BITS) - 1;

impl Op {
    /// As the kernel carries it.
    pub(super) const fn to_bits(self) -> u64 {
        let (kind, rest) = match self {
            Self::Forget => (0, 0),
            Self::Accept(listener) => (1, listener as u64),
            Self::Receive(id) => (2, id.to_bits()),
            Self::Writable(id) => (3, id.to_bits()),
            Self::Send(write_index) => (4, write_index as u64),
            Self::Wake => (5, 0),
            Self::Install => (6, 0),
        };
        (kind << ID_BITS) | rest
    }

    /// The reverse.
    pub(super) fn from_bits(bits: u64) -> Self {
        let rest = bits & REST_MASK;
        let number = usize::try_from(rest).unwrap_or(usize::MAX);
        match bits >> ID_BITS {
            1 => Self::Accept(number),
            2 => Self::Receive(SocketId::from_bits(rest)),
            3 => Self::Writable(SocketId::from_bits(rest)),
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
    use crate::base::ConnKey;

    #[test]
    fn an_operation_survives_the_trip_through_the_kernel() {
        let id = SocketId::from(ConnKey::from_bits(0x1234_5678_0000_0007));
        for op in [
            Op::Accept(3),
            Op::Receive(id),
            Op::Writable(id),
            Op::Send(127),
            Op::Wake,
            Op::Install,
            Op::Forget,
        ] {
            assert_eq!(Op::from_bits(op.to_bits()), op);
        }
    }
}
