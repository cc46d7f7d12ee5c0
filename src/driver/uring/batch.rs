//! Writes that go to the kernel together.

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fixed;
use rustix::io::Errno;
use std::io::{self, IoSlice};

use super::op::Op;
use super::ring::Ring;
use crate::shard::{SLICES_MAX, Ticket, Write};

/// Writes in one batch: as many as a slice of the sweep has.
pub(super) const BATCH: usize = crate::shard::fanout::SLICE_WRITES;

/// Never to wait for room, and no signal when the peer is gone.
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A write that was collected, and then its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// What the shard is told with.
    pub(super) ticket: Ticket,
    /// The slot of the connection.
    pub(super) conn: usize,
    /// How much there was.
    pub(super) offered: usize,
    /// How much of it the kernel took.
    pub(super) result: Result<u32, Errno>,
}

/// What a write in several pieces points to.
struct Vectored {
    header: libc::msghdr,
    slices: [libc::iovec; SLICES_MAX],
}

/// Writes, all of different connections.
#[derive(Default)]
pub(super) struct Batch {
    writes: Vec<Written>,
    entries: Vec<Entry>,
    /// One for each write in several pieces; kept for the next batch.
    #[expect(
        clippy::vec_box,
        reason = "the kernel knows their addresses, which must not change while the list grows"
    )]
    vectored: Vec<Box<Vectored>>,
    vectored_used: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes.len() >= BATCH
    }

    /// Adds a write to the socket `file`, or, when there is none, its refusal.
    pub(super) fn add(&mut self, write: &Write<'_>, file: Option<u32>) {
        let (ticket, conn) = (write.ticket, write.conn);
        let Some(file) = file else {
            self.writes.push(Written { ticket, conn, offered: 0, result: Err(Errno::AGAIN) });
            return;
        };
        let op = Op::Send(self.writes.len());
        let (entry, offered) = match write.contiguous() {
            Some(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (opcode::Send::new(Fixed(file), bytes.as_ptr(), len).flags(FLAGS).build(), bytes.len())
            }
            None => self.gather(write, file),
        };
        self.entries.push(entry.user_data(op.to_bits()));
        self.writes.push(Written { ticket, conn, offered, result: Err(Errno::INPROGRESS) });
    }

    fn gather(&mut self, write: &Write<'_>, file: u32) -> (Entry, usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = write.gather(&mut slices);
        if self.vectored_used == self.vectored.len() {
            // SAFETY: integers and pointers alone, for which all zeroes are a value.
            self.vectored.push(unsafe { Box::new_zeroed().assume_init() });
        }
        let Vectored { header, slices: pieces } = &mut *self.vectored[self.vectored_used];
        self.vectored_used += 1;
        for (piece, slice) in pieces.iter_mut().zip(&slices[..count]) {
            *piece = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = count;
        let entry = opcode::SendMsg::new(Fixed(file), header).flags(FLAGS.cast_unsigned()).build();
        (entry, slices[..count].iter().map(|slice| slice.len()).sum())
    }

    /// Hands all of it to the kernel, and waits for every outcome. Completions of other operations go to `others`.
    ///
    /// # Errors
    /// The kernel takes nothing.
    pub(super) fn perform(
        &mut self,
        ring: &mut Ring,
        mut others: impl FnMut(super::ring::Completion),
    ) -> io::Result<()> {
        let mut under_way = self.entries.len();
        for entry in self.entries.drain(..) {
            // SAFETY: the entry points to bytes that the shard keeps where they are until the first write of the batch is
            // answered, which happens after this function has seen all outcomes; and to a box of ours, which is used again only
            // by the next batch.
            unsafe { ring.push(&entry)? };
        }
        ring.submit()?;
        loop {
            let writes = &mut self.writes;
            ring.completions(|completion| match completion.op {
                Op::Send(place) => {
                    under_way -= 1;
                    writes[place].result = completion.result;
                }
                Op::Accept(_) | Op::Receive(_) | Op::Writable(_) | Op::Wake | Op::Install | Op::Forget => {
                    others(completion)
                }
            });
            if under_way == 0 {
                return Ok(());
            }
            ring.wait(None)?;
        }
    }

    /// Every write with its outcome. The batch is empty afterwards.
    pub(super) fn outcomes(&mut self) -> impl Iterator<Item = Written> + '_ {
        self.vectored_used = 0;
        self.writes.drain(..)
    }
}
