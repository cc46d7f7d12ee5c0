//! Writes that go to the kernel together.

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fixed;
use rustix::io::Errno;
use std::io::{self, IoSlice};

use super::op::Op;
use super::ring::{Completion, Ring};
use crate::driver::sockets::{Outcome, Writing};
use crate::shard::{SLICES_MAX, Write};

/// Writes in one batch: as many as a slice of the sweep has.
pub(super) const BATCH: usize = crate::shard::fanout::SLICE_WRITES;

/// Never to wait for room, and no signal when the peer is gone.
pub(super) const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// What a write in several pieces points to.
struct Vectored {
    header: libc::msghdr,
    slices: [libc::iovec; SLICES_MAX],
}

/// Writes, all of different connections.
#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    /// One for each write in several pieces; kept for the next batch.
    #[expect(
        clippy::vec_box,
        reason = "the kernel knows their addresses, which must not change while the list grows"
    )]
    vectored: Vec<Box<Vectored>>,
    vectored_used: usize,
    /// Handed to the kernel, and not seen again.
    in_flight: usize,
}

impl Batch {
    /// Adds a write to the socket `file`, the `write_index`th of the batch.
    pub(super) fn add(&mut self, write: &Write<'_>, file: u32, write_index: usize) -> Outcome {
        let (entry, offered) = match write.contiguous() {
            Some(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (opcode::Send::new(Fixed(file), bytes.as_ptr(), len).flags(FLAGS).build(), bytes.len())
            }
            None => self.gather(write, file),
        };
        self.entries.push(entry.user_data(Op::Send(write_index).to_bits()));
        Outcome::InFlight { offered }
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
        let entry =
            opcode::SendMsg::new(Fixed(file), &raw const *header).flags(FLAGS.cast_unsigned()).build();
        (entry, slices[..count].iter().map(|slice| slice.len()).sum())
    }

    /// Hands all of it to the kernel, waits for every outcome, and notes it in `writes`. Completions of other
    /// operations go to `others`. The batch is empty afterwards.
    ///
    /// # Errors
    /// The kernel takes nothing.
    pub(super) fn perform(
        &mut self,
        ring: &mut Ring,
        writes: &mut [Writing],
        mut others: impl FnMut(Completion),
    ) -> io::Result<()> {
        for entry in self.entries.drain(..) {
            self.in_flight += 1;
            // SAFETY: the entry points to bytes that the shard keeps where they are until the first write of
            // the batch is answered, which happens after this function has seen all outcomes; and to a box of
            // ours, which is used again only by the next batch.
            unsafe { ring.push(&entry)? };
        }
        ring.submit()?;
        loop {
            ring.completions(|completion| match completion.op {
                Op::Send(write_index) => {
                    self.in_flight -= 1;
                    let outcome = &mut writes[write_index].outcome;
                    *outcome = final_outcome(*outcome, completion.result);
                }
                Op::Accept(_) | Op::Receive(_) | Op::Writable(_) | Op::Wake | Op::Install | Op::Forget => {
                    others(completion)
                }
            });
            if self.in_flight == 0 {
                self.vectored_used = 0;
                return Ok(());
            }
            ring.wait(None)?;
        }
    }

    /// Forgets the writes that were not handed to the kernel, and waits for those that were: until then it
    /// may read what they point to.
    pub(super) fn abandon(&mut self, ring: &mut Ring, mut others: impl FnMut(Completion)) -> io::Result<()> {
        self.entries.clear();
        self.vectored_used = 0;
        while self.in_flight > 0 {
            ring.wait(None)?;
            ring.completions(|completion| match completion.op {
                Op::Send(_) => self.in_flight -= 1,
                Op::Accept(_) | Op::Receive(_) | Op::Writable(_) | Op::Wake | Op::Install | Op::Forget => {
                    others(completion)
                }
            });
        }
        Ok(())
    }
}

/// The outcome of a write that was in flight.
fn final_outcome(outcome: Outcome, result: Result<u32, Errno>) -> Outcome {
    match (outcome, result) {
        (Outcome::InFlight { offered }, Ok(len)) => Outcome::Took { len: len as usize, offered },
        (Outcome::InFlight { .. }, Err(Errno::AGAIN | Errno::INTR)) => Outcome::Full,
        (Outcome::InFlight { .. }, Err(_)) => Outcome::Failed,
        (Outcome::Took { .. } | Outcome::Full | Outcome::Failed, _) => outcome,
    }
}
